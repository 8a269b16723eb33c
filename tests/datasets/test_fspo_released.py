# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of datasets/released.py and of the builders of the paper's three released sets."""

import gzip
import json
import sys

import pytest
import tensorflow_datasets as tfds

from fspo_jax.datasets import released, source_set_builder, user_sets
from fspo_jax.datasets.fspo_elix import fspo_elix_dataset_builder
from fspo_jax.datasets.fspo_reviews import fspo_reviews_dataset_builder
from fspo_jax.datasets.fspo_roleplay import fspo_roleplay_dataset_builder
from fspo_jax.preferences import Preference, PreferenceError, User

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def _scored(level, prompt, label=0, x="yes", y="no"):
  return {
    "prompt": prompt,
    "response_x": x,
    "response_y": y,
    "level_x": "child",
    "level_y": "expert",
    "level_id_x": 0,
    "scorer_level": level,
    "label": label,
  }


def _role(level, prompt, persona, yw="yes", yl="no"):
  return {"x": prompt, "yw": yw, "yl": yl, "level": level, "score_persona": persona}


def _parquet(folder, name, records):
  folder.mkdir(exist_ok=True)
  pq.write_table(pa.Table.from_pylist(records), folder / name, row_group_size=2)


def _jsonl(folder, name, records):
  text = "".join(json.dumps(record) + "\n" for record in records).encode()
  (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


class TestRead:
  @pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".jsonl.gz"])
  def test_both_splits_and_both_labels(self, tmp_path, suffix):
    write = _parquet if suffix == ".parquet" else _jsonl
    train = [_scored("expert", "q1"), _scored("expert", " q2\n", 1), _scored("child", "q1", 1)]
    write(tmp_path, f"train-00000-of-00001{suffix}", train)
    write(tmp_path, f"test-00000-of-00001{suffix}", [_scored("child", "q3")])
    (tmp_path / "README.md").write_text("no data")
    users, set_aside = released.read(tmp_path, released.ELIX)
    child = (Preference("q3", "yes", "no"), Preference("q1", "no", "yes"))
    expert = (Preference("q1", "yes", "no"), Preference("q2", "no", "yes"))
    assert users == [User("child", child, "child"), User("expert", expert, "expert")]
    assert set_aside == {}

  def test_a_folder_as_it_was_downloaded(self, tmp_path):
    rows = [_scored("positive+concise", f"q{i}") for i in range(5)]
    _parquet(tmp_path / "data", "train-00000-of-00002.parquet", rows[:3])
    _parquet(tmp_path / "data", "train-00001-of-00002.parquet", rows[3:])
    (user,), _ = released.read(tmp_path, released.REVIEWS)
    assert [p.prompt for p in user.preferences] == ["q0", "q1", "q2", "q3", "q4"]
    assert user.description == "Prefers positive and concise reviews."

  @pytest.mark.parametrize(
    "persona", ["Likes tea.", {"persona_description": "Likes tea.", "age": "40"}]
  )
  def test_personas(self, tmp_path, persona):
    _parquet(tmp_path, "validation.parquet", [_role("id-1", f"q{i}", persona) for i in range(2)])
    users, _ = released.read(tmp_path, released.ROLEPLAY)
    pairs = (Preference("q0", "yes", "no"), Preference("q1", "yes", "no"))
    assert users == [User("id-1", pairs, "Likes tea.")]

  def test_levels_that_are_numbers_describe_nobody(self, tmp_path):
    _jsonl(tmp_path, "train.jsonl", [_scored(3, "q1"), _scored(3, "q2")])
    users, _ = released.read(tmp_path, released.ELIX)
    assert (users[0].user_id, users[0].description) == ("3", None)

  def test_what_cannot_be_used_is_counted(self, tmp_path):
    rows = [
      *(_role("a", f"q{i}", "Likes tea.") for i in range(3)),
      _role("a", "q0", "Likes tea."),
      _role("a", "q4", "Likes tea.", yw="same ", yl="same"),
      _role("a", "q5", "Likes tea.", yl=" "),
      _role("a", "q6", "Likes coffee."),
      _role("b", "q1", "Lonely."),
      _role("b", "q1", "Lonely.", yw="no", yl="yes"),
    ]
    _jsonl(tmp_path, "train.jsonl", rows)
    users, set_aside = released.read(tmp_path, released.ROLEPLAY)
    assert [(user.user_id, len(user.preferences)) for user in users] == [("a", 3)]
    assert set_aside == {
      "preferences: repeated": 1,
      "preferences: equal responses": 1,
      "preferences: an empty text": 1,
      "preferences: by another description than most of the user's": 1,
      "users: fewer than two prompts": 1,
      "preferences: of users with fewer than two prompts": 2,
    }
    kept = sum(len(user.preferences) for user in users)
    assert kept + sum(n for k, n in set_aside.items() if k.startswith("pref")) == len(rows)

  @pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
  @pytest.mark.parametrize(
    ("changes", "message"),
    [
      ({"label": 2}, r"column label that is a number \(2\), expected 0 \(x preferred\) or 1"),
      ({"label": None}, "column label that is null"),
      ({"response_y": None}, "column response_y that is null, expected a string"),
      ({"prompt": None}, "column prompt that is null"),
      ({"scorer_level": " "}, "column scorer_level that is empty, expected what tells users apart"),
      ({"scorer_level": None}, "column scorer_level that is null"),
    ],
  )
  def test_a_bad_value_is_named_by_row_and_column(self, tmp_path, suffix, changes, message):
    rows = [_scored("expert", f"q{i}") for i in range(5)]
    rows[3] |= changes
    (_parquet if suffix == ".parquet" else _jsonl)(tmp_path, f"train{suffix}", rows)
    with pytest.raises(PreferenceError, match=rf"train{suffix}:4: found {message}"):
      released.read(tmp_path, released.ELIX)

  @pytest.mark.parametrize("persona", [{"age": "40"}, 3, None])
  def test_a_bad_persona(self, tmp_path, persona):
    _jsonl(tmp_path, "train.jsonl", [_role("a", "q", persona)])
    with pytest.raises(
      PreferenceError, match=r"train\.jsonl:1: found column score_persona that is"
    ):
      released.read(tmp_path, released.ROLEPLAY)

  def test_absent_columns_are_named(self, tmp_path):
    _parquet(tmp_path, "train.parquet", [_role("a", "q", "p")])
    message = r"train\.parquet: found no column prompt, .*, label \(among x, yw, .*expected the col"
    with pytest.raises(PreferenceError, match=message):
      released.read(tmp_path, released.ELIX)
    (tmp_path / "train.parquet").unlink()
    _jsonl(tmp_path, "train.jsonl", [_scored("a", "q"), {"prompt": "q"}])
    with pytest.raises(PreferenceError, match=r"train\.jsonl:2: found no column response_x, "):
      released.read(tmp_path, released.ELIX)

  @pytest.mark.parametrize("keep", [0, 3, -9, -200])
  def test_a_broken_parquet_file(self, tmp_path, keep):
    rows = [_scored("expert", f"q{i}") for i in range(50)]
    _parquet(tmp_path, "train.parquet", rows)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:keep])
    with pytest.raises(PreferenceError, match=r"train\.parquet: .*expected a whole parquet file"):
      released.read(tmp_path, released.ELIX)

  def test_damage_within_a_parquet_file(self, tmp_path):
    rows = [_scored("expert", f"question {i}" * 20) for i in range(50)]
    _parquet(tmp_path, "train.parquet", rows)
    damaged = bytearray((tmp_path / "train.parquet").read_bytes())
    damaged[4:400] = bytes(396)
    (tmp_path / "train.parquet").write_bytes(damaged)
    with pytest.raises(PreferenceError, match=r"train\.parquet"):
      released.read(tmp_path, released.ELIX)

  def test_without_pyarrow_the_extra_is_named(self, tmp_path, monkeypatch):
    _parquet(tmp_path, "train.parquet", [_scored("expert", "q")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"train\.parquet: .*fspo_jax\[parquet\]"):
      released.read(tmp_path, released.ELIX)

  @pytest.mark.parametrize("schema", [released.ELIX, released.REVIEWS, released.ROLEPLAY])
  def test_an_empty_folder_says_where_to_get_the_data(self, tmp_path, schema):
    with pytest.raises(FileNotFoundError, match=f"{schema.repository}.*licence"):
      released.read(tmp_path, schema)


def _levels(levels, prompts=20):
  return [_scored(level, f"q{p}", p % 2) for level in levels for p in range(prompts)]


class TestBuilders:
  def test_interpolated_reviews_are_unseen(self, tmp_path):
    levels = ["positive", "negative", "positive+concise", "negative+verbose"]
    _parquet(tmp_path / "in", "train-00000-of-00001.parquet", _levels(levels))
    builder = fspo_reviews_dataset_builder.Builder
    path = source_set_builder.build(builder, tmp_path / "in", tmp_path, unseen_prompts=0.3)
    assert path == tmp_path / "fspo_reviews" / "1.0.0"
    splits = user_sets.load(path)
    assert [user.user_id for user in splits.train] == levels[:2]
    assert [user.user_id for user in splits.evaluation["unseen"]] == levels[2:]
    trained = {p.prompt for user in splits.train for p in user.preferences}
    assert splits.query_prompts and trained.isdisjoint(splits.query_prompts)
    assert splits.set_aside == {
      "preferences: of training users on unseen prompts": 2 * len(splits.query_prompts)
    }

  def test_one_of_five_levels_is_unseen(self, tmp_path):
    _jsonl(tmp_path, "train.jsonl", _levels("abcde")[:-1] + _levels("e")[:1])
    builder = fspo_elix_dataset_builder.Builder
    for seed in range(3):
      path = source_set_builder.build(
        builder, tmp_path, tmp_path / f"out{seed}", seed=seed, unseen_prompts=0.4
      )
      splits = user_sets.load(path)
      assert (len(splits.train), len(splits.evaluation["unseen"])) == (4, 1)
      assert splits.set_aside["preferences: repeated"] == 1

  def test_as_tfds_has_it(self, tmp_path):
    manual = tmp_path / "manual"
    _parquet(manual, "train.parquet", [_role(u, f"q{i}", f"{u}.") for u in "ab" for i in range(30)])
    builder = fspo_roleplay_dataset_builder.Builder(data_dir=tmp_path / "data", unseen_prompts=0.4)
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    assert "Roleplay" in builder.info.description and "2502.19312" in builder.info.citation
    record = builder.as_data_source("unseen")[0]
    assert record["user_id"].decode() + "." == record["description"].decode()
    assert len(record["preferences"]["query"]) == 30

  def test_a_set_of_other_files_or_settings_is_refused(self, tmp_path):
    builder = fspo_elix_dataset_builder.Builder
    (tmp_path / "in").mkdir()
    _jsonl(tmp_path / "in", "train.jsonl", _levels("abcde"))
    arguments = (builder, tmp_path / "in", tmp_path / "out")
    for _ in range(2):
      source_set_builder.build(*arguments, unseen_prompts=0.4)
    with pytest.raises(PreferenceError, match=r"found a set with seed=0, expected seed=1"):
      source_set_builder.build(*arguments, unseen_prompts=0.4, seed=1)
    _jsonl(tmp_path / "in", "train.jsonl", _levels("abcdef"))
    with pytest.raises(PreferenceError, match=r"found a set with sha256="):
      source_set_builder.build(*arguments, unseen_prompts=0.4)

  def test_errors_leave_nothing(self, tmp_path):
    builder = fspo_elix_dataset_builder.Builder
    with pytest.raises(FileNotFoundError, match=r"none: found no \.parquet.*huggingface\.co"):
      source_set_builder.build(builder, tmp_path / "none", tmp_path / "out")
    _jsonl(tmp_path, "train.jsonl", [_scored("a", "q", 7)])
    with pytest.raises(PreferenceError, match=r"train\.jsonl:1: found column label"):
      source_set_builder.build(builder, tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.array_record*"))
    with pytest.raises(ValueError, match="unseen_users: found 1, expected a share"):
      source_set_builder.build(builder, tmp_path, tmp_path / "out", unseen_users=1)
    _jsonl(tmp_path, "train.jsonl", _levels("abcde"))
    with pytest.raises(ValueError, match="unseen_users: found None, expected a share: fspo_elix"):
      source_set_builder.build(builder, tmp_path, tmp_path / "out", unseen_users=None)
