# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the reviews world and its language."""

import itertools
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.worlds import reviews, reviews_text
from fspo_jax.worlds import world as world_lib
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS, NAMES

WORLD = reviews.ReviewsWorld()
SPLITS = ("train", "unseen", "heldout_combinations", "curriculum")
NOTHING = (None,) * len(ATTRIBUTES)


def _tastes(**preferred: str) -> reviews.Tastes:
  """Tastes by name; the first has the double weight."""
  first = next(iter(preferred))
  return reviews.Tastes(
    tuple(ATTRIBUTES[a].index(preferred[a]) if a in preferred else -1 for a in NAMES),
    tuple((1 + (a == first)) * (a in preferred) for a in NAMES),
  )


# The language.


@pytest.mark.parametrize("seed", range(20))
def test_parse_is_the_inverse_of_respond(seed):
  rng = np.random.default_rng(seed)
  for combination in COMBINATIONS:
    text = WORLD.respond(rng, combination)
    assert reviews.parse(text) == combination, text


def test_parse_ignores_case_white_space_and_punctuation():
  rng = np.random.default_rng(0)
  for combination in COMBINATIONS:
    text = WORLD.respond(rng, combination)
    mangled = "\n  " + text.upper().replace(" ", " \t ").replace(".", " ...").replace(",", "")
    assert reviews.parse(mangled) == combination


def test_every_marker_is_read_alone_and_contains_no_other():
  markers = [
    (attribute, value, phrase)
    for attribute, values in reviews_text._MARKERS.items()
    for value, phrases in enumerate(values)
    for phrase in phrases
  ]
  assert len(markers) == len({phrase for _, _, phrase in markers}) == 11 * reviews_text.PHRASINGS
  length = NAMES.index("length")
  for attribute, value, phrase in markers:
    expected = list(NOTHING)
    expected[attribute] = value
    expected[length] = 0
    assert reviews.parse(phrase) == tuple(expected), phrase


def test_fillers_and_questions_express_nothing_but_length():
  texts = list(reviews_text.FILLERS)
  texts += map(reviews_text.question, range(reviews_text.QUESTION_COUNT))
  assert len(set(texts)) == len(texts)
  for text in texts:
    assert reviews.parse(text) == (None, 0, None, None, None, None), text


def test_short_and_long_responses_are_apart():
  words = {"short": set(), "long": set()}
  phrases = [
    [{len(p.split()) for p in values} for values in rows] for rows in reviews_text._MARKERS.values()
  ]
  shortest = sum(min(min(value) for value in slot) for slot in phrases)
  longest = sum(max(max(value) for value in slot) for slot in phrases)
  fillers = {len(filler.split()) for filler in reviews_text.FILLERS}
  assert longest < reviews_text._MIN_WORDS_OF_LONG <= shortest + min(fillers)
  rng = np.random.default_rng(0)
  for combination in COMBINATIONS * 20:
    name = ATTRIBUTES["length"][combination[1]]
    words[name].add(len(WORLD.respond(rng, combination).split()))
  assert max(words["short"]) <= longest <= 16
  assert 19 <= min(words["long"]) and max(words["long"]) <= 27


def test_parse_of_missing_and_contradictory_markers():
  assert reviews.parse("") == reviews.parse(" \n.") == NOTHING
  # No marker of humour; both values of sentiment; both values of spoilers.
  text = "Honestly, the plot dazzled but fell flat. The hero dies. No spoilers here."
  assert reviews.parse(text) == (None, 0, 1, None, None, 1)
  # The same value twice is no contradiction, and a part of a word is no marker.
  assert reviews.parse("the plot and the script")[5] == 1
  assert reviews.parse("the plots") == (None, 0, None, None, None, None)
  assert reviews.parse("so " * 17)[1] == 0
  assert reviews.parse("so " * 18)[1] == 1


@hypothesis.given(st.text())
def test_any_text_is_read(text):
  assert len(reviews.parse(text)) == len(ATTRIBUTES)
  reviews.description_tastes(text)
  reviews.parse_description(text)


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
  tastes = _tastes(length="short", sentiment="positive", focus="plot")
  assert WORLD.user_id(tastes) == "positive-short2-plot"


def test_descriptions_round_trip():
  for tastes in reviews.population() + WORLD.users("curriculum"):
    text = reviews.describe(tastes)
    assert len(text.split()) <= 20
    assert reviews.parse_description(text) == tastes
    assert reviews.parse_description(f"  {text.lower()}\n") == tastes
    assert reviews.description_tastes(text) == {a: tastes.preferred[a] for a in tastes.cared}


def test_description_wording():
  tastes = _tastes(sentiment="positive", length="short", focus="plot")
  text = "Reviews should be, above all, positive; also: short, about the plot."
  assert reviews.describe(tastes) == text
  assert reviews.parse_description(text + " Or long.") is None
  assert reviews.parse_description("The user likes short reviews.") is None
  assert reviews.description_tastes("Short, casual; funny, but also serious.") == {1: 0, 2: 1}
  assert reviews.description_tastes("") == {}


def test_reward():
  tastes = _tastes(focus="plot", sentiment="positive", length="short")
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
    assert WORLD.reward(tastes, "", WORLD.best_response(rng, tastes)) == sum(tastes.weights)


# Preferences.


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
  assert all(reviews.parse_description(text) in WORLD.users("train") for text in texts[2::3])


def test_simulate_user():
  tastes = WORLD.users("unseen")[0]
  user = world_lib.simulate_user(WORLD, np.random.default_rng(0), tastes, 9)
  assert user.user_id == WORLD.user_id(tastes)
  assert user.description == reviews.describe(tastes)
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
  with pytest.raises(ValueError, match="count: found"):
    WORLD.preferences(np.random.default_rng(0), WORLD.users("train")[0], 10**5)
  for preferred, weights in [
    ((0,) * 6, (0,) * 6),
    ((-1,) * 6, (0,) * 6),
    ((2,) + (-1,) * 5, (1,) + (0,) * 5),
    ((0,), (1,)),
  ]:
    with pytest.raises(ValueError, match="Tastes need"):
      reviews.Tastes(preferred, weights)
