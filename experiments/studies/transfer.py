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
import itertools
import json
import pathlib
from typing import Any

from absl import app, flags

from fspo_jax import logs, recipe
from fspo_jax.episodes.sampling import WorldEpisodes
from fspo_jax.evaluation import evaluate, plots, win_rate
from fspo_jax.evaluation import results as results_lib
from fspo_jax.inference.sampler import Decoding
from fspo_jax.worlds.shifted import shifted
from fspo_jax.worlds.world import World

_WORKDIRS = flags.DEFINE_list("workdirs", None, "Finished runs of one world.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_EPISODES = flags.DEFINE_integer("episodes", 500, "Users' episodes.")
_WIN_RATE_USERS = flags.DEFINE_integer(
  "win_rate_users", 200, "Users who get responses.", lower_bound=1
)

_METHODS = ("base", "fspo")
_COLORS = ("#1b6ca8", "#c8553d", "#5b8c5a", "#8d6a9f", "#d9a441", "#444444")


def measure(
  run: recipe.Recipe, world: World[Any], episodes: int, win_rate_users: int
) -> dict[str, Any]:
  """Accuracy by k and the win rate against the base.

  Args:
    run: whose models.
    world: whose unseen users they meet.
    episodes: how many.
    win_rate_users: of how many of them the win rate is.
  """
  settings = dataclasses.replace(
    run.plan.settings, methods=_METHODS, episodes=episodes, rat_episodes=0, descriptions=1
  )
  # One seed for all runs: they meet the same episodes, and get the same prompts.
  source = WorldEpisodes(world, "unseen", settings.shots, 1, seed=0)
  evaluation = evaluate.SplitEvaluation("shifted", source, run.models(), settings, seed=0)
  accuracy, intervals = evaluation.intervals(evaluation.margins())
  met = evaluation.episodes[:win_rate_users]
  match = win_rate.play(
    world,
    [source.user(i) for i in range(len(met))],
    met,
    win_rate.draw_prompts(world.question, met, settings.win_rate_prompts, 0),
    evaluation.contenders,
    Decoding(0.3, settings.top_p, settings.max_response_tokens),
    seed=0,
  )
  ids = evaluation.user_ids[: len(met)]
  return {
    "accuracy": accuracy,
    "accuracy_ci95": intervals,
    "win_rate": {name: match.interval(name, ids, settings.bootstrap) for name in _METHODS},
    "dropped_shots": evaluation.scorer.facts["dropped_shots"],
  }


def draw(found: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
  """Accuracy by k of every run."""
  lines = []
  for (name, results), color in zip(found.items(), itertools.cycle(_COLORS), strict=False):
    by_k, intervals = (results[key]["fspo"] for key in ("accuracy", "accuracy_ci95"))
    ks = sorted(map(int, by_k))
    values = [by_k[str(k)] for k in ks]
    lines.append(plots.Line(name, color, ks, values, [intervals[str(k)] for k in ks]))
  panel = plots.Panel("preference accuracy, shifted world", lines, percent=True)
  plots.panels([panel], path, xlabel="shots")


def world_of(runs: dict[str, recipe.Recipe]) -> World[Any]:
  """The shifted world that all runs meet; UsageError unless they are of one that can be shifted."""
  worlds = {run.plan.data.world for run in runs.values()}
  if len(worlds) > 1 or None in worlds:
    raise app.UsageError("--workdirs: expected runs whose data are of one and the same world")
  try:
    return shifted(worlds.pop())
  except ValueError as error:
    raise app.UsageError(f"--workdirs: {error}") from error


def main(argv: list[str]) -> None:
  """Measures and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  runs = {pathlib.Path(path).name: recipe.reopen(path) for path in _WORKDIRS.value}
  if len(runs) < len(_WORKDIRS.value):
    raise app.UsageError(f"--workdirs={','.join(_WORKDIRS.value)}: found two of the same name")
  world = world_of(runs)
  found = {
    name: measure(run, world, _EPISODES.value, _WIN_RATE_USERS.value) for name, run in runs.items()
  }
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  record = {"world": world.name, "runs": found, "environment": results_lib.environment(seed=0)}
  (out / "transfer.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
  draw(found, out / "transfer.png")
  print(f"study:   {out / 'transfer.json'}, {out / 'transfer.png'}")


if __name__ == "__main__":
  logs.run(main)
