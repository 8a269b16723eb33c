# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the text for tokenizers: topics stand apart from what is said of them."""

import numpy as np
import pytest

from fspo_jax.episodes import pretraining, sources, tokenizers
from fspo_jax.preferences import Preference, Splits, User
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld


def test_topics_are_lines_of_their_own():
  texts = ["To learn to cook, take a class.", "no topic", "cook", "Why not cook or learn to cook?"]
  assert list(sources.apart(texts, ("cook", "learn to cook"))) == [
    "To",
    "learn to cook",
    ", take a class.",
    "no topic",
    "cook",
    "Why not",
    "cook",
    "or",
    "learn to cook",
    "?",
  ]
  assert list(sources.apart(texts, ())) == texts
  # Not a pattern: a topic is what it spells.
  assert list(sources.apart(["a.c abc"], ("a.c",))) == ["a.c", "abc"]


def _roleplay_set(world):
  """Users who ask about everything, on training topics alone in training."""
  rng = np.random.default_rng(0)

  def user(name, topics, count):
    prompts = [world.write_question(lambda n: int(rng.integers(n)), topic) for topic in topics]
    pairs = [
      Preference(p, *(world.write_response(lambda n: int(rng.integers(n)), p, k) for k in (0, 1)))
      for p in prompts * count
    ]
    return User(name, tuple(pairs), "Above all digital.")

  both = (*world.topics("train"), *world.topics("unseen"))
  unseen = user("b", both, 1)
  asked = {p.prompt for p in unseen.preferences[len(world.topics("train")) :]}
  return Splits((user("a", world.topics("train"), 8),), {"unseen": (unseen,)}, asked, {})


def test_a_way_is_the_same_pieces_whatever_the_goal():
  world = RoleplayWorld()
  splits = _roleplay_set(world)

  def pieces_of_ways(topics):
    source = sources.UserSource("set", splits, set_aside_small=False, topics=topics)
    lines = list(source.corpus(0, 10_000))
    pieces = tokenizers.train(lines, vocab_size=1500, model_type="bpe", split_by_whitespace=False)
    found = set()
    for goal in (*world.topics("train")[:20], *world.topics("unseen")):
      # Up to the goal and from it on: the words around it do not change.
      before, whole = "One way to ", f"One way to {goal} is to take an evening class."
      ids = pieces.encode(whole)
      tail = pieces.encode(f"{goal} is to take an evening class.")
      assert pieces.decode(ids) == whole
      found.add((ids[: len(pieces.encode(before.strip()))], ids[-4:], ids[-len(tail) :] == tail))
    return found

  apart, together = pieces_of_ways(tuple(world.topics("train"))), pieces_of_ways(())
  assert len(apart) == 1 and next(iter(apart))[2]
  assert len(together) > 1


@pytest.mark.parametrize("world", [ReviewsWorld(), ElixWorld(), RoleplayWorld()])
def test_a_base_reads_knowledge_and_training_topics_as_text(world):
  mixture = pretraining.Mixture(
    (pretraining.Phase(0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, (1,), best=False),), (8,), (12,), 24, 1.0
  )
  lines = list(sources.PretrainingSource((world,), mixture).corpus(0, 300))
  known = {text for pair in world.knowledge() for text in pair}
  assert known <= set(lines)
  said = [line for line in lines if line not in known]
  for topic in world.topics("train")[:50]:
    assert all(topic == line or topic not in line for line in said)
