# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of win rates, with players whose strength is known."""

import dataclasses

import numpy as np
import pytest

from fspo_jax.episodes.sampling import Episode, WorldEpisodes
from fspo_jax.evaluation import win_rate
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Written
from fspo_jax.preferences import Preference
from fspo_jax.worlds.reviews import COMBINATIONS
from tests import tiny

USERS, PROMPTS = 40, 12
DECODING = Decoding(temperature=1.0, top_p=1.0, max_tokens=8)


@dataclasses.dataclass
class _Writer:
  """A contender that knows the users (their best response), or nothing (a random one)."""

  users: tuple
  best: bool

  def respond(self, episodes, prompts, decoding, *, seed):
    assert decoding == DECODING and len(episodes) == len(prompts) == len(self.users)
    world, rng = tiny.world(), np.random.default_rng(seed)

    def write(user):
      if self.best:
        return world.best_response(rng, user, "")
      return world.respond(rng, COMBINATIONS[rng.integers(len(COMBINATIONS))])

    return [
      [Written(write(user), finished=i > 2) for i, _ in enumerate(asked)]
      for user, asked in zip(self.users, prompts, strict=True)
    ]


@pytest.fixture(scope="module")
def match():
  """The best responses and random ones against a base of random ones."""
  world = tiny.world()
  users = world.users("unseen")[:USERS]
  prompts = [[f"Is {u} {p} good?" for p in range(PROMPTS)] for u in range(USERS)]
  players = {
    "base": _Writer(users, best=False),
    "fspo": _Writer(users, best=True),
    "fewshot_prompted": _Writer(users, best=False),
  }
  return users, prompts, _play(users, prompts, players, seed=5)


def _play(users, prompts, players, seed):
  episodes = [Episode(str(i), (), ()) for i in range(len(users))]
  return win_rate.play(tiny.world(), users, episodes, prompts, players, DECODING, seed=seed)


def test_the_best_responses_never_lose_against_random_ones(match):
  outcomes = match[2].outcomes["fspo"]
  assert outcomes.shape == (USERS, PROMPTS)
  assert outcomes.min() >= 0.5
  assert outcomes.mean() > 0.85


@pytest.mark.parametrize("name", ["base", "fewshot_prompted"])
def test_the_base_against_itself_and_against_its_equal_is_about_a_half(match, name):
  outcomes = match[2].outcomes[name]
  standard_error = outcomes.std() / np.sqrt(outcomes.size)
  assert outcomes.std() > 0.3  # it plays with other random numbers: not a row of ties
  assert abs(outcomes.mean() - 0.5) < 4 * standard_error


def test_rewards_are_the_worlds_and_outcomes_compare_them_with_the_bases(match):
  users, prompts, played = match
  world = tiny.world()
  for name, responses in played.responses.items():
    expected = [
      [world.reward(user, prompt, text) for prompt, text in zip(asked, own, strict=True)]
      for user, asked, own in zip(users, prompts, responses, strict=True)
    ]
    np.testing.assert_array_equal(played.rewards[name], expected)
    assert played.unfinished[name] == 3 / PROMPTS
  ours, base = played.rewards["fspo"], played.rewards["base"]
  np.testing.assert_array_equal(played.outcomes["fspo"], (ours > base) + 0.5 * (ours == base))


def test_the_interval_is_over_users(match):
  found = match[2].interval("fspo", [f"user {i // 2}" for i in range(USERS)], 200)
  assert found["mean"] == pytest.approx(match[2].outcomes["fspo"].mean())
  assert found["ci95"][0] <= found["mean"] <= found["ci95"][1]
  assert found["users"] == USERS // 2


def test_the_same_seed_plays_the_same_match(match):
  users, prompts, played = match
  # Nor does a method's play depend on what else plays.
  players = {"base": _Writer(users, best=False), "fspo": _Writer(users, best=True)}
  again = _play(users, prompts, players, seed=5)
  for name in players:
    assert again.responses[name] == played.responses[name]
  other = _play(users, prompts, players, seed=6)
  assert other.responses["base"] != played.responses["base"]


def _few_questions(rng):
  """One of six questions, so that a drawn one is often taken already."""
  return f"question {rng.integers(6)}"


def test_prompts_are_distinct_and_never_the_shots():
  shots = tuple(Preference(f"question {i}", "a", "b") for i in range(3))
  episodes = [Episode(str(i), shots, ()) for i in range(40)]
  prompts = win_rate.draw_prompts(_few_questions, episodes, 2, seed=1)
  assert all(len(set(own)) == 2 and set(own) < {f"question {i}" for i in (3, 4, 5)}
             for own in prompts)  # fmt: skip
  assert len({tuple(own) for own in prompts}) > 3  # each episode draws its own
  # A function of (seed, index): fewer episodes or another number of shots change nothing before.
  assert win_rate.draw_prompts(_few_questions, episodes[:5], 2, seed=1) == prompts[:5]
  assert win_rate.draw_prompts(_few_questions, episodes, 2, seed=2) != prompts


def test_prompts_of_the_reviews_world_are_never_the_shots():
  source = WorldEpisodes(tiny.world(), "unseen", 8, 1, seed=0)
  episodes = [source(i) for i in range(30)]
  for own, episode in zip(
    win_rate.draw_prompts(tiny.world().question, episodes, 3, seed=0), episodes, strict=True
  ):
    assert len(set(own)) == 3
    assert not set(own) & {shot.prompt for shot in episode.shots}
