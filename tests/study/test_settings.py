# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the config of a study: what cannot be honoured is refused, by its key."""

import json
import runpy

import pytest

from fspo_jax.preferences import PreferenceError
from fspo_jax.study import questions
from fspo_jax.study import settings as settings_lib
from tests.study import small


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"personalized__path": ""}, "personalized.path is empty"),
    ({"personalized__context": "labels"}, "context 'labels'"),
    ({"arms": ()}, "arms: found"),
    ({"arms": (("a", "x"),)}, "expected .name, path, context"),
    ({"arms": (("a", "x", "none"), ("a", "y", "none"))}, "arms: found"),
    ({"arms": (("personalized", "x", "none"),)}, "arms: found"),
    ({"arms": (("same", "", "shots"),)}, "is the personalized one itself"),
    ({"labels__choose": "best"}, "labels.choose='best'"),
    ({"labels__minimum": 9}, "labels.minimum=9"),
    ({"labels__scale": 0.0}, "labels.scale=0.0"),
    ({"labels__number": 12, "labels__spares": 3}, "pairs: found 14, expected the 15"),
    ({"participants": 1}, "participants=1"),
    ({"retention_days": 0.0}, "retention_days=0.0"),
    ({"retention_days": float("inf")}, "retention_days=inf"),
    ({"attention__labels": 4}, "attention: found 4 checks, expected the 5"),
    ({"attention__checks": (("a", "b", " "),) * 2}, "attention.checks"),
    ({"comparisons__prompts": 7}, "prompts: found 6"),
    ({"limits__body_bytes": 100}, "limits.body_bytes=100"),
    ({"limits__body_bytes": 25_023}, "limits.body_bytes=25023: expected 25024 or more"),
    ({"server__url": "http://study.example.org"}, "expected https"),
    (
      {"server__url": "http://localhost:8000", "server__host": "0.0.0.0"},
      "server.host='0.0.0.0'.*expected 127.0.0.1, or https",
    ),
    ({"server__url": "https://study.example.org/path"}, "no path"),
    ({"generation__nice": -5}, "generation.nice=-5"),
    ({"consent": "  "}, "consent: found no text"),
    ({"pairs__world": "reviews"}, "pairs.path=.* and pairs.world="),
    ({"prompts__path": ""}, "expected both, or neither"),
  ],
)
def test_impossible_configs_are_refused(tmp_path, changes, message):
  config = small.config(tmp_path, **changes)
  with pytest.raises(ValueError, match=message):
    settings_lib.read(config)
    questions.load(config)


def test_active_questions_need_a_pool_to_choose_from(tmp_path):
  config = small.config(tmp_path, labels__choose="information", labels__candidates=8)
  with pytest.raises(ValueError, match="pairs: found 14, expected the 17"):
    questions.load(config)


def test_the_experiment_is_a_study_and_keys_are_locked(repo):
  config = runpy.run_path(str(repo / "experiments/study.py"))["get_config"]()
  config.lock()
  config.personalized.path = "published"
  config.arms = config.arms[:1]
  settings = settings_lib.read(config)
  assert settings.arms[0].path == settings.arms[1].path == str(settings_lib.PUBLISHED)
  assert settings == settings_lib.read(json.loads(config.to_json_best_effort()))
  found = questions.load(config)
  assert len(found.pairs) == 64 and len(found.prompts) == 16
  assert found == questions.load(config)
  with pytest.raises((AttributeError, KeyError)):
    config.labels.numbr = 3


@pytest.mark.parametrize("world", settings_lib.WORLDS)
def test_worlds_give_pairs_without_labels(world):
  found = questions.of_world(world, 30, 10, seed=3)
  assert len({pair.prompt for pair in found.pairs}) == 30
  assert not {pair.prompt for pair in found.pairs} & set(found.prompts)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ('{"prompt": "a", "chosen": "b", "rejected": "c"}', ":2: found keys"),
    ('{"prompt": "a", "responses": ["b"]}', ":2: found responses"),
    ('{"prompt": "a", "responses": ["b", " b"]}', ":2: found one response twice"),
    ('{"prompt": "a", "responses": ["b", 3]}', ":2: found a text that is a number"),
    ('{"prompt": "", "responses": ["b", "c"]}', ":2: found a text that is empty"),
    ('{"prompt": "x", "responses": ["b", "c"]}', ":2: found a second pair"),
    ("{", ":2: found broken JSON"),
  ],
)
def test_bad_pairs_are_refused_with_their_line(tmp_path, line, message):
  path = tmp_path / "pairs.jsonl"
  path.write_text('{"prompt": "x", "responses": ["y", "z"]}\n' + line + "\n")
  with pytest.raises(PreferenceError, match=message):
    questions.read_pairs(str(path))


def test_prompts_that_are_pairs_too_are_refused(tmp_path):
  config = small.config(tmp_path)
  (tmp_path / "prompts.txt").write_text("Question 3?\nOther?\nOne more?\n")
  with pytest.raises(ValueError, match="Question 3.*among the pairs too"):
    questions.load(config)
  (tmp_path / "prompts.txt").write_text("Other?\n\nOther?\n")
  with pytest.raises(PreferenceError, match="twice"):
    questions.load(config)
