# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The forward kernel: softmax over the live blocks of keys, one after another.

Flash attention (arXiv 2205.14135): each query keeps the largest score so far, the sum of the
exponentials below it, and the sum of the values that these weigh, and rescales both as it grows.
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
from fspo_jax.models.tree_flash.rules import FLOOR, Mask, Rules, product, product_t
from fspo_jax.models.tree_flash.tpu import kernels
from fspo_jax.models.tree_flash.tpu.kernels import LANES


def forward(
  q: Float[Array, "B N G Q D"],
  k: Float[Array, "B N K D"],
  v: Float[Array, "B N K D"],
  mask: Mask,
  rules: Rules,
) -> tuple[Float[Array, "B N G Q D"], Float[Array, "B N G 1 Q"]]:
  """Attended values, and the log of each query's sum of exponentials."""
  block, (group, depth) = rules.block, (q.shape[2], q.shape[4])
  inputs = [kernels.of_queries(q, block), kernels.of_keys(k, block), kernels.of_keys(v, block)]
  log_sums = jax.ShapeDtypeStruct((*q.shape[:3], 1, q.shape[3]), jnp.float32)
  out, log_sums = kernels.call(
    functools.partial(_kernel, rules=rules),
    "tree_flash_forward",
    mask.tree.by_query,
    kernels.scalars(mask),
    inputs + kernels.of_mask(mask, block, transposed=False),
    [
      kernels.of_queries(jax.ShapeDtypeStruct(q.shape, q.dtype), block),
      kernels.of_query_numbers(log_sums, block),
    ],
    [(group, block, LANES), (group, block, LANES), (group, block, depth)],
    products=2,
    heads=q.shape[1],
    rules=rules,
  )
  return out, log_sums


def _kernel(
  row: Any, query: Any, key: Any, flags: Any, start: Any, *refs: Any, rules: Rules
) -> None:
  """A step: one block of queries, of all heads of a group, against one of keys."""
  del row
  window, refs = (refs[0], refs[1:]) if rules.windowed else (None, refs)
  q_ref, k_ref, v_ref, end_ref, *refs = refs
  at_refs, refs = (refs[:2], refs[2:]) if rules.windowed else ((), refs)
  out_ref, log_sums_ref, most_ref, sum_ref, total_ref = refs
  step = pl.program_id(1)
  flag = flags[step]

  @pl.when(flag & blocks.FIRST != 0)
  def _begin() -> None:
    most_ref[...] = jnp.full_like(most_ref, FLOOR)
    sum_ref[...] = jnp.zeros_like(sum_ref)
    total_ref[...] = jnp.zeros_like(total_ref)

  def compute(masked: bool) -> None:
    if masked:
      first = start[query[step]], key[step] * rules.block
      mask = kernels.visible(*first, end_ref, at_refs, window, rules.block, transposed=False)

    def of_head(g: Any) -> None:
      scores = product_t(q_ref[0, 0, g], k_ref[0, 0]) * rules.scale
      scores = soft_caps.soft_cap(scores, rules.softcap)
      if masked:
        scores = jnp.where(mask, scores, FLOOR)
      before = most_ref[g, :, :1]
      most = jnp.maximum(before, scores.max(axis=1, keepdims=True))
      weights, shrink = jnp.exp(scores - most), jnp.exp(before - most)
      added = product(weights.astype(v_ref.dtype), v_ref[0, 0])
      total_ref[g] = shrink * total_ref[g] + added
      sums = shrink * sum_ref[g, :, :1] + weights.sum(axis=1, keepdims=True)
      sum_ref[g] = jnp.broadcast_to(sums, sum_ref.shape[1:])
      most_ref[g] = jnp.broadcast_to(most, most_ref.shape[1:])

    kernels.for_each(q_ref.shape[2], of_head)

  kernels.when_live(flag, compute)

  @pl.when(flag & blocks.LAST != 0)
  def _end() -> None:
    def of_head(g: Any) -> None:
      out_ref[0, 0, g] = (total_ref[g] / sum_ref[g, :, :1]).astype(out_ref.dtype)
      log_sums_ref[0, 0, g] = (most_ref[g] + jnp.log(sum_ref[g])).T[:1]

    kernels.for_each(q_ref.shape[2], of_head)
