# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of preferences.py."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import pytest

from fspo_jax import preferences
from fspo_jax.preferences import Preference, PreferenceError, Splits, User

_LINE = {"user_id": "ann", "prompt": "q", "chosen": "yes", "rejected": "no"}


def _write(path, *records):
  """Writes records as lines: bytes as they are, anything else as JSON."""
  lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
  path.write_bytes(b"\n".join(lines) + b"\n")
  return path


def _users(count=40, prompts=30):
  """Users who all have a preference on every prompt."""
  return [
    User(f"u{i}", tuple(Preference(f"q{p}", f"yes {i}", "no") for p in range(prompts)))
    for i in range(count)
  ]


class TestReadJsonl:
  def test_users_in_order_of_first_appearance(self, tmp_path):
    path = _write(
      tmp_path / "a.jsonl",
      _LINE | {"user_id": "zoe", "description": "kind"},
      _LINE,
      _LINE | {"user_id": "zoe", "description": "kind", "prompt": "q2"},
    )
    assert preferences.read_jsonl(path) == [
      User("zoe", (Preference("q", "yes", "no"), Preference("q2", "yes", "no")), "kind"),
      User("ann", (Preference("q", "yes", "no"),)),
    ]

  def test_gzip_is_told_by_its_bytes(self, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(json.dumps(_LINE).encode()))
    assert preferences.read_jsonl(path) == [User("ann", (Preference("q", "yes", "no"),))]

  @pytest.mark.parametrize(
    ("line", "found", "expected"),
    [
      (b'{"user_id": ', "broken JSON", "one JSON object"),
      (b"", "an empty line", "one JSON object"),
      (b'["ann"]', 'a list (["ann"])', "one JSON object"),
      (b'{"user_id": "\xff"}', "a byte that is not UTF-8 at column 14", "UTF-8 text"),
      (b'{"user_id": "a", "user_id": "b"}', 'broken JSON (the key "user_id" 2', "one JSON object"),
      (b"[" * 100_000, "broken JSON", "one JSON object"),
      ({"user_id": "ann", "prompt": "q"}, "no chosen, rejected", "all of user_id, prompt, chosen"),
      (
        _LINE | {"score": 1},
        'unknown keys "score"',
        "only user_id, prompt, chosen, rejected, desc",
      ),
      (_LINE | {"user_id": 7}, "user_id that is a number (7)", "a string"),
      (_LINE | {"chosen": None}, "chosen that is null", "a string"),
      (_LINE | {"chosen": True}, "chosen that is a boolean (true)", "a string"),
      (_LINE | {"prompt": {}}, "prompt that is an object", "a string"),
      (_LINE | {"description": None}, "description that is null", "or the key left out"),
      (_LINE | {"prompt": ""}, "prompt that is empty", "text"),
      (_LINE | {"rejected": " \n"}, "rejected that is empty", "text"),
      (_LINE | {"chosen": "\ud800"}, "chosen with half a surrogate pair", "valid Unicode"),
      (_LINE | {"chosen": "no "}, 'chosen equal to rejected ("no ")', "two responses"),
      (
        _LINE | {"user_id": "bob", "description": "rude", "prompt": "q2"},
        'description "rude" of user "bob"',
        '"kind" as on line 1',
      ),
      (
        _LINE | {"user_id": "bob", "prompt": "q2"},
        'description null of user "bob"',
        '"kind" as on line 1',
      ),
      (
        _LINE | {"user_id": "bob", "description": "kind"},
        'a preference of user "bob" repeated from line 1',
        "it once",
      ),
    ],
  )
  def test_malformed_line_is_named(self, tmp_path, line, found, expected):
    fine = _LINE | {"user_id": "bob", "description": "kind"}
    path = _write(tmp_path / "a.jsonl", fine, line, _LINE | {"user_id": "cy"})
    with pytest.raises(PreferenceError) as error:
      preferences.read_jsonl(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    assert message.startswith(f"{path}:2: found {found}"), message
    assert expected in message.split("expected ", maxsplit=1)[1], message

  def test_empty_file(self, tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(PreferenceError, match=r"a\.jsonl: found no line, expected one JSON object"):
      preferences.read_jsonl(tmp_path / "a.jsonl")

  def test_cut_gzip(self, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(_LINE).encode() * 100)[:-9])
    with pytest.raises(PreferenceError, match=r"a\.jsonl\.gz:\d+: found a broken gzip stream"):
      preferences.read_jsonl(path)

  def test_twenty_problems_are_shown_and_the_rest_counted(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", *[_LINE | {"prompt": ""}] * 33)
    with pytest.raises(PreferenceError) as error:
      preferences.read_jsonl(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[19].startswith(f"{path}:20: ")
    assert lines[20] == f"... and 13 more problems in {path}"

  def test_several_problems_of_a_line(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", {"user_id": 1, "prompt": "", "extra": 0})
    with pytest.raises(PreferenceError) as error:
      preferences.read_jsonl(path)
    assert len(str(error.value).splitlines()) == 4

  def test_opposite_labels_are_allowed(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", _LINE, _LINE | {"chosen": "no", "rejected": "yes"})
    assert len(preferences.read_jsonl(path)[0].preferences) == 2


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
_PREFERENCES = st.builds(Preference, _TEXT, _TEXT, _TEXT).filter(
  lambda p: p.chosen.strip() != p.rejected.strip()
)
_USERS = st.lists(
  st.builds(
    User,
    _TEXT,
    st.lists(_PREFERENCES, min_size=1, max_size=4, unique=True).map(tuple),
    st.none() | _TEXT,
  ),
  min_size=1,
  max_size=4,
  unique_by=lambda user: user.user_id,
)


class TestWriteJsonl:
  @hypothesis.given(users=_USERS, name=st.sampled_from(["a.jsonl", "a.jsonl.gz"]))
  @hypothesis.settings(max_examples=40, deadline=None)
  def test_round_trip(self, tmp_path_factory, users, name):
    path = tmp_path_factory.mktemp("round") / name
    preferences.write_jsonl(path, users)
    assert preferences.read_jsonl(path) == users

  def test_same_users_same_bytes(self, tmp_path):
    for name in ("a.gz", "b.gz"):
      preferences.write_jsonl(tmp_path / name, _users(3, 3))
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()

  @pytest.mark.parametrize(
    ("users", "found"),
    [
      ([], "no line"),
      ([User("ann", ())], 'user "ann" without preferences'),
      (_users(1, 2) * 2, 'several users "u0"'),
      ([User("ann", (Preference("q", "same", "same"),))], "chosen equal to rejected"),
      ([User("ann", (Preference("q", "yes", "no"),) * 2)], "repeated from line 1"),
      ([User("ann", (Preference("q", "\ud800", "no"),))], "not UTF-8"),
      ([User("ann", (Preference("q", 3, "no"),))], "chosen that is a number"),
    ],
  )
  def test_what_cannot_be_read_is_not_written(self, tmp_path, users, found):
    path = tmp_path / "a.jsonl"
    path.write_text("before")
    with pytest.raises(PreferenceError, match=found):
      preferences.write_jsonl(path, users)
    assert path.read_text() == "before"

  def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("before")

    def fail(*_):
      raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
      preferences.write_jsonl(path, _users(1, 2))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.jsonl"]


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
