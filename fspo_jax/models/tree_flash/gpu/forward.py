# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The forward kernel: a block of queries of a head loops over the live blocks of its keys.

Flash attention (arXiv 2205.14135; blocks of queries as programs, arXiv 2307.08691): each query has
the largest score so far, the sum of the exponentials below it, and the sum of the values that these
weigh, and rescales both as it grows.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fspo_jax.models.tree_flash.gpu import kernels
from fspo_jax.models.tree_flash.rules import FLOOR, Mask, Rules, product

_Carry = tuple[Float[Array, " Q"], Float[Array, " Q"], Float[Array, "Q D"]]


def forward(
  q: Float[Array, "B N G Q D"],
  k: Float[Array, "B N K D"],
  v: Float[Array, "B N K D"],
  mask: Mask,
  rules: Rules,
) -> tuple[Float[Array, "B N G Q D"], Float[Array, "B N G Q"]]:
  """Attended values, and the log, to the base 2, of each query's sum of exponentials."""
  depth = q.shape[4]
  q, k, v = map(kernels.padded, (q, k, v))
  grid, of_queries, of_numbers, of_keys = kernels.by_query(q, k, rules.block)
  out, log_sums = kernels.call(
    functools.partial(_kernel, rules=rules),
    "tree_flash_forward",
    grid,
    kernels.pairs(mask, by_key=False),
    [(q, of_queries), (k, of_keys), (v, of_keys)],
    [
      (jax.ShapeDtypeStruct(q.shape, q.dtype), of_queries),
      (jax.ShapeDtypeStruct(q.shape[:-1], jnp.float32), of_numbers),
    ],
    products=2,
    heads=q.shape[1] * q.shape[2],
    rules=rules,
  )
  return out[..., :depth], log_sums


def _kernel(
  pairs: kernels.Pairs,
  q_ref: Any,
  k_ref: Any,
  v_ref: Any,
  out_ref: Any,
  log_sums_ref: Any,
  *,
  rules: Rules,
) -> None:
  query, output = kernels.query_block()
  q = q_ref[...]

  def step(at: Int[Array, ""], carry: _Carry) -> _Carry:
    before, sums, total = carry
    key = pairs.inner[at]
    keys = kernels.slice_of(key, rules.block)
    scores = kernels.scores(q, k_ref[keys, :], rules)
    scores = pairs.mask(scores, at, query, key, transposed=False)
    most = jnp.maximum(before, scores.max(axis=1))
    weights, shrink = jnp.exp2(scores - most[:, None]), jnp.exp2(before - most)
    values = v_ref[keys, :]
    total = shrink[:, None] * total + product(weights.astype(values.dtype), values)
    return most, shrink * sums + weights.sum(axis=1), total

  numbers = jnp.zeros(rules.block, jnp.float32)
  nothing = numbers + FLOOR, numbers, jnp.zeros(q.shape, jnp.float32)
  most, sums, total = jax.lax.fori_loop(*pairs.bounds(output), step, nothing)
  out_ref[...] = (total / sums[:, None]).astype(out_ref.dtype)
  log_sums_ref[...] = most + jnp.log2(sums)
