# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of episode sampling: by index alone, no leaks, flips, the curriculum."""

import dataclasses
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.episodes.sampling import Curriculum, Episode, UserEpisodes, WorldEpisodes
from fspo_jax.preferences import Preference, User
from fspo_jax.worlds.reviews_text import ATTRIBUTES, NAMES
from tests import tiny

USERS = tuple(
  User(f"u{u}", tuple(Preference(f"q{i}", f"a{u}{i}", f"b{u}{i}") for i in range(9)), f"d{u}")
  for u in range(3)
)


def _world_episodes(**changes):
  return WorldEpisodes(
    **{"world": tiny.world(), "split": "train", "shots": 3, "queries": 2, "seed": 0, **changes}
  )


def _swapped(preference):
  return Preference(preference.prompt, preference.rejected, preference.chosen)


@pytest.mark.parametrize(
  "make",
  [
    lambda seed: _world_episodes(seed=seed, curriculum=Curriculum(0.2, 0.8, 16), total=20),
    lambda seed: UserEpisodes(USERS, 3, 2, seed, flip_shots=0.3),
  ],
  ids=["world", "users"],
)
def test_an_episode_depends_on_seed_and_index_alone(make):
  forwards = [make(7)(i) for i in range(20)]
  backwards = make(7)
  assert [backwards(i) for i in reversed(range(20))][::-1] == forwards
  assert len({repr(e) for e in forwards}) == 20
  assert all(make(8)(i) != e for i, e in enumerate(forwards))


def test_world_episodes_have_what_was_asked_for():
  episodes, world = _world_episodes(split="unseen"), tiny.world()
  ids = {world.user_id(user): user for user in world.users("unseen")}
  for index in range(50):
    episode = episodes(index)
    assert (len(episode.shots), len(episode.queries)) == (3, 2)
    user = episodes.user(index)
    assert ids[episode.user_id] == user
    assert episode.description == world.describe(user)
    for query in episode.queries:  # clean labels
      rewards = [world.reward(user, query.prompt, r) for r in (query.chosen, query.rejected)]
      assert rewards[0] > rewards[1]


def test_flips_swap_the_labels_of_shots_and_nothing_else():
  clean, half, noisy = (_world_episodes(flip_shots=rate, shots=8) for rate in (0.0, 0.5, 1.0))
  flips = 0
  for index in range(100):
    true = clean(index)
    assert noisy(index) == dataclasses.replace(true, shots=tuple(map(_swapped, true.shots)))
    some = half(index)
    assert some.queries == true.queries
    for ours, theirs in zip(some.shots, true.shots, strict=True):
      assert ours in (theirs, _swapped(theirs))
      flips += ours != theirs
  # 800 fair coins: six standard deviations are 6 sqrt(800) / 2 = 85.
  assert abs(flips - 400) < 85


def test_the_worlds_own_label_noise_is_the_default():
  world = dataclasses.replace(tiny.world(), label_noise=0.25)
  noisy = _world_episodes(world=world, shots=8)
  clean = _world_episodes(world=world, shots=8, flip_shots=0.0)
  flips = sum(
    a != b for i in range(100) for a, b in zip(noisy(i).shots, clean(i).shots, strict=True)
  )
  # 800 coins of 1/4: mean 200, six standard deviations 6 sqrt(150) = 73.
  assert abs(flips - 200) < 73


def test_user_episodes_draw_from_the_users_own_preferences():
  episodes = UserEpisodes(USERS, 4, 2, seed=0)
  users = {user.user_id: user for user in USERS}
  seen = set()
  for index in range(60):
    episode = episodes(index)
    user = users[episode.user_id]
    seen.add(episode.user_id)
    assert set(episode.shots + episode.queries) <= set(user.preferences)
    assert len(set(episode.shots)) == 4 and len(set(episode.queries)) == 2
    assert episode.description == user.description
  assert seen == set(users)
  flipped = UserEpisodes(USERS, 4, 2, seed=0, flip_shots=1.0)
  for index in range(10):
    assert flipped(index).shots == tuple(map(_swapped, episodes(index).shots))
    assert flipped(index).queries == episodes(index).queries


def test_in_order_goes_round_the_users_and_queries_keep_to_their_prompts():
  episodes = UserEpisodes(
    USERS, 5, 2, seed=0, query_prompts=frozenset({"q1", "q4", "q7"}), in_order=True
  )
  shots = set()
  for index in range(30):
    episode = episodes(index)
    assert episode.user_id == f"u{index % 3}"
    assert {q.prompt for q in episode.queries} < {"q1", "q4", "q7"}
    shots |= {s.prompt for s in episode.shots}
  assert shots == {f"q{i}" for i in range(9)}  # any prompt that is not asked about


@st.composite
def _users(draw):
  """A user who answered few prompts, some of them several times."""
  prompts = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8))
  return User("u", tuple(Preference(p, f"y{i}", f"n{i}") for i, p in enumerate(prompts)))


@hypothesis.given(
  _users(),
  st.integers(0, 5),
  st.integers(1, 3),
  st.none() | st.frozensets(st.sampled_from("abcd")),
  st.integers(0, 1000),
)
def test_a_querys_prompt_is_never_among_the_shots(user, shots, queries, query_prompts, index):
  make = lambda: UserEpisodes(  # noqa: E731
    (user,), shots, queries, seed=1, query_prompts=query_prompts
  )
  if UserEpisodes.shortfall(user, shots, queries, query_prompts) is not None:
    with pytest.raises(ValueError, match="too few"):
      make()
    return
  episode = make()(index)
  asked = [query.prompt for query in episode.queries]
  assert len(set(asked)) == len(asked) == queries
  assert not set(asked) & {shot.prompt for shot in episode.shots}
  assert len(set(episode.shots)) == len(episode.shots) == shots
  assert query_prompts is None or set(asked) <= query_prompts


@hypothesis.given(
  _users(), st.integers(0, 5), st.integers(1, 3), st.none() | st.frozensets(st.sampled_from("abcd"))
)
def test_only_users_who_could_fall_short_are_refused(user, shots, queries, query_prompts):
  asked = sorted(
    {p.prompt for p in user.preferences} & set(query_prompts or "abcd" * (query_prompts is None))
  )
  by_size = sorted(asked, key=lambda q: -sum(p.prompt == q for p in user.preferences))
  worst = set(by_size[:queries])
  left = sum(p.prompt not in worst for p in user.preferences)
  falls_short = len(worst) < queries or left < shots
  found = UserEpisodes.shortfall(user, shots, queries, query_prompts)
  assert (found is not None) == falls_short


def test_a_shortfall_says_who_has_what_and_what_was_asked():
  with pytest.raises(ValueError) as caught:
    UserEpisodes(USERS, 9, 1, seed=0, query_prompts=frozenset({"q1", "q2"}))
  assert str(caught.value) == (
    "user 'u0' has 9 preferences on 9 prompts (2 of them to ask about): too few for 1 queries "
    "and, on other prompts, 9 shots (keys `queries` and `shots` of the stage)"
  )
  with pytest.raises(ValueError, match="no users"):
    UserEpisodes((), 1, 1, seed=0)


def test_an_episode_that_leaks_is_refused():
  shot = Preference("p", "a", "b")
  with pytest.raises(
    ValueError, match=re.escape("user u: a query's prompt is among its shots: 'p'")
  ):
    Episode("u", (shot,), (Preference("p", "c", "d"),))


def test_ease_is_1_until_the_start_and_0_from_the_end_on():
  curriculum = Curriculum(start=0.2, end=0.7, candidates=48)
  progress = [0.0, 0.2, 0.325, 0.45, 0.6, 0.7, 1.0]
  expected = [1.0, 1.0, 0.75, 0.5, 0.2, 0.0, 0.0]
  np.testing.assert_allclose([curriculum.ease(p) for p in progress], expected, atol=1e-12)
  sudden = Curriculum(start=0.5, end=0.5, candidates=48)
  assert [sudden.ease(p) for p in (0.49, 0.5)] == [1.0, 0.0]


class _RecordingWorld:
  """The reviews world, noting how many candidates each episode's pairs were chosen from."""

  label_noise, candidates = 0.0, 4

  def __init__(self):
    self.asked = []

  def users(self, split):
    return tiny.world().users(split)

  def user_id(self, user):
    return tiny.world().user_id(user)

  def describe(self, user):
    return tiny.world().describe(user)

  def preferences(self, rng, user, count, *, candidates, label_noise):
    self.asked.append((candidates, label_noise))
    return tiny.world().preferences(rng, user, count)


def test_the_curriculum_anneals_candidates_geometrically_and_then_leaves_the_world_alone():
  world = _RecordingWorld()
  episodes = _world_episodes(world=world, curriculum=Curriculum(0.2, 0.6, 64), total=10)
  for index in (0, 2, 4, 6, 9):
    episodes(index)
  # Halfway down, the geometric mean of 64 and the world's own 4.
  assert world.asked == [(64, 0.0), (64, 0.0), (16, 0.0), (None, 0.0), (None, 0.0)]


def _has_held_out_combination(tastes):
  return all(
    tastes.preferred[NAMES.index(name)] == ATTRIBUTES[name].index(value)
    for name, value in tiny.world().held_out
  )


def test_curriculum_users_care_about_everything_but_never_have_the_held_out_combination():
  episodes = _world_episodes(curriculum=Curriculum(0.5, 1.0, 16), total=1000)
  world = tiny.world()
  drawn = [episodes.user(i) for i in range(500)]  # ease 1
  assert {len(user.cared) for user in drawn} == {len(NAMES)}
  assert not any(map(_has_held_out_combination, drawn))
  # There are users with that combination, and the evaluation split of that name is made of them.
  held_out = [_world_episodes(split="heldout_combinations").user(i) for i in range(50)]
  assert all(map(_has_held_out_combination, held_out))
  # Halfway down (ease 1/2) about half of the users are the target's: 100 coins, six deviations 30.
  middle = [len(episodes.user(i).cared) == len(NAMES) for i in range(700, 800)]
  assert 20 < sum(middle) < 80
  assert all(episodes.user(i) in world.users("train") for i in range(1000, 1050))
