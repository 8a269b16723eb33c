# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Your own users: a JSONL of `user_id, prompt, chosen, rejected[, description]`.

Users and prompts of the evaluation are never trained on. Set the numbers of shots to what your
users have, and the rows to your texts' lengths: the run says how many shots did not fit.

python -m fspo_jax.main --config=experiments/jsonl.py --workdir=runs/mine \
  --config.data.path=users.jsonl
"""

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
