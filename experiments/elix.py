# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Explain it to me: a synthetic set of learners made by the factory, then FSPO trained on it.

`:hard` has 550 learners whose expertise differs by subject, `:easy` one of five levels. Topics are
held out as well as users. From scratch, in less than twenty minutes on two cores:

python -m fspo_jax.main --config=experiments/elix.py:hard --workdir=runs/elix
"""

from collections.abc import Callable
import itertools

import ml_collections

from fspo_jax import presets


def get_config(variant: str = "hard") -> ml_collections.ConfigDict:
  """The config of the experiment; `variant` is 'easy' or 'hard'."""
  c = presets.synthetic_users("elix")
  if variant not in ("easy", "hard"):
    raise ValueError(f"found {variant!r} after the colon, expected 'easy' or 'hard'")
  c.elix_variant = variant
  c.synthesis.set.users = presets.SET_USERS["elix_easy" if variant == "easy" else "elix"]
  c.synthesis.set.pairs = 240
  c.sft.steps = 400
  c.preference.steps = 1000
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Learning rate, three seeds of each, for either variant."""
  del arg
  for rate, seed in itertools.product((1e-3, 2e-3), range(3)):
    add(
      **{
        "preference.optimizer.learning_rate": rate,
        "preference.optimizer.adam_learning_rate": rate / 2,
        "seed": seed,
      }
    )


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy after 8 shots, and win rates."""
  del arg
  return {
    "accuracy, 8 shots": "preference_accuracy.fspo.unseen.8",
    "win rate": "win_rate.fspo.unseen.mean",
    "win rate, RAT": "win_rate.fspo_rat.unseen.mean",
  }
