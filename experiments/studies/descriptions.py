# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What it is worth to write several descriptions of a user, and keep the likeliest by the labels.

python experiments/studies/descriptions.py --workdir=RUN [--n=2,4,8,16] [--out=DIR]

After all shots the policy writes descriptions; of n, the greedy one and n - 1 samples, the one is
kept under which the shots' own labels are likeliest to the reference (`inference/rat.py`), which
asks nothing more of the user. Compared with the greedy one, the gold one, and none: how right it is
(F1 of its tastes), the preference accuracy under it, and the win rate of the responses. An n of 1
is one sample. Writes descriptions.json and descriptions.png.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import sys
from typing import Any

from absl import app, flags
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.studies.common import described, numbers, record  # noqa: E402
from fspo_jax import logs, recipe  # noqa: E402
from fspo_jax.evaluation import plots  # noqa: E402
from fspo_jax.evaluation.methods import METHODS  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run of a world.", required=True)
_N = flags.DEFINE_list("n", ["1", "2", "4", "8", "16"], "How many are written; 1 for comparison.")
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Of those that are sampled.")
_EPISODES = flags.DEFINE_integer("episodes", 250, "Users.")
_PROMPTS = flags.DEFINE_integer("prompts", 2, "Prompts answered for each, for win rates.")
_OUT = flags.DEFINE_string("out", None, "Folder to write (default: the run's folder 'studies').")

# What does not depend on n: its name, and the method that has its colour.
_LEVELS = {
  "greedy": ("the greedy one", "fspo_rat"),
  "gold": ("the gold one", "fspo_gold"),
  "without": ("without a description", "fspo"),
}


def main(argv: list[str]) -> None:
  """Measures and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  counts = _counts()
  run = recipe.reopen(_WORKDIR.value)
  found = study(run, counts)
  record.write(run, "descriptions", found, lambda path: draw(found, path), out=_OUT.value)


def _counts() -> list[int]:
  """The numbers of --n; UsageError for what none can be written of."""
  counts = numbers.counts("n", _N.value)
  if _TEMPERATURE.value < 0 or (max(counts) > 1 and not _TEMPERATURE.value):
    raise app.UsageError(
      f"--temperature={_TEMPERATURE.value}: expected more than 0, where several are all the same"
    )
  return counts


def study(run: recipe.Recipe, counts: Sequence[int]) -> dict[str, Any]:
  """F1, accuracy and win rate by n, of the greedy description, the gold one, and without."""
  people = described.DescribedUsers(run, users=_EPISODES.value, prompts=_PROMPTS.value)

  def measured(texts: Sequence[str]) -> dict[str, Any]:
    return people.measure(texts) | {"f1": people.f1(texts)}

  return {
    "shots": people.settings.shots,
    "temperature": _TEMPERATURE.value,
    "without": people.measure(None),
    "gold": measured(people.gold),
    "greedy": measured(people.write(n=1, temperature=0.0)),
    "by_n": {str(n): measured(people.write(n=n, temperature=_TEMPERATURE.value)) for n in counts},
  }


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
  """F1, accuracy and win rate against n; what does not depend on it level across."""
  xs = [float(n) for n in found["by_n"]]

  def line(label: str, color: str, xs: list[float], values: list[Any]) -> plots.Line:
    pairs = [(v["mean"], v["ci95"]) if isinstance(v, dict) else (v, None) for v in values]
    means, intervals = zip(*pairs, strict=True)
    return plots.Line(label, color, xs, np.asarray(means, np.float64), intervals)  # None is nan

  def panel(title: str, key: str) -> plots.Panel:
    lines = [line("the best of n", "#000000", xs, [of_n[key] for of_n in found["by_n"].values()])]
    for name, (label, method) in _LEVELS.items():
      if key in found[name]:
        ends, color = [xs[0], xs[-1]], METHODS[method].color
        lines.append(line(label, color, ends, [found[name][key]] * 2))
    return plots.Panel(title, lines, percent=True)

  panels = [
    panel("F1 of the description", "f1"),
    panel("preference accuracy", "accuracy"),
    panel("win rate against the base", "win_rate"),
  ]
  plots.panels(panels, path, xlabel="descriptions that are written")


if __name__ == "__main__":
  logs.run(main)
