# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contract of a world: the embedded simulator of a domain.

A world knows what no data set of real people does: the tastes of its users, hence the true reward
of any response. What it hands out (questions, responses, preferences, descriptions) is plain text,
so that whatever learns from a world can learn from real data as well.

A world is immutable and every draw is a pure function of the generator passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

from jaxtyping import Float
import numpy as np

from fspo_jax import preferences as preferences_lib

# The users to train on; users of the same kind that training never sees; users with a combination
# of tastes that no training user has; and users who only serve a training curriculum.
Split = Literal["train", "unseen", "heldout_combinations", "curriculum"]

# The topics to train on, and those that training never sees.
TopicSplit = Literal["train", "unseen"]

# Picks one of n alternatives, 0 .. n - 1. A text is written by such picks, one wording after the
# other, so that whoever picks decides how varied texts are: uniformly for the most varied.
Choose = Callable[[int], int]

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
    """The gold description of the user, in one sentence or a few."""

  def read(self, description: str) -> UserT:
    """The user of any description: its tastes are those that the text names, and no others.

    The inverse of `describe`. A text that names none gives a user without tastes, to whom all
    responses are equal.
    """

  def vague(self, rng: np.random.Generator, user: UserT, share: float) -> UserT:
    """The same user with a random share of the tastes left out, as personas often are."""

  def addition(
    self, choose: Choose, description: str, prompt: str, chosen: str, rejected: str
  ) -> str | None:
    """A sentence that, appended to `description`, makes its user prefer `chosen`.

    It names something of which the description says nothing. None where there is no such sentence,
    as where the responses do not differ, or the description already determines the preference.
    """

  def description_f1(self, user: UserT, text: str) -> float:
    """F1 of the tastes that any description names, against the user's own."""

  def reward(self, user: UserT, prompt: str, response: str) -> float:
    """The true reward of any text as a response to `prompt`; higher is better."""

  def topics(self, split: TopicSplit) -> Sequence[str]:
    """What prompts are about; the two splits are disjoint. A pure function of the world's seed."""

  def write_question(self, choose: Choose, topic: str) -> str:
    """A prompt about a topic."""

  def question(self, rng: np.random.Generator) -> str:
    """A random prompt about any topic."""

  def kinds(self, prompt: str) -> int:
    """How many kinds of response to a prompt there are; a user likes all of a kind equally."""

  def write_response(self, choose: Choose, prompt: str, kind: int) -> str:
    """A response of a kind, 0 .. kinds(prompt) - 1."""

  def kind(self, prompt: str, response: str) -> int | None:
    """The kind of any text as a response to `prompt`; None if it is of none. The inverse."""

  def view(self, prompt: str, kind: int) -> str:
    """A short name of a kind: the viewpoint that a response of it is written from."""

  def read_view(self, prompt: str, view: str) -> int | None:
    """The kind that a view names; None if it names none. The inverse of `view`."""

  def reading(self, prompt: str, kind: int) -> str:
    """What a kind is like, in the words of descriptions: to its user none is better."""

  def knowledge(self) -> Sequence[tuple[str, str]]:
    """Questions and answers of general knowledge, on topics of both splits; none of any user.

    What anybody knows of the domain before they meet its users, as what radioactivity belongs to,
    or that "won me over" is praise.
    """

  def wishes(self, user: UserT) -> Sequence[tuple[str, str]]:
    """Questions about a user, each with one of the things that they would like best, in a word.

    None where no word can tell it. Who asks knows the user's description.
    """

  def tastes(self, users: Sequence[UserT]) -> Float[np.ndarray, "users tastes"]:
    """The users as vectors, for `kind_rewards`."""

  def kind_rewards(
    self, tastes: Float[np.ndarray, "*users tastes"], prompt: str
  ) -> Float[np.ndarray, "*users kinds"]:
    """The true reward of every kind of response to a prompt, for each user."""

  def best_response(self, rng: np.random.Generator, user: UserT, prompt: str) -> str:
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
    """Draws preferences of the user, with distinct prompts, about topics of either split.

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
