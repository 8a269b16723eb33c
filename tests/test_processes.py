# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run in two processes, as a pod's hosts do it: what it trains, and who writes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from fspo_jax import processes
from fspo_jax.inference.writer import Writer
from tests import tiny

CONFIG = """
from fspo_jax import config


def get_config():
  c = config.default()
  c.stages = ("tokenizer", "sft")
  c.tokenizer.corpus_lines = 500
  c.tokenizer.vocab_size = 700
  c.model.layers, c.model.width, c.model.heads, c.model.kv_heads, c.model.mlp = 1, 32, 1, 1, 32
  c.model.attention_block = 1024
  c.sft.shots, c.sft.steps, c.sft.rows_per_step, c.sft.queries = 2, 3, 4, 1
  c.sft.row_episodes, c.sft.window_rows = 2, 4
  c.sft.row_tokens, c.sft.scored_tokens, c.sft.log_every = 368, 240, 1
  c.sft.layout.query_shots = (2,)
  c.sft.optimizer.name = "adamw"
  c.sft.optimizer.warmup_steps = 0
  c.sft.checkpoint_every = 2
  return c
"""


def _free_port():
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def _run(config, workdir, count):
  """Starts the processes of a run, and waits for all; what each said."""
  port = _free_port()
  command = [sys.executable, "-m", "fspo_jax.main", f"--config={config}", f"--workdir={workdir}"]
  each = (
    [f"--distributed=127.0.0.1:{port},{i},{count}" for i in range(count)] if count > 1 else [""]
  )
  started = [
    subprocess.Popen(
      command + [flag] * bool(flag),
      cwd=tiny.REPO,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for flag in each
  ]
  said = [process.communicate(timeout=300)[0] for process in started]
  assert [process.returncode for process in started] == [0] * count, "\n".join(said)
  return said


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
  """The same rows, the same losses; the first writes and logs, the other is silent."""
  config = tmp_path / "config.py"
  config.write_text(CONFIG)
  said = _run(config, tmp_path / "two", 2)
  _run(config, tmp_path / "one", 1)
  rows = {
    name: [json.loads(line) for line in (tmp_path / name / "metrics" / "sft.jsonl").open()]
    for name in ("one", "two")
  }
  assert len(rows["one"]) == len(rows["two"]) == 3
  for ours, theirs in zip(rows["two"], rows["one"], strict=True):
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    # Of the rows of both, not of those of the process that writes.
    assert ours["data/padding_fraction"] == pytest.approx(theirs["data/padding_fraction"])
    assert ours["data/dropped_shots"] == theirs["data/dropped_shots"] > 0
  assert "stage sft: finished" in said[0] and "stage" not in said[1]
  one, two = (Writer.load(tmp_path / name / "checkpoints" / "sft").params for name in rows)
  for ours, theirs in zip(tiny.flat(two).values(), tiny.flat(one).values(), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("how", ["", "host", "host:1", "host:1,0", "host:1,2,2", "automatic"])
def test_what_is_no_way_to_find_each_other_is_refused(how):
  with pytest.raises(ValueError, match="--distributed="):
    processes.initialize(how)


def test_alone_a_process_is_the_first():
  processes.initialize("none")
  assert processes.first() and not processes.several()
  assert processes.agreed(7) == 7
  with processes.first_alone("a test"):
    processes.wait_for_all("nobody else")
  assert len(processes.names()) == 1


def test_why_they_could_not_end_together_is_said(monkeypatch, capsys):
  def fail():
    raise RuntimeError("nobody is there")

  class Ended(BaseException):
    pass

  def ended(status):
    raise Ended(status)

  monkeypatch.setattr(processes.jax.distributed, "shutdown", fail)
  monkeypatch.setattr(processes.os, "_exit", ended)
  with pytest.raises(Ended, match="143"):
    processes.end(143, together=True)
  assert "RuntimeError: nobody is there" in capsys.readouterr().err
