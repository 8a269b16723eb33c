# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of bringing your own users: a set trains like the JSONL file it was made of."""

import subprocess
import sys

import pytest

from fspo_jax import preferences
from fspo_jax.datasets import alpaca_styles, own_users, ukp, user_sets
from fspo_jax.episodes.sources import UserSource
from fspo_jax.jsonl import read_jsonl, write_jsonl
from fspo_jax.preferences import Preference, PreferenceError, User

SHARES = {"unseen_users": 0.2, "unseen_prompts": 0.3}


def _users(count=40):
  return [
    User(
      f"user {u}",
      tuple(Preference(f"q{i}", f"yes {u} {i}", f"no {u} {i}") for i in range(10)),
      f"likes {u}" if u % 3 else None,
    )
    for u in range(count)
  ]


def _episodes(splits, shots):
  source = UserSource("set", splits, set_aside_small=True)
  train = source.training(shots, 1, 5, 0.2, None, 1)
  unseen = source.evaluation("unseen", shots, 1, 6)
  return [read(i) for read in (train, unseen) for i in range(60)], source.facts()


def _check_same(jsonl, data_dir, shots, seed=0):
  expected = preferences.split(read_jsonl(jsonl), **SHARES, seed=seed)
  read = user_sets.load(own_users.build(jsonl, data_dir, **SHARES, seed=seed))
  assert tuple(read.train) == expected.train
  assert tuple(read.evaluation["unseen"]) == expected.evaluation["unseen"]
  assert read.set_aside == expected.set_aside
  # Prompts that nobody is evaluated on are not in the set.
  asked = {p.prompt for user in expected.evaluation["unseen"] for p in user.preferences}
  assert read.query_prompts == expected.query_prompts & asked
  assert read.queries("unseen") == expected.queries("unseen")
  assert _episodes(read, shots) == _episodes(expected, shots)


@pytest.mark.parametrize("name", ["users.jsonl", "users.jsonl.gz"])
def test_a_set_gives_the_episodes_of_its_file(tmp_path, name):
  write_jsonl(tmp_path / name, _users())
  _check_same(tmp_path / name, tmp_path, shots=4, seed=1)


def test_real_arguments_and_those_who_judged_them(shared_data, tmp_path):
  splits = ukp.load(shared_data / "ukp", min_preferences=20)
  write_jsonl(tmp_path / "ukp.jsonl", [*splits.train, *splits.evaluation["unseen"]])
  _check_same(tmp_path / "ukp.jsonl", tmp_path, shots=4)


def test_real_answers_and_simulated_styles(shared_data, tmp_path):
  splits = alpaca_styles.load(
    shared_data / "alpaca_eval",
    users=60,
    unseen_users=20,
    preferences_per_user=20,
    seed=0,
    max_words=120,
  )
  write_jsonl(tmp_path / "alpaca.jsonl", [*splits.train, *splits.evaluation["unseen"]])
  _check_same(tmp_path / "alpaca.jsonl", tmp_path, shots=4)


def test_the_metadata_says_what_a_set_is_made_of(tmp_path):
  write_jsonl(tmp_path / "a.jsonl", _users())
  path = own_users.build(tmp_path / "a.jsonl", tmp_path, **SHARES, seed=2)
  made_of = user_sets.facts(path).made_of
  assert len(made_of.pop("sha256")) == 64
  assert made_of == {"seed": 2, **SHARES, "set_bad_lines_aside": False}


def test_a_changed_file_or_setting_is_refused_and_the_same_is_not(tmp_path):
  file = tmp_path / "a.jsonl"
  write_jsonl(file, _users())
  path = own_users.build(file, tmp_path, **SHARES)
  assert own_users.build(file, tmp_path, **SHARES) == path
  with pytest.raises(PreferenceError, match="found a set with seed=0, expected seed=1"):
    own_users.build(file, tmp_path, **SHARES, seed=1)
  write_jsonl(file, _users(41))
  with pytest.raises(PreferenceError, match="found a set with sha256="):
    own_users.build(file, tmp_path, **SHARES)


def _run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "fspo_jax.datasets.own_users", *map(str, flags)],
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command_says_where_the_set_is_and_how_to_train_on_it(tmp_path):
  write_jsonl(tmp_path / "a.jsonl", _users())
  done = _run(f"--jsonl={tmp_path / 'a.jsonl'}", f"--data_dir={tmp_path}", "--seed=3")
  path = tmp_path / "own_users" / "1.0.0"
  assert done.returncode == 0, done.stderr
  assert f"--config.data.name=user_set --config.data.path={path}" in done.stdout
  assert f"train: {len(user_sets.load(path).train)} users" in done.stdout


def test_bad_lines_are_named_or_set_aside_and_counted(tmp_path):
  file = tmp_path / "a.jsonl"
  write_jsonl(file, _users())
  lines = file.read_text().splitlines()
  file.write_text("\n".join([*lines[:5], '{"user_id": "x"}', "{", *lines[5:]]) + "\n")
  done = _run(f"--jsonl={file}", f"--data_dir={tmp_path}")
  assert done.returncode == 1 and f"{file}:6: found" in done.stderr
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "own_users" / "1.0.0").exists()
  path = own_users.build(file, tmp_path, set_bad_lines_aside=True, **SHARES)
  aside = user_sets.facts(path).set_aside
  assert sum(count for reason, count in aside.items() if reason.startswith("lines")) == 2
