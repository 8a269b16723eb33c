# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contract of a world: the embedded simulator of a domain.

A world knows what no data set of real people does: the tastes of its users, hence the true reward
of any response. What it hands out (questions, responses, preferences, descriptions) is plain text,
so that whatever learns from a world can learn from real data as well.

A world is immutable and every draw is a pure function of the generator passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np

from fspo_jax import preferences as preferences_lib

# The users to train on; users of the same kind that training never sees; users with a combination
# of tastes that no training user has; and users who only serve a training curriculum.
Split = Literal["train", "unseen", "heldout_combinations", "curriculum"]

# A world's own type of user: whatever says what they like.
UserT = TypeVar("UserT")


class World(Protocol[UserT]):
  """The embedded simulator of a domain, generic over its own type of user."""

  @property
  def name(self) -> str:
    """The domain's name: `reviews`, `elix` or `roleplay`."""

  @property
  def candidates(self) -> int:
    """A preference is the best and the worst of so many responses, unless asked otherwise."""

  def users(self, split: Split) -> Sequence[UserT]:
    """All users of a split, in a fixed order; splits are disjoint. Raises ValueError if unknown."""

  def user_id(self, user: UserT) -> str:
    """A stable, readable name of the user, unique in the world."""

  def describe(self, user: UserT) -> str:
    """The gold description of the user, in one sentence."""

  def reward(self, user: UserT, prompt: str, response: str) -> float:
    """The true reward of any text as a response to `prompt`; higher is better."""

  def question(self, rng: np.random.Generator) -> str:
    """A random prompt."""

  def best_response(self, rng: np.random.Generator, user: UserT) -> str:
    """A random response among those with the highest reward for the user."""

  def preferences(
    self,
    rng: np.random.Generator,
    user: UserT,
    count: int,
    *,
    candidates: int | None = None,
    label_noise: float | None = None,
  ) -> list[preferences_lib.Preference]:
    """Draws preferences of the user, with distinct prompts.

    Args:
      rng: The only source of randomness.
      user: Whose preferences.
      count: How many.
      candidates: The pair is the best and the worst of so many responses; None: the world's own.
      label_noise: The probability of a swapped label; None: the world's own. 0 for clean queries.
    """

  def corpus(self, rng: np.random.Generator, count: int) -> Iterator[str]:
    """Draws `count` texts of every kind the world has, to train a tokenizer on."""


def simulate_user(
  world: World[UserT],
  rng: np.random.Generator,
  user: UserT,
  count: int,
  *,
  label_noise: float | None = None,
) -> preferences_lib.User:
  """One record of a data set: a user with `count` preferences and the gold description."""
  return preferences_lib.User(
    user_id=world.user_id(user),
    preferences=tuple(world.preferences(rng, user, count, label_noise=label_noise)),
    description=world.describe(user),
  )
