# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the training loop: killed, resumed, poisoned; `main` trains, to be killed."""

import dataclasses
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import checkpoints, preemption, sharding
from fspo_jax.episodes.templates import Layout
from fspo_jax.training import loop, metrics, optimizer, profile, step
from fspo_jax.training import state as state_lib
from tests import tiny

STEPS, EVERY = 10, 4
OPTIMIZER = optimizer.OptimizerConfig(
  name="adamw",
  learning_rate=1e-3,
  adam_learning_rate=0.0,
  warmup_steps=2,
  decay_fraction=0.2,
  clip_norm=1.0,
  weight_decay=0.0,
  b2=0.98,
)
MODEL = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Rows of which one is bad: not a number, raises, never ends, or is when SIGTERM comes."""

  rows: object = dataclasses.field(
    default_factory=lambda: tiny.rows(
      Layout(shot_pairs=True, query_shots=(1,)), shots=1, tokens=256, scored_tokens=192
    )
  )
  poisoned: int | None = None
  raises: int | None = None
  stalls: int | None = None
  told: int | None = None

  def __call__(self, row):
    if row == self.stalls:
      time.sleep(600)
    if row == self.raises:
      raise RuntimeError(f"row {row} cannot be made")
    if row == self.told:
      os.kill(os.getpid(), signal.SIGTERM)
    made = self.rows(row)
    if row == self.poisoned:
      made = made._replace(pair_weight=np.full_like(made.pair_weight, np.nan))
    return made


def _stage(directory, *, objective=tiny.OBJECTIVE, **rows):
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  rule = optimizer.make_optimizer(OPTIMIZER, STEPS)
  return loop.Stage(
    name="preference",
    directory=pathlib.Path(directory),
    step=step.make_step(MODEL, objective, rule, mesh, vocab_chunk=512, accumulate=1),
    objective=objective,
    optimizer=rule,
    rows=_Rows(**rows),
    loop=loop.LoopConfig(
      steps=STEPS,
      rows_per_step=2,
      accumulate=1,
      log_every=1,
      checkpoint_every=EVERY,
      keep_checkpoints=2,
      data_threads=1,
    ),
    mesh=mesh,
    config={"seed": 0},
    tokenizer=tiny.tokenizer().model,
  )


def _train(stage, reference=None):
  initial = tiny.params(MODEL)
  return loop.train(
    stage, jax.tree.map(jnp.copy, initial), initial if reference is None else reference
  )


def _files(stage):
  """The record of a run: its metrics file, whole, and the steps of its checkpoints."""
  lines = (stage.directory / "metrics" / "preference.jsonl").read_text()
  return lines, sorted(int(p.name) for p in stage.checkpoint_directory.iterdir() if p.is_dir())


def _assert_same(params, expected):
  for (name, ours), theirs in zip(
    tiny.flat(params).items(), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
  """Every run here is the same program, in this process and in the one that is killed."""
  if jax.config.jax_compilation_cache_dir is None:
    directory = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv("JAX_COMPILATION_CACHE_DIR", directory)
      jax.config.update("jax_compilation_cache_dir", directory)
      compilation_cache.reset_cache()
      yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
  else:
    yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  stage = _stage(tmp_path_factory.mktemp("uninterrupted"))
  params = jax.device_get(_train(stage))
  return stage, params


def test_a_run_writes_its_metrics_and_its_checkpoints(uninterrupted):
  stage, params = uninterrupted
  lines, steps = _files(stage)
  rows = [json.loads(line) for line in lines.splitlines()]
  assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
  assert steps == [8, 10]  # the last step always has one
  first, last = rows[0], rows[-1]
  assert first["preference/loss"] == pytest.approx(25.0, rel=1e-5)
  assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
  assert last["loss"] < first["loss"]  # ten steps on these rows already help
  assert 0.0 < first["data/padding_fraction"] < 1.0
  assert first["data/dropped_shots"] == 0.0
  with checkpoints.Checkpoints(stage.checkpoint_directory) as saved:
    abstract = state_lib.abstract_params(MODEL, stage.mesh)
    _assert_same(saved.restore_params(abstract), params)
    assert saved.metadata()["config"] == stage.config
    assert saved.tokenizer() == stage.tokenizer
  assert list((stage.directory / "metrics" / "tensorboard" / "preference").iterdir())


def test_a_finished_run_gives_its_parameters_and_trains_no_more(uninterrupted):
  stage, params = uninterrupted
  before = _files(stage)
  again = dataclasses.replace(stage, rows=_Rows(raises=0))
  _assert_same(_train(again), params)
  assert _files(stage) == before


def test_a_run_that_stopped_goes_on_as_if_it_had_not(uninterrupted, tmp_path):
  expected, params = uninterrupted
  # Rows are two a step: step 8 (from 1) would need row 15.
  stage = _stage(tmp_path, raises=15)
  with pytest.raises(RuntimeError, match="row 15 cannot be made"):
    _train(stage)
  lines, steps = _files(stage)
  written = [json.loads(line)["step"] for line in lines.splitlines()]
  assert steps == [4] and max(written) > 4  # there is something to take back
  with (tmp_path / "metrics" / "preference.jsonl").open("a") as file:
    file.write('{"step": 7, "los')  # as a kill leaves it
  _assert_same(_train(_stage(tmp_path)), params)
  assert _files(stage) == _files(expected)


def test_a_profile_says_where_the_time_goes_and_changes_nothing(uninterrupted, tmp_path):
  expected, params = uninterrupted
  stage = dataclasses.replace(_stage(tmp_path), profile=3)
  _assert_same(_train(stage), params)
  assert _files(stage) == _files(expected)
  text = (tmp_path / "profile" / "preference.txt").read_text()
  assert text.startswith(f"preference, steps {profile.WARM + 1} to {profile.WARM + 3}, ")
  share = {}
  for line in text.splitlines():
    if match := re.match(r"(\w[\w ]*\w)\s{2,}([\d.]+)%((?:\s+[\d.]+%){4})$", line):
      share[match[1]] = float(match[2])
      passes = [float(one.rstrip("%")) for one in match[3].split()]
      assert sum(passes) == pytest.approx(share[match[1]], abs=0.2)
  # Rounded to a tenth of a percent each.
  assert sum(share.values()) == pytest.approx(100.0, abs=1.0)
  assert {"attention", "projections", "MLP", "norms", "head", "optimizer"} <= share.keys()
  assert share.get("other", 0.0) < 25.0
  assert list((tmp_path / "profile" / "preference").glob("**/*.xplane.pb"))


class _Watched:
  """A metric; it notes that it is read."""

  def __init__(self, value, step, order):
    self._value, self._step, self._order = value, step, order

  def __array__(self, *args, **kwargs):
    self._order.append(("read", self._step))
    return np.asarray(self._value)


def test_a_step_is_dispatched_before_the_metrics_of_the_last_are_read(tmp_path):
  stage, order = _stage(tmp_path), []

  def update(state, frozen, batch):
    step = 1 + sum(kind == "dispatched" for kind, _ in order)
    order.append(("dispatched", step))
    state, metrics = stage.step(state, frozen, batch)
    return state, {name: _Watched(value, step, order) for name, value in metrics.items()}

  _train(dataclasses.replace(stage, step=update))
  at = {}
  for place, one in enumerate(order):
    at.setdefault(one, place)
  early = [s for s in range(1, STEPS) if at["read", s] < at["dispatched", s + 1]]
  assert early == [4, 8]  # those of which there is a checkpoint: what it keeps is known to be good


def test_a_run_told_to_end_loses_and_repeats_no_step(uninterrupted, tmp_path):
  """SIGTERM while the rows of a step are made: that step is done, saved, and the last."""
  expected, params = uninterrupted
  for row in (0, 7, 9, 14):
    stage = _stage(tmp_path, told=row)
    stage = dataclasses.replace(stage, loop=dataclasses.replace(stage.loop, data_threads=0))
    with pytest.raises(preemption.Preempted, match=f"step {row // 2 + 1} of {STEPS} is saved"):
      _train(stage)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  _assert_same(_train(_stage(tmp_path)), params)
  assert _files(stage)[0] == _files(expected)[0]


def main(directory):
  """Trains to step 7, and waits there to be killed: step 8 needs row 14."""
  stage = _stage(directory, stalls=14)
  _train(dataclasses.replace(stage, loop=dataclasses.replace(stage.loop, data_threads=0)))


def test_a_run_that_is_killed_goes_on_as_if_it_had_not(uninterrupted, tmp_path):
  expected, params = uninterrupted
  stage = _stage(tmp_path)
  line, environment = tiny.command("training.test_loop", tmp_path)
  log = (tmp_path / "log").open("w")
  process = subprocess.Popen(line, env=environment, cwd=tiny.REPO, stdout=log, stderr=log)
  file = tmp_path / "metrics" / "preference.jsonl"
  deadline = time.monotonic() + 300
  try:
    # A checkpoint is there, and steps after it have been written down.
    while not (
      (stage.checkpoint_directory / str(EVERY)).exists()
      and any(row["step"] > EVERY for row in metrics.read_jsonl(file))
    ):
      assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
      time.sleep(0.005)
  finally:
    os.kill(process.pid, signal.SIGKILL)
    log.close()
  assert process.wait() == -signal.SIGKILL
  _, steps = _files(stage)
  assert EVERY in steps and STEPS not in steps  # in the middle of it
  _assert_same(_train(stage), params)
  assert _files(stage) == _files(expected)


@pytest.mark.parametrize(
  "bad_step, last_good",
  [(3, None), (7, 4), (8, 4)],
  ids=["before any checkpoint", "between two", "where one is due"],
)
def test_what_is_not_a_number_stops_the_run_and_is_never_saved(tmp_path, bad_step, last_good):
  stage = _stage(tmp_path, poisoned=2 * bad_step - 1)
  where = "none yet" if last_good is None else str(stage.checkpoint_directory / str(last_good))
  with pytest.raises(loop.TrainingError) as caught:
    _train(stage)
  message = str(caught.value)
  assert message.startswith(f"preference: step {bad_step}: ")
  assert "grad_norm" in message and "loss" in message
  assert message.endswith(f"not finite; stopped. Last good checkpoint: {where}")
  lines, steps = _files(stage)
  assert steps == ([] if last_good is None else [last_good])
  rows = [json.loads(line) for line in lines.splitlines()]
  assert rows[-1]["step"] == bad_step and rows[-1]["loss"] is None
  assert all(row["loss"] is not None for row in rows[:-1])
  if last_good is not None:
    state = state_lib.init_state(tiny.params(MODEL), stage.optimizer, stage.mesh)
    abstract = map(checkpoints.abstract_like, (state.params, state.opt_state))
    with checkpoints.Checkpoints(stage.checkpoint_directory) as saved:
      got = saved.restore(*abstract)
    assert got.step == last_good
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((got.params, got.opt_state)))


def test_a_policy_that_does_not_start_at_its_reference_is_refused(tmp_path):
  stage = _stage(tmp_path)
  with pytest.raises(loop.TrainingError) as caught:
    _train(stage, reference=tiny.params(MODEL, seed=1))
  assert "at step 0 the policy differs from the reference: ipo loss" in str(caught.value)
  assert "(expected 25.000000)" in str(caught.value)
  assert _files(stage)[1] == []


def _objective(name):
  return dataclasses.replace(tiny.OBJECTIVE, name=name)


@pytest.mark.parametrize("name, loss", [("ipo", 25.0), ("dpo", math.log(2))])
def test_the_invariant_of_step_0(name, loss):
  good = {"preference/loss": loss, "logps/abs_margins": 0.0, "grad_norm": 1.0}
  loop.check_step0(_objective(name), good)
  bad = {
    "differs from the reference": [
      good | {"preference/loss": loss * 1.01},
      good | {"logps/abs_margins": 0.01},
    ],
    "gradient of the first step is exactly 0": [good | {"grad_norm": 0.0}],
  }
  for message, cases in bad.items():
    for values in cases:
      with pytest.raises(loop.TrainingError, match=message):
        loop.check_step0(_objective(name), values)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"steps": 0}, "steps=0 must be at least 1"),
    ({"checkpoint_every": 0}, "checkpoint_every=0 must be at least 1"),
    ({"accumulate": 3, "rows_per_step": 4}, "accumulate=3 does not divide rows_per_step=4"),
  ],
)
def test_impossible_loops_are_refused(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(_stage(tmp_path).loop, **changes)


def test_the_metrics_of_a_run_that_resumes_read_as_if_it_had_not_stopped(tmp_path):
  writer = metrics.MetricWriter(tmp_path, "sft", 0)
  for at in (1, 2, 3):
    writer.write(at, {"loss": 1 / at, "odd": math.nan if at == 1 else math.inf})
  writer.close()
  with writer.path.open("a") as file:
    file.write('{"step": 4, "lo')
  assert [row["step"] for row in metrics.read_jsonl(writer.path)] == [1, 2, 3]
  again = metrics.MetricWriter(tmp_path, "sft", 2)
  again.write(3, {"loss": 0.0})
  again.close()
  assert writer.path.read_text() == (
    '{"step": 1, "loss": 1.0, "odd": null}\n{"step": 2, "loss": 0.5, "odd": null}\n'
    '{"step": 3, "loss": 0.0}\n'
  )
  assert metrics.read_jsonl(tmp_path / "none.jsonl") == []


if __name__ == "__main__":
  main(*sys.argv[1:])
