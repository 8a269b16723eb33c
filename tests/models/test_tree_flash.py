# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the kernels, interpreted, against a dense softmax under the mask of the tree."""

import dataclasses
import functools
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import checks, config, sharding
from fspo_jax.episodes import batching, trees
from fspo_jax.models import scoring, tree_flash
from fspo_jax.models.tree_flash import blocks
from tests import tiny
from tests.models import test_architecture

# Those for TPUs, and those for GPUs, on any platform.
INTERPRETED = ("pallas_interpret", "pallas_gpu_interpret")
# Two rows of 44 tokens are not a whole number of blocks of 8, and three heads read each key's.
ROWS, LENGTH, HEADS, KV_HEADS, DEPTH, BLOCK = 2, 44, 6, 2, 8, 8
RULES = {
  "plain": {},
  "everything": {"window": 5, "softcap": 1.5, "scale": 0.4},
}


def _dense(q, k, v, mask, scale=None, softcap=0.0):
  """softmax(q k scale) v under mask[b, i, j], head h reading group h // (H / N)."""
  k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
  scores = jnp.einsum("bihd,bjhd->bhij", q, k) * (DEPTH**-0.5 if scale is None else scale)
  if softcap:
    scores = softcap * jnp.tanh(scores / softcap)
  scores = jnp.where(mask[:, None], scores, -jnp.inf)
  return jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores, axis=-1), v)


@functools.partial(jax.jit, static_argnames=("kernels", "name", "dtype"))
def _both(arrays, ends, positions, mask, *, kernels, name, dtype):
  """Values and gradients of the kernels in a dtype, and of the dense formula in float32."""
  q, k, v, cotangent = arrays
  rules = RULES[name]

  def flash(q, k, v):
    window = rules.get("window")
    tree = tree_flash.tree_blocks(ends, positions, block=BLOCK, window=window)
    how = {"implementation": kernels, "block": BLOCK, **rules}
    return tree_flash.attention(q, k, v, ends, positions, tree, **how)

  def values_and_gradients(attend, dtype):
    out, pull = jax.vjp(attend, *(x.astype(dtype) for x in (q, k, v)))
    return out, *pull(cotangent.astype(dtype))

  other = {key: value for key, value in rules.items() if key != "window"}
  dense = functools.partial(_dense, mask=mask, **other)
  return values_and_gradients(flash, dtype), values_and_gradients(dense, "float32")


def _row(roots):
  """`subtree_end` and positions of as many trees as there is room for; the rest is padding."""
  built = [trees.flatten(root) for root in roots]
  while sum(map(len, built)) > LENGTH:
    built.pop()
  forest = trees.concatenate(built, [0] * len(built))
  rest = np.arange(len(forest), LENGTH)
  ends = np.concatenate([forest.subtree_end, rest + 1])
  return ends.astype(np.int32), np.concatenate([forest.positions, 0 * rest]).astype(np.int32)


def _masks(ends, positions, window):
  found = np.stack([trees.attention_mask(row) for row in ends])
  if window is not None:
    found &= positions[:, :, None] - positions[:, None, :] < window
  return found


ROW = st.lists(tiny.nodes(max_nodes=9, max_length=6), min_size=1, max_size=3).map(_row)


@pytest.mark.parametrize("kernels", INTERPRETED)
@pytest.mark.parametrize(
  "name, dtype, tolerance",
  [("plain", "float32", 1e-5), ("everything", "float32", 1e-5), ("everything", "bfloat16", 2e-2)],
)
@hypothesis.settings(max_examples=25)
@hypothesis.given(st.lists(ROW, min_size=ROWS, max_size=ROWS), st.integers(0, 2**32 - 1))
def test_the_kernels_are_dense_attention_and_so_are_their_gradients(
  kernels, name, dtype, tolerance, rows, seed
):
  ends, positions = (np.stack(parts) for parts in zip(*rows, strict=True))
  rng = np.random.default_rng(seed)
  shapes = [(ROWS, LENGTH, n, DEPTH) for n in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
  # Numbers that bfloat16 has too: what is compared is what the kernels do with them.
  arrays = [jnp.asarray(rng.standard_normal(s), "bfloat16").astype("float32") for s in shapes]
  mask = _masks(ends, positions, RULES[name].get("window"))
  found, expected = _both(arrays, ends, positions, mask, kernels=kernels, name=name, dtype=dtype)
  for ours, theirs in zip(found, expected, strict=True):
    assert ours.dtype == dtype
    atol = tolerance * max(float(np.abs(theirs).max()), 1.0)
    np.testing.assert_allclose(ours.astype("float32"), theirs, rtol=0, atol=atol)


@functools.partial(jax.jit, static_argnames=("block", "window"))
def _blocks(ends, positions, *, block, window):
  found = tree_flash.tree_blocks(ends, positions, block=block, window=window)
  return jax.tree.map(lambda x: x[0], found)


def _listed(steps):
  """The pairs (row, query block, key block) of the steps, and what is to be done in each."""
  count = int(steps.count)
  row, query, key, flags = (np.asarray(x[:count]) for x in steps[:4])
  return [*zip(row.tolist(), query.tolist(), key.tolist(), strict=True)], flags


@pytest.mark.parametrize("window", [None, 5])
@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(ROW, min_size=ROWS, max_size=ROWS))
def test_steps_are_the_blocks_that_somebody_sees_and_no_other(window, rows):
  ends, positions = (np.stack(parts) for parts in zip(*rows, strict=True))
  mask = np.zeros((ROWS, 48, 48), bool)
  mask[:, :LENGTH, :LENGTH] = _masks(ends, positions, window)
  mask |= np.eye(48, dtype=bool)
  pairs = mask.reshape(ROWS, 6, BLOCK, 6, BLOCK)
  seen, whole = pairs.any((2, 4)), pairs.all((2, 4))
  found = _blocks(ends, positions, block=BLOCK, window=window)
  for steps, outer in ((found.by_query, 1), (found.by_key, 2)):
    listed, flags = _listed(steps)
    missing = {*zip(*map(np.ndarray.tolist, np.nonzero(seen)), strict=True)} - {*listed}
    assert len({*listed}) == len(listed)
    assert not missing
    if window is None:  # of a window, blocks say less than tokens
      assert len(listed) == seen.sum()
    outputs = [(pair[0], pair[outer]) for pair in listed]
    assert outputs == sorted(outputs)
    # Where the outputs begin and end, for who goes through them side by side.
    edges = np.asarray(steps.offsets).tolist()
    every = [(row, block) for row in range(ROWS) for block in range(6)]
    assert (edges[0], edges[-1], len(edges)) == (0, len(listed), len(every) + 1)
    for output, begin, end in zip(every, edges, edges[1:], strict=False):
      assert outputs[begin:end] == [output] * outputs.count(output) != []
    for n, (pair, flag) in enumerate(zip(listed, flags.tolist(), strict=True)):
      assert bool(flag & blocks.FIRST) == (n == 0 or outputs[n - 1] != outputs[n])
      assert bool(flag & blocks.LAST) == (n + 1 == len(outputs) or outputs[n + 1] != outputs[n])
      assert flag & blocks.LIVE
      assert whole[pair] or flag & blocks.MASKED


def _dead_blocks(kernels):
  """Two trees of two blocks: what is not a number spreads wherever a block is looked at."""
  ends = np.repeat([16, 32], 16)[None].astype(np.int32)
  rng = np.random.default_rng(0)
  q, k, v = (rng.standard_normal((1, 32, 1, DEPTH)).astype(np.float32) for _ in range(3))
  k[:, :16] = v[:, :16] = np.nan

  @jax.jit
  def attend(q, k, v):
    tree = tree_flash.tree_blocks(ends, ends, block=BLOCK)
    how = {"implementation": kernels, "block": BLOCK}
    out, pull = jax.vjp(lambda *x: tree_flash.attention(*x, ends, None, tree, **how), q, k, v)
    return (out, *pull(jnp.ones_like(out))), tree.by_query.count

  found, count = attend(q, k, v)
  assert int(count.sum()) == 6  # of ten on or below the diagonal
  alone = [jnp.asarray(x[:, 16:]) for x in (q, k, v)]
  mask = np.tril(np.ones((1, 16, 16), bool))
  expected, pull_alone = jax.vjp(functools.partial(_dense, mask=mask), *alone)
  for ours, theirs in zip(found, (expected, *pull_alone(jnp.ones_like(expected))), strict=True):
    assert np.isnan(ours[:, :16]).all()
    np.testing.assert_allclose(ours[:, 16:], theirs, atol=1e-5)


@pytest.mark.parametrize("kernels", INTERPRETED)
def test_what_lies_in_a_dead_block_is_never_read(kernels):
  _dead_blocks(kernels)


def test_blocks_of_others_and_kernels_that_there_are_not_are_refused():
  ends = np.full((1, 32), 32, np.int32)
  x = np.zeros((1, 32, 1, DEPTH), np.float32)
  tree = tree_flash.tree_blocks(ends, ends, block=BLOCK)
  attend = functools.partial(tree_flash.attention, x, x, x, ends, None, tree)
  with pytest.raises(ValueError, match="found blocks of 64 tokens, expected 32 with block=16"):
    attend(implementation="pallas_interpret", block=16)
  with pytest.raises(ValueError, match="a window counts along positions: found none"):
    attend(implementation="pallas_interpret", block=BLOCK, window=5)
  with pytest.raises(ValueError, match="implementation='xla': expected one of"):
    attend(implementation="xla", block=BLOCK)


def _loss(decoder, params, row):
  def value(p):
    return scoring.segment_scores(decoder, p, row, chunk=40).logprob.sum()

  return jax.jit(jax.value_and_grad(value))(params)


def _same(found, expected, tolerance):
  assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-5)
  theirs = tiny.flat(expected[1])
  for name, ours in tiny.flat(found[1]).items():
    atol = tolerance * float(np.abs(theirs[name]).max()) + 1e-9
    np.testing.assert_allclose(ours, theirs[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("kernels", INTERPRETED)
def test_a_model_is_the_same_by_either(kernels):
  row = batching.stack([tiny.small_row()])
  decoder = tiny.model(remat="full", **test_architecture.EVERYTHING)
  params = tiny.params(decoder)
  other = decoder.clone(
    config=dataclasses.replace(decoder.config, attention=kernels, attention_block=16)
  )
  _same(_loss(other, params, row), _loss(decoder, params, row), 2e-5)


def main():
  """Run with 8 devices: on a mesh the kernels compute what XLA does on one device."""
  row = batching.stack([tiny.small_row()] * 4)
  row = row._replace(tokens=np.random.default_rng(0).integers(0, 64, (4, 48)))
  expected = _loss(tiny.model(), tiny.params(tiny.model()), row)
  mesh = sharding.make_mesh(data=1, fsdp=2, context=2, tensor=2)
  for kernels in INTERPRETED:
    decoder = tiny.model(attention=kernels, attention_block=8)
    tree_flash.check(decoder.config, mesh)
    with sharding.use(mesh):
      found = _loss(decoder, tiny.params(tiny.model()), sharding.to_global(mesh, row))
    _same(found, expected, 2e-5)
  # Of two devices that share each row's queries, one has none after the last block of keys.
  for kernels in INTERPRETED:
    with sharding.use(sharding.make_mesh(data=1, context=2, devices=jax.devices()[:2])):
      _dead_blocks(kernels)


def test_on_a_mesh_of_eight_devices_every_one_has_its_part():
  tiny.run("models.test_tree_flash", devices=8)


class _Device:
  def __init__(self, platform, capability):
    self.platform, self.compute_capability = platform, capability


def _mesh(platform, tensor=1, capability="9.0"):
  devices = np.full((1, 1, 1, 1, tensor), _Device(platform, capability))
  return jax.sharding.Mesh(devices, sharding.MESH_AXES)


TPU = {"attention": "pallas_tpu", "attention_block": 512, "head_dim": 128, "dtype": "bfloat16"}


@pytest.mark.parametrize(
  "changes, platform, tensor, message",
  [
    ({}, "cpu", 1, "found devices of the platform 'cpu', expected 'tpu'"),
    ({}, "gpu", 1, "found devices of the platform 'gpu', expected 'tpu'"),
    ({}, "tpu", 4, "mesh.tensor=4 does not divide model.kv_heads=2"),
    ({"attention_block": 96}, "tpu", 1, "attention_block=96, expected a multiple of 128"),
    ({"heads": 32}, "tpu", 1, "attention_block=512, expected at most 128 with .* = 16"),
    ({"dtype": "float16"}, "tpu", 1, "found model.dtype='float16'"),
  ],
)
def test_what_the_kernels_cannot_do_is_refused(changes, platform, tensor, message):
  decoder = tiny.config(**{**TPU, **changes})
  with pytest.raises(ValueError, match=message):
    tree_flash.check(decoder, _mesh(platform, tensor))
  tree_flash.check(dataclasses.replace(decoder, attention="xla"), _mesh(platform, tensor))


def test_a_list_of_blocks_that_no_tpu_core_can_hold_is_refused():
  """Of n blocks n (n + 1) / 2 pairs, four numbers of four bytes each: 1 MiB is that of 361."""

  def traced(blocks):
    x = jax.ShapeDtypeStruct((1, 128 * blocks, 1, 128), jnp.bfloat16)
    ends = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)

    def attend(x, ends):
      tree = tree_flash.tree_blocks(ends, ends, block=128)
      return tree_flash.attention(x, x, x, ends, None, tree, implementation="pallas_tpu", block=128)

    return jax.eval_shape(attend, x, ends)

  assert traced(300).shape == (1, 38_400, 1, 128)
  with pytest.raises(ValueError, match="65703 pairs of blocks of 128 tokens take .* larger model"):
    traced(362)


GPU = {"attention": "pallas_gpu", "attention_block": 64, "head_dim": 128, "dtype": "bfloat16"}


@pytest.mark.parametrize(
  "changes, mesh, message",
  [
    ({}, ("cpu",), "found devices of the platform 'cpu', expected 'gpu'"),
    ({}, ("tpu",), "found devices of the platform 'tpu', expected 'gpu'"),
    ({}, ("gpu", 4), "mesh.tensor=4 does not divide model.kv_heads=2"),
    ({}, ("gpu", 1, "7.5"), r"compute capability '7.5', expected one of \('8.0', '9.0'\)"),
    ({}, ("gpu", 1, "8.9"), "compute capability '8.9', expected one of"),
    ({}, ("gpu", 1, "12.0"), "compute capability '12.0', expected one of"),
    ({}, ("gpu", 1, "gfx942"), "compute capability 'gfx942', expected one of"),
    ({"attention_block": 96}, ("gpu",), "attention_block=96, expected a power of two from 16"),
    ({"attention_block": 8}, ("gpu",), "attention_block=8, expected a power of two from 16"),
    ({"attention_block": 128}, ("gpu",), "attention_block=128, expected at most 64"),
    ({"dtype": "float32"}, ("gpu",), "attention_block=64, expected at most 32"),
    ({"head_dim": 130}, ("gpu",), "attention_block=64, expected at most 32"),  # padded to 256
    ({"head_dim": 1024}, ("gpu",), "head_dim=1024 .* no block fits a GPU's shared memory"),
    ({"dtype": "float16"}, ("gpu",), "found model.dtype='float16'"),
  ],
)
def test_what_the_kernels_for_gpus_cannot_do_is_refused(changes, mesh, message):
  decoder = tiny.config(**{**GPU, **changes})
  with pytest.raises(ValueError, match=message):
    tree_flash.check(decoder, _mesh(*mesh))


def test_what_the_kernels_for_gpus_can_do_is_not_refused():
  for changes in ({}, {"head_dim": 256, "attention_block": 32}, {"head_dim": 96}):
    tree_flash.check(tiny.config(**{**GPU, **changes}), _mesh("gpu"))
  tree_flash.check(tiny.config(**GPU), _mesh("cpu"), stands_for="gpu")


@pytest.mark.parametrize("kernels", ["pallas_tpu", "pallas_gpu"])
def test_a_run_without_their_chips_is_refused_before_it_starts(kernels):
  c = config.default()
  c.model.attention = kernels
  with pytest.raises(ValueError, match=f"model.attention='{kernels}': found devices of the platf"):
    checks.check(c)


@pytest.mark.parametrize("kernels", INTERPRETED)
def test_users_that_are_trained_side_by_side_have_no_kernels(kernels):
  c = config.default()
  c.model.attention = kernels
  checks.check(c)
  c.evaluation.methods = (*c.evaluation.methods, "user_lora")
  with pytest.raises(ValueError, match=f"'{kernels}' and the method 'user_lora'"):
    checks.check(c)


if __name__ == "__main__":
  main(*sys.argv[1:])
