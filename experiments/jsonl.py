# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Your own users: a JSONL of `user_id, prompt, chosen, rejected[, description]`.

Users and prompts of the evaluation are never trained on. Set the numbers of shots to what your
users have, and the rows to your texts' lengths, or to 0, and the run looks at them: it says how
many shots did not fit. `row_episodes=4` and `window_rows=64` leave hardly any padding.

python -m fspo_jax.main --config=experiments/jsonl.py --workdir=runs/mine \
  --config.data.path=users.jsonl
"""

from collections.abc import Callable
import itertools

import ml_collections

from fspo_jax import presets


def get_config() -> ml_collections.ConfigDict:
  """A config to start from."""
  c = presets.texts(shots=4)
  c.data.name = "jsonl"
  c.tokenizer.vocab_size = 3072
  c.sft.row_tokens = 2048
  c.sft.scored_tokens = 1536
  c.preference.steps = 500
  c.preference.row_tokens = 2048
  c.preference.scored_tokens = 1536
  c.evaluation.episodes = 400
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Learning rate, three seeds of each."""
  del arg
  for rate, seed in itertools.product((5e-4, 1e-3, 2e-3), range(3)):
    add(
      **{
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
    "accuracy, 4 shots": "preference_accuracy.fspo.unseen.4",
    "prompted, 4 shots": "preference_accuracy.fewshot_prompted.unseen.4",
  }
