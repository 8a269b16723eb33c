# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Real people: which of two arguments is more convincing, judged by several hundred crowd workers.

UKPConvArg1 (CC-BY-4.0), with the workers' ids. Workers and debates of the evaluation are never
trained on. `data.path` is a folder with the two files; the error says where to get them.

python -m fspo_jax.main --config=experiments/ukp.py --workdir=runs/ukp --config.data.path=DIR
"""

from collections.abc import Callable
import itertools

import ml_collections

from fspo_jax import presets


def get_config() -> ml_collections.ConfigDict:
  """The config of the experiment; it takes minutes on two cores."""
  c = presets.texts(shots=8)
  c.data.name = "ukp"
  c.data.max_words = 60
  c.data.min_preferences = 20
  c.data.small_users = "set_aside"
  c.tokenizer.vocab_size = 2048
  c.sft.row_tokens = 1504
  c.sft.scored_tokens = 704
  c.preference.steps = 400
  c.preference.row_tokens = 1952
  c.preference.scored_tokens = 1216
  c.evaluation.episodes = 600
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Learning rate, three seeds of each, chosen on workers who are not those of the results."""
  del arg
  for rate, seed in itertools.product((5e-4, 1e-3, 2e-3), range(3)):
    add(
      **{
        "data.workers": "val",
        "preference.optimizer.learning_rate": rate,
        "preference.optimizer.adam_learning_rate": rate / 2,
        "seed": seed,
      }
    )


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy without and with shots."""
  del arg
  return {
    "accuracy, no shots": "preference_accuracy.fspo.unseen.0",
    "accuracy, 8 shots": "preference_accuracy.fspo.unseen.8",
    "prompted, 8 shots": "preference_accuracy.fewshot_prompted.unseen.8",
  }
