# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention over token trees, and over a KV cache: each behind one function."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def _softmax_attention(
  q: Float[Array, "B Q N G D"],
  k: Float[Array, "B K N D"],
  v: Float[Array, "B K N D"],
  mask: Bool[Array, "B Q K"],
) -> Float[Array, "B Q N G D"]:
  """Grouped-query attention under a mask; scores and softmax in float32."""
  scale = q.shape[-1] ** -0.5
  scores = jnp.einsum("bqngd,bknd->bngqk", q * scale, k, preferred_element_type=jnp.float32)
  # A finite floor: a row of padding that sees itself alone must not meet inf - inf.
  scores = jnp.where(mask[:, None, None], scores, -1e30)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum("bngqk,bknd->bqngd", weights, v)


def tree_attention(
  q: Float[Array, "B L H D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  subtree_end: Int[Array, "B L"],
  *,
  block: int,
) -> Float[Array, "B L H D"]:
  """Exact attention on token trees: i attends to j iff `j <= i < subtree_end[j]`.

  Queries go block by block against the keys that can come before them, and each block is
  recomputed in the backward pass, so that no L x L array outlives its block.

  Args:
    q: queries of H heads.
    k: keys of N heads; N divides H (grouped-query attention).
    v: values.
    subtree_end: the tree, see `episodes.trees`.
    block: queries per block.

  Returns:
    The attended values.
  """
  batch, length, heads, depth = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(batch, length, kv_heads, heads // kv_heads, depth)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def attend(
    q_block: Float[Array, "B Q N G D"],
    k_before: Float[Array, "B K N D"],
    v_before: Float[Array, "B K N D"],
    end_before: Int[Array, "B K"],
    start: int,
  ) -> Float[Array, "B Q N G D"]:
    i = start + jnp.arange(q_block.shape[1])
    j = jnp.arange(k_before.shape[1])
    mask = (j[None, None, :] <= i[None, :, None]) & (i[None, :, None] < end_before[:, None, :])
    return _softmax_attention(q_block, k_before, v_before, mask)

  blocks = []
  for start in range(0, length, block):
    stop = min(start + block, length)
    blocks.append(attend(q[:, start:stop], k[:, :stop], v[:, :stop], subtree_end[:, :stop], start))
  return jnp.concatenate(blocks, axis=1).reshape(batch, length, heads, depth)


def cached_attention(
  q: Float[Array, "B Q H D"],
  k: Float[Array, "B K N D"],
  v: Float[Array, "B K N D"],
  positions: Int[Array, "B Q"],
) -> Float[Array, "B Q H D"]:
  """Attention of new tokens to a cache in which slot j holds the token at position j.

  Args:
    q: queries of the new tokens.
    k: cached keys, the new tokens' included; slots past a query's position are not looked at.
    v: cached values.
    positions: of the new tokens.

  Returns:
    The attended values.
  """
  batch, length, heads, depth = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(batch, length, kv_heads, heads // kv_heads, depth)
  mask = jnp.arange(k.shape[1])[None, None, :] <= positions[:, :, None]
  return _softmax_attention(q, k, v, mask).reshape(batch, length, heads, depth)
