# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of datasets/ukp.py."""

import gzip
import json
import math

import pytest

from fspo_jax import preferences
from fspo_jax.datasets import ukp
from fspo_jax.preferences import Preference

# Topics 0 and 1 are training topics, 2 and 3 test topics; argument `<topic>.<i>` has i + 1 words.
_ARGUMENTS = [
  {"arg_id": f"{t}.{i}", "title": "Tea?", "stance": f"side {t}", "text": f"a{t}" + " so" * i}
  for t in range(4)
  for i in range(5)
]


def _prompt(topic):
  return f'Tea? Argue convincingly for: "side {topic}"'


def _text(arg_id):
  return next(a["text"] for a in _ARGUMENTS if a["arg_id"] == arg_id)


def _judgement(user_id, split, a, b, winner="b", majority="b", **changes):
  topic_split = "train" if a < "2" else "test"
  return {
    "user_id": user_id, "split": split, "topic": a[0], "topic_split": topic_split,
    "winner": winner, "majority": majority, "reason": "", "a": a, "b": b,
  } | changes  # fmt: skip


_JUDGEMENTS = [
  # Ann trains, and has judged a test topic, which must not be trained on.
  _judgement("ann", "train", "0.0", "0.1"),
  _judgement("ann", "train", "1.0", "1.1"),
  _judgement("ann", "train", "2.0", "2.1"),
  # Bob is unseen: one query, against the majority; the tie and the repetition go.
  _judgement("bob", "test", "0.0", "0.1", winner="a", majority="b"),
  _judgement("bob", "test", "1.0", "1.1"),
  _judgement("bob", "test", "2.0", "2.1", winner="a", majority=None),
  _judgement("bob", "test", "3.0", "3.1", winner="tie"),
  _judgement("bob", "test", "1.1", "1.0", winner="a", majority="a"),
  _judgement("cy", "val", "2.0", "2.1"),
  _judgement("cy", "val", "0.0", "0.4"),
  _judgement("cy", "val", "1.0", "1.2"),
  # Dee has too few.
  _judgement("dee", "train", "0.1", "0.2"),
]


def _write(folder, judgements=_JUDGEMENTS, arguments=_ARGUMENTS):
  for name, records in (
    (ukp.PREFERENCES_FILE, judgements), (ukp.ARGUMENTS_FILE, arguments)
  ):  # fmt: skip
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / name).write_bytes(gzip.compress(lines.encode()))
  return folder


def _accounted(splits):
  groups = (splits.train, *splits.evaluation.values())
  kept = sum(len(user.preferences) for users in groups for user in users)
  return kept + sum(n for why, n in splits.set_aside.items() if why.startswith("preferences:"))


class TestLoad:
  def test_split_by_worker_and_by_topic(self, tmp_path):
    splits = ukp.load(_write(tmp_path), min_preferences=2)
    assert splits.train == (
      preferences.User(
        "ann",
        (
          Preference(_prompt(0), _text("0.1"), _text("0.0")),
          Preference(_prompt(1), _text("1.1"), _text("1.0")),
        ),
      ),
    )
    assert splits.queries("unseen") == [("bob", Preference(_prompt(2), _text("2.0"), _text("2.1")))]
    assert len(splits.evaluation["unseen"][0].preferences) == 3
    assert splits.query_prompts == {_prompt(2), _prompt(3)}
    assert splits.set_aside == {
      "preferences: of val workers": 3,
      "preferences: ties": 1,
      "preferences: judged before by the same worker": 1,
      "users: with fewer than 2 preferences": 1,
      "preferences: of users with fewer than 2": 1,
      "preferences: of training users on unseen prompts": 1,
    }
    assert _accounted(splits) == len(_JUDGEMENTS)

  def test_val_workers(self, tmp_path):
    splits = ukp.load(_write(tmp_path), min_preferences=2, workers="val")
    assert [user.user_id for user in splits.evaluation["unseen"]] == ["cy"]
    assert splits.set_aside["preferences: of test workers"] == 5

  def test_unseen_shot_topics(self, tmp_path):
    judgements = [*_JUDGEMENTS, _judgement("bob", "test", "3.1", "3.2")]
    splits = ukp.load(_write(tmp_path, judgements), min_preferences=2, shot_topics="unseen")
    prompts = [p.prompt for p in splits.evaluation["unseen"][0].preferences]
    assert prompts == [_prompt(2), _prompt(3)]
    assert splits.set_aside["preferences: of unseen users on training topics"] == 2
    assert _accounted(splits) == len(judgements)

  def test_long_texts_are_set_aside(self, tmp_path):
    # The prompts have six words, one argument has ten.
    arguments = [a | ({"text": "so " * 10} if a["arg_id"] == "0.1" else {}) for a in _ARGUMENTS]
    judgements = [*_JUDGEMENTS, _judgement("ann", "train", "0.2", "0.3")]
    splits = ukp.load(_write(tmp_path, judgements, arguments), min_preferences=2, max_words=9)
    assert splits.set_aside["preferences: a text of more than 9 words"] == 3
    assert _accounted(splits) == len(judgements)

  def test_equal_texts_are_set_aside(self, tmp_path):
    arguments = [*_ARGUMENTS, _ARGUMENTS[0] | {"arg_id": "0.9"}]
    judgements = [*_JUDGEMENTS, _judgement("ann", "train", "0.0", "0.9")]
    splits = ukp.load(_write(tmp_path, judgements, arguments), min_preferences=2)
    assert splits.set_aside["preferences: two equal arguments"] == 1

  def test_unknown_arguments(self, tmp_path):
    with pytest.raises(ValueError, match="workers: found 'train', expected one of test, val"):
      ukp.load(tmp_path, workers="train")
    with pytest.raises(ValueError, match="shot_topics: found 'all', expected one of any, unseen"):
      ukp.load(tmp_path, shot_topics="all")

  def test_nobody_left(self, tmp_path):
    with pytest.raises(preferences.PreferenceError, match="found no training user left"):
      ukp.load(_write(tmp_path))

  def test_absent_files_say_where_to_get_them(self, tmp_path):
    with pytest.raises(FileNotFoundError, match="github.com/UKPLab/acl2016-convincing-arguments"):
      ukp.load(tmp_path)

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      ({"winner": "c"}, "found winner 'c', expected one of ('a', 'b', 'tie')"),
      ({"majority": ""}, "found majority '', expected one of ('a', 'b', 'tie', None)"),
      ({"split": "dev"}, "found split 'dev', expected one of ('train', 'val', 'test')"),
      ({"user_id": 3}, "found user_id 3, expected a string"),
      ({"a": "9.9"}, "found a '9.9', expected an arg_id of ukp_args.jsonl.gz"),
      ({"b": "1.0"}, "found arguments on two topics"),
      ({"split": "test"}, "found split 'test' of a worker, expected 'train' as on line 1"),
      ({"topic_split": "test"}, "found split 'test' of a topic, expected 'train' as on line 1"),
    ],
  )
  def test_malformed_judgement_is_named(self, tmp_path, change, message):
    judgements = [_JUDGEMENTS[0], _judgement("ann", "train", "0.1", "0.2") | change]
    with pytest.raises(preferences.PreferenceError) as error:
      ukp.load(_write(tmp_path, judgements))
    assert str(error.value).startswith(f"{tmp_path / ukp.PREFERENCES_FILE}:2: {message}")

  @pytest.mark.parametrize(
    ("argument", "message"),
    [
      (_ARGUMENTS[0], "found arg_id '0.0' again"),
      (_ARGUMENTS[0] | {"arg_id": "x", "text": ""}, "expected text for each of arg_id, title"),
      ([], "found a list"),
    ],
  )
  def test_malformed_argument_is_named(self, tmp_path, argument, message):
    with pytest.raises(preferences.PreferenceError) as error:
      ukp.load(_write(tmp_path, arguments=[_ARGUMENTS[0], argument]))
    assert str(error.value).startswith(f"{tmp_path / ukp.ARGUMENTS_FILE}:2: ")
    assert message in str(error.value)

  def test_missing_key_is_named(self, tmp_path):
    record = {key: value for key, value in _JUDGEMENTS[0].items() if key != "winner"}
    with pytest.raises(preferences.PreferenceError, match=":1: found no winner, expected the keys"):
      ukp.load(_write(tmp_path, [record]))


class TestBaselines:
  def test_majorities(self, tmp_path):
    majority = ukp.majorities(_write(tmp_path))
    against = Preference(_prompt(0), _text("0.0"), _text("0.1"))
    assert majority["bob", against] == ukp.Majority(label=False, others=False)
    undecided = Preference(_prompt(2), _text("2.0"), _text("2.1"))
    assert majority["bob", undecided] == ukp.Majority(label=None, others=False)
    # Cy and Bob cancel out for Ann; nobody else judged this one of Cy's.
    ann = Preference(_prompt(2), _text("2.1"), _text("2.0"))
    assert majority["ann", ann].others is None
    alone = Preference(_prompt(0), _text("0.4"), _text("0.0"))
    assert majority["cy", alone] == ukp.Majority(label=True, others=None)
    assert len(majority) == len(_JUDGEMENTS) - 2  # Less the tie and the repetition.

  def test_accuracies(self):
    long, short = "one two", "one"
    queries = [
      ("ann", Preference("q1", long, short)),
      ("ann", Preference("q2", long, short)),
      ("ann", Preference("q3", short, long)),
      ("bob", Preference("q1", short, "two")),
    ]
    labels = [(True, True), (True, None), (False, None), (None, None)]
    majority = {q: ukp.Majority(*label) for q, label in zip(queries, labels, strict=True)}
    found = ukp.baselines(queries, majority)
    assert found["longer"] == ukp.Baseline(
      accuracy=2.5 / 4,
      by_user=pytest.approx((2 / 3 + 0.5) / 2),
      decided=3 / 4,
      decided_accuracy=2 / 3,
      scores=(1.0, 1.0, 0.0, 0.5),
    )
    assert found["majority"].accuracy == 2.5 / 4
    assert found["majority"].decided_accuracy == 1
    assert found["majority_label"].decided_accuracy == 2 / 3

  def test_all_undecided(self):
    query = ("ann", Preference("q", "yes", "no"))
    found = ukp.baselines([query], {query: ukp.Majority(None, None)})
    assert found["longer"].accuracy == 0.5
    assert math.isnan(found["majority"].decided_accuracy)

  def test_no_query(self):
    with pytest.raises(ValueError, match="queries: found none"):
      ukp.baselines([], {})


def test_real_judgements(shared_data):
  folder = shared_data / "ukp"
  if not folder.is_dir():
    pytest.skip(f"no {folder}")
  splits = ukp.load(folder)
  unseen = splits.evaluation["unseen"]
  assert (len(splits.train), len(unseen), len(splits.query_prompts)) == (318, 67, 4)
  assert splits.set_aside["preferences: ties"] == 15191
  assert _accounted(splits) == 70497
  for user in unseen:  # Eight shots and a query are always to be had.
    assert sum(p.prompt not in splits.query_prompts for p in user.preferences) >= 8
  queries = splits.queries("unseen")
  assert len(queries) == 1624
  found = ukp.baselines(queries, ukp.majorities(folder))
  assert found["longer"].accuracy == pytest.approx(0.6108, abs=1e-4)
  assert found["majority"].accuracy == pytest.approx(0.6663, abs=1e-4)
  # The label counts the worker's own vote.
  assert found["majority_label"].accuracy > found["majority"].accuracy
