# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts that the base of the embedded worlds is pretrained in, one after another.

The first one makes the model; each of the others goes on from what was there, with other documents
(`episodes/pretraining.py`). `config.base='scratch'` runs them all, `experiments/base.py` one.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from fspo_jax import presets
from fspo_jax.config import default
from fspo_jax.episodes import pretraining

# What came with the package was made so, each with its place here for a seed: another one than any
# before, or it would see the same documents again.
CHAIN = (
  "first",
  "continued",
  "reading",
  "levels",
  "levels",
  "subjects",
  "topics",
  "rehearsal",
  "long",
  "instructions",
)
PARTS = tuple(dict.fromkeys(CHAIN))

# Of each part that goes on from another: the part whose config it changes, and the changes.
_CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
  "continued": (
    "first",
    {
      "stages": ("base", "sft"),
      "pretraining.phases": ((0, (0.42, 0.04, 0.24, 0.06, 0.12, 0.12), (6, 4, 6), True),),
      "sft.optimizer.learning_rate": 2e-3,
      "sft.optimizer.adam_learning_rate": 1.6e-3,
      "sft.optimizer.decay_fraction": 0.6,
      "sft.steps": 2_600,
    },
  ),
  # To read what is hard to see in reviews.
  "reading": (
    "continued",
    {
      "pretraining.phases": ((0, (0.30, 0.04, 0.48, 0.06, 0.06, 0.06), (9, 2, 4), True),),
      "sft.steps": 1_400,
    },
  ),
  # To look up what a description says: many users in a step, few texts of each, and first of all
  # the levels of learners.
  "levels": (
    "continued",
    {
      "pretraining.phases": (
        (0, (0.12, 0.0, 0.0, 0.0, 0.03, 0.85), (0, 9, 1), True),
        (28_800, (0.5, 0.04, 0.12, 0.05, 0.08, 0.21), (4, 5, 6), True),
      ),
      "pretraining.pairs": (6, 5, 5),
      "pretraining.answers": (4, 3, 3),
      "pretraining.wishes": 4,
      "sft.row_episodes": 4,
      "sft.window_rows": 64,
      "sft.row_tokens": 736,
      "sft.scored_tokens": 608,
      "sft.steps": 3_000,
    },
  ),
  # To answer by what it looks up. One that names the level of every subject still answers most
  # questions at the general level: it has to be taught on the answers themselves, as densely.
  "subjects": (
    "levels",
    {
      "pretraining.phases": (
        (0, (0.60, 0.0, 0.0, 0.0, 0.06, 0.34), (0, 1, 0), True),
        (16_800, (0.46, 0.03, 0.13, 0.05, 0.10, 0.23), (2, 9, 4), True),
      ),
      "sft.steps": 1_500,
    },
  ),
  # What topics are that it never answers on; questions of knowledge are long.
  "topics": (
    "levels",
    {
      "pretraining.phases": ((0, (0.40, 0.03, 0.17, 0.05, 0.17, 0.18), (2, 7, 6), True),),
      "sft.row_episodes": 3,
      "sft.steps": 700,
    },
  ),
  # All of it once more. After parts that were mostly of one world, the others are not what they
  # were to train on: FSPO on reviews was 4 points worse with unseen combinations of tastes.
  "rehearsal": (
    "topics",
    {
      "pretraining.phases": ((0, (0.34, 0.06, 0.22, 0.16, 0.08, 0.14), (7, 3, 5), True),),
      "sft.steps": 900,
    },
  ),
  # To read on: documents as long as 16 shots and more. Those of the parts since `levels` have 230
  # to 450 tokens, and FSPO from there got worse from the sixth shot of elix on (8 have 630).
  "long": (
    "topics",
    {
      "pretraining.phases": ((0, (0.40, 0.08, 0.14, 0.24, 0.05, 0.09), (5, 4, 4), True),),
      "pretraining.pairs": (18, 16, 17),
      "sft.row_tokens": 1_408,
      "sft.scored_tokens": 1_056,
      "sft.rows_per_step": 4,
      "sft.steps": 800,
    },
  ),
  # To follow descriptions again as before: `long` has few answers to the token, and after it the
  # seldom kinds of elix were right in .885 where they had been in .965. Roleplay's unseen topics,
  # of which there is general knowledge alone, need more of that. And two pairs more of elix: FSPO
  # from `long` read 15 shots as well as 10, and no 16th.
  "instructions": (
    "long",
    {
      "pretraining.phases": ((0, (0.47, 0.06, 0.06, 0.17, 0.12, 0.12), (4, 5, 5), True),),
      "pretraining.pairs": (18, 18, 18),
      "sft.row_episodes": 4,
      "sft.row_tokens": 1_536,
      "sft.scored_tokens": 1_152,
      "sft.steps": 500,
    },
  ),
}


def config(part: str, seed: int | None = None, world_seed: int = 0) -> ml_collections.ConfigDict:
  """The config of a part.

  Args:
    part: one of `PARTS`.
    seed: of the documents, and of the first part's parameters; None for its first place in `CHAIN`.
    world_seed: of the worlds: which users and topics stay unseen.

  Raises:
    ValueError: there is no such part.
  """
  if part not in PARTS:
    raise ValueError(f"found the part {part!r}, expected one of {PARTS}")
  c = _config(part)
  c.seed, c.world_seed = CHAIN.index(part) if seed is None else seed, world_seed
  return c


def _config(part: str) -> ml_collections.ConfigDict:
  if part == CHAIN[0]:
    return _first()
  like, changes = _CHANGES[part]
  c = _config(like)
  c.update_from_flattened_dict(changes)
  return c


def _first() -> ml_collections.ConfigDict:
  c = default()
  c.data.name = "pretraining"
  c.stages = ("tokenizer", "sft")
  c.tokenizer.vocab_size = 3072
  c.tokenizer.corpus_lines = 30_000
  presets.use_base_shape(c)
  c.vocab_chunk = 3072
  c.sft.shots = 24
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
  c.sft.row_tokens = 656
  c.sft.scored_tokens = 544
  c.sft.rows_per_step = 6
  c.sft.optimizer.learning_rate = 2.5e-3
  c.sft.optimizer.adam_learning_rate = 2e-3
  c.sft.optimizer.decay_fraction = 0.5
  c.sft.optimizer.warmup_steps = 50
  c.sft.steps = 7_500
  c.sft.checkpoint_every = 250
  return c
