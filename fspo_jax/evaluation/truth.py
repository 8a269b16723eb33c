# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is known of users who come from a world: their tastes judge, and set the ceiling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax.episodes.sampling import Episode, UserEpisodes, WorldEpisodes
from fspo_jax.preferences import Splits
from fspo_jax.worlds import bayes
from fspo_jax.worlds.ceiling import LabelCeiling
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.world import World


@dataclasses.dataclass(frozen=True)
class Truth:
  """The world behind the users of one evaluation split.

  Attributes:
    world: whose reward judges responses.
    user: the world's user of episode i.
    question: a random prompt for win rates.
    ceiling: the probability that the ideal observer gives to an episode's query being labelled as
      it is, after each of some numbers of shots.
  """

  world: World[Any]
  user: Callable[[int], Any]
  question: Callable[[np.random.Generator], str]
  ceiling: Callable[[Sequence[Episode], Sequence[int]], Float[np.ndarray, "episodes ks"]]


def of_world(world: ReviewsWorld, episodes: WorldEpisodes) -> Truth:
  """The truth of fresh episodes of the reviews world."""

  def ceiling(found: Sequence[Episode], ks: Sequence[int]) -> Float[np.ndarray, "episodes ks"]:
    predictor = bayes.BayesPredictor.for_world(world, episodes.split)
    shots = np.stack([bayes.preference_pairs(e.shots) for e in found])
    queries = np.stack([bayes.preference_pairs(e.queries)[0] for e in found])
    return predictor.predict_by_k(shots, queries, ks)

  return Truth(world, episodes.user, world.question, ceiling)


def of_set(world: World[Any], splits: Splits, episodes: UserEpisodes, picked: float) -> Truth:
  """The truth of a synthetic set: what a user's final description says is what they like.

  The ceiling's prior is uniform over all users of the set. It knows how often the labels of the
  training users are not what their descriptions say, and how pairs were drawn.

  Args:
    world: the users'.
    splits: of the set.
    episodes: of an evaluation split.
    picked: the share of pairs with a response that the user would pick.
  """
  topics = world.topics("unseen" if episodes.query_prompts == splits.query_prompts else "train")

  def user(index: int) -> Any:
    return world.read(episodes(index).description or "")

  def question(rng: np.random.Generator) -> str:
    topic = topics[rng.integers(len(topics))]
    return world.write_question(lambda alternatives: int(rng.integers(alternatives)), topic)

  def ceiling(found: Sequence[Episode], ks: Sequence[int]) -> Float[np.ndarray, "episodes ks"]:
    users = [u for group in (splits.train, *splits.evaluation.values()) for u in group]
    population = [world.read(u.description or "") for u in users]
    noise = label_noise(world, splits)
    predictor = LabelCeiling(world, population, noise, picked)
    return predictor.predict_by_k([e.shots for e in found], [e.queries[0] for e in found], ks)

  return Truth(world, user, question, ceiling)


def label_noise(world: World[Any], splits: Splits, most: int = 5000) -> float:
  """How often a training user's label contradicts their description, of those it determines.

  Args:
    world: the users'.
    splits: of the set.
    most: preferences to look at.
  """
  contradicted = determined = 0
  for user in splits.train:
    tastes = world.read(user.description or "")
    for p in user.preferences:
      lead = world.reward(tastes, p.prompt, p.chosen) - world.reward(tastes, p.prompt, p.rejected)
      contradicted += lead < 0
      determined += lead != 0
    if determined >= most:
      break
  # Never quite 0: a label of an unseen user may be wrong though none that was looked at is.
  return min(0.5, (contradicted + 1) / (determined + 2))
