# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what a base is measured by: perfect answers get 1, and who cannot read is seen."""

import dataclasses

import numpy as np
import pytest

from fspo_jax.evaluation import base_quality
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Written
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.elix_text import LEVELS
from fspo_jax.worlds.elix_topics import SUBJECTS
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld

WORLDS = ReviewsWorld(), ElixWorld(), RoleplayWorld()
GREEDY = Decoding(0.0, 1.0, 40)


@dataclasses.dataclass
class Reader:
  """In place of a model: follows the descriptions that it is given, or reads by the inverse."""

  world: object
  blind_to: str = ""
  deaf: float = 0.0
  general: bool = False

  def respond(self, users, prompts, decoding, *, seed, descriptions=None):
    rng = np.random.default_rng(seed)
    answers = []
    for i, (shots, own) in enumerate(zip(users, prompts, strict=True)):
      said = None if descriptions is None else descriptions[i]
      answers.append([Written(self._answer(rng, shots, said, p), True) for p in own])
    return answers

  def _answer(self, rng, shots, description, prompt):
    if description is not None and self.general:
      description = description.partition(";")[0]  # and none of the exceptions
    if description is not None and rng.random() >= self.deaf:
      return self.world.best_response(rng, self.world.read(description), prompt)
    if description is not None:
      return "Well."
    text = shots[0].rejected if "second" in prompt else shots[0].chosen
    read = self.world.reading(shots[0].prompt, self.world.kind(shots[0].prompt, text))
    return read.replace(self.blind_to, "?") if self.blind_to else read


def _following(world, reader, topics="unseen", users=80):
  return base_quality.following(
    world, reader, GREEDY, topics=topics, users=users, prompts=3, seed=0
  )


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("topics", ["train", "unseen"])
def test_who_does_what_descriptions_say_follows_always(world, topics):
  assert _following(world, Reader(world), topics).mean == 1.0


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_who_does_not_listen_is_found_out(world):
  assert _following(world, Reader(world, deaf=1.0)).mean == 0.0
  half = _following(world, Reader(world, deaf=0.5), users=1000)
  assert half.mean == pytest.approx(0.5, abs=0.03)  # 3000 answers: 3.3 standard errors
  assert half.low < half.mean < half.high and half.high - half.low < 0.1


def _seldom(world, reader):
  return base_quality.following_seldom(world, reader, GREEDY, topics="unseen", users=80, seed=0)


def test_who_answers_all_at_the_general_level_is_found_out():
  """Of 11 subjects two are exceptions: 9 of 11 answers are right, and none of the seldom ones."""
  world = WORLDS[1]
  general = Reader(world, general=True)
  assert _following(world, general).mean == pytest.approx(9 / 11, abs=0.08)
  assert _seldom(world, general).mean == 0.0
  assert _seldom(world, Reader(world)).mean == 1.0


def test_where_one_kind_is_always_best_no_prompt_is_seldom():
  assert _seldom(WORLDS[0], Reader(WORLDS[0])) is None
  assert _seldom(WORLDS[2], Reader(WORLDS[2])).mean == 1.0


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_readings_are_counted_by_word(world):
  found = base_quality.reading(world, Reader(world), GREEDY, pairs=300, seed=0)
  assert set(found.values()) == {1.0}
  # Every word is there: 13 values of reviews, every subject at each level, 12 traits.
  expected = {"reviews": 13, "elix": len(SUBJECTS) * len(LEVELS), "roleplay": 12}
  assert len(found) == expected[world.name]


def test_what_cannot_be_read_is_named():
  found = base_quality.reading(WORLDS[0], Reader(WORLDS[0], "funny"), GREEDY, pairs=60, seed=0)
  assert found.pop("funny") == 0.0 and set(found.values()) == {1.0}
