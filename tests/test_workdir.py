# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of a run's directory."""

import json
import time

import pytest

from fspo_jax import workdir
from fspo_jax.workdir import Workdir, WorkdirError

CONFIG = {"seed": 0, "model": {"width": 96, "dims": {"heads": 3}}, "shots": [0, 8], "name": None}


def _files(path):
  return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_new_directory_is_made_with_its_config_in_it(tmp_path):
  run = Workdir(tmp_path / "a" / "b", CONFIG)
  assert json.loads((run.path / "config.json").read_text()) == CONFIG
  assert list(_files(tmp_path)) == [(tmp_path / "a" / "b" / "config.json").relative_to(tmp_path)]
  (tmp_path / "empty").mkdir()
  assert Workdir(str(tmp_path / "empty"), CONFIG).path == tmp_path / "empty"


def test_the_same_config_goes_on_where_the_run_was(tmp_path):
  run = Workdir(tmp_path / "run", CONFIG)
  with run.running("sft"):
    run.write("tokenizer.model", b"abc")
  before = _files(run.path)
  again = Workdir(tmp_path / "run", json.loads(json.dumps(CONFIG)))
  assert again.finished("sft") and not again.finished("preference")
  assert _files(run.path) == before


def test_another_config_is_refused_by_the_names_of_its_keys_and_nothing_is_changed(tmp_path):
  run = Workdir(tmp_path / "run", CONFIG)
  run.write("results.json", b"{}")
  before = _files(run.path)
  other = {"seed": 1, "model": {"width": 96, "dims": {"heads": 4}}, "shots": [0, 8], "top": True}
  with pytest.raises(WorkdirError) as caught:
    Workdir(run.path, other)
  assert str(caught.value) == (
    f"--workdir={run.path}: was made by another config (model.dims.heads: 3 there, 4 here; "
    "seed: 0 there, 1 here; top: 'absent' there, True here); give a new directory, or the same "
    "config to resume. Nothing was changed."
  )
  assert _files(run.path) == before


def test_only_the_first_five_of_many_differences_are_shown(tmp_path):
  Workdir(tmp_path / "run", {f"k{i}": 0 for i in range(8)})
  with pytest.raises(WorkdirError, match=r"k4: 0 there, 1 here; and 3 more\)"):
    Workdir(tmp_path / "run", {f"k{i}": 1 for i in range(8)})


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(WorkdirError, match=r"is not empty, and not a run of fspo_jax"):
    Workdir(tmp_path, CONFIG)
  assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("below", ["", "/run", "/a/run"])
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path, below):
  (tmp_path / "file").write_text("")
  with pytest.raises(WorkdirError, match=r"--workdir=.*cannot be written to: "):
    Workdir(f"{tmp_path / 'file'}{below}", CONFIG)
  assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("text", ["{broken", ""])
def test_a_config_that_cannot_be_read_is_refused_by_its_path(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(WorkdirError, match=r"config\.json: cannot be read: "):
    Workdir(tmp_path, CONFIG)
  assert (tmp_path / "config.json").read_text() == text


class _Clock:
  def __init__(self):
    self.now = 100.0

  def monotonic(self):
    return self.now


def test_the_seconds_of_a_stage_that_was_stopped_add_up(tmp_path, monkeypatch):
  clock = _Clock()
  monkeypatch.setattr(workdir.time, "monotonic", clock.monotonic)
  run = Workdir(tmp_path / "run", CONFIG)
  for seconds, error in ((3.0, RuntimeError), (4.0, KeyboardInterrupt)):
    with pytest.raises(error), run.running("sft"):
      clock.now += seconds
      raise error
    run = Workdir(tmp_path / "run", CONFIG)  # the next process
    assert not run.finished("sft")
    assert run.seconds() == {}
    clock.now += 50.0  # between the processes, which is nobody's time
  with run.running("sft"):
    clock.now += 5.0
  with run.running("preference"):
    clock.now += 1.5
    assert run.seconds() == {"preference": 1.5, "sft": 12.0}  # of the running stage so far
    assert not run.finished("preference")
    clock.now += 0.5
  clock.now += 50.0
  assert run.seconds() == {"preference": 2.0, "sft": 12.0}
  assert run.finished("sft") and run.finished("preference")
  assert not list(run.path.glob("stages/*.partial*"))


def test_time_is_wall_clock(tmp_path):
  run = Workdir(tmp_path / "run", CONFIG)
  start = time.monotonic()
  with run.running("a"):
    time.sleep(0.05)
  assert 0.05 <= run.seconds()["a"] <= time.monotonic() - start + 0.001


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
  run = Workdir(tmp_path / "run", CONFIG)
  run.write("report/results.json", b"old")
  assert (run.path / "report" / "results.json").read_bytes() == b"old"

  def fails(*_):
    raise OSError("no")

  monkeypatch.setattr(workdir.os, "replace", fails)
  with pytest.raises(OSError, match="no"):
    run.write("report/results.json", b"new")
  assert (run.path / "report" / "results.json").read_bytes() == b"old"


def test_the_fingerprint_is_of_what_the_files_hold(tmp_path):
  assert workdir.fingerprint("") == ""
  file = tmp_path / "users.jsonl"
  file.write_text("one")
  one = workdir.fingerprint(str(file))
  assert one == workdir.fingerprint(str(tmp_path))  # a folder with this one file
  file.write_text("two")
  assert len(one) == 64 and workdir.fingerprint(str(file)) != one


def test_free_keys_may_differ_and_the_last_run_s_are_kept(tmp_path):
  config = {"seed": 0, "synthesis": {"processes": 2, "llm": {"timeout_s": 1.0}}}
  free = ("synthesis.processes", "synthesis.llm.")
  workdir.Workdir(tmp_path / "run", config, free)
  other = {"seed": 0, "synthesis": {"processes": 4, "llm": {"timeout_s": 9.0}}}
  workdir.Workdir(tmp_path / "run", other, free)
  assert json.loads((tmp_path / "run" / "config.json").read_text()) == other
  with pytest.raises(workdir.WorkdirError, match="seed: 0 there, 1 here"):
    workdir.Workdir(tmp_path / "run", other | {"seed": 1}, free)
  with pytest.raises(workdir.WorkdirError, match=r"synthesis\.processes: 4 there, 2 here"):
    workdir.Workdir(tmp_path / "run", config)
