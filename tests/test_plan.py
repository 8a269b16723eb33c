# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m fspo_jax.plan`, and the configs of pods."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from fspo_jax import checks, config, pods
from fspo_jax.models import shapes
from fspo_jax.planning import collectives, hardware, meshes, report
from fspo_jax.planning.estimate import Estimate
from tests import tiny

QUICKSTART = "--config=experiments/quickstart.py:scratch"
# What the issue asks to see; each takes minutes.
POD = [(model, "v5e-64") for model in shapes.NAMES]
POD += [("llama3.2-3b", hardware) for hardware in ("v5e-256", "v5p-128", "v6e-64")]
POD += [("llama3.1-8b", hardware) for hardware in ("8xh100", "8xh200")]


def _plan(*arguments):
  command = [sys.executable, "-m", "fspo_jax.plan", *arguments]
  environment = {**os.environ, "PYTHONPATH": str(tiny.REPO)}
  return subprocess.run(
    command, env=environment, cwd=tiny.REPO, capture_output=True, text=True, check=False
  )


def test_a_plan_for_two_cpus_says_what_the_step_needs():
  small = ["--config.model.layers=1", "--config.preference.rows_per_step=2", "--config.mesh.data=2"]
  done = _plan(QUICKSTART, "--platform=cpu", "--compile=0", "--json", *small)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  (row,) = found["compiled"]
  assert found["topology"] == "cpu:2"
  assert row["fits"]
  assert row["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
  assert row["flops"]["formula"] == pytest.approx(row["flops"]["program"], rel=0.1)
  memory = row["memory"]
  # Float32: parameters, and as much again that the reference has.
  assert memory["params"] == memory["frozen"] > 4 * 1216 * 96
  assert memory["total"] > memory["params"] + memory["frozen"] + memory["optimizer"]
  # The gradient is summed over both, all of it.
  assert row["sent_bytes"]["by_axes"]["data"] > 0.9 * memory["params"]
  assert row["sent_bytes"]["loops_of_unknown_length"] == 0
  assert {tuple(one["mesh"].values()) for one in found["estimated"]} >= {(1, 2, 1)}


@pytest.mark.parametrize(
  "flags, message",
  [
    ((), "expected one of --topology=NAME and --platform=cpu"),
    (("--topology=v5e:8by8",), "topology='v5e:8by8': expected a chip of"),
    (("--platform=cpu", "--stage=sft", "--config.stages=('base','preference')"), "found no 'sft'"),
    (
      ("--topology=h100:1", "--config.model.attention=pallas_gpu"),
      "model.attention='pallas_gpu': found model.attention_block=128, expected at most 64",
    ),
  ],
)
def test_what_cannot_be_planned_is_said(flags, message):
  done = _plan(QUICKSTART, *flags)
  assert done.returncode == 2
  said = [line for line in done.stderr.splitlines() if not line.startswith("compiling ")]
  assert len(said) == 1 and message in said[0]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named():
  with pytest.raises(hardware.TopologyError, match=r"pip install 'fspo_jax\[tpu-plan\]'"):
    hardware.target("v5e:2x2")


@pytest.mark.parametrize("model", shapes.NAMES)
@pytest.mark.parametrize("name", pods.SLICES)
def test_every_pods_config_is_one_that_can_be_planned(model, name):
  c = pods.config(model, name)
  chips = hardware.chips(pods.SLICES[name])
  cores = 2 if name.startswith("v5p-") else 1
  assert chips == (8 if name.startswith("8x") else int(name.partition("-")[2]) // cores)
  assert chips == c.mesh.data * c.mesh.fsdp * c.mesh.tensor
  for stage in (c.sft, c.preference):
    assert stage.rows_per_step % (c.mesh.data * c.mesh.fsdp) == 0
    assert stage.steps > stage.optimizer.warmup_steps
    config.loop(stage)
    config.packing(stage)
  shape = config.transformer(c, 1)
  for size in (shape.heads, shape.kv_heads, shape.mlp, shape.vocab_size):
    assert size % c.mesh.tensor == 0
  assert shape.width % c.mesh.fsdp == 0


def test_a_pods_config_has_the_papers_hyper_parameters():
  c = pods.config("llama3.2-3b", "v5e-64")
  preference, sft = c.preference, c.sft
  assert (sft.optimizer.learning_rate, preference.optimizer.learning_rate) == (1e-7, 1e-6)
  assert (preference.loss.name, preference.loss.beta) == ("ipo", 0.01)
  for stage in (sft, preference):
    rule = stage.optimizer
    assert (rule.name, rule.warmup_steps, rule.clip_norm) == ("rmsprop", 150, 10.0)
    assert (stage.shots, stage.row_tokens) == (8, 8192)
  assert sft.loss.preference_weight == 0
  # One pass scores the pair after each of 0 .. 8 shots.
  assert config.packing(preference).pairs == 9


def test_a_pod_without_a_folder_is_refused_before_anything_is_done():
  c = pods.config("llama3.2-1b", "8xh100")
  with pytest.raises(ValueError, match="base='' and stages=.*expected a base"):
    checks.check(c)


@pytest.mark.parametrize("arg", ["llama3.2-3b", "model=llama3.2-3b", "model=a,hardware=b,c=d"])
def test_other_arguments_are_refused(arg):
  with pytest.raises(ValueError, match=r"expected model=NAME,hardware=NAME: a model of"):
    pods.parse(arg)


def test_the_roleplay_experiment_is_the_same_without_an_argument():
  with tiny.script("experiments/roleplay.py") as module:
    assert module["get_config"]().base == "published"
    pod = module["get_config"]("model=qwen3-4b,hardware=v6e-8")
  assert pod.to_dict() == pods.config("qwen3-4b", "v6e-8").to_dict()


def test_the_fastest_that_fits_is_first():
  chip = hardware.CHIPS["v5e"]
  target = hardware.Target("v5e:1x1", chip, (None,), True)

  def row(flops, fits):
    empty = report.Compiled(fits, 0, 1, 0, 0, 0, 0, collectives.Traffic((), 0), 0, 0)
    one = meshes.Candidate(1, 1, 1, "full", Estimate(0.0, 0.0, 0.0, 0.0))
    return report.Row(one, empty, flops, 0, 0, 0)

  rows = [row(3e12, True), row(1e12, False), row(2e12, True)]
  assert report.best_first(rows, target) == [rows[2], rows[0], rows[1]]


@pytest.mark.slow
def test_where_cpus_stand_in_for_gpus_they_interpret_their_kernels():
  small = ["--config.model.layers=1", "--config.preference.rows_per_step=2", "--config.mesh.data=2"]
  small += ["--config.model.attention=pallas_gpu", "--config.model.attention_block=64"]
  done = _plan(QUICKSTART, "--topology=h100:2", "--compile=0", "--json", *small)
  assert done.returncode == 0, done.stderr
  (row,) = json.loads(done.stdout)["compiled"]
  assert row["flops"]["formula"] == pytest.approx(row["flops"]["program"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("model, name", POD)
def test_a_pods_config_compiles_and_fits(model, name):
  pytest.importorskip("libtpu")  # who has the extra can wait
  arguments = f"--config=experiments/roleplay.py:model={model},hardware={name}"
  topology = f"--topology={pods.SLICES[name]}"
  done = _plan(arguments, topology, "--compile=0", "--json")
  assert done.returncode == 0, done.stderr
  (row,) = json.loads(done.stdout)["compiled"]
  assert row["fits"]
  assert row["sent_bytes"]["loops_of_unknown_length"] == 0
