# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the three kernels for TPUs have in common: their blocks, and how a step is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from fspo_jax.models.tree_flash import blocks
from fspo_jax.models.tree_flash import rules as rules_lib
from fspo_jax.models.tree_flash.rules import Mask, Rules

# Lanes of a TPU's vector registers: a number for each query is kept in as many copies.
LANES = 128
# Bytes of a core's scalar memory, less some for the rest: v5e, v5p and v6e have 1 MiB.
_MOST_LISTED = 2**20 - 2**14


@dataclasses.dataclass(frozen=True)
class Operand:
  """An array of a call, and which block of it a step sees.

  Attributes:
    of: the array, or the shape of an output.
    block: the block's shape.
    index: of the block, from the step's head, row, query and key block.
  """

  of: Any
  block: tuple[int, ...]
  index: Callable[[Any, Any, Any, Any], tuple[Any, ...]]

  def spec(self) -> pl.BlockSpec:
    """How Pallas is told."""

    def index(head: Any, step: Any, row: Any, query: Any, key: Any, *_: Any) -> tuple[Any, ...]:
      return self.index(head, row[step], query[step], key[step])

    return pl.BlockSpec(self.block, index)


def of_queries(x: Any, block: int) -> Operand:
  """[B, N, G, Q, D], the heads of a group together."""
  shape = (1, 1, x.shape[2], block, x.shape[4])
  return Operand(x, shape, lambda head, row, query, key: (row, head, 0, query, 0))


def of_query_numbers(x: Any, block: int) -> Operand:
  """[B, N, G, 1, Q]: a number for each query."""
  shape = (1, 1, x.shape[2], 1, block)
  return Operand(x, shape, lambda head, row, query, key: (row, head, 0, 0, query))


def of_keys(x: Any, block: int) -> Operand:
  """[B, N, K, D]."""
  shape = (1, 1, block, x.shape[3])
  return Operand(x, shape, lambda head, row, query, key: (row, head, key, 0))


def scalars(mask: Mask) -> list[Int[Array, " n"]]:
  """Lists of numbers that a kernel reads beside its steps."""
  return [mask.tree.start] if mask.window is None else [mask.tree.start, mask.window]


def of_mask(mask: Mask, block: int, *, transposed: bool) -> list[Operand]:
  """Numbers of tokens; of keys along the columns of a block of scores, or `transposed`."""
  found = [_of_tokens(mask.end, block, keys=True, column=transposed)]
  if mask.window is not None:
    found.append(_of_tokens(mask.at_q, block, keys=False, column=not transposed))
    found.append(_of_tokens(mask.at_k, block, keys=True, column=transposed))
  return found


def _of_tokens(x: Int[Array, "B L"], block: int, *, keys: bool, column: bool) -> Operand:
  """A number for each token, in a row of the scores' block or in a column."""

  def index(head: Any, row: Any, query: Any, key: Any) -> tuple[Any, ...]:
    at = key if keys else query
    return (row, at, 0) if column else (row, 0, at)

  if column:
    return Operand(x[:, :, None], (1, block, 1), index)
  return Operand(x[:, None, :], (1, 1, block), index)


def for_each(count: int, body: Callable[[Any], None]) -> None:
  """Runs `body` for 0, 1, ..: the heads of a group, whose code a loop has once."""
  if count == 1:
    body(0)
    return

  def step(index: Int[Array, ""], carry: None) -> None:
    del carry
    body(index)

  jax.lax.fori_loop(0, count, step, None)


def when_live(flag: Any, compute: Callable[[bool], None]) -> None:
  """Computes a live pair of blocks: under the mask, or as it is where every query sees all keys."""
  pl.when(flag & blocks.MASKED != 0)(lambda: compute(True))
  pl.when(flag & (blocks.LIVE | blocks.MASKED) == blocks.LIVE)(lambda: compute(False))


def visible(
  first_i: Int[Array, ""],
  first_j: Int[Array, ""],
  end_ref: Any,
  at_refs: tuple[Any, ...],
  window: Any,
  block: int,
  *,
  transposed: bool,
) -> Bool[Array, "M N"]:
  """Who sees whom in a pair of blocks.

  Args:
    first_i: index of the first query.
    first_j: index of the first key.
    end_ref: `subtree_end` of the keys.
    at_refs: positions of the queries and of the keys; none without a window.
    window: the window; None for none.
    block: tokens of a block.
    transposed: whether keys go down and queries across, or the other way round.
  """
  i = first_i + jax.lax.broadcasted_iota(jnp.int32, (block, block), int(transposed))
  j = first_j + jax.lax.broadcasted_iota(jnp.int32, (block, block), int(not transposed))
  mask = (j <= i) & (i < end_ref[0])
  if window is not None:
    at_i, at_j = at_refs
    mask &= at_i[0] - at_j[0] < window[0]
  return mask


def call(
  kernel: Callable[..., None],
  name: str,
  steps: blocks.Steps,
  scalars: Sequence[Int[Array, " n"]],
  inputs: Sequence[Operand],
  outputs: Sequence[Operand],
  scratch: Sequence[tuple[int, ...]],
  *,
  products: int,
  heads: int,
  rules: Rules,
) -> list[Array]:
  """Runs a kernel for every head and every listed pair of blocks, and for no other.

  Args:
    kernel: given the steps' four lists, the scalars, then blocks and scratch.
    name: of the kernel.
    steps: the pairs.
    scalars: further lists of numbers that it reads.
    inputs: arrays.
    outputs: shapes.
    scratch: shapes of what is kept between steps, in float32.
    products: matrix products of a pair, of each query head.
    heads: of keys; the grid is over these.
    rules: of the attention.

  Raises:
    ValueError: the lists of pairs do not fit a TPU core's scalar memory.
  """
  group, depth = inputs[0].block[2], inputs[0].block[4]
  pairs = steps.row.shape[0]  # at most: how many there are is known when it runs
  listed = sum(x.size * x.dtype.itemsize for x in (*steps[:4], *scalars))
  if listed > _MOST_LISTED and not rules.kernels.interpret:
    raise ValueError(
      f"model.attention='pallas_tpu': {pairs} pairs of blocks of {rules.block} tokens take "
      f"{listed} bytes of a core's scalar memory, expected at most {_MOST_LISTED}: shorter or "
      "fewer rows on a device, or a larger model.attention_block"
    )
  arrays = [x.of for x in (*inputs, *outputs)]
  return pl.pallas_call(
    kernel,
    name=name,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=4 + len(scalars),
      grid=(heads, steps.count),
      in_specs=[x.spec() for x in inputs],
      out_specs=[x.spec() for x in outputs],
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
    ),
    out_shape=[x.of for x in outputs],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=rules_lib.cost(
      arrays, products=products, heads=group * heads, depth=depth, pairs=pairs, rules=rules
    ),
    interpret=rules.kernels.interpret,
  )(*steps[:4], *scalars, *(x.of for x in inputs))
