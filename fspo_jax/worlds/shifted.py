# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shifted worlds: other people, other topics, other words. They stand for real users.

Synthetic preferences are worth what they teach about people who were not made for them. Whoever is
trained on a world and tested on its shifted one meets

- users outside of the prior: personas who care about five or six things instead of two to four,
  learners with three subjects of their own instead of two;
- the topics that training never sees, and no others;
- questions and responses in the words of a chat, around those of the world, which stay readable;
- three times the label noise.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from fspo_jax.worlds import elix, roleplay
from fspo_jax.worlds.elix_text import LEVELS, SUBJECTS
from fspo_jax.worlds.kinds import KindsWorld
from fspo_jax.worlds.roleplay_text import DIMENSIONS
from fspo_jax.worlds.world import Choose, Split

_USERS = 300
_NOISE = 0.15  # of labels; the worlds' own is 0.05

_BEFORE = ("Hey! ", "Hi there. ", "Quick one: ", "Sorry to bother you. ", "One more thing. ", "")
_AFTER = (" Thanks!", " Cheers.", " No rush.", " Just curious.", "")
_CLOSERS = (" Hope this helps!", " Good luck!", " Let me know how it goes.", " All the best!", "")


def _one_of(choose: Choose, words: Sequence[str]) -> str:
  return words[choose(len(words))]


class _Chat(KindsWorld[Any]):
  """What shifted worlds share: nobody to train on, unseen topics, and the words of a chat."""

  @abc.abstractmethod
  def _outsider(self, rng: np.random.Generator) -> Any:
    """A random user whom the world's prior has not."""

  @functools.cached_property
  def _everybody(self) -> tuple[Any, ...]:
    rng = np.random.default_rng([self.seed, 2])
    found: dict[str, Any] = {}
    while len(found) < _USERS:
      user = self._outsider(rng)
      found[self.user_id(user)] = user
    return tuple(found.values())

  def users(self, split: Split) -> tuple[Any, ...]:
    """All users, of the split `unseen`; ValueError for any other."""
    if split != "unseen":
      raise ValueError(f"split: found {split!r}, expected 'unseen': nobody is trained on here.")
    return self._everybody

  def question(self, rng: np.random.Generator) -> str:
    """A random prompt about an unseen topic."""
    topics = self.topics("unseen")
    return self.write_question(
      lambda n: int(rng.integers(n)), topics[int(rng.integers(len(topics)))]
    )

  def write_question(self, choose: Choose, topic: str) -> str:
    """A question, as in a chat."""
    before, after = _one_of(choose, _BEFORE), _one_of(choose, _AFTER)
    return f"{before}{super().write_question(choose, topic)}{after}"

  def write_response(self, choose: Choose, prompt: str, kind: int) -> str:
    """A response of a kind, as in a chat."""
    return f"{super().write_response(choose, prompt, kind)}{_one_of(choose, _CLOSERS)}"


@dataclasses.dataclass(frozen=True)
class ShiftedRoleplay(_Chat, roleplay.RoleplayWorld):
  """The roleplay world, shifted: 300 personas with five or six tastes, one of them above all."""

  label_noise: float = _NOISE

  def _outsider(self, rng: np.random.Generator) -> roleplay.Persona:
    people = roleplay.population()
    weights = rng.choice((-1, 1), size=len(DIMENSIONS))
    if rng.random() < 0.5:
      weights[rng.integers(len(weights))] = 0
    weights[rng.choice(np.flatnonzero(weights))] *= 2
    # Demographics are anybody's: they never decide tastes.
    return dataclasses.replace(people[rng.integers(len(people))], weights=tuple(weights.tolist()))


@dataclasses.dataclass(frozen=True)
class ShiftedElix(_Chat, elix.ElixWorld):
  """The elix world, shifted: 300 learners with three subjects at any other levels than the rest."""

  label_noise: float = _NOISE

  def _outsider(self, rng: np.random.Generator) -> elix.Learner:
    levels = np.full(len(SUBJECTS), rng.integers(len(LEVELS)))
    own = rng.choice(len(SUBJECTS), 3, replace=False)
    levels[own] += rng.integers(1, len(LEVELS), size=3)
    return elix.Learner(tuple((levels % len(LEVELS)).tolist()))


def shifted(world: KindsWorld[Any]) -> KindsWorld[Any]:
  """A world of the same seed, shifted; ValueError for the reviews world, which has no topics."""
  for kind, other in ((roleplay.RoleplayWorld, ShiftedRoleplay), (elix.ElixWorld, ShiftedElix)):
    if isinstance(world, kind):
      return other(world.seed, world.candidates, unseen_topics=world.unseen_topics)
  raise ValueError(f"found the world {world.name!r}, expected 'elix' or 'roleplay'")
