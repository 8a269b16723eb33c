# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A `config.json` as a `TransformerConfig`.

What a key means, and what it is where it is missing, are those of the models' own code in
`transformers` (`models/<family>/configuration_<family>.py` and `modeling_<family>.py`).
"""

from __future__ import annotations

from typing import Any

from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.models.huggingface.errors import HuggingFaceError
from fspo_jax.models.huggingface.families import GLOBAL, LOCAL, Family, find
from fspo_jax.models.huggingface.keys import Keys


def read(keys: dict[str, Any], where: str, **how: Any) -> TransformerConfig:
  """The decoder that a `config.json` is of.

  Args:
    keys: what is in it.
    where: the file, for errors.
    **how: the fields of `TransformerConfig` that say how it is computed.

  Raises:
    HuggingFaceError: a key is missing, or of the wrong type, or asks for what there is not.
  """
  left = Keys(where, keys)
  family = find(left.take("model_type", str), where)
  architectures = left.take("architectures", list, [family.architecture])
  if architectures != [family.architecture]:
    raise HuggingFaceError(
      f"{where}: architectures={architectures}: expected {[family.architecture]}"
    )
  fields = {**family.traits, **_sizes(left, family), **_gemma(left, family)}
  fields |= {"windows": _windows(left, family, fields["layers"]), "roles": 0}
  fields |= _rope(left, family, has_windows=any(fields["windows"]))
  for name, values in (
    ("attention_bias", (False,)),
    ("mlp_bias", (False,)),
    ("attention_dropout", (0.0, 0)),
    ("use_bidirectional_attention", (False,)),
    ("is_encoder_decoder", (False,)),
    ("partial_rotary_factor", (1.0, 1)),
    ("quantization_config", (None,)),
  ):
    left.expect(name, *values)
  left.finish()
  try:
    return TransformerConfig(**fields, **how)
  except ValueError as error:
    raise HuggingFaceError(f"{where}: {error}") from error


def _sizes(left: Keys, family: Family) -> dict[str, Any]:
  width, heads = left.take("hidden_size", int), left.take("num_attention_heads", int)
  left.expect("hidden_act", *(("gelu_pytorch_tanh",) if family.is_gemma else ("silu",)))
  whole = family.head_dim or width // max(heads, 1)
  return {
    "vocab_size": left.take("vocab_size", int),
    "width": width,
    "layers": left.take("num_hidden_layers", int),
    "heads": heads,
    "kv_heads": left.take("num_key_value_heads", int, heads),
    "head_dim": left.take("head_dim", int, whole),
    "mlp": left.take("intermediate_size", int),
    "tied": left.take("tie_word_embeddings", bool, family.tied),
    "norm_eps": left.take("rms_norm_eps", float, 1e-6),
  }


def _gemma(left: Keys, family: Family) -> dict[str, Any]:
  if not family.is_gemma:
    return {}
  left.expect("hidden_activation", "gelu_pytorch_tanh")
  fields = {"query_scalar": left.take("query_pre_attn_scalar", float, 256)}
  caps = {"logit_softcap": "final_logit_softcapping", "attention_softcap": "attn_logit_softcapping"}
  if not family.caps:
    left.expect(caps.pop("attention_softcap"), None)
  for field, name in caps.items():
    fields[field] = left.take(name, float, family.caps.get(name, 0.0), null=0.0)
  return fields


def _windows(left: Keys, family: Family, layers: int) -> tuple[int, ...]:
  """The window of every layer, in the shortest pattern that repeats."""
  if family.windows == "none":
    return ()
  window = left.take("sliding_window", int, 4096, null=0)
  if family.windows == "all":
    return (window,) if window else ()
  if family.windows == "upper":
    first = left.take("max_window_layers", int, 28)
    if not left.take("use_sliding_window", bool, False):
      window = 0
    local = [window > 0 and layer >= first for layer in range(layers)]
  else:
    pattern = family.pattern
    if family.rope_local_theta:
      pattern = left.take("sliding_window_pattern", int, pattern)
      pattern = left.take("_sliding_window_pattern", int, pattern)
    local = [bool((layer + 1) % max(pattern, 1)) for layer in range(layers)]
  types = left.take("layer_types", list, [LOCAL if is_local else GLOBAL for is_local in local])
  if len(types) != layers or any(kind not in (LOCAL, GLOBAL) for kind in types):
    raise HuggingFaceError(
      f"{left.where}: layer_types={types}: expected {layers} of {LOCAL!r} and {GLOBAL!r}"
    )
  if LOCAL in types and not window:
    raise HuggingFaceError(f"{left.where}: layers of {LOCAL!r}, but found no window for them")
  return shortest(tuple(window if kind == LOCAL else 0 for kind in types))


def shortest(windows: tuple[int, ...]) -> tuple[int, ...]:
  """The shortest pattern that, repeated, gives these windows; none if no layer has one."""
  if not any(windows):
    return ()
  for length in range(1, len(windows)):
    if all(window == windows[i % length] for i, window in enumerate(windows)):
      return windows[:length]
  return windows


def _rope(left: Keys, family: Family, *, has_windows: bool) -> dict[str, Any]:
  """Rotary embeddings: `rope_theta` and `rope_scaling` or, since version 5, `rope_parameters`."""
  parameters = left.take("rope_parameters", dict, {})
  scaling = left.take("rope_scaling", dict, {})
  theta = left.take("rope_theta", float, 0.0)
  if parameters and scaling:
    raise HuggingFaceError(f"{left.where}: found rope_parameters and rope_scaling, expected one")
  local: dict[str, Any] = {}
  if family.rope_local_theta and parameters:
    both = Keys(f"{left.where}: rope_parameters", parameters)
    parameters, local = both.take(GLOBAL, dict, {}), both.take(LOCAL, dict, {})
    both.finish()
  fields = _rotary(left, parameters or scaling, theta, family.rope_theta)
  if family.rope_local_theta:
    theta = left.take("rope_local_base_freq", float, 0.0)
    rotary = _rotary(left, local, theta, family.rope_local_theta)
    if "rope_factor" in rotary:
      raise HuggingFaceError(f"{left.where}: rope of {LOCAL!r} is {local}, expected no scaling")
    # Without a layer that it is for it says nothing.
    fields["rope_local_theta"] = rotary["rope_theta"] if has_windows else 0.0
  return fields


def _rotary(left: Keys, parameters: dict[str, Any], theta: float, default: float) -> dict[str, Any]:
  """Rotary embeddings by their parameters; `theta` is what lies beside them, 0 for nothing."""
  inner = Keys(f"{left.where}: rope", parameters)
  kind = inner.take("rope_type", str, inner.take("type", str, "default"))
  fields: dict[str, Any] = {"rope_theta": inner.take("rope_theta", float, theta or default)}
  if theta and fields["rope_theta"] != theta:
    raise HuggingFaceError(f"{left.where}: found a theta of {theta} and {parameters}, expected one")
  inner.expect("partial_rotary_factor", 1.0, 1)
  if kind not in ("default", "linear", "llama3"):
    raise HuggingFaceError(
      f"{left.where}: rope_type={kind!r} is not supported, expected 'default', 'linear' or 'llama3'"
    )
  if kind != "default":
    fields |= {"rope_scaling": kind, "rope_factor": inner.take("factor", float)}
  if kind == "llama3":
    fields |= {
      "rope_low_freq_factor": inner.take("low_freq_factor", float),
      "rope_high_freq_factor": inner.take("high_freq_factor", float),
      "rope_original_length": inner.take("original_max_position_embeddings", int),
    }
  inner.finish()
  return fields
