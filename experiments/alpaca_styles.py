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
  c.data.max_words = 120
  c.data.unseen_prompts = 0.3
  c.data.preferences_per_user = 16
  c.tokenizer.vocab_size = 3072
  c.tokenizer.split_by_whitespace = True

  # Small, since the texts are long: two cores are to do it in minutes.
  c.model.width = 64
  c.model.layers = 2
  c.model.heads = 2
  c.model.kv_heads = 2
  c.model.mlp = 192
  c.model.attention_block = 256
  for stage in (c.sft, c.preference):
    stage.shots = 4
    stage.queries = 1
    stage.curriculum.use = False
    stage.rows_per_step = 2
    stage.checkpoint_every = 50
    stage.log_every = 5
    stage.layout.query_shots = (4,)
    stage.layout.description_shots = ()
    stage.layout.description_queries = ()
  c.sft.steps = 150
  c.sft.row_tokens = 1472
  c.sft.scored_tokens = 896
  c.preference.steps = 700
  c.preference.row_tokens = 2176
  c.preference.scored_tokens = 1408
  # Responses are long and the model still learns the language: little likelihood, or its drift
  # drowns what the shots say.
  c.preference.loss.name = "dpo"
  c.preference.loss.preference_weight = 1.0
  c.preference.loss.chosen_weight = 0.1
  c.preference.optimizer.learning_rate = 1e-3
  c.preference.optimizer.adam_learning_rate = 5e-4

  c.evaluation.shots = 4
  c.evaluation.episodes = 400
  c.evaluation.rat_episodes = 0  # no descriptions are trained
  c.evaluation.rows = 2
  c.evaluation.win_rate_users = 0  # there is no true reward
  return c
