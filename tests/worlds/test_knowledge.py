# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what anybody knows of a domain: it is true, whole, and says nothing of any user."""

import pytest

from fspo_jax.worlds import reviews_descriptions, reviews_text
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.reviews_descriptions import COMBINATION_INDEX
from fspo_jax.worlds.roleplay import RoleplayWorld

WORLDS = ReviewsWorld(), ElixWorld(), RoleplayWorld()


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_each_question_has_one_answer(world):
  questions = [question for question, _ in world.knowledge()]
  assert len(set(questions)) == len(questions)
  for topic in (*world.topics("train"), *world.topics("unseen")):
    # No question of knowledge is a prompt: it could stand among a user's shots.
    assert world.write_question(lambda n: 0, topic) not in questions


def test_the_subject_of_every_concept_is_known_seen_or_not():
  world = ElixWorld()
  known = dict(world.knowledge())
  topics = [*world.topics("train"), *world.topics("unseen")]
  # By itself, and after each of the eight questions about it.
  assert len(known) == 9 * len(topics)
  for topic in topics:
    prompts = [world.write_question(lambda _, chosen=i: chosen, topic) for i in range(8)]
    alone = f"Which subject does {topic} belong to?"
    for question in (alone, *(f"{prompt} Which subject is that?" for prompt in prompts)):
      assert world.reading(prompts[0], 0).startswith(f"{known[question]}: ")


def test_who_likes_a_view_is_known_by_any_wording():
  world = RoleplayWorld()
  known = dict(world.knowledge())
  for topic in world.topics("unseen"):
    prompt = world.write_question(lambda n: 0, topic)
    for kind in range(world.kinds(prompt)):
      assert known[f"Who likes to {world.view(prompt, kind)}?"] == world.reading(prompt, kind)


def test_what_a_marker_says_is_what_is_read_from_it():
  world = ReviewsWorld()
  for question, said in world.knowledge():
    marker = question.removeprefix("What do the words '").removesuffix("' say?")
    values = reviews_text.parse(marker)
    (attribute,) = (a for a, v in enumerate(values) if v is not None and a != 1)  # 1: the length
    assert reviews_descriptions.word(attribute, values[attribute]) == said
    assert said in world.reading("", COMBINATION_INDEX[_with(attribute, values[attribute])])


def _with(attribute, value):
  return tuple(value if a == attribute else 0 for a in range(len(reviews_text.NAMES)))
