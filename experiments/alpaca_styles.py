# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Real instructions, real answers: users who like concise answers and users who like verbose ones.

The answers of two large models to the AlpacaEval instructions, each model steered to be concise and
to be verbose. Users are simulated, so the truth is known; users and instructions of the evaluation
are never trained on. `data.path` is a folder with the four files; the error says where to get them.

python -m fspo_jax.main --config=experiments/alpaca_styles.py --workdir=runs/alpaca_styles \
  --config.data.path=DIR
"""

import ml_collections

from fspo_jax import config


def get_config() -> ml_collections.ConfigDict:
  """The config of the experiment; it takes minutes on two cores."""
  c = config.default()
  c.data.name = "alpaca_styles"
  c.data.max_words = 150
  c.data.unseen_prompts = 0.3
  c.data.preferences_per_user = 20
  c.tokenizer.vocab_size = 4096
  c.tokenizer.split_by_whitespace = True

  c.model.layers = 2
  c.model.attention_block = 256
  for stage in (c.sft, c.preference):
    stage.shots = 4
    stage.queries = 1
    stage.curriculum.use = False
    stage.rows_per_step = 4
    stage.row_tokens = 2048
    stage.scored_tokens = 1536
    stage.checkpoint_every = 50
    stage.log_every = 5
    stage.layout.query_shots = (4,)
    stage.layout.description_shots = ()
    stage.layout.description_queries = ()
  c.sft.steps = 120
  c.preference.steps = 300

  c.evaluation.shots = 4
  c.evaluation.episodes = 400
  c.evaluation.rat_episodes = 0  # no descriptions are trained
  c.evaluation.rows = 2
  c.evaluation.win_rate_users = 0  # there is no true reward
  return c
