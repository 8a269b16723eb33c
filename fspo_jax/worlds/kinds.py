# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What worlds with few kinds of response to a prompt have in common: rewards, pairs, corpus."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Generic

from jaxtyping import Float, Int
import numpy as np

from fspo_jax.preferences import Preference
from fspo_jax.worlds.world import Choose, Split, TopicSplit, UserT

_TOPIC_SPLITS: tuple[TopicSplit, ...] = ("train", "unseen")


class KindsWorld(abc.ABC, Generic[UserT]):
  """A `World` whose prompts have a few kinds of response each, which its users rank.

  A domain supplies the abstract methods, whose meaning `World` says, and these attributes:

  Attributes:
    seed: Decides which users and which topics are unseen, and nothing else.
    candidates: A preference is the best and the worst of so many random responses.
    label_noise: The probability that a preference's label is swapped.
  """

  seed: int
  candidates: int
  label_noise: float

  @property
  @abc.abstractmethod
  def name(self) -> str:
    """The domain's name."""

  @abc.abstractmethod
  def users(self, split: Split) -> Sequence[UserT]:
    """All users of a split."""

  @abc.abstractmethod
  def user_id(self, user: UserT) -> str:
    """A stable, readable name."""

  @abc.abstractmethod
  def describe(self, user: UserT) -> str:
    """The gold description."""

  @abc.abstractmethod
  def read(self, description: str) -> UserT:
    """The inverse of `describe`."""

  @abc.abstractmethod
  def vague(self, rng: np.random.Generator, user: UserT, share: float) -> UserT:
    """The user with a share of the tastes left out."""

  @abc.abstractmethod
  def addition(
    self, choose: Choose, description: str, prompt: str, chosen: str, rejected: str
  ) -> str | None:
    """A sentence that makes the described user prefer `chosen`."""

  @abc.abstractmethod
  def description_f1(self, user: UserT, text: str) -> float:
    """F1 of the tastes that a description names."""

  @abc.abstractmethod
  def topics(self, split: TopicSplit) -> Sequence[str]:
    """What prompts are about."""

  @abc.abstractmethod
  def write_question(self, choose: Choose, topic: str) -> str:
    """A prompt about a topic."""

  @abc.abstractmethod
  def kinds(self, prompt: str) -> int:
    """How many kinds of response there are."""

  @abc.abstractmethod
  def write_response(self, choose: Choose, prompt: str, kind: int) -> str:
    """A response of a kind."""

  @abc.abstractmethod
  def kind(self, prompt: str, response: str) -> int | None:
    """The kind of any text."""

  @abc.abstractmethod
  def view(self, prompt: str, kind: int) -> str:
    """A short name of a kind."""

  @abc.abstractmethod
  def read_view(self, prompt: str, view: str) -> int | None:
    """The kind that a view names."""

  @abc.abstractmethod
  def reading(self, prompt: str, kind: int) -> str:
    """What a kind is like, in the words of descriptions."""

  @abc.abstractmethod
  def knowledge(self) -> Sequence[tuple[str, str]]:
    """Questions and answers of general knowledge."""

  def wishes(self, user: UserT) -> Sequence[tuple[str, str]]:
    """None, unless a world has some; see `World.wishes`."""
    del user
    return ()

  @abc.abstractmethod
  def tastes(self, users: Sequence[UserT]) -> Float[np.ndarray, "users tastes"]:
    """The users as vectors."""

  @abc.abstractmethod
  def kind_rewards(
    self, tastes: Float[np.ndarray, "*users tastes"], prompt: str
  ) -> Float[np.ndarray, "*users kinds"]:
    """The reward of every kind."""

  def reward(self, user: UserT, prompt: str, response: str) -> float:
    """The reward of the response's kind; of a text of no kind, 1 below the worst of the kinds."""
    rewards = self.kind_rewards(self.tastes([user])[0], prompt)
    kind = self.kind(prompt, response)
    return float(rewards.min() - 1 if kind is None else rewards[kind])

  def question(self, rng: np.random.Generator) -> str:
    """A random prompt about any topic."""
    topics = [topic for split in _TOPIC_SPLITS for topic in self.topics(split)]
    return self.write_question(_uniform(rng), topics[rng.integers(len(topics))])

  def best_response(self, rng: np.random.Generator, user: UserT, prompt: str) -> str:
    """A random response of the user's best kinds."""
    rewards = self.kind_rewards(self.tastes([user])[0], prompt)
    kind = int(rng.choice(np.flatnonzero(rewards == rewards.max())))
    return self.write_response(_uniform(rng), prompt, kind)

  def preferences(
    self,
    rng: np.random.Generator,
    user: UserT,
    count: int,
    *,
    candidates: int | None = None,
    label_noise: float | None = None,
  ) -> list[Preference]:
    """Draws preferences: the best and the worst of `candidates` random kinds, ties at random.

    A question whose responses are all equal to the user is replaced by another. Raises ValueError
    if no question of a thousand tells them apart, as for a user without tastes.
    """
    candidates = self.candidates if candidates is None else candidates
    label_noise = self.label_noise if label_noise is None else label_noise
    check_pair_arguments(candidates, label_noise)
    tastes, choose = self.tastes([user])[0], _uniform(rng)
    found: dict[str, Preference] = {}
    refused = 0
    while len(found) < count:
      prompt = self.question(rng)
      rewards = self.kind_rewards(tastes, prompt)
      if prompt in found or rewards.min() == rewards.max():
        refused += 1
        if refused > 1000 + 100 * count:
          raise ValueError(f"user {self.user_id(user)}: not {count} questions that matter to them.")
        continue
      best, worst = best_and_worst(rng, rewards, candidates)
      chosen = self.write_response(choose, prompt, best)
      rejected = self.write_response(choose, prompt, worst)
      if rng.random() < label_noise:
        chosen, rejected = rejected, chosen
      found[prompt] = Preference(prompt, chosen, rejected)
    return list(found.values())

  def corpus(self, rng: np.random.Generator, count: int) -> Iterator[str]:
    """Draws `count` texts on training topics: a question, a response, a description, and again."""
    users, topics, choose = self.users("train"), self.topics("train"), _uniform(rng)
    for i in range(count):
      prompt = self.write_question(choose, topics[rng.integers(len(topics))])
      if i % 3 == 0:
        yield prompt
      elif i % 3 == 1:
        yield self.write_response(choose, prompt, int(rng.integers(self.kinds(prompt))))
      else:
        yield self.describe(users[rng.integers(len(users))])


def check_pair_arguments(candidates: int, label_noise: float) -> None:
  """Refuses, with a ValueError, numbers that no pair can be drawn with."""
  if candidates < 2:
    raise ValueError(f"candidates: found {candidates}, expected at least 2, for a pair.")
  if not 0 <= label_noise < 0.5:
    raise ValueError(f"label_noise: found {label_noise}, expected at least 0 and less than 0.5.")


def best_and_worst(
  rng: np.random.Generator, rewards: Float[np.ndarray, " kinds"], candidates: int
) -> tuple[int, int]:
  """Of so many uniform kinds the best and the worst, ties at random, drawn anew if they are equal.

  Some kinds must differ in reward.
  """
  while True:
    drawn: Int[np.ndarray, " candidates"] = rng.permutation(
      rng.integers(len(rewards), size=candidates)
    )
    best, worst = drawn[rewards[drawn].argmax()], drawn[rewards[drawn].argmin()]
    if rewards[best] > rewards[worst]:
      return int(best), int(worst)


def _uniform(rng: np.random.Generator) -> Choose:
  return lambda alternatives: int(rng.integers(alternatives))
