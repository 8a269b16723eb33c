# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Seals: what every file of a checkpoint was when it was written, so that a broken one is not used.

Orbax makes a checkpoint appear whole or not at all; what happens to its files later, it does not
see in all of them. In a file system a seal is of every file's SHA-256. A bucket keeps a checksum of
every object, by which it answers for the bytes: there a seal is of these, and nothing is read back.
A checkpoint that was copied into or out of a bucket has the seal of where it came from, and is held
against it: it is read then.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
import functools
import hashlib
import json

from etils import epath

from fspo_jax import paths

_SHA256, _MD5 = 64, 24  # characters: in hexadecimal; in base64, as a bucket says it


def write(directory: paths.Path, step: int) -> None:
  """Seals the finished checkpoint of a step, and removes the seals of those that are gone."""
  digests = json.dumps(_digests(directory / str(step), {}), indent=1)
  paths.write_atomic(_seal(directory, step), digests.encode())
  for seal in directory.glob("*.seal"):
    if not (directory / seal.stem).is_dir():
      seal.unlink(missing_ok=True)


def problem(directory: paths.Path, step: int, *, optional: str) -> str | None:
  """What is wrong with a step's checkpoint; None for nothing, or where it has no seal.

  Args:
    directory: of the checkpoints.
    step: whose.
    optional: a folder of a checkpoint that may be taken away as a whole.
  """
  seal = _seal(directory, step)
  if not seal.is_file():
    return None  # killed between the two, or older than seals
  return _compare(directory, step, optional, seal.read_bytes())


@functools.lru_cache(maxsize=64)
def _compare(directory: paths.Path, step: int, optional: str, seal: bytes) -> str | None:
  """`problem` where there is a seal; once in a process, for it reads the whole checkpoint."""
  try:
    sealed = _parse(seal)
    found = _digests(directory / str(step), sealed)
  except (OSError, ValueError) as error:
    if isinstance(error, OSError) and paths.in_bucket(directory):
      raise  # the bucket cannot be asked now, which says nothing of what it has
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


def set_aside(directory: paths.Path, step: int) -> None:
  """Renames the checkpoint of a step to `<step>.broken`, which replaces an earlier one."""
  aside = epath.Path(directory / f"{step}.broken")
  if aside.is_dir():
    aside.rmtree()
  epath.Path(directory / str(step)).rename(aside)
  _seal(directory, step).unlink(missing_ok=True)


def _seal(directory: paths.Path, step: int) -> paths.Path:
  return directory / f"{step}.seal"


def _parse(seal: bytes) -> dict[str, str]:
  """The digests in a seal, by the names of files; ValueError where it has something else."""
  sealed = json.loads(seal)
  if not isinstance(sealed, dict) or not all(isinstance(x, str) for x in sealed.values()):
    raise ValueError(f"its seal: found {str(sealed)[:60]}, expected the digests of files")
  return sealed


def _digests(checkpoint: paths.Path, sealed: Mapping[str, str]) -> dict[str, str]:
  """What the files of a checkpoint are, each in the kind that its seal has."""
  if paths.in_bucket(checkpoint):
    known = paths.checksums(checkpoint)
    return {name: _digest(checkpoint / name, sealed.get(name), known[name]) for name in known}
  found = {}
  for file in sorted(checkpoint.rglob("*")):
    if file.is_file():
      name = file.relative_to(checkpoint).as_posix()
      found[name] = _digest(file, sealed.get(name))
  return found


def _digest(file: paths.Path, sealed: str | None, known: str | None = None) -> str:
  """The digest of a file: `known` where that is of the kind of its seal, or else read from it."""
  if known is not None and len(known) == len(known if sealed is None else sealed):
    return known
  if sealed is not None and len(sealed) not in (_SHA256, _MD5):
    return sealed  # a CRC32C, which nothing here computes: it is not checked
  md5 = sealed is not None and len(sealed) == _MD5
  with file.open("rb") as content:
    digest = hashlib.file_digest(content, "md5" if md5 else "sha256")
  return base64.b64encode(digest.digest()).decode("ascii") if md5 else digest.hexdigest()
