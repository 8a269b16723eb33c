# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the three kernels for GPUs have in common: who sees whom, and how they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fspo_jax.models import soft_caps
from fspo_jax.models.tree_flash import blocks
from fspo_jax.models.tree_flash import rules as rules_lib
from fspo_jax.models.tree_flash.gpu import limits
from fspo_jax.models.tree_flash.rules import FLOOR, Mask, Rules, product_t

_TO_BASE_2 = math.log2(math.e)


class Pairs(NamedTuple):
  """What a kernel reads beside queries, keys and values, in a program's loop over its blocks.

  Attributes:
    offsets: the step at which the pairs of each output block begin, and those of the last end: one
      more than there are of these.
    inner: of each step, the block of the other kind: of keys for queries, and the other way round.
    flags: of each step, see `blocks`.
    start: the index in the row at which each of the device's query blocks starts.
    end: `subtree_end` of the keys.
    at_q: positions of the queries; None without a window.
    at_k: of the keys.
    window: how many tokens of its path a token sees.
  """

  offsets: Int[Array, " O+1"]
  inner: Int[Array, " T"]
  flags: Int[Array, " T"]
  start: Int[Array, " M"]
  end: Int[Array, "B K"]
  at_q: Int[Array, "B Q"] | None
  at_k: Int[Array, "B K"] | None
  window: Int[Array, " 1"] | None

  def specs(self) -> Pairs:
    """How Pallas is told: lists as they are, numbers of tokens by the row, the grid's second."""

    def spec(x: Array) -> pl.BlockSpec:
      if x.ndim == 1:
        return pl.BlockSpec(x.shape, lambda *_: (0,))
      return pl.BlockSpec((None, x.shape[1]), lambda head, row, output: (row, 0))

    return jax.tree.map(spec, self)

  def bounds(self, output: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The steps of an output block's live pairs, from one and to before the other.

    Where there are none, a pair that is dead stands alone in the list.
    """
    begin, end = self.offsets[output], self.offsets[output + 1]
    return begin, jnp.where(self.flags[begin] & blocks.LIVE != 0, end, begin)

  def mask(
    self,
    scores: Float[Array, "M N"],
    step: Int[Array, ""],
    query: Int[Array, ""],
    key: Int[Array, ""],
    *,
    transposed: bool,
  ) -> Float[Array, "M N"]:
    """Scores at the floor where the query does not see the key; as they are in a whole pair.

    Args:
      scores: of a pair of blocks.
      step: of the pair.
      query: its query block, among the device's.
      key: its key block.
      transposed: whether keys go down and queries across, or the other way round.
    """

    def masked(scores: Float[Array, "M N"]) -> Float[Array, "M N"]:
      visible = self._visible(query, key, scores.shape[0], transposed=transposed)
      return jnp.where(visible, scores, FLOOR)

    whole = self.flags[step] & (blocks.LIVE | blocks.MASKED) == blocks.LIVE
    return jax.lax.cond(whole, lambda x: x, masked, scores)

  def _visible(
    self, query: Int[Array, ""], key: Int[Array, ""], block: int, *, transposed: bool
  ) -> Bool[Array, "M N"]:
    queries, keys = slice_of(query, block), slice_of(key, block)

    def along(x: Int[Array, " block"], keys: bool) -> Int[Array, "..."]:
      return x[:, None] if keys == transposed else x[None, :]

    tokens = jnp.arange(block, dtype=jnp.int32)
    i, j = along(self.start[query] + tokens, False), along(key * block + tokens, True)
    found = (j <= i) & (i < along(self.end[keys], True))
    if self.window is not None:
      apart = along(self.at_q[queries], False) - along(self.at_k[keys], True)
      found &= apart < self.window[0]
    return found


def pairs(mask: Mask, *, by_key: bool) -> Pairs:
  """The pairs of each query block, or of each key block."""
  steps = mask.tree.by_key if by_key else mask.tree.by_query
  inner = steps.query if by_key else steps.key
  of_tokens = mask.end, mask.at_q, mask.at_k, mask.window
  return Pairs(steps.offsets, inner, steps.flags, mask.tree.start, *of_tokens)


def slice_of(index: Int[Array, ""], block: int) -> pl.Slice:
  """The tokens of a block."""
  return pl.ds(index * block, block)


def padded(x: Float[Array, "*axes D"]) -> Float[Array, "*axes P"]:
  """Heads filled up with zeros, which add nothing to a score, nor to what is attended."""
  more = limits.padded_depth(x.shape[-1]) - x.shape[-1]
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)]) if more else x


def by_query(
  q: Float[Array, "B N G Q D"], k: Float[Array, "B N K D"], block: int
) -> tuple[tuple[int, int, int], pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
  """The grid of query blocks, and what a program sees: of queries, their numbers, and keys.

  Heads and rows go fastest. A later block has more keys before it: those come first, and the short
  ones fill up the end.
  """
  rows, kv_heads, group, length, depth = q.shape
  last = length // block - 1

  def index(head: Any, row: Any, output: Any) -> tuple[Any, ...]:
    return row, jax.lax.div(head, group), jax.lax.rem(head, group), last - output

  return (
    (kv_heads * group, rows, last + 1),
    pl.BlockSpec((None, None, None, block, depth), lambda *at: (*index(*at), 0)),
    pl.BlockSpec((None, None, None, block), index),
    pl.BlockSpec((None, None, k.shape[2], depth), lambda *at: (*index(*at)[:2], 0, 0)),
  )


def by_key(
  q: Float[Array, "B N G Q D"], k: Float[Array, "B N K D"], block: int
) -> tuple[tuple[int, int, int], pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
  """The same of key blocks, of which the first ones have the most queries after them."""
  rows, kv_heads, group, length, depth = q.shape
  return (
    (kv_heads, rows, k.shape[2] // block),
    pl.BlockSpec((None, None, group, length, depth), lambda head, row, _: (row, head, 0, 0, 0)),
    pl.BlockSpec((None, None, group, length), lambda head, row, _: (row, head, 0, 0)),
    pl.BlockSpec((None, None, block, depth), lambda head, row, output: (row, head, output, 0)),
  )


def query_block() -> tuple[Int[Array, ""], Int[Array, ""]]:
  """The query block of a program of `by_query`, in its row and in the order of the offsets."""
  query = pl.num_programs(2) - 1 - pl.program_id(2)
  return query, pl.program_id(1) * pl.num_programs(2) + query


def key_block() -> tuple[Int[Array, ""], Int[Array, ""]]:
  """The key block of a program of `by_key`, likewise."""
  return pl.program_id(2), pl.program_id(1) * pl.num_programs(2) + pl.program_id(2)


def scores(a: Float[Array, "M D"], b: Float[Array, "N D"], rules: Rules) -> Float[Array, "M N"]:
  """Scores of a pair of blocks, to the base 2: the powers that GPUs compute are those of 2."""
  if not rules.softcap:
    return product_t(a, b) * (rules.scale * _TO_BASE_2)
  return soft_caps.soft_cap(product_t(a, b) * rules.scale, rules.softcap) * _TO_BASE_2


def slope(found: Float[Array, "M N"], rules: Rules) -> Float[Array, "M N"] | float:
  """The derivative of the soft cap of such scores."""
  return soft_caps.slope(found, rules.softcap * _TO_BASE_2) if rules.softcap else 1.0


def call(
  kernel: Callable[..., None],
  name: str,
  grid: tuple[int, int, int],
  found: Pairs,
  inputs: Sequence[tuple[Array, pl.BlockSpec]],
  outputs: Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
  *,
  products: int,
  heads: int,
  rules: Rules,
) -> list[Array]:
  """Runs a kernel for every output block, row and head.

  Args:
    kernel: given the pairs, then inputs and outputs.
    name: of the kernel.
    grid: heads, rows, output blocks.
    found: the pairs.
    inputs: arrays, each with what a program sees of it.
    outputs: shapes, likewise.
    products: matrix products of a pair, of each query head.
    heads: of queries.
    rules: of the attention.
  """
  arrays, in_specs = zip(*inputs, strict=True)
  shapes, out_specs = zip(*outputs, strict=True)
  depth = arrays[0].shape[-1]
  return pl.pallas_call(
    kernel,
    name=name,
    grid=grid,
    in_specs=[found.specs(), *in_specs],
    out_specs=list(out_specs),
    out_shape=list(shapes),
    compiler_params=limits.compiler_params(rules.block, depth, arrays[0].dtype.itemsize),
    cost_estimate=rules_lib.cost(
      [*arrays, *shapes],
      products=products,
      heads=heads,
      depth=depth,
      pairs=found.inner.shape[0],  # at most: how many there are is known when it runs
      rules=rules,
    ),
    interpret=rules.kernels.interpret,
  )(found, *arrays)
