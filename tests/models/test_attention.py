# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of attention, against a dense float64 softmax under the mask of the tree."""

import functools

import jax
import numpy as np
import pytest

from fspo_jax.episodes import trees
from fspo_jax.models import attention, tree_attention

BATCH, LENGTH, HEADS, KV_HEADS, DEPTH = 2, 18, 6, 2, 8


def _dense(q, k, v, mask):
  """softmax(q k / sqrt(D)) v under mask[b, i, j], head h reading group h // (H / N); float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  group = q.shape[2] // k.shape[2]
  out = np.zeros_like(q)
  for h in range(q.shape[2]):
    scores = np.einsum("bid,bjd->bij", q[:, :, h], k[:, :, h // group]) / np.sqrt(q.shape[-1])
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out[:, :, h] = np.einsum("bij,bjd->bid", weights, v[:, :, h // group])
  return out


def _node(length, *children):
  return trees.Node((0,) * length, 0, children=children)


def _ends(*roots):
  """The `subtree_end` of a row of trees, the rest of it padding."""
  ends = trees.concatenate([trees.flatten(r) for r in roots], [0] * len(roots)).subtree_end
  return np.concatenate([ends, np.arange(len(ends), LENGTH) + 1])


@pytest.fixture(scope="module")
def inputs():
  rng = np.random.default_rng(0)
  shapes = [(BATCH, LENGTH, n, DEPTH) for n in (HEADS, KV_HEADS, KV_HEADS)]
  q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
  ends = np.stack(
    [
      _ends(_node(3, _node(2, _node(3), _node(1)), _node(2, _node(4))), _node(2)),
      _ends(_node(1, _node(2), _node(2, _node(3, _node(6))))),
    ]
  ).astype(np.int32)
  return 2 * q, k, v, ends


@functools.partial(jax.jit, static_argnames="block")
def _value_and_gradients(q, k, v, ends, cotangent, *, block):
  out, pull = jax.vjp(lambda q, k, v: tree_attention.attention(q, k, v, ends, block=block), q, k, v)
  return out, pull(cotangent)


@pytest.mark.parametrize("block", [1, 3, 7, LENGTH])
def test_any_block_size_is_exact_attention_on_the_tree_and_so_are_its_gradients(inputs, block):
  q, k, v, ends = inputs
  mask = np.stack([trees.attention_mask(row) for row in ends])
  assert 0 < mask.mean() < 0.4  # trees, not plain sequences
  cotangent = np.random.default_rng(1).standard_normal(q.shape).astype(np.float32)
  out, gradients = _value_and_gradients(q, k, v, ends, cotangent, block=block)
  np.testing.assert_allclose(out, _dense(q, k, v, mask), atol=2e-6)
  # The derivative along a random direction, by central differences of the float64 reference.
  direction = [np.random.default_rng(2).standard_normal(x.shape) for x in (q, k, v)]
  for i in range(3):
    shifted = []
    for sign in (1, -1):
      moved = [q, k, v]
      moved[i] = moved[i] + sign * 1e-5 * direction[i]
      shifted.append((_dense(*moved, mask) * cotangent).sum())
    expected = (shifted[0] - shifted[1]) / 2e-5
    found = (np.asarray(gradients[i], np.float64) * direction[i]).sum()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)
  # And all of them, entry by entry, as with one block.
  whole = _value_and_gradients(q, k, v, ends, cotangent, block=LENGTH)[1]
  for ours, theirs in zip(gradients, whole, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize("devices, rows, block", [(1, 1, 7), (1, 2, 7), (2, 1, 2), (8, 0, 7)])
def test_rows_that_go_one_after_another_are_as_those_that_go_at_once(
  inputs, monkeypatch, devices, rows, block
):
  """What a CPU's cache holds decides how many of a device's rows go at once, but one always.

  Blocks of two tokens are nine, which come in spans.
  """
  rng = np.random.default_rng(3)
  q, k, v, ends = (np.concatenate([x, x[::-1]]) for x in inputs)
  q = q * rng.uniform(0.5, 1.0, (len(q), 1, 1, 1)).astype(np.float32)  # no two rows are the same
  cotangent = rng.standard_normal(q.shape).astype(np.float32)

  def loss(q, k, v):
    # Positions may be any numbers.
    out = tree_attention.attention(q, k, v, ends, ends, block=block, window=5, softcap=3.0)
    return (out * cotangent).sum(), out

  def at_once(q, k, v):
    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)

  expected = jax.jit(at_once)(q, k, v)
  monkeypatch.setattr(tree_attention, "_CACHE_BYTES", rows * 4 * HEADS * block * LENGTH)
  monkeypatch.setattr(tree_attention.sharding, "batch_shards", lambda: devices)
  found = jax.jit(lambda *x: at_once(*x))(q, k, v)  # another function: traced again
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), found, expected)


def test_tokens_off_the_path_get_a_gradient_of_exactly_zero(inputs):
  q, k, v, ends = inputs
  query = 12
  cotangent = np.zeros_like(q)
  cotangent[:, query] = 1.0
  _, gradients = _value_and_gradients(q, k, v, ends, cotangent, block=7)
  for row in range(BATCH):
    seen = trees.attention_mask(ends[row])[query]
    for gradient in gradients[1:]:  # of keys and values
      found = np.abs(gradient[row]).max(axis=(1, 2)) > 0
      np.testing.assert_array_equal(found, seen)


def test_a_cached_token_sees_the_slots_up_to_its_own_position_and_no_other(inputs):
  q, k, v, _ = inputs
  positions = np.asarray([[4, 5, 6], [11, 12, 13]], np.int32)
  queries = q[:, :3]
  mask = np.arange(LENGTH)[None, None, :] <= positions[:, :, None]
  found = attention.cached_attention(queries, k, v, positions)
  np.testing.assert_allclose(found, _dense(queries, k, v, mask), atol=2e-6)
  # What lies in later slots (an earlier request's tokens) changes nothing, to the last bit.
  later = np.arange(LENGTH)[None, :, None, None] > positions.max(1)[:, None, None, None]
  dirty_k, dirty_v = (np.where(later, 1e4, x).astype(np.float32) for x in (k, v))
  dirty = attention.cached_attention(queries, dirty_k, dirty_v, positions)
  np.testing.assert_array_equal(dirty, found)


def test_scores_are_float32_in_a_bfloat16_model():
  # The scores of the two keys are 256 and 257; bfloat16 has 8 bits and only 256.
  q = np.zeros((1, 2, 1, 2), np.float32)
  q[0, :, 0] = [256.0 * np.sqrt(2), np.sqrt(2)]
  k = np.asarray([[[[1.0, 0.0]], [[1.0, 1.0]]]], np.float32)
  v = np.asarray([[[[0.0, 0.0]], [[1.0, 1.0]]]], np.float32)
  to_half = lambda x: jax.numpy.asarray(x, "bfloat16")  # noqa: E731
  out = tree_attention.attention(*map(to_half, (q, k, v)), np.asarray([[2, 2]]), block=2)
  assert out.dtype == "bfloat16"
  expected = 1 / (1 + np.exp(-1.0))
  assert float(out[0, 1, 0, 0]) == pytest.approx(expected, abs=0.01)
