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

_SHOTS = 8


def get_config() -> ml_collections.ConfigDict:
  """The config of the experiment."""
  c = default()
  c.data.name = "pretraining"
  c.stages = ("tokenizer", "sft")
  c.tokenizer.vocab_size = 2048
  c.tokenizer.corpus_lines = 30_000
  c.model.width = 128
  c.model.layers = 4
  c.model.heads = 4
  c.model.kv_heads = 4
  c.model.mlp = 384
  layout = pretraining.layout(_SHOTS)
  c.sft.shots = _SHOTS
  c.sft.queries = 8
  c.sft.curriculum.use = False
  c.sft.flip_shots = 0.0
  c.sft.layout.shot_pairs = layout.shot_pairs
  c.sft.layout.rejected = layout.rejected
  c.sft.layout.query_shots = layout.query_shots
  c.sft.layout.description_shots = layout.description_shots
  c.sft.layout.description_queries = layout.description_queries
  c.sft.row_episodes = 2
  c.sft.row_tokens = 1024
  c.sft.scored_tokens = 832
  c.sft.rows_per_step = 4
  c.sft.steps = 12_000
  c.sft.checkpoint_every = 250
  return c
