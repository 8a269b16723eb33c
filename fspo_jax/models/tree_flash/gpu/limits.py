# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How large a block is on a GPU, and how many threads have it.

A program has blocks of queries, keys and values, and of their gradients, in shared memory (163 KiB
of an A100, 227 KiB of an H100 or H200) and in the registers of its threads (255 each). The three
kernels, with a window and a soft cap, were compiled by jaxlib 0.10.2 for the compute capabilities
8.0 and 9.0, at the most that is allowed here and at half of it (29 November 2026, no GPU: by
`compile_triton_to_asm` of jax-cuda13-plugin), and what they use read from the result (`ptxas -v`
of CUDA 13.5). They take at most 105 KiB of shared memory. In bfloat16 no more than 16 bytes a
thread spill from registers on 9.0; on 8.0 3,020 with 128 tokens and 584 with 64 of depth 64. Up to
568 spill in float32, whose products are not for tensor cores. Twice as large blocks took 193 KiB.
Nothing was timed. All this was read before the loops' bounds left out dead pairs of keys; with that
the kernels compile as before, and were not read again.
"""

from __future__ import annotations

from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Triton's arrays are powers of two, and the sides of its matrix products this at least.
LEAST = 16
# Of GPUs that blocks of these sizes were compiled for: others have less shared memory (99 KiB a
# block of 8.6, 8.9 and 12.0), or nothing is known of them.
CAPABILITIES = ("8.0", "9.0")
_MOST_BYTES = 64 * 128 * 2  # of a block of keys
_MOST_ROW_BYTES = 128 * 2  # of a block of scores, as large as numbers are in the products
# Above it eight warps have a block, where four would spill.
_FEW_BYTES = 64 * 64 * 2


def padded_depth(depth: int) -> int:
  """The depth of a head that a kernel has: a power of two."""
  return max(pl.next_power_of_2(depth), LEAST)


def most_tokens(depth: int, size: int) -> int:
  """The longest block.

  Args:
    depth: of a head.
    size: bytes of a number.
  """
  return min(_MOST_BYTES // (padded_depth(depth) * size), _MOST_ROW_BYTES // size)


def compiler_params(block: int, depth: int, size: int) -> triton.CompilerParams:
  """Threads, in warps of 32, and how many of a loop's rounds are under way at once.

  With two, the next keys (or queries) are on their way while products are of these.
  """
  largest = block * max(block, padded_depth(depth)) * size
  return triton.CompilerParams(num_warps=8 if largest > _FEW_BYTES else 4, num_stages=2)
