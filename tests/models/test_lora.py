# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of LoRA adapters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax.episodes import batching
from fspo_jax.models import lora, scoring
from tests import tiny

CONFIG = lora.LoraConfig(rank=3, alpha=12.0, projections=("q", "v", "o", "down"))
DROPPED = dataclasses.replace(CONFIG, dropout=0.5)


def _random(adapters, seed=0):
  """Adapters of the same shapes in which neither factor is zero."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), adapters)


def _keys(*seeds):
  return jnp.stack([jax.random.key(seed) for seed in seeds])


@pytest.fixture(scope="module")
def params():
  return tiny.params(tiny.model())


@pytest.fixture(scope="module")
def adapters(params):
  return _random(lora.init(jax.random.key(0), params, CONFIG))


def test_projections_are_all_the_matrices_of_a_block(params):
  matrices = {name for name, leaves in params["blocks"].items() if "kernel" in leaves}
  assert set(lora.PROJECTIONS) == matrices


def test_a_merged_matrix_is_that_of_the_equation_and_nothing_else_changes(params, adapters):
  merged = lora.merge(params, adapters, CONFIG)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  before, after = tiny.flat(params), tiny.flat(merged)
  changed = {f"['blocks']['{name}']['kernel']": name for name in CONFIG.projections}
  assert changed.keys() < before.keys()
  for path, leaf in before.items():
    if path not in changed:
      assert after[path] is leaf, path
      continue
    a, b = (np.asarray(x, np.float64) for x in adapters[changed[path]])
    # h = W_0 x + alpha / r B A x, layer by layer, with the paper's A = a.T and B = b.T.
    for layer, kernel in enumerate(np.asarray(leaf, np.float64)):
      update = b[layer].T @ a[layer].T
      expected = kernel.T + 12.0 / 3 * update
      np.testing.assert_allclose(after[path][layer], expected.T, rtol=1e-5, atol=1e-5)
      assert np.linalg.matrix_rank(update) == 3


def test_fresh_adapters_change_nothing_and_exactly_one_factor_is_zero(params):
  adapters = lora.init(jax.random.key(1), params, CONFIG)
  assert set(adapters) == set(CONFIG.projections)
  for adapter in adapters.values():
    assert (adapter.b == 0).all() and (adapter.a != 0).all()
  merged = tiny.flat(lora.merge(params, adapters, CONFIG))
  for path, leaf in tiny.flat(params).items():
    np.testing.assert_array_equal(merged[path], leaf, err_msg=path)


def test_random_factors_keep_the_variance_of_their_inputs_and_differ(params):
  del params
  wide = tiny.model(width=256, heads=8, kv_heads=8)
  config = lora.LoraConfig(32, 1.0, lora.PROJECTIONS)
  adapters = lora.init(jax.random.key(2), tiny.params(wide), config)
  for name in ("q", "k", "gate"):
    a = adapters[name].a
    assert a.shape == (2, 256, 32)
    assert np.std(a) * 256**0.5 == pytest.approx(1.0, abs=0.05)
  assert not np.array_equal(adapters["q"].a, adapters["k"].a)
  assert not np.array_equal(adapters["q"].a[0], adapters["q"].a[1])
  other = lora.init(jax.random.key(3), tiny.params(wide), config)
  assert not np.array_equal(adapters["q"].a, other["q"].a)


def test_a_projections_random_factor_does_not_depend_on_the_others(params):
  alone = lora.init(jax.random.key(1), params, lora.LoraConfig(3, 1.0, ("down",)))
  together = lora.init(jax.random.key(1), params, CONFIG)
  np.testing.assert_array_equal(alone["down"].a, together["down"].a)


def test_the_gradient_is_that_of_the_two_factors(params, adapters):
  rng = np.random.default_rng(4)
  weights = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)

  def loss(own):
    merged = lora.merge(params, own, CONFIG)
    return sum(
      jnp.vdot(x, w) for x, w in zip(*map(jax.tree.leaves, (merged, weights)), strict=True)
    )

  grads = jax.grad(loss)(adapters)
  for name, (d_a, d_b) in grads.items():
    a, b = (np.asarray(x, np.float64) for x in adapters[name])
    w = np.asarray(weights["blocks"][name]["kernel"], np.float64)
    np.testing.assert_allclose(d_a, 4.0 * w @ b.swapaxes(1, 2), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_b, 4.0 * a.swapaxes(1, 2) @ w, rtol=1e-4, atol=1e-4)


def test_at_the_start_only_the_zero_factor_has_a_gradient(params):
  # What makes a start with both at zero, where nothing is ever learned, a bug.
  fresh = lora.init(jax.random.key(1), params, CONFIG)

  def loss(own):
    return sum((x**2).sum() for x in jax.tree.leaves(lora.merge(params, own, CONFIG)))

  for adapter in jax.grad(loss)(fresh).values():
    assert (adapter.a == 0).all() and (adapter.b != 0).any()


def test_a_vmapped_merge_is_each_users_own(params, adapters):
  users = [_random(adapters, seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *users)
  merge = jax.jit(jax.vmap(lambda own: lora.merge(params, own, CONFIG)["blocks"]))
  together = tiny.flat(merge(stacked))
  for i, own in enumerate(users):
    for path, leaf in tiny.flat(lora.merge(params, own, CONFIG)["blocks"]).items():
      np.testing.assert_allclose(together[path][i], leaf, rtol=1e-6, atol=1e-6, err_msg=path)


def test_half_precision_parameters_stay_so_and_are_rounded_once(params, adapters):
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert lora.init(jax.random.key(0), half, CONFIG)["q"].a.dtype == jnp.float32
  kernel = lora.merge(half, adapters, CONFIG)["blocks"]["q"]["kernel"]
  assert kernel.dtype == jnp.bfloat16
  full = jax.tree.map(lambda x: x.astype(jnp.float32), half)
  expected = lora.merge(full, adapters, CONFIG)["blocks"]["q"]["kernel"].astype(jnp.bfloat16)
  np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rank": 0}, "lora.rank=0 must be at least 1"),
    ({"alpha": 0.0}, r"lora.alpha=0.0 must be positive"),
    ({"projections": ("q", "query")}, r"lora.projections=\('q', 'query'\): expected .* 'down'"),
    ({"dropout": 1.0}, r"lora.dropout=1.0 must be at least 0 and below 1"),
    ({"projections": ("q", "q")}, "distinct"),
    ({"projections": ()}, "one or more"),
  ],
)
def test_a_config_that_cannot_be_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    lora.LoraConfig(**{"rank": 3, "alpha": 1.0, "projections": ("q",), **changes})


def test_adapters_that_do_not_fit_are_refused_with_both_shapes(params, adapters):
  of_another = lora.init(jax.random.key(0), tiny.params(tiny.model(layers=1)), CONFIG)
  with pytest.raises(ValueError, match=r"adapters\['q'\]\.a has shape \(1, 16, 3\).*\(2, 16, 3\)"):
    lora.merge(params, of_another, CONFIG)
  turned = adapters | {"down": lora.Adapter(adapters["down"].a, adapters["q"].b)}
  with pytest.raises(
    ValueError,
    match=r"adapters\['down'\]\.b has shape \(2, 3, 32\).*blocks/down/kernel of shape "
    r"\(2, 24, 16\) it must be \(2, 3, 16\)",
  ):
    lora.merge(params, turned, CONFIG)
  with pytest.raises(ValueError, match="with lora.rank=4"):
    lora.merge(params, adapters, lora.LoraConfig(4, 12.0, CONFIG.projections))
  missing = {name: adapters[name] for name in ("q", "v", "o")}
  with pytest.raises(ValueError, match=r"adapters of \['o', 'q', 'v'\], but lora.projections="):
    lora.merge(params, missing, CONFIG)
  with pytest.raises(ValueError, match="they must be the same"):
    lora.merge(params, adapters, lora.LoraConfig(3, 12.0, ("q", "v")))


@functools.partial(jax.jit, static_argnums=0)
def _scores(decoder, params, batch):
  return scoring.segment_scores(decoder, params, batch, chunk=64).logprob


@pytest.fixture(scope="module")
def batch():
  return batching.stack([tiny.small_row()] * 2)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_attached_adapters_are_merged_ones(params, adapters, batch, remat):
  decoder = tiny.model(remat=remat)
  together = _scores(decoder, lora.merge(params, adapters, CONFIG), batch)
  beside = _scores(decoder, lora.attach(params, adapters, CONFIG), batch)
  np.testing.assert_allclose(beside, together, rtol=2e-5)
  assert np.abs(together - _scores(decoder, params, batch)).max() > 1


def test_fresh_attached_adapters_change_nothing_with_dropout_or_without(params, batch):
  fresh = lora.init(jax.random.key(1), params, DROPPED)
  for keys in (None, _keys(1, 2)):
    attached = lora.attach(params, fresh, DROPPED, keys)
    np.testing.assert_array_equal(
      _scores(tiny.model(), attached, batch), _scores(tiny.model(), params, batch)
    )


def test_the_gradients_of_attached_adapters_are_those_of_merged_ones(params, adapters, batch):
  def gradient(give):
    def total(own):
      return _scores(tiny.model(), give(params, own, CONFIG), batch).sum()

    return tiny.flat(jax.jit(jax.grad(total))(adapters))

  merged = gradient(lora.merge)
  for name, found in gradient(lora.attach).items():
    scale = np.abs(merged[name]).max()
    np.testing.assert_allclose(found, merged[name], atol=1e-4 * scale, err_msg=name)


def test_dropout_is_of_the_row_wherever_it_lies(params, adapters, batch):
  def scores(*keys):
    return _scores(tiny.model(), lora.attach(params, adapters, DROPPED, jnp.stack(keys)), batch)

  one, other = _keys(1, 2)
  there = scores(one, other)
  np.testing.assert_array_equal(scores(other, one), there[::-1])
  real = np.asarray(batch.segment_kind[0]) > 0
  assert (np.abs(there[0] - there[1])[real] > 1e-3).all()  # the same row but for its key


def test_each_layer_and_projection_drops_others(params, adapters):
  blocks = lora.attach(params, adapters, DROPPED, _keys(1, 2))["blocks"]
  keys = np.concatenate(
    [
      jax.random.key_data(blocks[name]["adapter"].keys).reshape(-1, 2)
      for name in CONFIG.projections
    ]
  )
  assert len(np.unique(keys, axis=0)) == len(keys) == len(CONFIG.projections) * 2 * 2


def test_dropout_keeps_the_mean_and_drops_the_share_it_should():
  width = 64
  identity = lora.Attached(jnp.eye(width), jnp.eye(width), jax.random.split(_keys(3)[0], 8), 0.25)
  x = jnp.ones((8, 100, width))
  found = np.asarray(identity.update(x))
  dropped = found == 0
  np.testing.assert_allclose(found[~dropped], 1 / 0.75, rtol=1e-6)
  assert dropped.mean() == pytest.approx(0.25, abs=0.01)
  assert found.mean() == pytest.approx(1.0, abs=0.01)
  # Of each token's own entries, and not of all tokens' the same.
  assert 0 < dropped.mean(axis=(0, 1)).min() < dropped.mean(axis=(0, 1)).max() < 1


def test_adapters_on_adapters_are_refused(params, adapters):
  attached = lora.attach(params, adapters, CONFIG)
  for give in (lora.attach, lora.merge):
    with pytest.raises(ValueError, match=r"found adapters attached to \['q', 'v', 'o', 'down'\]"):
      give(attached, adapters, CONFIG)
  # Merged ones are a base like any other.
  merged = lora.merge(params, adapters, CONFIG)
  fresh = lora.init(jax.random.key(0), merged, CONFIG)
  lora.attach(merged, fresh, CONFIG)
