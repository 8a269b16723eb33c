# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""More shots than a model was trained with: accuracy by k, and what mistakes cost a user so far.

python experiments/studies/shots.py --workdir=RUN [--shots=16] [--out=DIR]

A user answers one question after another, and after each the model predicts the next answer. The
regret after n of them is the number of mistakes beyond the ideal observer's: the sum over k < n of
the Bayes ceiling's accuracy after k shots minus the model's. Where the model learns as well as can
be the curve is level. Writes shots.json and shots.png.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from absl import app, flags
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.studies.common import record  # noqa: E402
from fspo_jax import logs, recipe  # noqa: E402
from fspo_jax.evaluation import evaluate, plots  # noqa: E402
from fspo_jax.evaluation.methods import METHODS  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run.", required=True)
_SHOTS = flags.DEFINE_integer("shots", 16, "The most shots.")
_EPISODES = flags.DEFINE_integer("episodes", 500, "Users' episodes, of each split.")
_METHODS = flags.DEFINE_list(
  "methods", ["base", "fewshot_prompted", "fspo"], "Without descriptions."
)
_OUT = flags.DEFINE_string("out", None, "Folder to write (default: the run's folder 'studies').")


def measure(run: recipe.Recipe, split: str, shots: int, episodes: int) -> dict[str, Any]:
  """Accuracy, intervals, ceiling and regret of a split, by k.

  Args:
    run: whose models.
    split: whose users.
    shots: the most.
    episodes: how many.
  """
  plan = run.plan
  settings = dataclasses.replace(
    plan.settings,
    methods=tuple(_METHODS.value),
    shots=shots,
    episodes=episodes,
    rat_episodes=0,
    descriptions=1,
    win_rate_users=0,
  )
  seed = plan.seed("evaluation")
  source = plan.data.source.evaluation(split, shots, 1, seed)
  evaluation = evaluate.SplitEvaluation(split, source, run.models(), settings, seed=seed)
  accuracy, intervals = evaluation.intervals(evaluation.margins())
  ceiling = evaluation.ceiling(plan.data.truth(source))
  best = np.array([ceiling[str(k)] for k in range(shots + 1)])
  regret = {
    name: np.cumsum([best[k] - by_k[str(k)] for k in range(shots + 1)]).tolist()
    for name, by_k in accuracy.items()
  }
  return {
    "accuracy": accuracy,
    "accuracy_ci95": intervals,
    "bayes": ceiling,
    "regret": regret,
    "dropped_shots": evaluation.scorer.facts["dropped_shots"],
  }


def drops(by_k: dict[str, float], intervals: dict[str, list[float]]) -> list[int]:
  """The ks after which accuracy is below the interval of a smaller k: more shots that hurt."""
  ks = sorted(map(int, by_k))
  return [
    k for k in ks if any(by_k[str(k)] < intervals[str(before)][0] for before in ks if before < k)
  ]


def draw(found: dict[str, dict[str, Any]], trained: int, path: pathlib.Path) -> None:
  """Accuracy and regret of the first split."""
  results = next(iter(found.values()))
  ks = list(range(len(results["bayes"])))
  panels = []
  lines = [
    plots.Line(
      METHODS[name].label,
      METHODS[name].color,
      ks,
      [by_k[str(k)] for k in ks],
      [results["accuracy_ci95"][name][str(k)] for k in ks],
    )
    for name, by_k in results["accuracy"].items()
  ]
  ceiling = plots.Line("Bayes ceiling", "#222222", ks, [results["bayes"][str(k)] for k in ks])
  panels.append(plots.Panel("preference accuracy", [*lines, ceiling], percent=True, mark=trained))
  lines = [
    plots.Line(METHODS[name].label, METHODS[name].color, [k + 1 for k in ks], values)
    for name, values in results["regret"].items()
  ]
  panels.append(plots.Panel("mistakes beyond the ideal observer's", lines, mark=trained))
  plots.panels(panels, path, xlabel="preferences of the user so far")


def main(argv: list[str]) -> None:
  """Measures and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  run = recipe.reopen(_WORKDIR.value)
  found = {
    split: measure(run, split, _SHOTS.value, _EPISODES.value) for split in run.plan.evaluation
  }
  trained = run.config.preference.shots
  hurt = {
    split: {name: drops(by_k, r["accuracy_ci95"][name]) for name, by_k in r["accuracy"].items()}
    for split, r in found.items()
  }
  entries = {
    "trained_with": trained,
    "splits": found,
    "ks_below_the_interval_of_a_smaller_one": hurt,
  }
  record.write(run, "shots", entries, lambda path: draw(found, trained, path), out=_OUT.value)


if __name__ == "__main__":
  logs.run(main)
