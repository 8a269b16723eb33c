# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of datasets/alpaca_styles.py."""

import collections
import gzip
import json

import pytest

from fspo_jax import preferences
from fspo_jax.datasets import alpaca_styles

_ARGUMENTS = {
  "users": 6, "unseen_users": 4, "preferences_per_user": 8, "seed": 0, "max_words": 20
}  # fmt: skip

# A gzip stream of broken JSON; without its time, so that every test process sees the same.
_GZIP = gzip.compress(b"[", mtime=0)


def _answer(model, style, index):
  return f"{model} {style} {index}" + " and more" * (3 if style == "verbose" else 0)


def _write(folder, count=80, change=None):
  """Writes the four files; `change(items, model, style)` may spoil one."""
  for model in alpaca_styles.MODELS:
    for style in alpaca_styles.STYLES:
      items = [
        {"instruction": f"ask {i}", "output": _answer(model, style, i), "generator": model}
        for i in range(count)
      ]
      content = json.dumps(change(items, model, style) if change else items).encode()
      (folder / f"{model}_{style}.json.gz").write_bytes(gzip.compress(content))
  return folder


def _styles(user):
  """The style of each chosen response."""
  return ["verbose" if "verbose" in p.chosen else "concise" for p in user.preferences]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return _write(tmp_path_factory.mktemp("alpaca"))


class TestLoad:
  def test_users_like_one_style_half_of_them_each(self, folder):
    splits = alpaca_styles.load(folder, **_ARGUMENTS)
    for users, count in ((splits.train, 6), (splits.evaluation["unseen"], 4)):
      assert len(users) == count
      tastes = collections.Counter()
      for user in users:
        assert len({p.prompt for p in user.preferences}) == 8
        (taste,) = set(_styles(user))
        assert user.description == alpaca_styles.DESCRIPTIONS[taste]
        tastes[taste] += 1
      assert tastes == {"concise": count / 2, "verbose": count / 2}

  def test_unseen_users_have_unseen_instructions_only(self, folder):
    splits = alpaca_styles.load(folder, **_ARGUMENTS)
    trained = {p.prompt for user in splits.train for p in user.preferences}
    asked = {p.prompt for user in splits.evaluation["unseen"] for p in user.preferences}
    assert trained.isdisjoint(asked)
    assert trained.isdisjoint(splits.query_prompts)
    queries = collections.Counter(user_id for user_id, _ in splits.queries("unseen"))
    assert set(queries.values()) == {4}

  def test_pairs_are_by_one_model_or_by_any(self, folder):
    def crossed(same_model):
      splits = alpaca_styles.load(folder, **_ARGUMENTS, same_model=same_model)
      pairs = [p for user in splits.train for p in user.preferences]
      return [p for p in pairs if p.chosen.split()[0] != p.rejected.split()[0]]

    assert not crossed(True)
    assert crossed(False)

  def test_pure_function_of_seed_and_index(self, folder):
    few = alpaca_styles.load(folder, **_ARGUMENTS)
    many = alpaca_styles.load(folder, **_ARGUMENTS | {"users": 20, "unseen_users": 10})
    assert few == alpaca_styles.load(folder, **_ARGUMENTS)
    assert few.train == many.train[:6]
    assert few.evaluation["unseen"] == many.evaluation["unseen"][:4]
    assert few.train != alpaca_styles.load(folder, **_ARGUMENTS | {"seed": 1}).train

  def test_label_noise_flips_shots_and_nothing_else(self, folder):
    arguments = _ARGUMENTS | {"users": 200, "unseen_users": 200}
    clean = alpaca_styles.load(folder, **arguments)
    noisy = alpaca_styles.load(folder, **arguments, label_noise=0.25)
    assert noisy.queries("unseen") == clean.queries("unseen")
    for before, after in (
      (clean.train, noisy.train),
      (clean.evaluation["unseen"], noisy.evaluation["unseen"]),
    ):
      flips = []
      for user, other in zip(before, after, strict=True):
        assert user.description == other.description
        for p, q in zip(user.preferences, other.preferences, strict=True):
          assert p.prompt == q.prompt
          assert {p.chosen, p.rejected} == {q.chosen, q.rejected}
          if p.prompt not in clean.query_prompts:
            flips.append(p != q)
      assert abs(sum(flips) / len(flips) - 0.25) < 0.06

  def test_every_unseen_instruction_may_be_a_query(self, folder):
    splits = alpaca_styles.load(folder, **_ARGUMENTS, query_instructions=1.0)
    assert len(splits.queries("unseen")) == 4 * 8

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      ({"users": 3}, "users: found 3"),
      ({"unseen_users": 0}, "unseen_users: found 0"),
      ({"preferences_per_user": 1}, "preferences_per_user: found 1"),
      ({"label_noise": 0.6}, "label_noise: found 0.6"),
      ({"query_instructions": 0}, "query_instructions: found 0"),
      ({"query_instructions": 1, "label_noise": 0.1}, "query_instructions: found 1 with label"),
      ({"preferences_per_user": 70}, r"usable training instructions \(max_words=20\), expected"),
      ({"max_words": 5}, "found 0 usable training instructions"),
      ({"unseen_instructions": 1e-9}, "found 0 usable unseen instructions for shots"),
    ],
  )
  def test_arguments_out_of_range(self, folder, change, message):
    with pytest.raises(ValueError, match=message):
      alpaca_styles.load(folder, **_ARGUMENTS | change)


class TestReadPairs:
  def test_set_aside_is_counted_and_nothing_is_cut(self, tmp_path):
    def change(items, model, style):
      if model == "gpt4_0613" and style == "verbose":
        items[0]["output"] = "short"
      if style == "concise":
        items[1]["output"] = "long " * 21
      return items

    pairs, set_aside = alpaca_styles.read_pairs(_write(tmp_path, 10, change), max_words=20)
    assert list(pairs) == ["ask 0"] + [f"ask {i}" for i in range(2, 10)]
    assert [len(options) for options in pairs.values()] == [1] + [2] * 8
    assert set_aside == {
      "pairs: the verbose answer is not the longer one": 1,
      "pairs: a text of more than 20 words": 2,
      "instructions: no usable pair": 1,
    }
    assert pairs["ask 0"] == [
      alpaca_styles.Pair(
        "ask 0", _answer("claude-2.1", "concise", 0), _answer("claude-2.1", "verbose", 0)
      )
    ]

  def test_absent_files_say_where_to_get_them(self, tmp_path):
    _write(tmp_path)
    (tmp_path / "gpt4_0613_concise.json.gz").unlink()
    with pytest.raises(FileNotFoundError, match="github.com/tatsu-lab/alpaca_eval") as error:
      alpaca_styles.read_pairs(tmp_path, max_words=20)
    assert str(error.value).startswith(f"{tmp_path}: no gpt4_0613_concise.json.gz; get results/")
    with pytest.raises(FileNotFoundError, match="no claude-2.1_concise.json.gz, claude-2.1_verb"):
      alpaca_styles.read_pairs(tmp_path / "nowhere", max_words=20)

  @pytest.mark.parametrize(
    ("change", "message"),
    [
      (lambda items: items[::-1], "item 0: found another instruction than in claude-2.1_concise"),
      (lambda items: items[:-1], "item 9: found another instruction"),
      (lambda items: [*items[:-1], {"output": "x"}], "found no instruction in item 9"),
      (lambda items: [*items[:-1], {"instruction": "x", "output": " "}], "no output in item 9"),
      (lambda items: items + items[:1], "found the instruction of item 0 in item 10"),
      (lambda items: {"items": items}, "expected a JSON list"),
      (lambda items: [], "expected a JSON list"),
    ],
  )
  def test_malformed_file_is_named(self, tmp_path, change, message):
    def spoil(items, model, style):
      return change(items) if (model, style) == ("gpt4_0613", "verbose") else items

    _write(tmp_path, 10, spoil)
    with pytest.raises(preferences.PreferenceError, match=message) as error:
      alpaca_styles.read_pairs(tmp_path, max_words=20)
    assert str(tmp_path / "gpt4_0613_verbose.json.gz") in str(error.value)

  @pytest.mark.parametrize("content", [b"[]", _GZIP[:-4], _GZIP], ids=["plain", "cut", "json"])
  def test_broken_file_is_named(self, tmp_path, content):
    _write(tmp_path, 10)
    (tmp_path / "claude-2.1_verbose.json.gz").write_bytes(content)
    with pytest.raises(
      preferences.PreferenceError, match="claude-2.1_verbose.json.gz: found .* exp"
    ):
      alpaca_styles.read_pairs(tmp_path, max_words=20)


def test_real_answers(shared_data):
  folder = shared_data / "alpaca_eval"
  if not folder.is_dir():
    pytest.skip(f"no {folder}")
  pairs, set_aside = alpaca_styles.read_pairs(folder, max_words=150)
  assert len(pairs) == 240
  assert sum(map(len, pairs.values())) == 321
  assert set_aside == {
    "pairs: a text of more than 150 words": 1245,
    "pairs: the verbose answer is not the longer one": 44,
    "instructions: no usable pair": 565,
  }
  splits = alpaca_styles.load(
    folder, users=20, unseen_users=10, preferences_per_user=16, seed=0, max_words=150
  )
  for user_id, preference in splits.queries("unseen"):
    concise = int(user_id[-5:]) % 2 == 0
    shorter = len(preference.chosen.split()) < len(preference.rejected.split())
    assert concise == shorter
