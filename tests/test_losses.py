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
  named = losses.preference("dpo", jnp.asarray(H), beta, smoothing)
  np.testing.assert_array_equal(named, losses.dpo(jnp.asarray(H), beta, smoothing))


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.7])
def test_ipo_and_its_gradient(beta):
  target = 1 / (2 * beta)
  expected = (H - target) ** 2
  np.testing.assert_allclose(losses.ipo(jnp.asarray(H), beta), expected, rtol=1e-5)
  found = _gradient(lambda h: losses.ipo(h, beta))
  np.testing.assert_allclose(found, 2 * (H - target), rtol=1e-5)
  np.testing.assert_array_equal(
    losses.preference("ipo", jnp.asarray(H), beta, 0.0), losses.ipo(jnp.asarray(H), beta)
  )
  assert float(losses.ipo(jnp.float32(target), beta)) == 0.0


def test_at_the_reference():
  # IPO at h = 0 and beta = 0.1: (1 / 0.2)^2 = 25.
  assert losses.at_reference("ipo", 0.1) == pytest.approx(25.0)
  assert losses.at_reference("ipo", 0.5) == pytest.approx(1.0)
  assert losses.at_reference("dpo", 0.1) == pytest.approx(math.log(2))
  for name in losses.PREFERENCE_LOSSES:
    found = losses.preference(name, jnp.zeros(()), 0.1, 0.0)
    assert float(found) == pytest.approx(losses.at_reference(name, 0.1))
  # Label smoothing does not move DPO's value there.
  assert float(losses.dpo(jnp.zeros(()), 0.1, 0.2)) == pytest.approx(math.log(2))


@hypothesis.given(st.tuples(*[st.floats(-500, 0, width=32)] * 4))
def test_the_margin(logprobs):
  policy_chosen, policy_rejected, ref_chosen, ref_rejected = logprobs
  expected = (policy_chosen - policy_rejected) - (ref_chosen - ref_rejected)
  arguments = [jnp.float32(x) for x in logprobs]
  assert float(losses.margin(*arguments)) == pytest.approx(expected, rel=1e-5, abs=5e-4)
  gradient = jax.grad(losses.margin, (0, 1, 2, 3))(*arguments)
  assert [float(g) for g in gradient] == [1.0, -1.0, -1.0, 1.0]
  assert float(losses.margin(*arguments[:2], *arguments[:2])) == 0.0


def test_sft_and_length_normalisation():
  logprob, length = jnp.asarray([-6.0, -1.0, 0.0]), jnp.asarray([3.0, 1.0, 0.0])
  np.testing.assert_array_equal(losses.normalize(logprob, length, False), logprob)
  # A padding segment, 0 tokens long, gives 0 and not 0 / 0.
  np.testing.assert_array_equal(losses.normalize(logprob, length, True), [-2.0, -1.0, 0.0])
  np.testing.assert_array_equal(losses.sft(logprob, length, False), [6.0, 1.0, 0.0])
  np.testing.assert_array_equal(losses.sft(logprob, length, True), [2.0, 1.0, 0.0])
  gradient = jax.grad(lambda x: losses.sft(x, length, True).sum())(logprob)
  np.testing.assert_allclose(gradient, [-1 / 3, -1.0, -1.0], rtol=1e-6)


def test_what_does_not_exist_is_refused():
  zero = jnp.zeros(())
  with pytest.raises(ValueError, match=r"loss\.name='kto' is not one of \('ipo', 'dpo'\)"):
    losses.preference("kto", zero, 0.1, 0.0)
  with pytest.raises(ValueError, match=r"loss\.name='kto'"):
    losses.at_reference("kto", 0.1)
  with pytest.raises(ValueError, match=r"loss\.label_smoothing"):
    losses.preference("ipo", zero, 0.1, 0.1)
