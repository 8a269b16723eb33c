# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Seals: what every file of a checkpoint was when it was written, so that a broken one is not used.

Orbax makes a checkpoint appear whole or not at all; what happens to its files later, it does not
see in all of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import shutil

from fspo_jax import workdir


def write(directory: pathlib.Path, step: int) -> None:
  """Seals the finished checkpoint of a step, and removes the seals of those that are gone."""
  digests = json.dumps(_digests(directory / str(step)), indent=1)
  workdir.write_atomic(_seal(directory, step), digests.encode())
  for seal in directory.glob("*.seal"):
    if not (directory / seal.stem).is_dir():
      seal.unlink(missing_ok=True)


def problem(directory: pathlib.Path, step: int, *, optional: str) -> str | None:
  """What is wrong with a step's checkpoint; None for nothing, or where it has no seal.

  Args:
    directory: of the checkpoints.
    step: whose.
    optional: a folder of a checkpoint that may be taken away as a whole.
  """
  seal = _seal(directory, step)
  if not seal.is_file():
    return None  # killed between the two, or older than seals
  return _compare(directory, step, optional, seal.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _compare(directory: pathlib.Path, step: int, optional: str, sealed_at: int) -> str | None:
  """`problem` where there is a seal; once in a process, for it reads the whole checkpoint."""
  del sealed_at
  seal = _seal(directory, step)
  try:
    sealed = json.loads(seal.read_text())
    found = _digests(directory / str(step))
  except (OSError, ValueError) as error:
    return f"cannot be read: {error}"
  whole = (directory / str(step) / optional).is_dir()
  for name in sorted(sealed):
    if name.startswith(f"{optional}/") and not whole:
      continue
    if name not in found:
      return f"{name}: not there any more"
    if found[name] != sealed[name]:
      return f"{name}: not what was written"
  return None


def set_aside(directory: pathlib.Path, step: int) -> None:
  """Renames the checkpoint of a step to `<step>.broken`, which replaces an earlier one."""
  aside = directory / f"{step}.broken"
  shutil.rmtree(aside, ignore_errors=True)
  (directory / str(step)).rename(aside)
  _seal(directory, step).unlink(missing_ok=True)


def _seal(directory: pathlib.Path, step: int) -> pathlib.Path:
  return directory / f"{step}.seal"


def _digests(checkpoint: pathlib.Path) -> dict[str, str]:
  found = {}
  for file in sorted(checkpoint.rglob("*")):
    if file.is_file():
      with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
      found[file.relative_to(checkpoint).as_posix()] = digest.hexdigest()
  return found
