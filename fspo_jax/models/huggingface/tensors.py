# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which tensor of a Hugging Face checkpoint is which part of which parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fspo_jax.models.architecture import TransformerConfig

# The modules of a layer that are matrices, by the names of `models.lora.PROJECTIONS`.
MODULES = {
  "q": "self_attn.q_proj",
  "k": "self_attn.k_proj",
  "v": "self_attn.v_proj",
  "o": "self_attn.o_proj",
  "gate": "mlp.gate_proj",
  "up": "mlp.up_proj",
  "down": "mlp.down_proj",
}


class Place(NamedTuple):
  """A tensor of a file.

  Attributes:
    name: in the file.
    path: of the parameter.
    layer: which slice of the parameter it is; None for all of it.
    transposed: whether the parameter has it the other way round, [in, out] for [out, in].
  """

  name: str
  path: tuple[str, ...]
  layer: int | None = None
  transposed: bool = False

  def shape(self, parameter: tuple[int, ...]) -> tuple[int, ...]:
    """The tensor's shape, for a parameter of this shape."""
    shape = parameter if self.layer is None else parameter[1:]
    return shape[::-1] if self.transposed else shape


def layer_module(layer: int, module: str) -> str:
  """The full name of a module of a layer."""
  return f"model.layers.{layer}.{module}"


def places(config: TransformerConfig) -> list[Place]:
  """Every tensor of a model's checkpoint, in the order of the model."""
  found = [Place("model.embed_tokens.weight", ("embedding",))]
  for layer in range(config.layers):
    found.extend(_layer(config, layer))
  found.append(Place("model.norm.weight", ("final_norm", "scale")))
  if not config.tied:
    found.append(Place("lm_head.weight", ("head",), transposed=True))
  return found


def _layer(config: TransformerConfig, layer: int) -> Iterator[Place]:
  for ours, module in MODULES.items():
    name = layer_module(layer, module)
    yield Place(f"{name}.weight", ("blocks", ours, "kernel"), layer, transposed=True)
    if config.qkv_bias and ours in ("q", "k", "v"):
      yield Place(f"{name}.bias", ("blocks", ours, "bias"), layer)
  for ours, norm in _norms(config).items():
    yield Place(f"{layer_module(layer, norm)}.weight", ("blocks", ours, "scale"), layer)


def _norms(config: TransformerConfig) -> dict[str, str]:
  norms = {"attention_norm": "input_layernorm"}
  if config.qk_norm:
    norms |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
  if not config.post_norms:
    return norms | {"mlp_norm": "post_attention_layernorm"}
  # Where there are four of them, the one after attention has the name of the others' second.
  return norms | {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
  }
