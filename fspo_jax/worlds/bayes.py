# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The exact ceiling of the reviews world: Bayesian inference over all of its 3,240 users.

The prior is uniform over the whole population, not over a split: a method does not know which users
were kept from its training, so the ceiling must not either. A response's text says no more about
the user than its attributes do (phrasings are drawn independently of the user), so inference on
combinations of attributes is inference on the texts.

The likelihood of a pair. Of M independent uniform combinations, best and worst by the reward r of
user u become the pair, with ties broken at random. Let n(v) be the number of combinations of reward
v, and c(x, y) that of combinations whose reward lies in [x, y]. All M rewards lie in [x, y] with
probability (c(x, y) / 96)^M. Of the events "all in [t, s]", those have maximum s and minimum t
that lie neither in [t, s - 1] nor in [t + 1, s]; by inclusion and exclusion, for s > t,

  P(max = s, min = t) = [c(t, s)^M - c(t, s - 1)^M - c(t + 1, s)^M + c(t + 1, s - 1)^M] / 96^M.

Given their levels, the best is uniform over the n(s) combinations of reward s, independently of the
worst, which is uniform over the n(t) of reward t. A pair is drawn anew if its rewards are equal or
it differs in fewer than d attributes. So, if r(a) = s > t = r(b) and a and b differ in at least d,

  P(a, b | u) = P(max = s, min = t) / (n(s) n(t) Z_u),

and 0 otherwise, where Z_u is the sum of the numerators, the probability that a pair is accepted.
It depends on a and b through their levels alone (and d), so one small table per user holds it.
With label noise e, the observed pair (chosen, rejected) has (1 - e) P(a, b | u) + e P(b, a | u).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxtyping import Float, Int
import numpy as np

from fspo_jax.preferences import Preference
from fspo_jax.worlds import reviews
from fspo_jax.worlds.reviews_text import COMBINATIONS, Combination, parse

# Index pairs into `COMBINATIONS`: the chosen (or first) and the rejected (or second) response.
Pairs = Int[np.ndarray, "*batch 2"]

# Episodes whose likelihoods are in memory at once: 64 * 8 shots * 3,240 users * 8 bytes = 13 MB.
_CHUNK = 64


def combination_pairs(pairs: Iterable[tuple[Combination, Combination]]) -> Pairs:
  """Turns (chosen, rejected) pairs of combinations into pairs of indices.

  Raises:
    ValueError: If one lacks an attribute, so that it is no combination.
  """
  indices = []
  for row, pair in enumerate(pairs):
    for combination in pair:
      if combination not in reviews.COMBINATION_INDEX:
        raise ValueError(f"Pair {row}: found {combination}, expected a value of every attribute.")
    indices.append([reviews.COMBINATION_INDEX[combination] for combination in pair])
  return np.asarray(indices, np.int64).reshape(-1, 2)


def preference_pairs(preferences: Iterable[Preference]) -> Pairs:
  """Reads the (chosen, rejected) combinations off the texts of preferences.

  Raises:
    ValueError: If a response is none of the world's, so that it lacks an attribute.
  """
  return combination_pairs((parse(p.chosen), parse(p.rejected)) for p in preferences)


class BayesPredictor:
  """Exact posterior inference about a user from shots, given how the pairs were made."""

  def __init__(
    self,
    *,
    candidates: int = 4,
    label_noise: float = 0.05,
    min_differences: int = 2,
    population: Sequence[reviews.Tastes] | None = None,
  ) -> None:
    """Tabulates the likelihood.

    Args:
      candidates: M, of how many responses a pair is the best and the worst.
      label_noise: The probability of a swapped label in the shots.
      min_differences: d, in how many attributes the responses of a pair differ at least.
      population: The users with positive prior; None: all 3,240 of the world.
    """
    self.population = reviews.population() if population is None else tuple(population)
    self.min_differences = min_differences
    # The reward of every combination for every user, and from it the clean table per user.
    self.rewards = np.stack([reviews.combination_rewards(tastes) for tastes in self.population])
    self._levels = int(self.rewards.max()) + 1
    clean = _level_likelihoods(self.rewards, self._levels, candidates, min_differences)
    with np.errstate(divide="ignore"):
      self._clean_log = np.log(clean).ravel()
      noisy = (1 - label_noise) * clean + label_noise * clean.swapaxes(1, 2)
      self._noisy_log = np.log(noisy).ravel()
    # Combinations first, and users in the last, contiguous axis: a pair's cells of the table are
    # gathered from two rows.
    self._columns = np.ascontiguousarray(self.rewards.T)
    self._offsets = np.arange(len(self.population)) * self._levels**2

  @classmethod
  def for_world(cls, world: reviews.ReviewsWorld, split: str | None = None) -> BayesPredictor:
    """The predictor that knows how `world` makes its pairs.

    Args:
      world: the world.
      split: whose users are met. For 'train' and 'unseen', the prior knows that nobody in them has
        the held-out combination; for any other, it is uniform over the whole population.
    """
    ordinary = split in ("train", "unseen")
    return cls(
      population=(*world.users("train"), *world.users("unseen")) if ordinary else None,
      candidates=world.candidates,
      label_noise=world.label_noise,
      min_differences=world.min_differences,
    )

  def pair_log_likelihood(
    self, pairs: Pairs, *, clean: bool = False
  ) -> Float[np.ndarray, "*batch users"]:
    """The log probability of every pair (chosen, rejected), given each user of the population.

    Args:
      pairs: Index pairs, int[..., 2].
      clean: Whether the labels are known to be free of noise.

    Returns:
      Natural logarithms; -inf where the user could not have made the pair.
    """
    pairs = np.asarray(pairs)
    cells = self._columns[pairs[..., 0]] * self._levels + self._columns[pairs[..., 1]]
    table = self._clean_log if clean else self._noisy_log
    log_likelihood = table[cells + self._offsets]
    differences = reviews.DIFFERENCES[pairs[..., 0], pairs[..., 1]]
    log_likelihood[differences < self.min_differences] = -np.inf
    return log_likelihood

  def posterior(self, shots: Pairs) -> Float[np.ndarray, "*batch users"]:
    """The probability of every user after the shots.

    Args:
      shots: Index pairs (chosen, rejected), int[..., k, 2]; k may be 0.

    Raises:
      ValueError: If no user of the population could have made some row of shots.
    """
    return _softmax(self.pair_log_likelihood(shots).sum(-2))

  def predict(self, shots: Pairs, queries: Pairs) -> Float[np.ndarray, "*batch"]:
    """The posterior predictive probability that a user prefers the query's first response.

    Args:
      shots: Index pairs (chosen, rejected), int[..., k, 2]; k may be 0.
      queries: Index pairs in any order, int[..., 2]; how a query was selected counts as evidence,
        and its label is clean.
    """
    return self._predict(self.posterior(shots), queries)

  def _predict(
    self, posterior: Float[np.ndarray, "*batch users"], queries: Pairs
  ) -> Float[np.ndarray, "*batch"]:
    first = (posterior * np.exp(self.pair_log_likelihood(queries, clean=True))).sum(-1)
    flipped = np.flip(np.asarray(queries), -1)
    second = (posterior * np.exp(self.pair_log_likelihood(flipped, clean=True))).sum(-1)
    # Where no user could have made the query, in either order, nothing is known about it.
    total = first + second
    return np.divide(first, total, out=np.full_like(total, 0.5), where=total > 0)

  def predict_by_k(
    self, shots: Pairs, queries: Pairs, ks: Sequence[int]
  ) -> Float[np.ndarray, "episodes ks"]:
    """`predict` after the first k of the shots of every episode, for every k.

    Args:
      shots: int[episodes, max(ks), 2]
      queries: int[episodes, 2]
      ks: Numbers of shots, in any order.

    Raises:
      ValueError: If a k is larger than the number of shots.
    """
    if max(ks) > shots.shape[1]:
      raise ValueError(f"ks: found {max(ks)}, expected at most the {shots.shape[1]} shots given.")
    rows = []
    for start in range(0, len(shots), _CHUNK):
      log_likelihood = self.pair_log_likelihood(shots[start : start + _CHUNK])
      query = queries[start : start + _CHUNK]
      rows.append(
        np.stack(
          [self._predict(_softmax(log_likelihood[:, :k].sum(1)), query) for k in ks], axis=-1
        )
      )
    return np.concatenate(rows)

  def best_response_combination(self, shots: Pairs) -> Combination:
    """The combination of the highest posterior expected reward, given shots int[k, 2]."""
    return COMBINATIONS[int(np.argmax(self.posterior(shots) @ self.rewards))]


def _softmax(logits: Float[np.ndarray, "*batch users"]) -> Float[np.ndarray, "*batch users"]:
  peak = logits.max(-1, keepdims=True)
  if not np.isfinite(peak).all():
    raise ValueError("Found shots that no user of the population could have made.")
  weights = np.exp(logits - peak)
  return weights / weights.sum(-1, keepdims=True)


def _level_likelihoods(
  rewards: Int[np.ndarray, "users combinations"], levels: int, candidates: int, min_differences: int
) -> Float[np.ndarray, "users levels levels"]:
  """P(a, b | u) of any a of reward s and b of reward t that differ enough, at [u, s, t].

  See the top of this file.
  """
  users, combinations = rewards.shape
  at_level = (rewards[:, :, None] == np.arange(levels)).astype(np.float64)
  counts = at_level.sum(1)
  # below[:, v] combinations have a reward less than v, so that c(t, s) = below[s + 1] - below[t].
  below = np.concatenate([np.zeros((users, 1)), counts.cumsum(1)], axis=1)

  def all_within(lower: int, upper: int) -> Float[np.ndarray, "users"]:
    return ((below[:, upper + 1] - below[:, lower]) / combinations) ** candidates

  numerator = np.zeros((users, levels, levels))
  for s in range(levels):
    for t in range(s):
      extremes = all_within(t, s) - all_within(t, s - 1) - all_within(t + 1, s)
      extremes += all_within(t + 1, s - 1)
      pairs = counts[:, s] * counts[:, t]
      numerator[:, s, t] = np.divide(extremes, pairs, out=np.zeros(users), where=pairs > 0)
  # How many pairs of these levels differ enough, by [u, s, t].
  differ = (reviews.DIFFERENCES >= min_differences).astype(np.float64)
  acceptable = at_level.swapaxes(1, 2) @ (differ @ at_level)
  accepted = (numerator * acceptable).sum((1, 2))
  return numerator / accepted[:, None, None]


def bayes_accuracy(
  world: reviews.ReviewsWorld,
  tastes_list: Sequence[reviews.Tastes],
  ks: Sequence[int] = range(9),
  *,
  episodes: int = 1000,
  seed: int = 0,
) -> dict[int, float]:
  """How often the exact Bayes prediction is right on a clean query, by the number of shots.

  Monte Carlo over users of `tastes_list`, drawn with replacement, and their preferences. Where both
  orders are equally probable, as without shots they may be, the prediction is half right.

  Args:
    world: How pairs are made.
    tastes_list: The users to score on, for example `world.users("unseen")`.
    ks: Numbers of shots.
    episodes: How many users to draw, with max(ks) shots and one query each.
    seed: Of the draws; episode e is a pure function of (seed, e).

  Returns:
    From k to the accuracy.
  """
  shots = np.empty((episodes, max(ks), 2), np.int64)
  queries = np.empty((episodes, 2), np.int64)
  for episode in range(episodes):
    rng = np.random.default_rng([seed, episode])
    tastes = tastes_list[rng.integers(len(tastes_list))]
    shots[episode] = world.sample_pairs(rng, tastes, max(ks))
    queries[episode] = world.sample_pairs(rng, tastes, 1, label_noise=0.0)[0]
  probabilities = BayesPredictor.for_world(world).predict_by_k(shots, queries, ks)
  tied = np.isclose(probabilities, 0.5, rtol=0, atol=1e-9)
  right = np.where(tied, 0.5, probabilities > 0.5)
  return dict(zip(ks, right.mean(0).tolist(), strict=True))
