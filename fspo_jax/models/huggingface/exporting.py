# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Export: parameters, or LoRA adapters, as a folder that others load.

A model's is one that `transformers` and vLLM open as they do any checkpoint; adapters' is one of
PEFT. Tensors are copied to the host a file at a time.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
from safetensors import numpy as safetensors

from fspo_jax import paths
from fspo_jax.models import lora, transformer
from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.models.huggingface import companions, files, tensors, write_config
from fspo_jax.models.huggingface.errors import HuggingFaceError

_FORMAT = {"format": "pt"}  # transformers asks for it: the layout of PyTorch's modules


def save_model(
  directory: str | os.PathLike[str],
  params: dict[str, Any],
  config: TransformerConfig,
  beside: companions.Companions,
  *,
  max_shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes config, weights, tokenizer and generation config; weights in the parameters' dtype.

  Args:
    directory: new, or empty.
    params: of a `Transformer`; adapters have been merged into them (`lora.merge`).
    config: of the decoder.
    beside: what goes with the weights; of the checkpoint that training started from.
    max_shard_bytes: of a file; a tensor that is larger has one to itself.

  Raises:
    HuggingFaceError: no family of models is like this one, or the folder is not empty, or the
      parameters are spread over processes.
  """
  keys = write_config.write(config, max_length=beside.max_length, model_type=beside.model_type)
  _check(params, config)
  leaves, places = traverse_util.flatten_dict(params), tensors.places(config)
  shards = _shards(places, leaves, max_shard_bytes)
  path = _new(directory)
  _write_json(path / files.CONFIG, keys | beside.token_ids)
  generation = beside.token_ids if beside.generation is None else beside.generation
  _write_json(path / companions.GENERATION, generation)
  for name, content in beside.tokenizer.items():
    (path / name).write_bytes(content)
  names = [files.WEIGHTS]
  if len(shards) > 1:
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
  for name, shard in zip(names, shards, strict=True):
    arrays = {place.name: _tensor(place, leaves[place.path]) for place in shard}
    safetensors.save_file(arrays, path / name, metadata=_FORMAT)
  if len(shards) > 1:
    total = sum(_bytes(place, leaves[place.path]) for place in places)
    of_tensor = {p.name: name for name, shard in zip(names, shards, strict=True) for p in shard}
    index = {"metadata": {"total_size": total}, "weight_map": of_tensor}
    _write_json(path / files.INDEX, index)


def save_adapter(
  directory: str | os.PathLike[str],
  adapters: lora.Adapters,
  lora_config: lora.LoraConfig,
  config: TransformerConfig,
  *,
  base: str,
) -> None:
  """Writes adapters as PEFT has them: `adapter_config.json` and `adapter_model.safetensors`.

  Args:
    directory: new, or empty.
    adapters: of each of `lora_config.projections`.
    lora_config: their rank, scale and dropout.
    config: of the decoder.
    base: name or folder of the checkpoint that they are to be added to.

  Raises:
    HuggingFaceError: the folder is not empty.
    ValueError: the adapters are not those of the configs; see `lora.merge`.
  """
  # What cannot be merged is no adapter of this model.
  merge = functools.partial(lora.merge, config=lora_config)
  jax.eval_shape(merge, _abstract(config), adapters)
  arrays = {}
  for name, adapter in adapters.items():
    for kind, factor in (("A", adapter.a), ("B", adapter.b)):
      for layer in range(config.layers):
        module = tensors.layer_module(layer, tensors.MODULES[name])
        arrays[f"base_model.model.{module}.lora_{kind}.weight"] = _host(factor[layer].T)
  path = _new(directory)
  keys = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": lora_config.rank,
    "lora_alpha": lora_config.alpha,
    "lora_dropout": lora_config.dropout,
    "target_modules": [tensors.MODULES[n].rpartition(".")[2] for n in lora_config.projections],
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
  }
  _write_json(path / "adapter_config.json", keys)
  safetensors.save_file(arrays, path / "adapter_model.safetensors", metadata=_FORMAT)


def _abstract(config: TransformerConfig) -> dict[str, Any]:
  """Shapes and dtypes of a decoder's parameters."""
  ints = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  init = transformer.Transformer(config).init
  return nn.unbox(jax.eval_shape(lambda *a: init(jax.random.key(0), *a)["params"], *[ints] * 4))


def _check(params: dict[str, Any], config: TransformerConfig) -> None:
  """Refuses parameters that are not the config's, or not all here."""
  expected = {path: x.shape for path, x in traverse_util.flatten_dict(_abstract(config)).items()}
  found = traverse_util.flatten_dict(params)
  for path in sorted(expected.keys() | found.keys()):
    shape = found[path].shape if path in found else None
    if shape != expected.get(path):
      name = "/".join(path)
      raise HuggingFaceError(f"{name}: found the shape {shape}, expected {expected.get(path)}")
    if not found[path].is_fully_addressable:
      raise HuggingFaceError(
        f"{'/'.join(path)}: found it spread over processes, expected it in one (restore the "
        "checkpoint in a process by itself to export it)"
      )


def check_new(directory: str | os.PathLike[str]) -> None:
  """Refuses a folder, of this machine or of a bucket, that has something in it.

  Raises:
    HuggingFaceError: it has.
    NotADirectoryError: it is a file.
    ImportError: it is in a bucket, and the extra `gcs` is not installed.
  """
  path = paths.path(directory)
  found = sorted(p.name for p in path.iterdir()) if path.exists() else []
  if found:
    raise HuggingFaceError(f"{path}: found {found[:5]}, expected a new or an empty folder")


def _new(directory: str | os.PathLike[str]) -> pathlib.Path:
  check_new(directory)
  path = pathlib.Path(directory)
  path.mkdir(parents=True, exist_ok=True)
  return path


def _shards(
  places: list[tensors.Place], leaves: dict[tuple[str, ...], Array], limit: int
) -> list[list[tensors.Place]]:
  """The tensors of each file, in the order of the model."""
  if limit < 1:
    raise HuggingFaceError(f"max_shard_bytes={limit} must be at least 1")
  shards: list[list[tensors.Place]] = []
  room = 0
  for place in places:
    size = _bytes(place, leaves[place.path])
    if not shards or size > room:
      shards.append([])
      room = limit
    shards[-1].append(place)
    room -= size
  return shards


def _bytes(place: tensors.Place, leaf: Array) -> int:
  return int(np.prod(place.shape(leaf.shape))) * leaf.dtype.itemsize


def _tensor(place: tensors.Place, leaf: Float[Array, "..."]) -> Float[np.ndarray, "..."]:
  values = leaf if place.layer is None else leaf[place.layer]
  return _host(values.T if place.transposed else values)


def _host(values: Float[Array, "..."]) -> Float[np.ndarray, "..."]:
  return np.ascontiguousarray(jax.device_get(values))


def _write_json(path: pathlib.Path, keys: dict[str, Any]) -> None:
  path.write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
