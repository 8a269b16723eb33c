# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of episodes from users on a disk: those of the same users in memory, fast, memory flat."""

import pickle
import time

import pytest

from fspo_jax import preferences
from fspo_jax.datasets import synthetic, user_sets
from fspo_jax.episodes import sources
from fspo_jax.episodes.sampling import UserEpisodes
from fspo_jax.preferences import Preference, User

_PROMPTS = [f"question {i} " + "of many words " * 4 for i in range(300)]


def _users(count, each):
  for u in range(count):
    found = (
      Preference(_PROMPTS[(u + 7 * i) % 300], f"yes {u} {i} " * 20, f"no {u} {i} " * 20)
      for i in range(each)
    )
    yield "train" if u % 4 else "unseen", User(f"u{u}", tuple(found), f"d{u}" if u % 2 else None)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  """(Splits in memory, the same on a disk)."""
  asked = _PROMPTS[::5]
  path = synthetic.build(
    tmp_path_factory.mktemp("set"),
    "test",
    _users(120, 150),
    query_prompts=asked,
    set_aside={},
    made_of={},
    files={},
  )
  groups = {"train": [], "unseen": []}
  for split, user in _users(120, 150):
    groups[split].append(user)
  splits = preferences.assemble(**groups, query_prompts=asked, set_aside={})
  return splits, user_sets.load(path)


@pytest.mark.parametrize("flip_shots", [0.0, 0.3])
@pytest.mark.parametrize("queries", [1, 3])
def test_episodes_from_a_disk_are_those_from_memory(both, flip_shots, queries):
  memory, disk = (UserEpisodes(s.train, 8, queries, 3, flip_shots) for s in both)
  assert [disk(i) for i in range(200)] == [memory(i) for i in range(200)]
  memory, disk = (
    UserEpisodes(
      s.evaluation["unseen"], 8, queries, 3, query_prompts=s.query_prompts, in_order=True
    )
    for s in both
  )
  assert [disk(i) for i in range(100)] == [memory(i) for i in range(100)]


def test_a_source_is_the_same_from_both(both):
  memory, disk = (sources.UserSource("set", s, set_aside_small=True) for s in both)
  assert list(memory.corpus(0, 500)) == list(disk.corpus(0, 500))
  for source in (memory, disk):
    source.training(8, 1, 0, None, None, 1)
    source.evaluation("unseen", 8, 1, 0)
  assert memory.facts() == disk.facts()


def test_known_prompts_are_a_split_of_the_unseen_users_on_prompts_trained_on(both):
  splits = both[1]
  plain, source = (sources.UserSource("set", splits, True, known) for known in (False, True))
  assert plain.evaluation_splits == ("unseen",)
  assert source.evaluation_splits == ("unseen", "unseen_known_prompts")
  unseen = {user.user_id for user in splits.evaluation["unseen"]}
  trained = {p.prompt for user in splits.train for p in user.preferences}
  for split, known in zip(source.evaluation_splits, (False, True), strict=True):
    episodes = source.evaluation(split, 8, 2, 0)
    found = [episodes(i) for i in range(60)]
    assert {episode.user_id for episode in found} == unseen
    asked = [query.prompt for episode in found for query in episode.queries]
    assert all((prompt in trained) == known for prompt in asked)
    assert all((prompt in splits.query_prompts) != known for prompt in asked)
  assert source.evaluation("unseen", 8, 2, 0)(5) == plain.evaluation("unseen", 8, 2, 0)(5)


def test_users_who_are_too_small_are_left_on_the_disk(tmp_path):
  rows = [*_users(20, 40), *(("train", u) for _, u in list(_users(32, 5))[20:])]
  path = synthetic.build(
    tmp_path, "test", rows, query_prompts=_PROMPTS[::5], set_aside={}, made_of={}, files={}
  )
  source = sources.UserSource("set", user_sets.load(path), set_aside_small=True)
  episodes = source.training(8, 1, 0, None, None, 1)
  assert len(episodes.users) == 15 and {u.user_id for u in episodes.users} == {
    u.user_id for split, u in _users(20, 40) if split == "train"
  }
  assert source.facts()["users set aside, train: too few preferences for 8 shots"] == 12
  again = pickle.loads(pickle.dumps(episodes))
  assert [again(i) for i in range(20)] == [episodes(i) for i in range(20)]


def test_an_episode_decodes_what_it_holds_and_not_the_user(both):
  decoded = []

  class Watched(tuple):
    def __getitem__(self, index):
      decoded.append(index)
      return super().__getitem__(index)

    def __iter__(self):
      raise AssertionError("all preferences were asked for")

  users = [User(u.user_id, tuple(u.preferences)) for u in both[0].train]
  episodes = UserEpisodes(users, 8, 1, 0)
  watched = [User(u.user_id, Watched(u.preferences)) for u in users]
  object.__setattr__(episodes, "users", watched)
  for i in range(100):
    episodes(i)
  assert len(decoded) < 100 * 20  # Of the 120 or so that each of these users has.


def test_a_thousand_episodes_a_second_even_here(both):
  episodes = UserEpisodes(both[1].train, 8, 1, 0)
  for i in range(20):
    episodes(i)
  start = time.process_time()
  for i in range(500):
    episodes(i)
  # Some 6,000 a second on an idle core; the processor's time, for machines are shared.
  assert 500 / (time.process_time() - start) > 1000
