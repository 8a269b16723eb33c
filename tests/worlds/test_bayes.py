# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the exact Bayes ceiling against brute force, the sampler and simpler predictors."""

import itertools

import numpy as np
import pytest
import scipy.stats

from fspo_jax.worlds import bayes, reviews
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS

WORLD = reviews.ReviewsWorld()
POPULATION = reviews.population()
# One user of each size.
SOME = (POPULATION[17], POPULATION[1000], POPULATION[3000])
SIZE = len(COMBINATIONS)
ALL_PAIRS = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), axis=-1)


def _table(user: int, *, clean: bool = True, **arguments) -> np.ndarray:
  """P(chosen, rejected | user), [96, 96]."""
  predictor = bayes.BayesPredictor(population=SOME, **arguments)
  return np.exp(predictor.pair_log_likelihood(ALL_PAIRS, clean=clean))[..., user]


def _brute_force(tastes: reviews.Tastes, candidates: int, min_differences: int) -> np.ndarray:
  """P(best, worst | user) by enumerating every draw and every way to break its ties."""
  rewards = reviews.combination_rewards(tastes)
  draws = np.indices((SIZE,) * candidates).reshape(candidates, -1)
  drawn = rewards[draws]
  is_best = drawn == drawn.max(0)
  is_worst = drawn == drawn.min(0)
  ways = 1 / (is_best.sum(0) * is_worst.sum(0))
  table = np.zeros(SIZE * SIZE)
  for i, j in itertools.permutations(range(candidates), 2):
    weight = ways * is_best[i] * is_worst[j]
    table += np.bincount(draws[i] * SIZE + draws[j], weight, minlength=SIZE * SIZE)
  table = table.reshape(SIZE, SIZE)
  table *= rewards[:, None] > rewards[None]
  table *= reviews.DIFFERENCES >= min_differences
  return table / table.sum()


@pytest.mark.parametrize("candidates, min_differences", [(2, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("user", range(len(SOME)))
def test_likelihood_matches_brute_force(user, candidates, min_differences):
  table = _table(user, candidates=candidates, min_differences=min_differences)
  expected = _brute_force(SOME[user], candidates, min_differences)
  np.testing.assert_allclose(table, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("candidates", [2, 4, 16])
@pytest.mark.parametrize("clean", [True, False])
def test_likelihood_sums_to_one(candidates, clean):
  predictor = bayes.BayesPredictor(candidates=candidates, population=POPULATION[::20])
  likelihood = np.exp(predictor.pair_log_likelihood(ALL_PAIRS, clean=clean))
  np.testing.assert_allclose(likelihood.sum((0, 1)), 1, rtol=1e-9)


def test_label_noise_mixes_both_orders():
  clean = _table(0)
  noisy = _table(0, clean=False, label_noise=0.2)
  np.testing.assert_allclose(noisy, 0.8 * clean + 0.2 * clean.T, rtol=1e-9)


@pytest.mark.parametrize("user", range(len(SOME)))
def test_sampler_has_the_likelihood(user):
  count = 300_000
  pairs = WORLD.sample_pairs(np.random.default_rng(user), SOME[user], count)
  observed = np.bincount(pairs @ [SIZE, 1], minlength=SIZE * SIZE)
  expected = _table(user, clean=False).ravel() * count
  assert not observed[expected == 0].any()
  # Cells that expect few are counted together, as the test of goodness of fit demands.
  many = expected >= 5
  observed = np.append(observed[many], observed[~many].sum())
  expected = np.append(expected[many], expected[~many].sum())
  assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


def test_posterior_without_shots_is_the_prior():
  predictor = bayes.BayesPredictor()
  none = np.empty((0, 2), np.int64)
  np.testing.assert_allclose(predictor.posterior(none), 1 / 3240)
  queries = np.random.default_rng(0).integers(SIZE, size=(50, 2))
  np.testing.assert_allclose(predictor.predict(np.empty((50, 0, 2), np.int64), queries), 0.5)


def test_posterior_finds_the_user_and_their_best_response():
  predictor = bayes.BayesPredictor.for_world(WORLD)
  rng = np.random.default_rng(0)
  for tastes in (*SOME, *WORLD.users("heldout_combinations")[::100]):
    shots = WORLD.sample_pairs(rng, tastes, 150)
    assert POPULATION[predictor.posterior(shots).argmax()] == tastes
    best = predictor.best_response_combination(shots)
    assert reviews.combination_reward(tastes, best) == sum(tastes.weights)


def test_posterior_is_the_rule_of_bayes_written_out():
  predictor = bayes.BayesPredictor(population=SOME)
  shots = WORLD.sample_pairs(np.random.default_rng(0), SOME[1], 2)
  query = WORLD.sample_pairs(np.random.default_rng(1), SOME[1], 1)[0]
  joint = np.array(
    [np.prod([_table(u, clean=False)[a, b] for a, b in shots]) for u in range(len(SOME))]
  )
  posterior = joint / joint.sum()
  np.testing.assert_allclose(predictor.posterior(shots), posterior, rtol=1e-9)
  one, other = (
    sum(posterior[u] * _table(u)[pair] for u in range(len(SOME)))
    for pair in (tuple(query), tuple(query[::-1]))
  )
  np.testing.assert_allclose(predictor.predict(shots, query), one / (one + other), rtol=1e-9)
  flipped = predictor.predict(shots, query[::-1])
  np.testing.assert_allclose(flipped, other / (one + other), rtol=1e-9)


def _episodes(users, count: int, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  support, queries = [], []
  for episode in range(count):
    rng = np.random.default_rng([seed, episode])
    tastes = users[rng.integers(len(users))]
    support.append(WORLD.sample_pairs(rng, tastes, shots))
    queries.append(WORLD.sample_pairs(rng, tastes, 1, label_noise=0.0)[0])
  return np.stack(support), np.stack(queries)


def test_prediction_is_calibrated_and_by_k_agrees_with_predict():
  count, ks = 1500, (0, 1, 4, 8)
  shots, queries = _episodes(POPULATION, count, max(ks), seed=1)
  predictor = bayes.BayesPredictor.for_world(WORLD)
  probabilities = predictor.predict_by_k(shots, queries, ks)
  for column, k in enumerate(ks):
    right = probabilities[:, column]
    # The first response of these queries is the better one: `right` is the probability given to
    # the truth. A calibrated prediction is right as often as it is sure.
    sure = np.maximum(right, 1 - right)
    correct = np.where(np.isclose(right, 0.5), 0.5, right > 0.5)
    error = np.sqrt((sure * (1 - sure)).mean() / count)
    assert abs(correct.mean() - sure.mean()) <= 4 * error + 1e-12
    np.testing.assert_allclose(predictor.predict(shots[:20, :k], queries[:20]), right[:20])


def _vote_accuracy(shots: np.ndarray, queries: np.ndarray) -> float:
  """Counts every value of the chosen up and of the rejected down; ties are half right."""
  values = np.concatenate(
    [
      np.eye(len(names))[np.array(COMBINATIONS)[:, a]]
      for a, names in enumerate(ATTRIBUTES.values())
    ],
    axis=1,
  )
  votes = (values[shots[..., 0]] - values[shots[..., 1]]).sum(1)
  margin = (votes * (values[queries[:, 0]] - values[queries[:, 1]])).sum(-1)
  return float(np.where(margin == 0, 0.5, margin > 0).mean())


def test_accuracy_grows_with_shots_and_beats_voting():
  episodes = 4000
  accuracy = bayes.bayes_accuracy(WORLD, WORLD.users("unseen"), episodes=episodes, seed=5)
  assert list(accuracy) == list(range(9))
  assert accuracy[0] == 0.5
  for k in range(8):
    error = np.sqrt(accuracy[k] * (1 - accuracy[k]) / episodes)
    assert accuracy[k + 1] >= accuracy[k] - 2 * error
  # The very same episodes, by the contract that an episode is a pure function of (seed, index).
  shots, queries = _episodes(WORLD.users("unseen"), episodes, 8, seed=5)
  # Voting lags by 0.015 here, more than 3 standard errors of the paired difference. After one or
  # two shots there is hardly more to do than to vote.
  for k in (4, 8):
    assert accuracy[k] > _vote_accuracy(shots[:, :k], queries)
  assert accuracy[8] == pytest.approx(0.97, abs=0.015)


def test_accuracy_is_pure_in_the_seed():
  users = WORLD.users("unseen")
  draws = [bayes.bayes_accuracy(WORLD, users, (1, 3), episodes=150, seed=s) for s in (0, 0, 1)]
  assert draws[0] == draws[1] != draws[2]


def test_texts_carry_what_inference_needs():
  predictor = bayes.BayesPredictor.for_world(WORLD)
  preferences = WORLD.preferences(np.random.default_rng(0), SOME[0], 9)
  pairs = bayes.preference_pairs(preferences)
  assert np.array_equal(pairs, WORLD.sample_pairs(np.random.default_rng(0), SOME[0], 9))
  names = [(COMBINATIONS[a], COMBINATIONS[b]) for a, b in pairs]
  assert np.array_equal(bayes.combination_pairs(names), pairs)
  assert bayes.preference_pairs([]).shape == (0, 2)
  assert predictor.predict(pairs[:8], pairs[8]).shape == ()


def test_errors():
  with pytest.raises(ValueError, match="Pair 0: found"):
    bayes.combination_pairs([(COMBINATIONS[0], (None, 0, 0, 0, 0, 0))])
  predictor = bayes.BayesPredictor(label_noise=0.0, population=SOME)
  same = np.zeros((1, 2), np.int64)
  with pytest.raises(ValueError, match="no user"):
    predictor.posterior(same)
  with pytest.raises(ValueError, match="ks: found 3"):
    predictor.predict_by_k(np.zeros((1, 2, 2), np.int64), same, [1, 3])
