# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The user-by-user disagreement matrix, and the rule which users to regenerate."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

from jaxtyping import Float, Int
import numpy as np
import scipy.cluster.hierarchy
import scipy.sparse
import scipy.stats

from fspo_jax.synthesis.measures import Judgements

_MIN_COMPARED = 10  # others, before agreeing with none of them says anything


@dataclasses.dataclass(frozen=True, slots=True)
class Disagreement:
  """How often users label a pair in opposite ways, each against some others.

  Attributes:
    others: the positions of the users that the columns stand for.
    common: how many pairs (same question, same two responses) both have labelled; 0 with oneself.
    opposite: how many of these they labelled in opposite ways.
    labelled: how many pairs each user has labelled.
  """

  others: Int[np.ndarray, " others"]
  common: Int[np.ndarray, "users others"]
  opposite: Int[np.ndarray, "users others"]
  labelled: Int[np.ndarray, " users"]

  def shares(self, min_common: int) -> Float[np.ndarray, "users others"]:
    """Opposite of common; nan where fewer than `min_common` (at least 1) are common."""
    enough = self.common >= max(1, min_common)
    out = np.full(self.common.shape, np.nan)
    return np.divide(self.opposite, self.common, out=out, where=enough)

  @property
  def means(self) -> Float[np.ndarray, " users"]:
    """Of each user with all others, each common pair counting the same; nan where there is none."""
    common = self.common.sum(1)
    out = np.full(len(common), np.nan)
    return np.divide(self.opposite.sum(1), common, out=out, where=common > 0)


def compare(kept: Judgements, users: int, others: Int[np.ndarray, " others"]) -> Disagreement:
  """Compares every user with some others, by their preferences.

  Args:
    kept: the judgements of all users that became preferences.
    users: how many users there are, with or without judgements.
    others: the positions of the users to compare with.
  """
  _, pair = np.unique(kept.pair, return_inverse=True)
  chosen, rejected = kept.preferred
  signs = np.where(chosen < rejected, np.float32(1), np.float32(-1))
  shape = (users, int(pair.max(initial=-1)) + 1)
  labels = scipy.sparse.csr_array((signs, (kept.user, pair)), shape=shape)
  labels.data = np.sign(labels.data)  # A pair that is there twice is one pair.
  theirs = labels[others]
  # Of +1 and -1 the product is common minus twice the opposite.
  common = (abs(labels) @ abs(theirs).T).toarray().astype(np.int32)
  opposite = (common - (labels @ theirs.T).toarray().astype(np.int32)) // 2
  own = (others, np.arange(len(others)))
  common[own] = opposite[own] = 0
  return Disagreement(others, common, opposite, np.diff(labels.indptr))


def regenerate(
  found: Disagreement, *, threshold: float = 3.5, min_common: int = 5, min_agreeing: float = 0.02
) -> Mapping[int, str]:
  """The regenerate rule: which users disagree with the rest too much to be believable people.

  A user is named whose mean disagreement with all others is further above the median user's than
  `threshold` robust standard deviations (1.4826 times the median absolute deviation; Iglewicz and
  Hoaglin, "How to detect and handle outliers", 1993), or who agrees with almost nobody.
  The standard deviation is at least the sampling error of the user's own labels: of a few labels
  nothing follows.

  Args:
    found: the disagreement of all users with some.
    threshold: in robust standard deviations.
    min_common: two users are compared only if they have so many pairs in common.
    min_agreeing: a user must agree more often than not with such a share of those compared with.

  Returns:
    Why, by the position of the user.
  """
  means, labelled = found.means, np.maximum(found.labelled, 1)
  known = ~np.isnan(means) & (found.common.sum(1) >= min_common)
  if not known.any():
    return {}
  center = np.median(means[known])
  spread = scipy.stats.median_abs_deviation(means[known], scale="normal")
  # With one more of each kind, so that it is never 0.
  smoothed = (center * labelled + 1) / (labelled + 2)
  scale = np.maximum(spread, np.sqrt(smoothed * (1 - smoothed) / labelled))
  z = (means - center) / scale
  shares = found.shares(min_common)
  compared = (~np.isnan(shares)).sum(1)
  agreeing = (shares < 0.5).sum(1)
  out: dict[int, str] = {}
  for i in np.flatnonzero(known):
    if z[i] > threshold:
      out[int(i)] = (
        f"disagrees with others on {means[i]:.0%} of common pairs, the median user on "
        f"{center:.0%}: {z[i]:.1f} robust standard deviations above, expected at most {threshold:g}"
      )
    elif compared[i] >= _MIN_COMPARED and agreeing[i] < min_agreeing * compared[i]:
      out[int(i)] = (
        f"agrees more often than not with {agreeing[i]} of {compared[i]} others, expected "
        f"{min_agreeing:.0%} of them or more"
      )
  return out


def ordered(shares: Float[np.ndarray, "users users"]) -> tuple[tuple[float | None, ...], ...]:
  """A disagreement matrix with like users side by side (average linkage); None for nan."""
  if len(shares) < 3:
    order = np.arange(len(shares))
  else:
    # Who cannot be compared is as far away as the average.
    filled = np.where(np.isnan(shares), np.nanmean(shares) if (shares >= 0).any() else 0, shares)
    distances = filled[np.triu_indices(len(shares), k=1)]
    tree = scipy.cluster.hierarchy.linkage(distances, "average", optimal_ordering=True)
    order = scipy.cluster.hierarchy.leaves_list(tree)
  rows = shares[order][:, order].tolist()
  return tuple(tuple(None if math.isnan(x) else x for x in row) for row in rows)
