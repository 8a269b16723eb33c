# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sources: where a recipe's text and episodes come from, a world or a data set of users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import re
from typing import Any, Protocol

import numpy as np

from fspo_jax.episodes.pretraining import Mixture, PretrainingEpisodes, reading_question
from fspo_jax.episodes.sampling import Curriculum, EpisodeFn, UserEpisodes, WorldEpisodes
from fspo_jax.preferences import Splits, User
from fspo_jax.worlds.world import World

# The evaluation split of the unseen users that asks about prompts of the training users.
KNOWN_PROMPTS = "unseen_known_prompts"


class Source(Protocol):
  """Text to train a tokenizer on, episodes to train on, and episodes of users never trained on."""

  @property
  def evaluation_splits(self) -> tuple[str, ...]:
    """The names of the evaluation splits."""

  def corpus(self, seed: int, lines: int) -> Iterator[str]:
    """Training text, at most `lines` lines."""

  def training(
    self,
    shots: int,
    queries: int,
    seed: int,
    flip_shots: float | None,
    curriculum: Curriculum | None,
    total: int,
  ) -> EpisodeFn:
    """Training episodes; `flip_shots` None for the data's own labels. Raises where impossible."""

  def evaluation(self, split: str, shots: int, queries: int, seed: int) -> EpisodeFn:
    """Evaluation episodes, with true labels on the queries where they are known."""

  def facts(self) -> dict[str, Any]:
    """What a report says about the data."""


def apart(texts: Iterable[str], topics: Sequence[str]) -> Iterator[str]:
  """Texts to train a tokenizer on, with every topic that they name a line of its own.

  So no piece of the vocabulary holds a part of a topic and of what is said of it: the same words
  are the same pieces whatever the topic, seen or not.
  """
  if not topics:
    yield from texts
    return
  named = re.compile("(" + "|".join(map(re.escape, sorted(topics, key=len, reverse=True))) + ")")
  for text in texts:
    yield from (part.strip() for part in named.split(text) if part.strip())


@dataclasses.dataclass(frozen=True)
class WorldSource:
  """Fresh episodes of an embedded world; never the same one twice."""

  world: World[Any]
  evaluation_splits: tuple[str, ...] = ("unseen", "heldout_combinations")

  def corpus(self, seed: int, lines: int) -> Iterator[str]:
    """Texts of every kind the world has, `lines` of them."""
    return self.world.corpus(np.random.default_rng(seed), lines)

  def training(
    self,
    shots: int,
    queries: int,
    seed: int,
    flip_shots: float | None,
    curriculum: Curriculum | None,
    total: int,
  ) -> EpisodeFn:
    """Fresh episodes of the training users; `flip_shots` None for the world's label noise."""
    return WorldEpisodes(self.world, "train", shots, queries, seed, flip_shots, curriculum, total)

  def evaluation(self, split: str, shots: int, queries: int, seed: int) -> WorldEpisodes:
    """Fresh episodes of a split's users, with true labels on the queries."""
    return WorldEpisodes(self.world, split, shots, queries, seed)

  def facts(self) -> dict[str, Any]:
    """The world's name, and how many users each split has."""
    names = ("train", *self.evaluation_splits)
    return {
      "world": self.world.name,
      **{f"users, {name}": len(self.world.users(name)) for name in names},
    }


@dataclasses.dataclass(frozen=True)
class PretrainingSource:
  """Fresh documents of several worlds, to pretrain a base on; see `pretraining`."""

  worlds: tuple[World[Any], ...]
  mixture: Mixture
  evaluation_splits: tuple[str, ...] = ()

  def corpus(self, seed: int, lines: int) -> Iterator[str]:
    """Texts of all the worlds, equally many of each; topics are lines of their own."""
    share = lines // len(self.worlds)
    for i, world in enumerate(self.worlds):
      yield from (text for pair in world.knowledge() for text in pair)
      yield from (reading_question(i % 2) for i in range(share // 20))
      yield from apart(world.corpus(np.random.default_rng([seed, i]), share), world.topics("train"))

  def training(
    self,
    shots: int,
    queries: int,
    seed: int,
    flip_shots: float | None,
    curriculum: Curriculum | None,
    total: int,
  ) -> EpisodeFn:
    """Fresh documents of at most `shots` items; a curriculum or flipped labels are refused."""
    del total, queries
    if curriculum is not None or flip_shots:
      raise ValueError(
        f"curriculum.use={curriculum is not None} and flip_shots={flip_shots}: labels to pretrain "
        "on are random, and no document is easier; set them to False and 0"
      )
    return PretrainingEpisodes(self.worlds, self.mixture, shots, seed)

  def evaluation(self, split: str, shots: int, queries: int, seed: int) -> EpisodeFn:
    """Raises ValueError: there are no evaluation users."""
    raise ValueError(f"split={split!r}: documents to pretrain on have no evaluation users")

  def facts(self) -> dict[str, Any]:
    """The worlds' names."""
    return {"worlds": ", ".join(world.name for world in self.worlds)}


@dataclasses.dataclass(frozen=True)
class _Chosen(Sequence[User]):
  """Some of the users, by index: where they are read from a disk, they stay there."""

  users: Sequence[User]
  indices: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> User:
    return self.users[self.indices[index]]


@dataclasses.dataclass(frozen=True)
class UserSource:
  """Episodes drawn from users' own preferences.

  Attributes:
    name: of the data set.
    splits: who is trained on, who is evaluated, and on which prompts.
    set_aside_small: set users with too few preferences for an episode aside, and count them,
      instead of refusing to start.
    known_prompts: evaluate the unseen users on the prompts that may be trained on as well, in a
      split of its own. Apart from the others, it tells new users from new prompts.
    topics: what the prompts are about, where it is known; see `apart`.
  """

  name: str
  splits: Splits
  set_aside_small: bool
  known_prompts: bool = False
  topics: tuple[str, ...] = ()
  _counts: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def evaluation_splits(self) -> tuple[str, ...]:
    """The names of the data set's evaluation splits."""
    return (*self.splits.evaluation, *((KNOWN_PROMPTS,) if self.known_prompts else ()))

  def corpus(self, seed: int, lines: int) -> Iterator[str]:
    """The distinct texts of the training users in random order, `lines` at most, `apart`."""
    texts = sorted(
      {
        text
        for user in self.splits.train
        for p in user.preferences
        for text in (p.prompt, p.chosen, p.rejected)
      }
      | {user.description for user in self.splits.train if user.description}
    )
    order = np.random.default_rng(seed).permutation(len(texts))[:lines]
    return apart((texts[i] for i in order), self.topics)

  def _enough(self, users: Sequence[User], shots: int, queries: int, where: str) -> Sequence[User]:
    if not self.set_aside_small:
      return users
    asked = None if where == "train" else self._asked(where)
    kept = tuple(
      i for i, u in enumerate(users) if UserEpisodes.shortfall(u, shots, queries, asked) is None
    )
    if not kept:
      raise ValueError(
        f"{where}: shots={shots}: no user of {self.name} ({where}) has preferences enough"
      )
    self._counts[f"users set aside, {where}: too few preferences for {shots} shots"] = len(
      users
    ) - len(kept)
    return _Chosen(users, kept)

  def _evaluated(self, split: str) -> Sequence[User]:
    return self.splits.evaluation["unseen" if split == KNOWN_PROMPTS else split]

  def _asked(self, split: str) -> frozenset[str]:
    """The prompts that queries of an evaluation split may be about."""
    if split != KNOWN_PROMPTS:
      return self.splits.query_prompts
    return frozenset(p.prompt for user in self.splits.train for p in user.preferences)

  def training(
    self,
    shots: int,
    queries: int,
    seed: int,
    flip_shots: float | None,
    curriculum: Curriculum | None,
    total: int,
  ) -> EpisodeFn:
    """Episodes of the training users' preferences; a curriculum is refused with a ValueError."""
    del total
    if curriculum is not None:
      raise ValueError(
        f"curriculum.use=True: only worlds have a curriculum, and data.name={self.name!r} "
        "is a data set; set it to False"
      )
    users = self._enough(self.splits.train, shots, queries, "train")
    return UserEpisodes(users, shots, queries, seed, flip_shots or 0.0)

  def evaluation(self, split: str, shots: int, queries: int, seed: int) -> UserEpisodes:
    """Episodes of a split's users in order; queries come only from its query prompts."""
    users = self._enough(self._evaluated(split), shots, queries, split)
    return UserEpisodes(
      users, shots, queries, seed, query_prompts=self._asked(split), in_order=True
    )

  def facts(self) -> dict[str, Any]:
    """How many users and preferences each split has, and what was set aside, and why."""
    groups = {"train": self.splits.train, **self.splits.evaluation}
    return {
      "data": self.name,
      **{f"users, {name}": len(users) for name, users in groups.items()},
      **{
        f"preferences, {name}": sum(len(u.preferences) for u in users)
        for name, users in groups.items()
      },
      **{f"set aside, {reason}": n for reason, n in self.splits.set_aside.items()},
      **self._counts,
    }
