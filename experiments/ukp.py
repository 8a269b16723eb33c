# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Real people: which of two arguments is more convincing, judged by several hundred crowd workers.

UKPConvArg1 (CC-BY-4.0), with the workers' ids. Workers and debates of the evaluation are never
trained on. `data.path` is a folder with the two files; the error says where to get them.

python -m fspo_jax.main --config=experiments/ukp.py --workdir=runs/ukp --config.data.path=DIR
"""

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
