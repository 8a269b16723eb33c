# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""How much RAT loses by what its description gets wrong: 0 to 100 % of the tastes replaced.

python experiments/studies/corruption.py --workdir=RUN [--of=written|gold] [--out=DIR]

The description after all shots, as the policy wrote it or the gold one, gets a share of its tastes
replaced by others (see fspo_jax/evaluation/corruption.py), and everything is measured again: the
preference accuracy under it, and the win rate of the responses. FSPO without a description is what
it has to beat. Writes corruption.json and corruption.png.
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

from experiments.studies.common import described, record  # noqa: E402
from fspo_jax import logs, recipe  # noqa: E402
from fspo_jax.evaluation import plots  # noqa: E402
from fspo_jax.evaluation.corruption import corrupt  # noqa: E402
from fspo_jax.evaluation.methods import METHODS  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run, of a world.", required=True)
_OF = flags.DEFINE_enum("of", "written", ["written", "gold"], "Which descriptions.")
_SHARES = flags.DEFINE_list("shares", ["0", "0.25", "0.5", "0.75", "1"], "Of the tastes, replaced.")
_EPISODES = flags.DEFINE_integer("episodes", 250, "Users' episodes.")
_PROMPTS = flags.DEFINE_integer("prompts", 2, "Prompts answered for each, for win rates.")
_OUT = flags.DEFINE_string("out", None, "Folder to write (default: the run's folder 'studies').")


def main(argv: list[str]) -> None:
  """Measures and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  run = recipe.reopen(_WORKDIR.value)
  found = study(run, [float(share) for share in _SHARES.value])
  entries = {"of": _OF.value, **found}
  record.write(run, "corruption", entries, lambda path: draw(found, path), out=_OUT.value)


def study(run: recipe.Recipe, shares: Sequence[float]) -> dict[str, Any]:
  """Accuracy and win rate by share, and without a description."""
  people = described.DescribedUsers(run, users=_EPISODES.value, prompts=_PROMPTS.value)
  texts, s = people.gold, run.plan.settings
  if _OF.value == "written":
    texts = people.write(n=s.descriptions, temperature=s.description_temperature)

  def corrupted(share: float) -> list[str]:
    return [
      corrupt(people.world, np.random.default_rng([people.seed, i]), text, share)
      for i, text in enumerate(texts)
    ]

  return {
    "shots": s.shots,
    "without": people.measure(None),
    "by_share": {f"{share:g}": people.measure(corrupted(share)) for share in shares},
    "description_f1": people.f1(texts),
  }


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
  """Accuracy and win rate against the share, FSPO without a description level across."""
  xs = [float(share) for share in found["by_share"]]
  panels = []
  for key, title in (
    ("accuracy", "preference accuracy"),
    ("win_rate", "win rate against the base"),
  ):
    rat, without = METHODS["fspo_rat"], METHODS["fspo"]
    values = [by[key] for by in found["by_share"].values()]
    level = found["without"][key]
    lines = [
      plots.Line(
        rat.label, rat.color, xs, [v["mean"] for v in values], [v["ci95"] for v in values]
      ),
      plots.Line(
        without.label, without.color, [xs[0], xs[-1]], [level["mean"]] * 2, [level["ci95"]] * 2
      ),
    ]
    panels.append(plots.Panel(title, lines, percent=True))
  plots.panels(panels, path, xlabel="share of the description's tastes that are wrong")


if __name__ == "__main__":
  logs.run(main)
