# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all kernels are given, whatever they run on: rules, mask; and their matrix products."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fspo_jax.models.architecture import Kernels
from fspo_jax.models.tree_flash import blocks

# A finite floor of scores: a query that sees nothing in its first blocks must not meet inf - inf.
FLOOR = -1e30
# Contracts the last axes of two matrices: a b^T.
_LAST = (((1,), (1,)), ((), ()))


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is static of the attention.

  Attributes:
    kernels: which ones.
    block: tokens of a block, of queries and of keys.
    scale: of the scores.
    softcap: bound of the scores, by tanh; 0 for none.
    windowed: whether a window bounds what is seen.
  """

  kernels: Kernels
  block: int
  scale: float
  softcap: float
  windowed: bool


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


def product(a: Float[Array, "M C"], b: Float[Array, "C N"]) -> Float[Array, "M N"]:
  """The product of two matrices, in float32."""
  return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=_precision(a))


def product_t(a: Float[Array, "M C"], b: Float[Array, "N C"]) -> Float[Array, "M N"]:
  """The product of a matrix with the transposed other, in float32."""
  return jax.lax.dot_general(
    a, b, _LAST, preferred_element_type=jnp.float32, precision=_precision(a)
  )


def _precision(x: Array) -> jax.lax.Precision:
  # Without it float32 is rounded first: by a TPU to bfloat16, by a GPU to TF32.
  exact = x.dtype == jnp.float32
  return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT


def cost(
  arrays: Sequence[Any], *, products: int, heads: int, depth: int, pairs: int, rules: Rules
) -> pl.CostEstimate:
  """What a kernel computes and moves, if no block of a tree is dead.

  Args:
    arrays: that it reads and writes, each as if once.
    products: matrix products of a pair of blocks, of each query head.
    heads: of queries.
    depth: of a head.
    pairs: of blocks, of all rows.
    rules: of the attention.
  """
  area = float(rules.block * rules.block * heads * pairs)
  moved = sum(x.size * x.dtype.itemsize for x in arrays)
  return pl.CostEstimate(
    flops=int(2 * depth * area * products), transcendentals=int(area), bytes_accessed=int(moved)
  )
