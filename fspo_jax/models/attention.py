# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention over token trees, and over a KV cache: each behind one function."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fspo_jax import sharding
from fspo_jax.models import soft_caps

# A finite floor of scores: a row of padding that sees itself alone must not meet inf - inf.
_FLOOR = -1e30
# The position of what no token sees.
_NEVER = jnp.iinfo(jnp.int32).max

# More blocks than so many come in spans, whose blocks go one after another against the same keys,
# those before the span's end. Each span is compiled by itself, several times over (forwards, again,
# backwards): many take XLA minutes. Few look at keys in vain: 16 blocks in 4 spans at 18 % more.
_ALONE, _SPANS = 8, 4


def _softmax_attention(
  q: Float[Array, "B Q N G D"],
  k: Float[Array, "B K N D"],
  v: Float[Array, "B K N D"],
  mask: Bool[Array, "B Q K"],
  scale: float | None,
  softcap: float,
) -> Float[Array, "B Q N G D"]:
  """Grouped-query attention under a mask; scores and softmax in float32."""
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  scores = jnp.einsum("bqngd,bknd->bngqk", q * scale, k, preferred_element_type=jnp.float32)
  scores = soft_caps.soft_cap(scores, softcap)
  scores = jnp.where(mask[:, None, None], scores, _FLOOR)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum("bngqk,bknd->bqngd", weights, v)


class Shared(NamedTuple):
  """Keys and values of U contexts, each of which as many rows go on from: kept once, only read.

  The rows of a context are next to each other: row b goes on from context b // (B // U).

  Attributes:
    k: keys, heads outside; slot j holds the token at position j.
    v: values.
    lengths: of the contexts; slots past them are not looked at.
  """

  k: Float[Array, "*layers U N P D"]
  v: Float[Array, "*layers U N P D"]
  lengths: Int[Array, " U"]

  def lengths_of_rows(self, rows: int) -> Int[Array, " B"]:
    """The length of the context that each row goes on from."""
    return jnp.repeat(self.lengths, rows // len(self.lengths))

  def slots_after(self, positions: Int[Array, "B Q"]) -> Int[Array, "B Q"]:
    """Where tokens at these positions lie in a cache of what comes after."""
    return positions - self.lengths_of_rows(len(positions))[:, None]


def spans(length: int, block: int) -> list[tuple[int, int]]:
  """Where spans start and stop: of whole blocks, as many in each; what is left is the last one."""
  count = length // block
  whole = count * block
  step = block * (1 if count <= _ALONE else -(-count // _SPANS))
  edges = sorted({*range(0, whole, step), whole, length})
  return list(itertools.pairwise(edges))


def tree_attention(
  q: Float[Array, "B L H D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  subtree_end: Int[Array, "B L"],
  positions: Int[Array, "B L"] | None = None,
  *,
  block: int,
  window: Int[Array, ""] | int | None = None,
  scale: float | None = None,
  softcap: float = 0.0,
) -> Float[Array, "B L H D"]:
  """Exact attention on token trees: i attends to j iff `j <= i < subtree_end[j]`.

  A window counts along the path from the root, whatever branches lie in between: a branch sees
  what its plain sequence would.

  Queries go block by block against the keys that can come before them (or before the last of a
  few blocks, see `_SPANS`), and each block is recomputed in the backward pass, so that no L x L
  array outlives its block.

  Args:
    q: queries of H heads.
    k: keys of N heads; N divides H (grouped-query attention).
    v: values.
    subtree_end: the tree, see `episodes.trees`.
    positions: along the path from the root; a window needs them.
    block: queries per block.
    window: how many tokens of its path a token sees, itself included; None for all.
    scale: of the scores; None for 1 / sqrt(D).
    softcap: bound of the scores, by tanh; 0 for none.

  Returns:
    The attended values.

  Raises:
    ValueError: a window without positions.
  """
  if window is not None and positions is None:
    raise ValueError("a window counts along positions: found none")
  batch, length, heads, depth = q.shape
  kv_heads = k.shape[2]
  q = q.reshape(batch, length, kv_heads, heads // kv_heads, depth)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def attend(
    q_block: Float[Array, "B Q N G D"],
    k_before: Float[Array, "B K N D"],
    v_before: Float[Array, "B K N D"],
    end_before: Int[Array, "B K"],
    at: Int[Array, "B Q"] | None,
    at_before: Int[Array, "B K"] | None,
    start: Int[Array, ""] | int,
  ) -> Float[Array, "B Q N G D"]:
    i = start + jnp.arange(q_block.shape[1])
    j = jnp.arange(k_before.shape[1])
    mask = (j[None, None, :] <= i[None, :, None]) & (i[None, :, None] < end_before[:, None, :])
    if window is not None:
      mask &= at[:, :, None] - at_before[:, None, :] < window
    # Each device has some of every block of queries: all have as much to do.
    q_block = sharding.split_tokens(q_block)
    return _softmax_attention(q_block, k_before, v_before, mask, scale, softcap)

  k, v = sharding.gather_tokens(k), sharding.gather_tokens(v)

  def attend_span(start: int, stop: int) -> Float[Array, "B Q N G D"]:
    before = k[:, :stop], v[:, :stop], subtree_end[:, :stop]
    at = positions if window is not None else None
    at_before = None if at is None else at[:, :stop]
    if stop - start <= block:
      at_block = None if at is None else at[:, start:stop]
      return attend(q[:, start:stop], *before, at_block, at_before, start)

    def blocks(x: Array | None) -> Array | None:
      if x is None:
        return None
      return x[:, start:stop].reshape(batch, -1, block, *x.shape[2:]).swapaxes(0, 1)

    def one(xs: tuple[Array, Array | None, Array]) -> Float[Array, "B Q N G D"]:
      q_block, at_block, first = xs
      return attend(q_block, *before, at_block, at_before, first)

    attended = jax.lax.map(one, (blocks(q), blocks(at), jnp.arange(start, stop, block)))
    return attended.swapaxes(0, 1).reshape(batch, stop - start, *attended.shape[3:])

  attended = [attend_span(*span) for span in spans(length, block)]
  return jnp.concatenate(attended, axis=1).reshape(batch, length, heads, depth)


def cached_attention(
  q: Float[Array, "B Q H D"],
  k: Float[Array, "B K N D"],
  v: Float[Array, "B K N D"],
  positions: Int[Array, "B Q"],
  *,
  shared: Shared | None = None,
  window: Int[Array, ""] | int | None = None,
  scale: float | None = None,
  softcap: float = 0.0,
) -> Float[Array, "B Q H D"]:
  """Attention of new tokens to a cache, after a context that rows may share.

  Scores and softmax are in float32. Keys of a shared context meet the queries of all its rows in
  one product.

  Args:
    q: queries of the new tokens.
    k: cached keys, the new tokens' included; slot j holds the token at position j, or, after a
      shared context, so many after its length. Slots past a query's position are not looked at.
    v: cached values.
    positions: of the new tokens.
    shared: what comes before the cache; None for nothing.
    window: how many tokens a token sees, itself included; None for all.
    scale: of the scores; None for 1 / sqrt(D).
    softcap: bound of the scores, by tanh; 0 for none.

  Returns:
    The attended values.
  """
  batch, length, heads, depth = q.shape
  kv_heads = k.shape[2]
  q = q * (depth**-0.5 if scale is None else scale)
  q = q.reshape(batch, length, kv_heads, heads // kv_heads, depth)
  in_float32 = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  scores = in_float32("bqngd,bknd->bngqk", q, k)
  at = jnp.arange(k.shape[1])[None, :]
  if shared is not None:
    before, rows = shared.k.shape[2], (len(shared.lengths), -1)
    q = q.reshape(*rows, *q.shape[1:])
    found = in_float32("ucqngd,unpd->ucngqp", q, shared.k)
    scores = jnp.concatenate((found.reshape(*scores.shape[:-1], before), scores), axis=-1)
    lengths = shared.lengths_of_rows(batch)[:, None]
    slots = jnp.arange(before)[None, :]
    at = jnp.concatenate((jnp.where(slots < lengths, slots, _NEVER), lengths + at), axis=1)
  mask = at[:, None, :] <= positions[:, :, None]
  if window is not None:
    mask &= positions[:, :, None] - at[:, None, :] < window
  scores = jnp.where(mask[:, None, None], soft_caps.soft_cap(scores, softcap), _FLOOR)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  attended = in_float32("bngqk,bknd->bqngd", weights[..., -k.shape[1] :], v)
  if shared is not None:
    weights = weights[..., :before].reshape(*rows, *weights.shape[1:-1], before)
    found = in_float32("ucngqp,unpd->ucqngd", weights, shared.v)
    attended += found.reshape(attended.shape)
  return attended.astype(v.dtype).reshape(batch, length, heads, depth)
