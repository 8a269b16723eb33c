# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Import: a folder in the layout of Hugging Face to the parameters of a `Transformer`.

Tensors are read one at a time and put straight where the parameter lives, in its dtype. Layers are
stacked for `nn.scan`: the stack is made once, on its devices, and each layer written into it.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Shaped
import numpy as np

from fspo_jax import paths
from fspo_jax.models import rotary
from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.models.huggingface import files, read_config, tensors
from fspo_jax.models.huggingface.errors import HuggingFaceError, read_json

# Problems that an error names, one a line.
_NAMED = 20
_FREQUENCIES = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def is_checkpoint(directory: str | os.PathLike[str]) -> bool:
  """Whether a folder says, in its `config.json`, what kind of Hugging Face's models it has."""
  path = paths.path(directory) / files.CONFIG
  return path.is_file() and "model_type" in read_json(path)


def load_config(
  directory: str | os.PathLike[str],
  *,
  dtype: str = "float32",
  param_dtype: str = "float32",
  attention_block: int = 128,
  remat: str = "none",
) -> TransformerConfig:
  """The decoder that a folder's `config.json` describes.

  Args:
    directory: with a `config.json`.
    dtype: of the computation.
    param_dtype: of the parameters, whatever they are stored in.
    attention_block: see `TransformerConfig`.
    remat: see `TransformerConfig`.

  Raises:
    HuggingFaceError: it asks for what there is not here, naming the key, what was found and what
      is supported.
  """
  path = pathlib.Path(directory) / files.CONFIG
  how = {
    "dtype": dtype,
    "param_dtype": param_dtype,
    "attention_block": attention_block,
    "remat": remat,
  }
  return read_config.read(read_json(path), str(path), **how)


def load_params(
  directory: str | os.PathLike[str], config: TransformerConfig, abstract: dict[str, Any]
) -> dict[str, Any]:
  """The parameters in a folder's safetensors, one file or several.

  Beside the parameters themselves, about one tensor is in memory at a time.

  Args:
    directory: with `model.safetensors`, or `model.safetensors.index.json` and what it names.
    config: of the decoder, from `load_config`.
    abstract: shapes, dtypes and shardings of its parameters, from `training.state.abstract_params`.

  Returns:
    The parameters, on the shardings and in the dtypes of `abstract`.

  Raises:
    HuggingFaceError: a file is broken or no safetensors, or a tensor is missing, surplus or of
      another shape than the config says, naming both shapes.
  """
  path = pathlib.Path(directory)
  stored = files.stored(path)
  leaves = traverse_util.flatten_dict(abstract)
  of_leaf: dict[tuple[str, ...], list[tensors.Place]] = {leaf: [] for leaf in leaves}
  for place in tensors.places(config):
    of_leaf[place.path].append(place)
  unknown = [leaf for leaf, places in of_leaf.items() if not places]
  if unknown:
    raise HuggingFaceError(f"{path}: has no {unknown}; expected a model without (model.roles=0)")
  _check(path, stored, of_leaf, leaves, config)
  params = {
    leaf: _load(leaves[leaf], places, {place.name: stored[place.name] for place in places})
    for leaf, places in of_leaf.items()
  }
  return traverse_util.unflatten_dict(params)


def _check(
  path: pathlib.Path,
  stored: dict[str, files.Stored],
  of_leaf: dict[tuple[str, ...], list[tensors.Place]],
  leaves: dict[tuple[str, ...], jax.ShapeDtypeStruct],
  config: TransformerConfig,
) -> None:
  """Refuses tensors that are not those of the config, before any is read."""
  for name, tensor in stored.items():
    files.check_dtype(name, tensor)
  expected = {
    place.name: place.shape(leaves[leaf].shape)
    for leaf, places in of_leaf.items()
    for place in places
  }
  problems = []
  for name in [*expected, *sorted(stored.keys() - expected.keys())]:
    found = stored[name].shape if name in stored else None
    if found == expected.get(name) or (name not in expected and _redundant(name, stored, config)):
      continue
    problems.append(f"{name}: found {_said(found)}, expected {_said(expected.get(name))}")
  if problems:
    more = [f"and {len(problems) - _NAMED} more"] if len(problems) > _NAMED else []
    lines = "\n  ".join([*problems[:_NAMED], *more])
    raise HuggingFaceError(f"{path}: tensors that are not those of {files.CONFIG}:\n  {lines}")


def _said(shape: tuple[int, ...] | None) -> str:
  return "no such tensor" if shape is None else f"the shape {shape}"


def _redundant(name: str, stored: dict[str, files.Stored], config: TransformerConfig) -> bool:
  """Whether a tensor says again what others, or the config, say: some write these as well."""
  if _FREQUENCIES.fullmatch(name) and stored[name].shape == (config.head_dim // 2,):
    found = files.read(name, stored[name], (slice(None),)).astype(np.float32)
    # Written in half precision by some.
    return np.allclose(found, np.asarray(rotary.frequencies(config)), rtol=0.02)
  other = "model.embed_tokens.weight"
  if name != "lm_head.weight" or not config.tied or other not in stored:
    return False
  if stored[name][1:] != stored[other][1:]:
    return False
  rows, chunk = stored[name].shape[0], 1024
  for start in range(0, rows, chunk):
    index = (slice(start, min(start + chunk, rows)), slice(None))
    if not np.array_equal(*(files.read(tensor, stored[tensor], index) for tensor in (name, other))):
      return False
  return True


def _load(
  leaf: jax.ShapeDtypeStruct, places: list[tensors.Place], stored: dict[str, files.Stored]
) -> Array:
  """A parameter from its tensors: one, or one of each layer."""

  def tensor(place: tensors.Place, shape: tuple[int, ...], where: Sharding) -> Array:
    def part(index: tuple[slice, ...]) -> Shaped[np.ndarray, "..."]:
      # A process reads what its own devices hold, and nothing else.
      index = index[::-1] if place.transposed else index
      values = files.read(place.name, stored[place.name], index)
      return (values.T if place.transposed else values).astype(leaf.dtype, copy=False)

    return jax.make_array_from_callback(shape, where, part)

  if places[0].layer is None:
    return tensor(places[0], leaf.shape, leaf.sharding)
  stack = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=leaf.sharding)()
  write = jax.jit(_write, donate_argnums=0, out_shardings=leaf.sharding)
  of_layer = _without_first_axis(leaf.sharding)
  for place in places:
    piece = tensor(place, leaf.shape[1:], of_layer)
    # Waited for: otherwise layers would queue up in memory.
    stack = jax.block_until_ready(write(stack, piece, place.layer))
  return stack


def _write(stack: Shaped[Array, "..."], piece: Shaped[Array, "..."], layer: int) -> Array:
  return jax.lax.dynamic_update_index_in_dim(stack, piece, layer, 0)


def _without_first_axis(where: Sharding) -> Sharding:
  """Where a layer of a stack lives."""
  if not isinstance(where, NamedSharding):
    return where
  return NamedSharding(where.mesh, PartitionSpec(*where.spec[1:]))
