# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The exact ceiling of any world: Bayesian inference over all users of a population.

The prior is uniform over the population. A response says no more about the user than its kind does
(wordings are drawn independently of the user), so inference on kinds is inference on the texts.
Both ceilings differ in how pairs were made, hence in the likelihood of a clean pair (a, b), kind a
preferred to kind b, for user u. With label noise e, a shot has (1 - e) P(a, b | u) + e P(b, a | u).

`LabelCeiling`: a set of preferences, whose pairs were chosen without looking at the user and then
labelled. P(a, b | u) = 1 if u's reward of a is the higher, 0 if it is the lower, 1/2 if they tie.

`KindsCeiling`: the fresh preferences of `KindsWorld.preferences`, the best and the worst of M
independent uniform kinds, out of the K of the prompt, which the user selects too. In a pair with
r(a) > r(b), let c[b, a] count the kinds with reward in [r(b), r(a)], c[b, a) those with reward in
[r(b), r(a)), and so on, and n(a) those with a's very reward. All M lie in an interval of c kinds
with probability (c / K)^M, so the highest is r(a) and the lowest r(b) with probability

  N(a, b) = (c[b, a]^M - c[b, a)^M - c(b, a]^M + c(b, a)^M) / K^M.

Ties: argmax and argmin of a random permutation pick among the candidates that tie, each of whose
kinds is uniform over those of its reward, whatever their number and positions. As r(a) > r(b), the
two picks share no candidate and are independent, given the rewards: all n(a) n(b) pairs of kinds
are equally probable. Candidates that are all equal are drawn anew; they are, with probability
sum over rewards v of (n(v) / K)^M = 1 - Z. So

  P(a, b | u, prompt) = N(a, b) / (n(a) n(b) Z).

Prompts: one to which all kinds are equal is replaced, and so is one that was there before. Of P
prompts, all equally probable, let m(u) be those that matter to u: the first j prompts of u have
probability 1 / (m(u) (m(u) - 1) ... (m(u) - j + 1)) if all matter, else 0, whatever their order.
That they matter is evidence, and for this factor `KindsCeiling` enumerates all prompts once.
What is neglected: where a world's prompts are not equally probable (topics with different numbers
of wordings), m(u) is P times the probability that a prompt matters to u. It is exact otherwise, and
without effect on the posterior where every prompt matters to every user.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
import math
from typing import Generic

from jaxtyping import Float
import numpy as np

from fspo_jax.preferences import Preference
from fspo_jax.worlds.kinds import KindsWorld
from fspo_jax.worlds.world import Choose, TopicSplit, UserT, World

# Bytes of likelihoods in memory at once: whole episodes, at least one.
_CHUNK_BYTES = 32 * 2**20
# Rewards that agree to so many decimals are equal: their last bits may depend on how many users
# they were computed for at once. A world's rewards must be equal or further apart.
_DECIMALS = 9

# Two kinds: of the chosen response and of the rejected one.
_Pair = tuple[int, int]


class _Ceiling(abc.ABC, Generic[UserT]):
  """Exact posterior inference about a user from their preferences."""

  def __init__(self, world: World[UserT], population: Sequence[UserT], label_noise: float) -> None:
    """Prepares the population.

    Args:
      world: Which kinds of response there are, and who likes them.
      population: The users with positive prior.
      label_noise: The probability of a swapped label in the shots, at most 1/2.
    """
    if not population:
      raise ValueError("population: found nobody, expected one user or more.")
    if not 0 <= label_noise <= 0.5:
      raise ValueError(f"label_noise: found {label_noise}, expected 0 to 0.5.")
    self._world = world
    self._label_noise = label_noise
    self._tastes = world.tastes(population)

  @abc.abstractmethod
  def _likelihoods(
    self, rewards: Float[np.ndarray, "users kinds"], pairs: Sequence[_Pair]
  ) -> Float[np.ndarray, "pairs 2 users"]:
    """P(a, b | u, prompt) and P(b, a | u, prompt) of pairs of one prompt."""

  @abc.abstractmethod
  def _log_asked(self, prompts: int) -> Float[np.ndarray, " users"]:
    """The log probability that a user has so many given prompts, but for a constant."""

  def predict_by_k(
    self,
    shots: Sequence[Sequence[Preference]],
    queries: Sequence[Preference],
    ks: Sequence[int],
  ) -> Float[np.ndarray, "episodes ks"]:
    """The posterior predictive probability that the query's `chosen` is the preferred response.

    Args:
      shots: For each episode, at least max(ks) preferences; only the first so many are read.
      queries: For each episode one, whose own label is clean.
      ks: Numbers of shots, in any order.

    Returns:
      One row per episode, one column per k; 1/2 where no user could have been asked the query.

    Raises:
      ValueError: If an episode has too few shots, a response that is of no kind, or shots that no
        user of the population could have made.
    """
    most = max(ks, default=0)
    if min(ks, default=0) < 0:
      raise ValueError(f"ks: found {min(ks)}, expected numbers of shots, 0 or more.")
    for episode, (own, _) in enumerate(zip(shots, queries, strict=True)):
      if len(own) < most:
        raise ValueError(f"episode {episode}: found {len(own)} shots, expected at least {most}.")
    asked = np.stack([self._log_asked(k + 1) for k in ks]) if ks else np.zeros((0, 1))
    size = max(1, _CHUNK_BYTES // ((most + 1) * 2 * len(self._tastes) * 8))
    predictions = np.empty((len(queries), len(ks)))
    for start in range(0, len(queries), size):
      episodes = range(start, min(start + size, len(queries)))
      chunk = self._pairs([(*shots[e][:most], queries[e]) for e in episodes], start)
      for episode, pairs in zip(episodes, chunk, strict=True):
        predictions[episode] = self._predict(pairs, ks, asked, episode)
    return predictions

  def _pairs(
    self, episodes: Sequence[Sequence[Preference]], start: int
  ) -> Float[np.ndarray, "episodes preferences 2 users"]:
    """`_likelihoods` of all preferences, each prompt's rewards being computed once.

    Args:
      episodes: Equally many preferences each.
      start: The number of the first of them, for errors.
    """
    by_prompt: dict[str, dict[tuple[int, int], _Pair]] = {}
    for row, preferences in enumerate(episodes):
      for column, p in enumerate(preferences):
        kinds = [self._kind(p.prompt, text, start + row) for text in (p.chosen, p.rejected)]
        by_prompt.setdefault(p.prompt, {})[row, column] = (kinds[0], kinds[1])
    found = np.empty((len(episodes), len(episodes[0]), 2, len(self._tastes)))
    for prompt, pairs in by_prompt.items():
      rows, columns = np.transpose(list(pairs))
      rewards = self._world.kind_rewards(self._tastes, prompt)
      found[rows, columns] = self._likelihoods(rewards, list(pairs.values()))
    return found

  def _kind(self, prompt: str, response: str, episode: int) -> int:
    kind = self._world.kind(prompt, response)
    if kind is None:
      raise ValueError(
        f"episode {episode}: found the response {response!r} to {prompt!r}, expected one of a kind."
      )
    return kind

  def _predict(
    self,
    pairs: Float[np.ndarray, "preferences 2 users"],
    ks: Sequence[int],
    asked: Float[np.ndarray, "ks users"],
    episode: int,
  ) -> Float[np.ndarray, " ks"]:
    """The predictions of one episode, whose last preference is the query."""
    as_labelled, swapped = pairs[:-1, 0], pairs[:-1, 1]
    noise = self._label_noise
    with np.errstate(divide="ignore"):
      shots = np.log((1 - noise) * as_labelled + noise * swapped)
    # After 0, 1, ... shots.
    log_joint = np.concatenate([np.zeros((1, shots.shape[1])), shots.cumsum(0)])[list(ks)] + asked
    peaks = log_joint.max(1, keepdims=True)
    if not np.isfinite(peaks).all():
      raise ValueError(f"episode {episode}: found shots that no user could have made.")
    first, second = np.einsum("ku,ou->ok", np.exp(log_joint - peaks), pairs[-1])
    total = first + second
    return np.divide(first, total, out=np.full_like(total, 0.5), where=total > 0)


class LabelCeiling(_Ceiling[UserT]):
  """The ceiling of labelled pairs of the kinds of response to a prompt.

  A share `picked` of the pairs was drawn by looking at the user: one response is of a kind that
  they like best, at random, the other of any other kind. The others are any two kinds, so that
  which pair it is says nothing:

    P({a, b} | u) = p (1[a is best] + 1[b is best]) / (n_best (K - 1)) + (1 - p) 2 / (K (K - 1)).
  """

  def __init__(
    self,
    world: World[UserT],
    population: Sequence[UserT],
    label_noise: float,
    picked: float = 0.0,
  ) -> None:
    """Prepares the population.

    Args:
      world: As for the base.
      population: As for the base.
      label_noise: As for the base.
      picked: The share of pairs with a response that the user would pick, less than 1.
    """
    super().__init__(world, population, label_noise)
    if not 0 <= picked < 1:
      raise ValueError(f"picked: found {picked}, expected 0 to less than 1.")
    self._picked = picked

  def _likelihoods(
    self, rewards: Float[np.ndarray, "users kinds"], pairs: Sequence[_Pair]
  ) -> Float[np.ndarray, "pairs 2 users"]:
    chosen, rejected = np.transpose(pairs)
    margins = np.round(rewards.T[chosen] - rewards.T[rejected], _DECIMALS)
    preferred = (1 + np.sign(margins)) / 2
    best = np.round(rewards.max(1, keepdims=True) - rewards, _DECIMALS) == 0
    kinds = rewards.shape[1]
    of_best = (best.T[chosen] * 1.0 + best.T[rejected]) / (best.sum(1) * (kinds - 1))
    drawn = self._picked * of_best + (1 - self._picked) * 2 / (kinds * (kinds - 1))
    return np.stack([preferred, 1 - preferred], axis=1) * drawn[:, None]

  def _log_asked(self, prompts: int) -> Float[np.ndarray, " users"]:
    return np.zeros(len(self._tastes))


class KindsCeiling(_Ceiling[UserT]):
  """The ceiling of the fresh preferences that a `KindsWorld` draws for a user."""

  def __init__(self, world: KindsWorld[UserT], population: Sequence[UserT]) -> None:
    """Prepares the population, and enumerates the world's prompts.

    Args:
      world: How pairs are made.
      population: The users with positive prior.
    """
    super().__init__(world, population, world.label_noise)
    self._candidates = world.candidates
    prompts = _prompts(world)
    # m(u).
    self._matter = np.zeros(len(self._tastes))
    for prompt, probability in prompts.items():
      rewards = np.round(world.kind_rewards(self._tastes, prompt), _DECIMALS)
      self._matter += (rewards.max(1) > rewards.min(1)) * (probability * len(prompts))

  def predict_by_k(
    self,
    shots: Sequence[Sequence[Preference]],
    queries: Sequence[Preference],
    ks: Sequence[int],
  ) -> Float[np.ndarray, "episodes ks"]:
    """See the base; here how pairs and prompts were selected counts as evidence, the query's too.

    Raises:
      ValueError: Also if an episode has a prompt twice, which no fresh preferences have.
    """
    for episode, (own, query) in enumerate(zip(shots, queries, strict=True)):
      prompts = [p.prompt for p in (*own[: max(ks, default=0)], query)]
      for i, prompt in enumerate(prompts):
        if prompt in prompts[:i]:
          raise ValueError(f"episode {episode}: found {prompt!r} twice, expected distinct prompts.")
    return super().predict_by_k(shots, queries, ks)

  def _likelihoods(
    self, rewards: Float[np.ndarray, "users kinds"], pairs: Sequence[_Pair]
  ) -> Float[np.ndarray, "pairs 2 users"]:
    rewards = np.round(rewards, _DECIMALS)
    kinds = rewards.shape[1]
    # n(a), and Z: (n / kinds)^M is summed over rewards, each of which n kinds have.
    same = np.stack([(rewards == rewards[:, k, None]).sum(1) for k in range(kinds)], axis=1)
    apart = 1 - ((same / kinds) ** self._candidates / same).sum(1)

    def all_within(*bounds: np.ndarray) -> Float[np.ndarray, " users"]:
      return (np.logical_and(*bounds).sum(1) / kinds) ** self._candidates

    found = np.zeros((len(pairs), 2, len(rewards)))
    for row, (chosen, rejected) in enumerate(pairs):
      one, other = rewards[:, chosen, None], rewards[:, rejected, None]
      high, low = np.maximum(one, other), np.minimum(one, other)
      numerator = all_within(rewards >= low, rewards <= high)
      numerator -= all_within(rewards >= low, rewards < high)
      numerator -= all_within(rewards > low, rewards <= high)
      numerator += all_within(rewards > low, rewards < high)
      ways = same[:, chosen] * same[:, rejected] * apart
      differ = one[:, 0] != other[:, 0]
      likelihood = np.divide(numerator, ways, out=np.zeros_like(ways), where=differ)
      found[row] = likelihood * (one > other)[:, 0], likelihood * (one < other)[:, 0]
    return found

  def _log_asked(self, prompts: int) -> Float[np.ndarray, " users"]:
    # At least 1: whoever has fewer than `prompts` prompts that matter cannot have made all of the
    # preferences, of likelihood 0.
    left = np.maximum(self._matter - np.arange(prompts)[:, None], 1)
    return -np.log(left).sum(0)


def _prompts(world: KindsWorld[UserT]) -> dict[str, float]:
  """Every prompt that `world.question` asks, with its probability."""
  splits: tuple[TopicSplit, ...] = ("train", "unseen")
  topics = [topic for split in splits for topic in world.topics(split)]
  found: dict[str, float] = {}
  for topic in topics:
    for prompt, probability in _texts(lambda choose, t=topic: world.write_question(choose, t)):
      found[prompt] = found.get(prompt, 0.0) + probability / len(topics)
  return found


def _texts(write: Callable[[Choose], str]) -> Iterator[tuple[str, float]]:
  """Every text that uniform picks write, with its probability; not all of them distinct."""
  picks: list[int] = []
  while True:
    text, sizes = _text(write, picks)
    yield text, 1 / math.prod(sizes)
    # Counting on: the last pick that can be raised is, and those after it start at 0 again.
    picks += [0] * (len(sizes) - len(picks))
    while picks and picks[-1] + 1 == sizes[len(picks) - 1]:
      picks.pop()
    if not picks:
      return
    picks[-1] += 1


def _text(write: Callable[[Choose], str], picks: Sequence[int]) -> tuple[str, list[int]]:
  """The text of these picks and, after them, first alternatives; and how many each pick had."""
  sizes: list[int] = []

  def choose(alternatives: int) -> int:
    sizes.append(alternatives)
    return picks[len(sizes) - 1] if len(sizes) <= len(picks) else 0

  return write(choose), sizes
