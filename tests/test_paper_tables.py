# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the paper's tables: what runs, what is passed over, and what stands in a cell."""

import fcntl
import json
import runpy
import subprocess
import sys

import pytest

from fspo_jax.evaluation.methods import METHODS
from tests import tiny, tiny_base

SCRIPT = tiny.REPO / "experiments" / "paper_tables.py"


@pytest.fixture(scope="module")
def tables():
  return runpy.run_path(str(SCRIPT))


def _results(win_rate, accuracy, half):
  """Of one run: the base and FSPO, on two splits."""
  splits = ("unseen", "heldout_combinations")
  ks = ("0", "1", "2", "4", "8")

  def rates(value):
    ci = [value - half, value + half]
    return {split: {"mean": value, "ci95": ci, "users": 9} for split in splits}

  def by_k(value):
    return {split: dict.fromkeys(ks, value) for split in splits}

  def ci_by_k(value):
    return {split: {k: [value - half, value + half] for k in ks} for split in splits}

  return {
    "preference_accuracy": {"base": by_k(0.5), "fspo": by_k(accuracy)},
    "preference_accuracy_ci95": {"base": ci_by_k(0.5), "fspo": ci_by_k(accuracy)},
    "bayes_accuracy": by_k(0.95),
    "win_rate": {"base": rates(0.5), "fspo": rates(win_rate)},
    "wall_seconds": {"preference": 60.0, "evaluate": 30.0},
    "environment": {"commit": "c0ffee", "cpu": "a CPU", "cores": 2, "devices": ["cpu"]},
  }


def _write(directory, results):
  directory.mkdir(parents=True)
  (directory / "results.json").write_text(json.dumps(results))


def test_every_row_is_one_of_the_experiment_and_a_method(tables):
  experiment = runpy.run_path(str(tables["EXPERIMENT"]))
  assert set(tables["NAMES"]) == set(experiment["METHODS"])
  for name, method in tables["ROWS"]:
    assert method in METHODS
    assert method in experiment["get_config"](name).evaluation.methods


def test_a_cell_is_the_mean_over_seeds_with_the_error_of_the_mean(tables, tmp_path, capsys):
  """Half widths of .03 and .04 over two seeds: sqrt(.03^2 + .04^2) / 2 = .025."""
  root = tmp_path / "reviews" / "fspo_ipo"
  _write(root / "seed=0", _results(0.9, 0.8, 0.03))
  _write(root / "seed=1", _results(0.8, 0.9, 0.04))
  status = tables["main"](
    [f"--workdir={tmp_path}", "--worlds=reviews", "--collect", f"--out={tmp_path / 'out'}"]
  )
  assert status == 0
  text = (tmp_path / "out" / "README.md").read_text()
  (row,) = [line for line in text.splitlines() if "`fspo_ipo`" in line and "80.4" in line]
  cells = [cell.strip() for cell in row.strip("|").split("|")]
  assert cells[:4] == ["FSPO (IPO)", "`fspo_ipo`", "80.4, 73.6", "2"]
  assert cells[4:9] == ["85.0 ± 2.5"] * 5
  assert "2 of 24 runs" in text
  assert "| `methods.py:fspo_ipo,reviews` seed 1 | c0ffee | a CPU, 2 cores, cpu | 90 |" in text
  (row,) = [line for line in text.splitlines() if "`vpl`" in line]
  assert [cell.strip() for cell in row.strip("|").split("|")][3:6] == ["0", "-", "-"]


def test_finished_and_locked_runs_are_passed_over(tables, tmp_path, monkeypatch):
  """Whoever is at a run, or has finished it, does it alone; the others go on."""
  ran = []

  def execute(config, directory, flags):
    ran.append((config.rpartition(":")[2], directory.name, [f for f in flags if "seed" in f]))
    return 0

  monkeypatch.setitem(tables["run_all"].__globals__, "execute", execute)
  _write(tmp_path / "reviews" / "ric" / "seed=0", _results(0.5, 0.5, 0.1))
  (tmp_path / "reviews" / "ipo").mkdir()
  with open(tmp_path / "reviews" / "ipo" / ".seed=0.lock", "wb") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    flags = [f"--workdir={tmp_path}", "--worlds=reviews,elix", "--rows=ric,dpo,ipo", "--seeds=0"]
    assert tables["main"](flags) == 0
  assert [name for name, _, _ in ran if name.endswith("reviews")] == ["dpo,reviews"]
  # A set is made once more for each run that shares it, always by the same config: finished stages
  # do nothing, and a folder of another config is refused.
  of_elix = [name for name, _, _ in ran if name.endswith("elix")]
  rows = ("dpo", "ipo", "ric")
  assert of_elix == [f"{name},elix" for row in rows for name in ("prompted", row)]
  assert all(flags[0] == "--config.seed=0" for _, _, flags in ran)


def test_runs_of_other_flags_are_not_tabulated_together(tables, tmp_path, capsys):
  """In a folder of the small version, the numbers of the whole would stand beside such ones."""
  assert tables["main"]([f"--workdir={tmp_path}", "--collect", "--runlocal"]) == 0
  assert tables["main"]([f"--workdir={tmp_path}", "--collect"]) == 2
  assert "has other flags" in capsys.readouterr().err
  text = (tmp_path / "README.md").read_text()
  command = "python experiments/paper_tables.py --workdir=WORKDIR --runlocal"
  assert f"Made by `{command}`; these numbers mean nothing." in text


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--worlds=movies"], "found 'movies'"),
    (["--rows=fpso"], "found 'fpso'"),
    (["--", "--preference.steps=3"], "expected --config.KEY=VALUE"),
  ],
)
def test_what_it_does_not_know_is_refused(tables, tmp_path, capsys, flags, message):
  with pytest.raises(SystemExit):
    tables["main"]([f"--workdir={tmp_path}", *flags])
  assert message in capsys.readouterr().err


def test_all_of_it_runs_in_small(tmp_path):
  """Real runs, in processes of their own: one on fresh episodes, two on a set made here."""
  tiny_base.make(tmp_path / "base")
  command = [
    sys.executable,
    str(SCRIPT),
    f"--workdir={tmp_path / 'tables'}",
    "--worlds=reviews,elix_easy",
    "--rows=fspo_ipo",
    "--seeds=0",
    "--runlocal",
    "--",
    f"--config.base={tmp_path / 'base'}",
    *(f"--config.model.{key}={value}" for key, value in tiny_base.SHAPE.items()),
    "--config.preference.steps=2",
    "--config.preference.rows_per_step=1",
    "--config.preference.row_tokens=2304",
    "--config.preference.scored_tokens=1536",
    "--config.evaluation.episodes=8",
    "--config.evaluation.max_response_tokens=8",
    "--config.evaluation.temperatures=(0.3,)",
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  text = (tmp_path / "tables" / "README.md").read_text()
  assert "2 of 2 runs" in text and "these numbers mean nothing" in text
  config = json.loads((tmp_path / "tables/elix_easy/fspo_ipo/seed=0/config.json").read_text())
  assert config["elix_variant"] == "easy" and config["data"]["world"] == "elix"
  # What is done is left alone, and another row shares the set.
  more = {
    "--worlds=reviews,elix_easy": "--worlds=elix_easy",
    "--rows=fspo_ipo": "--rows=fspo_ipo,prompted",
  }
  again = subprocess.run(
    [more.get(argument, argument) for argument in command],
    capture_output=True,
    text=True,
    check=False,
  )
  assert again.returncode == 0, again.stderr
  assert again.stderr.count("already finished") == 1
  assert "2 of 2 runs" in (tmp_path / "tables" / "README.md").read_text()
