# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Per-item outcomes (lost, tied, won), and the interval of their mean over users.

Queries of one user are not independent: the same taste decides them all. Intervals therefore come
from resampling users, not queries (the cluster bootstrap; Field and Welsh, "Bootstrapping clustered
data", JRSS B 69(3), 2007).
"""

from __future__ import annotations

import dataclasses
import math

from jaxtyping import Float, Shaped
import numpy as np
import scipy.stats
import sklearn.metrics


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
  """A mean and its confidence interval.

  Attributes:
    mean: the mean over all values.
    low: lower end of the interval; nan where there is a single cluster.
    high: upper end of the interval; nan where there is a single cluster.
    clusters: how many users the interval resamples.
  """

  mean: float
  low: float
  high: float
  clusters: int

  @property
  def ci(self) -> list[float] | None:
    """`[low, high]` as results.json holds it; None where one user allows no interval."""
    return None if math.isnan(self.low) else [self.low, self.high]


@dataclasses.dataclass(frozen=True, slots=True)
class Binomial:
  """One-sided sign tests of "more often won than lost": ties say nothing and are left out.

  Attributes:
    won: items that are more than half a win.
    lost: items that are less.
    p: the probability of so many wins or more, were wins and losses equally likely and items
      independent, as the paper tests; where a user has several items, too small.
    users_for: users who won more than half in the mean.
    users_against: users who won less.
    p_by_user: the same probability, of users for items.
  """

  won: int
  lost: int
  p: float
  users_for: int
  users_against: int
  p_by_user: float


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
  """Two methods on the same items, by user.

  Attributes:
    difference: the mean of ours minus theirs, with its interval by bootstrap over users.
    wilcoxon_p: of Wilcoxon's signed-rank test of the users' mean differences, two-sided.
    permutation_p: of swapping the methods' names user by user, two-sided, by the mean of the
      users' mean differences.
  """

  difference: Interval
  wilcoxon_p: float
  permutation_p: float


def _mean_of_all(
  sums: Float[np.ndarray, "*resamples users"],
  counts: Float[np.ndarray, "*resamples users"],
  axis: int = -1,
) -> Float[np.ndarray, "*resamples"]:
  return sums.sum(axis=axis) / counts.sum(axis=axis)


def cluster_bootstrap(
  values: Float[np.ndarray, " n"],
  clusters: Shaped[np.ndarray, " n"],
  *,
  resamples: int = 2000,
  seed: int = 0,
  confidence: float = 0.95,
) -> Interval:
  """The mean of `values` with a percentile bootstrap interval that resamples whole users.

  The same function compares two methods: pass the per-item difference of their outcomes.
  Values that are all equal give an interval of no width, which is the bootstrap's known weakness,
  not certainty.

  Args:
    values: one number per item, such as the outcomes of `preference_accuracy`.
    clusters: the user id of each item, in any order; users may have different numbers of items.
    resamples: how many bootstrap samples to draw.
    seed: the only source of randomness; the same seed gives the same interval.
    confidence: the nominal coverage, in (0, 1).

  Returns:
    The mean over all values (each item counts the same, so a user with more items counts more),
    and its interval. With a single user low and high are nan: one user says nothing of others.

  Raises:
    ValueError: if there are no values, they are not finite, or there is not one user id for each.
  """
  values = np.asarray(values, np.float64)
  clusters = np.asarray(clusters)
  if values.ndim != 1 or clusters.shape != values.shape:
    raise ValueError(
      "expected one user id per value, both of one dimension, found values of shape "
      f"{values.shape} and clusters of shape {clusters.shape}"
    )
  if not values.size:
    raise ValueError("expected at least one value, found none")
  _check_finite("values", values)

  users, user_of_item = np.unique(clusters, return_inverse=True)
  sums = np.bincount(user_of_item, weights=values)
  counts = np.bincount(user_of_item).astype(np.float64)
  mean = float(_mean_of_all(sums, counts))
  if users.size == 1:
    return Interval(mean, math.nan, math.nan, clusters=1)

  # A user's sum and count are all that the mean needs, so resampling these pairs resamples users.
  # Percentile rather than BCa: BCa is undefined when every user has the same mean, as a method that
  # is right on everything has.
  interval = scipy.stats.bootstrap(
    (sums, counts),
    _mean_of_all,
    paired=True,
    vectorized=True,
    n_resamples=resamples,
    confidence_level=confidence,
    method="percentile",
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Interval(mean, float(interval.low), float(interval.high), clusters=users.size)


def binomial_test(outcomes: Float[np.ndarray, " n"], users: Shaped[np.ndarray, " n"]) -> Binomial:
  """Tests whether outcomes are more often wins than losses, one-sided.

  Args:
    outcomes: in [0, 1]: 1 for a win, 0 for a loss, 0.5 for a tie.
    users: the user id of each.
  """
  outcomes = np.asarray(outcomes, np.float64)
  _check_finite("outcomes", outcomes)
  by_user = _user_means(outcomes, users)
  counts = [int(x) for own in (outcomes, by_user) for x in ((own > 0.5).sum(), (own < 0.5).sum())]
  return Binomial(
    counts[0], counts[1], _sign_test(*counts[:2]), counts[2], counts[3], _sign_test(*counts[2:])
  )


def _sign_test(won: int, lost: int) -> float:
  if not won + lost:
    return 1.0
  return float(scipy.stats.binomtest(won, won + lost, alternative="greater").pvalue)


def _user_means(
  values: Float[np.ndarray, " n"], users: Shaped[np.ndarray, " n"]
) -> Float[np.ndarray, " users"]:
  """The mean of each user's values, users in the order of their ids."""
  _, user_of_item = np.unique(np.asarray(users), return_inverse=True)
  return np.bincount(user_of_item, weights=values) / np.bincount(user_of_item)


def paired(
  ours: Float[np.ndarray, " n"],
  theirs: Float[np.ndarray, " n"],
  users: Shaped[np.ndarray, " n"],
  *,
  resamples: int = 2000,
  seed: int = 0,
) -> Paired:
  """Compares two methods that were asked the same.

  Args:
    ours: an outcome per item, such as those of `win_rate`.
    theirs: of the other method, on the same items.
    users: the user id of each item.
    resamples: of users for the interval, and of swaps for the permutation test (which tries all
      where there are no more than that).
    seed: the only source of randomness.

  Raises:
    ValueError: there is not one of each for every item, or they are not finite.
  """
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if ours.shape != theirs.shape:
    raise ValueError(f"expected outcomes of one shape, found {ours.shape} and {theirs.shape}")
  interval = cluster_bootstrap(ours - theirs, users, resamples=resamples, seed=seed)
  by_user = _user_means(ours - theirs, users)
  if len(by_user) < 2 or not by_user.any():  # of one user the tests are not defined
    return Paired(interval, 1.0, 1.0)
  permutation = scipy.stats.permutation_test(
    (by_user,),
    np.mean,
    permutation_type="samples",
    vectorized=True,
    n_resamples=resamples,
    rng=np.random.default_rng(seed),
  )
  wilcoxon = scipy.stats.wilcoxon(by_user)
  return Paired(interval, float(wilcoxon.pvalue), float(permutation.pvalue))


def kappa(ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"]) -> float | None:
  """Cohen's kappa of two judges, of whether each item is a win, a loss or neither.

  Args:
    ours: an outcome in [0, 1] per item; more than half is a win.
    theirs: the other judge's, of the same items.

  Returns:
    1 for full agreement, 0 for that of chance; None where both judges always say the same one
    thing, which chance would agree on as well.
  """
  signs = [np.sign(np.asarray(x, np.float64) - 0.5).astype(int) for x in (ours, theirs)]
  if len(np.unique(np.concatenate(signs))) < 2:
    return None
  return float(sklearn.metrics.cohen_kappa_score(*signs))


def order_flip_rate(orders: Float[np.ndarray, "n 2"]) -> float:
  """How often a judge says another thing when the two responses are shown the other way round.

  Args:
    orders: of each item the outcome in either order, both as wins of the same response.
  """
  orders = np.asarray(orders, np.float64)
  return float((orders[:, 0] != orders[:, 1]).mean())


def preference_accuracy(margins: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
  """Whether each margin (chosen's reward minus rejected's) is positive.

  Args:
    margins: margins of any shape.

  Returns:
    Of the same shape: 1 where the margin is positive, 0 where negative, 0.5 at exactly 0, so that
    a model that tells the two responses apart nowhere scores at chance.

  Raises:
    ValueError: if a margin is not finite; counting it as lost would hide a broken model.
  """
  margins = np.asarray(margins, np.float64)
  _check_finite("margins", margins)
  return (1 + np.sign(margins)) / 2


def win_rate(
  ours: Float[np.ndarray, "*shape"], baseline: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
  """Whether the judge rewards each of our responses more than the baseline's.

  Args:
    ours: rewards of our responses, of any shape.
    baseline: rewards of the baseline's responses to the same prompts for the same users.

  Returns:
    Of the same shape: 1 for a win, 0.5 for a tie, 0 for a loss.

  Raises:
    ValueError: if the shapes differ, or a reward is not finite.
  """
  ours, baseline = np.asarray(ours, np.float64), np.asarray(baseline, np.float64)
  if ours.shape != baseline.shape:
    raise ValueError(
      f"expected rewards of one shape, found ours {ours.shape} and baseline {baseline.shape}"
    )
  _check_finite("ours", ours)
  _check_finite("baseline", baseline)
  return (1 + np.sign(ours - baseline)) / 2


def _check_finite(name: str, array: np.ndarray) -> None:
  bad = np.argwhere(~np.isfinite(array))
  if bad.size:
    where = tuple(int(i) for i in bad[0])
    raise ValueError(
      f"{name}{list(where)}: expected a finite number, found {array[where]} "
      f"({len(bad)} of {array.size} are not finite)"
    )
