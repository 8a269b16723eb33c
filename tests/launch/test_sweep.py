# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sweeps: what is run, what is refused before anything is, and what is tabulated."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from fspo_jax import sweeps
from fspo_jax.evaluation import methods
from fspo_jax.evaluation import results as results_lib
from fspo_jax.workdir import fingerprint
from tests.conftest import REPO

SCRIPT = REPO / "launch" / "sweep.py"
EXPERIMENTS = ("quickstart", "quickstart:scratch", "jsonl", "alpaca_styles", "ukp")
EXPERIMENTS += ("elix:easy", "elix:hard", "roleplay")

# Two values of beta, two seeds of each.
EXPERIMENT = """
from fspo_jax import config

def get_config(arg="a"):
  if arg not in ("a", "b"):
    raise ValueError(f"found {arg!r} after the colon")
  return config.default()

def sweep(add, arg):
  for beta in (0.1, 0.5):
    for seed in range(2):
      add(**{"preference.loss.beta": beta, "seed": seed})

def metrics(arg):
  return {"accuracy": "preference_accuracy.fspo.unseen.2", "wins": "win_rate.fspo.unseen.mean"}
"""
NAMES = ["000-beta=0.1,seed=0", "001-beta=0.1,seed=1", "002-beta=0.5,seed=0", "003-beta=0.5,seed=1"]

# Stands in for the interpreter: it "runs" a run by copying what is prepared under its name. A run
# that asks for it fails or waits for a signal.
FAKE_PYTHON = """#!/bin/sh
for flag in "$@"; do case $flag in --workdir=*) workdir=${flag#--workdir=} ;; esac; done
name=$(basename "$workdir")
echo "$name" >>"$PREPARED/log"
echo "$@" >"$PREPARED/$name.flags"
if [ -e "$PREPARED/$name.fails" ]; then exit 3; fi
if [ -e "$PREPARED/$name.waits" ]; then
  trap 'echo INT >>"$PREPARED/log"; told=1' INT
  echo $$ >"$PREPARED/pid" && mv "$PREPARED/pid" "$PREPARED/waiting"
  until [ "$told" ]; do sleep 0.1; done
  exit 130
fi
mkdir -p "$workdir" && cp -r "$PREPARED/$name/." "$workdir"
"""


def results(accuracy):
  by_k = {"0": 0.5, "2": accuracy}
  return {
    "preference_accuracy": {"fspo": {"unseen": by_k}},
    "preference_accuracy_ci95": {"fspo": {"unseen": dict.fromkeys(by_k)}},
    "bayes_accuracy": {},
    "win_rate": {"fspo": {"unseen": {"mean": accuracy / 2, "ci95": None, "users": 1}}},
    "wall_seconds": {},
    "environment": {},
  }


def finish(run, accuracy, directory=None):
  """What `fspo_jax.main` leaves of a run, in its own folder or another."""
  directory = directory or run.directory
  (directory / "stages").mkdir(parents=True)
  (directory / "config.json").write_text(json.dumps(run.config | {"data_sha256": ""}))
  (directory / "stages" / "evaluate.json").write_text('{"seconds": 1}')
  results_lib.write(directory / "results.json", results(accuracy))


@pytest.fixture(scope="module")
def sweep():
  """The script as a module."""
  spec = importlib.util.spec_from_file_location("launch_sweep", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def write(tmp_path):
  """Writes an experiment's file."""

  def write(text=EXPERIMENT):
    (tmp_path / "experiment.py").write_text(text)
    return str(tmp_path / "experiment.py")

  return write


@pytest.fixture
def runs(write, tmp_path):
  return sweeps.runs_of(sweeps.load(write()), tmp_path / "out", [])


@pytest.fixture
def call(sweep, tmp_path, capfd):
  """Calls the script; its status, standard output and standard error."""
  handlers = {number: signal.getsignal(number) for number in (2, 15, 1)}

  def call(*args, config=None):
    config = config or str(tmp_path / "experiment.py")
    # Should a test fail to keep it from running anything, this fails at once.
    args = (f"--config={config}", f"--workdir={tmp_path / 'out'}", "--python=false", *args)
    status = sweep.main(args)
    return status, *capfd.readouterr()

  yield call
  for number, handler in handlers.items():
    signal.signal(number, handler)


@pytest.fixture
def prepared(runs, tmp_path, monkeypatch):
  """What the fake interpreter makes of each run, and its log."""
  folder = tmp_path / "prepared"
  for run, accuracy in zip(runs, (0.6, 0.7, 0.8, 0.9), strict=True):
    finish(run, accuracy, folder / run.directory.name)
  (folder / "python").write_text(FAKE_PYTHON)
  (folder / "python").chmod(0o755)
  (folder / "log").touch()
  monkeypatch.setenv("PREPARED", str(folder))
  return folder


def log(prepared):
  return (prepared / "log").read_text().split()


def table(tmp_path):
  return json.loads((tmp_path / "out" / "sweep.json").read_text())


def test_runs_are_the_same_every_time(write, runs, tmp_path):
  assert [run.directory.name for run in runs] == NAMES
  assert runs == sweeps.runs_of(sweeps.load(write()), tmp_path / "out", [])
  assert [run.config["preference"]["loss"]["beta"] for run in runs] == [0.1, 0.1, 0.5, 0.5]
  assert [run.config["seed"] for run in runs] == [0, 1, 0, 1]


def test_keys_that_end_alike_are_told_apart(write, tmp_path):
  text = EXPERIMENT.replace('"seed": seed', '"sft.loss.beta": 0.2 + seed')
  runs = sweeps.runs_of(sweeps.load(write(text)), tmp_path, [])
  assert runs[1].directory.name == "001-preference.loss.beta=0.1,sft.loss.beta=1.2"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_sweeps_of_the_experiments(name, tmp_path):
  path, _, arg = name.partition(":")
  file = REPO / "experiments" / f"{path}.py"
  experiment = sweeps.load(f"{file}:{arg}" if arg else str(file))
  runs = sweeps.runs_of(experiment, tmp_path, [])
  assert {run.config["seed"] for run in runs} == {0, 1, 2}
  groups = sweeps.collect(runs, experiment.metrics())["seeds"]
  assert len(groups) == len(runs) / 3 > 1
  for metric in experiment.metrics().values():
    key, method, split, last = metric.split(".")
    assert method in methods.METHODS and split in results_lib.SPLITS
    if key == "preference_accuracy":
      assert 0 <= int(last) <= runs[0].config["evaluation"]["shots"]
    else:
      assert (key, last) == ("win_rate", "mean") and runs[0].config["evaluation"]["win_rate_users"]


@pytest.mark.parametrize("arg", ["", ":prompted", ":ric,elix", ":user_lora,roleplay", ":fspo_kto"])
def test_sweeps_of_the_rows_of_the_tables(arg, tmp_path):
  experiment = sweeps.load(f"{REPO / 'experiments' / 'methods.py'}{arg}")
  runs = sweeps.runs_of(experiment, tmp_path, [])
  assert [run.overrides for run in runs] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
  evaluation = runs[0].config["evaluation"]
  assert set(experiment.metrics().values()) == {
    path
    for method in evaluation["methods"][1:]
    for path in (
      f"preference_accuracy.{method}.unseen.{evaluation['shots']}",
      f"win_rate.{method}.unseen.mean",
    )
  }
  assert evaluation["win_rate_users"]


def test_dry_run_prints_what_would_be_run(write, runs, call, tmp_path):
  extra = ["--config.template=headings", "--config.data.path=it's here"]
  status, out, _ = call("--dry_run", "--python=python3", "--", *extra, config=f"{write()}:b")
  assert status == 0 and not (tmp_path / "out").exists()
  commands = [shlex.split(line) for line in out.splitlines()]
  assert len(commands) == 4
  for run, (env, where, *command) in zip(runs, commands, strict=True):
    assert (env, where.split(os.pathsep)[0]) == ("env", f"PYTHONPATH={REPO}")
    assert command[:3] == ["python3", "-m", "fspo_jax.main"]
    assert command[3:5] == [f"--config={write()}:b", f"--workdir={run.directory}"]
    assert set(command[5:]) == {
      *extra,
      f"--config.seed={run.overrides['seed']}",
      f"--config.preference.loss.beta={run.overrides['preference.loss.beta']}",
    }


def test_a_printed_command_runs_from_any_folder(write, call, tmp_path):
  write(EXPERIMENT.replace("range(2)", "(0, 1)"))
  _, out, _ = call(
    f"--python={sys.executable}",
    "--dry_run",
    "--index=3",
    "--",
    "--config.stages=('sft', 'tokenizer')",
  )
  (line,) = out.splitlines()
  done = subprocess.run(shlex.split(line), cwd="/", capture_output=True, text=True, timeout=300)
  # The recipe's own refusal: it has read the flags.
  assert done.returncode == 2 and "stages=('sft', 'tokenizer')" in done.stderr


def test_index_out_of_range(write, call):
  write()
  for index in (-1, 4):
    status, out, err = call(f"--index={index}", "--dry_run")
    assert status == 2 and not out and f"--index={index}: expected 0 to 3" in err


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ('"seed"', '"seedz"', "run 0: .*seedz"),
    ('"preference.loss.beta"', '"preference.los.beta"', "run 0: .*los"),
    ('"seed": seed', '"seed": seed + 0.5', "run 0: .*config.seed=0.5"),
    ('"seed": seed', '"seed": "a"', "run 0: .*config.seed=a"),
    ('"seed": seed', '"template": seed', "run 0: found template=0, expected a value of str"),
    ('"seed": seed', '"seed": str(seed)', "run 0: found seed='0', expected a value of int"),
    ('"seed": seed', '"model.tied": seed', "run 0: found model.tied=0, expected a value of bool"),
    ('"seed": seed', '"mesh": {"data": seed}', "run 0: .*expected the single keys"),
    ("range(2)", "(0, 1, 0)", "run 2: .* the same config as run 0"),
    ('"seed": seed', '**({"seed": 0} if seed else {})', "run 1: .* the same config as run 0"),
    ("range(2)", "()", "added no run"),
    ("def sweep", "def swept", "found no sweep in the file"),
    ("def metrics", "def measures", "found no metrics in the file"),
    ("return {", 'return "win_rate.fspo.unseen.mean"  # {', "expected a mapping or a tuple"),
  ],
)
def test_refused_before_anything_runs(write, call, tmp_path, old, new, message):
  assert old in EXPERIMENT
  write(EXPERIMENT.replace(old, new))
  status, out, err = call()
  assert status == 2 and not out and not (tmp_path / "out").exists()
  assert re.search(f"cannot start: .*{message}", err), err


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (("--", "--config.sedd=1"), "after --: .*sedd"),
    (("--", "--config.model.width=wide"), "after --: .*model.width"),
    (("--", "--config.seed=1"), "the sweep itself sets this key"),
    (("--", "--shard=0/8"), "found --shard=0/8 after --, expected --config.KEY=VALUE"),
    (("--python=/no/such/python",), "--python=/no/such/python: found nothing"),
    (("--collect",), "--workdir=.*: found no folder"),
  ],
)
def test_arguments_that_cannot_be_honoured(write, call, tmp_path, args, message):
  write()
  status, out, err = call(*args)
  assert status == 2 and not out and not (tmp_path / "out").exists()
  assert re.search(f"cannot start: .*{message}", err), err


def test_files_and_arguments_of_an_experiment_that_are_not(write, call):
  status, _, err = call(config="no/such/file.py:hard")
  assert status == 2 and "--config=no/such/file.py:hard: found no file" in err
  status, _, err = call(config=f"{write()}:c")
  assert status == 2 and "experiment.py:c: found 'c' after the colon" in err


@pytest.mark.parametrize("other", ["--index=0", "--dry_run"])
def test_collect_goes_alone(write, call, other):
  write()
  with pytest.raises(SystemExit, match="2"):
    call("--collect", other)


def test_the_folder_of_a_run_is_no_folder_of_a_sweep(runs, call, tmp_path):
  finish(runs[0], 0.5, tmp_path / "out")
  status, _, err = call()
  assert status == 2 and "found a run, expected a folder for runs" in err


def test_numpy_numbers_are_numbers(write, tmp_path):
  text = "import numpy as np\n" + EXPERIMENT.replace("range(2)", "np.arange(2)")
  runs = sweeps.runs_of(sweeps.load(write(text)), tmp_path, [])
  assert [run.directory.name for run in runs] == NAMES
  json.dumps([run.overrides for run in runs])


def test_all_runs_in_order_and_then_the_tables(prepared, call, tmp_path):
  status, _, err = call(f"--python={prepared / 'python'}", "--", "--config.sft.steps=7")
  assert status == 0, err
  assert log(prepared) == NAMES
  assert "--config.sft.steps=7" in (prepared / f"{NAMES[3]}.flags").read_text()
  # The folders hold what was prepared for another number of steps.
  assert {row["state"] for row in table(tmp_path)["runs"]} == {"another config (sft.steps)"}


def test_finished_runs_are_left_alone(prepared, runs, call, tmp_path):
  python = f"--python={prepared / 'python'}"
  assert call(python, "--index=2")[0] == 0
  assert log(prepared) == [NAMES[2]] and not (tmp_path / "out" / "sweep.md").exists()
  assert call(python, "--index=2")[0] == 0
  assert log(prepared) == [NAMES[2]]
  # Results, but the evaluation was stopped before its report was written.
  finish(runs[1], 0.2)
  (runs[1].directory / "stages" / "evaluate.json").unlink()
  status, _, err = call(python)
  assert status == 0 and err.count("already finished") == 1
  assert log(prepared) == [NAMES[2], NAMES[0], NAMES[1], NAMES[3]]
  found = table(tmp_path)
  assert [row["metrics"]["accuracy"] for row in found["runs"]] == [0.6, 0.7, 0.8, 0.9]


def test_a_run_of_another_config_is_not_finished(prepared, runs, call, tmp_path):
  finish(runs[0], 0.2)
  config = json.loads((runs[0].directory / "config.json").read_text())
  config["model"]["width"] += 1
  (runs[0].directory / "config.json").write_text(json.dumps(config))
  (prepared / f"{NAMES[0]}.fails").touch()  # as the recipe refuses such a folder
  status, _, _ = call(f"--python={prepared / 'python'}")
  assert status == 1 and log(prepared) == NAMES
  row = table(tmp_path)["runs"][0]
  assert row["state"].startswith("another config (model.width)")
  assert row["metrics"]["accuracy"] is None


def test_changed_data_is_another_run(write, tmp_path):
  (tmp_path / "users.jsonl").write_text("1")
  (run, *_) = sweeps.runs_of(
    sweeps.load(write()), tmp_path / "out", [f"--config.data.path={tmp_path / 'users.jsonl'}"]
  )
  finish(run, 0.6)
  file = run.directory / "config.json"
  known = json.loads(file.read_text())
  file.write_text(json.dumps(known | {"data_sha256": "of something else"}))
  assert sweeps.state_of(run)[0] == "another config (data_sha256)"
  file.write_text(json.dumps(known | {"data_sha256": fingerprint(tmp_path / "users.jsonl")}))
  assert sweeps.state_of(run)[0] == "finished"
  (tmp_path / "users.jsonl").unlink()  # on another machine
  assert sweeps.state_of(run)[0] == "finished"


def test_how_a_set_is_made_does_not_matter(runs):
  finish(runs[0], 0.6)
  config = json.loads((runs[0].directory / "config.json").read_text())
  config["synthesis"]["processes"] += 1
  (runs[0].directory / "config.json").write_text(json.dumps(config))
  assert sweeps.state_of(runs[0])[0] == "finished"


def test_a_failed_run_is_reported_and_the_others_run(prepared, call, tmp_path):
  (prepared / f"{NAMES[1]}.fails").touch()
  status, _, err = call(f"--python={prepared / 'python'}")
  assert status == 1 and log(prepared) == NAMES
  assert "run 1 failed (exit code 3)" in err.splitlines()[-2]
  states = [row["state"] for row in table(tmp_path)["runs"]]
  assert states == ["finished", "missing, failed (3)", "finished", "finished"]
  assert call(f"--python={prepared / 'python'}", "--index=1")[0] == 3


def test_ctrl_c_stops_the_run_and_says_how_to_go_on(write, prepared, tmp_path):
  (prepared / f"{NAMES[1]}.waits").touch()
  args = [f"--config={write()}", f"--workdir={tmp_path / 'out'}", f"--python={prepared / 'python'}"]
  process = subprocess.Popen(
    [sys.executable, str(SCRIPT), *args],
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    # A background job's parent may ignore it, and then so would the script.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
  )
  run = None
  try:
    deadline = time.monotonic() + 120
    while not (prepared / "waiting").exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.05)
    run = int((prepared / "waiting").read_text())
    # A terminal tells the whole group, the script passes it on: the run should be told once.
    assert os.getpgid(run) != process.pid
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
  finally:
    if process.poll() is None:
      process.kill()
      if run is not None:
        os.kill(run, signal.SIGKILL)
  assert process.returncode == 130 and "Traceback" not in err
  assert log(prepared) == [*NAMES[:2], "INT"]
  assert "stopped in run 1; the same command goes on from there" in err
  assert shlex.join([str(SCRIPT), *args]) in err
  assert not (tmp_path / "out" / "sweep.md").exists()


def test_missing_runs_are_listed(runs, call, tmp_path):
  finish(runs[0], 0.6)
  finish(runs[2], 0.8)
  (runs[2].directory / "results.json").unlink()
  finish(runs[3], 0.9)
  (runs[3].directory / "results.json").write_text("{}")
  (tmp_path / "out" / "007-beta=9").mkdir()
  status, _, err = call("--collect")
  assert status == 0 and "1 of 4 runs are finished" in err
  found = table(tmp_path)
  states = [row["state"] for row in found["runs"]]
  assert states[:3] == ["finished", "missing", "unfinished"]
  assert states[3].startswith("broken (") and "results.json" in states[3]
  assert found["other_folders"] == ["007-beta=9"]
  text = (tmp_path / "out" / "sweep.md").read_text()
  assert "1 of 4 runs are finished. Folders of runs that the sweep no longer has: 007" in text
  assert "| 0 | finished | 0.1 | 0 | 0.6 | 0.3 |" in text
  assert "| 1 | missing | 0.1 | 1 | - | - |" in text
  assert "| 0, 1 | 0.1 | 0.6 (0.6 to 0.6; n=1) | 0.3 (0.3 to 0.3; n=1) |" in text
  assert "| 2, 3 | 0.5 | - (n=0) | - (n=0) |" in text


def test_runs_that_differ_in_the_seed_alone_are_aggregated(runs, call, tmp_path):
  for run, accuracy in zip(runs, (0.6, 0.7, 0.8, 1.0), strict=True):
    finish(run, accuracy)
  assert call("--collect")[0] == 0
  found = table(tmp_path)
  assert [row["metrics"]["accuracy"] for row in found["runs"]] == [0.6, 0.7, 0.8, 1.0]
  first, second = found["seeds"]
  assert first["runs"] == [0, 1] and second["overrides"] == {"preference.loss.beta": 0.5}
  measured = second["metrics"]["accuracy"]
  assert measured == {"n": 2, "mean": pytest.approx(0.9), "min": 0.8, "max": 1.0}
  text = (tmp_path / "out" / "sweep.md").read_text()
  assert "| 0, 1 | 0.1 | 0.65 (0.6 to 0.7; n=2) | 0.325 (0.3 to 0.35; n=2) |" in text


def test_no_seeds_no_table_of_seeds(write, call, tmp_path):
  write(EXPERIMENT.replace('"seed": seed', '"sft.steps": 5 + seed'))
  (tmp_path / "out").mkdir()
  assert call("--collect")[0] == 0
  assert "Over seeds" not in (tmp_path / "out" / "sweep.md").read_text()


def test_a_metric_that_no_run_has_is_said(write, call, tmp_path):
  write(EXPERIMENT.replace("win_rate.fspo.unseen.mean", "win_rate.fspo.unsen.mean"))
  for run in sweeps.runs_of(sweeps.load(str(tmp_path / "experiment.py")), tmp_path / "out", []):
    finish(run, 0.6)
  status, _, err = call("--collect")
  assert status == 1 and "no finished run has a number at 'win_rate.fspo.unsen.mean'" in err
  assert "| 0 | finished | 0.1 | 0 | 0.6 | - |" in (tmp_path / "out" / "sweep.md").read_text()


def test_paths_into_results():
  tree = {"a": {"b.5": {"c": 1}, "b": {"d": True, "5": {"e": 2}}}}
  assert sweeps.look_up(tree, "a.b.5.c") == 1 and sweeps.look_up(tree, "a.b.5.e") == 2
  for path in ("a.b", "a.b.d", "a.x", "a.b.5.c.z"):
    assert sweeps.look_up(tree, path) is None


@pytest.mark.slow
def test_a_real_run(write, tmp_path):
  text = EXPERIMENT.replace(
    "return config.default()",
    """c = config.default()
  c.stages = ("tokenizer",)
  c.tokenizer.vocab_size = 600
  c.tokenizer.corpus_lines = 500
  return c""",
  )
  args = [f"--config={write(text)}", f"--workdir={tmp_path / 'out'}", "--index=3"]
  for message in ("starting", "already finished"):
    done = subprocess.run(
      [sys.executable, SCRIPT, *args], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert f"sweep: run 3 (0 to 3): {message} in {tmp_path / 'out' / NAMES[3]}" in done.stderr
  assert (tmp_path / "out" / NAMES[3] / "tokenizer.model").exists()
