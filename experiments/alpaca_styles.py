# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Real instructions, real answers: users who like concise answers and users who like verbose ones.

The answers of two large models to the AlpacaEval instructions, each model steered to be concise and
to be verbose. Users are simulated, so the truth is known; users and instructions of the evaluation
are never trained on. `data.path` is a folder with the four files; the error says where to get them.

python -m fspo_jax.main --config=experiments/alpaca_styles.py --workdir=runs/alpaca_styles \
  --config.data.path=DIR
"""

from collections.abc import Callable
import itertools

import ml_collections

from fspo_jax import presets


def get_config() -> ml_collections.ConfigDict:
  """The config of the experiment; it takes minutes on two cores."""
  c = presets.texts(shots=4)
  c.data.name = "alpaca_styles"
  c.data.max_words = 120
  c.data.unseen_prompts = 0.3
  c.data.preferences_per_user = 16
  c.tokenizer.vocab_size = 3072
  c.sft.row_tokens = 1472
  c.sft.scored_tokens = 896
  c.preference.steps = 700
  c.preference.row_tokens = 2176
  c.preference.scored_tokens = 1408
  c.evaluation.episodes = 400
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """The weight of the chosen responses' likelihood, three seeds of each."""
  del arg
  for weight, seed in itertools.product((0.0, 0.1, 0.3), range(3)):
    add(**{"preference.loss.chosen_weight": weight, "seed": seed})


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy without and with shots."""
  del arg
  return {
    "accuracy, no shots": "preference_accuracy.fspo.unseen.0",
    "accuracy, 4 shots": "preference_accuracy.fspo.unseen.4",
    "prompted, 4 shots": "preference_accuracy.fewshot_prompted.unseen.4",
  }
