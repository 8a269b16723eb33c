# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The factory as a job: personas, questions, users, then the set with its quality card.

All phases are split into parts, each of which journals what is finished, so that a run that is
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
import time
from typing import Any
import uuid

from fspo_jax.datasets.synthetic import synthetic_dataset_builder as builder
from fspo_jax.preferences import PreferenceError, User
from fspo_jax.synthesis import card, jobs, quality, records, stages
from fspo_jax.synthesis.domains import Domain
from fspo_jax.synthesis.embedders import Embedder, EmbedderError
from fspo_jax.synthesis.journal import Journal, JournalError, Ledger
from fspo_jax.synthesis.llm import LLM, Note, Request, RequestError
from fspo_jax.synthesis.openai_llm import AuthError
from fspo_jax.synthesis.settings import Settings

_LOG = logging.getLogger(__name__)
# What stops a job for a reason that is said in its message.
ERRORS = (jobs.JobError, JournalError, AuthError, EmbedderError, PreferenceError)

_POLL_SECONDS, _LONGEST_POLL_SECONDS, _POLLS_PER_MESSAGE = 0.5, 20.0, 15
_LEDGER = "ledger"
_PHASES = _PERSONAS, _ITEMS, _USERS = "personas", "items", "users"


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
  _check_whose(factory, journals)
  try:
    merged = _merged(factory, journals)
  except jobs.JobError:
    if _split(journals) not in (0, factory.processes):
      # Made by hand, and not complete: whoever has begun knows where the others are.
      for phase in _PHASES:
        jobs.merge(journals, phase, _count(factory, phase))
      raise
    _run_parts(factory, journals)
    merged = _merged(factory, journals)
  bank, users = merged

  def read_users() -> Iterator[records.SyntheticUser]:
    return (records.user_from_json(found) for found in users() if "failed" not in found)

  _LOG.info("synthesis: measuring the quality of the set")
  measured = quality.measure(
    list(bank.values()), read_users(), factory.embedder(), seed=factory.seed
  )
  card.write(directory / "card", measured, factory.gate, factory.facts)
  for line in quality.violations(measured, factory.gate):
    _LOG.warning("synthesis: below the quality gate: %s", line)
  _LOG.info("synthesis: writing the set")
  set_aside = _failures(factory, journals)
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
  """Makes part i of n of the personas, then of the questions, then of the users.

  Each waits until the others' parts of the one before are there. The parts are made by processes
  that share the folder; one that was killed is started again with the same arguments.

  Raises:
    JobError: requests failed for good, after everything else of the part was done; or the folder
      has parts of another split.
  """
  _check_whose(factory, journals)
  for phase in _PHASES:
    _make_part(factory, journals, phase, i, n)
    if phase != _USERS:
      _wait_for_others(factory, journals, phase, n)


def run_beam(factory: Factory, journals: pathlib.Path, flags: Sequence[str]) -> None:
  """Makes all questions and users as an Apache Beam pipeline; `run` goes on from what it made.

  Args:
    factory: what to make. Its endpoint's answers are kept by Beam's shuffles alone.
    journals: the folder for the records.
    flags: of the pipeline, as '--runner=FlinkRunner'; its workers must see the folder.

  Raises:
    ImportError: the extra `beam` is not installed.
    JobError: there are records already: Beam makes them all or none.
  """
  from fspo_jax.synthesis import beam

  _check_whose(factory, journals)
  if _split(journals):
    raise jobs.JobError(f"{journals}: found records, expected none where Beam is to make them")
  make_llm = functools.partial(factory.backend, _ignore)
  beam.run(make_llm, factory.domain, factory.settings, factory.seed, str(journals), flags)


def _ignore(*attempt: object) -> None:
  """Notes nothing of an attempt."""


def _run_parts(factory: Factory, journals: pathlib.Path) -> None:
  """All the parts, in processes of their own if they are several."""
  n = factory.processes
  if n == 1:
    run_part(factory, journals, 0, 1)
    return
  # Not forked: the parent may have threads, JAX's among them.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(n, mp_context=context) as pool:
    for phase in _PHASES:
      made = [pool.submit(_make_part, factory, journals, phase, i, n) for i in range(n)]
      for part in concurrent.futures.as_completed(made):
        part.result()


def _make_part(factory: Factory, journals: pathlib.Path, phase: str, i: int, n: int) -> None:
  """Part i of n of a phase, whose phases before it are complete."""
  for name in _PHASES:
    if (there := jobs.parts(journals, name)) not in (0, n):
      raise jobs.JobError(f"{journals}: found {name} in {there} parts, expected {n}, as asked for")
  if not factory.paid:
    asyncio.run(_work(factory, factory.backend(_ignore), journals, phase, i, n))
    return
  with Ledger(jobs.part_path(journals, _LEDGER, i, n), factory.backend) as ledger:
    try:
      asyncio.run(_work(factory, ledger, journals, phase, i, n))
    finally:
      counts = {stage: dataclasses.asdict(found) for stage, found in ledger.report().items()}
      report = journals / f"requests-{i:05d}-of-{n:05d}.json"
      report.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
      _LOG.info("synthesis: requests by stage: %s", report)


async def _work(
  factory: Factory, llm: LLM, journals: pathlib.Path, phase: str, i: int, n: int
) -> None:
  what = factory.domain, factory.settings, factory.seed
  if phase != _PERSONAS:
    llm = _Known(llm, _load_personas(factory, journals))
  bank = _load_bank(factory, journals) if phase == _USERS else {}

  async def make(index: int) -> Mapping[str, Any]:
    if phase == _PERSONAS:
      request = stages.persona_request(*what, index)
      return {"index": index, "key": request.key, "answer": await llm.answer(request)}
    if phase == _ITEMS:
      return records.as_json(await stages.make_item(llm, *what, index))
    return records.as_json(await stages.make_user(llm, *what, bank, index))

  # What costs nothing is made again after a power cut; only a machine's, not a process's, end.
  sync_every = 1 if factory.paid else 100
  with Journal(jobs.part_path(journals, phase, i, n), sync_every=sync_every) as journal:
    units = jobs.shard(_count(factory, phase), i, n)
    await jobs.run(units, make, journal, concurrency=factory.concurrency, label=phase)


class _Known:
  """An LLM that knows the personas: made once, for all that is written for them in any part."""

  def __init__(self, llm: LLM, personas: Mapping[str, Mapping[str, Any]]) -> None:
    self._llm, self._personas = llm, personas

  async def answer(self, request: Request) -> dict[str, Any]:
    if request.schema_name != "persona":
      return await self._llm.answer(request)
    found = self._personas[request.key]
    if "failed" in found:
      raise RequestError(request, found["failed"]["reason"], found["failed"]["detail"])
    return found["answer"]


def _wait_for_others(factory: Factory, journals: pathlib.Path, phase: str, n: int) -> None:
  """Returns once the other parts have made theirs; says now and then what it waits for."""
  for attempt in itertools.count():
    try:
      jobs.merge(journals, phase, _count(factory, phase))
      return
    except jobs.JobError as missing:
      if n == 1:
        raise
      if attempt % _POLLS_PER_MESSAGE == 0:
        _LOG.info("synthesis: waiting for the other parts: %s", missing)
      time.sleep(min(_POLL_SECONDS * 1.5 ** min(attempt, 10), _LONGEST_POLL_SECONDS))


def _count(factory: Factory, phase: str) -> int:
  return factory.settings.questions if phase == _ITEMS else factory.settings.users


def _split(journals: pathlib.Path) -> int:
  """Into how many parts the work is split; 0 if none has begun."""
  return max(jobs.parts(journals, phase) for phase in _PHASES)


def _check_whose(factory: Factory, journals: pathlib.Path) -> None:
  """Refuses records of another set; JobError."""
  journals.mkdir(parents=True, exist_ok=True)
  file, ours = journals / "made_of.json", json.loads(json.dumps(dict(factory.facts)))
  if not file.exists():
    temporary = journals / f".{uuid.uuid4().hex}.tmp"
    temporary.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)
  elif (theirs := json.loads(file.read_text(encoding="utf-8"))) != ours:
    names = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    raise jobs.JobError(
      f"{file}: found records made with other {', '.join(names)}, expected none, or those of this "
      "set: give another directory"
    )


def _merged(
  factory: Factory, journals: pathlib.Path
) -> tuple[dict[int, records.Item], Callable[[], Iterator[dict[str, Any]]]]:
  """The questions, and what reads the users one by one; JobError if something is missing."""
  bank = _load_bank(factory, journals)
  return bank, jobs.merge(journals, _USERS, factory.settings.users)


def _load_bank(factory: Factory, journals: pathlib.Path) -> dict[int, records.Item]:
  """The questions that could be made."""
  merged = jobs.merge(journals, _ITEMS, factory.settings.questions)
  made = (records.item_from_json(found) for found in merged() if "failed" not in found)
  return {item.index: item for item in made}


def _load_personas(factory: Factory, journals: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  """The answers by the keys of their requests; or why there is none."""
  what = factory.domain, factory.settings, factory.seed
  merged = jobs.merge(journals, _PERSONAS, factory.settings.users)
  return {
    found.get("key") or stages.persona_request(*what, found["index"]).key: found
    for found in merged()
  }


def _failures(factory: Factory, journals: pathlib.Path) -> collections.Counter[str]:
  """How many questions and users could not be made, by reason."""
  found: collections.Counter[str] = collections.Counter()
  for phase, name in ((_ITEMS, "questions"), (_USERS, "users")):
    for record in jobs.merge(journals, phase, _count(factory, phase))():
      if why := record.get("failed"):
        found[f"{name}: {why['stage']}: {why['reason']}"] += 1
  return found
