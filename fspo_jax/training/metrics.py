# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics: JSON lines (the record), TensorBoard (the curves), a progress bar (the wait)."""

from __future__ import annotations

import json
import math
import pathlib
import sys
import tempfile
from typing import Any, Protocol

from rich import progress
import tensorboardX

from fspo_jax import paths, processes


def read_jsonl(path: paths.Path) -> list[dict[str, Any]]:
  """The rows of a metrics file; a last line cut short by a kill is left out."""
  rows = []
  if path.exists():
    for line in path.read_text().splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return rows


class Writer(Protocol):
  """Where a stage's metrics go."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the values of one step."""

  def keep(self) -> None:
    """What was written is there whatever happens to this machine; asked for at each checkpoint."""

  def close(self) -> None:
    """Nothing more will be written."""


class NoWriter:
  """Writes nothing: of a process that is not the first."""

  def write(self, step: int, values: dict[str, float]) -> None:
    """Does nothing."""

  def keep(self) -> None:
    """Does nothing."""

  def close(self) -> None:
    """Does nothing."""


def writer(directory: paths.Path, stage: str, resume_step: int) -> Writer:
  """The writer of this process."""
  return MetricWriter(directory, stage, resume_step) if processes.first() else NoWriter()


class MetricWriter:
  """Writes a stage's metrics to `directory/<stage>.jsonl` and to TensorBoard.

  A run that resumes at step s first takes back what was written after it, so that the file reads
  as if the run had never been stopped. What goes to a bucket is written here, and copied at each
  checkpoint: rows after the last one would be taken back anyway.
  """

  def __init__(self, directory: paths.Path, stage: str, resume_step: int) -> None:
    self.path = directory / f"{stage}.jsonl"
    kept = [row for row in read_jsonl(self.path) if row["step"] <= resume_step]
    self._directory, self._scratch = directory, None
    if paths.in_bucket(directory):
      self._scratch = tempfile.TemporaryDirectory()
    here = pathlib.Path(self._scratch.name if self._scratch else directory)
    file = here / self.path.name
    # Whole or not at all: a kill here must not lose the rows before.
    paths.write_atomic(file, "".join(json.dumps(row) + "\n" for row in kept).encode())
    self._file = file.open("a")
    self._board = tensorboardX.SummaryWriter(
      str(here / "tensorboard" / stage), purge_step=resume_step + 1
    )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the values of one step; not-a-number becomes null in the JSON."""
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def keep(self) -> None:
    """Copies what was written to the bucket, if it goes to one."""
    if self._scratch is not None:
      self._board.flush()
      paths.copy_into(pathlib.Path(self._scratch.name), self._directory)

  def close(self) -> None:
    """Closes the JSON lines and the TensorBoard files."""
    self._file.close()
    self._board.close()
    self.keep()
    if self._scratch is not None:
      self._scratch.cleanup()


def progress_bar() -> progress.Progress:
  """A progress bar with the time left; says nothing when there is no terminal, or others do."""
  return progress.Progress(
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeElapsedColumn(),
    progress.TimeRemainingColumn(),
    progress.TextColumn("{task.fields[note]}"),
    disable=not sys.stdout.isatty() or not processes.first(),
    transient=False,
  )
