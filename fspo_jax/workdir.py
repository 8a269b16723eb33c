# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run: its directory, its config, and which of its stages are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import time
from typing import Any

from fspo_jax import paths


class WorkdirError(RuntimeError):
  """The run's directory cannot be used; nothing in it was changed."""


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """A config's values by their whole keys, such as 'model.width'."""
  out: dict[str, Any] = {}
  for key, value in tree.items():
    name = f"{prefix}{key}"
    out |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
  return out


def fingerprint(data: str) -> str:
  """SHA-256 of a data file, or of the files in a folder: part of what a run is. Empty for ''."""
  if not data:
    return ""
  path = pathlib.Path(data)
  digest = hashlib.sha256()
  for file in sorted(path.iterdir()) if path.is_dir() else [path]:
    if file.is_file():
      digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
  return digest.hexdigest()


class Workdir:
  """The directory of one run.

  `config.json` says whose it is; `stages/<name>.json` that a stage is finished, and how long it
  took. A run that finds its own config goes on where it was; any other is refused.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    config: dict[str, Any],
    free: Sequence[str] = (),
    *,
    writes: bool = True,
  ) -> None:
    """Opens or makes the directory.

    Args:
      path: of the directory, one that all hosts see: a folder, or gs://BUCKET/FOLDER.
      config: the run's config, as JSON has it.
      free: keys, or what they begin with, in which a run may differ from the one it goes on with.
      writes: whether this process writes the run's files; of several, the first one does.

    Raises:
      WorkdirError: it cannot be written to, is not a run's, or is another config's.
    """
    try:
      self.path = paths.path(path)
    except (ValueError, ImportError) as error:
      raise WorkdirError(f"--workdir={error}") from error
    self._writes = writes
    self._since: dict[str, float] = {}  # running stage -> monotonic time it would have started at
    self._check_whose(config, tuple(free))
    if not writes:
      return
    try:
      if not paths.in_bucket(self.path):
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path):
          pass
      paths.write_atomic(self.path / "config.json", json.dumps(config, indent=2).encode())
    except OSError as error:
      raise WorkdirError(
        f"--workdir={self.path}: cannot be written to: {error.strerror or error}"
      ) from error

  def _check_whose(self, config: dict[str, Any], free: tuple[str, ...]) -> None:
    file = self.path / "config.json"
    try:
      if not file.exists():
        if self.path.is_dir() and any(not f.name.endswith(".tmp") for f in self.path.iterdir()):
          raise WorkdirError(
            f"--workdir={self.path}: is not empty, and not a run of fspo_jax (it has no "
            "config.json); give a new directory"
          )
        return
      known = flat(json.loads(file.read_text()))
    except (OSError, json.JSONDecodeError) as error:
      raise WorkdirError(f"{file}: cannot be read: {error}") from error
    ours = flat(config)
    names = (k for k in known.keys() | ours.keys() if not k.startswith(free))
    different = sorted(k for k in names if known.get(k) != ours.get(k))
    if different:
      shown = "; ".join(
        f"{k}: {known.get(k, 'absent')!r} there, {ours.get(k, 'absent')!r} here"
        for k in different[:5]
      )
      more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
      raise WorkdirError(
        f"--workdir={self.path}: was made by another config ({shown}{more}); give a new directory, "
        "or the same config to resume. Nothing was changed."
      )

  def finished(self, stage: str) -> bool:
    """Whether a stage was run to its end."""
    return self._marker(stage).exists()

  def _marker(self, stage: str) -> paths.Path:
    return self.path / "stages" / f"{stage}.json"

  @contextlib.contextmanager
  def running(self, stage: str) -> Iterator[None]:
    """Marks a stage as finished, with its seconds, if what it wraps does not raise.

    A stage that was stopped and resumed counts the seconds of all its finished and caught parts;
    only those of a part that was killed outright are not known.
    """
    partial = self.path / "stages" / f"{stage}.partial.json"
    before = json.loads(partial.read_text())["seconds"] if partial.exists() else 0.0
    self._since[stage] = time.monotonic() - before
    try:
      yield
    except BaseException:
      self._write(partial, json.dumps({"seconds": self.seconds()[stage]}).encode())
      raise
    self._write(self._marker(stage), json.dumps({"seconds": self.seconds()[stage]}).encode())
    del self._since[stage]
    if self._writes:
      partial.unlink(missing_ok=True)

  def seconds(self) -> dict[str, float]:
    """Seconds of every finished stage, and of the running one so far."""
    files = sorted(self.path.glob("stages/*.json"))
    finished = {
      f.stem: json.loads(f.read_text())["seconds"] for f in files if ".partial" not in f.name
    }
    now = time.monotonic()
    return finished | {stage: round(now - since, 3) for stage, since in self._since.items()}

  def write(self, name: str, data: bytes) -> None:
    """Writes a file of the run, whole or not at all."""
    self._write(self.path / name, data)

  def _write(self, path: paths.Path, data: bytes) -> None:
    if self._writes:
      paths.write_atomic(path, data)
