# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bases: the pretrained models that FSPO starts from, as self-contained folders.

A folder in the layout of Hugging Face is one; which template asks its model is the run's choice.
One of our own holds `model.safetensors` (bfloat16), `tokenizer.model`, `config.json` (of the run
that made it), and what a reader wants to know: `provenance.json` (command, commit, seed, machine,
how well it follows and reads) and `curves.jsonl` (its training). The base of the embedded worlds
comes with the package.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from safetensors import flax as safetensors

from fspo_jax import config as config_lib
from fspo_jax.episodes import tokenizers
from fspo_jax.episodes.templates import Formatter
from fspo_jax.models import architecture, huggingface, transformer
from fspo_jax.training import state as state_lib

# Pretrained on the text of the three embedded worlds by `experiments/base.py`.
PUBLISHED = pathlib.Path(__file__).parent / "worlds" / "base"

_WEIGHTS, _TOKENIZER, _CONFIG = "model.safetensors", "tokenizer.model", "config.json"


def folder(name: str) -> pathlib.Path:
  """Where the base lies that a config's `base` names: 'published', or a folder."""
  return PUBLISHED if name == "published" else pathlib.Path(name)


class BaseError(ValueError):
  """A base that cannot be used: which, what was found, what was expected."""


@dataclasses.dataclass(frozen=True)
class Base:
  """A pretrained model.

  Attributes:
    config: of the run that made it.
    params: its parameters.
    tokenizer: its tokenizer.
  """

  config: ml_collections.ConfigDict
  params: dict
  tokenizer: tokenizers.Tokenizer

  @property
  def model(self) -> transformer.Transformer:
    """The decoder."""
    return transformer.Transformer(config_lib.opened(self.config, self.tokenizer.vocab_size))

  @property
  def formatter(self) -> Formatter:
    """The text-to-tokens that it was trained with."""
    return config_lib.formatter(self.config, self.tokenizer)


def check(c: ml_collections.ConfigDict) -> None:
  """Refuses a config whose base is not there, or is not what the config is about.

  Raises:
    BaseError: a file is missing, or what `check_fits` refuses.
    ValueError: the template is not for the base's tokenizer.
  """
  path = folder(c.base)
  if not huggingface.is_checkpoint(path):
    check_fits(_config(path), c)
    return
  check_fits(_as_here(path, c), c)
  if c.template == "markers":
    raise BaseError(
      f"base={c.base!r} and template='markers': the markers are tokens of tokenizers that are "
      "trained here; expected 'headings' or 'chat'"
    )
  tokenizer = tokenizers.load(path)
  config_lib.formatter(c, tokenizer)
  config_lib.transformer(c, tokenizer.vocab_size)


def load_hugging_face(c: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Base:
  """Opens the base of a config that names a folder in the layout of Hugging Face.

  Args:
    c: the config; the base's is the same, but for the shape of the model, which is the folder's.
    mesh: where the parameters are put, in the config's `model.param_dtype`.

  Raises:
    HuggingFaceError: it is broken, or a model that there is not here.
  """
  path = folder(c.base)
  config, tokenizer = _as_here(path, c), tokenizers.load(path)
  shape = config_lib.transformer(config, tokenizer.vocab_size)
  expected = state_lib.abstract_params(transformer.Transformer(shape), mesh)
  return Base(config, huggingface.load_params(path, shape, expected), tokenizer)


def _as_here(path: pathlib.Path, c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A run's config with the shape of a Hugging Face folder's model."""
  config = copy.deepcopy(c)
  config_lib.use_shape(config, huggingface.load_config(path))
  return config


def _config(path: pathlib.Path) -> ml_collections.ConfigDict:
  """The config in a folder of ours, which has all its files."""
  missing = [name for name in (_WEIGHTS, _TOKENIZER, _CONFIG) if not (path / name).is_file()]
  if missing:
    raise BaseError(f"base={str(path)!r}: found no {missing[0]}, expected a folder of a base")
  return ml_collections.ConfigDict(json.loads((path / _CONFIG).read_text(encoding="utf-8")))


def load(directory: str | os.PathLike[str], mesh: jax.sharding.Mesh) -> Base:
  """Opens a folder of ours, its parameters where a model of its shape has them on `mesh`.

  Raises:
    BaseError: a file is missing, or a tensor is missing, surplus or of another shape.
  """
  path = pathlib.Path(directory)
  config = _config(path)
  tokenizer = tokenizers.load(path / _TOKENIZER)
  model = transformer.Transformer(config_lib.transformer(config, tokenizer.vocab_size))
  expected = state_lib.abstract_params(model, mesh)
  found = safetensors.load_file(path / _WEIGHTS)
  names = {_name(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(expected)[0]}
  for name in sorted(names.keys() | found.keys()):
    wanted = names[name].shape if name in names else None
    has = found[name].shape if name in found else None
    if wanted != has:
      raise BaseError(f"{path / _WEIGHTS}: {name}: found the shape {has}, expected {wanted}")

  def place(key: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.device_put(found[_name(key)].astype(leaf.dtype), leaf.sharding)

  return Base(config, jax.tree_util.tree_map_with_path(place, expected), tokenizer)


def save(
  directory: str | os.PathLike[str],
  base: Base,
  *,
  provenance: dict[str, Any],
  curves: list[dict[str, float]],
) -> None:
  """Writes a base's folder, its parameters in bfloat16."""
  path = pathlib.Path(directory)
  path.mkdir(parents=True, exist_ok=True)
  leaves, _ = jax.tree_util.tree_flatten_with_path(base.params)
  weights = {_name(key): jnp.asarray(leaf, jnp.bfloat16) for key, leaf in leaves}
  safetensors.save_file(weights, path / _WEIGHTS, metadata={"format": "flax"})
  (path / _TOKENIZER).write_bytes(base.tokenizer.model)
  config = json.loads(base.config.to_json_best_effort())
  for name, value in ((_CONFIG, config), ("provenance.json", provenance)):
    (path / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
  lines = [json.dumps(row, sort_keys=True) for row in curves]
  (path / "curves.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def rounded(params: dict) -> dict:
  """Parameters as a folder of ours gives them back: what it keeps is bfloat16."""
  return jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params)


def check_fits(base: ml_collections.ConfigDict, c: ml_collections.ConfigDict) -> None:
  """Refuses a base that a run's config is not about.

  Raises:
    BaseError: another shape of model, template, or other users and topics kept unseen.
  """
  there, here = _about(base), _about(c)
  differ = [key for key in here if there.get(key) != here[key]]
  if differ:
    there, here = ({key: about.get(key) for key in differ} for about in (there, here))
    raise BaseError(f"base={c.base!r}: was made with {there}, found {here} here")


def _about(c: ml_collections.ConfigDict) -> dict[str, Any]:
  """What a base's parameters depend on. Keys that a config is too old to have are the default."""
  shape = dataclasses.asdict(config_lib.transformer(c, vocab_size=1))
  about = {f"model.{key}": value for key, value in shape.items() if key not in architecture.HOW}
  about |= {key: c[key] for key in ("template", "world_seed")}
  # Bases that are older than chat templates have no such keys.
  return about | ({"chat": dict(c.chat)} if c.template == "chat" else {})


def _name(path: jax.tree_util.KeyPath) -> str:
  return ".".join(str(entry.key) for entry in path)
