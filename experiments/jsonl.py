# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Your own users: a JSONL of `user_id, prompt, chosen, rejected[, description]`.

Users and prompts of the evaluation are never trained on. Set the numbers of shots to what your
users have, and the rows to your texts' lengths: the run says how many shots did not fit.

python -m fspo_jax.main --config=experiments/jsonl.py --workdir=runs/mine \
  --config.data.path=users.jsonl
"""

import ml_collections

from fspo_jax import config


def get_config() -> ml_collections.ConfigDict:
  """A config to start from."""
  c = config.default()
  c.data.name = "jsonl"
  c.tokenizer.vocab_size = 4096
  c.tokenizer.split_by_whitespace = True
  c.model.layers = 2
  c.model.attention_block = 256
  for stage in (c.sft, c.preference):
    stage.shots = 4
    stage.queries = 1
    stage.curriculum.use = False
    stage.row_tokens = 2048
    stage.scored_tokens = 1536
    stage.layout.query_shots = (4,)
    stage.layout.description_shots = ()
    stage.layout.description_queries = ()
  c.evaluation.shots = 4
  c.evaluation.episodes = 400
  c.evaluation.rat_episodes = 0  # no descriptions are trained
  c.evaluation.rows = 2
  c.evaluation.win_rate_users = 0  # there is no true reward
  return c
