# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The policy: a decoder in flax.linen that reads token trees, Llama and its relatives in one.

Which of them is a matter of `architecture.TransformerConfig`: see `models.huggingface`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from fspo_jax.models import attention, rotary, soft_caps, tree_attention, tree_flash
from fspo_jax.models.architecture import REMAT_POLICIES, TransformerConfig

# The window of a layer that sees everything, where others have one.
_EVERYTHING = np.iinfo(np.int32).max


class Cache(NamedTuple):
  """Keys and values of the tokens seen so far; slot j holds the token at position j.

  After an `attention.Shared` context, slot j holds the j-th token that comes after it.
  """

  k: Float[Array, "layers B K N D"]
  v: Float[Array, "layers B K N D"]


def init_cache(config: TransformerConfig, batch: int, length: int) -> Cache:
  """An empty cache for `batch` sequences of at most `length` tokens."""
  shape = (config.layers, batch, length, config.kv_heads, config.head_dim)
  return Cache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


class _Layer(NamedTuple):
  """What a block reads beside, of its own layer."""

  index: Int[Array, ""] | None
  window: Int[Array, ""] | None
  tree: tree_flash.TreeBlocks | None
  shared: attention.Shared | None


class _Inputs(NamedTuple):
  """What every block reads beside the residual stream."""

  rotation: rotary.Rotation
  local_rotation: rotary.Rotation | None
  positions: Int[Array, "B L"]
  subtree_end: Int[Array, "B L"] | None

  def rotation_of(self, window: Int[Array, ""] | None) -> rotary.Rotation:
    """The rotation in a layer with this window."""
    if self.local_rotation is None:
      return self.rotation
    choose = functools.partial(jnp.where, window < _EVERYTHING)
    return jax.tree.map(choose, self.local_rotation, self.rotation)


def _append(
  cached: Float[Array, "layers B K N D"],
  new: Float[Array, "B Q N D"],
  layer: Int[Array, ""],
  slots: Int[Array, "B Q"],
) -> Float[Array, "layers B K N D"]:
  """Writes the new tokens' entries of a layer into their slots."""
  rows = jnp.arange(cached.shape[1])[:, None]
  return cached.at[layer, rows, slots].set(new.astype(cached.dtype))


class RMSNorm(nn.Module):
  """Root-mean-square normalisation with a learned scale, in float32, of a token or of its heads."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, x: Float[Array, "B L *heads D"]) -> Float[Array, "B L *heads D"]:
    """Normalises along the last axis; the dtype stays."""
    c, initializers = self.config, nn.initializers
    init = initializers.zeros_init() if c.zero_centered_norms else initializers.ones_init()
    init = nn.with_logical_partitioning(init, ("norm",))
    scale = self.param("scale", init, (x.shape[-1],), jnp.dtype(c.param_dtype)).astype(jnp.float32)
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + c.norm_eps)
    scale = 1.0 + scale if c.zero_centered_norms else scale
    return (y * jnp.expand_dims(scale, range(x.ndim - 1))).astype(x.dtype)


@jax.custom_vjp
def _product(x: Float[Array, "B L I"], kernel: Float[Array, "I O"]) -> Float[Array, "B L O"]:
  """The product, whose gradient for the kernel is made as it lies.

  JAX makes it transposed: on CPUs that goes through what comes after the product a second time, in
  the other order.
  """
  return x @ kernel


def _product_backward(
  saved: tuple[Float[Array, "B L I"], Float[Array, "I O"]], g: Float[Array, "B L O"]
) -> tuple[Float[Array, "B L I"], Float[Array, "I O"]]:
  x, kernel = saved
  return g @ kernel.T, jnp.tensordot(x, g, axes=((0, 1), (0, 1)))


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


class Linear(nn.Module):
  """A matrix [in, out] with logical axis names, and a bias where it is asked for."""

  config: TransformerConfig
  features: int
  axes: tuple[str, str]
  zero_init: bool = False
  bias: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
    """The product with the matrix, plus the bias, in the dtype of `x`."""
    # Blocks add nothing to the residual stream at first: it starts as the tokens' embeddings.
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
    init = nn.initializers.zeros_init() if self.zero_init else init
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, self.axes),
      (x.shape[-1], self.features),
      jnp.dtype(self.config.param_dtype),
    )
    y = _product(x, kernel.astype(x.dtype))
    if self.bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[1:])
      bias = self.param("bias", zeros, (self.features,), jnp.dtype(self.config.param_dtype))
      y = y + bias.astype(x.dtype)[None, None, :]
    if self.has_variable("params", "adapter"):  # of `lora.attach`
      y = y + self.get_variable("params", "adapter").update(x)
    return y


class Block(nn.Module):
  """Attention and a gated MLP, each behind a norm and added to the residual stream."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    carry: tuple[Float[Array, "B L D"], Cache | None],
    inputs: _Inputs,
    layer: _Layer,
  ) -> tuple[tuple[Float[Array, "B L D"], Cache | None], None]:
    """The new residual stream, and the cache with the layer's new tokens in it (None without).

    The cache of all layers goes through all layers: what each one wrote would be copied.
    """
    c = self.config
    x, cache = carry
    added, cache = self._attend(RMSNorm(c, name="attention_norm")(x), inputs, layer, cache)
    x = x + (RMSNorm(c, name="attention_post_norm")(added) if c.post_norms else added)
    added = self._transform(RMSNorm(c, name="mlp_norm")(x))
    x = x + (RMSNorm(c, name="mlp_post_norm")(added) if c.post_norms else added)
    x = nn.with_logical_constraint(x, ("batch", "length", "embed_activation"))
    return (x, cache), None

  def _attend(
    self,
    h: Float[Array, "B L D"],
    inputs: _Inputs,
    layer: _Layer,
    cache: Cache | None,
  ) -> tuple[Float[Array, "B L D"], Cache | None]:
    c = self.config

    def heads(name: str, count: int, axis: str) -> Float[Array, "B L heads D"]:
      matrix = Linear(c, count * c.head_dim, ("embed", axis), bias=c.qkv_bias, name=name)
      return matrix(h).reshape(*h.shape[:2], count, c.head_dim)

    q, k = heads("q", c.heads, "heads"), heads("k", c.kv_heads, "kv_heads")
    v = heads("v", c.kv_heads, "kv_heads")
    if c.qk_norm:
      q, k = RMSNorm(c, name="q_norm")(q), RMSNorm(c, name="k_norm")(k)
    rotation = inputs.rotation_of(layer.window)
    q, k = rotary.rotate(q, rotation), rotary.rotate(k, rotation)
    rules = {"window": layer.window, "scale": c.query_scale, "softcap": c.attention_softcap}
    positions, rows = inputs.positions, (inputs.subtree_end, inputs.positions)
    if layer.tree is not None:
      rules |= {"implementation": c.attention, "block": c.attention_block}
      attended = tree_flash.attention(q, k, v, *rows, layer.tree, **rules)
    elif cache is None:
      attended = tree_attention.attention(q, k, v, *rows, block=c.attention_block, **rules)
    else:
      slots = positions if layer.shared is None else layer.shared.slots_after(positions)
      at = (layer.index, slots)
      cache = Cache(_append(cache.k, k, *at), _append(cache.v, v, *at))
      k, v = cache.k[layer.index], cache.v[layer.index]
      attended = attention.cached_attention(q, k, v, positions, shared=layer.shared, **rules)
    attended = attended.reshape(*h.shape[:2], c.heads * c.head_dim)
    return Linear(c, c.width, ("heads", "embed"), zero_init=True, name="o")(attended), cache

  def _transform(self, h: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    c = self.config
    gate = Linear(c, c.mlp, ("embed", "mlp"), name="gate")(h)
    up = Linear(c, c.mlp, ("embed", "mlp"), name="up")(h)
    gate = nn.silu(gate) if c.activation == "silu" else nn.gelu(gate, approximate=True)
    return Linear(c, c.width, ("mlp", "embed"), zero_init=True, name="down")(gate * up)


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
    shared: attention.Shared | None = None,
    offset: Float[Array, "B D"] | None = None,
  ) -> tuple[Float[Array, "B L D"], Cache | None]:
    """Hidden states of every token, after the final norm.

    Args:
      tokens: ids.
      positions: along the path from the root.
      roles: what each token is; not looked at when `config.roles` is 0.
      subtree_end: the trees of the rows; exactly one of it and `cache` is given.
      cache: what came before; the new tokens are appended at their positions.
      shared: what came before the cache, `layers` in front of keys and values; None for nothing.
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
    if c.scaled_embeddings:
      x = x * jnp.asarray(c.width**0.5, c.dtype)
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
    rotations = rotary.rotation(c, positions), rotary.local_rotation(c, positions)
    inputs = _Inputs(*rotations, positions, subtree_end)
    tree = None
    # What parameters are made of are their shapes, on rows that no mesh could split.
    if c.attention != "xla" and cache is None and not self.is_initializing():
      tree = _trees(c, subtree_end, positions)
    index = None if cache is None else jnp.arange(c.layers)
    if shared is not None:
      shared = shared._replace(lengths=jnp.tile(shared.lengths, (c.layers, 1)))
    layer = _Layer(index, _windows(c), tree, shared)
    (x, cache), _ = layers((x, cache), inputs, layer)
    return RMSNorm(c, name="final_norm")(x), cache


def _windows(config: TransformerConfig) -> Int[Array, " layers"] | None:
  """The window of every layer; None if no layer has one."""
  if not config.layer_windows:
    return None
  return jnp.asarray([window or _EVERYTHING for window in config.layer_windows], jnp.int32)


def _trees(
  config: TransformerConfig, subtree_end: Int[Array, "B L"], positions: Int[Array, "B L"]
) -> tree_flash.TreeBlocks:
  """The blocks of every layer: found once for each window that there is."""
  windows = config.layer_windows or (0,) * config.layers
  known = sorted({*windows})
  found = [
    tree_flash.tree_blocks(
      subtree_end,
      positions,
      block=config.attention_block,
      window=(window or _EVERYTHING) if config.layer_windows else None,
    )
    for window in known
  ]
  which = np.asarray([known.index(window) for window in windows])
  return jax.tree.map(lambda *x: jnp.stack(x)[which], *found)


def head(params: dict, config: TransformerConfig) -> Float[Array, "D V"]:
  """The vocabulary projection: the transposed embedding table when tied."""
  return params["embedding"].T if config.tied else params["head"]


def logits(
  params: dict, config: TransformerConfig, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
  """Logits in float32, soft-capped; of few tokens: `models.scoring` never has them of all."""
  projected = hidden @ head(params, config).astype(hidden.dtype)
  return soft_caps.soft_cap(projected.astype(jnp.float32), config.logit_softcap)
