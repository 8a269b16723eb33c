# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The policy: a Llama-style decoder in flax.linen that reads token trees."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fspo_jax.models import attention

REMAT_POLICIES = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


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
    mlp: hidden width of SwiGLU.
    roles: number of learned role embeddings added to the tokens'; 0 for a plain Llama.
    tied: whether the head is the embedding table.
    rope_theta: base of the rotary frequencies.
    norm_eps: of RMSNorm.
    attention_block: queries per block of tree attention.
    remat: 'none', 'dots' (keep matmul outputs) or 'full' (keep block inputs alone).
    dtype: of the computation.
    param_dtype: of the parameters.
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

  def __post_init__(self) -> None:
    for name in ("width", "layers", "heads", "kv_heads", "head_dim", "mlp", "attention_block"):
      if vars(self)[name] < 1:
        raise ValueError(f"model.{name}={vars(self)[name]} must be at least 1")
    for name in (self.dtype, self.param_dtype):
      if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"model.dtype, model.param_dtype: {name!r} is not a float type of JAX")
    if self.heads % self.kv_heads:
      raise ValueError(f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}")
    if self.head_dim % 2:
      raise ValueError(f"model.head_dim={self.head_dim} is odd; rotary embeddings need pairs")
    if self.remat not in REMAT_POLICIES:
      raise ValueError(f"model.remat={self.remat!r} is not one of {sorted(REMAT_POLICIES)}")


class Cache(NamedTuple):
  """Keys and values of the tokens seen so far; slot j holds the token at position j."""

  k: Float[Array, "layers B K N D"]
  v: Float[Array, "layers B K N D"]


def init_cache(config: TransformerConfig, batch: int, length: int) -> Cache:
  """An empty cache for `batch` sequences of at most `length` tokens."""
  shape = (config.layers, batch, length, config.kv_heads, config.head_dim)
  return Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


class _Inputs(NamedTuple):
  """What every block reads beside the residual stream."""

  cos: Float[Array, "B L half"]
  sin: Float[Array, "B L half"]
  positions: Int[Array, "B L"]
  subtree_end: Int[Array, "B L"] | None


def _rotary(
  config: TransformerConfig, positions: Int[Array, "B L"]
) -> tuple[Float[Array, "B L half"], Float[Array, "B L half"]]:
  half = config.head_dim // 2
  frequency = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None].astype(jnp.float32) * frequency[None, None, :]
  return jnp.cos(angle), jnp.sin(angle)


def _rotate(x: Float[Array, "B L H D"], inputs: _Inputs) -> Float[Array, "B L H D"]:
  """Rotary embedding, half-split layout (as in Hugging Face checkpoints)."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = inputs.cos[:, :, None, :], inputs.sin[:, :, None, :]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _append(
  cached: Float[Array, "B K N D"], new: Float[Array, "B Q N D"], positions: Int[Array, "B Q"]
) -> Float[Array, "B K N D"]:
  """Writes the new tokens' entries into their slots."""
  rows = jnp.arange(cached.shape[0])[:, None]
  return cached.at[rows, positions].set(new.astype(cached.dtype))


class RMSNorm(nn.Module):
  """Root-mean-square normalisation with a learned scale, in float32."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """Normalises along the last axis; the dtype stays."""
    init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",))
    scale = self.param("scale", init, (x.shape[-1],), jnp.dtype(self.config.param_dtype))
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.config.norm_eps)
    return (y * scale.astype(jnp.float32)[None, None, :]).astype(x.dtype)


class Linear(nn.Module):
  """A matrix [in, out] with logical axis names, without bias."""

  config: TransformerConfig
  features: int
  axes: tuple[str, str]
  zero_init: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
    """The product with the matrix, in the dtype of `x`."""
    # Blocks add nothing to the residual stream at first: it starts as the tokens' embeddings.
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    init = nn.initializers.zeros_init() if self.zero_init else init
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, self.axes),
      (x.shape[-1], self.features),
      jnp.dtype(self.config.param_dtype),
    )
    y = x @ kernel.astype(x.dtype)
    if self.has_variable("params", "adapter"):  # of `lora.attach`
      y = y + self.get_variable("params", "adapter").update(x)
    return y


class Block(nn.Module):
  """Attention and SwiGLU, each behind a norm and added to the residual stream."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], inputs: _Inputs, cache: tuple[Array, Array] | None
  ) -> tuple[Float[Array, "B L D"], tuple[Array, Array] | None]:
    """The new residual stream, and the layer's cache with the new tokens in it (None without)."""
    c = self.config
    h = RMSNorm(c, name="attention_norm")(x)

    def heads(name: str, count: int, axis: str) -> Float[Array, "B L heads D"]:
      projected = Linear(c, count * c.head_dim, ("embed", axis), name=name)(h)
      return projected.reshape(*h.shape[:2], count, c.head_dim)

    q = _rotate(heads("q", c.heads, "heads"), inputs)
    k = _rotate(heads("k", c.kv_heads, "kv_heads"), inputs)
    v = heads("v", c.kv_heads, "kv_heads")
    if cache is None:
      attended = attention.tree_attention(q, k, v, inputs.subtree_end, block=c.attention_block)
    else:
      cache = (
        _append(cache[0], k, inputs.positions),
        _append(cache[1], v, inputs.positions),
      )
      attended = attention.cached_attention(q, *cache, inputs.positions)
    attended = attended.reshape(*h.shape[:2], c.heads * c.head_dim)
    x = x + Linear(c, c.width, ("heads", "embed"), zero_init=True, name="o")(attended)
    h = RMSNorm(c, name="mlp_norm")(x)
    gate = Linear(c, c.mlp, ("embed", "mlp"), name="gate")(h)
    up = Linear(c, c.mlp, ("embed", "mlp"), name="up")(h)
    down = Linear(c, c.width, ("mlp", "embed"), zero_init=True, name="down")
    x = x + down(nn.silu(gate) * up)
    return nn.with_logical_constraint(x, ("batch", "length", "embed_activation")), cache


class Transformer(nn.Module):
  """The decoder; returns hidden states, never logits (see `models.scoring`)."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "B L"],
    positions: Int[Array, "B L"],
    roles: Int[Array, "B L"],
    subtree_end: Int[Array, "B L"] | None = None,
    cache: Cache | None = None,
    offset: Float[Array, "B D"] | None = None,
  ) -> tuple[Float[Array, "B L D"], Cache | None]:
    """Hidden states of every token, after the final norm.

    Args:
      tokens: ids.
      positions: along the path from the root.
      roles: what each token is; not looked at when `config.roles` is 0.
      subtree_end: the trees of the rows; exactly one of it and `cache` is given.
      cache: what came before; the new tokens are appended at their positions.
      offset: added to the embedding of every token of a row, where a user is told by a vector.

    Returns:
      The hidden states, and the cache with the new tokens in it (None without one).
    """
    c = self.config
    if (subtree_end is None) == (cache is None):
      raise ValueError("give either subtree_end (a tree) or cache (a sequence), not both")
    # After the final norm a hidden state has norm sqrt(width): logits start with variance 1.
    normal = nn.initializers.normal(c.width**-0.5)
    table = self.param(
      "embedding",
      nn.with_logical_partitioning(normal, ("vocab", "embed")),
      (c.vocab_size, c.width),
      jnp.dtype(c.param_dtype),
    )
    x = table.astype(c.dtype)[tokens]
    if c.roles:
      role_table = self.param(
        "role_embedding",
        nn.with_logical_partitioning(normal, ("roles", "embed")),
        (c.roles, c.width),
        jnp.dtype(c.param_dtype),
      )
      x = x + role_table.astype(c.dtype)[roles]
    if offset is not None:
      x = x + offset.astype(c.dtype)[:, None, :]
    if not c.tied:
      # Only declared here; `head` reads it.
      self.param(
        "head",
        nn.with_logical_partitioning(normal, ("embed", "vocab")),
        (c.width, c.vocab_size),
        jnp.dtype(c.param_dtype),
      )
    x = nn.with_logical_constraint(x, ("batch", "length", "embed_activation"))
    block = Block
    if c.remat != "none" and cache is None:
      block = nn.remat(Block, policy=REMAT_POLICIES[c.remat], prevent_cse=False)
    layers = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, 0),
      length=c.layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c, name="blocks")
    inputs = _Inputs(*_rotary(c, positions), positions, subtree_end)
    x, layers_cache = layers(x, inputs, None if cache is None else (cache.k, cache.v))
    x = RMSNorm(c, name="final_norm")(x)
    return x, None if layers_cache is None else Cache(*layers_cache)


def head(params: dict, config: TransformerConfig) -> Float[Array, "D V"]:
  """The vocabulary projection: the transposed embedding table when tied."""
  return params["embedding"].T if config.tied else params["head"]
