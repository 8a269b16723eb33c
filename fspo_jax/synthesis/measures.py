# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the quality of a synthetic set is measured with: judgements as columns, and their figures.

Intervals are at 95 % and resample whole users (or prompts), since the judgements of one user are
not independent of each other.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
import dataclasses

from jaxtyping import Bool, Float, Int
import numpy as np
import scipy.special
import scipy.stats

from fspo_jax.synthesis.records import Item, SyntheticUser, Votes

_RESAMPLES = 1000


class QualityError(ValueError):
  """A set or a card that cannot be used: what was found and what was expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
  """A mean and its 95 % interval, whose ends are None where a single user allows none."""

  mean: float
  low: float | None
  high: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
  """How many values fall between an edge and the next; the last edge belongs to the last bin."""

  edges: tuple[float, ...]
  counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Judgements:
  """Judged pairs of many users as columns, a row a pair. See `records.Votes` for the fields.

  Attributes:
    user: the position of the user among those read.
    item: the index of the question.
    a: the number of one response.
    b: the number of the other.
    wins: how often `a` was preferred where it was shown first.
    asked: how often that was asked.
    wins_back: how often `a` was preferred where `b` was shown first.
    asked_back: how often that was asked.
    kept: whether the pair became a preference.
  """

  user: Int[np.ndarray, " pairs"]
  item: Int[np.ndarray, " pairs"]
  a: Int[np.ndarray, " pairs"]
  b: Int[np.ndarray, " pairs"]
  wins: Int[np.ndarray, " pairs"]
  asked: Int[np.ndarray, " pairs"]
  wins_back: Int[np.ndarray, " pairs"]
  asked_back: Int[np.ndarray, " pairs"]
  kept: Bool[np.ndarray, " pairs"]

  def __len__(self) -> int:
    return len(self.user)

  def where(self, rows: Bool[np.ndarray, " pairs"]) -> Judgements:
    """Some of the rows."""
    return Judgements(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

  @property
  def share(self) -> Float[np.ndarray, " pairs"]:
    """`Votes.share` of every pair."""
    asked = self.asked + self.asked_back
    wins = self.wins + self.wins_back
    return np.divide(wins, asked, out=np.full(len(self), 0.5), where=asked > 0)

  @property
  def flips(self) -> Bool[np.ndarray, " pairs"]:
    """`Votes.flips` of every pair."""
    first = 2 * self.wins - self.asked
    return first * (2 * self.wins_back - self.asked_back) <= 0

  @property
  def preferred(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """`Votes.preferred` of every pair: the numbers of the chosen and the rejected responses."""
    wins = self.share >= 0.5
    return np.where(wins, self.a, self.b), np.where(wins, self.b, self.a)

  @property
  def pair(self) -> Int[np.ndarray, " pairs"]:
    """A number for the question and its two responses, in whatever order."""
    base = 1 + int(max(self.a.max(initial=0), self.b.max(initial=0)))
    low, high = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
    return (self.item.astype(np.int64) * base + low) * base + high

  @property
  def entropy(self) -> Float[np.ndarray, " pairs"]:
    """The binary entropy of `share` in nats, from 0 to ln 2."""
    return scipy.special.entr(self.share) + scipy.special.entr(1 - self.share)


@dataclasses.dataclass(frozen=True, slots=True)
class Bank:
  """The questions as columns, in order of their indices, without their texts.

  Attributes:
    index: of each question.
    first: where its responses begin in `length`; and the end.
    unseen: whether it is about an unseen topic.
    length: characters of every response.
    topics: of training questions, and of unseen ones.
    prompts: hashes of both; the texts would fill the memory.
    duplicates: prompts and responses that are there again.
    set_aside: what could not be used, by reason.
  """

  index: Int[np.ndarray, " items"]
  first: Int[np.ndarray, " items_and_end"]
  unseen: Bool[np.ndarray, " items"]
  length: Int[np.ndarray, " responses"]
  topics: tuple[set[str], set[str]]
  prompts: tuple[set[int], set[int]]
  duplicates: dict[str, int]
  set_aside: dict[str, int]

  @classmethod
  def read(cls, items: Iterable[Item]) -> Bank:
    """Reads the questions once. Raises QualityError if two have one index."""
    lengths: dict[int, list[int]] = {}
    unseen: dict[int, bool] = {}
    topics, prompts, responses, aside = (set(), set()), (set(), set()), set(), collections.Counter()
    repeated = 0
    for item in items:
      if item.index in unseen:
        raise QualityError(f"found two questions of index {item.index}, expected one an index")
      side = unseen[item.index] = item.split == "unseen"
      lengths[item.index] = [len(response.text) for response in item.responses]
      topics[side].add(item.topic)
      prompt = hash(item.prompt)
      repeated += prompt in prompts[0] or prompt in prompts[1]
      prompts[side].add(prompt)
      responses.update(hash(response.text) for response in item.responses)
      aside.update(item.set_aside)
    order = sorted(unseen)
    counts = [len(lengths[i]) for i in order]
    return cls(
      index=np.array(order, np.int64),
      first=np.cumsum([0, *counts]),
      unseen=np.array([unseen[i] for i in order], bool),
      length=np.array([length for i in order for length in lengths[i]], np.int64),
      topics=topics,
      prompts=prompts,
      duplicates={"prompts": repeated, "responses": sum(counts) - len(responses)},
      set_aside=dict(sorted(aside.items())),
    )

  def rows(self, judgements: Judgements) -> Int[np.ndarray, " pairs"]:
    """The row of every judged question; QualityError if it, or a response, is not there."""
    rows = np.minimum(np.searchsorted(self.index, judgements.item), len(self.index) - 1)
    count = np.diff(self.first)[rows]
    low, high = np.minimum(judgements.a, judgements.b), np.maximum(judgements.a, judgements.b)
    wrong = (self.index[rows] != judgements.item) | (low < 0) | (high >= count)
    if wrong.any():
      i = int(wrong.argmax())
      raise QualityError(
        f"user {judgements.user[i]} (counted from 0): found a judgement of responses "
        f"{judgements.a[i]} and {judgements.b[i]} of question {judgements.item[i]}, expected "
        "responses of the bank"
      )
    return rows


def read_users(
  users: Iterable[SyntheticUser],
) -> tuple[list[SyntheticUser], Judgements, Judgements]:
  """Reads users once, and keeps 36 bytes a judged pair.

  Returns:
    The users without their judgements; those by the first descriptions; those by the final ones.

  Raises:
    QualityError: if a user has kept a pair that there is not.
  """
  light, before, after = [], [], []
  for position, user in enumerate(users):
    before.append(_rows(position, user.before))
    after.append(_rows(position, user.after))
    if user.kept:
      if not 0 <= min(user.kept) <= max(user.kept) < len(user.after):
        raise QualityError(
          f"user {user.user_id!r}: kept: found {min(user.kept)} to {max(user.kept)}, expected the "
          f"indices of {len(user.after)} judged pairs"
        )
      after[-1][list(user.kept), -1] = 1
    light.append(dataclasses.replace(user, before=(), after=(), kept=()))
  return light, _columns(before), _columns(after)


def _rows(position: int, votes: Sequence[Votes]) -> Int[np.ndarray, "pairs 9"]:
  rows = [(position, v.item, v.a, v.b, *v.forward, *v.backward, 0) for v in votes]
  return np.array(rows, np.int32).reshape(-1, 9)


def _columns(rows: Sequence[Int[np.ndarray, "pairs 9"]]) -> Judgements:
  rows = [*rows, np.zeros((0, 9), np.int32)]  # there may be no user
  # Column by column, or the peak would be twice the whole.
  columns = [np.concatenate([part[:, i] for part in rows]) for i in range(9)]
  return Judgements(*columns[:8], kept=columns[8].astype(bool))


def interval(
  sums: Float[np.ndarray, " clusters"], counts: Float[np.ndarray, " clusters"], *, seed: int
) -> Interval | None:
  """A mean over all values, its interval from resampling clusters (percentile bootstrap).

  Args:
    sums: the sum of each cluster's values.
    counts: how many values it has; clusters without values are left out.
    seed: the only source of randomness.

  Returns:
    The mean and its interval; None if there is no value at all.
  """
  sums, counts = sums[counts > 0], counts[counts > 0]
  if not len(counts):
    return None
  mean = float(sums.sum() / counts.sum())
  if len(counts) == 1:
    return Interval(mean, None, None)
  found = scipy.stats.bootstrap(
    (sums, counts),
    lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
    paired=True,
    vectorized=True,
    n_resamples=_RESAMPLES,
    batch=100,  # of 5,000 users are 8 MB
    method="percentile",
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Interval(mean, float(found.low), float(found.high))


def interval_by_user(
  values: Float[np.ndarray, " n"],
  user: Int[np.ndarray, " n"],
  *,
  seed: int,
  weights: Float[np.ndarray, " n"] | None = None,
) -> Interval | None:
  """The same of one value a pair, which resamples users.

  Args:
    values: one a pair; with weights, the sum of so many values.
    user: whose pair.
    seed: the only source of randomness.
    weights: how many values a pair stands for; 1 if not given.
  """
  return interval(
    np.bincount(user, weights=values),
    np.bincount(user, weights=weights).astype(np.float64),
    seed=seed,
  )


def histogram(values: Float[np.ndarray, " n"], edges: Float[np.ndarray, " edges"]) -> Histogram:
  """Counts values; those beyond the edges fall into the outermost bins."""
  counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
  return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def first_preferred(judgements: Judgements, *, seed: int) -> Interval | None:
  """How often the response shown first was preferred, of all judgements; unbiased is 0.5."""
  first = judgements.wins + judgements.asked_back - judgements.wins_back
  asked = judgements.asked + judgements.asked_back
  return interval_by_user(first, judgements.user, seed=seed, weights=asked)


def area_under_curve(
  chosen: Int[np.ndarray, " n"], rejected: Int[np.ndarray, " m"]
) -> float | None:
  """The probability that one of `chosen` is above one of `rejected`, ties half (Mann-Whitney).

  Both are small whole numbers, as lengths are, and counted rather than sorted.
  """
  if not len(chosen) or not len(rejected):
    return None
  bins = 1 + max(chosen.max(), rejected.max())
  ours, theirs = np.bincount(chosen, minlength=bins), np.bincount(rejected, minlength=bins)
  below = np.cumsum(theirs) - theirs / 2
  return float(ours @ below / (len(chosen) * len(rejected)))
