# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs that are told to end, or killed, at random moments: no step is lost or repeated.

FSPO_ENDS=20 ends each of these runs 20 times, which takes minutes. By default there are two: one of
one process, which is ended twice, and one of two processes, which is ended while it evaluates.
`test_loop.py` and `test_main.py` end and kill a run too.
"""

from collections.abc import Callable, Sequence
import itertools
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from fspo_jax import checkpoints, paths, preemption
from fspo_jax.inference.writer import Writer
from tests import tiny

ENDS = int(os.environ.get("FSPO_ENDS", "2"))
asked = pytest.mark.skipif("FSPO_ENDS" not in os.environ, reason="FSPO_ENDS is not set")
STAGES, STEPS, EVERY = ("sft", "preference"), 120, 20
CONFIG = f"""
from fspo_jax import config


def get_config():
  c = config.default()
  c.stages = ("tokenizer", *{STAGES})
  c.tokenizer.corpus_lines, c.tokenizer.vocab_size = 500, 700
  c.model.layers, c.model.width, c.model.heads, c.model.kv_heads, c.model.mlp = 1, 32, 1, 1, 32
  c.model.attention_block = 1024
  for stage in (c.sft, c.preference):
    stage.steps, stage.checkpoint_every, stage.log_every = {STEPS}, {EVERY}, 1
    stage.shots, stage.rows_per_step, stage.queries = 2, 2, 1
    stage.row_tokens, stage.scored_tokens = 448, 320
    stage.layout.query_shots = (2,)
    stage.layout.description_shots, stage.layout.description_queries = (), ()
  return c
"""
# Two steps, and as many episodes as take some seconds.
EVALUATES = CONFIG.replace(
  "  return c\n",
  """
  c.stages = (*c.stages, "evaluate")
  for stage in (c.sft, c.preference):
    stage.steps = stage.checkpoint_every = 2
    stage.optimizer.warmup_steps = 0
  c.evaluation.methods = ("base", "fewshot_prompted")
  c.evaluation.shots, c.evaluation.episodes, c.evaluation.rows = 2, 500, 2
  c.evaluation.rat_episodes = c.evaluation.win_rate_users = 2
  c.evaluation.win_rate_prompts, c.evaluation.max_response_tokens = 1, 4
  return c
""",
)


class Run:
  """A run of so many processes, in a folder, or in a bucket with its log in a folder."""

  def __init__(
    self,
    folder: pathlib.Path,
    count: int,
    workdir: str = "",
    flags: Sequence[str] = (),
    config: str = CONFIG,
  ) -> None:
    self.folder, self.count, self.flags = folder, count, flags
    self.workdir = paths.path(workdir or folder / "run")
    (folder / "config.py").write_text(config)
    self.log = ""

  def start(self) -> None:
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    command = [sys.executable, "-m", "fspo_jax.main", f"--workdir={self.workdir}"]
    command += [f"--config={self.folder / 'config.py'}", *self.flags]
    flags = [f"--distributed=127.0.0.1:{port},{i},{self.count}" for i in range(self.count)]
    with (self.folder / "log").open("w") as log:
      self.processes = [
        subprocess.Popen(
          [*command, *([flag] if self.count > 1 else [])],
          cwd=tiny.REPO,
          env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
          stdout=log,
          stderr=log,
        )
        for flag in flags
      ]

  def wait(self) -> set[int]:
    """The exit codes, when all have ended."""
    codes = {process.wait(timeout=600) for process in self.processes}
    self.log = (self.folder / "log").read_text()
    return codes

  def rows(self) -> int:
    """Steps in the metrics of all stages."""
    files = (self.workdir / "metrics" / f"{stage}.jsonl" for stage in STAGES)
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())

  def end_after(self, step: int, number: signal.Signals, which: slice = slice(None)) -> set[int]:
    """Starts it, and signals some of its processes once this step, over all stages, is written."""
    before = self.rows()
    return self.end_when(lambda: before < self.rows() >= step, number, which)

  def end_when(
    self, there: Callable[[], bool], number: signal.Signals, which: slice = slice(None)
  ) -> set[int]:
    """Starts it, and signals some of its processes once something is there."""
    deadline = time.monotonic() + 600
    self.start()
    try:
      while not there():
        if any(process.poll() is not None for process in self.processes):
          break  # it has done all there was
        assert time.monotonic() < deadline
        time.sleep(0.2 if paths.in_bucket(self.workdir) else 0.002)
      for process in self.processes[which]:
        process.send_signal(number)
      return self.wait()
    finally:
      for process in self.processes:
        process.kill()

  def outcome(self) -> dict[str, bytes | str]:
    """What it has made: every step's row, and the parameters, of each stage."""
    found = {}
    for stage in STAGES:
      found[f"{stage} metrics"] = (self.workdir / "metrics" / f"{stage}.jsonl").read_bytes()
      params = Writer.load(self.workdir / "checkpoints" / stage).params
      found[f"{stage} parameters"] = checkpoints.fingerprint(params)
    return found


def _undisturbed(directory: pathlib.Path, count: int) -> dict[str, bytes | str]:
  run = Run(directory, count)
  run.start()
  assert run.wait() == {0}, run.log
  for stage in STAGES:
    assert (run.workdir / "metrics" / f"{stage}.jsonl").read_bytes().count(b"\n") == STEPS
  return run.outcome()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  return _undisturbed(tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
  return _undisturbed(tmp_path_factory.mktemp("together"), 2)


def _told_again_and_again(run: Run, which: slice, seed: int) -> dict[str, bytes | str]:
  """Ends a run by SIGTERM at random steps, and checks that each start goes on where one ended."""
  at = sorted(random.Random(seed).sample(range(1, len(STAGES) * STEPS - 5), ENDS))
  saved = None
  for step in at:
    codes = run.end_after(step, signal.SIGTERM, which)
    assert codes == {143}, run.log
    resumed = re.search(r"(\w+): resuming after step (\d+)", run.log)
    if saved is not None:
      assert resumed and resumed.groups() == saved, run.log
    found = re.search(r"SIGTERM\)\. (\w+): step (\d+) of", run.log)
    saved = found.groups() if found else None  # None if it came between two stages
    if saved:
      rows = (run.workdir / "metrics" / f"{saved[0]}.jsonl").read_text().splitlines()
      assert len(rows) == int(saved[1])
  run.start()
  assert run.wait() == {0}, run.log
  return run.outcome()


@pytest.mark.slow
def test_a_process_told_to_end_again_and_again_makes_the_undisturbed_runs_bytes(alone, tmp_path):
  assert _told_again_and_again(Run(tmp_path, 1), slice(None), seed=0) == alone


def _killed_again_and_again(run: Run, seed: int) -> dict[str, bytes | str]:
  """Kills a run at random steps, as a machine that is gone without a word."""
  for step in sorted(random.Random(seed).sample(range(1, len(STAGES) * STEPS - 5), ENDS)):
    assert run.end_after(step, signal.SIGKILL) <= {-signal.SIGKILL, 0}, run.log
  run.start()
  assert run.wait() == {0}, run.log
  return run.outcome()


@asked
@pytest.mark.slow
def test_a_process_killed_again_and_again_makes_the_undisturbed_runs_bytes(alone, tmp_path):
  assert _killed_again_and_again(Run(tmp_path, 1), seed=3) == alone


@asked
@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_makes_the_undisturbed_runs_bytes(
  alone, bucket, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  # Few checkpoints: each is a hundred requests of the stand-in.
  flags = [f"--config.{stage}.checkpoint_every={STEPS // 2}" for stage in STAGES]
  run = Run(tmp_path, 1, f"{bucket}/killed", flags)
  assert _killed_again_and_again(run, seed=2) == alone
  assert "already finished" in run.log or "resuming after step" in run.log
  assert {path.name for path in tmp_path.iterdir()} == {"config.py", "log"}


@asked
@pytest.mark.slow
def test_of_two_processes_whichever_is_told_both_save_and_end(together, tmp_path):
  run = Run(tmp_path, 2)
  assert _told_again_and_again(run, slice(1, 2), seed=1) == together


@pytest.mark.slow
def test_of_two_processes_whichever_is_told_while_the_first_evaluates_both_end(tmp_path):
  """And the same command goes on: the steps are not done again, the evaluation is."""
  run = Run(tmp_path, 2, config=EVALUATES)

  def evaluating():
    return "evaluating on" in (tmp_path / "log").read_text()

  seconds = 0.0
  for told in (1, 0):
    codes = run.end_when(evaluating, signal.SIGTERM, slice(told, told + 1))
    assert codes == {143}, run.log
    assert run.log.count("evaluating on") == 1  # not even the first split is done
    assert run.log.count("told to end (SIGTERM). The stage 'evaluate' was under way") == 2
    assert not (run.workdir / "stages" / "evaluate.json").exists()
    partial = json.loads((run.workdir / "stages" / "evaluate.partial.json").read_text())
    assert partial["seconds"] > seconds
    seconds = partial["seconds"]
    before = run.outcome()
  run.start()
  assert run.wait() == {0}, run.log
  assert "stage preference: already finished" in run.log and run.outcome() == before
  results = json.loads((run.workdir / "results.json").read_text())
  assert results["wall_seconds"]["evaluate"] > seconds


def test_who_is_told_after_the_last_question_ends_with_the_watch():
  with pytest.raises(preemption.Preempted), preemption.watch() as watch:
    assert not watch.told()
    os.kill(os.getpid(), signal.SIGTERM)
  with preemption.watch() as watch:
    assert not watch.told()


def _play(monkeypatch, process, words, work, reached=lambda number: False):
  """`first_works` in one of two processes: what it returns, and the next question."""
  monkeypatch.setattr(preemption.processes, "several", lambda: True)
  monkeypatch.setattr(preemption.processes, "first", lambda: process == 0)
  monkeypatch.setattr(preemption.processes, "tell", words.__setitem__)
  monkeypatch.setattr(preemption.processes, "hear", words.__getitem__)
  monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", reached)
  monkeypatch.setattr(preemption, "_QUESTIONS", itertools.count(7))
  monkeypatch.setattr(preemption, "_WORKS", itertools.count(1))
  monkeypatch.setattr(preemption, "_EVERY_SECONDS", 0.01)
  found = preemption.first_works("a test", work)
  return found, next(preemption._QUESTIONS)


def test_when_the_first_has_worked_all_go_on_asking_with_the_same_numbers(monkeypatch):
  asked_often, words = threading.Event(), {}

  def reached(number):
    if number == 9:  # its third
      asked_often.set()
    return False

  found, first = _play(monkeypatch, 0, words, lambda: asked_often.wait(60), reached)
  assert found is True and first > 9
  assert _play(monkeypatch, 1, words, lambda: pytest.fail("of the first")) == (None, first)

  def fail():
    raise KeyError("of the work")

  with pytest.raises(KeyError, match="of the work"):
    _play(monkeypatch, 0, {}, fail)


def _as_jax_does(monkeypatch):
  """The questions, by their numbers, and the one to which the answer is yes when it is known."""
  questions, notice = [], []

  def reached(number):
    questions.append(number)
    return bool(notice) and number == notice[0]

  monkeypatch.setattr(preemption.processes, "several", lambda: True)
  monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", reached)
  return questions, notice


def test_of_several_processes_the_next_stage_hears_what_came_after_the_one_before(monkeypatch):
  """As JAX does it: yes at the question after the last one before the notice, by its number."""
  questions, notice = _as_jax_does(monkeypatch)
  with preemption.watch() as watch:
    assert not any(watch.told() for _ in range(5))
  notice.append(questions[-1] + 1)
  with pytest.raises(preemption.Preempted), preemption.watch() as watch:
    assert watch.told() and questions == sorted(set(questions))
    raise preemption.Preempted


def test_of_several_processes_a_work_of_the_first_hears_what_came_after_a_stage(monkeypatch):
  questions, notice = _as_jax_does(monkeypatch)
  words = {}
  monkeypatch.setattr(preemption.processes, "first", lambda: True)
  monkeypatch.setattr(preemption.processes, "tell", words.__setitem__)
  with preemption.watch() as watch:
    assert not watch.told()
  notice.append(questions[-1] + 1)
  with pytest.raises(preemption.Preempted, match="'a test' was under way"):
    preemption.first_works("a test", lambda: None)
  assert len(words) == 1  # so that the others hear of it
  monkeypatch.setattr(preemption.processes, "first", lambda: False)
  monkeypatch.setattr(preemption.processes, "hear", lambda key: next(iter(words.values())))
  with pytest.raises(preemption.Preempted, match="'a test' was under way"):
    preemption.first_works("a test", lambda: None)
