# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the base of the embedded worlds: what `experiments/base.py` makes, in small."""

import runpy

import pytest

from fspo_jax import recipe
from fspo_jax.episodes import pretraining
from fspo_jax.evaluation import base_quality
from fspo_jax.inference.personalizer import Personalizer
from fspo_jax.inference.sampler import Decoding
from fspo_jax.workdir import Workdir
from tests import tiny


def _config(**changes):
  config = runpy.run_path(str(tiny.REPO / "experiments/base.py"))["get_config"]()
  with config.ignore_type():
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return config


def test_the_layout_is_that_of_the_documents():
  config = _config()
  layout = pretraining.layout(config.sft.shots)
  assert all(config.sft.layout[key] == getattr(layout, key) for key in config.sft.layout)
  plan = recipe.make_plan(config)
  assert list(plan.training) == ["sft"] and not plan.evaluation
  worlds = {world.name for world in plan.data.source.worlds}
  assert worlds == {"reviews", "elix", "roleplay"}


def test_what_a_base_cannot_do_is_refused():
  with pytest.raises(ValueError, match=r"its stages are \('tokenizer', 'sft'\)"):
    recipe.make_plan(_config(stages=("tokenizer", "sft", "preference")))
  with pytest.raises(ValueError, match="labels to pretrain on are random"):
    recipe.make_plan(_config(sft__flip_shots=0.5))
  with pytest.raises(ValueError, match="expected the most of them"):
    recipe.make_plan(_config(sft__shots=16))
  with pytest.raises(ValueError, match="not all 0"):
    recipe.make_plan(
      _config(
        **{f"pretraining__{kind}": 0.0 for kind in ("answers", "labels", "readings", "pages")}
      )
    )


def test_a_base_is_trained_and_opened_by_its_path(tmp_path):
  config = _config(
    tokenizer__corpus_lines=2000,
    model__width=32,
    model__heads=1,
    model__kv_heads=1,
    model__layers=1,
    model__mlp=64,
    sft__rows_per_step=8,
    sft__row_episodes=1,
    sft__steps=2,
    sft__optimizer__warmup_steps=0,
    sft__row_tokens=1600,
    sft__scored_tokens=1280,
  )
  plan = recipe.make_plan(config)
  recipe.Recipe(plan, Workdir(tmp_path, recipe.as_json(config))).run()
  base = Personalizer.load(tmp_path / "checkpoints" / "sft")
  (world,) = plan.data.source.worlds[1:2]
  found = base_quality.following(
    world, base, Decoding(0.3, 1.0, 8), topics="unseen", users=2, prompts=1, seed=0
  )
  assert 0 <= found.mean <= 1
