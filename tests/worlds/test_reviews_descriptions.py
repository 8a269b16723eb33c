# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of descriptions in the reviews world: written, vague, read back, added to."""

import numpy as np

from fspo_jax.worlds import reviews, reviews_descriptions
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS, NAMES

WORLD = reviews.ReviewsWorld()
NOBODY = reviews.Tastes((-1,) * 6, (0,) * 6)


def _tastes(**preferred: str) -> reviews.Tastes:
  """Tastes by name; the first has the double weight."""
  first = next(iter(preferred))
  return reviews.Tastes(
    tuple(ATTRIBUTES[a].index(preferred[a]) if a in preferred else -1 for a in NAMES),
    tuple((1 + (a == first)) * (a in preferred) for a in NAMES),
  )


def _first(alternatives: int) -> int:
  return 0


def _last(alternatives: int) -> int:
  return alternatives - 1


def _uniform(rng):
  return lambda alternatives: int(rng.integers(alternatives))


def test_descriptions_round_trip():
  for tastes in reviews.population() + WORLD.users("curriculum"):
    text = reviews_descriptions.describe(tastes)
    assert len(text.split()) <= 20
    assert reviews_descriptions.parse_description(text) == tastes
    assert reviews_descriptions.parse_description(f"  {text.lower()}\n") == tastes
    assert reviews_descriptions.description_tastes(text) == {
      a: tastes.preferred[a] for a in tastes.cared
    }


def test_description_wording():
  tastes = _tastes(sentiment="positive", length="short", focus="plot")
  text = "Reviews should be, above all, positive; also: short, about the plot."
  assert reviews_descriptions.describe(tastes) == text
  assert reviews_descriptions.parse_description(text + " Or long.") is None
  assert reviews_descriptions.parse_description("The user likes short reviews.") is None
  assert reviews_descriptions.description_tastes("Short, casual; funny, but also serious.") == {
    1: 0,
    2: 1,
  }
  assert reviews_descriptions.description_tastes("") == {}


def test_descriptions_of_vague_users():
  assert WORLD.describe(NOBODY) == "A moviegoer."
  assert WORLD.user_id(NOBODY) == "indifferent"
  assert WORLD.read("A moviegoer.") == WORLD.read("") == NOBODY
  short_and_funny = reviews.Tastes((-1, 0, -1, 0, -1, -1), (0, 1, 0, 1, 0, 0))
  assert WORLD.describe(short_and_funny) == "Reviews should be short, funny."
  assert WORLD.user_id(short_and_funny) == "short-joking"
  rng = np.random.default_rng(0)
  for tastes in WORLD.users("unseen")[::3]:
    for share in (0.0, 0.4, 0.7, 1.0):
      vague = WORLD.vague(rng, tastes, share)
      assert len(vague.cared) == len(tastes.cared) - round(share * len(tastes.cared))
      for a in vague.cared:
        assert (vague.preferred[a], vague.weights[a]) == (tastes.preferred[a], tastes.weights[a])
      assert WORLD.read(WORLD.describe(vague)) == vague
      assert reviews_descriptions.parse_description(WORLD.describe(vague)) == vague
  assert len({WORLD.vague(rng, WORLD.users("train")[0], 0.5) for _ in range(40)}) > 1


def test_read_takes_any_text():
  tastes = _tastes(sentiment="positive", length="short", focus="plot")
  extended = (
    WORLD.describe(tastes) + " Reviews should also be funny. Reviews should also be casual."
  )
  assert WORLD.read(extended) == _tastes(
    sentiment="positive", length="short", focus="plot", humour="joking", tone="casual"
  )
  assert WORLD.read("Above all, make it FUNNY, and casual!") == _tastes(
    humour="joking", tone="casual"
  )
  # A contradiction is no taste, not even above all.
  assert WORLD.read("Short. Above all, funny; also: serious.").weights == (0, 1, 0, 0, 0, 0)
  assert WORLD.read("Short, above all") == WORLD.read("short")
  assert WORLD.description_f1(NOBODY, "") == 1.0
  assert WORLD.description_f1(NOBODY, "short") == 0.0


def test_addition_determines_the_preference():
  rng = np.random.default_rng(0)
  choose = _uniform(rng)
  undetermined = ranked = 0
  for tastes in WORLD.users("unseen")[::4]:
    text = WORLD.describe(WORLD.vague(rng, tastes, 0.6))
    for _ in range(8):
      kinds = rng.integers(96, size=2).tolist()
      chosen, rejected = (WORLD.write_response(choose, "", kind) for kind in kinds)
      sentence = WORLD.addition(choose, text, "", chosen, rejected)
      before = WORLD.read(text)
      margin = WORLD.reward(before, "", chosen) - WORLD.reward(before, "", rejected)
      if sentence is None:
        assert margin != 0 or _cannot_tell(before, *kinds)
        continue
      assert margin == 0
      undetermined += 1
      text += f" {sentence}"
      after = WORLD.read(text)
      if sentence.startswith("Above all"):
        ranked += 1
        assert after.preferred == before.preferred
        assert sum(after.weights) == sum(before.weights) + 1
      else:
        assert set(before.cared) < set(after.cared)
        assert len(after.cared) == len(before.cared) + 1
      assert WORLD.reward(after, "", chosen) > WORLD.reward(after, "", rejected)
  assert undetermined > 50 and ranked > 10


def _cannot_tell(tastes, chosen, rejected):
  """They differ in nothing that is left open, and in nothing that could be put above all."""
  chosen, rejected = (COMBINATIONS[kind] for kind in (chosen, rejected))
  differ = {a for a in range(len(chosen)) if chosen[a] != rejected[a]}
  satisfied = {a for a in differ if chosen[a] == tastes.preferred[a]}
  return differ <= set(tastes.cared) and (2 in tastes.weights or not satisfied)


def test_addition_wording_and_choice():
  one = "Honestly, the plot shone. No joke. My lips are sealed."
  other = "Honestly, the plot dragged. No joke. The hero dies."
  text = "Reviews should be casual."
  assert WORLD.addition(_first, text, "", one, other) == "Reviews should also be positive."
  assert WORLD.addition(_last, text, "", one, other) == "Reviews should also be free of spoilers."
  assert WORLD.addition(_last, text, "", other, one) == "Reviews should also be full of spoilers."
  assert WORLD.addition(_first, text, "", one, one) is None
  assert WORLD.addition(_first, "Reviews should be positive.", "", one, other) is None
  # At odds: what comes above all decides, unless that is said already.
  odds = "Reviews should be positive, full of spoilers."
  assert WORLD.addition(_first, odds, "", one, other) == "Above all, reviews should be positive."
  assert (
    WORLD.addition(_first, odds, "", other, one) == "Above all, reviews should be full of spoilers."
  )
  assert (
    WORLD.addition(_first, f"{odds} Above all, reviews should be positive.", "", other, one) is None
  )
  # Both values are named: the description is not silent, and a third naming would not help.
  both = "Positive and negative, full of spoilers and free of spoilers."
  assert WORLD.addition(_first, both, "", one, other) is None


def test_views_round_trip():
  kind = COMBINATIONS.index((0, 0, 0, 0, 1, 1))
  view = WORLD.view("", kind)
  assert view == "positive, short, formal, funny, free of spoilers, about the plot"
  for kind in range(96):
    assert WORLD.read_view("", WORLD.view("", kind)) == kind
  assert WORLD.read_view("", view.replace("formal, ", "")) is None
  assert WORLD.read_view("", view + ", casual") is None
  assert WORLD.read_view("", "A review that is " + view.upper() + ".") == WORLD.read_view("", view)
