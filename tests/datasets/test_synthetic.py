# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of storing generated users: splits, what is set aside, the card, memory."""

import pytest
import tensorflow_datasets as tfds

from fspo_jax.datasets import synthetic, user_sets
from fspo_jax.preferences import Preference, PreferenceError, User

PROMPTS = [f"question {i}" for i in range(8)]


def _rows(users=30):
  for u in range(users):
    found = tuple(Preference(p, f"{p}: yes", f"{p}: no {u}") for p in PROMPTS)
    yield "unseen" if u % 5 == 0 else "train", User(f"u{u}", found, f"persona {u}")


def _build(folder, rows, name="elix", **changes):
  settings = {"query_prompts": PROMPTS[:2], "set_aside": {"preferences: flips": 3}}
  settings |= {"made_of": {"seed": 1}, "files": {"card.json": b'{"quality": 1}'}}
  return synthetic.build(folder, name, rows, **settings | changes)


def test_a_set_holds_its_users_split_with_the_card_beside_them(tmp_path):
  path = _build(tmp_path, _rows())
  assert path == synthetic.set_path(tmp_path, "elix")
  splits = user_sets.load(path)
  given = {"train": [], "unseen": []}
  for split, user in _rows():
    given[split].append(user)
  assert list(splits.evaluation["unseen"]) == given["unseen"]
  assert [u.user_id for u in splits.train] == [u.user_id for u in given["train"]]
  assert all(
    u.preferences == v.preferences[2:] for u, v in zip(splits.train, given["train"], strict=True)
  )
  assert splits.query_prompts == set(PROMPTS[:2])
  assert splits.set_aside == {
    "preferences: flips": 3,
    "preferences: of training users on unseen prompts": 48,
  }
  assert (path / "card.json").read_bytes() == b'{"quality": 1}'
  assert user_sets.facts(path).made_of["seed"] == 1


def test_each_domain_is_a_config_of_one_tfds_set(tmp_path):
  paths = [_build(tmp_path, _rows(), name) for name in ("reviews", "elix", "anything")]
  for path, name in zip(paths, ("reviews", "elix", "anything"), strict=True):
    info = tfds.builder_from_directory(path).info
    assert (info.name, info.config_name, info.full_name) == (
      "synthetic",
      name,
      f"synthetic/{name}/1.0.0",
    )
    assert "persona" in info.description and "2502.19312" in info.citation


def test_the_same_users_are_stored_once_and_others_refused(tmp_path):
  path = _build(tmp_path, _rows())
  stamp = (path / "metadata.json").stat().st_mtime_ns
  assert _build(tmp_path, _rows()) == path
  assert (path / "metadata.json").stat().st_mtime_ns == stamp
  with pytest.raises(PreferenceError, match="found a set with sha256="):
    _build(tmp_path, _rows(31))
  with pytest.raises(PreferenceError, match="seed=1, expected seed=2"):
    _build(tmp_path, _rows(), made_of={"seed": 2})


def test_a_user_of_an_unknown_split_or_no_unseen_user_is_refused(tmp_path):
  with pytest.raises(ValueError, match="user 'u': found split 'val'"):
    _build(tmp_path, [("val", User("u", ()))])
  with pytest.raises(PreferenceError, match="no unseen user left"):
    _build(tmp_path, [row for row in _rows() if row[0] == "train"])
