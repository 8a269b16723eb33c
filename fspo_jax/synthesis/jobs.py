# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Long jobs: many units of work, journaled, resumed, split over machines and merged again."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
import contextlib
import hashlib
import json
import os
import pathlib
import re
from typing import Any
import uuid

from jaxtyping import Bool, Int
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from fspo_jax.synthesis.journal import Journal, read_lines
from fspo_jax.synthesis.llm import RequestError

_MAX_SHOWN = 20


class JobError(Exception):
  """A job that is not complete: which units are missing, and why. Running it again tries those."""


async def run(
  units: Iterable[int],
  work: Callable[[int], Awaitable[Mapping[str, Any]]],
  journal: Journal,
  *,
  concurrency: int,
  label: str,
) -> None:
  """Does the units that the journal does not have, and appends each as it is finished.

  Args:
    units: the indices of all units.
    work: makes the record of a unit, a JSON object with its `index`. Where it raises a
      RequestError that is no outage, the unit is journaled as {"index", "failed": {"stage",
      "reason", "detail"}}: it would fail again.
    journal: of the finished units.
    concurrency: how many units are worked on at once.
    label: what the units are, for the progress bar (on a terminal alone).

  Raises:
    JobError: units met an outage; after all the others are done.
    Exception: anything else that `work` raises, at once; so does Ctrl-C. Nothing done is lost.
  """
  units = list(units)
  todo = [index for index in units if index not in journal.done]
  waiting = iter(todo)
  failed: dict[int, tuple[str, str, str]] = {}  # Not the errors, which keep whole requests.
  console = Console(stderr=True)
  columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
  with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
    task = progress.add_task(label, total=len(units), completed=len(units) - len(todo))

    async def worker() -> None:
      for index in waiting:
        try:
          journal.append(await work(index))
        except RequestError as error:
          if error.is_outage:
            failed[index] = (error.request.stage, error.reason, str(error))
          else:
            said = {"stage": error.request.stage, "reason": error.reason, "detail": str(error)}
            journal.append({"index": index, "failed": said})
        progress.advance(task)
        await asyncio.sleep(0)  # Work that never waits must not keep Ctrl-C from being heard.

    try:
      async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(todo))):
          group.create_task(worker())
    except ExceptionGroup as errors:
      raise errors.exceptions[0] from None
  if failed:
    raise JobError(_report(label, failed, len(units)))


def parse_shard(text: str) -> tuple[int, int]:
  """(i, n) of a shard 'i/n': part i, from 0, of n. Raises ValueError."""
  match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
  i, n = map(int, match.groups()) if match else (0, 0)
  if not i < n:
    raise ValueError(f"shard: found {text!r}, expected i/n with i from 0 to n - 1, as 0/8 to 7/8")
  return i, n


def shard(count: int, i: int, n: int) -> range:
  """The indices, of 0 to count - 1, of part i of n: every n-th."""
  return range(i, count, n)


def part_path(directory: str | os.PathLike[str], name: str, i: int, n: int) -> pathlib.Path:
  """The journal of part i of n."""
  return pathlib.Path(directory) / f"{name}-{i:05d}-of-{n:05d}.jsonl"


def parts(directory: str | os.PathLike[str], name: str) -> int:
  """Into how many parts the work in a folder is split; 0 if none has begun.

  Raises:
    JobError: there are parts of different splits.
  """
  if not os.path.isdir(directory):
    return 0
  pattern = re.compile(re.escape(name) + r"-\d{5}-of-(\d{5})\.jsonl")
  found = {int(m[1]) for m in map(pattern.fullmatch, os.listdir(directory)) if m}
  if len(found) > 1:
    numbers = " and of ".join(map(str, sorted(found)))
    raise JobError(
      f"{directory}: found {name} in parts of {numbers}, expected one split: remove the others"
    )
  return found.pop() if found else 0


def merge(
  directory: str | os.PathLike[str], name: str, count: int
) -> Callable[[], Iterator[dict[str, Any]]]:
  """Checks that the parts have each of the indices 0 to count - 1 once, and reads them in order.

  Writes `<name>.complete.json`: `count`, and the `sha256` of the records in the order of their
  indices, which does not depend on how the work was split.

  Args:
    directory: with the parts, however many they were split into.
    name: of the parts.
    count: how many units there are.

  Returns:
    A function that yields all records, in the order of their indices, reading them one at a time.

  Raises:
    JobError: naming what is missing and the shards it belongs to, or what is there twice.
    JournalError: a part has a broken line.
  """
  n = parts(directory, name)
  if not n:
    raise JobError(f"{directory}: found no part of {name}, expected {part_path('', name, 0, 1)}")
  paths = [part_path(directory, name, i, n) for i in range(n)]
  part_of, start_of = np.full(count, -1, np.int32), np.zeros(count, np.int64)
  for part, path in enumerate(paths):
    for line, start, _, record in read_lines(path) if path.exists() else ():
      index = record.get("index")
      if type(index) is not int or not 0 <= index < count:
        raise JobError(f"{path}:{line}: found index {index!r}, expected 0 to {count - 1}")
      if part_of[index] >= 0:
        other = paths[part_of[index]]
        raise JobError(f"{path}:{line}: found index {index}, expected it once: {other} has it")
      part_of[index], start_of[index] = part, start
  if (part_of < 0).any():
    raise JobError(f"{directory}: {_missing(name, part_of < 0, n)}")

  digest = hashlib.sha256()
  for raw in _in_order(paths, part_of, start_of):
    digest.update(raw)
  complete = pathlib.Path(directory) / f"{name}.complete.json"
  temporary = complete.with_name(f".{complete.name}.{uuid.uuid4().hex}.part")
  temporary.write_text(json.dumps({"count": count, "sha256": digest.hexdigest()}) + "\n")
  os.replace(temporary, complete)
  return lambda: map(json.loads, _in_order(paths, part_of, start_of))


def _in_order(
  paths: list[pathlib.Path], part_of: Int[np.ndarray, " count"], start_of: Int[np.ndarray, " count"]
) -> Iterator[bytes]:
  """The lines by index."""
  with contextlib.ExitStack() as stack:
    files = [stack.enter_context(open(path, "rb")) if path.exists() else None for path in paths]
    for part, start in zip(part_of, start_of, strict=True):
      files[part].seek(start)
      yield files[part].readline()


def _missing(name: str, missing: Bool[np.ndarray, " count"], n: int) -> str:
  """Says which units are missing, by shard, in ranges of the shard's own."""
  count, found = len(missing), []
  for i in range(n):
    own = np.flatnonzero(missing[i::n])
    # Where the gaps lie between runs of units that follow each other in the shard.
    runs = np.split(own, np.flatnonzero(np.diff(own) > 1) + 1) if len(own) else []
    for first, last in ((i + n * int(run[0]), i + n * int(run[-1])) for run in runs):
      step = f" in steps of {n}" if n > 1 else ""
      units = f"{first} to {last}{step}" if last > first else f"{first}"
      found.append(f"shard {i}/{n}: {units}")
  more = [f"... and {len(found) - _MAX_SHOWN} more ranges"] if len(found) > _MAX_SHOWN else []
  lines = [
    f"found {count - int(missing.sum())} of {count} {name}, expected all; missing are",
    *found[:_MAX_SHOWN],
    *more,
  ]
  return "\n  ".join(lines)


def _report(label: str, failed: Mapping[int, tuple[str, str, str]], count: int) -> str:
  """Says which units failed and why."""
  reasons = collections.Counter((stage, reason) for stage, reason, _ in failed.values())
  lines = [
    f"{label}: {len(failed)} of {count} units failed; running again tries those",
    *(f"{number} x {stage}: {reason}" for (stage, reason), number in reasons.most_common()),
    *(f"unit {index}: {failed[index][2]}" for index in sorted(failed)[:_MAX_SHOWN]),
  ]
  if len(failed) > _MAX_SHOWN:
    lines.append(f"... and {len(failed) - _MAX_SHOWN} more units")
  return "\n  ".join(lines)
