# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the time of training steps goes: a trace of a few, and a page of text that says it.

The trace is JAX's own, for who wants to look closer (XProf, Perfetto). The page is made from it and
from the compiled step, whose operations bear the names of the scopes (`jax.named_scope`, and flax's
modules) that they come from. Nothing that is computed changes.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import pathlib
import re
import tempfile
import time
from typing import Any, TypeVar

import jax

from fspo_jax import hlo, paths, processes

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

WARM = 2  # steps of a process before the trace: they compile
DATA, DISPATCH, DEVICE = "waiting for data", "dispatching", "waiting for the device"
PASSES = ("forward", "backward", "reference", "neither")

# What an operation is for, by the scopes that it comes from: the first that matches.
_PARTS = (
  ("optimizer", re.compile(r"\boptimizer\b")),
  ("head", re.compile(r"\bhead\b")),
  ("loss", re.compile(r"\bobjective\b")),
  ("norms", re.compile(r"norm\b")),
  ("projections", re.compile(r"_attend/[qkvo]\b")),
  ("attention", re.compile(r"_attend\b")),
  ("MLP", re.compile(r"_transform\b")),
  ("rest of the model", re.compile(r"\b(Transformer|blocks)\b")),
)
_COLLECTIVE = re.compile(r"all-|reduce-scatter|collective-|send|recv")
_CONTAINERS = ("while", "call", "conditional")  # their time is that of what is in them
_SCOPES = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Operation:
  """One run of an operation on a device, or on a thread of one.

  Attributes:
    name: in the compiled program.
    start: nanoseconds, from wherever the trace counts.
    duration: nanoseconds.
  """

  name: str
  start: float
  duration: float


@dataclasses.dataclass(frozen=True)
class Meaning:
  """What an operation of a compiled program is.

  Attributes:
    opcode: what it does.
    scopes: where it comes from, outermost first, joined by slashes; '' where nothing says.
  """

  opcode: str
  scopes: str

  @property
  def part(self) -> str:
    """What it is for."""
    if _COLLECTIVE.match(self.opcode):
      return "collectives"
    return next((name for name, scopes in _PARTS if scopes.search(self.scopes)), "other")

  @property
  def which(self) -> str:
    """One of `PASSES`: a gradient's operations are transposed, and the policy's are of a jvp."""
    if re.search(r"\breference\b", self.scopes):
      return "reference"
    if "transpose(" in self.scopes:
      return "backward"
    return "forward" if "jvp(" in self.scopes else "neither"


def span(name: str) -> contextlib.AbstractContextManager[None]:
  """What the host does within it has this name in a trace; costs nothing while there is none."""
  return jax.profiler.TraceAnnotation(name)


def waited_for(items: Iterable[_T]) -> Iterator[_T]:
  """The items; that one is waited for is in the trace."""
  iterator = iter(items)
  while True:
    with span(DATA):
      try:
        item = next(iterator)
      except StopIteration:
        return
    yield item


class Recorder:
  """Records a few steps of a stage, and writes what they say; does nothing for 0 steps."""

  def __init__(self, directory: paths.Path, stage: str, start: int, steps: int) -> None:
    """Plans a trace.

    Args:
      directory: where `<stage>.txt` and the folder `<stage>` with the trace are put, at the end.
      stage: its name.
      start: steps that have been done.
      steps: how many to record, after `WARM` more.
    """
    self._directory, self._stage, self._steps = directory, stage, steps
    self._first, self._last = start + WARM + 1, start + WARM + steps
    self._meanings: dict[str, Meaning] = {}
    self._began: float | None = None
    self._scratch: tempfile.TemporaryDirectory | None = None
    self._written = False

  def after(self, step: int, update: Any, *given: Any) -> None:
    """Tells that a step has been dispatched.

    Args:
      step: its number, from 1.
      update: a `step.MeshStep`.
      *given: what it is given, of any step; the state that has come out of the last one first.
    """
    if not self._steps:
      return
    if step == self._first - 1:
      # Compiled once more, for its text: what has run does not give its own.
      self._meanings = meanings(update.trace(*given).lower().compile().as_text())
      jax.block_until_ready(given[0])
      if processes.first():
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of Python takes longer than what is looked for
        self._scratch = tempfile.TemporaryDirectory()
        jax.profiler.start_trace(self._scratch.name, profiler_options=options)
        self._began = time.perf_counter()
    elif step == self._last and self._began is not None:
      with span(DEVICE):
        jax.block_until_ready(given[0])
      seconds = time.perf_counter() - self._began
      self._stop()
      self._write(pathlib.Path(self._scratch.name), seconds)
      self._scratch.cleanup()
      self._written = True

  def close(self) -> None:
    """Ends a trace that is not at its end; nothing is written of it."""
    if self._began is not None:
      self._stop()
      self._scratch.cleanup()
    if self._steps and not self._written and processes.first():
      _LOG.warning("--profile: %s had no %d steps to record", self._stage, self._steps)

  def _stop(self) -> None:
    self._began = None
    jax.profiler.stop_trace()

  def _write(self, scratch: pathlib.Path, seconds: float) -> None:
    (trace,) = scratch.glob("**/*.xplane.pb")
    operations, host = read(trace, self._meanings)
    about = f"{self._stage}, steps {self._first} to {self._last}, {jax.local_device_count()} x "
    about += jax.local_devices()[0].device_kind
    text = summary(about, operations, host, self._meanings, self._steps, seconds)
    for file in (one for one in scratch.rglob("*") if one.is_file()):
      where = self._directory / self._stage / file.relative_to(scratch).as_posix()
      paths.write_atomic(where, file.read_bytes())
    page = self._directory / f"{self._stage}.txt"
    paths.write_atomic(page, text.encode())
    _LOG.info("%s: profile of %d steps in %s", self._stage, self._steps, page)


def meanings(text: str) -> dict[str, Meaning]:
  """What the operations of a compiled program are, by name, from its text."""
  found = {}
  for computation in hlo.parse(text).computations.values():
    for one in computation:
      scopes = _SCOPES.search(one.rest)
      found[one.name] = Meaning(one.opcode, scopes[1] if scopes else "")
  return found


def read(
  trace: pathlib.Path, known: Mapping[str, Meaning]
) -> tuple[list[Operation], dict[str, float]]:
  """What a trace (`*.xplane.pb`) says: operations of the known program, nanoseconds by span."""
  operations: list[Operation] = []
  host = dict.fromkeys((DATA, DISPATCH, DEVICE), 0.0)
  for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
    for line in plane.lines:
      for event in line.events:
        if event.name in host:
          host[event.name] += event.duration_ns
          continue
        # A TPU's events are named by the whole line of the program, a CPU's by its value alone.
        name = event.name.split(" = ")[0].lstrip("%")
        if name in known and known[name].opcode not in _CONTAINERS:
          operations.append(Operation(name, event.start_ns, event.duration_ns))
  return operations, host


def busy(operations: Sequence[Operation]) -> float:
  """Nanoseconds in which at least one operation runs."""
  total, until = 0.0, float("-inf")
  for one in sorted(operations, key=lambda one: one.start):
    end = one.start + one.duration
    total += max(end - max(one.start, until), 0.0)
    until = max(until, end)
  return total


def summary(
  about: str,
  operations: Sequence[Operation],
  host: Mapping[str, float],
  known: Mapping[str, Meaning],
  steps: int,
  seconds: float,
) -> str:
  """The page of text.

  Args:
    about: what was recorded.
    operations: of all steps.
    host: nanoseconds of what the host did, by name.
    known: what the operations are.
    steps: how many were recorded.
    seconds: how long they took.
  """
  whole = seconds * 1e9
  lines = [f"{about}: {seconds / steps * 1e3:.1f} ms a step", ""]

  def row(name: str, nanoseconds: float, of: float) -> str:
    return f"{name:26}{nanoseconds / steps / 1e6:10.2f}{nanoseconds / of:9.1%}"

  lines.append(f"{'host':26}{'ms':>10}{'':>9}")
  lines += [row(name, spent, whole) for name, spent in host.items()]
  lines.append(row("the rest", whole - sum(host.values()), whole))
  lines += ["", f"{'device':26}{'ms':>10}{'':>9}"]
  lines += [row("busy", busy(operations), whole), row("idle", whole - busy(operations), whole)]
  spent = sum(one.duration for one in operations)
  if not spent:
    return "\n".join([*lines, "", "No operation of the step was found in the trace.", ""])
  by_part: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  by_name: collections.Counter[str] = collections.Counter()
  times: collections.Counter[str] = collections.Counter()
  for one in operations:
    by_part[known[one.name].part][known[one.name].which] += one.duration
    by_name[one.name] += one.duration
    times[one.name] += 1
  lines += [
    "",
    f"operations, {spent / steps / 1e6:.1f} ms a step, all threads and devices together",
  ]
  lines.append(f"{'':26}{'all':>10}" + "".join(f"{name:>11}" for name in PASSES))
  for part, spent_in in sorted(by_part.items(), key=lambda item: -item[1].total()):
    passes = "".join(f"{spent_in[name] / spent:11.1%}" for name in PASSES)
    lines.append(f"{part:26}{spent_in.total() / spent:10.1%}{passes}")
  lines += ["", "the longest"]
  for name, duration in by_name.most_common(12):
    one = known[name]
    lines.append(
      f"{duration / spent:6.1%}{times[name] / steps:8.0f} x  {name}: {one.part}, {one.which}  "
      f"{one.scopes}"
    )
  return "\n".join([*lines, ""])
