# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The notebooks: their cells run from the first to the last, and their outputs are cleared."""

import ast
import io
import json
import shutil

from matplotlib import figure as figures
import pytest

from fspo_jax import config as config_lib
from fspo_jax import recipe, sweeps
from fspo_jax.workdir import Workdir
from tests import test_main, tiny
from tests.launch import test_sweep

NOTEBOOKS = tiny.REPO / "experiments" / "notebooks"
NAMES = ("episode_tree", "personalize", "sweep", "training_curves")


def _cells(name):
  return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def _play(name):
  """Runs every cell of code; the figures that they show."""
  names, shown = {}, []
  for number, cell in enumerate(_cells(name)):
    if cell["cell_type"] != "code":
      continue
    tree = ast.parse("".join(cell["source"]), f"{name}.ipynb, cell {number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"{name}.ipynb, cell {number}", "exec"), names)
    if last is not None:
      value = eval(
        compile(ast.Expression(last.value), f"{name}.ipynb, cell {number}", "eval"), names
      )
      if isinstance(value, figures.Figure):
        value.savefig(io.BytesIO())
        shown.append(value)
  return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where the notebooks look: a run of a few steps, and a sweep of four runs."""
  path = tmp_path_factory.mktemp("notebooks")
  c = config_lib.default()
  c.update_from_flattened_dict(test_main.QUICKSTART | {"preference.steps": 4})
  c.preference.loss.name, c.preference.loss.beta = "dpo", 0.5
  c.preference.checkpoint_every = 4
  c.stages = ("tokenizer", "sft", "preference")
  recipe.Recipe(recipe.make_plan(c), Workdir(path / "runs" / "quickstart", recipe.as_json(c))).run()

  experiment = path / "experiment.py"
  experiment.write_text(test_sweep.EXPERIMENT)
  experiment = sweeps.load(str(experiment))
  runs = sweeps.runs_of(experiment, path / "runs" / "sweep", [])
  for run, accuracy in zip(runs[:3], (0.6, 0.7, 0.8), strict=True):
    test_sweep.finish(run, accuracy)
  found = {"config": experiment.name, **sweeps.collect(runs, experiment.metrics())}
  (path / "runs" / "sweep" / "sweep.json").write_text(json.dumps(found))
  return path


def test_these_are_all_the_notebooks_and_their_outputs_are_cleared():
  assert {file.stem for file in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)
  for name in NAMES:
    for cell in _cells(name):
      if cell["cell_type"] == "code":
        assert cell["outputs"] == [] and cell["execution_count"] is None, name


def test_a_checkpoint_personalizes(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  _play("personalize")
  said = capsys.readouterr().out
  for name in ("Ada", "Bob", "nobody"):
    assert f"{name}\n  is described:" in said
  rewards = [float(line.split()[1]) for line in said.splitlines()[-4:]]
  assert len(set(rewards)) > 1  # the policy has moved from its reference


def test_an_episode_is_drawn(capsys):
  (figure,) = _play("episode_tree")
  nodes, mask = figure.axes
  assert len(nodes.patches) > 15 and mask.images[0].get_array().shape[0] > 200
  assert "attends to" in capsys.readouterr().out


def test_curves_are_read(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  reference, policy = _play("training_curves")
  assert [ax.get_title(loc="left") for ax in reference.axes][:2] == [
    "nll/chosen",
    "nll/description",
  ]
  assert "preference/loss" in {ax.get_title(loc="left") for ax in policy.axes}
  assert "step 1: loss 0.6931, log 2 = 0.6931" in capsys.readouterr().out


def test_the_curves_of_a_run_that_starts_from_a_base_are_the_policys(folder, tmp_path, monkeypatch):
  """As the quickstart's: nobody trained its reference there."""
  run = tmp_path / "runs" / "quickstart"
  shutil.copytree(folder / "runs" / "quickstart", run)
  (run / "metrics" / "sft.jsonl").unlink()
  monkeypatch.chdir(tmp_path)
  (policy,) = _play("training_curves")
  assert "preference/loss" in {ax.get_title(loc="left") for ax in policy.axes}


def test_a_sweep_is_analysed(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  (figure,) = _play("sweep")
  (ax,) = figure.axes
  assert ax.get_xlabel() == "preference.loss.beta"
  assert [line.get_ydata().tolist() for line in ax.lines[:2]] == [[0.6, 0.7], [0.8]]
  said = capsys.readouterr().out
  assert "3 of 4 runs are finished" in said
  assert said.index("preference.loss.beta=0.5") < said.index("preference.loss.beta=0.1")
