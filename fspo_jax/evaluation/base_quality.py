# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a base is fit to personalize from: does it follow descriptions, can it read responses?

Both are asked about what it was not pretrained on: evaluation users, unseen topics. Reading is
counted by word, because an average hides the one taste that a base cannot see.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fspo_jax.episodes.pretraining import reading_question
from fspo_jax.evaluation import statistics
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer
from fspo_jax.preferences import Preference
from fspo_jax.worlds.world import TopicSplit, World

_RESAMPLES = 2000
_LOOKED_AT = 32  # prompts, to find a user's most frequent best kind and another


def following(
  world: World[Any],
  writer: Writer,
  decoding: Decoding,
  *,
  topics: TopicSplit,
  users: int,
  prompts: int,
  seed: int,
) -> statistics.Interval:
  """How often a response under a gold description is one that its user likes best.

  Args:
    world: whose unseen users are described, and whose inverse reads the responses.
    writer: the base.
    decoding: how responses are sampled.
    topics: which topics are asked about.
    users: how many of the unseen users, drawn with replacement.
    prompts: distinct ones for each.
    seed: of users, prompts and responses.
  """
  rng = np.random.default_rng(seed)
  drawn = _drawn(world, users, rng)
  asked = [_prompts(world, topics, prompts, rng) for _ in drawn]
  return _followed(world, writer, decoding, drawn, asked, seed)


def following_seldom(
  world: World[Any],
  writer: Writer,
  decoding: Decoding,
  *,
  topics: TopicSplit,
  users: int,
  seed: int,
) -> statistics.Interval | None:
  """`following` of one prompt each for which a user's most frequent best kind is not right.

  A base that answers every learner at their general level is right for most prompts, and looks as
  if it followed: of these it has none.

  Args:
    world: as in `following`.
    writer: the same.
    decoding: the same.
    topics: the same.
    users: how many are drawn. Who has no such prompt among 32 is left out.
    seed: of users, prompts and responses.

  Returns:
    The share, or None where nobody has such prompts.
  """
  rng = np.random.default_rng(seed)
  found = []
  for user in _drawn(world, users, rng):
    prompt = _seldom(world, user, _prompts(world, topics, _LOOKED_AT, rng))
    if prompt is not None:
      found.append((user, [prompt]))
  if not found:
    return None
  drawn, asked = zip(*found, strict=True)
  return _followed(world, writer, decoding, drawn, asked, seed)


def reading(
  world: World[Any], writer: Writer, decoding: Decoding, *, pairs: int, seed: int
) -> dict[str, float]:
  """How often each word of descriptions is read off a response that it is true of.

  Each response is one of a pair, in the few-shot format, on an unseen topic.

  Args:
    world: whose responses are read.
    writer: the base.
    decoding: how readings are sampled; greedy to measure.
    pairs: how many pairs are read.
    seed: of the pairs.

  Returns:
    For each word or phrase of `World.reading`, the share of the responses it is true of to which
    the model gives it, and no other.
  """
  rng = np.random.default_rng(seed)
  shots, gold = [], []
  while len(shots) < pairs:
    (prompt,) = _prompts(world, "unseen", 1, rng)
    kinds = rng.choice(world.kinds(prompt), 2, replace=False).tolist()
    chosen, rejected = (world.write_response(_uniform(rng), prompt, kind) for kind in kinds)
    shots.append([Preference(prompt, chosen, rejected)])
    gold.append([world.reading(prompt, kind) for kind in kinds])
  asked = [[reading_question(side) for side in (0, 1)]] * pairs
  written = writer.respond(shots, asked, decoding, seed=seed)
  seen, right = collections.Counter(), collections.Counter()
  for own, responses in zip(gold, written, strict=True):
    for expected, response in zip(own, responses, strict=True):
      found = response.text.split(", ")
      words = expected.split(", ")
      for place, word in enumerate(words):
        seen[word] += 1
        right[word] += len(found) == len(words) and found[place] == word
  return {word: right[word] / count for word, count in sorted(seen.items())}


def _drawn(world: World[Any], users: int, rng: np.random.Generator) -> list[Any]:
  everybody = world.users("unseen")
  return [everybody[i] for i in rng.integers(len(everybody), size=users)]


def _followed(
  world: World[Any],
  writer: Writer,
  decoding: Decoding,
  drawn: Sequence[Any],
  asked: Sequence[Sequence[str]],
  seed: int,
) -> statistics.Interval:
  """The share of responses under gold descriptions that are what their user likes best."""
  written = writer.respond(
    [()] * len(drawn),
    asked,
    decoding,
    seed=seed,
    descriptions=[world.describe(user) for user in drawn],
  )
  best = []
  for user, own, responses in zip(drawn, asked, written, strict=True):
    tastes = world.tastes([user])[0]
    for prompt, response in zip(own, responses, strict=True):
      most = world.kind_rewards(tastes, prompt).max()
      best.append(float(world.reward(user, prompt, response.text) >= most))
  ids = np.repeat([world.user_id(user) for user in drawn], len(asked[0]))
  return statistics.cluster_bootstrap(np.asarray(best), ids, resamples=_RESAMPLES)


def _seldom(world: World[Any], user: Any, prompts: Sequence[str]) -> str | None:
  """The first prompt for which the user's most frequent best kind is none of the best."""
  tastes = world.tastes([user])[0]
  rewards = [world.kind_rewards(tastes, prompt) for prompt in prompts]
  best = [set(np.flatnonzero(own == own.max()).tolist()) for own in rewards]
  usual, _ = collections.Counter(kind for kinds in best for kind in kinds).most_common(1)[0]
  return next((p for p, kinds in zip(prompts, best, strict=True) if usual not in kinds), None)


def _prompts(
  world: World[Any], topics: TopicSplit, count: int, rng: np.random.Generator
) -> list[str]:
  """Distinct prompts on a split's topics."""
  names = world.topics(topics)
  found: dict[str, None] = {}
  while len(found) < count:
    found[world.write_question(_uniform(rng), names[rng.integers(len(names))])] = None
  return list(found)


def _uniform(rng: np.random.Generator) -> Callable[[int], int]:
  return lambda alternatives: int(rng.integers(alternatives))
