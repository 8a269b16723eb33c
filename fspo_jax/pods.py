# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Configs of runs on pods: a public model on a slice, with the paper's hyper-parameters.

From the paper's code: SFT at 1e-7 and IPO at 1e-6 with beta 0.01, RMSprop, 150 steps of warm-up,
a gradient clipped to norm 10, 8 shots, 8k tokens, one epoch. Its batch is 4, which splits over 4
chips; here it is a row on each chip as far as 64 rows, and a chip more for each row's tensors from
there on. Both are starting points: `python -m fspo_jax.plan` says what else there is.

Attention is XLA's everywhere, since the kernels (`model.attention`) have not run on a chip: on TPUs
'pallas_tpu' has these blocks, on GPUs 'pallas_gpu' needs smaller ones, `model.attention_block=64`.
"""

from __future__ import annotations

import ml_collections

from fspo_jax import config as config_lib
from fspo_jax.models import shapes
from fspo_jax.planning import hardware as hardware_lib

ROW_TOKENS = 8192
# Of a row: prompts, and the rejected responses in the context, are read and not scored.
SCORED_TOKENS = 5632
_MOST_ROWS = 64
_EPISODES = 48_000  # 32 queries of each of the paper's 1,500 users


# Chips that are rented together, and their topology, as `plan` and the compiler call it. Names are
# Google Cloud's: v5p by its cores, of which a chip has two.
SLICES = {
  "v5e-8": "v5e:2x4",
  "v5e-16": "v5e:4x4",
  "v5e-32": "v5e:4x8",
  "v5e-64": "v5e:8x8",
  "v5e-128": "v5e:8x16",
  "v5e-256": "v5e:16x16",
  "v5p-16": "v5p:2x2x2",
  "v5p-32": "v5p:2x2x4",
  "v5p-64": "v5p:2x4x4",
  "v5p-128": "v5p:4x4x4",
  "v6e-8": "v6e:2x4",
  "v6e-16": "v6e:4x4",
  "v6e-32": "v6e:4x8",
  "v6e-64": "v6e:8x8",
  "v6e-256": "v6e:16x16",
  "8xh100": "h100:8",
  "8xh200": "h200:8",
}


def parse(arg: str) -> tuple[str, str]:
  """The names in 'model=NAME,hardware=NAME'; ValueError if it is something else."""
  found = dict(part.partition("=")[::2] for part in arg.split(","))
  if set(found) != {"model", "hardware"}:
    raise ValueError(
      f"found {arg!r} after the colon, expected model=NAME,hardware=NAME: a model of "
      f"{shapes.NAMES}, hardware of {tuple(SLICES)}"
    )
  return found["model"], found["hardware"]


def config(model: str, hardware: str) -> ml_collections.ConfigDict:
  """The config of FSPO on users' own texts, from a model's folder that `base` will name.

  Args:
    model: one of `shapes.NAMES`.
    hardware: one of `SLICES`.

  Raises:
    ValueError: there is no such model or hardware.
  """
  if hardware not in SLICES:
    raise ValueError(f"hardware={hardware!r}: expected one of {tuple(SLICES)}")
  c, chips = config_lib.default(), hardware_lib.chips(SLICES[hardware])
  c.stages = ("base", "sft", "preference", "evaluate")
  c.data.name = "user_set"
  c.template = "headings"
  how = {"attention_block": 512, "remat": "full", "dtype": "bfloat16", "param_dtype": "float32"}
  shape = shapes.shape(model, **how)
  config_lib.use_shape(c, shape)
  c.model.update(how)
  c.vocab_chunk = 4096
  rows = min(chips, _MOST_ROWS)
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, rows, chips // rows
  for stage, rate in ((c.sft, 1e-7), (c.preference, 1e-6)):
    _paper(stage, rate, rows)
  c.sft.layout.rejected = False
  c.preference.loss.preference_weight = 1.0
  c.preference.loss.chosen_weight = 0.0
  c.evaluation.methods = ("base", "fewshot_prompted", "fspo")
  c.evaluation.rows = rows
  c.evaluation.episodes = max(rows, 512)
  c.evaluation.rat_episodes = 0
  c.evaluation.win_rate_users = 0  # of a world alone
  c.evaluation.max_response_tokens = 512
  return c


def _paper(stage: ml_collections.ConfigDict, rate: float, rows: int) -> None:
  """Gives a stage the paper's hyper-parameters."""
  stage.shots = 8
  stage.queries = 1
  stage.row_tokens = ROW_TOKENS
  stage.scored_tokens = SCORED_TOKENS
  stage.rows_per_step = rows
  stage.steps = _EPISODES // rows
  stage.flip_shots = -1.0
  stage.curriculum.use = False
  stage.checkpoint_every = 100
  stage.layout.shot_pairs = True  # one pass scores the pair after each number of shots
  stage.layout.query_shots = (8,)
  stage.layout.description_shots = ()
  stage.layout.description_queries = ()
  stage.loss.name = "ipo"
  stage.loss.beta = 0.01
  stage.optimizer.name = "rmsprop"
  stage.optimizer.learning_rate = rate
  stage.optimizer.b2 = 0.99  # PyTorch's default
  stage.optimizer.warmup_steps = 150
  stage.optimizer.decay_fraction = 0.0
  stage.optimizer.clip_norm = 10.0
