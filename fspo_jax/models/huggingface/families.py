# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The families of decoders: what the models of each have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

from fspo_jax.models.huggingface.errors import HuggingFaceError

# The kinds of layers in `layer_types`: with a window, and without.
LOCAL, GLOBAL = "sliding_attention", "full_attention"

_GEMMA = {
  "activation": "gelu",
  "post_norms": True,
  "zero_centered_norms": True,
  "scaled_embeddings": True,
}


@dataclasses.dataclass(frozen=True)
class Family:
  """What the models of a family share.

  Attributes:
    model_type: its name in `config.json`.
    architecture: its causal language model in `transformers`.
    traits: fields of `TransformerConfig` that are the same in all of its models.
    windows: which layers have one: 'none', 'all', 'upper' (from one on, if at all) or 'but_every'
      (all but every so many).
    pattern: of 'but_every': the default of how many.
    rope_theta: where `config.json` does not say.
    rope_local_theta: where `config.json` does not say, in a family that has one; 0 in others.
    caps: its soft caps, by their key; where `config.json` does not say.
    tied: where `config.json` does not say.
    head_dim: where `config.json` does not say; 0 for width / heads.
    whole_heads: whether transformers wants the heads to divide the width, whatever they are wide.
  """

  model_type: str
  architecture: str
  traits: dict[str, Any] = dataclasses.field(default_factory=dict)
  windows: str = "none"
  pattern: int = 0
  rope_theta: float = 10_000.0
  rope_local_theta: float = 0.0
  caps: dict[str, float] = dataclasses.field(default_factory=dict)
  tied: bool = False
  head_dim: int = 0
  whole_heads: bool = False

  @property
  def is_gemma(self) -> bool:
    """Whether its `config.json` has the keys of Gemma."""
    return "scaled_embeddings" in self.traits


FAMILIES = (
  Family("llama", "LlamaForCausalLM", whole_heads=True),
  Family("mistral", "MistralForCausalLM", windows="all"),
  Family("qwen2", "Qwen2ForCausalLM", {"qkv_bias": True}, windows="upper"),
  Family("qwen3", "Qwen3ForCausalLM", {"qk_norm": True}, windows="upper", head_dim=128),
  Family(
    "gemma2",
    "Gemma2ForCausalLM",
    _GEMMA,
    windows="but_every",
    pattern=2,
    caps={"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    tied=True,
    head_dim=256,
    whole_heads=True,
  ),
  Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    {**_GEMMA, "qk_norm": True},
    windows="but_every",
    pattern=6,
    rope_theta=1_000_000.0,
    rope_local_theta=10_000.0,
    tied=True,
    head_dim=256,
    whole_heads=True,
  ),
)


def find(model_type: str, where: str) -> Family:
  """The family of this name.

  Raises:
    HuggingFaceError: there is none.
  """
  for family in FAMILIES:
    if family.model_type == model_type:
      return family
  known = [family.model_type for family in FAMILIES]
  raise HuggingFaceError(f"{where}: model_type={model_type!r} is not supported, expected {known}")
