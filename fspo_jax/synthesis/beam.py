# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The stages of the factory as an Apache Beam pipeline, for sets that outgrow one machine.

The same units of work as a plain job's, and the same records. Needs `pip install fspo_jax[beam]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fspo_jax.synthesis import stages
from fspo_jax.synthesis.domains import Domain
from fspo_jax.synthesis.journal import dumps
from fspo_jax.synthesis.llm import LLM, RequestError
from fspo_jax.synthesis.records import Item, SyntheticUser, as_json
from fspo_jax.synthesis.settings import Settings

try:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise ImportError("Apache Beam is missing: pip install fspo_jax[beam]") from error

_FAILED = "failed"


def run(
  make_llm: Callable[[], LLM],
  domain: Domain,
  settings: Settings,
  seed: int,
  directory: str,
  flags: Sequence[str],
  *,
  concurrency: int = 16,
) -> None:
  """Makes a set; writes `items-*.jsonl`, `users-*.jsonl` and `failed-*.jsonl`.

  The lines are those of a plain job's journals, so that `jobs.merge` checks and reads them. A user
  that a request failed for is a line of `failed` (index, stage, reason, detail).

  Args:
    make_llm: makes the LLM on a worker; must be picklable.
    domain: as for `stages.make_item`.
    settings: of the set.
    seed: of the set.
    directory: where to write, on any file system that Beam knows.
    flags: of the pipeline, as `['--runner=DataflowRunner', '--project=...']`.
    concurrency: how many units a worker works on at once.

  Raises:
    RuntimeError: of the runner, as where a question gets no answer: users would lack it.
  """

  def write(name: str) -> beam.io.WriteToText:
    return beam.io.WriteToText(f"{directory}/{name}", file_name_suffix=".jsonl")

  item_stage = _MakeItems(make_llm, domain, settings, seed)
  user_stage = _MakeUsers(make_llm, domain, settings, seed)
  batches = {"min_batch_size": concurrency, "max_batch_size": concurrency}
  with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
    # Shuffled before and after: the work is spread over the workers, and what a language model has
    # answered is kept when a later stage is run again.
    items = (
      pipeline
      | "item indices" >> beam.Create(range(settings.questions))
      | "spread items" >> beam.Reshuffle()
      | "item batches" >> beam.BatchElements(**batches)
      | "make items" >> beam.ParDo(item_stage)
      | "keep items" >> beam.Reshuffle()
    )
    bank = beam.pvalue.AsDict(items | "items by index" >> beam.Map(lambda item: (item.index, item)))
    users, failed = (
      pipeline
      | "user indices" >> beam.Create(range(settings.users))
      | "spread users" >> beam.Reshuffle()
      | "user batches" >> beam.BatchElements(**batches)
      | "make users" >> beam.ParDo(user_stage, bank).with_outputs(_FAILED, main="made")
    )
    _ = items | "item lines" >> beam.Map(_line) | "write items" >> write("items")
    _ = (
      users
      | "keep users" >> beam.Reshuffle()
      | "user lines" >> beam.Map(_line)
      | "write users" >> write("users")
    )
    _ = failed | "failed lines" >> beam.Map(dumps) | "write failed" >> write("failed")


class _Make(beam.DoFn):
  """What both stages share: an LLM and an event loop, made once on each worker."""

  def __init__(
    self, make_llm: Callable[[], LLM], domain: Domain, settings: Settings, seed: int
  ) -> None:
    self._make_llm, self._what = make_llm, (domain, settings, seed)

  def setup(self) -> None:
    """Makes what cannot be pickled."""
    self._llm = self._make_llm()
    # One for the life of the worker: connections belong to the loop that opened them.
    self._runner = asyncio.Runner()

  def teardown(self) -> None:
    """Ends it."""
    self._runner.close()


class _MakeItems(_Make):
  """Batches of indices to items."""

  def process(self, indices: list[int]) -> Iterator[Item]:
    """Makes the items of a batch at the same time."""
    yield from self._runner.run(self._all(indices))

  async def _all(self, indices: list[int]) -> list[Item]:
    return await asyncio.gather(
      *(stages.make_item(self._llm, *self._what, index) for index in indices)
    )


class _MakeUsers(_Make):
  """Batches of indices to users and, apart, to what has failed."""

  def process(
    self, indices: list[int], bank: Mapping[int, Item]
  ) -> Iterator[SyntheticUser | beam.pvalue.TaggedOutput]:
    """Makes the users of a batch at the same time."""
    for index, made in zip(indices, self._runner.run(self._all(indices, bank)), strict=True):
      if isinstance(made, RequestError):
        stage, reason = made.request.stage, made.reason
        failure = {"index": index, "stage": stage, "reason": reason, "detail": str(made)}
        yield beam.pvalue.TaggedOutput(_FAILED, failure)
      else:
        yield made

  async def _all(
    self, indices: list[int], bank: Mapping[int, Item]
  ) -> list[SyntheticUser | RequestError]:
    async def make(index: int) -> SyntheticUser | RequestError:
      try:
        return await stages.make_user(self._llm, *self._what, bank, index)
      except RequestError as error:
        return error

    return await asyncio.gather(*map(make, indices))


def _line(record: Item | SyntheticUser) -> str:
  found: dict[str, Any] = as_json(record)
  return dumps(found)
