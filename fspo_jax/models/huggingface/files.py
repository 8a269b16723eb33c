# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The safetensors files of a checkpoint: which tensors are where, and slices of them."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Shaped
import numpy as np
import safetensors

from fspo_jax.models.huggingface.errors import HuggingFaceError, read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_DTYPES = {"F32": jnp.float32, "F16": jnp.float16, "BF16": jnp.bfloat16}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class Stored(NamedTuple):
  """A tensor in a file."""

  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str


def stored(directory: pathlib.Path) -> dict[str, Stored]:
  """The tensors of a checkpoint, by name; only the headers of its files are read.

  Raises:
    HuggingFaceError: there are no safetensors, or what there is is broken or something else.
  """
  index, single = directory / INDEX, directory / WEIGHTS
  if index.exists() and single.exists():
    raise HuggingFaceError(f"{directory}: found both {INDEX} and {WEIGHTS}, expected one of them")
  if single.exists():
    return _header(single)
  if index.exists():
    return _indexed(index)
  pickles = sorted(p.name for p in directory.glob("*") if p.suffix in _PICKLES)
  found = f"found {pickles}, and pickles are never loaded" if pickles else "found no weights"
  raise HuggingFaceError(f"{directory}: {found}; expected {WEIGHTS} or {INDEX}")


def _indexed(index: pathlib.Path) -> dict[str, Stored]:
  """The tensors of the files that an index names; the two must agree."""
  files = read_json(index).get("weight_map")
  if not isinstance(files, dict) or not files:
    raise HuggingFaceError(f"{index}: weight_map: found {files!r}, expected tensors and files")
  for tensor, name in files.items():
    # A name with folders in it could be any file of this machine.
    plain = isinstance(name, str) and pathlib.PurePath(name).name == name
    if not plain or not name.endswith(".safetensors"):
      raise HuggingFaceError(
        f"{index}: {tensor}: found in {name!r}, expected a .safetensors file of the same folder"
      )
  found: dict[str, Stored] = {}
  for name in sorted({*files.values()}):
    for tensor, where in _header(index.parent / name).items():
      if files.get(tensor) != name:
        raise HuggingFaceError(f"{where.file}: found {tensor}, expected in {files.get(tensor)!r}")
      found[tensor] = where
  for tensor, name in files.items():
    if tensor not in found:
      raise HuggingFaceError(f"{index.parent / name}: found no {tensor}, expected by {INDEX}")
  return found


def _header(path: pathlib.Path) -> dict[str, Stored]:
  if not path.is_file():
    raise HuggingFaceError(f"{path}: found no such file, expected by {INDEX}")
  try:
    with safetensors.safe_open(path, "np") as file:
      slices = {name: file.get_slice(name) for name in file.keys()}
      return {name: Stored(path, tuple(x.get_shape()), x.get_dtype()) for name, x in slices.items()}
  except (safetensors.SafetensorError, OSError) as error:
    raise HuggingFaceError(
      f"{path}: expected a whole safetensors file (pickles are never loaded): {error}"
    ) from error


def check_dtype(name: str, found: Stored) -> None:
  """Refuses a tensor of anything but floats.

  Raises:
    HuggingFaceError: naming the tensor's type.
  """
  if found.dtype not in _DTYPES:
    raise HuggingFaceError(
      f"{found.file}: {name}: found {found.dtype}, expected one of {sorted(_DTYPES)}"
    )


def read(name: str, where: Stored, index: tuple[slice, ...]) -> Shaped[np.ndarray, "..."]:
  """A slice of a tensor; nothing else of the file stays in memory."""
  # Opened anew each time: the pages of an open file count as this process's memory.
  with safetensors.safe_open(where.file, "np") as file:
    return file.get_slice(name)[index]
