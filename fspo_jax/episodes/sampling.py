# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Episodes: one user, some shots, some queries; episode e is a pure function of (seed, e)."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from fspo_jax.preferences import Preference, User
from fspo_jax.worlds.world import World

# An episode source: e -> episode e.
EpisodeFn = Callable[[int], "Episode"]


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
  """A response without another to compare it with: a demonstration of its author's taste."""

  prompt: str
  response: str


@dataclasses.dataclass(frozen=True, slots=True)
class DescriptionPair:
  """Sampled descriptions of a user, after so many shots, one closer to the gold one than another.

  Which one is, the shots have no part in: where a row has no room for all of them, it still holds.

  Attributes:
    shots: their number.
    better: the closest to the gold one of all that came to their end.
    worse: the furthest.
    kept: the one of them under which the shots' labels are likeliest, often one of these two: what
      the policy would answer under, which does not know the gold one.
  """

  shots: int
  better: str
  worse: str
  kept: str

  def __post_init__(self) -> None:
    if self.better == self.worse:
      raise ValueError(f"found twice {self.better!r}, expected two descriptions that differ")


@dataclasses.dataclass(frozen=True)
class Episode:
  """A user's task: infer their taste from the shots, answer the queries.

  Attributes:
    user_id: whose preferences these are.
    shots: the preferences in the context, oldest first; labels may be noisy. Pages may stand for
      them, to pretrain on.
    queries: the held-out ones that are scored; their prompts are never among the shots'.
    description: the gold description, where it is known.
    written: descriptions written after 0, 1, ... shots; where given, they replace the gold one.
    described: sampled descriptions to compare and to answer under, where there are (see
      `on_policy`).
  """

  user_id: str
  shots: tuple[Preference | Page, ...]
  queries: tuple[Preference, ...]
  description: str | None = None
  written: tuple[str, ...] = ()
  described: DescriptionPair | None = None

  def __post_init__(self) -> None:
    leaked = {shot.prompt for shot in self.shots} & {query.prompt for query in self.queries}
    if leaked:
      raise ValueError(
        f"user {self.user_id}: a query's prompt is among its shots: {leaked.pop()!r}"
      )

  def description_after(self, shots: int) -> str | None:
    """The description that stands after so many shots."""
    return self.written[shots] if self.written else self.description


@dataclasses.dataclass(frozen=True)
class ShotsAsked:
  """The same episodes, with nothing in the context: their shots are asked first, like queries.

  For methods to which a user is known otherwise (see `models.vpl`).

  Attributes:
    episode: the episodes; their shots are preferences.
  """

  episode: EpisodeFn

  def __call__(self, index: int) -> Episode:
    """Episode `index`."""
    found = self.episode(index)
    return dataclasses.replace(found, shots=(), queries=(*found.shots, *found.queries))


@dataclasses.dataclass(frozen=True)
class Curriculum:
  """Easier pairs and clearer users first, annealed to the target distribution.

  Attributes:
    start: fraction of the run with the easiest episodes.
    end: fraction of the run from which on episodes have the target distribution.
    candidates: pairs are the best and worst of this many candidates at the start.
  """

  start: float
  end: float
  candidates: int

  def ease(self, progress: float) -> float:
    """1 until `start`, then linearly down to 0 at `end`."""
    if progress >= self.end:
      return 0.0
    return min(1.0, (self.end - progress) / max(self.end - self.start, 1e-9))


def _rng(seed: int, index: int) -> np.random.Generator:
  return np.random.default_rng([seed, index])


def flip(
  rng: np.random.Generator, preferences: Sequence[Preference], rate: float
) -> tuple[Preference, ...]:
  """Swaps chosen and rejected with probability `rate`: 0.5 leaves no information in the labels."""
  if rate == 0.0:
    return tuple(preferences)
  flipped = rng.random(len(preferences)) < rate
  return tuple(p.swapped() if f else p for p, f in zip(preferences, flipped, strict=True))


@dataclasses.dataclass(frozen=True)
class WorldEpisodes:
  """Fresh episodes of an embedded world.

  Attributes:
    world: the simulator.
    split: whose users to draw: 'train' or an evaluation split.
    shots: preferences in the context.
    queries: preferences scored.
    seed: with the index, all that an episode depends on.
    flip_shots: label noise of the shots; None for the world's own. Queries are clean.
    curriculum: how the first episodes are easier, if they are.
    total: number of episodes of the run, which the curriculum's fractions refer to.
  """

  world: World[Any]
  split: str
  shots: int
  queries: int
  seed: int
  flip_shots: float | None = None
  curriculum: Curriculum | None = None
  total: int = 1

  def user(self, index: int) -> Any:
    """The world's user of episode `index` (the curriculum aside)."""
    return self._draw(index)[0]

  def _draw(self, index: int) -> tuple[Any, int | None, np.random.Generator]:
    rng = _rng(self.seed, index)
    ease = self.curriculum.ease(index / self.total) if self.curriculum else 0.0
    easy, candidates = rng.random(2) < ease, None
    users = self.world.users("curriculum" if easy[0] else self.split)
    if ease > 0.0:
      # Geometric, so that the margin of the pairs falls evenly.
      target = self.world.candidates
      candidates = round(target * (self.curriculum.candidates / target) ** ease)
    return users[int(rng.integers(len(users)))], candidates, rng

  def __call__(self, index: int) -> Episode:
    """Episode `index`."""
    user, candidates, rng = self._draw(index)
    drawn = self.world.preferences(
      rng, user, self.shots + self.queries, candidates=candidates, label_noise=0.0
    )
    noise = self.world.label_noise if self.flip_shots is None else self.flip_shots
    return Episode(
      user_id=self.world.user_id(user),
      shots=flip(rng, drawn[: self.shots], noise),
      queries=tuple(drawn[self.shots :]),
      description=self.world.describe(user),
    )


@dataclasses.dataclass(frozen=True)
class UserEpisodes:
  """Episodes drawn from users' own preferences (any data set of users).

  Attributes:
    users: whose preferences to draw from; see `shortfall` for what each must have.
    shots: preferences in the context.
    queries: preferences scored.
    seed: with the index, all that an episode depends on.
    flip_shots: label noise of the shots (0.5 for the SFT stage).
    query_prompts: where given, queries come only from these prompts (unseen in training).
    in_order: episode e is of user e modulo the number of users, instead of a random one's.
  """

  users: Sequence[User]
  shots: int
  queries: int
  seed: int
  flip_shots: float = 0.0
  query_prompts: frozenset[str] | None = None
  in_order: bool = False

  def __post_init__(self) -> None:
    if not self.users:
      raise ValueError("no users to draw episodes from")
    for user in self.users:
      problem = self.shortfall(user, self.shots, self.queries, self.query_prompts)
      if problem is not None:
        raise ValueError(problem)

  @staticmethod
  def shortfall(
    user: User, shots: int, queries: int, query_prompts: frozenset[str] | None
  ) -> str | None:
    """Why a user cannot give an episode, whichever queries are drawn; None if they can."""
    per_prompt = collections.Counter(p.prompt for p in user.preferences)
    asked = [p for p in per_prompt if query_prompts is None or p in query_prompts]
    # In the worst case the queries are about the prompts with the most preferences.
    left = len(user.preferences) - sum(
      sorted((per_prompt[p] for p in asked), reverse=True)[:queries]
    )
    if len(asked) >= queries and left >= shots:
      return None
    return (
      f"user {user.user_id!r} has {len(user.preferences)} preferences on {len(per_prompt)} prompts "
      f"({len(asked)} of them to ask about): too few for {queries} queries and, on other prompts, "
      f"{shots} shots (keys `queries` and `shots` of the stage)"
    )

  def __call__(self, index: int) -> Episode:
    """Episode `index`."""
    rng = _rng(self.seed, index)
    drawn = int(rng.integers(len(self.users)))
    user = self.users[index % len(self.users) if self.in_order else drawn]
    # No further than needed: a preference that is read from a disk is decoded when it is looked at.
    order = rng.permutation(len(user.preferences)).tolist()
    queries: dict[str, Preference] = {}
    for preference in map(user.preferences.__getitem__, order):
      if len(queries) == self.queries:
        break
      if self.query_prompts is None or preference.prompt in self.query_prompts:
        queries.setdefault(preference.prompt, preference)
    others = (p for p in map(user.preferences.__getitem__, order) if p.prompt not in queries)
    return Episode(
      user_id=user.user_id,
      shots=flip(rng, list(itertools.islice(others, self.shots)), self.flip_shots),
      queries=tuple(queries.values()),
      description=user.description,
    )
