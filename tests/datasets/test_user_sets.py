# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of sets of users in ArrayRecord: read as written, by us and by plain TFDS."""

import os
import pickle
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow_datasets as tfds

from fspo_jax import preferences
from fspo_jax.datasets import synthetic, user_set_builder, user_sets
from fspo_jax.preferences import Preference, PreferenceError, User


def _user(index, count=12):
  texts = [Preference(f"q{i}", f"good é {index} {i}\n", f"bad\0 {index} {i}") for i in range(count)]
  return User(f"u{index}", tuple(texts), f"d{index}" if index % 2 else None)


def _splits(users=600):
  return preferences.split(map(_user, range(users)), unseen_users=0.2, unseen_prompts=0.3, seed=3)


def _write(folder, splits, made_of=None, files=None):
  made_of = made_of or {"seed": 3}
  contents = user_set_builder.Contents(splits, made_of, files or {})
  config = tfds.core.BuilderConfig(name="test")
  builder = synthetic.Builder(contents=contents, data_dir=folder, config=config)
  return user_set_builder.prepare(builder, made_of)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return _write(tmp_path_factory.mktemp("sets"), _splits(), files={"card.json": b"{}"})


def test_what_is_read_is_what_was_written_in_order_over_several_shards(path):
  splits, read = _splits(), user_sets.load(path)
  assert len(list(path.glob("*train*"))) > 1
  assert tuple(read.train) == splits.train
  assert {name: tuple(users) for name, users in read.evaluation.items()} == splits.evaluation
  assert (read.query_prompts, read.set_aside) == (splits.query_prompts, splits.set_aside)
  assert read.queries("unseen") == splits.queries("unseen")
  assert (path / "card.json").read_bytes() == b"{}"


def test_facts_of_a_set(path):
  splits, facts = _splits(), user_sets.facts(path)
  count = {
    "train": sum(len(u.preferences) for u in splits.train),
    "unseen": sum(len(u.preferences) for u in splits.evaluation["unseen"]),
  }
  assert facts.preferences_of == count and facts.preferences == sum(count.values())
  assert facts.users == 600 and facts.made_of == {"seed": 3}
  assert facts.set_aside == splits.set_aside
  assert facts.preferences + sum(facts.set_aside.values()) == 600 * 12


def test_plain_tfds_reads_the_set(path):
  splits = _splits()
  builder = tfds.builder_from_directory(path)
  assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
    "train": len(splits.train),
    "unseen": len(splits.evaluation["unseen"]),
  }
  for found, user in zip(
    builder.as_data_source("unseen"), splits.evaluation["unseen"], strict=True
  ):
    assert found["user_id"].decode() == user.user_id
    assert found["description"].decode() == (user.description or "")
    columns = found["preferences"]
    assert [p.decode() for p in columns["chosen"]] == [p.chosen for p in user.preferences]
    assert list(columns["query"]) == [p.prompt in splits.query_prompts for p in user.preferences]


def test_a_set_is_a_sequence_of_users_and_so_are_their_preferences(path):
  users, expected = user_sets.UserSet(path, "train"), _splits().train
  assert len(users) == len(expected)
  assert users[-1] == expected[-1] and expected[5] == users[5]
  assert tuple(users[3:9:2]) == expected[3:9:2]
  with pytest.raises(IndexError):
    users[len(expected)]
  read, known = users[1].preferences, expected[1].preferences
  assert hash(users[1]) == hash(expected[1]) and repr(users[1]) == repr(expected[1])
  assert (read[-1], read[1:3], len(read)) == (known[-1], known[1:3], len(known))
  with pytest.raises(IndexError):
    read[len(known)]
  assert read != known[:-1] and read != list(known)


def test_a_set_and_its_users_can_be_pickled(path):
  users = user_sets.UserSet(path, "train")
  first = users[0]
  again = pickle.loads(pickle.dumps(users))
  assert again[0] == first and len(pickle.dumps(users)) < 10_000
  assert pickle.loads(pickle.dumps(first)) == first
  code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[7].user_id)"
  found = subprocess.run(
    [sys.executable, "-c", code], input=pickle.dumps(users), capture_output=True, check=True
  )
  assert found.stdout.decode().strip() == users[7].user_id


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)


@hypothesis.given(
  st.lists(st.tuples(_TEXTS, _TEXTS, st.none() | _TEXTS.filter(bool)), min_size=1, max_size=3)
)
@hypothesis.settings(max_examples=10)
def test_any_text_is_given_back(tmp_path_factory, texts):
  users = [
    User(f"{i}{a}", (Preference("x", a, b), Preference("y" + b, b, a)), description)
    for i, (a, b, description) in enumerate(texts)
  ]
  splits = preferences.assemble(
    users,
    [User("unseen", (Preference("z", "1", "2"), Preference("x", "1", "2")))],
    query_prompts={"z"},
    set_aside={},
  )
  assert tuple(user_sets.load(_write(tmp_path_factory.mktemp("any"), splits)).train) == splits.train


def test_a_set_is_written_once_and_never_mixed_up_with_another(tmp_path):
  path = _write(tmp_path, _splits(20))
  before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
  assert _write(tmp_path, _splits(20)) == path
  assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
  with pytest.raises(PreferenceError, match=r"found a set with seed=3, expected seed=4"):
    _write(tmp_path, _splits(20), made_of={"seed": 4})


def test_a_failure_while_writing_leaves_no_set(tmp_path):
  users = [User("u", (Preference("a", "1", "2"), Preference("b", "1", 2)))]
  unseen = [User("v", (Preference("q", "1", "2"), Preference("b", "1", "3")))]
  splits = preferences.assemble(users, unseen, query_prompts={"q"}, set_aside={})
  with pytest.raises(Exception, match="rejected"):
    _write(tmp_path, splits)
  assert not list(tmp_path.rglob("1.0.0"))
  assert len(user_sets.load(_write(tmp_path, _splits(20))).train) > 0


def test_what_is_no_set_is_named(path, tmp_path):
  with pytest.raises(PreferenceError, match="with the version"):
    user_sets.load(path.parent)
  with pytest.raises(PreferenceError, match="found the splits train, unseen, expected 'val'"):
    user_sets.UserSet(path, "val")
  with pytest.raises(PreferenceError, match="metadata.json"):
    user_sets.facts(tmp_path)


def test_a_shard_that_is_missing_or_cut_off_is_named(path, tmp_path):
  for name in path.iterdir():
    (tmp_path / name.name).write_bytes(name.read_bytes())
  shard = next(iter(tmp_path.glob("*unseen*")))
  content = shard.read_bytes()
  shard.write_bytes(content[: len(content) // 2])
  with pytest.raises(PreferenceError, match=r"split 'unseen', user \d+: found"):
    user_sets.load(tmp_path)
  shard.unlink()
  with pytest.raises(PreferenceError, match="split 'unseen', user 0: found"):
    user_sets.load(tmp_path)


def test_reading_and_writing_need_neither_jax_nor_tensorflow(path):
  code = (
    "import sys; sys.modules['jax'] = None\n"
    "from fspo_jax.datasets import own_users, synthetic, user_sets\n"
    f"print(user_sets.load({os.fspath(path)!r}).train[0].user_id, 'tensorflow' in sys.modules)"
  )
  found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
  assert found.stdout.decode().split() == [_splits().train[0].user_id, "False"]


@pytest.mark.parametrize("name", ["own_users", "synthetic"])
def test_the_folder_of_a_builder_follows_the_conventions_of_tfds(repo, name):
  folder = repo / "fspo_jax" / "datasets" / name
  assert {f"{name}_dataset_builder.py", "__init__.py"} <= {file.name for file in folder.iterdir()}
  metadata = tfds.core.dataset_metadata.load(tfds.core.Path(folder))
  assert metadata.tags and set(metadata.tags) <= set(tfds.core.dataset_metadata.valid_tags())
  assert len(metadata.description) > 100
  assert metadata.citation.startswith("@") and metadata.citation.count("{") == (
    metadata.citation.count("}")
  )
