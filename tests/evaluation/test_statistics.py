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


def _two_methods(users=30, items=4):
  rng = np.random.default_rng(5)
  ids = np.repeat(np.arange(users), items)
  taste = np.repeat(rng.normal(0.2, 0.3, users), items)
  ours = np.clip(np.round(2 * (0.5 + taste + rng.normal(0, 0.3, ids.size))) / 2, 0, 1)
  theirs = np.clip(np.round(2 * (0.5 + rng.normal(0, 0.3, ids.size))) / 2, 0, 1)
  return ours, theirs, ids


def test_the_binomial_test_is_the_tail_of_the_binomial_distribution():
  """The paper's human study: 68.2 % of 50 people x 11 questions, were there no ties."""
  outcomes = np.array([1.0] * 375 + [0.0] * 175 + [0.5] * 20)
  found = statistics.binomial_test(outcomes, np.arange(570) % 50)
  tail = sum(math.comb(550, k) for k in range(375, 551)) / 2**550
  assert (found.won, found.lost) == (375, 175)
  assert found.p == pytest.approx(tail, rel=1e-9)
  assert found.users_for + found.users_against <= 50


def test_a_user_counts_once_in_the_binomial_test_of_users():
  outcomes = np.array([1.0, 1, 1, 1, 1, 1, 0, 0.5, 1.0, 0.0])
  users = np.array(["ana"] * 6 + ["ben", "ben", "cy", "cy"])
  found = statistics.binomial_test(outcomes, users)
  assert (found.users_for, found.users_against) == (1, 1)  # cy is undecided
  assert found.p_by_user == pytest.approx(0.75)
  assert found.p == pytest.approx(sum(math.comb(9, k) for k in (7, 8, 9)) / 2**9)


def test_nothing_but_ties_is_no_evidence():
  found = statistics.binomial_test(np.full(4, 0.5), np.arange(4))
  assert (found.won, found.lost, found.p, found.p_by_user) == (0, 0, 1.0, 1.0)


def test_paired_is_the_bootstrap_and_the_tests_of_users_differences():
  ours, theirs, ids = _two_methods()
  found = statistics.paired(ours, theirs, ids, resamples=5000)
  assert found.difference == statistics.cluster_bootstrap(ours - theirs, ids, resamples=5000)
  by_user = (ours - theirs).reshape(30, 4).mean(1)
  assert found.wilcoxon_p == pytest.approx(scipy.stats.wilcoxon(by_user).pvalue)
  # As many swaps of each user's sign as there are, by hand.
  signs = np.random.default_rng(1).choice([-1, 1], (20_000, 30))
  extreme = (np.abs((signs * by_user).mean(1)) >= abs(by_user.mean()) - 1e-12).mean()
  assert found.permutation_p == pytest.approx(extreme, abs=4 * math.sqrt(extreme / 5000) + 1e-3)


def test_of_one_user_no_two_methods_can_be_told_apart():
  found = statistics.paired(np.ones(4), np.zeros(4), np.full(4, "ana"))
  assert found.difference.mean == 1 and found.difference.ci is None
  assert (found.wilcoxon_p, found.permutation_p) == (1.0, 1.0)


def test_few_users_are_permuted_in_all_ways():
  """Of 2^3 swaps two are as extreme as three users who all gained."""
  found = statistics.paired(np.array([1.0, 0.9, 0.8]), np.zeros(3), np.arange(3))
  assert found.permutation_p == pytest.approx(0.25)


def test_a_method_is_no_better_than_itself_and_swapping_swaps():
  ours, theirs, ids = _two_methods()
  same = statistics.paired(ours, ours, ids)
  assert (same.difference.mean, same.wilcoxon_p, same.permutation_p) == (0, 1, 1)
  one, other = (
    statistics.paired(*pair, ids, resamples=500) for pair in ((ours, theirs), (theirs, ours))
  )
  assert one.difference.mean == -other.difference.mean
  assert one.wilcoxon_p == pytest.approx(other.wilcoxon_p)
  with pytest.raises(ValueError, match=r"one shape, found \(120,\) and \(3,\)"):
    statistics.paired(ours, theirs[:3], ids)


def test_kappa_is_agreement_beyond_chance():
  """Cohen's own formula, of wins, losses and ties; doubts go to the side they lean to."""
  ours = np.array([1.0, 1, 0, 0, 0.5, 0.75, 1, 0])
  theirs = np.array([1.0, 0, 0, 0, 0.5, 1, 0.5, 1])
  agreed = 5 / 8
  chance = (4 * 3 + 3 * 3 + 1 * 2) / 64
  assert statistics.kappa(ours, theirs) == pytest.approx((agreed - chance) / (1 - chance))
  assert statistics.kappa(ours, ours) == 1
  assert statistics.kappa(np.ones(3), np.ones(3)) is None


def test_an_order_flips_what_is_not_said_in_both():
  orders = np.array([[1, 1], [1, 0], [0.5, 1], [0, 0]])
  assert statistics.order_flip_rate(orders) == 0.5
