# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which blocks of a token tree's attention there are, from `subtree_end` alone.

A pair of a block of queries and one of keys is *dead* if none of its queries sees one of its keys,
and *whole* if every one sees them all. In depth-first preorder two numbers of a key block say so,
the largest and the smallest `subtree_end` in it (compare FlashMask, arXiv 2410.01359). A window
adds those of positions, and then a pair that is dead may be taken for a live one (never the other
way round). A kernel goes through a list of the live pairs: of the dead it sees nothing.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Int

from fspo_jax import sharding

# What is to be done in a step, as bits: begin and end an output block; compute; under the mask.
FIRST, LAST, LIVE, MASKED = 1, 2, 4, 8


class Steps(NamedTuple):
  """Pairs of blocks in the order of a kernel's steps; the first `count` are to be gone through.

  Those of output block o, of all rows' one after another, are from `offsets[o]` to before
  `offsets[o + 1]`: for who goes through the outputs side by side.
  """

  row: Int[Array, " T"]
  query: Int[Array, " T"]
  key: Int[Array, " T"]
  flags: Int[Array, " T"]
  count: Int[Array, ""]
  offsets: Int[Array, " O+1"]


class TreeBlocks(NamedTuple):
  """What the kernels read of a batch beside queries, keys and values: on each device its own part.

  Attributes:
    by_query: all the pairs of a query block one after another, for its output and gradient.
    by_key: all those of a key block.
    start: the index in the row at which each of the device's query blocks starts.
  """

  by_query: Steps
  by_key: Steps
  start: Int[Array, " M"]


def padded_end(subtree_end: Int[Array, "B L"], length: int) -> Int[Array, "B P"]:
  """The trees of rows that padding fills up to `length`: each of its tokens sees itself alone."""
  rows, found = subtree_end.shape
  alone = jnp.broadcast_to(jnp.arange(found, length)[None, :] + 1, (rows, length - found))
  return jnp.concatenate([subtree_end, alone.astype(subtree_end.dtype)], axis=1)


def padded_length(length: int, block: int) -> int:
  """The length of a row in whole blocks, as many for each part of the mesh's axis `context`."""
  step = block * sharding.context_shards()
  return -(-length // step) * step


def _pairs(
  end: Int[Array, "B L"],
  positions: Int[Array, "B L"] | None,
  window: Int[Array, ""] | int | None,
  start: Int[Array, " M"],
  block: int,
) -> tuple[Bool[Array, "B M K"], Bool[Array, "B M K"]]:
  """Which pairs of blocks are live, and which whole."""

  def of_blocks(x: Int[Array, "B L"], most: bool) -> Int[Array, "B K"]:
    blocks = x.reshape(x.shape[0], -1, block)
    return blocks.max(axis=2) if most else blocks.min(axis=2)

  first, last = start[None, :, None], start[None, :, None] + block - 1
  keys = (jnp.arange(end.shape[1] // block) * block)[None, None, :]
  live = (keys <= last) & (of_blocks(end, True)[:, None, :] > first)
  whole = (keys + block - 1 <= first) & (of_blocks(end, False)[:, None, :] > last)
  if window is not None:
    mine = start // block  # of a block that starts there, among all
    low, high = (of_blocks(positions, most) for most in (False, True))
    live &= low[:, mine][:, :, None] - high[:, None, :] < window
    whole &= high[:, mine][:, :, None] - low[:, None, :] < window
  return live, whole


def _steps(
  live: Bool[Array, "B M K"], whole: Bool[Array, "B M K"], most: int, *, by_key: bool
) -> Steps:
  """Lists the pairs that are live, and of a key block without any one that is not."""
  rows, queries, keys = live.shape
  flags = jnp.where(whole, LIVE, LIVE | MASKED) * live
  listed = live
  if by_key:
    listed = live.at[:, 0].set(live[:, 0] | ~live.any(axis=1))
    listed, flags = listed.swapaxes(1, 2), flags.swapaxes(1, 2)
  ends = jnp.cumsum(listed.sum(axis=2, dtype=jnp.int32).reshape(-1))
  offsets, count = jnp.concatenate([jnp.zeros(1, jnp.int32), ends]), ends[-1]
  (flat,) = jnp.nonzero(listed.reshape(-1), size=most, fill_value=0)
  row, outer, inner = jnp.unravel_index(flat, listed.shape)
  flags = flags.reshape(-1)[flat]
  # Of the outputs one after another, which are those of rows and outer blocks.
  output = row * listed.shape[1] + outer
  index = jnp.arange(most)
  changes = output[1:] != output[:-1]
  flags |= FIRST * jnp.concatenate([jnp.ones(1, bool), changes])
  flags |= LAST * (jnp.concatenate([changes, jnp.ones(1, bool)]) | (index == count - 1))
  query, key = (inner, outer) if by_key else (outer, inner)
  return Steps(*(x.astype(jnp.int32) for x in (row, query, key, flags)), count, offsets)


def _of_device(
  end: Int[Array, "B L"],
  positions: Int[Array, "B L"] | None,
  window: Int[Array, ""] | None,
  *,
  block: int,
  parts: int,
) -> TreeBlocks:
  """The blocks of a device's rows, and its part of each row's queries; every array has an axis."""
  rows, keys = end.shape[0], end.shape[1] // block
  part = jax.lax.axis_index("context") if parts > 1 else 0
  # Block m of a device is its own of the m-th group of blocks: all have as much to do.
  groups = keys // parts
  start = (jnp.arange(groups) * parts + part) * block
  live, whole = _pairs(end, positions, window, start, block)
  most = rows * sum((m + 1) * parts for m in range(groups))
  found = TreeBlocks(
    _steps(live, whole, most, by_key=False),
    # With its part of the queries alone, a device may have keys that none of them comes after.
    _steps(live, whole, most + (rows * keys if parts > 1 else 0), by_key=True),
    start.astype(jnp.int32),
  )
  return jax.tree.map(lambda x: x[None], found)


def tree_blocks(
  subtree_end: Int[Array, "B L"],
  positions: Int[Array, "B L"],
  *,
  block: int,
  window: Int[Array, ""] | None = None,
) -> TreeBlocks:
  """The blocks of a batch, once for all the layers that have the same window.

  Args:
    subtree_end: the trees.
    positions: along the path from the root; only a window looks at them.
    block: tokens of a block, of queries and of keys.
    window: how many tokens of its path a token sees, itself included; None for all.

  Returns:
    The blocks, each array with a leading axis of the devices that have rows or queries of their
    own; a kernel is given its own.
  """
  length = padded_length(subtree_end.shape[1], block)
  end = padded_end(subtree_end, length)
  at = None
  if window is not None:
    at = jnp.pad(positions, ((0, 0), (0, length - positions.shape[1])))
  parts = sharding.context_shards()
  of_device = functools.partial(_of_device, block=block, parts=parts)
  rows = PartitionSpec(sharding.BATCH_AXES)
  devices = PartitionSpec((*sharding.BATCH_AXES, "context"))
  given = (rows, None if at is None else rows, None if window is None else PartitionSpec())
  return per_device(of_device, given, devices)(end, at, window)


def per_device(fn: Callable, inputs: tuple, outputs: PartitionSpec | tuple) -> Callable:
  """`fn` on each device's own part under a mesh, and as it is without one."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return fn
  return jax.shard_map(fn, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
