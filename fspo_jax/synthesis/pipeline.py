# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The factory as a job: a bank of questions, then users, then the set with its quality card.

Both phases are split into parts, each of which journals what is finished, so that a run that is
killed goes on where it was. What comes out does not depend on the number of parts.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import pathlib
from typing import Any

from fspo_jax.datasets.synthetic import synthetic_dataset_builder as builder
from fspo_jax.preferences import PreferenceError, User
from fspo_jax.synthesis import card, jobs, quality, records, stages
from fspo_jax.synthesis.domains import Domain
from fspo_jax.synthesis.embedders import Embedder, EmbedderError
from fspo_jax.synthesis.journal import Journal, JournalError, Ledger
from fspo_jax.synthesis.llm import LLM
from fspo_jax.synthesis.openai_llm import AuthError, Note
from fspo_jax.synthesis.settings import Settings

_LOG = logging.getLogger(__name__)
# What stops a job for a reason that is said in its message.
ERRORS = (jobs.JobError, JournalError, AuthError, EmbedderError, PreferenceError)

_POLL_SECONDS = 1.0
_BANK, _USERS, _LEDGER = "items", "users", "ledger"


@dataclasses.dataclass(frozen=True)
class Factory:
  """All that a set depends on, and how it is made. Picklable: it goes to other processes.

  Attributes:
    domain: what questions, personas and guidelines are.
    settings: sizes, models, remedies.
    seed: with the index of a question or a user, all that it depends on.
    backend: makes the language model, which notes its attempts.
    paid: whether answers cost something, so that each is kept on disk before it is used.
    concurrency: questions or users worked on at once.
    processes: that share the work, where it is not split by hand.
    embedder: makes what measures the similarity of responses.
    gate: what the quality card is compared with.
    facts: how the set is made, as JSON has it; for the card, and to tell sets apart.
  """

  domain: Domain
  settings: Settings
  seed: int
  backend: Callable[[Note], LLM]
  paid: bool
  concurrency: int
  processes: int
  embedder: Callable[[], Embedder]
  gate: quality.Gate
  facts: Mapping[str, Any]


def set_path(factory: Factory, directory: pathlib.Path) -> pathlib.Path:
  """The folder of the set that `run` makes in a directory."""
  return builder.set_path(directory / "data", factory.domain.name)


def run(factory: Factory, directory: pathlib.Path) -> pathlib.Path:
  """Makes whatever is not made yet: the parts, the merged records, the quality card, the set.

  Parts that `run_part` has made, however many they are, are taken as they are.

  Args:
    factory: what to make.
    directory: of the run. Journals go to its folder `synthesis`, the card to `card`, the set to
      `data`.

  Returns:
    The set's folder.

  Raises:
    JobError: requests failed for good, or parts made by hand are not complete.
  """
  journals = directory / "synthesis"
  try:
    bank, users = _merged(factory, journals)
  except jobs.JobError:
    if jobs.parts(journals, _BANK) not in (0, factory.processes):
      raise  # Made by hand, and not complete: whoever has begun knows where the others are.
    _run_parts(factory, journals)
    bank, users = _merged(factory, journals)

  def read_users() -> Iterator[records.SyntheticUser]:
    return map(records.user_from_json, users())

  _LOG.info("synthesis: measuring the quality of the set")
  measured = quality.measure(
    list(bank.values()), read_users(), factory.embedder(), seed=factory.seed
  )
  card.write(directory / "card", measured, factory.gate, factory.facts)
  for line in quality.violations(measured, factory.gate):
    _LOG.warning("synthesis: below the quality gate: %s", line)
  _LOG.info("synthesis: writing the set")
  set_aside = collections.Counter()
  for record in itertools.chain(bank.values(), read_users()):
    set_aside.update({f"preferences: {why}": count for why, count in record.set_aside.items()})
  return builder.build(
    directory / "data",
    factory.domain.name,
    ((user.split, _as_user(user, bank)) for user in read_users()),
    query_prompts={item.prompt for item in bank.values() if item.split == "unseen"},
    set_aside=set_aside,
    made_of=factory.facts,
    files={f.name: f.read_bytes() for f in sorted((directory / "card").iterdir()) if f.is_file()},
  )


def _as_user(user: records.SyntheticUser, bank: Mapping[int, records.Item]) -> User:
  return User(user.user_id, tuple(records.preferences_of(user, bank)), user.description)


def run_part(factory: Factory, journals: pathlib.Path, i: int, n: int) -> None:
  """Makes part i of n of the questions, waits for the others' parts, makes part i of the users.

  The parts are made by processes that share the folder; one that was killed is started again with
  the same arguments.

  Raises:
    JobError: requests failed for good, after everything else of the part was done; or the folder
      has parts of another split.
  """
  asyncio.run(_run_part(factory, journals, i, n))


def run_beam(factory: Factory, journals: pathlib.Path, flags: Sequence[str]) -> None:
  """Makes all questions and users as an Apache Beam pipeline; `run` goes on from what it made.

  Args:
    factory: what to make. Its endpoint's answers are kept by Beam's shuffles alone.
    journals: the folder for the records.
    flags: of the pipeline, as '--runner=DataflowRunner'.

  Raises:
    ImportError: the extra `beam` is not installed.
    JobError: there are records already: Beam makes them all or none.
  """
  from fspo_jax.synthesis import beam

  if jobs.parts(journals, _BANK) or jobs.parts(journals, _USERS):
    raise jobs.JobError(f"{journals}: found records, expected none where Beam is to make them")
  make_llm = functools.partial(factory.backend, _ignore)
  beam.run(make_llm, factory.domain, factory.settings, factory.seed, str(journals), flags)


def _ignore(*attempt: object) -> None:
  """Notes nothing of an attempt."""


def _run_parts(factory: Factory, journals: pathlib.Path) -> None:
  """All the parts, in processes of their own if they are several."""
  if factory.processes == 1:
    run_part(factory, journals, 0, 1)
    return
  # Not forked: the parent may have threads, JAX's among them.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(factory.processes, mp_context=context) as pool:
    parts = [
      pool.submit(run_part, factory, journals, i, factory.processes)
      for i in range(factory.processes)
    ]
    for done in concurrent.futures.as_completed(parts):
      done.result()


async def _run_part(factory: Factory, journals: pathlib.Path, i: int, n: int) -> None:
  for name in (_BANK, _USERS):
    if (there := jobs.parts(journals, name)) not in (0, n):
      raise jobs.JobError(f"{journals}: found {name} in {there} parts, expected {n}, as asked for")
  journals.mkdir(parents=True, exist_ok=True)
  if not factory.paid:
    await _work(factory, factory.backend(_ignore), journals, i, n)
    return
  with Ledger(jobs.part_path(journals, _LEDGER, i, n), factory.backend) as ledger:
    try:
      await _work(factory, ledger, journals, i, n)
    finally:
      counts = {stage: dataclasses.asdict(found) for stage, found in ledger.report().items()}
      report = journals / f"requests-{i:05d}-of-{n:05d}.json"
      report.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
      _LOG.info("synthesis: requests by stage: %s", report)


async def _work(factory: Factory, llm: LLM, journals: pathlib.Path, i: int, n: int) -> None:
  f, settings = factory, factory.settings

  async def item(index: int) -> Mapping[str, Any]:
    return records.as_json(await stages.make_item(llm, f.domain, settings, f.seed, index))

  # What costs nothing is made again after a power cut; only a machine's, not a process's, end.
  sync_every = 1 if f.paid else 100
  with Journal(jobs.part_path(journals, _BANK, i, n), sync_every=sync_every) as journal:
    units = jobs.shard(settings.questions, i, n)
    await jobs.run(units, item, journal, concurrency=f.concurrency, label="questions")
  bank = await _wait_for_bank(factory, journals, i, n)

  async def user(index: int) -> Mapping[str, Any]:
    return records.as_json(await stages.make_user(llm, f.domain, settings, f.seed, bank, index))

  with Journal(jobs.part_path(journals, _USERS, i, n), sync_every=sync_every) as journal:
    units = jobs.shard(settings.users, i, n)
    await jobs.run(units, user, journal, concurrency=f.concurrency, label="users")


async def _wait_for_bank(
  factory: Factory, journals: pathlib.Path, i: int, n: int
) -> dict[int, records.Item]:
  """The whole bank, once the other parts have made theirs."""
  for attempt in itertools.count():
    try:
      return _load_bank(factory, journals)
    except jobs.JobError as missing:
      if n == 1:
        raise
      if attempt == 0:
        _LOG.info("synthesis: part %d of %d waits for the others' questions: %s", i, n, missing)
      await asyncio.sleep(_POLL_SECONDS)
  raise AssertionError("count() ends")


def _merged(
  factory: Factory, journals: pathlib.Path
) -> tuple[dict[int, records.Item], Callable[[], Iterator[dict[str, Any]]]]:
  """The questions, and what reads the users one by one; JobError if something is missing."""
  bank = _load_bank(factory, journals)
  return bank, jobs.merge(journals, _USERS, factory.settings.users)


def _load_bank(factory: Factory, journals: pathlib.Path) -> dict[int, records.Item]:
  merged = jobs.merge(journals, _BANK, factory.settings.questions)
  return {item.index: item for item in map(records.item_from_json, merged())}
