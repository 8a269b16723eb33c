# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from fspo_jax.evaluation import statistics


def _two_level_items(seed: int, users: int = 40) -> tuple[np.ndarray, np.ndarray]:
  """Outcomes of users who differ: each is right with a probability of their own, mean 2/3."""
  rng = np.random.default_rng([17, seed])
  probability = rng.beta(4, 2, users)
  ids = np.repeat(np.arange(users), rng.integers(2, 9, users))
  return (rng.random(ids.size) < probability[ids]).astype(np.float64), ids


def test_one_value_per_user_agrees_with_the_normal_interval():
  rng = np.random.default_rng(0)
  values = rng.normal(0.6, 0.2, size=400)
  interval = statistics.cluster_bootstrap(values, np.arange(400), resamples=20_000)
  low, high = scipy.stats.norm.interval(0.95, values.mean(), values.std() / math.sqrt(400))
  assert interval.mean == pytest.approx(values.mean(), abs=1e-12)
  # 20 000 resamples put an end within about 2 % of the standard error of where it belongs.
  tolerance = 0.06 * values.std() / math.sqrt(400)
  assert interval.low == pytest.approx(low, abs=tolerance)
  assert interval.high == pytest.approx(high, abs=tolerance)
  assert interval.clusters == 400


def test_wider_confidence_gives_a_wider_interval():
  values, ids = _two_level_items(0)
  narrow = statistics.cluster_bootstrap(values, ids, confidence=0.8)
  wide = statistics.cluster_bootstrap(values, ids, confidence=0.99)
  assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize("copies", [2, 16])
def test_repeating_the_items_of_every_user_changes_nothing(copies):
  values, ids = _two_level_items(1)
  once = statistics.cluster_bootstrap(values, ids)
  often = statistics.cluster_bootstrap(np.repeat(values, copies), np.repeat(ids, copies))
  assert (often.mean, often.low, often.high) == pytest.approx((once.mean, once.low, once.high))
  # Whereas items taken for independent would pretend to know more with every copy.
  naive = statistics.cluster_bootstrap(np.repeat(values, copies), np.arange(values.size * copies))
  assert naive.high - naive.low < 0.8 * (once.high - once.low)


def test_items_and_not_users_weigh_the_same_in_the_mean():
  interval = statistics.cluster_bootstrap(np.array([1.0, 0, 0, 0]), np.array([0, 1, 1, 1]))
  assert interval.mean == 0.25
  assert (interval.low, interval.high) == (0, 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shuffle=st.integers(0, 1000))
def test_same_seed_same_interval_in_any_order_and_by_any_names(seed, shuffle):
  values, ids = _two_level_items(2)
  interval = statistics.cluster_bootstrap(values, ids, seed=seed, resamples=200)
  assert statistics.cluster_bootstrap(values, ids, seed=seed, resamples=200) == interval
  order = np.random.default_rng(shuffle).permutation(values.size)
  names = np.array([f"user_{i:03d}" for i in ids])
  again = statistics.cluster_bootstrap(values[order], names[order], seed=seed, resamples=200)
  assert again == interval
  assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_another_seed_gives_another_interval():
  values, ids = _two_level_items(3)
  intervals = [statistics.cluster_bootstrap(values, ids, seed=s, resamples=100) for s in (0, 1)]
  assert intervals[0] != intervals[1]
  assert intervals[0].mean == intervals[1].mean


def test_covers_the_truth_about_as_often_as_it_says():
  covered = np.zeros(2)
  for seed in range(200):
    values, ids = _two_level_items(seed)
    for i, clusters in enumerate((ids, np.arange(ids.size))):
      interval = statistics.cluster_bootstrap(values, clusters, resamples=300, seed=seed)
      covered[i] += interval.low <= 2 / 3 <= interval.high
  by_user, by_item = covered / 200
  assert 0.88 <= by_user <= 0.99
  assert by_item < by_user - 0.03


def test_one_user_has_a_mean_but_no_interval():
  interval = statistics.cluster_bootstrap(np.array([1.0, 0.0]), np.array(["a", "a"]))
  assert interval.mean == 0.5
  assert math.isnan(interval.low)
  assert math.isnan(interval.high)
  assert interval.clusters == 1
  assert interval.ci is None


def test_users_who_all_agree_have_an_interval_of_no_width():
  interval = statistics.cluster_bootstrap(np.ones(6), np.array([0, 0, 1, 1, 2, 2]))
  assert interval.ci == [1.0, 1.0]


@pytest.mark.parametrize(
  ("values", "clusters", "message"),
  [
    ([], [], "found none"),
    ([1.0, 0.0], [0], r"shape \(2,\) and clusters of shape \(1,\)"),
    ([[1.0]], [[0]], "one dimension"),
    ([1.0, math.nan], [0, 1], r"values\[1\].*nan.*1 of 2"),
  ],
)
def test_bootstrap_refuses_what_has_no_interval(values, clusters, message):
  with pytest.raises(ValueError, match=message):
    statistics.cluster_bootstrap(np.array(values), np.array(clusters))


def test_preference_accuracy_counts_ties_half():
  margins = np.array([[2.0, -1e-30], [0.0, -0.0]], np.float32)
  np.testing.assert_array_equal(statistics.preference_accuracy(margins), [[1, 0], [0.5, 0.5]])
  with pytest.raises(ValueError, match=r"margins\[1, 0\].*inf"):
    statistics.preference_accuracy(np.array([[0, 1], [np.inf, 0]]))


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1))
def test_swapping_the_sides_swaps_wins_and_losses(rewards):
  ours, baseline = np.array(rewards).T
  wins = statistics.win_rate(ours, baseline)
  np.testing.assert_array_equal(wins + statistics.win_rate(baseline, ours), 1)
  np.testing.assert_array_equal(wins[ours > baseline], 1)
  np.testing.assert_array_equal(wins[ours == baseline], 0.5)


def test_win_rate_refuses_rewards_that_do_not_match():
  with pytest.raises(ValueError, match=r"ours \(2,\) and baseline \(1,\)"):
    statistics.win_rate(np.zeros(2), np.zeros(1))
  with pytest.raises(ValueError, match=r"baseline\[0\]"):
    statistics.win_rate(np.zeros(1), np.array([np.nan]))
