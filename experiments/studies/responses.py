# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What it is worth to sample several responses, and keep the best by the implicit reward.

python experiments/studies/responses.py --workdir=RUN [--n=1,2,4,8] [--out=DIR]

A policy that was trained on preferences is a judge as well: after all shots it answers each prompt
n times, and the response is kept of which it thinks that the user would like it most
(`inference/rewards.py`), which asks nothing more of the user. Its win rate against one response of
the base, by n and by the temperature of what is sampled; of a run with RAT also under the best
description of those that it evaluates with. The base answers at the run's own temperature. Writes
responses.json and responses.png.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import pathlib
import sys
from typing import Any

from absl import app, flags
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.studies.common import described, numbers, record  # noqa: E402
from fspo_jax import config as config_lib  # noqa: E402
from fspo_jax import logs, recipe  # noqa: E402
from fspo_jax.episodes.sampling import Episode  # noqa: E402
from fspo_jax.evaluation import plots  # noqa: E402
from fspo_jax.evaluation.methods import METHODS  # noqa: E402
from fspo_jax.inference.rewards import ImplicitReward  # noqa: E402
from fspo_jax.inference.sampler import Decoding  # noqa: E402
from fspo_jax.inference.writer import Written  # noqa: E402

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "A finished run of FSPO, of a world.", required=True
)
_N = flags.DEFINE_list("n", ["1", "2", "4", "8"], "How many are sampled.")
_TEMPERATURES = flags.DEFINE_list("temperatures", ["0.3", "1.0"], "Of what is sampled.")
_EPISODES = flags.DEFINE_integer("episodes", 200, "Users.")
_PROMPTS = flags.DEFINE_integer("prompts", 2, "Prompts answered for each.")
_OUT = flags.DEFINE_string("out", None, "Folder to write (default: the run's folder 'studies').")


@dataclasses.dataclass(frozen=True)
class BestOf:
  """FSPO, of whose responses the best of n is kept.

  Attributes:
    reward: what says which is the best.
    n: responses that are sampled.
    temperature: of them, whatever the others answer at.
    descriptions: of each user, which the responses are written under; None for none.
  """

  reward: ImplicitReward
  n: int
  temperature: float
  descriptions: Sequence[str] | None

  def respond(
    self,
    episodes: Sequence[Episode],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    seed: int,
  ) -> list[list[Written]]:
    """The best response to each prompt."""
    return self.reward.respond(
      [episode.shots for episode in episodes],
      prompts,
      dataclasses.replace(decoding, temperature=self.temperature),
      n=self.n,
      seed=seed,
      descriptions=self.descriptions,
    )


def main(argv: list[str]) -> None:
  """Measures and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  counts, temperatures = numbers.counts("n", _N.value), _temperatures()
  run = recipe.reopen(_WORKDIR.value)
  found = study(run, counts, temperatures)
  record.write(run, "responses", found, lambda path: draw(found, path), out=_OUT.value)


def _temperatures() -> list[float]:
  """The numbers of --temperatures."""
  try:
    found = [float(t) for t in _TEMPERATURES.value]
  except ValueError:
    found = []
  if not found or not all(0 < t < math.inf for t in found):
    raise app.UsageError(
      f"--temperatures={','.join(_TEMPERATURES.value)}: expected numbers of more than 0, where "
      "several responses are all the same"
    )
  return found


def study(
  run: recipe.Recipe, counts: Sequence[int], temperatures: Sequence[float]
) -> dict[str, Any]:
  """The win rate of each method by temperature and n."""
  settings = run.plan.settings
  if "fspo" not in settings.methods:
    raise app.UsageError(
      f"--workdir={run.workdir.path}: found a run of {settings.methods}, expected one of 'fspo'"
    )
  people = described.DescribedUsers(run, users=_EPISODES.value, prompts=_PROMPTS.value)
  models = people.models
  reward = ImplicitReward(
    models.writer(trained=True),
    models.base,
    config_lib.objective(run.config.preference),
    models.vocab_chunk,
  )
  told: dict[str, list[str] | None] = {"fspo": None}
  if "fspo_rat" in settings.methods:
    told["fspo_rat"] = people.write(
      n=settings.descriptions, temperature=settings.description_temperature
    )
  return {
    "shots": settings.shots,
    "base_temperature": settings.temperatures[0],
    "win_rate": {
      method: {
        str(t): {str(n): people.play(method, BestOf(reward, n, t, texts)) for n in counts}
        for t in temperatures
      }
      for method, texts in told.items()
    },
  }


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
  """The win rate against n, a panel for each temperature."""
  by_temperature: dict[str, list[plots.Line]] = {}
  for name, by in found["win_rate"].items():
    method = METHODS[name]
    for temperature, rates in by.items():
      means = np.array([rate["mean"] for rate in rates.values()])
      intervals = [rate["ci95"] for rate in rates.values()]
      xs = [float(n) for n in rates]
      line = plots.Line(method.label, method.color, xs, means, intervals)
      by_temperature.setdefault(temperature, []).append(line)
  panels = [
    plots.Panel(f"win rate, sampled at temperature {temperature}", lines, percent=True)
    for temperature, lines in by_temperature.items()
  ]
  plots.panels(panels, path, xlabel="responses that are sampled")


if __name__ == "__main__":
  logs.run(main)
