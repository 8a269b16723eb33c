# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shifted worlds: who lives there is nobody of the world, and all that is said stays readable."""

import numpy as np
import pytest

from fspo_jax.episodes.sampling import WorldEpisodes
from fspo_jax.worlds import elix, roleplay
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld
from fspo_jax.worlds.shifted import shifted

WORLDS = ElixWorld(seed=3), RoleplayWorld(seed=3)
POPULATIONS = elix.population("hard"), roleplay.population()


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_nobody_of_the_world_lives_there(world):
  other = shifted(world)
  users = other.users("unseen")
  population = dict(zip(WORLDS, POPULATIONS, strict=True))[world]
  assert len(set(map(other.user_id, users))) == len(users) == 300
  assert not {world.user_id(user) for user in population} & {other.user_id(u) for u in users}
  # The descriptions say all that they like.
  described = [other.read(other.describe(user)) for user in users]
  np.testing.assert_array_equal(other.tastes(described), other.tastes(users))
  with pytest.raises(ValueError, match="found 'train', expected 'unseen'"):
    other.users("train")


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_topics_are_unseen_ones_and_kinds_are_read_back(world):
  other, rng = shifted(world), np.random.default_rng(0)
  assert other.topics("unseen") == world.topics("unseen")
  wordings = set()
  for _ in range(300):
    prompt = other.question(rng)
    assert any(topic in prompt for topic in world.topics("unseen"))
    wordings.add(prompt)
    kind = int(rng.integers(other.kinds(prompt)))
    response = other.write_response(lambda n: int(rng.integers(n)), prompt, kind)
    # The world itself reads what is said in a chat.
    assert world.kind(prompt, response) == other.kind(prompt, response) == kind
  assert len(wordings) > 200


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_episodes_are_noisier_and_their_queries_are_not(world):
  other = shifted(world)
  episodes = WorldEpisodes(other, "unseen", 8, 1, seed=0)
  right = {"shots": [], "queries": []}
  for i in range(150):
    user, episode = episodes.user(i), episodes(i)
    for name in right:
      for p in getattr(episode, name):
        lead = other.reward(user, p.prompt, p.chosen) - other.reward(user, p.prompt, p.rejected)
        right[name].append(lead > 0)
  assert np.mean(right["shots"]) == pytest.approx(0.85, abs=0.04)
  assert all(right["queries"])


def test_a_world_without_topics_is_refused():
  with pytest.raises(ValueError, match="found the world 'reviews', expected 'elix' or 'roleplay'"):
    shifted(ReviewsWorld())
