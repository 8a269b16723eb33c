# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The shapes of public models, for plans and configs that are made before a folder is there.

They are what the `config.json` of each says; `tests/models/test_shapes.py` has these, and the
published numbers of parameters. A folder's own `config.json` is what counts in a run: another
shape than the config's is refused.
"""

from __future__ import annotations

from typing import Any

from fspo_jax.models.architecture import TransformerConfig

_LLAMA = {"rope_theta": 500_000.0, "norm_eps": 1e-5, "vocab_size": 128_256, "kv_heads": 8}
_LLAMA |= {"rope_scaling": "llama3", "rope_high_freq_factor": 4.0, "rope_original_length": 8192}
_QWEN = {"rope_theta": 1_000_000.0, "norm_eps": 1e-6, "head_dim": 128}
_GEMMA: dict[str, Any] = {
  "activation": "gelu",
  "post_norms": True,
  "zero_centered_norms": True,
  "scaled_embeddings": True,
  "tied": True,
  "norm_eps": 1e-6,
  "heads": 8,
  "kv_heads": 4,
  "head_dim": 256,
  "query_scalar": 256.0,
}

_SHAPES: dict[str, dict[str, Any]] = {
  "llama3.2-1b": _LLAMA
  | {"width": 2048, "layers": 16, "heads": 32, "head_dim": 64, "mlp": 8192}
  | {"tied": True, "rope_factor": 32.0},
  "llama3.2-3b": _LLAMA
  | {"width": 3072, "layers": 28, "heads": 24, "head_dim": 128, "mlp": 8192}
  | {"tied": True, "rope_factor": 32.0},
  "llama3.1-8b": _LLAMA
  | {"width": 4096, "layers": 32, "heads": 32, "head_dim": 128, "mlp": 14_336}
  | {"tied": False, "rope_factor": 8.0},
  "gemma2-2b": _GEMMA
  | {"vocab_size": 256_000, "width": 2304, "layers": 26, "mlp": 9216, "rope_theta": 10_000.0}
  | {"attention_softcap": 50.0, "logit_softcap": 30.0, "windows": (4096, 0)},
  "gemma3-4b": _GEMMA
  | {"vocab_size": 262_208, "width": 2560, "layers": 34, "mlp": 10_240, "qk_norm": True}
  | {"rope_theta": 1_000_000.0, "rope_scaling": "linear", "rope_factor": 8.0}
  # Every sixth layer sees everything, and the pattern is cut off after the 34th.
  | {"rope_local_theta": 10_000.0, "windows": (1024, 1024, 1024, 1024, 1024, 0)},
  "qwen2.5-7b": _QWEN
  | {"vocab_size": 152_064, "width": 3584, "layers": 28, "heads": 28, "kv_heads": 4}
  | {"mlp": 18_944, "tied": False, "qkv_bias": True},
  "qwen3-4b": _QWEN
  | {"vocab_size": 151_936, "width": 2560, "layers": 36, "heads": 32, "kv_heads": 8}
  | {"mlp": 9728, "tied": True, "qk_norm": True},
  "qwen3-8b": _QWEN
  | {"vocab_size": 151_936, "width": 4096, "layers": 36, "heads": 32, "kv_heads": 8}
  | {"mlp": 12_288, "tied": False, "qk_norm": True},
}
NAMES = tuple(_SHAPES)


def shape(name: str, **how: Any) -> TransformerConfig:
  """The decoder of a public model.

  Args:
    name: one of `NAMES`.
    **how: the fields of `TransformerConfig` that say how it is computed.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in _SHAPES:
    raise ValueError(f"model={name!r}: expected one of {NAMES}")
  return TransformerConfig(roles=0, **_SHAPES[name], **how)
