# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What it is worth to write several descriptions of a user, and keep the likeliest by the labels.

python experiments/studies/descriptions.py --workdir=RUN [--n=2,4,8,16] [--out=DIR]

After all shots the policy writes descriptions; of n sampled ones the one is kept under which the
shots' own labels are likeliest (`inference/rat.py`), which asks nothing more of the user. Compared
with the greedy one, the gold one, and none: how right it is (F1 of its tastes), the preference
accuracy under it, and the win rate of the responses. Writes descriptions.json and descriptions.png.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import app, flags
import numpy as np

from fspo_jax import recipe
from fspo_jax.evaluation import plots, studies
from fspo_jax.evaluation import told as told_lib
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run of a world.", required=True)
_N = flags.DEFINE_list("n", ["1", "2", "4", "8", "16"], "How many are sampled; 1 for comparison.")
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
  run = recipe.reopen(_WORKDIR.value)
  found = study(run, [int(n) for n in _N.value])
  studies.write(run, "descriptions", found, lambda path: draw(found, path), out=_OUT.value)


def study(run: recipe.Recipe, counts: Sequence[int]) -> dict[str, Any]:
  """F1, accuracy and win rate by n, of the greedy description, the gold one, and without."""
  told = told_lib.Told(run, users=_EPISODES.value, prompts=_PROMPTS.value)
  shots = [episode.shots for episode in told.episodes]
  writer = told.models.writer(trained=True)

  def measured(n: int, temperature: float) -> dict[str, Any]:
    decoding = Decoding(temperature, 1.0, told.settings.max_description_tokens)
    found = rat.describe(
      writer,
      shots,
      decoding,
      n=n,
      seed=told.seed,
      rows=told.settings.rows,
      vocab_chunk=told.models.vocab_chunk,
    )
    texts = [description.text for description in found]
    return told.measure(texts) | {"f1": told.f1(texts)}

  return {
    "shots": told.settings.shots,
    "temperature": _TEMPERATURE.value,
    "without": told.measure(None),
    "gold": told.measure([episode.description for episode in told.episodes]) | {"f1": 1.0},
    "greedy": measured(1, 0.0),
    "by_n": {str(n): measured(n, _TEMPERATURE.value) for n in counts},
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
  plots.panels(panels, path, xlabel="descriptions that are sampled")


if __name__ == "__main__":
  app.run(main)
