# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A base with random parameters, and rows of the paper's tables that start from it, in small."""

import runpy

from fspo_jax import base as base_lib
from fspo_jax import config as config_lib
from fspo_jax import data, recipe
from fspo_jax.evaluation import results as results_lib
from fspo_jax.models import transformer
from fspo_jax.synthesis import pipeline
from fspo_jax.workdir import Workdir
from tests import tiny

# Few blocks of queries: each is compiled on its own, and most of the time is XLA's compilation.
SHAPE = {
  "width": 16,
  "heads": 2,
  "kv_heads": 1,
  "head_dim": 8,
  "layers": 1,
  "mlp": 16,
  "attention_block": 1024,
}


def config(**changes):
  """Of `experiments/base.py`; keys are written with __ for the dots."""
  found = runpy.run_path(str(tiny.REPO / "experiments/base.py"))["get_config"]()
  with found.ignore_type():
    found.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return found


def make(path, **changes):
  """A folder of a base with random parameters, and the base."""
  made = config(**{f"model__{key}": value for key, value in SHAPE.items()}, **changes)
  tokenizer = tiny.tokenizer()
  model = transformer.Transformer(config_lib.transformer(made, tokenizer.vocab_size))
  found = base_lib.Base(made, tiny.params(model), tokenizer)
  base_lib.save(path, found, provenance={"commit": "abc"}, curves=[{"step": 1, "loss": 2.0}])
  return found


def run_row(path, workdir, method, experiment="methods", **more):
  """Runs a row of the tables or of another experiment from a base's folder; its results."""
  found = runpy.run_path(str(tiny.REPO / f"experiments/{experiment}.py"))["get_config"](method)
  changes = {
    "base": str(path),
    **{f"model.{key}": value for key, value in SHAPE.items()},
    "preference.steps": 2,
    "preference.rows_per_step": 1,
    "preference.row_tokens": 1280,
    "preference.scored_tokens": 1024,
    "preference.optimizer.warmup_steps": 0,
    "on_policy.episodes": 12,
    "on_policy.max_tokens": 48,
    "evaluation.episodes": 6,
    "evaluation.win_rate_users": 3,
    "evaluation.win_rate_prompts": 1,
    "evaluation.max_response_tokens": 8,
    "evaluation.temperatures": (0.3,),
    "evaluation.bootstrap": 20,
    "user_finetuning.steps": 2,
    "user_finetuning.episodes": 4,
    "user_finetuning.ks": (0, 8),
  }
  if "sft" in found.stages:
    changes |= {
      "sft.steps": 30,  # enough to learn that descriptions come to an end
      "sft.optimizer.adam_learning_rate": 3e-2,
      "sft.rows_per_step": 1,
      "sft.row_tokens": 1536,
      "sft.scored_tokens": 1024,
      "sft.optimizer.warmup_steps": 0,
      "preference.row_tokens": 1536,
      "preference.scored_tokens": 1024,
      "on_policy.closeness": "characters",  # a random model names no taste
      "evaluation.rat_episodes": 2,
    }
  if "synthesis" in found.stages:
    small = {"users": 30, "questions": 60, "responses": 6, "pairs": 30}
    changes |= {f"synthesis.set.{key}": value for key, value in small.items()}
  changes |= {key.replace("__", "."): value for key, value in more.items()}
  with found.ignore_type():
    found.update_from_flattened_dict(changes)
  work, made = Workdir(workdir, recipe.as_json(found)), None
  if "synthesis" in found.stages:
    factory = data.make_factory(found)
    made = pipeline.set_path(factory, work.path)
    with work.running("synthesis"):
      pipeline.run(factory, work.path)
  recipe.Recipe(recipe.make_plan(found, made), work).run()
  return results_lib.read(workdir / "results.json") if "evaluate" in found.stages else None
