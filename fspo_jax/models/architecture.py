# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The shape of a decoder: a plain Llama by default, and what Llama's relatives do otherwise."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax

REMAT_POLICIES = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
# The fields that say how a decoder is computed; the others, what its parameters are.
HOW = ("attention", "attention_block", "remat", "dtype", "param_dtype")


class Kernels(NamedTuple):
  """Kernels of tree attention.

  Attributes:
    platform: of the devices that they are for, 'tpu' or 'gpu'.
    interpret: whether they are interpreted, slowly, on any platform: for tests.
  """

  platform: str
  interpret: bool


# What computes tree attention: XLA anywhere (None), or kernels.
ATTENTIONS = {
  "xla": None,
  "pallas_tpu": Kernels("tpu", interpret=False),
  "pallas_interpret": Kernels("tpu", interpret=True),
  "pallas_gpu": Kernels("gpu", interpret=False),
  "pallas_gpu_interpret": Kernels("gpu", interpret=True),
}
ACTIVATIONS = ("silu", "gelu")
ROPE_SCALINGS = ("none", "linear", "llama3")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The shape of a decoder.

  Attributes:
    vocab_size: number of token ids.
    width: of the residual stream.
    layers: number of blocks.
    heads: query heads.
    kv_heads: key and value heads; they divide `heads`.
    head_dim: width of a head.
    mlp: hidden width of the gated MLP.
    roles: number of learned role embeddings added to the tokens'; 0 for a plain Llama.
    tied: whether the head is the embedding table.
    rope_theta: base of the rotary frequencies.
    norm_eps: of RMSNorm.
    attention_block: queries per block of tree attention; of the kernels, keys too.
    remat: 'none', 'dots' (keep matmul outputs) or 'full' (keep block inputs alone).
    dtype: of the computation.
    param_dtype: of the parameters.
    attention: what computes tree attention, one of `ATTENTIONS`; a cache is always read by XLA.
    activation: of the MLP's gate: 'silu' (SwiGLU) or 'gelu' (GeGLU, by tanh; Gemma).
    qkv_bias: whether queries, keys and values have a bias (Qwen 2).
    qk_norm: whether every head's query and key are normalised (Qwen 3, Gemma 3).
    post_norms: whether what a block adds is normalised too (Gemma).
    zero_centered_norms: whether norms scale by 1 + their parameter (Gemma).
    scaled_embeddings: whether embeddings are multiplied by sqrt(width) (Gemma).
    query_scalar: scores are divided by its square root; 0 for `head_dim`.
    attention_softcap: bound of the scores, by tanh; 0 for none (Gemma 2).
    logit_softcap: bound of the logits, by tanh; 0 for none (Gemma 2).
    windows: for each layer, how many tokens of the path it sees, itself included; 0 for all. Fewer
      than the layers are gone through again and again; none: every layer sees all.
    rope_scaling: of the frequencies: 'none', 'linear' or 'llama3'; see `models.rotary`.
    rope_factor: what scaling divides (slow) frequencies by.
    rope_low_freq_factor: 'llama3' alone.
    rope_high_freq_factor: 'llama3' alone.
    rope_original_length: 'llama3' alone: longest sequence before the scaling.
    rope_local_theta: base of the frequencies of layers with a window, which are then not scaled; 0:
      they rotate as the others do (Gemma 3 has one).
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  roles: int
  tied: bool
  rope_theta: float
  norm_eps: float
  attention_block: int
  remat: str
  dtype: str
  param_dtype: str
  attention: str = "xla"
  activation: str = "silu"
  qkv_bias: bool = False
  qk_norm: bool = False
  post_norms: bool = False
  zero_centered_norms: bool = False
  scaled_embeddings: bool = False
  query_scalar: float = 0.0
  attention_softcap: float = 0.0
  logit_softcap: float = 0.0
  windows: tuple[int, ...] = ()
  rope_scaling: str = "none"
  rope_factor: float = 1.0
  rope_low_freq_factor: float = 1.0
  rope_high_freq_factor: float = 4.0
  rope_original_length: int = 8192
  rope_local_theta: float = 0.0

  def __post_init__(self) -> None:
    sizes = ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp")
    for name in (*sizes, "attention_block"):
      if vars(self)[name] < 1:
        raise ValueError(f"model.{name}={vars(self)[name]} must be at least 1")
    for name in (self.dtype, self.param_dtype):
      if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"model.dtype, model.param_dtype: {name!r} is not a float type of JAX")
    if self.heads % self.kv_heads:
      raise ValueError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}")
    if self.head_dim % 2:
      raise ValueError(f"model.head_dim={self.head_dim} is odd; rotary embeddings need pairs")
    for name, known in (
      ("remat", sorted(REMAT_POLICIES)),
      ("attention", tuple(ATTENTIONS)),
      ("activation", ACTIVATIONS),
      ("rope_scaling", ROPE_SCALINGS),
    ):
      if vars(self)[name] not in known:
        raise ValueError(f"model.{name}={vars(self)[name]!r} is not one of {known}")
    for name in ("query_scalar", "attention_softcap", "logit_softcap", "rope_local_theta"):
      if vars(self)[name] < 0:
        raise ValueError(f"model.{name}={vars(self)[name]} must be positive, or 0 for none")
    self._check_windows()
    self._check_rope()

  def _check_windows(self) -> None:
    if len(self.windows) > self.layers or any(window < 0 for window in self.windows):
      raise ValueError(
        f"model.windows={self.windows}: expected at most model.layers={self.layers} numbers of "
        "tokens, 0 for all"
      )
    if self.rope_local_theta and not any(self.windows):
      raise ValueError(
        f"model.rope_local_theta={self.rope_local_theta} is of layers with a window, and "
        f"model.windows={self.windows} has none"
      )

  def _check_rope(self) -> None:
    if self.rope_theta <= 0:
      raise ValueError(f"model.rope_theta={self.rope_theta} must be positive")
    if self.rope_scaling == "none" and self.rope_factor != 1:
      raise ValueError(f"model.rope_factor={self.rope_factor}, but model.rope_scaling='none'")
    if self.rope_factor < 1:
      raise ValueError(f"model.rope_factor={self.rope_factor} must be at least 1")
    low, high = self.rope_low_freq_factor, self.rope_high_freq_factor
    if not 0 < low < high or self.rope_original_length < 1:
      raise ValueError(
        f"model.rope_low_freq_factor={low}, model.rope_high_freq_factor={high}, "
        f"model.rope_original_length={self.rope_original_length}: expected 0 < low < high, and a "
        "length of at least 1"
      )

  @property
  def layer_windows(self) -> tuple[int, ...]:
    """The window of every layer, 0 for all; empty if none has one."""
    if not any(self.windows):
      return ()
    return tuple(self.windows[layer % len(self.windows)] for layer in range(self.layers))

  @property
  def query_scale(self) -> float:
    """What scores are multiplied by."""
    return (self.query_scalar or self.head_dim) ** -0.5
