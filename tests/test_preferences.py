# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of preferences.py."""

import dataclasses
import json
import os
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import pytest

from fspo_jax import preferences
from fspo_jax.preferences import Preference, PreferenceError, Splits, User


def _users(count=40, prompts=30):
  """Users who all have a preference on every prompt."""
  return [
    User(f"u{i}", tuple(Preference(f"q{p}", f"yes {i}", "no") for p in range(prompts)))
    for i in range(count)
  ]


# Which of u0 to u19 are held out: data sets that are split must stay split in the same way.
_GOLDEN = [4, 5, 7, 9, 11, 12, 13, 15, 17, 18]


class TestHeldOut:
  def test_known_values(self):
    held = [i for i in range(20) if preferences.held_out("user", f"u{i}", share=0.3, seed=0)]
    assert held == _GOLDEN

  def test_the_same_in_another_process(self):
    script = (
      "from fspo_jax.preferences import held_out;"
      "print([i for i in range(20) if held_out('user', f'u{i}', share=0.3, seed=0)])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(
      [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == _GOLDEN

  @hypothesis.given(st.text(st.characters(exclude_categories=["Cs"])), st.integers())
  def test_a_larger_share_holds_out_a_superset(self, name, seed):
    held = [preferences.held_out("user", name, share=s / 10, seed=seed) for s in range(11)]
    assert held == sorted(held)
    assert not held[0]
    assert held[10]

  def test_share(self):
    held = sum(preferences.held_out("user", f"u{i}", share=0.3, seed=1) for i in range(4000))
    assert abs(held / 4000 - 0.3) < 0.03  # Four standard errors.


class TestSplit:
  def test_sides_are_disjoint_and_nothing_is_lost(self):
    users = _users()
    splits = preferences.split(users, unseen_users=0.3, unseen_prompts=0.3, seed=0)
    unseen = splits.evaluation["unseen"]
    train_prompts = {p.prompt for user in splits.train for p in user.preferences}
    assert train_prompts.isdisjoint(splits.query_prompts)
    assert train_prompts | splits.query_prompts == {f"q{i}" for i in range(30)}
    assert {u.user_id for u in splits.train}.isdisjoint(u.user_id for u in unseen)
    assert {u.user_id for u in (*splits.train, *unseen)} == {u.user_id for u in users}
    assert set(unseen) <= set(users)  # With all their preferences.
    kept = sum(len(user.preferences) for user in (*splits.train, *unseen))
    assert kept + sum(splits.set_aside.values()) == 40 * 30
    assert set(splits.set_aside) == {"preferences: of training users on unseen prompts"}

  def test_queries(self):
    splits = preferences.split(_users(), unseen_users=0.3, unseen_prompts=0.3, seed=0)
    queries = splits.queries("unseen")
    assert len(queries) == len(splits.evaluation["unseen"]) * len(splits.query_prompts)
    assert {p.prompt for _, p in queries} == splits.query_prompts

  def test_more_users_and_another_order_move_nobody(self):
    few = preferences.split(_users(20), unseen_users=0.3, unseen_prompts=0.3, seed=5)
    many = preferences.split(_users(60)[::-1], unseen_users=0.3, unseen_prompts=0.3, seed=5)
    assert set(few.train) <= set(many.train)
    assert set(few.evaluation["unseen"]) <= set(many.evaluation["unseen"])
    assert few.query_prompts == many.query_prompts

  def test_seed_matters(self):
    first, second = (
      preferences.split(_users(), unseen_users=0.3, unseen_prompts=0.3, seed=seed)
      for seed in (0, 1)
    )
    assert first.query_prompts != second.query_prompts
    assert {u.user_id for u in first.train} != {u.user_id for u in second.train}

  def test_users_without_an_episode_are_counted(self):
    def user(user_id, *prompts):
      return User(user_id, tuple(Preference(p, "yes", "no") for p in prompts))

    splits = preferences.assemble(
      [user("a", "t1", "t2", "q1"), user("b", "t1", "q1", "q2")],
      [user("c", "t1", "q1"), user("d", "q1"), user("e", "t1", "t2")],
      query_prompts={"q1", "q2"},
      set_aside={"preferences: ties": 3},
    )
    assert splits.train == (user("a", "t1", "t2"),)
    assert splits.evaluation == {"unseen": (user("c", "t1", "q1"),)}
    assert splits.set_aside == {
      "preferences: ties": 3,
      "preferences: of training users on unseen prompts": 3,
      "users: training users with fewer than two training prompts": 1,
      "preferences: of training users with fewer than two training prompts": 1,
      "users: unseen users without a query and a shot": 2,
      "preferences: of unseen users without a query and a shot": 3,
    }

  @pytest.mark.parametrize("shares", [(0, 0.5), (0.5, 1), (-1, 0.5), (0.5, float("nan"))])
  def test_shares_out_of_range(self, shares):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
      preferences.split(_users(), unseen_users=shares[0], unseen_prompts=shares[1], seed=0)

  def test_nobody_left(self):
    with pytest.raises(PreferenceError, match="found no unseen user left"):
      preferences.split(_users(2), unseen_users=1e-9, unseen_prompts=0.5, seed=0)
    with pytest.raises(PreferenceError, match="found no training user left"):
      preferences.split(_users(2), unseen_users=1 - 1e-9, unseen_prompts=0.5, seed=0)


class TestSplits:
  train = (User("a", (Preference("t1", "yes", "no"), Preference("t2", "yes", "no"))),)
  unseen = (User("b", (Preference("t1", "yes", "no"), Preference("q1", "yes", "no"))),)

  def make(self, **changes):
    fine = Splits(self.train, {"unseen": self.unseen}, frozenset({"q1"}), {})
    return dataclasses.replace(fine, **changes)

  def test_fine(self):
    assert self.make().queries("unseen") == [("b", Preference("q1", "yes", "no"))]

  @pytest.mark.parametrize("group", ["unseen", "train", "anything"])
  def test_evaluation_without_a_query(self, group):
    with pytest.raises(PreferenceError, match=f"evaluation '{group}', user \"a\": found no query"):
      self.make(train=(), evaluation={group: self.train})

  def test_training_on_a_query_prompt(self):
    with pytest.raises(PreferenceError, match='train, user "b": found a preference on the query'):
      self.make(train=self.unseen, evaluation={})

  def test_unseen_user_in_train(self):
    user = dataclasses.replace(self.unseen[0], user_id="a")
    with pytest.raises(PreferenceError, match='user "a": found in train too'):
      self.make(evaluation={"unseen": (user,)})
    # Another group may be of training users on prompts never trained on.
    assert self.make(evaluation={"trained": (user,)}).queries("trained")

  def test_two_users_with_one_id(self):
    with pytest.raises(PreferenceError, match='several users "a"'):
      self.make(train=self.train * 2)


def test_no_jax():
  script = (
    "import sys, fspo_jax.preferences, fspo_jax.datasets.alpaca_styles, fspo_jax.datasets.ukp;"
    "assert 'jax' not in sys.modules"
  )
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
  subprocess.run([sys.executable, "-c", script], env=environment, check=True)
