# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: what they count, what they refuse to compare, and a tiny run of each."""

import dataclasses
import importlib
import io
import json
from unittest import mock

from absl import app
import jax
import numpy as np
import pytest

from fspo_jax import sharding
from tests import tiny

counting, contract, setting_lib, fspo = (
  importlib.import_module(f"experiments.benchmarks.contenders.{name}")
  for name in ("counting", "contract", "setting", "fspo")
)
WHY = "needs `pip install fspo_jax[bench]`"
SETTING = setting_lib.Setting("tiny", "float32", "reviews", 2, 2, 1, 0, 0)
# As small as may be: each contender is a process that imports JAX and compiles.
FLAGS = ("--model=tiny", "--shots=1", "--episodes=1", "--rounds=2", "--steps=1", "--warmup=1")


@pytest.fixture
def step():
  with tiny.script("experiments/benchmarks/step.py") as script:
    yield script


def test_flops_by_hand():
  """A layer of width 4: q, o 4 x 4, k, v 4 x 2, three of 4 x 6; two tokens, one of them scored."""
  sizes = {"width": 4, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 2, "mlp": 6}
  config = dataclasses.replace(tiny.config(), vocab_size=10, **sizes)
  matrices = 2 * 2 * (16 + 16 + 8 + 8 + 3 * 24)
  attention = 4 * 2 * 2 * (1 + 2)
  assert counting.forward_flops(config, np.asarray([1, 2]), 1) == matrices + attention + 2 * 4 * 10


def test_what_is_distinct_is_counted_once():
  task = setting_lib.task(SETTING)
  ours, paper = (
    counting.work(SETTING, task, paper=paper, cached=False, padded=1000) for paper in (False, True)
  )
  assert (ours.terms, paper.terms) == (2 * 3, 2 * 1)  # every k of two episodes; k = 2 alone
  twice = sum(2 * len(s.prompt) + len(s.chosen) + len(s.rejected) for s in task.sequences)
  once = sum(len(s.prompt) + len(s.chosen) + len(s.rejected) for s in task.sequences)
  assert (paper.tokens, paper.unique_tokens) == (twice, once)
  assert ours.tokens == ours.unique_tokens and ours.flops == ours.useful_flops
  assert paper.padding_fraction == pytest.approx(1 - twice / 1000)
  cached = counting.work(SETTING, task, paper=False, cached=True, padded=1000)
  assert cached.useful_flops == pytest.approx(0.75 * ours.useful_flops)  # no reference
  assert counting.predicted(ours, paper)["by_tokens"] == pytest.approx(3 * twice / ours.tokens)


def test_rows_of_the_paper_are_its_sequences():
  task = setting_lib.task(SETTING)
  for rows, s in zip(fspo.two_sequences(task.paper), task.sequences, strict=True):
    for row, answer in zip(rows, (s.chosen, s.rejected), strict=True):
      plain = [*s.prompt, *answer]
      assert row.tokens[: len(plain)].tolist() == plain
      assert row.positions[: len(plain)].tolist() == list(range(len(plain)))
      assert row.target[row.segment == 0].tolist() == list(answer)


def _has_one(monkeypatch, gpu):
  mesh = jax.sharding.Mesh(np.full((1, 1, 1, 1, 1), gpu), sharding.MESH_AXES)
  monkeypatch.setattr(sharding, "one_device", lambda: mesh)


def test_who_needs_a_gpu_is_absent_without_one(tmp_path, monkeypatch):
  with pytest.raises(contract.AbsentError, match="found 'cpu', expected a GPU of compute"):
    fspo.Trees(SETTING, tmp_path, cached=False, by_kernels=True)
  _has_one(monkeypatch, mock.Mock(platform="gpu", compute_capability="8.9", device_kind="L4"))
  with pytest.raises(contract.AbsentError, match="found 'L4', expected .* capability 8.0 or 9.0"):
    fspo.Trees(SETTING, tmp_path, cached=False, by_kernels=True)


def test_kernels_that_a_gpu_cannot_have_are_an_error(tmp_path, monkeypatch):
  """They are not absent there: nobody would look for what is wrong."""
  setting = dataclasses.replace(SETTING, kernel_block=96)
  _has_one(monkeypatch, mock.Mock(platform="gpu", compute_capability="9.0"))
  with pytest.raises(ValueError, match="attention_block=96, expected a power of two"):
    fspo.Trees(setting, tmp_path, cached=False, by_kernels=True)


def test_what_is_wrong_with_ours_is_not_taken_for_absence(tmp_path):
  SETTING.write(tmp_path)  # and no weights
  with tiny.script("experiments/benchmarks/step.py", "--only=ours") as script:
    with pytest.raises(script["BenchmarkError"], match="ours_cached: ended with 1(.|\n)*policy"):
      script["Process"]("ours_cached", tmp_path)


def test_blocks_of_kernels_that_nobody_runs_are_refused():
  arguments = ("--kernel_block=32", "--only=ours_cached")
  with (
    tiny.script("experiments/benchmarks/step.py", *arguments) as script,
    pytest.raises(app.UsageError, match="--kernel_block=32: found --only=ours_cached, expected"),
  ):
    script["main"](["step"])


def test_texts_are_stretched_to_a_number_of_tokens():
  long = setting_lib.task(dataclasses.replace(SETTING, tokens=1000))
  assert 980 < max(len(t.tree) for t in long.trees) < 1020


@pytest.mark.parametrize(
  ("key", "value"), [("model", "huge"), ("dtype", "int8"), ("world", "none"), ("episodes", 0)]
)
def test_impossible_settings_are_refused(key, value):
  with pytest.raises(ValueError, match=f"{key}={value!r}: expected"):
    dataclasses.replace(SETTING, **{key: value})


def _shown(**changes):
  scores = {k: np.asarray([-9.0, -5.0]) for k in ("chosen", "rejected", "ref_chosen")}
  return {**scores, "ref_rejected": np.asarray([-7.0, -7.0]), "gradient/w": np.ones(3), **changes}


def test_who_computes_the_same_is_compared(step):
  apart = step["differences"]("x", _shown(chosen=np.asarray([-9.0009, -5.0])), _shown(), "float32")
  assert apart == {"logprobs": pytest.approx(1e-4), "gradient": 0.0}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"chosen": np.asarray([-9.1, -5.0])}, "x: logprobs differ"),
    ({"ref_rejected": np.asarray([np.nan, -7.0])}, "x: logprobs differ"),
    ({"gradient/w": np.asarray([1.0, 1.0, 1.01])}, "x: gradient differ"),
    ({"gradient/v": np.ones(3)}, "other tensors.*gradient/v"),
    ({"chosen": np.zeros(3)}, "shape"),
  ],
)
def test_who_does_not_is_refused(step, changes, message):
  with pytest.raises(step["BenchmarkError"], match=message):
    step["differences"]("x", _shown(**changes), _shown(), "float32")


def test_rounds_are_timed_apart_and_end():
  answers, waits = [], []
  requests = "".join(json.dumps({"steps": n}) + "\n" for n in (1, 3))
  rounds = contract.Rounds(io.StringIO(requests), answers.append)
  rounds.begin(lambda: waits.append(len(answers)))
  for _ in range(3):
    rounds.done()
  assert [a["steps"] for a in answers] == [1] and waits == [0]
  with pytest.raises(contract.FinishedError):
    rounds.done()
  assert [a["steps"] for a in answers] == [1, 3] and waits == [0, 1]


def _run(tmp_path, only):
  with tiny.script("experiments/benchmarks/step.py", *FLAGS, f"--only={only}") as script:
    found = script["measure"](tmp_path)
    script["table"](found)
  return json.loads(json.dumps(found))


def _check(row):
  assert row["terms_per_second_min"] <= row["terms_per_second"] <= row["terms_per_second_max"]
  assert row["peak_gb"] > row["imports_gb"] > 0.05
  assert 0 < row["useful_mfu_by_cpu"] < 1 and 0 <= row["padding_fraction"] < 1


@pytest.mark.slow
def test_a_tiny_run(tmp_path):
  found = _run(tmp_path, "ours")
  for name in contract.NAMES:
    if name in ("ours", "paper_layout"):
      _check(found[name])
    else:
      assert found[name] is None and found["absent"][name] == "not asked for"
  assert found["differences"]["ours"]["logprobs"] < 1e-5
  assert found["ours"]["terms_per_step"] == 2 and found["paper_layout"]["terms_per_step"] == 1
  assert found["ours_over"].keys() == {"paper_layout"}


@pytest.mark.slow
def test_a_tiny_run_against_others(tmp_path):
  for package in ("torch", "trl", "tunix"):
    pytest.importorskip(package, reason=WHY)
  found = _run(tmp_path, ",".join(contract.NAMES))
  assert found["absent"].keys() == {contract.KERNELS}  # there is no GPU
  for name in set(contract.NAMES) - set(found["absent"]):
    _check(found[name])
  assert set(found["differences"]) == {*found["ours_over"], "ours"} - {"paper_layout"}
  assert found["differences"]["paper_layout_torch"]["gradient"] < 1e-3


@pytest.mark.slow
def test_the_sampler_against_generate(tmp_path):
  pytest.importorskip("torch", reason=WHY)
  pytest.importorskip("transformers", reason=WHY)
  small = ("--model=tiny", "--shots=1", "--prompts=3", "--tokens=4", "--rounds=1")
  with tiny.script("experiments/benchmarks/sampling.py", *small) as script:
    found = script["measure"](tmp_path)
  assert found["transformers"]["tokens_per_second"] > 0  # its ids were ours, or it had stopped


def _curve(accuracies):
  return [{"seconds": 10.0 * i, "accuracy": {"2": a}} for i, a in enumerate(accuracies)]


def test_the_time_to_reach_the_others_accuracy():
  with tiny.script("experiments/benchmarks/convergence.py") as script:
    ours, theirs = _curve([0.5, 0.7, 0.9]), _curve([0.5, 0.5, 0.6, 0.7, 0.6])
    found = script["time_ratio"](ours, theirs, "2")
    assert found["end"] == {"accuracy": pytest.approx(1.9 / 3), "ratio": 10 / 40}
    assert found["best"] == {"accuracy": 0.7, "ratio": 10 / 40}
    assert script["time_ratio"](_curve([0.5]), theirs, "2")["best"]["ratio"] is None


@pytest.mark.slow
def test_convergence_is_measured_and_drawn(tmp_path):
  small = ("--seconds=0.03", "--slices=3", "--shots=1", "--episodes=1")
  small += ("--training=2", "--evaluation=8")
  with tiny.script("experiments/benchmarks/convergence.py", *small) as script:
    found = script["measure"]()
    script["draw_plot"](found, tmp_path / "plot.png")
    assert script["table"](found).count("\n") == 5
  assert (tmp_path / "plot.png").stat().st_size > 5_000
  for curve in found["curves"].values():
    assert [set(point["accuracy"]) for point in curve] == [{"0", "1"}] * 4
    assert curve[0]["accuracy"] == {"0": 0.5, "1": 0.5}  # the reference itself
    assert curve[-1]["steps"] >= 3
