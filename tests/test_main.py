# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line from end to end: a run, the same run again, a killed run, refused runs."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fspo_jax import checkpoints, jsonl, preferences
from fspo_jax.episodes import tokenizers
from fspo_jax.evaluation import results as results_lib
from fspo_jax.inference.writer import Writer
from fspo_jax.worlds.world import simulate_user
from tests import tiny, tiny_base

pytestmark = pytest.mark.slow

SHOTS, STEPS, EVERY = 2, 60, 5
# Few steps of a very small model; the checkpoints are many, so that a kill falls between two.
OVERRIDES = {
  "tokenizer.vocab_size": 900,
  "tokenizer.corpus_lines": 1500,
  "model.width": 16,
  "model.layers": 1,
  "model.heads": 2,
  "model.kv_heads": 1,
  "model.head_dim": 8,
  "model.mlp": 16,
  "model.attention_block": 512,
  **{
    f"{stage}.{key}": value
    for stage in ("sft", "preference")
    for key, value in {
      "shots": SHOTS,
      "queries": 1,
      "rows_per_step": 1,
      "row_episodes": 1,
      "window_rows": 1,
      "row_tokens": 512,
      "scored_tokens": 384,
      "optimizer.warmup_steps": 1,
      "layout.query_shots": (SHOTS,),
    }.items()
  },
  "sft.steps": 3,
  "preference.steps": STEPS,
  "preference.checkpoint_every": EVERY,
  "preference.log_every": 1,
  "evaluation.shots": SHOTS,
  "evaluation.episodes": 16,
  "evaluation.bootstrap": 50,
}
DESCRIBED = {
  "preference.layout.description_shots": (SHOTS,),
  "preference.layout.description_queries": (SHOTS,),
  "evaluation.rat_episodes": 4,
  "evaluation.max_description_tokens": 8,
}
QUICKSTART = OVERRIDES | DESCRIBED
QUICKSTART |= {
  "evaluation.win_rate_users": 4,
  "evaluation.win_rate_prompts": 2,
  "evaluation.max_response_tokens": 8,
}
METHODS = {"base", "fewshot_prompted", "fspo", "fspo_rat", "fspo_gold"}
KS = {str(k) for k in range(SHOTS + 1)}


def _start(cache, workdir, overrides, *, experiment="quickstart:scratch", devices=1):
  """Starts the command line in a directory that is not the repository's."""
  file, colon, arg = experiment.partition(":")
  flags = [f"--config.{key}={value}" for key, value in overrides.items()]
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "fspo_jax.main"),
      f"--config={tiny.REPO / 'experiments' / file}.py{colon}{arg}",
      f"--workdir={workdir}",
      *flags,
    ],
    cwd=cache,
    env={
      **os.environ,
      "PYTHONPATH": str(tiny.REPO),
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
      # Most of the time is XLA's compilation, and it is the same in every run.
      "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finish(process):
  """Waits for a run; its exit status, standard output and standard error."""
  out, err = process.communicate(timeout=900)
  return process.returncode, out, err


def _kill_when(process, happened):
  """Kills a run, as a machine that is taken away does, as soon as something has happened."""
  deadline = time.monotonic() + 900
  while not happened():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.005)
  os.kill(process.pid, signal.SIGKILL)
  return process.communicate()[1]


def _files(path):
  """Contents and times of the files of a run. The config is written anew, with the same bytes."""
  return {
    str(file.relative_to(path)): (
      file.read_bytes(),
      file.stat().st_mtime_ns if file.name != "config.json" else None,
    )
    for file in sorted(path.rglob("*"))
    if file.is_file()
  }


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
  """A finished tiny quickstart: its directory and what it printed."""
  workdir = tmp_path_factory.mktemp("runs") / "tiny"
  status, out, err = _finish(_start(cache, workdir, QUICKSTART))
  assert status == 0, err
  return workdir, out


def test_the_results_are_complete(run):
  workdir, out = run
  assert str(workdir / "results.json") in out
  assert all(str(workdir / "report" / f"report.{kind}") in out for kind in ("md", "html"))
  results = results_lib.read(workdir / "results.json")
  for key in ("preference_accuracy", "preference_accuracy_ci95"):
    assert set(results[key]) == METHODS
    for by_split in results[key].values():
      assert by_split.keys() == {"unseen", "heldout_combinations"}
      assert all(by_k.keys() == KS for by_k in by_split.values())
  # Without shots there is nothing to go by, for few-shot prompting not even in principle.
  for split in ("unseen", "heldout_combinations"):
    assert results["preference_accuracy"]["fewshot_prompted"][split]["0"] == 0.5
    assert results["bayes_accuracy"][split].keys() == KS
  # The prior of held-out combinations is symmetric; that of the other users is not.
  assert results["bayes_accuracy"]["heldout_combinations"]["0"] == 0.5
  for key in ("win_rate", "win_rate_temperature_1"):
    assert set(results[key]) == METHODS
    assert all(found["users"] <= 4 for by in results[key].values() for found in by.values())
  assert results["wall_seconds"].keys() == {"tokenizer", "sft", "preference", "evaluate"}
  assert results["environment"]["seed"] == 0
  assert set(results["dropped_shots"].values()) == {0}


def test_the_report_has_its_images(run):
  workdir, _ = run
  text = (workdir / "report" / "report.md").read_text()
  images = [part.partition(")")[0] for part in text.split("](")[1:]]
  assert {"accuracy_by_k.png", "win_rates.png", "training.png"} <= set(images)
  for image in images:
    assert (workdir / "report" / image).read_bytes().startswith(b"\x89PNG")
  page = (workdir / "report" / "report.html").read_text()
  assert page.count('<img src="data:image/') == len(images)
  for told in ("../checkpoints/preference/", "../responses.jsonl", "preference.log_every"):
    assert told in page
    assert told in text


def test_a_run_in_the_chat_template_of_another_models_tokenizer(tmp_path, cache):
  """From `tokenizer.json` to a report; the checkpoints carry the template, and answer by it."""
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  pytest.importorskip("jinja2", reason="the extra 'hf' is not installed")
  folder = tiny.REPO / "tests" / "fixtures" / "tokenizers" / "llama_3"
  overrides = QUICKSTART | {
    "tokenizer.path": folder,
    "template": "chat",
    "chat.system": "You know what this user likes.",
    "chat.date": "2024-07-26",
    "sft.steps": 2,
    "preference.steps": 2,
    **{f"{stage}.row_tokens": 2560 for stage in ("sft", "preference")},
    **{f"{stage}.scored_tokens": 1536 for stage in ("sft", "preference")},
    "evaluation.methods": ("base", "fspo_rat"),
    "evaluation.episodes": 4,
    "evaluation.win_rate_users": 2,
    "evaluation.win_rate_prompts": 1,
  }
  del overrides["tokenizer.vocab_size"], overrides["tokenizer.corpus_lines"]
  status, _, err = _finish(_start(cache, tmp_path / "run", overrides))
  assert status == 0, err
  form = Writer.load(tmp_path / "run" / "checkpoints" / "preference").formatter
  assert "You know what this user likes.<|eot_id|>" in form.template.start
  assert form.tokenizer.files == {f.name: f.read_bytes() for f in folder.iterdir()}
  assert form.stop_id == form.tokenizer.token_id("<|eot_id|>")


def test_a_checkpoint_holds_the_config_and_the_tokenizer(run):
  workdir, _ = run
  config = json.loads((workdir / "config.json").read_text())
  assert config.pop("data_sha256") == ""  # a world has no files
  assert config["model"]["width"] == 16 and config["data"]["name"] == "reviews"
  for stage, steps in (("sft", 3), ("preference", STEPS)):
    with checkpoints.Checkpoints(workdir / "checkpoints" / stage) as saved:
      assert saved.latest_step() == steps
      assert saved.metadata()["config"] == config
      assert saved.tokenizer() == (workdir / "tokenizer.model").read_bytes()
  assert tokenizers.load(workdir / "tokenizer.model").vocab_size <= 900
  lines = (workdir / "metrics" / "preference.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


def test_the_same_command_again_does_nothing(run, cache):
  workdir, out = run
  before = _files(workdir)
  status, again, err = _finish(_start(cache, workdir, QUICKSTART))
  assert status == 0, err
  assert again.splitlines() == out.splitlines()[-3:]  # where the results are
  assert err.count("already finished") == 4 and "starting" not in err
  assert _files(workdir) == before


def test_a_killed_run_goes_on_as_if_it_had_not_been(run, cache, tmp_path):
  whole, killed = run[0], tmp_path / "killed"
  metrics = killed / "metrics" / "preference.jsonl"

  def half_way():
    return metrics.exists() and metrics.read_bytes().count(b"\n") > STEPS // 3

  _kill_when(_start(cache, killed, QUICKSTART), half_way)
  assert not (killed / "stages" / "preference.json").exists()
  assert metrics.read_bytes() != (whole / "metrics" / "preference.jsonl").read_bytes()

  # Again, and on to the evaluation, which this test has no use for.
  done = (killed / "stages" / "preference.json").exists
  log = _kill_when(_start(cache, killed, QUICKSTART), done)
  assert "preference: resuming after step " in log
  assert log.count("already finished") == 2  # the tokenizer and SFT
  assert metrics.read_bytes() == (whole / "metrics" / "preference.jsonl").read_bytes()
  ours, theirs = (
    tiny.flat(Writer.load(path / "checkpoints" / "preference").params) for path in (killed, whole)
  )
  assert ours.keys() == theirs.keys()
  for name, leaf in ours.items():
    np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


def test_a_directory_of_another_config_is_refused_and_left_as_it_was(run, cache):
  workdir, _ = run
  before = _files(workdir)
  status, out, err = _finish(_start(cache, workdir, QUICKSTART | {"seed": 1}))
  assert status == 2 and not out
  (line,) = err.splitlines()
  assert line.startswith(f"fspo_jax: cannot start: --workdir={workdir}: was made by another config")
  assert "seed: 0 there, 1 here" in line
  assert _files(workdir) == before


def test_an_unknown_key_is_refused_by_its_name(cache, tmp_path):
  status, _, err = _finish(_start(cache, tmp_path / "new", {"preference.shotz": 3}))
  assert status != 0 and "shotz" in err
  assert not (tmp_path / "new").exists()


def test_a_batch_that_the_devices_do_not_divide_is_refused(cache, tmp_path):
  changes = {"preference.rows_per_step": 3}
  status, out, err = _finish(_start(cache, tmp_path / "new", changes, devices=2))
  assert status == 2 and not out
  (line,) = err.splitlines()
  assert "preference: rows_per_step=3 cannot be split over" in line and "= 2 devices" in line
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("described", [False, True], ids=["no descriptions", "descriptions"])
def test_a_file_of_users_runs_from_end_to_end(cache, tmp_path, described):
  world, rng = tiny.world(), np.random.default_rng(0)
  users = [simulate_user(world, rng, user, 10) for user in world.users("train")[:40]]
  if not described:
    users = [preferences.User(user.user_id, user.preferences) for user in users]
  jsonl.write_jsonl(tmp_path / "users.jsonl", users)
  changes = OVERRIDES | (DESCRIBED if described else {})
  changes |= {
    "preference.steps": 4,
    "data.path": tmp_path / "users.jsonl",
    "data.unseen_users": 0.3,
    "data.unseen_prompts": 0.3,
    "data.small_users": "set_aside",
  }
  process = _start(cache, tmp_path / "run", changes, experiment="jsonl")
  status, _, err = _finish(process)
  assert status == 0, err
  results = results_lib.read(tmp_path / "run" / "results.json")
  methods = {"base", "fewshot_prompted", "fspo"} | (
    {"fspo_rat", "fspo_gold"} if described else set()
  )
  assert results["preference_accuracy"].keys() == methods
  for by_split in results["preference_accuracy"].values():
    assert by_split.keys() == {"unseen"} and by_split["unseen"].keys() == KS
  assert results["bayes_accuracy"] == {} and results["win_rate"] == {}
  text = (tmp_path / "run" / "report" / "report.md").read_text()
  assert "FSPO on jsonl" in text and "users, unseen" in text


SYNTHETIC = {
  "synthesis.set.users": 60,  # or one whom the gate finds odd would be more than its 2 %
  "synthesis.set.questions": 60,
  "synthesis.set.responses": 6,
  "synthesis.set.pairs": 30,
}


@pytest.mark.parametrize("experiment", ["elix", "roleplay"])
def test_a_world_s_set_is_made_and_trained_on(cache, tmp_path, experiment):
  """From scratch, or from a base, whose shape is that of `OVERRIDES`."""
  changes = QUICKSTART | SYNTHETIC | {"preference.steps": 4}
  stages, methods = ["sft", "tokenizer"], ["base", "fspo", "fspo_rat", "fspo_gold"]
  if experiment == "roleplay":
    tiny_base.make(tmp_path / "base")
    changes["base"] = tmp_path / "base"
    stages, methods = ["base"], ["base", "fewshot_prompted", "oracle", "fspo"]
  changes |= {
    "preference.layout.description_queries": (),
    "evaluation.max_response_tokens": 16,
    # Windows of rows whose lengths the texts decide, of which the first rows alone are read.
    **{
      f"{stage}.{key}": value
      for stage in ("sft", "preference")
      for key, value in {
        "row_episodes": 2,
        "window_rows": 8,
        "row_tokens": 0,
        "scored_tokens": 0,
      }.items()
    },
  }
  run = tmp_path / "run"
  status, out, err = _finish(_start(cache, run, changes, experiment=experiment))
  assert status == 0, err
  results = results_lib.read(run / "results.json")
  for method in methods:
    assert results["preference_accuracy"][method]["unseen"].keys() == KS
  assert results["bayes_accuracy"]["unseen"].keys() == KS
  assert results["win_rate"]["fspo"]["unseen"]["users"] > 0
  assert set(results["wall_seconds"]) == {"synthesis", *stages, "preference", "evaluate"}
  made = run / "data" / "synthetic" / experiment / "1.0.0"
  assert f"set:     {made}" in out and (made / "card.md").exists()
  # Training on it as a set that is there gives the very same results.
  again = changes | {"data.name": "user_set", "data.path": made, "data.world": experiment}
  again |= {"stages": (*reversed(stages), "preference", "evaluate")}
  status, _, err = _finish(_start(cache, tmp_path / "again", again, experiment=experiment))
  assert status == 0, err
  other = results_lib.read(tmp_path / "again" / "results.json")
  assert other["preference_accuracy"] == results["preference_accuracy"]
  assert other["bayes_accuracy"] == results["bayes_accuracy"]
  assert other["win_rate"] == results["win_rate"]


def test_a_set_below_the_gate_is_refused_unless_told(cache, tmp_path):
  changes = QUICKSTART | SYNTHETIC | {"synthesis.gate.max_entropy": 0.0}
  run = tmp_path / "run"
  status, out, err = _finish(_start(cache, run, changes, experiment="synthesis/elix"))
  assert status == 0 and "below the quality gate: mean entropy" in err
  (made,) = [line.split()[1] for line in out.splitlines() if line.startswith("set:")]
  use = QUICKSTART | {
    "sft.curriculum.use": False,
    "preference.curriculum.use": False,
    "data.name": "user_set",
    "data.path": made,
    "stages": ("tokenizer",),
    "synthesis.gate.max_entropy": 0.0,
  }
  status, _, err = _finish(_start(cache, tmp_path / "use", use))
  assert status == 2 and "mean entropy of labels in nats: found" in err
  assert "--config.data.below_gate=accept" in err
  use |= {"data.below_gate": "accept"}
  status, _, err = _finish(_start(cache, tmp_path / "use", use))
  assert status == 0, err


def test_a_language_model_without_a_name_or_an_endpoint_is_refused(cache, tmp_path):
  name = "synthesis/roleplay"
  for changes, message in (
    ({}, "model: found Model(name=''"),
    ({"synthesis.set.models": (("m", 1.0),), "synthesis.set.judge": ("m", 1.0)}, "base_url"),
  ):
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "fspo_jax.main"),
        f"--config={tiny.REPO / 'experiments' / name}.py:llm",
        f"--workdir={tmp_path / 'new'}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
      ],
      env={**os.environ, "PYTHONPATH": str(tiny.REPO)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    status, _, err = _finish(process)
    assert status == 2 and message in err
    assert not (tmp_path / "new").exists()
