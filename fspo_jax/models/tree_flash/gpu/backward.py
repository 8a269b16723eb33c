# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The backward kernels: of queries, and of keys with values; weights are computed again.

Of a score s with the weight w = exp(s - log_sum), the gradient is w (d_out . v - d_out . out), of
which the second product is the same for all keys of a query (arXiv 2205.14135).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fspo_jax.models.tree_flash.gpu import kernels
from fspo_jax.models.tree_flash.rules import Mask, Rules, product, product_t


def backward(
  q: Float[Array, "B N G Q D"],
  k: Float[Array, "B N K D"],
  v: Float[Array, "B N K D"],
  out: Float[Array, "B N G Q D"],
  log_sums: Float[Array, "B N G Q"],
  d_out: Float[Array, "B N G Q D"],
  mask: Mask,
  rules: Rules,
) -> tuple[Float[Array, "B N G Q D"], Float[Array, "B N K D"], Float[Array, "B N K D"]]:
  """The gradients of queries, keys and values."""
  depth = q.shape[4]
  means = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
  given = (*map(kernels.padded, (q, k, v, d_out)), log_sums, means)
  found = *_queries(*given, mask, rules), *_keys(*given, mask, rules)
  return tuple(x[..., :depth] for x in found)


def _queries(
  q: Array,
  k: Array,
  v: Array,
  d_out: Array,
  log_sums: Array,
  means: Array,
  mask: Mask,
  rules: Rules,
) -> list[Float[Array, "B N G Q D"]]:
  grid, of_queries, of_numbers, of_keys = kernels.by_query(q, k, rules.block)
  inputs = [(q, of_queries), (k, of_keys), (v, of_keys), (d_out, of_queries)]
  return kernels.call(
    functools.partial(_queries_kernel, rules=rules),
    "tree_flash_queries",
    grid,
    kernels.pairs(mask, by_key=False),
    [*inputs, (log_sums, of_numbers), (means, of_numbers)],
    [(jax.ShapeDtypeStruct(q.shape, q.dtype), of_queries)],
    products=3,
    heads=q.shape[1] * q.shape[2],
    rules=rules,
  )


def _keys(
  q: Array,
  k: Array,
  v: Array,
  d_out: Array,
  log_sums: Array,
  means: Array,
  mask: Mask,
  rules: Rules,
) -> list[Float[Array, "B N K D"]]:
  grid, of_queries, of_numbers, of_keys = kernels.by_key(q, k, rules.block)
  inputs = [(q, of_queries), (k, of_keys), (v, of_keys), (d_out, of_queries)]
  return kernels.call(
    functools.partial(_keys_kernel, rules=rules),
    "tree_flash_keys",
    grid,
    kernels.pairs(mask, by_key=True),
    [*inputs, (log_sums, of_numbers), (means, of_numbers)],
    [(jax.ShapeDtypeStruct(x.shape, x.dtype), of_keys) for x in (k, v)],
    products=4,
    heads=q.shape[1] * q.shape[2],
    rules=rules,
  )


def _queries_kernel(
  pairs: kernels.Pairs,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  d_out_ref: Any,
  log_sums_ref: Any,
  means_ref: Any,
  d_q_ref: Any,
  *,
  rules: Rules,
) -> None:
  """A block of queries of a head: what each live block of keys adds to its gradient."""
  query, output = kernels.query_block()
  q, d_out = q_ref[...], d_out_ref[...]
  log_sum, mean = log_sums_ref[...][:, None], means_ref[...][:, None]

  def step(at: Int[Array, ""], total: Float[Array, "Q D"]) -> Float[Array, "Q D"]:
    key = pairs.inner[at]
    keys = kernels.slice_of(key, rules.block)
    k = k_ref[keys, :]
    scores = pairs.mask(kernels.scores(q, k, rules), at, query, key, transposed=False)
    d_scores = jnp.exp2(scores - log_sum) * (product_t(d_out, v_ref[keys, :]) - mean)
    d_scores *= kernels.slope(scores, rules)
    return total + product(d_scores.astype(k.dtype), k)

  nothing = jnp.zeros(q.shape, jnp.float32)
  total = jax.lax.fori_loop(*pairs.bounds(output), step, nothing)
  d_q_ref[...] = (total * rules.scale).astype(d_q_ref.dtype)


def _keys_kernel(
  pairs: kernels.Pairs,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  d_out_ref: Any,
  log_sums_ref: Any,
  means_ref: Any,
  d_k_ref: Any,
  d_v_ref: Any,
  *,
  rules: Rules,
) -> None:
  """A block of keys: what each live block of queries, of each head of the group, adds to both."""
  key, output = kernels.key_block()
  k, v, group = k_ref[...], v_ref[...], q_ref.shape[0]

  def step(at: Int[Array, ""], totals: tuple[Array, Array]) -> tuple[Array, Array]:
    # One loop over pairs and heads: Triton loads ahead within a loop, not across two.
    pair, head = jax.lax.div(at, group), jax.lax.rem(at, group)
    query = pairs.inner[pair]
    queries = kernels.slice_of(query, rules.block)
    q, d_out = q_ref[head, queries, :], d_out_ref[head, queries, :]
    # Keys down, queries across: both products that are summed then need no transposition.
    scores = pairs.mask(kernels.scores(k, q, rules), pair, query, key, transposed=True)
    weights = jnp.exp2(scores - log_sums_ref[head, queries][None, :])
    d_scores = weights * (product_t(v, d_out) - means_ref[head, queries][None, :])
    d_scores *= kernels.slope(scores, rules)
    d_k, d_v = totals
    d_v += product(weights.astype(d_out.dtype), d_out)
    return d_k + product(d_scores.astype(q.dtype), q), d_v

  nothing = jnp.zeros(k.shape, jnp.float32)
  begin, end = pairs.bounds(output)
  d_k, d_v = jax.lax.fori_loop(begin * group, end * group, step, (nothing, nothing))
  d_k_ref[...] = (d_k * rules.scale).astype(d_k_ref.dtype)
  d_v_ref[...] = d_v.astype(d_v_ref.dtype)
