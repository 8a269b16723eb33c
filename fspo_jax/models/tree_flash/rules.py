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

from fspo_jax.models.tree_flash import blocks

# Whose kernels there are; interpreted, they run on any platform, slowly: for tests.
_FOR_TPUS = ("pallas_tpu", "pallas_interpret")
_FOR_GPUS = ("pallas_gpu", "pallas_gpu_interpret")
# A finite floor of scores: a query that sees nothing in its first blocks must not meet inf - inf.
FLOOR = -1e30
# Contracts the last axes of two matrices: a b^T.
_LAST = (((1,), (1,)), ((), ()))


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is static of the attention.

  Attributes:
    kernels: whose, and whether they are interpreted: what `model.attention` is, but 'xla'. Another
      is a ValueError.
    block: tokens of a block, of queries and of keys.
    scale: of the scores.
    softcap: bound of the scores, by tanh; 0 for none.
    windowed: whether a window bounds what is seen.
  """

  kernels: str
  block: int
  scale: float
  softcap: float
  windowed: bool

  def __post_init__(self) -> None:
    known = (*_FOR_TPUS, *_FOR_GPUS)
    if self.kernels not in known:
      raise ValueError(f"kernels={self.kernels!r}: expected one of {known}")

  @property
  def for_gpus(self) -> bool:
    """Whether the kernels are those for GPUs; else those for TPUs."""
    return self.kernels in _FOR_GPUS

  @property
  def interpret(self) -> bool:
    """Whether they are interpreted, on any platform, rather than compiled."""
    return self.kernels.endswith("_interpret")


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
