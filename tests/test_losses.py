# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the losses, against their formulas and derivatives in numpy and float64."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import losses

H = np.asarray([-300.0, -7.5, -1.0, -1e-3, 0.0, 1e-3, 0.4, 5.0, 12.0, 300.0])


def _sigmoid(x):
  return np.where(
    x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
  )


def _log_sigmoid(x):
  return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def _gradient(loss):
  return jax.vmap(jax.grad(loss))(jnp.asarray(H, jnp.float32))


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_dpo_and_its_gradient(beta, smoothing):
  expected = -(1 - smoothing) * _log_sigmoid(beta * H) - smoothing * _log_sigmoid(-beta * H)
  found = losses.dpo(jnp.asarray(H), beta, smoothing)
  np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-30)
  # d/dh = beta (sigmoid(beta h) - (1 - e)): 0 where the model's odds are the smoothed label's.
  slope = beta * (_sigmoid(beta * H) - (1 - smoothing))
  found = _gradient(lambda h: losses.dpo(h, beta, smoothing))
  np.testing.assert_allclose(found, slope, rtol=2e-5, atol=1e-7)
  named = losses.preference(
    "dpo", jnp.asarray(H), jnp.zeros(len(H)), beta=beta, label_smoothing=smoothing
  )
  np.testing.assert_array_equal(named, losses.dpo(jnp.asarray(H), beta, smoothing))


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.7])
def test_ipo_and_its_gradient(beta):
  target = 1 / (2 * beta)
  expected = (H - target) ** 2
  np.testing.assert_allclose(losses.ipo(jnp.asarray(H), beta), expected, rtol=1e-5)
  found = _gradient(lambda h: losses.ipo(h, beta))
  np.testing.assert_allclose(found, 2 * (H - target), rtol=1e-5)
  named = losses.preference("ipo", jnp.asarray(H), jnp.zeros(len(H)), beta=beta)
  np.testing.assert_array_equal(named, losses.ipo(jnp.asarray(H), beta))
  assert float(losses.ipo(jnp.float32(target), beta)) == 0.0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.6])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_simpo_and_its_gradient(beta, gamma):
  expected = -_log_sigmoid(beta * H - gamma)
  found = losses.simpo(jnp.asarray(H), beta, gamma)
  np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-30)
  slope = -beta * _sigmoid(gamma - beta * H)
  found = _gradient(lambda h: losses.simpo(h, beta, gamma))
  np.testing.assert_allclose(found, slope, rtol=2e-5, atol=1e-7)
  named = losses.preference("simpo", jnp.asarray(H), jnp.zeros(len(H)), beta=beta, gamma=gamma)
  np.testing.assert_array_equal(named, losses.simpo(jnp.asarray(H), beta, gamma))


def test_simpo_of_two_responses():
  # -6 nats over 3 tokens and over 2: means of -2 and -3, so h = 1, and at beta = 2, gamma = 0.5 the
  # loss is log(1 + exp(-(2 - 0.5))). Of the sums h would be 0.
  means = losses.normalize(jnp.asarray([-6.0, -6.0]), jnp.asarray([3.0, 2.0]), True)
  found = losses.preference("simpo", *means, beta=2.0, gamma=0.5)
  assert float(found) == pytest.approx(0.2014133, rel=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
@pytest.mark.parametrize("z0", [0.0, 3.0])
@pytest.mark.parametrize("beta", [0.01, 0.1, 0.7])
def test_kto_and_its_gradient(beta, z0, weights):
  chosen, rejected = (x.ravel() for x in np.meshgrid(H, H))
  value = weights[0] * _sigmoid(beta * (chosen - z0)), weights[1] * _sigmoid(beta * (z0 - rejected))
  expected = ((weights[0] - value[0]) + (weights[1] - value[1])) / 2
  arguments = [jnp.asarray(x, jnp.float32) for x in (chosen, rejected)]
  found = losses.kto(*arguments, z0, beta, *weights)
  np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-9)
  # sigmoid' = sigmoid (1 - sigmoid): the chosen response is pulled up, the rejected one down.
  slopes = [
    sign * weight * beta * _sigmoid(beta * (r - z0)) * _sigmoid(beta * (z0 - r)) / 2
    for sign, weight, r in ((-1, weights[0], chosen), (1, weights[1], rejected))
  ]
  total = lambda c, r: losses.kto(c, r, z0, beta, *weights).sum()  # noqa: E731
  for gradient, slope in zip(jax.grad(total, (0, 1))(*arguments), slopes, strict=True):
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-7)
  options = dict(zip(("desirable_weight", "undesirable_weight"), weights, strict=True))
  named = losses.preference("kto", *arguments, beta=beta, z0=jnp.float32(z0), **options)
  np.testing.assert_array_equal(named, found)


def test_kto_of_one_pair():
  # At beta = 0.5 and z0 = 2: r = 4 is desirable, 1 - sigmoid(1) = 0.2689414; r = -2 undesirable,
  # 1.5 (1 - sigmoid(2)) = 1.5 * 0.1192029. Half their sum is 0.2238729.
  found = losses.kto(jnp.float32(4), jnp.float32(-2), 2.0, 0.5, 1.0, 1.5)
  assert float(found) == pytest.approx(0.2238729, rel=1e-6)
  # Where all is well the loss is exp(-30) for each response, and not what 1 - 1 leaves of it.
  found = losses.kto(jnp.float32(60), jnp.float32(-60), 0.0, 0.5)
  assert float(found) == pytest.approx(math.exp(-30), rel=1e-5)


def test_ktos_reference_point():
  # Below 0 the mean log-ratio is no KL.
  found = [float(losses.reference_point(jnp.float32(x))) for x in (-3.0, 0.0, 2.5)]
  assert found == [0.0, 0.0, 2.5]
  assert float(jax.grad(losses.reference_point)(jnp.float32(2.5))) == 0.0


def test_at_the_reference():
  # IPO at h = 0 and beta = 0.1: (1 / 0.2)^2 = 25.
  assert losses.at_reference("ipo", 0.1) == pytest.approx(25.0)
  assert losses.at_reference("ipo", 0.5) == pytest.approx(1.0)
  assert losses.at_reference("dpo", 0.1) == pytest.approx(math.log(2))
  # lambda - lambda sigmoid(0), of two responses: (1 / 2 + 1 / 2) / 2, and (1 / 2 + 3 / 2) / 2.
  assert losses.at_reference("kto", 0.1) == pytest.approx(0.5)
  assert losses.at_reference("kto", 0.1, 1.0, 3.0) == pytest.approx(1.0)
  zero = jnp.zeros(())
  for name in {*losses.PREFERENCE_LOSSES} - {*losses.REFERENCE_FREE}:
    found = losses.preference(name, zero, zero, beta=0.1, z0=zero)
    assert float(found) == pytest.approx(losses.at_reference(name, 0.1))
  uneven = losses.kto(zero, zero, zero, 0.1, 1.0, 3.0)
  assert float(uneven) == pytest.approx(losses.at_reference("kto", 0.1, 1.0, 3.0))
  # Label smoothing does not move DPO's value there.
  assert float(losses.dpo(jnp.zeros(()), 0.1, 0.2)) == pytest.approx(math.log(2))


@hypothesis.given(st.tuples(*[st.floats(-500, 500, width=32)] * 2))
def test_the_margin(log_ratios):
  chosen, rejected = log_ratios
  arguments = [jnp.float32(x) for x in log_ratios]
  assert float(losses.margin(*arguments)) == pytest.approx(chosen - rejected, rel=1e-6)
  gradient = jax.grad(losses.margin, (0, 1))(*arguments)
  assert [float(g) for g in gradient] == [1.0, -1.0]


def test_sft_and_length_normalisation():
  logprob, length = jnp.asarray([-6.0, -1.0, 0.0]), jnp.asarray([3.0, 1.0, 0.0])
  np.testing.assert_array_equal(losses.normalize(logprob, length, False), logprob)
  # A padding segment, 0 tokens long, gives 0 and not 0 / 0.
  np.testing.assert_array_equal(losses.normalize(logprob, length, True), [-2.0, -1.0, 0.0])
  np.testing.assert_array_equal(losses.sft(logprob, length, False), [6.0, 1.0, 0.0])
  np.testing.assert_array_equal(losses.sft(logprob, length, True), [2.0, 1.0, 0.0])
  gradient = jax.grad(lambda x: losses.sft(x, length, True).sum())(logprob)
  np.testing.assert_allclose(gradient, [-1 / 3, -1.0, -1.0], rtol=1e-6)


def _preference(name, **options):
  zero = jnp.zeros(())
  return losses.preference(name, zero, zero, beta=0.1, z0=zero, **options)


def test_what_does_not_exist_is_refused():
  names = r"loss\.name='orpo' is not one of \('ipo', 'dpo', 'kto', 'simpo'\)"
  with pytest.raises(ValueError, match=names):
    _preference("orpo")
  with pytest.raises(ValueError, match=names):
    losses.at_reference("orpo", 0.1)
  with pytest.raises(ValueError, match=r"loss\.name='simpo' has no reference"):
    losses.at_reference("simpo", 0.1)
  with pytest.raises(ValueError, match=r"loss\.name='kto' needs z0, .*: found None"):
    losses.preference("kto", jnp.zeros(()), jnp.zeros(()), beta=0.1)


# Each option, its neutral value, and the one loss that has it.
OPTIONS = {
  "label_smoothing": (0, "dpo", "DPO"),
  "gamma": (0, "simpo", "SimPO"),
  "desirable_weight": (1, "kto", "KTO"),
  "undesirable_weight": (1, "kto", "KTO"),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", losses.PREFERENCE_LOSSES)
def test_another_losss_option_is_refused(name, option):
  none, owner, spelled = OPTIONS[option]
  neutral = float(_preference(name, **{option: float(none)}))
  assert neutral == float(_preference(name))
  if name == owner:
    # Label smoothing alone does nothing at h = 0.
    changed = float(_preference(name, **{option: 0.3}))
    assert (changed != neutral) == (option != "label_smoothing")
  else:
    message = (
      rf"loss\.{option} is {spelled}'s; {name.upper()} has none: found 0\.3, expected {none}"
    )
    with pytest.raises(ValueError, match=message):
      _preference(name, **{option: 0.3})
