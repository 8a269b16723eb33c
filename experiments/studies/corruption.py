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
import dataclasses
import json
import pathlib
from typing import Any

from absl import app, flags
import numpy as np

from fspo_jax import recipe
from fspo_jax.evaluation import evaluate, plots, statistics, win_rate
from fspo_jax.evaluation import results as results_lib
from fspo_jax.evaluation.corruption import corrupt
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.inference.sampler import Decoding

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
  out = pathlib.Path(_OUT.value or run.workdir.path / "studies")
  out.mkdir(parents=True, exist_ok=True)
  record = {"of": _OF.value, "environment": results_lib.environment(seed=run.config.seed), **found}
  (out / "corruption.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
  draw(found, out / "corruption.png")
  print(f"study:   {out / 'corruption.json'}, {out / 'corruption.png'}")


def study(run: recipe.Recipe, shares: Sequence[float]) -> dict[str, Any]:
  """Accuracy and win rate by share, and without a description."""
  plan, seed = run.plan, run.plan.seed("evaluation")
  settings = dataclasses.replace(
    plan.settings,
    methods=("base", "fspo", "fspo_gold"),
    episodes=_EPISODES.value,
    rat_episodes=_EPISODES.value,
    win_rate_users=_EPISODES.value,
  )
  source, models = plan.evaluation["unseen"], run.models()
  truth = plan.data.truth(source)
  if truth is None:
    raise app.UsageError(f"--workdir={_WORKDIR.value}: no world knows what its descriptions say")
  episodes = [source(i) for i in range(settings.episodes)]
  users = [truth.user(i) for i in range(settings.episodes)]
  prompts = win_rate.draw_prompts(truth.question, episodes, _PROMPTS.value, seed)
  answers = Decoding(settings.temperatures[0], settings.top_p, settings.max_response_tokens)
  texts = [episode.description for episode in episodes]
  if _OF.value == "written":
    length = Decoding(settings.description_temperature, 1.0, settings.max_description_tokens)
    described = models.writer(trained=True).describe([e.shots for e in episodes], length, seed=seed)
    texts = [each.text for each in described]

  def measured(method: str, texts: Sequence[str]) -> dict[str, Any]:
    """A method, where these are the gold descriptions."""
    told = [
      dataclasses.replace(e, description=text) for e, text in zip(episodes, texts, strict=True)
    ]
    evaluation = evaluate.SplitEvaluation("unseen", told.__getitem__, models, settings, seed=seed)
    players = {name: evaluation.contenders[name] for name in ("base", method)}
    margins = players[method].margins(told)[settings.shots]
    accuracy = statistics.cluster_bootstrap(
      statistics.preference_accuracy(margins),
      np.asarray(evaluation.user_ids),
      resamples=settings.bootstrap,
    )
    match = win_rate.play(truth.world, users, told, prompts, players, answers, seed=seed)
    return {
      "accuracy": {"mean": accuracy.mean, "ci95": accuracy.ci},
      "win_rate": match.interval(method, evaluation.user_ids, settings.bootstrap),
    }

  def corrupted(share: float) -> list[str]:
    return [
      corrupt(truth.world, np.random.default_rng([seed, i]), text, share)
      for i, text in enumerate(texts)
    ]

  f1 = [truth.world.description_f1(u, t) for u, t in zip(users, texts, strict=True)]
  return {
    "shots": settings.shots,
    "without": measured("fspo", texts),
    "by_share": {f"{share:g}": measured("fspo_gold", corrupted(share)) for share in shares},
    "description_f1": float(np.mean(f1)),
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
  app.run(main)
