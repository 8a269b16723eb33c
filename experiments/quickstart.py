# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The main job: FSPO on the embedded reviews world, on a laptop CPU.

python -m fspo_jax.main --config=experiments/quickstart.py --workdir=runs/quickstart

It starts from the base of the worlds, which comes with the package. `:scratch` starts from nothing:
a tokenizer, a smaller model that learns the language first, and then FSPO.
"""

from collections.abc import Callable
import itertools

import ml_collections

from fspo_jax import config, presets


def get_config(arg: str = "published") -> ml_collections.ConfigDict:
  """The config of the main job: the whole recipe in minutes on two cores.

  Args:
    arg: 'published', from the base, or 'scratch'.
  """
  if arg == "scratch":
    return _from_scratch()
  if arg != "published":
    raise ValueError(f"found {arg!r} after the colon, expected 'published' or 'scratch'")
  c = presets.from_base("reviews")
  c.preference.steps = 2000
  c.preference.row_tokens = 656
  c.preference.scored_tokens = 432
  c.preference.layout.description_shots = (0, 4, 8)
  c.preference.layout.description_queries = (8,)
  c.evaluation.methods = ("base", "fewshot_prompted", "fspo", "fspo_rat", "fspo_gold", "oracle")
  return c


def _from_scratch() -> ml_collections.ConfigDict:
  c = config.default()
  c.model.layers = 2

  c.sft.steps = 250
  c.sft.row_tokens = 640
  c.sft.scored_tokens = 384

  c.preference.steps = 1800
  c.preference.row_tokens = 656
  c.preference.scored_tokens = 432
  # With beta 0.5 DPO asks for about the margins of a calibrated generative model, which the
  # likelihood of the chosen responses pulls towards as well.
  c.preference.loss.name = "dpo"
  c.preference.loss.beta = 0.5
  c.preference.loss.preference_weight = 1.0
  c.preference.optimizer.learning_rate = 2e-3
  c.preference.optimizer.adam_learning_rate = 1e-3
  c.preference.optimizer.decay_fraction = 0.6
  c.preference.curriculum.start = 0.08
  c.preference.curriculum.end = 0.4
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Learning rate by beta, three seeds of each: 27 runs of minutes."""
  del arg
  for rate, beta, seed in itertools.product((1e-3, 2e-3, 4e-3), (0.25, 0.5, 1.0), range(3)):
    add(
      **{
        "preference.optimizer.learning_rate": rate,
        "preference.optimizer.adam_learning_rate": rate / 2,
        "preference.loss.beta": beta,
        "seed": seed,
      }
    )


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy after 8 shots, and win rates."""
  del arg
  return {
    "accuracy, 8 shots": "preference_accuracy.fspo.unseen.8",
    "the same, held-out combinations": "preference_accuracy.fspo.heldout_combinations.8",
    "win rate": "win_rate.fspo.unseen.mean",
    "win rate, RAT": "win_rate.fspo_rat.unseen.mean",
  }
