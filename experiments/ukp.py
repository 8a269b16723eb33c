# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Real people: which of two arguments is more convincing, judged by several hundred crowd workers.

UKPConvArg1 (CC-BY-4.0), with the workers' ids. Workers and debates of the evaluation are never
trained on. `data.path` is a folder with the two files; the error says where to get them.

python -m fspo_jax.main --config=experiments/ukp.py --workdir=runs/ukp --config.data.path=DIR
"""

import ml_collections

from fspo_jax import config


def get_config() -> ml_collections.ConfigDict:
  """The config of the experiment; it takes minutes on two cores."""
  c = config.default()
  c.data.name = "ukp"
  c.data.max_words = 60
  c.data.min_preferences = 20
  c.data.small_users = "set_aside"
  c.tokenizer.vocab_size = 2048
  c.tokenizer.split_by_whitespace = True

  # Small, since the texts are long: two cores are to do it in minutes.
  c.model.width = 64
  c.model.layers = 2
  c.model.heads = 2
  c.model.kv_heads = 2
  c.model.mlp = 192
  c.model.attention_block = 256
  for stage in (c.sft, c.preference):
    stage.shots = 8
    stage.queries = 1
    stage.curriculum.use = False
    stage.rows_per_step = 2
    stage.checkpoint_every = 50
    stage.log_every = 5
    stage.layout.query_shots = (8,)
    stage.layout.description_shots = ()
    stage.layout.description_queries = ()
  c.sft.steps = 150
  c.sft.row_tokens = 1504
  c.sft.scored_tokens = 704
  c.preference.steps = 400
  c.preference.row_tokens = 1952
  c.preference.scored_tokens = 1216
  c.preference.loss.name = "dpo"
  c.preference.loss.preference_weight = 1.0
  c.preference.loss.chosen_weight = 0.1
  c.preference.optimizer.learning_rate = 1e-3
  c.preference.optimizer.adam_learning_rate = 5e-4

  c.evaluation.episodes = 600
  c.evaluation.rat_episodes = 0
  c.evaluation.rows = 2
  c.evaluation.win_rate_users = 0  # there is no true reward
  return c
