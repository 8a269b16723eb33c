# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A `TransformerConfig` as the `config.json` of the family that has such models."""

from __future__ import annotations

import dataclasses
from typing import Any

from fspo_jax.models.architecture import HOW, TransformerConfig
from fspo_jax.models.huggingface.errors import HuggingFaceError
from fspo_jax.models.huggingface.families import FAMILIES, GLOBAL, LOCAL, Family, find
from fspo_jax.models.huggingface.read_config import read, shortest


def write(
  config: TransformerConfig, *, max_length: int, model_type: str | None = None
) -> dict[str, Any]:
  """The `config.json` that says what `config` does.

  Args:
    config: a decoder.
    max_length: tokens of the longest sequence that it is for.
    model_type: the family to write it as; None for the first that has such models.

  Raises:
    HuggingFaceError: there is no such family, or it has no such models; naming what differs.
  """
  families = FAMILIES if model_type is None else (find(model_type, "save_model"),)
  closest: dict[str, tuple[Any, Any]] | None = None
  for family in families:
    keys = _written(family, config, max_length)
    differ = _differences(config, keys)
    if family.whole_heads and config.width % config.heads:
      differ["heads"] = (config.heads, f"a divisor of {config.width}, the width")
    if not differ:
      return keys
    if closest is None or len(differ) < len(closest):
      closest, name = differ, family.model_type
  raise HuggingFaceError(
    "no family of models is like this one; "
    + ", ".join(
      f"model.{field}: found {found!r}, expected {expected!r}"
      for field, (found, expected) in (closest or {}).items()
    )
    + f" (for {name!r})"
  )


def _differences(config: TransformerConfig, keys: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
  """What `keys`, read again, would not say as `config` does."""
  how = {key: vars(config)[key] for key in HOW}
  back = dataclasses.asdict(_normal(read(keys, "config.json", **how)))
  found = dataclasses.asdict(_normal(config))
  return {key: (found[key], back[key]) for key in found if found[key] != back[key]}


def _normal(config: TransformerConfig) -> TransformerConfig:
  """The same decoder, without what does not matter: patterns repeated, parameters not used."""
  changes: dict[str, Any] = {"windows": shortest(config.layer_windows)}
  changes["query_scalar"] = config.query_scalar or config.head_dim
  if config.rope_scaling != "llama3":
    unused = ("rope_low_freq_factor", "rope_high_freq_factor", "rope_original_length")
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    changes |= {name: defaults[name] for name in unused}
  return dataclasses.replace(config, **changes)


def _written(family: Family, config: TransformerConfig, max_length: int) -> dict[str, Any]:
  """The keys of a family's `config.json`, with the values nearest to `config`."""
  keys: dict[str, Any] = {
    "architectures": [family.architecture],
    "model_type": family.model_type,
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "intermediate_size": config.mlp,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "max_position_embeddings": max_length,
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied,
    "attention_dropout": 0.0,
    "rope_theta": config.rope_theta,
    "rope_scaling": _rope_scaling(config),
    "torch_dtype": config.param_dtype,
  }
  if family.is_gemma:
    keys |= {
      "hidden_activation": "gelu_pytorch_tanh",
      "query_pre_attn_scalar": _whole(config.query_scalar or config.head_dim),
      "final_logit_softcapping": config.logit_softcap or None,
    }
  else:
    keys["hidden_act"] = "silu"
  if family.caps:
    keys["attn_logit_softcapping"] = config.attention_softcap or None
  if family.rope_local_theta:
    keys["rope_local_base_freq"] = config.rope_local_theta or family.rope_local_theta
  return keys | _written_windows(family, config)


def _written_windows(family: Family, config: TransformerConfig) -> dict[str, Any]:
  if family.windows == "none":
    return {}
  windows = config.layer_windows
  # Families have one size of window; where there are several, what is read back differs.
  window = max(windows, default=0) or None
  if family.windows == "all":
    return {"sliding_window": window}
  types = [LOCAL if size else GLOBAL for size in windows] or [GLOBAL] * config.layers
  keys = {"sliding_window": window, "layer_types": types}
  if family.windows == "upper":
    first = types.index(LOCAL) if LOCAL in types else config.layers
    keys |= {"use_sliding_window": window is not None, "max_window_layers": first}
  return keys


def _rope_scaling(config: TransformerConfig) -> dict[str, Any] | None:
  if config.rope_scaling == "none":
    return None
  keys = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
  if config.rope_scaling == "llama3":
    keys |= {
      "low_freq_factor": config.rope_low_freq_factor,
      "high_freq_factor": config.rope_high_freq_factor,
      "original_max_position_embeddings": config.rope_original_length,
    }
  return keys


def _whole(x: float) -> float | int:
  return int(x) if x == int(x) else x
