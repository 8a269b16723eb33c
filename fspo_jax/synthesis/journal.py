# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that a job writes as it goes, whole after a kill at any moment: units done, answers paid.

A line is written by a single call once it is complete, so that a killed process leaves at most a
torn last line behind, which the next one cuts off. Nothing is ever rewritten.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator, Mapping, Set
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from typing import Any, Literal

from fspo_jax.synthesis.llm import LLM, Request, RequestError


class JournalError(ValueError):
  """A journal that cannot be used: which file and line, what was found, what was expected."""


def dumps(record: Mapping[str, Any]) -> str:
  """A record as its line of a journal, without the line's end."""
  return json.dumps(record, separators=(",", ":"), allow_nan=False)


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
  """Yields (line number from 1, start, end, record) of a journal; bytes from `start` to `end`.

  Stops before a torn last line.

  Raises:
    JournalError: for any other line that is not a JSON object.
  """
  size, end = os.path.getsize(path), 0
  with open(path, "rb") as file:
    for number, line in enumerate(file, start=1):
      start, end = end, end + len(line)
      try:
        record = json.loads(line.decode()) if line.endswith(b"\n") else None
      except ValueError:
        record = None
      if isinstance(record, dict):
        yield number, start, end, record
      elif end < size:
        shown = repr(line[:60].decode(errors="replace"))
        raise JournalError(
          f"{os.fspath(path)}:{number}: found a broken line, {shown}, expected a JSON object (only "
          "the last line may be torn)"
        )


class _Lines:
  """An append-only JSONL file that one process at a time may write."""

  def __init__(self, path: str | os.PathLike[str], sync_every: int) -> None:
    if sync_every < 1:
      raise ValueError(f"sync_every: found {sync_every}, expected 1 or more")
    self.path = pathlib.Path(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._sync_every, self._unsynced, self._end = sync_every, 0, 0
    self._file = open(path, "a+b", buffering=0)  # Unbuffered: a write is one system call.
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._file.close()
      raise JournalError(
        f"{self.path}: found another process writing it, expected one at a time: wait for it, or "
        "split the job into shards"
      ) from None
    self._reader = open(path, "rb")

  def load(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yields (line number from 1, start, record), and cuts off a torn last line at the end."""
    for number, start, end, record in read_lines(self.path):
      self._end = end
      yield number, start, record
    self._file.truncate(self._end)

  def append(self, record: Mapping[str, Any]) -> int:
    """Writes a line; returns where it starts, for `read`."""
    start, line = self._end, dumps(record).encode() + b"\n"
    try:
      written = 0
      while written < len(line):
        written += self._file.write(line[written:])
    except OSError:
      self._file.truncate(start)  # A full disk must not leave half a line for others to follow.
      raise
    self._end += len(line)
    self._unsynced += 1
    if self._unsynced >= self._sync_every:
      self.sync()
    return start

  def read(self, start: int) -> dict[str, Any]:
    """The record of the line that starts there."""
    self._reader.seek(start)
    return json.loads(self._reader.readline())

  def sync(self) -> None:
    """Waits until all that was written is on the disk."""
    os.fsync(self._file.fileno())
    self._unsynced = 0

  def close(self) -> None:
    """Lets another process write it."""
    self.sync()
    self._file.close()
    self._reader.close()


class Journal:
  """The finished units of a job, as JSONL: {"index": ..., ...} a line, in order of finishing.

  A process that is killed loses nothing of what it appended; a machine that loses power loses at
  most the last `sync_every` - 1 records. To be closed, or used in a `with` statement.
  """

  def __init__(self, path: str | os.PathLike[str], *, sync_every: int = 1) -> None:
    """Opens or makes the file, and cuts off what a kill has torn.

    Raises:
      JournalError: another process writes it, or a line is broken or repeats an index.
    """
    self._done: set[int] = set()
    with contextlib.ExitStack() as undo:
      self._lines = _Lines(path, sync_every)
      undo.callback(self._lines.close)
      for number, _, record in self._lines.load():
        self._add(record, f"{self.path}:{number}")
      undo.pop_all()

  @property
  def path(self) -> pathlib.Path:
    """The file."""
    return self._lines.path

  @property
  def done(self) -> Set[int]:
    """The indices of the finished units."""
    return self._done

  def append(self, record: Mapping[str, Any]) -> None:
    """Appends a finished unit. Raises JournalError if there is no index, or it is done already."""
    index = self._add(record, str(self.path))
    try:
      self._lines.append(record)
    except BaseException:
      self._done.discard(index)
      raise

  def __iter__(self) -> Iterator[dict[str, Any]]:
    """The records, in the order of the file, read one at a time."""
    return (record for *_, record in read_lines(self.path))

  def close(self) -> None:
    """Lets another process write it."""
    self._lines.close()

  def __enter__(self) -> Journal:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def _add(self, record: Mapping[str, Any], place: str) -> int:
    index = record.get("index")
    if type(index) is not int or index < 0:
      raise JournalError(f"{place}: found index {index!r}, expected a number, 0 or more")
    if index in self._done:
      raise JournalError(f"{place}: found index {index} again, expected each once")
    self._done.add(index)
    return index


@dataclasses.dataclass
class StageCounts:
  """What became of the requests of one stage.

  Every attempt sent is one of: answered, retried, failed or lost.

  Attributes:
    asked: requests to this process.
    from_ledger: how many of these needed no attempt: they were answered before, or at that time.
    sent: attempts, by all processes so far; a server has seen no other.
    answered: requests with an answer.
    retried: attempts that failed and were followed by another, by reason.
    failed: requests that failed for good, by reason.
    lost: attempts without an outcome: in flight now, or when a process was killed.
  """

  asked: int = 0
  from_ledger: int = 0
  sent: int = 0
  answered: int = 0
  retried: dict[str, int] = dataclasses.field(default_factory=dict)
  failed: dict[str, int] = dataclasses.field(default_factory=dict)
  lost: int = 0


class Ledger:
  """An `LLM` that pays for no answer twice: it files every attempt and every answer.

  One JSON object a line: {"event", "stage", "key"} and the event's own: 'sent' before an attempt,
  'retry' with the `reason` of one that another follows, 'answered' with the `answer`, 'failed' with
  the `reason` of the last one. A request that failed for good is asked anew when it is asked again.
  In memory are the keys of the requests and where their answers lie, not the answers.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    backend: Callable[[Callable[[Request, Literal["sent", "retry"], str], None]], LLM],
    *,
    sync_every: int = 64,
  ) -> None:
    """Opens or makes the file.

    Args:
      path: of the file.
      backend: makes the LLM that is asked what the ledger does not know, of the callable that it
        notes its attempts with (see `openai_llm.Note`).
      sync_every: how many events a machine that loses power may lose; a killed process loses none.
        Waiting for the disk takes milliseconds, in which no answer is received.

    Raises:
      JournalError: another process writes it, or a line is broken.
    """
    self._answers: dict[bytes, int] = {}
    self._asking: dict[bytes, asyncio.Task[dict[str, Any]]] = {}
    self._counts: dict[str, StageCounts] = collections.defaultdict(StageCounts)
    # The attempts without an outcome, by request.
    self._open: collections.Counter[bytes] = collections.Counter()
    with contextlib.ExitStack() as undo:
      self._lines = _Lines(path, sync_every)
      undo.callback(self._lines.close)
      for number, start, event in self._lines.load():
        self._count(event, start, f"{path}:{number}")
      undo.pop_all()
    self._llm = backend(self._note)

  async def answer(self, request: Request) -> dict[str, Any]:
    """The answer, asked for once. Raises what the backend raises."""
    key, counts = bytes.fromhex(request.key), self._counts[request.stage]
    counts.asked += 1
    if key in self._answers:
      counts.from_ledger += 1
      return self._lines.read(self._answers[key])["answer"]
    if key in self._asking:
      counts.from_ledger += 1
    else:
      self._asking[key] = asyncio.create_task(self._ask(request))
      self._asking[key].add_done_callback(lambda _: self._asking.pop(key))
    # Shielded: whoever asked first may be cancelled, and others still wait for the answer.
    return await asyncio.shield(self._asking[key])

  def report(self) -> dict[str, StageCounts]:
    """What became of all requests, by stage."""
    return dict(self._counts)

  def close(self) -> None:
    """Lets another process write it."""
    self._lines.close()

  def __enter__(self) -> Ledger:
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  async def _ask(self, request: Request) -> dict[str, Any]:
    try:
      answer = await self._llm.answer(request)
    except Exception as error:
      reason = error.reason if isinstance(error, RequestError) else type(error).__name__
      self._write(request, "failed", {"reason": reason})
      raise
    self._write(request, "answered", {"answer": answer})
    return answer

  def _note(self, request: Request, event: Literal["sent", "retry"], reason: str) -> None:
    self._write(request, event, {"reason": reason} if reason else {})

  def _write(self, request: Request, event: str, more: dict[str, Any]) -> None:
    record = {"event": event, "stage": request.stage, "key": request.key, **more}
    self._count(record, self._lines.append(record), str(self._lines.path))

  def _count(self, record: Mapping[str, Any], start: int, place: str) -> None:
    """Takes in an event of the file, which starts at byte `start`."""
    try:
      event, stage, key = record["event"], record["stage"], bytes.fromhex(record["key"])
      reason = record["reason"] if event in ("retry", "failed") else ""
    except (KeyError, TypeError, ValueError):
      raise JournalError(f"{place}: found {str(record)[:200]}, expected an event") from None
    counts = self._counts[stage]
    if event == "sent":
      counts.sent += 1
      counts.lost += 1
      self._open[key] += 1
      return
    if event == "answered":
      if key in self._answers:
        raise JournalError(f"{place}: found a second answer to {record['key']}, expected one")
      counts.answered += 1
      self._answers[key] = start
    elif event == "retry":
      counts.retried[reason] = counts.retried.get(reason, 0) + 1
    elif event == "failed":
      counts.failed[reason] = counts.failed.get(reason, 0) + 1
    else:
      raise JournalError(
        f"{place}: found event {event!r}, expected 'sent', 'retry', 'answered' or 'failed'"
      )
    if self._open[key]:
      counts.lost -= 1
      self._open[key] -= 1
    if not self._open[key]:
      del self._open[key]
