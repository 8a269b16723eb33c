# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the optimizer: the schedule's corners, and which rule each parameter gets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax.training import optimizer
from tests import tiny

CONFIG = optimizer.OptimizerConfig(
  name="muon",
  learning_rate=0.02,
  adam_learning_rate=0.003,
  warmup_steps=0,
  decay_fraction=0.4,
  clip_norm=1e9,
  weight_decay=0.0,
  b2=0.9,
)


def _with(**changes):
  return dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
  "warmup, fraction, steps, expected",
  [
    # Up from 0 over 10 steps, flat, and down over the last 40 of 100.
    (10, 0.4, 100, {0: 0.0, 5: 1.0, 10: 2.0, 59: 2.0, 60: 2.0, 80: 1.0, 99: 0.05, 100: 0.0}),
    (0, 0.4, 100, {0: 2.0, 60: 2.0, 90: 0.5}),
    (0, 0.0, 100, {0: 2.0, 99: 2.0, 100: 0.0}),  # without a decay, every step is at the peak
    (60, 0.4, 100, {30: 1.0, 60: 2.0, 80: 1.0}),  # no flat part
    (0, 1.0, 4, {0: 2.0, 1: 1.5, 3: 0.5}),
    (0, 0.4, 1, {0: 2.0}),
  ],
)
def test_the_schedule_at_its_corners(warmup, fraction, steps, expected):
  rate = optimizer.schedule(2.0, _with(warmup_steps=warmup, decay_fraction=fraction), steps)
  found = {step: float(rate(jnp.int32(step))) for step in expected}
  assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_a_warmup_and_a_decay_that_overlap_are_refused(name):
  with pytest.raises(ValueError) as caught:
    optimizer.make_optimizer(_with(name=name, warmup_steps=61), 100)
  assert str(caught.value) == (
    "optimizer.warmup_steps=61 and a decay over 40 steps do not fit into 100 steps"
  )


def test_an_unknown_rule_is_refused():
  with pytest.raises(ValueError, match=r"optimizer\.name='sgd' is not one of \('muon', 'ad"):
    optimizer.make_optimizer(_with(name="sgd"), 100)


@pytest.fixture(scope="module")
def updates():
  """The first update of each rule for a random gradient: (params, gradient, {rule: update})."""
  params = tiny.params(tiny.model(tied=False))
  rng = np.random.default_rng(0)
  gradient = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
  found = {}
  for name in optimizer.OPTIMIZERS:
    rule = optimizer.make_optimizer(_with(name=name), 10)
    update = jax.jit(lambda g, p, rule=rule: rule.update(g, rule.init(p), p)[0])
    found[name] = tiny.flat(update(gradient, params))
  return tiny.flat(params), tiny.flat(gradient), found


def test_muon_takes_the_matrices_of_the_blocks_and_adam_the_rest(updates):
  params, gradient, found = updates
  by_muon = 0
  for name, update in found["muon"].items():
    if "['blocks']" in name and params[name].ndim == 3:
      by_muon += 1
      for layer, raw in zip(update, gradient[name], strict=True):
        # Newton-Schulz keeps a layer's singular vectors and makes the values about equal: five
        # rounds lift all but the very smallest to 0.7 to 1.2 of one scale.
        left, sizes, right = np.linalg.svd(np.asarray(raw, np.float64), full_matrices=False)
        inside = -left.T @ np.asarray(layer, np.float64) @ right.T
        values = np.diag(inside)
        assert np.abs(inside - np.diag(values)).max() < 1e-4 * values.max(), name
        assert np.median(values) / values.max() > 0.6 > np.median(sizes) / sizes.max(), name
        # The root mean square is 0.2 of the rate, as Adam's would be.
        assert np.sqrt(np.mean(np.square(layer))) == pytest.approx(0.2 * 0.02, rel=0.3)
    else:
      # Adam's first step is the rate, against the sign of the gradient. optax's Muon gives Adam its
      # own Nesterov momentum, which makes it 1 + b1 (1 - b1) / (1 - b1^2) = 28 / 19 times that.
      expected = -0.003 * 28 / 19 * np.sign(gradient[name])
      np.testing.assert_allclose(update, expected, rtol=1e-3, err_msg=name)
  assert by_muon == 7


def test_adamw_takes_everything(updates):
  _, gradient, found = updates
  for name, update in found["adamw"].items():
    np.testing.assert_allclose(update, -0.02 * np.sign(gradient[name]), rtol=1e-3, err_msg=name)


def test_the_gradient_is_clipped_as_a_whole_and_the_decay_is_decoupled():
  rule = optimizer.make_optimizer(_with(name="adamw", clip_norm=1.0, weight_decay=0.5), 10)
  params = {"embedding": jnp.asarray([[2.0, 0.0]]), "head": jnp.asarray([[4.0]])}
  gradient = {"embedding": jnp.asarray([[3.0, 0.0]]), "head": jnp.asarray([[4.0]])}  # of norm 5
  updates, state = rule.update(gradient, rule.init(params), params)
  (second_moment,) = [v for n, v in tiny.flat(state).items() if n.endswith(".nu['head']")]
  # (1 - b2) (4 / 5)^2: the second moment has seen the clipped gradient.
  assert float(second_moment[0, 0]) == pytest.approx(0.1 * 0.8**2)
  # rate (sign + weight_decay * parameter)
  assert float(updates["head"][0, 0]) == pytest.approx(-0.02 * (1 + 0.5 * 4), rel=1e-4)
  assert float(updates["embedding"][0, 0]) == pytest.approx(-0.02 * (1 + 0.5 * 2), rel=1e-4)
  assert float(updates["embedding"][0, 1]) == 0.0


def test_rmsprop_is_pytorchs():
  # torch.optim.RMSprop with its defaults: v = a v + (1 - a) g^2; p -= rate g / (sqrt(v) + 1e-8).
  rule = optimizer.make_optimizer(_with(name="rmsprop", b2=0.99, decay_fraction=0.0), 10)
  params = {"embedding": jnp.zeros((1, 3))}
  state, moment = rule.init(params), np.zeros((1, 3))
  for gradient in (np.asarray([[3.0, -1e-9, 0.0]]), np.asarray([[-1.0, 2e-9, 4.0]])):
    moment = 0.99 * moment + 0.01 * gradient**2
    updates, state = rule.update({"embedding": jnp.asarray(gradient)}, state, params)
    expected = -0.02 * gradient / (np.sqrt(moment) + 1e-8)
    np.testing.assert_allclose(updates["embedding"], expected, rtol=1e-5)
