# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what is known of users who come from a world."""

import dataclasses

import numpy as np
import pytest

from fspo_jax.episodes.sampling import UserEpisodes, WorldEpisodes
from fspo_jax.episodes.sources import KNOWN_PROMPTS, UserSource
from fspo_jax.evaluation import truth
from fspo_jax.preferences import User, assemble
from fspo_jax.worlds.elix import ElixWorld
from tests import tiny

WORLD = ElixWorld(variant="easy")


def _user(user, index, noise=0.0, topics="train"):
  """A user of the world with preferences about the topics of a split, some labels swapped."""
  rng = np.random.default_rng([index, 7])
  wanted = {*WORLD.topics(topics)}
  found = [
    p
    for p in WORLD.preferences(rng, user, 120, candidates=2, label_noise=noise)
    if any(topic in p.prompt for topic in wanted)
  ]
  return User(f"user-{index}", tuple(found[:20]), WORLD.describe(user))


@pytest.fixture(scope="module")
def splits():
  """Ten users to train on and ten others, who are asked about topics never trained on."""
  people = WORLD.users("train")[::25], WORLD.users("unseen")[::5]
  train = [_user(user, i) for i, user in enumerate(people[0])]
  unseen = []
  for i, user in enumerate(people[1], 100):
    asked, shown = _user(user, i, topics="unseen"), _user(user, i)
    unseen.append(User(asked.user_id, asked.preferences + shown.preferences, asked.description))
  query_prompts = {
    p.prompt for u in unseen for p in u.preferences
    if any(topic in p.prompt for topic in WORLD.topics("unseen"))
  }  # fmt: skip
  return assemble(train, unseen, query_prompts=query_prompts, set_aside={})


def test_the_users_of_a_set_are_what_their_descriptions_say(splits):
  users = splits.evaluation["unseen"]
  episodes = UserEpisodes(users, 4, 1, 0, query_prompts=splits.query_prompts, in_order=True)
  found = truth.of_set(WORLD, splits, episodes, 0.0)
  for i in range(len(users)):
    assert WORLD.describe(found.user(i)) == users[i].description
  rng = np.random.default_rng(0)
  prompts = {found.question(rng) for _ in range(200)}
  assert len(prompts) > 50
  assert all(any(topic in prompt for topic in WORLD.topics("unseen")) for prompt in prompts)


def test_users_asked_about_known_prompts_answer_about_topics_trained_on(splits):
  episodes = UserSource("set", splits, False, known_prompts=True).evaluation(KNOWN_PROMPTS, 4, 1, 0)
  found = truth.of_set(WORLD, splits, episodes, 0.0)
  rng = np.random.default_rng(0)
  prompts = {found.question(rng) for _ in range(200)}
  assert not any(topic in prompt for topic in WORLD.topics("unseen") for prompt in prompts)


def test_the_ceiling_of_a_set_rises_with_the_shots_and_is_certain_in_the_end(splits):
  users = splits.evaluation["unseen"]
  episodes = UserEpisodes(users, 8, 1, 0, query_prompts=splits.query_prompts, in_order=True)
  found = [episodes(i) for i in range(60)]
  preferred = truth.of_set(WORLD, splits, episodes, 0.0).ceiling(found, (0, 8))
  assert preferred.shape == (60, 2)
  assert preferred[:, 1].mean() > 0.9 > preferred[:, 0].mean()


def test_label_noise_is_how_often_labels_contradict_the_description(splits):
  def noise_of(rate):
    users = [_user(user, i, rate) for i, user in enumerate(WORLD.users("train")[:99])]
    return truth.label_noise(WORLD, dataclasses.replace(splits, train=tuple(users)))

  assert 0 < noise_of(0.0) < 0.001
  assert noise_of(0.2) == pytest.approx(0.2, abs=0.03)


def test_the_truth_of_fresh_episodes_is_the_worlds_own():
  world = tiny.world()
  episodes = WorldEpisodes(world, "unseen", 3, 1, seed=3)
  found = truth.of_world(world, episodes)
  assert [world.user_id(found.user(i)) for i in range(5)] == [episodes(i).user_id for i in range(5)]
