# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the reviews world: its users, topics, kinds of response and preferences."""

import hashlib
import itertools
import re
import time

import numpy as np
import pytest

from fspo_jax.worlds import reviews, reviews_descriptions, reviews_text
from fspo_jax.worlds import world as world_lib
from fspo_jax.worlds.reviews_text import COMBINATIONS

WORLD = reviews.ReviewsWorld()
SPLITS = ("train", "unseen", "heldout_combinations", "curriculum")
NOBODY = WORLD.read("")


def _first(alternatives: int) -> int:
  return 0


def _last(alternatives: int) -> int:
  return alternatives - 1


def _uniform(rng):
  return lambda alternatives: int(rng.integers(alternatives))


# Users.


def test_population():
  population = reviews.population()
  assert len(population) == len(set(population)) == 3240
  assert {len(tastes.cared) for tastes in population} == {3, 4, 5}
  for tastes in population:
    assert sorted(tastes.weights, reverse=True)[:2] == [2, 1]


def test_splits_partition_the_population():
  splits = {split: WORLD.users(split) for split in SPLITS}
  assert {split: len(users) for split, users in splits.items()} == {
    "train": 2373,
    "unseen": 500,
    "heldout_combinations": 367,
    "curriculum": 432,
  }
  for one, other in itertools.combinations(SPLITS, 2):
    assert not set(splits[one]) & set(splits[other])
  curriculum = splits.pop("curriculum")
  assert set().union(*splits.values()) == set(reviews.population())
  assert all(len(tastes.cared) == 6 for tastes in curriculum)


def test_held_out_combination_is_nowhere_else():
  held_out = (("length", "long"), ("focus", "plot"))
  world = reviews.ReviewsWorld(held_out=held_out)
  for split in SPLITS:
    for tastes in world.users(split):
      both = tastes.preferred[1] == 1 and tastes.preferred[5] == 1
      assert both == (split == "heldout_combinations")
  assert not reviews.ReviewsWorld(held_out=()).users("heldout_combinations")


def test_seed_decides_the_unseen_users():
  assert reviews.ReviewsWorld(seed=0).users("unseen") == WORLD.users("unseen")
  other = reviews.ReviewsWorld(seed=1)
  assert other.users("unseen") != WORLD.users("unseen")
  assert other.users("heldout_combinations") == WORLD.users("heldout_combinations")


def test_user_ids():
  users = [tastes for split in SPLITS for tastes in WORLD.users(split)]
  assert len({WORLD.user_id(tastes) for tastes in users}) == len(users)
  tastes = WORLD.read("Reviews should be, above all, short; also: positive, about the plot.")
  assert WORLD.user_id(tastes) == "positive-short2-plot"


def test_reward():
  tastes = WORLD.read("Reviews should be, above all, about the plot; also: positive, short.")
  short = "Honestly, the plot shone. No joke. The hero dies."
  assert WORLD.reward(tastes, "How was it?", short) == 4.0
  assert WORLD.reward(tastes, "", short.replace("shone", "dragged")) == 3.0
  assert WORLD.reward(tastes, "", short.replace("plot", "cast")) == 2.0
  assert WORLD.reward(tastes, "", "") == 0.0
  rewards = reviews.combination_rewards(tastes)
  for reward, combination in zip(rewards, COMBINATIONS, strict=True):
    assert reward == reviews.combination_reward(tastes, combination)


def test_best_response_satisfies_all_tastes():
  rng = np.random.default_rng(0)
  for tastes in WORLD.users("unseen")[::5]:
    assert WORLD.reward(tastes, "", WORLD.best_response(rng, tastes, "")) == sum(tastes.weights)


# Kinds of response, and topics.


@pytest.mark.parametrize("arguments", [{}, {"phrasings": 2, "fillers": 5}])
def test_kind_is_the_inverse_of_write_response(arguments):
  world = reviews.ReviewsWorld(**arguments)
  rng = np.random.default_rng(0)
  by_respond = {c: {world.respond(rng, c) for _ in range(300)} for c in COMBINATIONS[:60:9]}
  for kind, combination in enumerate(COMBINATIONS):
    for choose in (_first, _last, _uniform(rng)):
      text = world.write_response(choose, "", kind)
      assert world.kind("", text) == kind
    if arguments and combination in by_respond:
      # The same texts as `respond` writes: two markers a slot, and five fillers if it is long.
      texts = {world.write_response(_uniform(rng), "", kind) for _ in range(1500)}
      assert by_respond[combination] <= texts
      assert len(texts) == 2**reviews_text.SLOTS * (5 if combination[1] else 1)
  assert world.kinds("") == 96
  assert world.kind("", "") is world.kind("", "The plot shone.") is None


def test_kind_rewards_are_the_rewards_of_all_users():
  rng = np.random.default_rng(0)
  users = (*reviews.population()[::40], *WORLD.users("curriculum")[::40], NOBODY)
  vectors = WORLD.tastes(users)
  assert vectors.shape == (len(users), 13)
  rewards = WORLD.kind_rewards(vectors, "")
  np.testing.assert_array_equal(rewards, [reviews.combination_rewards(u) for u in users])
  np.testing.assert_array_equal(WORLD.kind_rewards(vectors[3], ""), rewards[3])
  np.testing.assert_array_equal(WORLD.kind_rewards(vectors[None], ""), rewards[None])
  for kind in range(0, 96, 7):
    text = WORLD.write_response(_uniform(rng), "", kind)
    assert [WORLD.reward(user, "", text) for user in users] == rewards[:, kind].tolist()
  assert WORLD.tastes([]).shape == (0, 13)


def test_topics():
  train, unseen = WORLD.topics("train"), WORLD.topics("unseen")
  assert (len(train), len(unseen)) == (1440, 160)
  assert set(train) | set(unseen) == set(reviews_text.TITLES)
  assert reviews.ReviewsWorld(seed=1).topics("unseen") != unseen == WORLD.topics("unseen")
  assert not reviews.ReviewsWorld(unseen_topics=0.0).topics("unseen")
  asked = {WORLD.write_question(lambda n, i=i: i, t) for t in (*train, *unseen) for i in range(8)}
  assert asked == set(map(reviews_text.question, range(reviews_text.QUESTION_COUNT)))


def test_reading_and_writing_are_fast():
  rng = np.random.default_rng(0)
  choose = _uniform(rng)
  texts = [WORLD.write_response(choose, "", kind) for kind in range(96)]
  descriptions = [WORLD.describe(tastes) for tastes in WORLD.users("train")[:100]]

  def microseconds(function, values) -> float:
    def once() -> float:
      start = time.process_time()
      for value in values:
        function(value)
      return (time.process_time() - start) / len(values) * 1e6

    return min(once() for _ in range(20))

  # In units of sorting a text's words: twice and more what they take, on any machine.
  words = re.compile(r"\w+")
  unit = microseconds(lambda text: sorted(words.findall(text)), texts)
  assert microseconds(WORLD.read, descriptions) < 7 * unit
  assert microseconds(lambda text: WORLD.kind("", text), texts) < 7 * unit
  assert microseconds(lambda kind: WORLD.write_response(choose, "", kind), range(96)) < 5 * unit


# Preferences.


def _drawn(method):
  """Some output of a method of the default world and of one with other settings."""
  other = reviews.ReviewsWorld(
    seed=3, candidates=7, label_noise=0.2, min_differences=3, phrasings=3, fillers=10
  )
  for world in (WORLD, other):
    rng = np.random.default_rng(11)
    users = world.users("unseen")[:20]
    if method == "users":
      yield [[world.user_id(user) for user in world.users(split)] for split in SPLITS]
    elif method == "question":
      yield [world.question(rng) for _ in range(50)]
    elif method == "corpus":
      yield list(world.corpus(rng, 60))
    elif method == "sample_pairs":
      yield [world.sample_pairs(rng, user, 9).tolist() for user in users]
      yield [world.sample_pairs(rng, u, 9, candidates=2, label_noise=0.0).tolist() for u in users]
    else:
      for p in (p for user in users for p in world.preferences(rng, user, 9)):
        yield p.prompt, p.chosen, p.rejected


@pytest.mark.parametrize(
  "method, digest",
  [
    ("users", "267379efce61c189"),
    ("question", "f5108cc694417e7e"),
    ("corpus", "d9652fda06d9d299"),
    ("sample_pairs", "032e180ff75763d6"),
    ("preferences", "e1036a39e9a1a04c"),
  ],
)
def test_draws_are_what_results_were_reported_with(method, digest):
  assert hashlib.sha256(repr(list(_drawn(method))).encode()).hexdigest()[:16] == digest


def test_preferences_are_clean_differ_and_have_distinct_questions():
  rng = np.random.default_rng(0)
  for tastes in WORLD.users("train")[::50]:
    preferences = WORLD.preferences(rng, tastes, 30, label_noise=0.0)
    assert len({p.prompt for p in preferences}) == len(preferences) == 30
    for p in preferences:
      assert WORLD.reward(tastes, p.prompt, p.chosen) > WORLD.reward(tastes, p.prompt, p.rejected)
      traits = zip(reviews.parse(p.chosen), reviews.parse(p.rejected), strict=True)
      assert sum(a != b for a, b in traits) >= 2


def test_more_candidates_make_larger_margins():
  tastes = WORLD.users("train")[0]
  rewards = reviews.combination_rewards(tastes)
  margins = []
  for candidates in (2, 4, 16):
    rng = np.random.default_rng(0)
    pairs = WORLD.sample_pairs(rng, tastes, 2000, candidates=candidates, label_noise=0.0)
    margins.append((rewards[pairs[:, 0]] - rewards[pairs[:, 1]]).mean())
  assert margins[0] + 0.3 < margins[1] < margins[2] - 0.3


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_label_noise_rate(noise):
  tastes = WORLD.users("train")[0]
  rewards = reviews.combination_rewards(tastes)
  count = 20000
  pairs = WORLD.sample_pairs(np.random.default_rng(0), tastes, count, label_noise=noise)
  swapped = (rewards[pairs[:, 0]] < rewards[pairs[:, 1]]).mean()
  assert abs(swapped - noise) <= 4 * np.sqrt(noise * (1 - noise) / count)


def test_preferences_are_pure_in_the_seed():
  tastes = WORLD.users("train")[7]
  draws = [WORLD.preferences(np.random.default_rng([3, i]), tastes, 9) for i in (0, 0, 1)]
  assert draws[0] == draws[1] != draws[2]
  assert WORLD.preferences(np.random.default_rng(0), tastes, 0) == []


def test_corpus():
  texts = list(WORLD.corpus(np.random.default_rng(0), 300))
  assert len(texts) == 300
  questions = set(map(reviews_text.question, range(reviews_text.QUESTION_COUNT)))
  assert set(texts[::3]) <= questions
  assert all(None not in reviews.parse(text) for text in texts[1::3])
  assert all(
    reviews_descriptions.parse_description(text) in WORLD.users("train") for text in texts[2::3]
  )


def test_simulate_user():
  tastes = WORLD.users("unseen")[0]
  user = world_lib.simulate_user(WORLD, np.random.default_rng(0), tastes, 9)
  assert user.user_id == WORLD.user_id(tastes)
  assert user.description == reviews_descriptions.describe(tastes)
  assert list(user.preferences) == WORLD.preferences(np.random.default_rng(0), tastes, 9)


def test_preferences_are_fast_enough_to_feed_training():
  def seconds_of(users) -> float:
    rng = np.random.default_rng(0)
    start = time.process_time()
    for tastes in users:
      WORLD.preferences(rng, tastes, 10)
    return time.process_time() - start

  # 10,000 preferences a second are needed; of processor time, best of three, so that a busy
  # machine does not matter.
  assert min(seconds_of(WORLD.users("train")[:200]) for _ in range(3)) < 0.2


# Errors.


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"candidates": 1}, "candidates: found 1"),
    ({"label_noise": 0.5}, "label_noise: found 0.5"),
    ({"min_differences": 0}, "min_differences: found 0"),
    ({"unseen_users": -1}, "unseen_users: found -1"),
    ({"unseen_users": 3000}, "unseen_users: found 3000"),
    ({"unseen_topics": -0.1}, "unseen_topics: found -0.1"),
    ({"unseen_topics": 1.0}, "unseen_topics: found 1.0"),
    ({"held_out": (("humour", "dry"),)}, "held_out: found"),
    ({"held_out": (("taste", "good"),)}, "held_out: found"),
  ],
)
def test_world_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    reviews.ReviewsWorld(**arguments)


def test_other_errors():
  with pytest.raises(ValueError, match="split: found 'test'"):
    WORLD.users("test")
  with pytest.raises(ValueError, match="split: found 'test'"):
    WORLD.topics("test")
  with pytest.raises(ValueError, match="share: found 1.5"):
    WORLD.vague(np.random.default_rng(0), WORLD.users("train")[0], 1.5)
  with pytest.raises(ValueError, match="user: found"):
    WORLD.preferences(np.random.default_rng(0), WORLD.read(""), 1)
  with pytest.raises(ValueError, match="count: found"):
    WORLD.preferences(np.random.default_rng(0), WORLD.users("train")[0], 10**5)
  for preferred, weights in [
    ((0,) * 6, (0,) * 6),
    ((2,) + (-1,) * 5, (1,) + (0,) * 5),
    ((0,), (1,)),
  ]:
    with pytest.raises(ValueError, match="Tastes need"):
      reviews.Tastes(preferred, weights)
