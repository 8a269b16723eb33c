# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""FSPO with LoRA from a Llama, Mistral, Qwen or Gemma, in the layout of Hugging Face.

The folder after the colon has `config.json`, safetensors, and the tokenizer. It is asked in the
paper's headings; `--config.template=chat` asks it in its own chat template. The users here are
those of the reviews world, which needs no data; for your own, stored as a set
(fspo_jax/datasets/README.md):

python -m fspo_jax.main --config=experiments/hugging_face.py:FOLDER --workdir=runs/mine \
  --config.data.name=user_set --config.data.path=SET
python -m fspo_jax.export --workdir=runs/mine --out=exported
"""

from __future__ import annotations

from collections.abc import Callable

import ml_collections

from fspo_jax import config
from fspo_jax.models import huggingface


def get_config(folder: str = "") -> ml_collections.ConfigDict:
  """The config of a run from the checkpoint in `folder`."""
  if not folder:
    raise ValueError(
      "found no folder, expected experiments/hugging_face.py:FOLDER, with config.json, safetensors "
      "and a tokenizer"
    )
  c = config.default()
  c.base = folder
  c.stages = ("base", "preference", "evaluate")
  config.use_shape(c, huggingface.load_config(folder))
  c.template = "headings"
  c.preference.lora.rank = 16
  c.preference.lora.alpha = 32.0
  c.preference.optimizer.name = "adamw"
  c.preference.optimizer.learning_rate = 5e-4
  c.preference.loss.name = "dpo"
  c.preference.loss.beta = 0.1
  c.preference.loss.preference_weight = 1.0
  c.preference.loss.chosen_weight = 0.1  # a model of others, asked about something new, drifts
  c.preference.steps = 500
  c.preference.row_tokens = 2048
  c.preference.scored_tokens = 1280
  c.preference.curriculum.use = False
  c.preference.layout.description_shots = ()
  c.preference.layout.description_queries = ()
  c.evaluation.methods = ("base", "fewshot_prompted", "fspo")
  c.evaluation.rat_episodes = 0
  c.evaluation.max_response_tokens = 128
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Learning rate and rank."""
  del arg
  for rate in (2e-4, 5e-4, 1e-3):
    for rank in (8, 32):
      add(
        **{
          "preference.optimizer.learning_rate": rate,
          "preference.lora.rank": rank,
          "preference.lora.alpha": 2.0 * rank,
        }
      )


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy without and with shots."""
  del arg
  return {
    "accuracy, no shots": "preference_accuracy.fspo.unseen.0",
    "accuracy, 8 shots": "preference_accuracy.fspo.unseen.8",
  }
