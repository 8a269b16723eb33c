# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Finished runs asked about people whom nobody made them for: the shifted world.

python experiments/studies/transfer.py --workdirs=RUN,RUN,... --out=DIR [--episodes=500]

Each run is FSPO on a set of one world (see `experiments/ablations/synthesis.py`). All meet the same
users, topics and words of that world's shifted one, and answer the same queries. Writes
transfer.json and transfer.png.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from absl import app, flags

from fspo_jax import recipe
from fspo_jax.episodes.sampling import WorldEpisodes
from fspo_jax.evaluation import evaluate, plots, truth
from fspo_jax.evaluation import results as results_lib
from fspo_jax.worlds.shifted import shifted

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Finished runs of one world.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_EPISODES = flags.DEFINE_integer("episodes", 500, "Users' episodes.")
_WIN_RATE_USERS = flags.DEFINE_integer("win_rate_users", 200, "Users who get responses; 0: none.")

_METHODS = ("base", "fspo")
_COLORS = ("#1b6ca8", "#c8553d", "#5b8c5a", "#8d6a9f", "#d9a441", "#444444")


def measure(run: recipe.Recipe, episodes: int, win_rate_users: int) -> dict[str, Any]:
  """Accuracy by k and the win rate against the base, on the shifted world.

  Args:
    run: whose models.
    episodes: how many.
    win_rate_users: of how many of them the win rate is.

  Raises:
    ValueError: the run's data has no world, or one that is not shifted.
  """
  if run.plan.data.world is None:
    raise ValueError(f"{run.workdir.path}: its data has no world, whose shifted one it could meet")
  world = shifted(run.plan.data.world)
  settings = dataclasses.replace(
    run.plan.settings,
    methods=_METHODS,
    episodes=episodes,
    rat_episodes=0,
    win_rate_users=win_rate_users,
    temperatures=(0.3,),
  )
  # One seed for all runs: they meet the same episodes.
  source = WorldEpisodes(world, "unseen", settings.shots, 1, seed=0)
  evaluation = evaluate.SplitEvaluation("shifted", source, run.models(), settings, seed=0)
  accuracy, intervals = evaluation.intervals(evaluation.margins())
  found = {
    "world": world.name,
    "accuracy": accuracy,
    "accuracy_ci95": intervals,
    "dropped_shots": evaluation.scorer.facts["dropped_shots"],
  }
  if win_rate_users:
    judged = truth.Truth(world, source.user, world.question, ceiling=_none)
    rates, _ = evaluation.win_rates(judged)
    found["win_rate"] = rates[0.3]
  return found


def _none(*unused: Any) -> Any:
  raise AssertionError("the shifted world has no ceiling: its users are outside of any prior")


def draw(found: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
  """Accuracy by k of every run."""
  lines = []
  for (name, results), color in zip(found.items(), _COLORS * len(found), strict=False):
    by_k, intervals = (results[key]["fspo"] for key in ("accuracy", "accuracy_ci95"))
    ks = sorted(map(int, by_k))
    values = [by_k[str(k)] for k in ks]
    lines.append(plots.Line(name, color, ks, values, [intervals[str(k)] for k in ks]))
  panel = plots.Panel("preference accuracy, shifted world", lines, percent=True)
  plots.panels([panel], path, xlabel="shots")


def main(argv: list[str]) -> None:
  """Measures and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  runs = {pathlib.Path(path).name: recipe.reopen(path) for path in _WORKDIRS.value}
  if len(runs) < len(_WORKDIRS.value):
    raise app.UsageError(f"--workdirs={','.join(_WORKDIRS.value)}: found two of the same name")
  found = {n: measure(run, _EPISODES.value, _WIN_RATE_USERS.value) for n, run in runs.items()}
  if len({results["world"] for results in found.values()}) > 1:
    raise app.UsageError(f"--workdirs={','.join(_WORKDIRS.value)}: found runs of several worlds")
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  record = {"runs": found, "environment": results_lib.environment(seed=0)}
  (out / "transfer.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
  draw(found, out / "transfer.png")
  print(f"study:   {out / 'transfer.json'}, {out / 'transfer.png'}")


if __name__ == "__main__":
  app.run(main)
