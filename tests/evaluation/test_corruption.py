# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of corrupted descriptions, in each of the worlds."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.evaluation.corruption import corrupt
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld

WORLDS = {
  "reviews": ReviewsWorld(),
  "elix": ElixWorld(),
  "elix_easy": ElixWorld(variant="easy"),
  "roleplay": RoleplayWorld(),
}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def _corrupt(world, text, share, seed=0):
  return corrupt(world, np.random.default_rng(seed), text, share)


def _users(world):
  return world.users("unseen")[:60]


@pytest.mark.parametrize("name", WORLDS)
def test_nothing_is_changed_at_0_and_nothing_is_right_at_1(name):
  world = WORLDS[name]
  for seed, user in enumerate(_users(world)):
    gold = world.describe(user)
    assert _corrupt(world, gold, 0.0, seed) == gold
    wrong = _corrupt(world, gold, 1.0, seed)
    assert world.description_f1(user, wrong) == 0.0
    if name == "roleplay":  # who they are stays word for word
      assert wrong.startswith(user.about + " ")


@pytest.mark.parametrize("name", ["reviews", "roleplay"])
def test_the_share_is_exact_on_average_and_within_one_taste_for_everybody(name):
  # Each taste is a pair of attribute and value, so F1 is the share that is still right.
  world = WORLDS[name]
  users = _users(world)
  for share in SHARES:
    wrong = []
    for i, user in enumerate(users):
      n = int(np.count_nonzero(world.tastes([user])))
      for seed in range(20 * i, 20 * (i + 1)):
        f1 = world.description_f1(user, _corrupt(world, world.describe(user), share, seed))
        count = round((1 - f1) * n)
        assert abs(count - share * n) < 1
        wrong.append(count / n)
    # 1200 draws between multiples of 1/n, n >= 2: a standard error below 1/4 / sqrt(1200) = 0.0072.
    assert abs(np.mean(wrong) - share) < 0.045


def test_learners_have_levels_in_general_and_in_some_subjects():
  world = WORLDS["elix"]
  for seed, user in enumerate(_users(world)):
    own = {None: user.base} | user.exceptions
    counts = []
    for share in SHARES:
      levels = world.read(_corrupt(world, world.describe(user), share, seed)).levels
      general = {level for s, level in enumerate(levels) if s not in user.exceptions}
      assert len(general) == 1  # replaced for all subjects alike
      found = {None: general.pop()} | {s: levels[s] for s in user.exceptions}
      counts.append(sum(found[key] != own[key] for key in own))
    assert all(abs(c - share * len(own)) < 1 for c, share in zip(counts, SHARES, strict=True))


@pytest.mark.parametrize("name", WORLDS)
def test_larger_shares_replace_the_same_tastes_and_more(name):
  world = WORLDS[name]
  for seed, user in enumerate(_users(world)[:30]):
    gold = world.tastes([user])[0]
    worst = world.tastes([world.read(_corrupt(world, world.describe(user), 1.0, seed))])[0]
    before = np.zeros(len(gold), bool)
    for share in SHARES:
      text = _corrupt(world, world.describe(user), share, seed)
      found = world.tastes([world.read(text)])[0]
      assert np.all((found == gold) | (found == worst))
      changed = found != gold
      assert np.all(changed >= before)
      before = changed


def test_other_values_are_uniform_and_what_counts_most_still_does():
  world = WORLDS["reviews"]
  text = "Reviews should be, above all, about the acting; also: short."
  found = [_corrupt(world, text, 1.0, seed) for seed in range(200)]
  plot, visuals = (
    f"Reviews should be, above all, about the {topic}; also: long." for topic in ("plot", "visuals")
  )
  assert set(found) == {plot, visuals}
  assert abs(found.count(plot) - 100) < 43  # 200 coins: six standard deviations are 42.4


def test_written_descriptions_are_put_into_the_worlds_words_at_every_share():
  world = WORLDS["roleplay"]
  text = "Ann, 30, a nurse who likes chess. They are thrifty! and above all handy"
  about = "Ann, 30, a nurse who likes chess. Above all"
  assert _corrupt(world, text, 0.0) == about + " handy; also thrifty."
  wrong = _corrupt(world, text, 1.0)
  assert wrong.startswith(about)
  assert world.read(wrong).weights == tuple(-w for w in world.read(text).weights)


@pytest.mark.parametrize("name", WORLDS)
def test_a_description_that_names_no_taste_is_left_alone(name):
  for text in ("Somebody nice. Who knows?", ""):
    assert _corrupt(WORLDS[name], text, 1.0) == text


@pytest.mark.parametrize(
  "name, text",
  [
    ("reviews", "Reviews should be positive. Reviews should be negative."),
    ("elix", "Explain at an expert level. Explain at a child level."),
    ("roleplay", "Somebody. Also thrifty. Also lavish."),
  ],
)
def test_sentences_that_contradict_each_other_name_no_taste(name, text):
  assert _corrupt(WORLDS[name], text, 1.0) == text


@hypothesis.given(st.sampled_from(sorted(WORLDS)), st.data())
def test_any_text_that_was_read_is_read_again(name, data):
  world = WORLDS[name]
  golds = [world.describe(user) for user in _users(world)]
  parts = data.draw(st.lists(st.sampled_from(golds), min_size=1, max_size=3))
  text = " ".join(parts)
  share, seed = data.draw(st.sampled_from(SHARES)), data.draw(st.integers(0, 9))
  found = _corrupt(world, text, share, seed)
  assert found == _corrupt(world, text, share, seed)
  if share == 0.0:
    assert world.read(found) == world.read(text)


def test_impossible_shares_are_refused():
  for share in (-0.1, 1.5):
    with pytest.raises(ValueError, match=f"share: found {share}, expected 0 to 1"):
      _corrupt(WORLDS["reviews"], "Reviews should be short.", share)
