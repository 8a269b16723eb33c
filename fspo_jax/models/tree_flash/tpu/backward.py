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
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array, Float

from fspo_jax.models import soft_caps
from fspo_jax.models.tree_flash import blocks
from fspo_jax.models.tree_flash.rules import Mask, Rules, product, product_t
from fspo_jax.models.tree_flash.tpu import kernels
from fspo_jax.models.tree_flash.tpu.kernels import LANES


def backward(
  q: Float[Array, "B N G Q D"],
  k: Float[Array, "B N K D"],
  v: Float[Array, "B N K D"],
  out: Float[Array, "B N G Q D"],
  log_sums: Float[Array, "B N G 1 Q"],
  d_out: Float[Array, "B N G Q D"],
  mask: Mask,
  rules: Rules,
) -> tuple[Float[Array, "B N G Q D"], Float[Array, "B N K D"], Float[Array, "B N K D"]]:
  """The gradients of queries, keys and values."""
  means = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)[:, :, :, None]
  given = (q, k, v, d_out, log_sums, means, mask, rules)
  return _queries(*given), *_keys(*given)


def _inputs(
  q: Array,
  k: Array,
  v: Array,
  d_out: Array,
  log_sums: Array,
  means: Array,
  mask: Mask,
  block: int,
  *,
  transposed: bool,
) -> list[kernels.Operand]:
  """What both kernels read; in one of them keys are the rows of a block of scores."""
  found = [kernels.of_queries(q, block), kernels.of_keys(k, block), kernels.of_keys(v, block)]
  found.append(kernels.of_queries(d_out, block))
  found += [kernels.of_query_numbers(x, block) for x in (log_sums, means)]
  return found + kernels.of_mask(mask, block, transposed=transposed)


def _queries(
  q: Array,
  k: Array,
  v: Array,
  d_out: Array,
  log_sums: Array,
  means: Array,
  mask: Mask,
  rules: Rules,
) -> Float[Array, "B N G Q D"]:
  block, group, depth = rules.block, q.shape[2], q.shape[4]
  numbers = (group, block, LANES)
  (found,) = kernels.call(
    functools.partial(_queries_kernel, rules=rules),
    "tree_flash_queries",
    mask.tree.by_query,
    kernels.scalars(mask),
    _inputs(q, k, v, d_out, log_sums, means, mask, block, transposed=False),
    [kernels.of_queries(jax.ShapeDtypeStruct(q.shape, q.dtype), block)],
    [numbers, numbers, (group, block, depth)],
    products=3,
    heads=q.shape[1],
    rules=rules,
  )
  return found


def _keys(
  q: Array,
  k: Array,
  v: Array,
  d_out: Array,
  log_sums: Array,
  means: Array,
  mask: Mask,
  rules: Rules,
) -> tuple[Float[Array, "B N K D"], Float[Array, "B N K D"]]:
  block, depth = rules.block, q.shape[4]
  return kernels.call(
    functools.partial(_keys_kernel, rules=rules),
    "tree_flash_keys",
    mask.tree.by_key,
    kernels.scalars(mask),
    _inputs(q, k, v, d_out, log_sums, means, mask, block, transposed=True),
    [kernels.of_keys(jax.ShapeDtypeStruct(x.shape, x.dtype), block) for x in (k, v)],
    [(block, depth), (block, depth)],
    products=4,
    heads=q.shape[1],
    rules=rules,
  )


def _split(refs: tuple[Any, ...], rules: Rules) -> tuple[Any, tuple, tuple, tuple]:
  """The window, the arrays that both kernels read, positions, and the rest."""
  window, refs = (refs[0], refs[1:]) if rules.windowed else (None, refs)
  given, refs = refs[:7], refs[7:]
  at, refs = (refs[:2], refs[2:]) if rules.windowed else ((), refs)
  return window, given, at, refs


def _queries_kernel(
  row: Any, query: Any, key: Any, flags: Any, start: Any, *refs: Any, rules: Rules
) -> None:
  """A step: what a block of keys adds to the gradients of a block of queries."""
  del row
  window, given, at_refs, refs = _split(refs, rules)
  q_ref, k_ref, v_ref, d_out_ref, log_sums_ref, means_ref, end_ref = given
  d_q_ref, log_sum_ref, mean_ref, total_ref = refs
  step = pl.program_id(1)
  flag = flags[step]

  @pl.when(flag & blocks.FIRST != 0)
  def _begin() -> None:
    total_ref[...] = jnp.zeros_like(total_ref)

    def of_head(g: Any) -> None:
      for source, target in ((log_sums_ref, log_sum_ref), (means_ref, mean_ref)):
        target[g] = jnp.broadcast_to(source[0, 0, g], (LANES, rules.block)).T

    kernels.for_each(q_ref.shape[2], of_head)

  def compute(masked: bool) -> None:
    if masked:
      first = start[query[step]], key[step] * rules.block
      mask = kernels.visible(*first, end_ref, at_refs, window, rules.block, transposed=False)

    def of_head(g: Any) -> None:
      scores = product_t(q_ref[0, 0, g], k_ref[0, 0]) * rules.scale
      scores = soft_caps.soft_cap(scores, rules.softcap)
      weights = jnp.exp(scores - log_sum_ref[g, :, :1])
      if masked:
        weights = jnp.where(mask, weights, 0.0)
      d_scores = product_t(d_out_ref[0, 0, g], v_ref[0, 0]) - mean_ref[g, :, :1]
      d_scores *= weights
      if rules.softcap:
        d_scores *= soft_caps.slope(scores, rules.softcap)
      total_ref[g] += product(d_scores.astype(k_ref.dtype), k_ref[0, 0])

    kernels.for_each(q_ref.shape[2], of_head)

  kernels.when_live(flag, compute)

  @pl.when(flag & blocks.LAST != 0)
  def _end() -> None:
    d_q_ref[0, 0] = (total_ref[...] * rules.scale).astype(d_q_ref.dtype)


def _keys_kernel(
  row: Any, query: Any, key: Any, flags: Any, start: Any, *refs: Any, rules: Rules
) -> None:
  """A step: what a block of queries adds to the gradients of a block of keys and their values."""
  del row
  window, given, at_refs, refs = _split(refs, rules)
  q_ref, k_ref, v_ref, d_out_ref, log_sums_ref, means_ref, end_ref = given
  d_k_ref, d_v_ref, k_total_ref, v_total_ref = refs
  step = pl.program_id(1)
  flag = flags[step]

  @pl.when(flag & blocks.FIRST != 0)
  def _begin() -> None:
    k_total_ref[...] = jnp.zeros_like(k_total_ref)
    v_total_ref[...] = jnp.zeros_like(v_total_ref)

  def compute(masked: bool) -> None:
    if masked:
      first = start[query[step]], key[step] * rules.block
      mask = kernels.visible(*first, end_ref, at_refs, window, rules.block, transposed=True)

    def of_head(g: Any) -> None:
      # Keys down, queries across: both products that are summed then need no transposition.
      scores = product_t(k_ref[0, 0], q_ref[0, 0, g]) * rules.scale
      scores = soft_caps.soft_cap(scores, rules.softcap)
      weights = jnp.exp(scores - log_sums_ref[0, 0, g])
      if masked:
        weights = jnp.where(mask, weights, 0.0)
      d_out = d_out_ref[0, 0, g]
      v_total_ref[...] += product(weights.astype(d_out.dtype), d_out)
      d_scores = product_t(v_ref[0, 0], d_out) - means_ref[0, 0, g]
      d_scores *= weights
      if rules.softcap:
        d_scores *= soft_caps.slope(scores, rules.softcap)
      k_total_ref[...] += product(d_scores.astype(q_ref.dtype), q_ref[0, 0, g])

    kernels.for_each(q_ref.shape[2], of_head)

  kernels.when_live(flag, compute)

  @pl.when(flag & blocks.LAST != 0)
  def _end() -> None:
    d_k_ref[0, 0] = (k_total_ref[...] * rules.scale).astype(d_k_ref.dtype)
    d_v_ref[0, 0] = v_total_ref[...].astype(d_v_ref.dtype)
