# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention over a KV cache, after a context that rows may share."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fspo_jax.models import soft_caps

# A finite floor of scores: a row of padding that sees itself alone must not meet inf - inf.
_FLOOR = -1e30
# The position of what no token sees.
_NEVER = jnp.iinfo(jnp.int32).max


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
