# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The base of the embedded worlds: one decoder, pretrained on the text of all three.

It learns to answer, to follow descriptions, to read responses, and the few-shot format, whose
labels are random: it does not personalize yet. Hours on two cores; it may be stopped and resumed.

python -m fspo_jax.main --config=experiments/base.py --workdir=runs/base
"""

import ml_collections

from fspo_jax.config import default
from fspo_jax.episodes import pretraining


def get_config() -> ml_collections.ConfigDict:
  """The config of the experiment."""
  c = default()
  c.data.name = "pretraining"
  c.stages = ("tokenizer", "sft")
  c.tokenizer.vocab_size = 3072
  c.tokenizer.corpus_lines = 30_000
  c.model.width = 128
  c.model.layers = 3
  c.model.heads = 4
  c.model.kv_heads = 4
  c.model.mlp = 384
  c.vocab_chunk = 3072
  c.sft.shots = max(c.pretraining.pairs)
  c.sft.queries = 24
  c.sft.curriculum.use = False
  c.sft.flip_shots = 0.0
  layout = pretraining.layout(c.sft.shots)
  c.sft.layout.shot_pairs = layout.shot_pairs
  c.sft.layout.rejected = layout.rejected
  c.sft.layout.query_shots = layout.query_shots
  c.sft.layout.description_shots = layout.description_shots
  c.sft.layout.description_queries = layout.description_queries
  c.sft.row_episodes = 1
  c.sft.row_tokens = 704
  c.sft.scored_tokens = 592
  c.sft.rows_per_step = 6
  c.sft.optimizer.learning_rate = 5e-3
  c.sft.optimizer.adam_learning_rate = 3e-3
  c.sft.optimizer.decay_fraction = 0.5
  c.sft.optimizer.warmup_steps = 50
  c.sft.steps = 4_800
  c.sft.checkpoint_every = 250
  return c
