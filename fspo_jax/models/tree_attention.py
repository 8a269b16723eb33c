# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention over token trees in plain XLA, on any device: queries block by block, never L x L.

As in flash attention (arXiv 2205.14135) a block of scores is made, used and forgotten, and made
again backwards under the sums of exponentials that were kept. On CPUs a few rows go at once, so
that a block stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fspo_jax import sharding
from fspo_jax.models import soft_caps

# A finite floor of scores: no inf - inf, whatever a query sees.
_FLOOR = -1e30

# More blocks than so many come in spans, whose blocks go one after another against the same keys,
# those before the span's end. Each span is compiled by itself, forwards and backwards: many take
# XLA minutes. Few look at keys in vain: 16 blocks in 4 spans at 18 % more.
_ALONE, _SPANS = 8, 4

# Of a CPU's cache, for a block of scores: two cores have more, and one does not read what is left.
_CACHE_BYTES = 2 << 20

# Arrays of queries are [batch, kv heads, group, length, ...].
_LENGTH = 3

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True)
class _How:
  """What is known when it is compiled; see `attention`."""

  block: int
  scale: float
  softcap: float


class _Tree(NamedTuple):
  """Who sees whom; positions and window where there is a window, one for each row."""

  end: Int[Array, "B L"]
  at: Int[Array, "B L"] | None
  window: Int[Array, " B"] | None


class _Queries(NamedTuple):
  """A block of queries, or all of them: what there is of each."""

  q: Float[Array, "B N G Q D"]  # times the scale
  index: Int[Array, "1 1 1 Q"]
  at: Int[Array, "B 1 1 Q"] | None
  # Backwards, the forward pass's sums of exponentials, and of what comes back.
  total: Float[Array, "B N G Q"] | None = None
  cotangent: Float[Array, "B N G Q D"] | None = None
  dot: Float[Array, "B N G Q"] | None = None  # of the cotangent with the output


def spans(length: int, block: int) -> list[tuple[int, int]]:
  """Where spans start and stop: of whole blocks, as many in each; what is left is the last one."""
  count = length // block
  whole = count * block
  step = block * (1 if count <= _ALONE else -(-count // _SPANS))
  edges = sorted({*range(0, whole, step), whole, length})
  return list(itertools.pairwise(edges))


def attention(
  q: Float[Array, "B L H D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  subtree_end: Int[Array, "B L"],
  positions: Int[Array, "B L"] | None = None,
  *,
  block: int,
  window: Int[Array, ""] | int | None = None,
  scale: float | None = None,
  softcap: float = 0.0,
) -> Float[Array, "B L H D"]:
  """Exact attention on token trees: i attends to j iff `j <= i < subtree_end[j]`.

  A window counts along the path from the root, whatever branches lie in between: a branch sees
  what its plain sequence would.

  Queries go block by block against the keys that can come before them (or before the last of a
  few blocks, see `_SPANS`), and the backward pass makes each block again, so that no L x L array
  outlives its block. Scores and softmax are in float32. It has a reverse derivative, and no
  forward-mode one.

  Args:
    q: queries of H heads.
    k: keys of N heads; N divides H (grouped-query attention).
    v: values.
    subtree_end: the tree, see `episodes.trees`; `subtree_end[i] > i`, padding too: every token sees
      itself at least.
    positions: along the path from the root; a window needs them.
    block: queries per block.
    window: how many tokens of its path a token sees, itself included; None for all.
    scale: of the scores; None for 1 / sqrt(D).
    softcap: bound of the scores, by tanh; 0 for none.

  Returns:
    The attended values.

  Raises:
    ValueError: a window without positions.
  """
  if window is not None and positions is None:
    raise ValueError("a window counts along positions: found none")
  batch, length, heads, depth = q.shape
  grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], depth)
  k, v = sharding.gather_tokens(k), sharding.gather_tokens(v)
  tree = _Tree(subtree_end, None, None)
  if window is not None:
    tree = _Tree(subtree_end, positions, jnp.broadcast_to(jnp.asarray(window), (batch,)))
  how = _How(block, depth**-0.5 if scale is None else scale, softcap)
  return _attend(grouped, k, v, tree, how).reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
  q: Float[Array, "B L N G D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  tree: _Tree,
  how: _How,
) -> Float[Array, "B L N G D"]:
  return _attend_forward(q, k, v, tree, how)[0]


def _attend_forward(q: Array, k: Array, v: Array, tree: _Tree, how: _How) -> tuple[Array, tuple]:
  out, total = _by_rows(_forward, how, q, k, v, tree)
  return out, (q, k, v, tree, out, total)


def _attend_backward(how: _How, kept: tuple, cotangent: Array) -> tuple:
  return *_by_rows(_backward, how, *kept, cotangent), None


_attend.defvjp(_attend_forward, _attend_backward)


def _by_rows(function: Callable[..., Any], how: _How, *arrays: Any) -> Any:
  """Calls a function of rows: of all at once, and on CPUs of as many as keep to the cache."""
  batch, length, kv_heads, group = arrays[0].shape[:4]
  rows = max(_CACHE_BYTES // (4 * kv_heads * group * min(how.block, length) * length), 1)
  # Every part has rows of every device, as many of each.
  devices = math.gcd(batch, sharding.batch_shards())
  own = batch // devices
  parts = next(n for n in range(1, max(own, 1) + 1) if own % n == 0 and own // n <= rows)

  def split(x: Array) -> Array:
    by_device = x.reshape(devices, parts, -1, *x.shape[1:])
    return by_device.swapaxes(0, 1).reshape(parts, -1, *x.shape[1:])

  def join(x: Array) -> Array:
    by_device = x.reshape(parts, devices, -1, *x.shape[2:])
    return by_device.swapaxes(0, 1).reshape(batch, *x.shape[2:])

  def whole(*arrays: Any) -> Any:
    return function(how, *arrays)

  def in_parts(*arrays: Any) -> Any:
    found = jax.lax.map(lambda part: whole(*part), jax.tree.map(split, arrays))
    return jax.tree.map(join, found)

  if parts == 1:
    return whole(*arrays)
  return jax.lax.platform_dependent(*arrays, cpu=in_parts, default=whole)


def _queries(how: _How, q: Float[Array, "B L N G D"], tree: _Tree) -> _Queries:
  index = jnp.arange(q.shape[1])[None, None, None]
  at = None if tree.at is None else tree.at[:, None, None]
  return _Queries(_heads_outside(q * how.scale), index, at)


def _heads_outside(x: Float[Array, "B L *heads D"]) -> Float[Array, "B *heads L D"]:
  return jnp.moveaxis(x, 1, -2)


def _heads_inside(x: Float[Array, "B *heads L D"]) -> Float[Array, "B L *heads D"]:
  return jnp.moveaxis(x, -2, 1)


def _forward(
  how: _How,
  q: Float[Array, "B L N G D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  tree: _Tree,
) -> tuple[Float[Array, "B L N G D"], Float[Array, "B N G L"]]:
  """The attended values, and of each query the sum of exponentials under its largest score."""
  k, v = _heads_outside(k), _heads_outside(v)

  def look(stop: int, carry: None, block: _Queries) -> tuple[None, tuple[Array, Array]]:
    scores = _scores(how, block, k[:, :, :stop], tree, stop)
    largest = scores.max(-1)
    weights = jnp.exp(scores - largest[..., None])
    total = weights.sum(-1)
    attended = _product("bngqk,bnkd->bngqd", weights.astype(v.dtype), v[:, :, :stop])
    attended = (attended / total[..., None]).astype(v.dtype)
    # Not the largest too: kept, XLA's CPU code fuses its maximum otherwise, and a policy that is
    # its reference would be it but for the last bit.
    return carry, (attended, total)

  _, (attended, total) = _over_blocks(look, None, _queries(how, q, tree), how.block)
  return _heads_inside(attended), total


def _backward(
  how: _How,
  q: Float[Array, "B L N G D"],
  k: Float[Array, "B L N D"],
  v: Float[Array, "B L N D"],
  tree: _Tree,
  out: Float[Array, "B L N G D"],
  total: Float[Array, "B N G L"],
  cotangent: Float[Array, "B L N G D"],
) -> tuple[Float[Array, "B L N G D"], Float[Array, "B L N D"], Float[Array, "B L N D"]]:
  """The gradients of queries, keys and values."""
  # Scores are made again, not kept for this since forwards, which would also fuse that otherwise.
  q, k = jax.lax.optimization_barrier((q, k))
  k, v = _heads_outside(k), _heads_outside(v)
  cotangent, out = _heads_outside(cotangent), _heads_outside(out)
  dot = (cotangent.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
  queries = _queries(how, q, tree)._replace(total=total, cotangent=cotangent, dot=dot)

  def look(
    stop: int, sums: tuple[Array, Array], block: _Queries
  ) -> tuple[tuple[Array, Array], Array]:
    scores = _scores(how, block, k[:, :, :stop], tree, stop)
    log_sum = scores.max(-1) + jnp.log(block.total)
    weights = jnp.exp(scores - log_sum[..., None])
    d_weights = _product("bngqd,bnkd->bngqk", block.cotangent, v[:, :, :stop])
    d_scores = weights * (d_weights - block.dot[..., None])
    if how.softcap:
      d_scores *= soft_caps.slope(scores, how.softcap)
    d_scores = d_scores.astype(k.dtype)
    d_q = _product("bngqk,bnkd->bngqd", d_scores, k[:, :, :stop]) * how.scale
    d_q = d_q.astype(q.dtype)
    # Made as they lie: keys first, each block would be transposed before its product.
    d_k = _product("bngqd,bngqk->bndk", block.q, d_scores)
    d_v = _product("bngqd,bngqk->bndk", block.cotangent, weights.astype(v.dtype))
    return tuple(x.at[..., :stop].add(new) for x, new in zip(sums, (d_k, d_v), strict=True)), d_q

  zeros = tuple(jnp.zeros(x.swapaxes(2, 3).shape, jnp.float32) for x in (k, v))
  sums, d_q = _over_blocks(look, zeros, queries, how.block)
  d_k, d_v = (
    jnp.transpose(x, (0, 3, 1, 2)).astype(of.dtype) for x, of in zip(sums, (k, v), strict=True)
  )
  return _heads_inside(d_q), d_k, d_v


def _scores(
  how: _How, block: _Queries, keys: Float[Array, "B N K D"], tree: _Tree, stop: int
) -> Float[Array, "B N G Q K"]:
  """The scores of a block of queries for the keys before `stop`; the floor where they see none."""
  scores = soft_caps.soft_cap(_product("bngqd,bnkd->bngqk", block.q, keys), how.softcap)
  return jnp.where(_sees(block, tree, stop), scores, _FLOOR)


def _sees(block: _Queries, tree: _Tree, stop: int) -> Bool[Array, "B 1 1 Q K"]:
  i, j = block.index[..., None], jnp.arange(stop)[None, None, None, None]

  def of_keys(x: Int[Array, "B L"]) -> Int[Array, "B 1 1 1 K"]:
    return x[:, None, None, None, :stop]

  sees = (j <= i) & (i < of_keys(tree.end))
  if tree.window is not None:
    window = tree.window[:, None, None, None, None]
    sees &= block.at[..., None] - of_keys(tree.at) < window
  return sees


def _over_blocks(
  look: Callable[[int, Any, _Queries], tuple[Any, Any]], carry: Any, queries: _Queries, block: int
) -> tuple[Any, Any]:
  """Scans the blocks of all queries; `look` is told where the keys that come before them stop."""

  def blocks(x: Array) -> Array:
    x = x.reshape(*x.shape[:_LENGTH], -1, block, *x.shape[_LENGTH + 1 :])
    return jnp.moveaxis(x, _LENGTH, 0)

  def joined(x: Array) -> Array:
    x = jnp.moveaxis(x, 0, _LENGTH)
    return x.reshape(*x.shape[:_LENGTH], -1, *x.shape[_LENGTH + 2 :])

  found = []
  for start, stop in spans(queries.q.shape[_LENGTH], block):
    step = functools.partial(_look_spread, look, stop)
    cut = functools.partial(jax.lax.slice_in_dim, start_index=start, limit_index=stop, axis=_LENGTH)
    of_span = jax.tree.map(cut, queries)
    if stop - start <= block:
      carry, here = step(carry, of_span)
    else:
      carry, here = jax.lax.scan(step, carry, jax.tree.map(blocks, of_span))
      here = jax.tree.map(joined, here)
    found.append(here)
  return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, _LENGTH), *found)


def _look_spread(look: Callable, stop: int, carry: Any, block: _Queries) -> tuple[Any, Any]:
  """Looks with each device at some of the block's queries: all have as much to do."""
  spread = functools.partial(sharding.split_tokens, axis=_LENGTH)
  block = block._replace(q=spread(block.q))
  if block.cotangent is not None:
    block = block._replace(cotangent=spread(block.cotangent))
  return look(stop, carry, block)
