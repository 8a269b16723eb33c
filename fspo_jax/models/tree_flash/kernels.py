# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the three kernels have in common: their rules, their blocks, and how a step is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fspo_jax.models.tree_flash import blocks

# A finite floor of scores: a query that sees nothing in its first blocks must not meet inf - inf.
FLOOR = -1e30
# Lanes of a TPU's vector registers: a number for each query is kept in as many copies.
LANES = 128
# Contracts the last axes of two matrices: a b^T.
_LAST = (((1,), (1,)), ((), ()))


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is static of the attention.

  Attributes:
    block: tokens of a block, of queries and of keys.
    scale: of the scores.
    softcap: bound of the scores, by tanh; 0 for none.
    windowed: whether a window bounds what is seen.
    interpret: whether the kernels are interpreted, on any platform, rather than compiled.
  """

  block: int
  scale: float
  softcap: float
  windowed: bool
  interpret: bool


class Mask(NamedTuple):
  """Who sees whom, on a device.

  Attributes:
    tree: the blocks that there are.
    end: `subtree_end`.
    at_q: positions of the queries; None without a window.
    at_k: of the keys.
    window: how many tokens of its path a token sees.
  """

  tree: blocks.TreeBlocks
  end: Int[Array, "B K"]
  at_q: Int[Array, "B Q"] | None
  at_k: Int[Array, "B K"] | None
  window: Int[Array, " 1"] | None

  def scalars(self) -> list[Int[Array, " n"]]:
    """Lists of numbers that a kernel reads beside its steps."""
    return [self.tree.start] if self.window is None else [self.tree.start, self.window]

  def inputs(self, block: int, *, transposed: bool) -> list[Operand]:
    """Numbers of tokens; of keys along the columns of a block of scores, or `transposed`."""
    found = [_of_tokens(self.end, block, keys=True, column=transposed)]
    if self.window is not None:
      found.append(_of_tokens(self.at_q, block, keys=False, column=not transposed))
      found.append(_of_tokens(self.at_k, block, keys=True, column=transposed))
    return found


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


def product(a: Float[Array, "M C"], b: Float[Array, "C N"]) -> Float[Array, "M N"]:
  """The product of two matrices, in float32."""
  return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=_precision(a))


def product_t(a: Float[Array, "M C"], b: Float[Array, "N C"]) -> Float[Array, "M N"]:
  """The product of a matrix with the transposed other, in float32."""
  return jax.lax.dot_general(
    a, b, _LAST, preferred_element_type=jnp.float32, precision=_precision(a)
  )


def _precision(x: Array) -> jax.lax.Precision:
  # Without it a TPU rounds float32 to bfloat16 first.
  exact = x.dtype == jnp.float32
  return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


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
  """
  group, depth = inputs[0].block[2], inputs[0].block[4]
  pairs = steps.row.shape[0]  # at most: how many there are is known when it runs
  area = float(rules.block * rules.block * group * heads * pairs)
  read = sum(x.of.size * x.of.dtype.itemsize for x in (*inputs, *outputs))
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
    cost_estimate=pl.CostEstimate(
      flops=int(2 * depth * area * products), transcendentals=int(area), bytes_accessed=int(read)
    ),
    interpret=rules.interpret,
  )(*steps[:4], *scalars, *(x.of for x in inputs))
