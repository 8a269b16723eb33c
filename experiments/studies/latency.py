# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What a personalized answer costs: seconds and tokens of each method, for one user and for many.

python experiments/studies/latency.py --workdir=RUN [--out=DIR]

FSPO reads a user's shots once for all questions, RAT writes a description first, or as many as the
run's evaluation has (`evaluation.descriptions`), of which the tokens of the one that is kept are
counted, and the seconds of writing and of judging all. Each is timed after a first call that
compiles, with a new seed each time. Compare the ratios: the seconds are those of the machine, and
of whatever else it did. Writes latency.json.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import statistics
import sys
import time
from typing import Any

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.studies.common import record  # noqa: E402
from fspo_jax import logs, recipe  # noqa: E402
from fspo_jax.episodes.sampling import Episode  # noqa: E402
from fspo_jax.evaluation import evaluate, win_rate  # noqa: E402
from fspo_jax.inference import rat  # noqa: E402
from fspo_jax.inference.sampler import Decoding  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "A finished run, of a world.", required=True)
_METHODS = flags.DEFINE_list(
  "methods", ["base", "fewshot_prompted", "oracle", "fspo", "fspo_rat"], "Methods that are prompts."
)
_USERS = flags.DEFINE_integer("users", 64, "Users of the batch.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls, of which the median counts.")
_OUT = flags.DEFINE_string("out", None, "Folder to write (default: the run's folder 'studies').")


def study(run: recipe.Recipe) -> dict[str, Any]:
  """Seconds and written tokens of each method, by number of users."""
  plan, seed = run.plan, run.plan.seed("evaluation")
  settings = dataclasses.replace(
    plan.settings,
    methods=tuple(_METHODS.value),
    episodes=_USERS.value,
    rat_episodes=_USERS.value,
    win_rate_users=0,
    descriptions=1,
  )
  source = plan.evaluation["unseen"]
  truth = plan.data.truth(source)
  if truth is None:
    raise app.UsageError(f"--workdir={_WORKDIR.value}: no world has questions to ask")
  models = run.models()
  writer = models.writer(trained=True)
  decoding = Decoding(settings.temperatures[0], settings.top_p, settings.max_response_tokens)
  length = Decoding(settings.description_temperature, 1.0, settings.max_description_tokens)
  evaluation = evaluate.SplitEvaluation("unseen", source, models, settings, seed=seed)
  episodes = evaluation.episodes
  prompts = win_rate.draw_prompts(truth.question, episodes, 1, seed)

  def timed(method: str, users: int) -> dict[str, float]:
    own: Sequence[Episode] = episodes[:users]
    seconds, tokens = [], []
    for repeat in range(_REPEATS.value + 1):
      described = []
      start = time.perf_counter()
      if method == "fspo_rat":
        # Not as the contender does, which writes the descriptions after all ks, and once.
        described = rat.describe(
          writer,
          [e.shots for e in own],
          length,
          n=plan.settings.descriptions,
          judge=models.judge(settings.description_beta, rows=settings.rows),
          seed=seed + repeat,
        )
        written = writer.respond(
          [e.shots for e in own],
          prompts[:users],
          decoding,
          seed=seed + repeat,
          descriptions=[d.text for d in described],
        )
      else:
        written = evaluation.contenders[method].respond(
          own, prompts[:users], decoding, seed=seed + repeat
        )
      elapsed = time.perf_counter() - start
      encode = models.formatter.answer
      texts = [w.text for answers in written for w in answers] + [d.text for d in described]
      if repeat:  # the first one compiles
        seconds.append(elapsed)
        tokens.append(sum(len(encode(text)) for text in texts))
    median = statistics.median(seconds)
    return {
      "seconds": median,
      "tokens": statistics.fmean(tokens),
      "tokens_per_second": statistics.fmean(tokens) / median,
    }

  return {
    method: {str(users): timed(method, users) for users in (1, _USERS.value)}
    for method in settings.methods
  }


def main(argv: list[str]) -> None:
  """Measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  run = recipe.reopen(_WORKDIR.value)
  by_method = study(run)
  base = by_method[_METHODS.value[0]]
  for method, by_users in by_method.items():
    for users, found in by_users.items():
      ratio = found["seconds"] / base[users]["seconds"]
      print(
        f"{method:18} {users:>4} users: {found['seconds']:.3f} s ({ratio:.2f} x base), "
        f"{found['tokens_per_second']:.0f} tokens/s"
      )
  record.write(run, "latency", {"by_users": by_method}, out=_OUT.value)


if __name__ == "__main__":
  logs.run(main)
