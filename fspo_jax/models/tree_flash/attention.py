# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention on token trees by the kernels, on one device or on each of a mesh."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from fspo_jax import sharding
from fspo_jax.models import architecture
from fspo_jax.models.tree_flash import blocks, gpu, tpu
from fspo_jax.models.tree_flash.rules import Mask, Rules


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
  q: Float[Array, "B N G Q D"],
  k: Float[Array, "B N K D"],
  v: Float[Array, "B N K D"],
  mask: Mask,
  rules: Rules,
) -> Float[Array, "B N G Q D"]:
  return _attend_forward(q, k, v, mask, rules)[0]


def _attend_forward(q: Array, k: Array, v: Array, mask: Mask, rules: Rules) -> tuple[Array, tuple]:
  forward = gpu.forward if rules.kernels.platform == "gpu" else tpu.forward
  out, log_sums = forward(q, k, v, mask, rules)
  return out, (q, k, v, out, log_sums, mask)


def _attend_backward(rules: Rules, kept: tuple, d_out: Array) -> tuple:
  *kept, mask = kept
  backward = gpu.backward if rules.kernels.platform == "gpu" else tpu.backward
  return *backward(*kept, d_out, mask, rules), None


_attend.defvjp(_attend_forward, _attend_backward)


def _of_device(
  q: Float[Array, "B M 1 S N G D"],
  k: Float[Array, "B K N D"],
  v: Float[Array, "B K N D"],
  tree: blocks.TreeBlocks,
  end: Int[Array, "B K"],
  at_q: Int[Array, "B M 1 S"] | None,
  at_k: Int[Array, "B K"] | None,
  window: Int[Array, " 1"] | None,
  *,
  rules: Rules,
) -> Float[Array, "B M 1 S N G D"]:
  """A device's own query blocks against all the keys of its rows and heads."""
  rows, count, _, size, kv_heads, group, depth = q.shape
  own = q.reshape(rows, count * size, kv_heads, group, depth).transpose(0, 2, 3, 1, 4)
  at_q = None if window is None else at_q.reshape(rows, count * size)
  mask = Mask(jax.tree.map(lambda x: x[0], tree), end, at_q, at_k, window)
  out = _attend(own, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, rules)
  return out.transpose(0, 3, 1, 2, 4).reshape(q.shape)


def attention(
  q: Float[Array, "B L H D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  subtree_end: Int[Array, "B L"],
  positions: Int[Array, "B L"] | None,
  tree: blocks.TreeBlocks,
  *,
  implementation: str,
  block: int,
  window: Int[Array, ""] | int | None = None,
  scale: float | None = None,
  softcap: float = 0.0,
) -> Float[Array, "B L H D"]:
  """`models.tree_attention.attention`, by kernels that go through the live blocks alone.

  Under a mesh each device has its rows, its heads, and of each group of query blocks (as many as
  the axis `context` is long) its own one, against all keys. Rows are filled up to whole blocks.

  Args:
    q: queries of H heads.
    k: keys of N heads; N divides H (grouped-query attention).
    v: values.
    subtree_end: the tree, see `episodes.trees`.
    positions: along the path from the root; a window needs them.
    tree: of `blocks.tree_blocks`, for the same block and window.
    implementation: whose kernels: what `model.attention` is, but 'xla'.
    block: tokens of a block, of queries and of keys.
    window: how many tokens of its path a token sees, itself included; None for all.
    scale: of the scores; None for 1 / sqrt(D).
    softcap: bound of the scores, by tanh; 0 for none.

  Returns:
    The attended values.

  Raises:
    ValueError: the blocks are those of other rows, or of other sizes; a window without positions;
      there are no such kernels.
  """
  kernels = architecture.ATTENTIONS.get(implementation)
  if kernels is None:
    known = [name for name, found in architecture.ATTENTIONS.items() if found is not None]
    raise ValueError(f"implementation={implementation!r}: expected one of {known}")
  if window is not None and positions is None:
    raise ValueError("a window counts along positions: found none")
  rows, found, heads, depth = q.shape
  kv_heads, parts = k.shape[2], sharding.context_shards()
  length, listed = blocks.padded_length(found, block), tree.start.shape[-1] * parts * block
  if listed != length:
    raise ValueError(f"tree: found blocks of {listed} tokens, expected {length} with block={block}")

  def padded(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, length - found), *((0, 0),) * (x.ndim - 2)))

  def grouped(x: Array) -> Array:
    return x.reshape(rows, -1, parts, block, *x.shape[2:])

  queries = grouped(padded(q).reshape(rows, length, kv_heads, heads // kv_heads, depth))
  end = blocks.padded_end(subtree_end, length)
  at = None if window is None else padded(positions)
  at_q = None if at is None else grouped(at)
  bound = None if window is None else jnp.asarray(window, jnp.int32).reshape(1)
  rules = Rules(
    kernels=kernels,
    block=block,
    scale=depth**-0.5 if scale is None else scale,
    softcap=softcap,
    windowed=window is not None,
  )
  batch = sharding.BATCH_AXES
  of_rows = PartitionSpec(batch)
  of_keys = PartitionSpec(batch, None, "tensor")
  of_queries = PartitionSpec(batch, None, "context", None, "tensor")
  devices = PartitionSpec((*batch, "context"))
  at_spec = None if at is None else PartitionSpec(batch, None, "context")
  specs = (of_queries, of_keys, of_keys, devices, of_rows, at_spec)
  specs += (None, None) if at is None else (of_rows, PartitionSpec())
  run = blocks.per_device(functools.partial(_of_device, rules=rules), specs, of_queries)
  out = run(queries, padded(k), padded(v), tree, end, at_q, at, bound)
  return out.reshape(rows, length, heads, depth)[:, :found]
