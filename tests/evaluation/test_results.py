# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fspo_jax.evaluation import results as results_lib


def _results() -> dict:
  return {
    "preference_accuracy": {
      "fspo": {"unseen": {"0": 0.5, "1": 0.7}},
      "base": {"unseen": {"0": 0.5}},
    },
    "preference_accuracy_ci95": {
      "fspo": {"unseen": {"0": [0.45, 0.55], "1": [0.6, 0.8]}},
      "base": {"unseen": {"0": None}},
    },
    "bayes_accuracy": {"unseen": {"0": 0.55, "1": 0.75}},
    "win_rate": {"fspo": {"unseen": {"mean": 0.8, "ci95": [0.7, 0.9], "users": 12}}},
    "wall_seconds": {"sft": 12.5},
    "environment": {"seed": 0},
  }


def _changed(path: str, value: object) -> dict:
  """The results with the value at the dotted path replaced, or removed where `value` is `...`."""
  results = copy.deepcopy(_results())
  *parents, last = path.split(".")
  at = results
  for key in parents:
    at = at.setdefault(key, {})
  if value is ...:
    del at[last]
  else:
    at[last] = value
  return results


def test_written_results_are_read_back(tmp_path):
  path = tmp_path / "results.json"
  results_lib.write(path, _results())
  assert results_lib.read(path) == _results()
  assert os.listdir(tmp_path) == ["results.json"]


def test_equal_results_give_equal_bytes(tmp_path):
  results_lib.write(tmp_path / "a.json", _results())
  results_lib.write(tmp_path / "b.json", dict(reversed(_results().items())))
  assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_invalid_results_leave_the_old_file_alone(tmp_path):
  path = tmp_path / "results.json"
  results_lib.write(path, _results())
  with pytest.raises(ValueError, match="win_rate"):
    results_lib.write(path, _changed("win_rate", ...))
  assert results_lib.read(path) == _results()
  assert os.listdir(tmp_path) == ["results.json"]


def test_real_data_needs_neither_bayes_nor_win_rates():
  results = _changed("bayes_accuracy", {})
  results["win_rate"] = {}
  results_lib.validate(results)


def test_later_additions_are_welcome():
  results = _results()
  results["win_rate_temperature_1"] = results["win_rate"]
  results["baselines"] = {"majority": {"unseen": 0.52}}
  results["padding_fraction"] = {"sft": 0.1}
  results["descriptions"] = {"anything": [1, "two", None, True]}
  results_lib.validate(results)


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    *((key, ..., key) for key in results_lib.REQUIRED),
    ("preference_accuracy.fspo.unseen.1", 1.2, r"fspo\.unseen\.1: .*\[0, 1\].*1\.2"),
    ("preference_accuracy.fspo.unseen.1", True, r"fspo\.unseen\.1: .*True"),
    ("preference_accuracy.fspo.unseen.1", float("nan"), r"fspo\.unseen\.1: .*finite"),
    ("preference_accuracy.fspo.unseen.1", np.float32(0.7), r"fspo\.unseen\.1: .*JSON"),
    (
      "preference_accuracy.fspo.unseen.first",
      0.5,
      r"preference_accuracy\.fspo\.unseen\.first: expected a number of shots",
    ),
    ("preference_accuracy.fspo.unseen", {}, r"preference_accuracy\.fspo\.unseen: "),
    ("preference_accuracy.fspo.unseen", {0: 0.5}, r"preference_accuracy\.fspo\.unseen: .*strings"),
    ("preference_accuracy.fspo.seen", {"0": 0.5}, r"preference_accuracy\.fspo\.seen: .*heldout"),
    ("preference_accuracy.fsop", {}, r"preference_accuracy\.fsop: .*fspo_rat"),
    ("preference_accuracy", {}, "preference_accuracy: .*at least one"),
    ("preference_accuracy", [], "preference_accuracy: .*object"),
    ("preference_accuracy_ci95.fspo.unseen.1", ..., r"ci95\.fspo\.unseen: .*'0', '1'"),
    ("preference_accuracy_ci95.oracle", {}, "ci95: .*'base', 'fspo'"),
    ("preference_accuracy_ci95.fspo.unseen.1", [0.71, 0.8], r"ci95\.fspo\.unseen\.1: .*mean 0\.7"),
    ("preference_accuracy_ci95.fspo.unseen.1", [0.6], r"ci95\.fspo\.unseen\.1: .*low, high"),
    ("preference_accuracy_ci95.fspo.unseen.1", [0.6, 1.1], r"ci95\.fspo\.unseen\.1\[1\]: "),
    ("bayes_accuracy.unseen.1", -0.1, r"bayes_accuracy\.unseen\.1: "),
    ("bayes_accuracy.train", {"0": 0.5}, r"bayes_accuracy\.train: "),
    ("win_rate.fspo.unseen.mean", 80, r"win_rate\.fspo\.unseen\.mean: .*80"),
    ("win_rate.fspo.unseen.ci95", [0.1, 0.2], r"win_rate\.fspo\.unseen\.ci95: "),
    ("win_rate.fspo.unseen.users", 0, r"win_rate\.fspo\.unseen\.users: "),
    ("win_rate.fspo.unseen.users", ..., r"win_rate\.fspo\.unseen: .*'users'"),
    ("win_rate_temperature_1.fspo.unseen", {}, r"win_rate_temperature_1\.fspo\.unseen: "),
    ("wall_seconds.sft", -1.0, r"wall_seconds\.sft: "),
    ("wall_seconds.sft", "1 min", r"wall_seconds\.sft: "),
    ("environment", None, "environment: "),
    ("environment.date", {1, 2}, r"environment\.date: "),
    ("baselines.majority.unseen", 52, r"baselines\.majority\.unseen: "),
    ("padding_fraction", {"sft": 7}, "padding_fraction.sft: "),
    ("later", [0, {"x": float("inf")}], r"later\[1\]\.x: "),
  ],
)
def test_names_the_key_that_is_wrong(path, value, message):
  with pytest.raises(ValueError, match=message):
    results_lib.validate(_changed(path, value))


def test_reading_names_the_file(tmp_path):
  path = tmp_path / "results.json"
  path.write_text("{")
  with pytest.raises(ValueError, match=r"results\.json: .*line 1"):
    results_lib.read(path)
  path.write_text(json.dumps(_changed("wall_seconds.sft", -1)))
  with pytest.raises(ValueError, match=r"results\.json: wall_seconds\.sft"):
    results_lib.read(path)
  path.write_text("[]")
  with pytest.raises(ValueError, match="object"):
    results_lib.read(path)


def test_environment_is_valid_json_and_tells_what_ran():
  environment = results_lib.environment(seed=0)
  results_lib.validate(_changed("environment", environment))
  assert environment["seed"] == 0
  assert "seed" not in results_lib.environment()
  assert environment["cores"] >= 1
  assert environment["packages"]["numpy"] == np.__version__
  assert environment["date"].endswith("+00:00")
  assert environment["command"].startswith("python")


def test_environment_without_git_has_no_commit(monkeypatch):
  monkeypatch.setenv("PATH", "")
  assert results_lib.environment()["commit"] is None


def test_needs_no_jax(repo):
  code = (
    "import sys; from fspo_jax.evaluation import report, results; results.environment(); "
    "assert 'jax' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=repo)
