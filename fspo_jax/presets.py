# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Configs that experiments start from, small enough for two cores and minutes."""

from __future__ import annotations

import ml_collections

from fspo_jax.config import default

# People of a synthetic set: nearly all that a world has.
SET_USERS = {"reviews": 2800, "elix": 550, "elix_easy": 300, "roleplay": 1500}

# Updates of a row of the tables. After 8 shots, reviews: .887 with 900, .921 with 1,800, .937 with
# 4,000; roleplay: .697 with 900, .803 with 2,700 (experiments/README.md). Elix, whose rows are the
# longest, needs few from a base that has read long documents: elix_easy has .97 after 300.
ROW_STEPS = {"reviews": 1800, "elix": 450, "elix_easy": 450, "roleplay": 1800}


def use_base_shape(c: ml_collections.ConfigDict) -> None:
  """Gives a config the model of the worlds' base, and all of the language that it has read."""
  c.world.phrasings = 8
  c.world.fillers = 282
  c.model.width = 96
  c.model.layers = 3
  c.model.heads = 3
  c.model.kv_heads = 3
  c.model.mlp = 288


def share_rows(stage: ml_collections.ConfigDict, episodes: int = 2, window_rows: int = 32) -> None:
  """Packs a stage's episodes so that hardly any padding is left; as many as before in a step.

  Args:
    stage: of a config, with one episode in a row. How long rows are is left to the texts.
    episodes: in a row, on average. Where all are about as long, as in the worlds, two do; texts of
      natural lengths take four.
    window_rows: rows that share their episodes; 64 for texts of natural lengths.
  """
  if stage.row_episodes != 1 or stage.rows_per_step % episodes:
    raise ValueError(
      f"row_episodes={stage.row_episodes} and rows_per_step={stage.rows_per_step}: expected 1, and "
      f"a multiple of the {episodes} episodes that a row shall have"
    )
  stage.row_episodes, stage.window_rows = episodes, window_rows
  stage.rows_per_step //= episodes
  stage.row_tokens = stage.scored_tokens = 0


def texts(shots: int) -> ml_collections.ConfigDict:
  """The default for users' own texts, which are long: small enough for two cores and minutes.

  Args:
    shots: preferences in the context; accuracy is measured for 0 .. shots of them.
  """
  c = default()
  c.tokenizer.split_by_whitespace = True
  c.model.width = 64
  c.model.layers = 2
  c.model.heads = 2
  c.model.kv_heads = 2
  c.model.mlp = 192
  c.model.attention_block = 256
  for stage in (c.sft, c.preference):
    stage.shots = shots
    stage.queries = 1
    stage.rows_per_step = 2
    stage.checkpoint_every = 50
    stage.log_every = 5
    stage.curriculum.use = False
    stage.layout.query_shots = (shots,)
    stage.layout.description_shots = ()  # no descriptions are trained, hence no RAT
    stage.layout.description_queries = ()
  c.sft.steps = 150
  # The model still learns the language: with more of its likelihood in the objective, its drift
  # over long responses drowns what the shots say.
  c.preference.loss.name = "dpo"
  c.preference.loss.preference_weight = 1.0
  c.preference.loss.chosen_weight = 0.1
  c.preference.optimizer.learning_rate = 1e-3
  c.preference.optimizer.adam_learning_rate = 5e-4
  c.evaluation.shots = shots
  c.evaluation.rows = 2
  c.evaluation.rat_episodes = 0
  c.evaluation.win_rate_users = 0  # there is no true reward
  c.evaluation.max_response_tokens = 160
  return c


def synthetic(domain: str, backend: str) -> ml_collections.ConfigDict:
  """The config that makes a synthetic set, and nothing else.

  Args:
    domain: 'reviews', 'elix' or 'roleplay'.
    backend: 'world' for the embedded stand-in, 'llm' for an endpoint.
  """
  if backend not in ("world", "llm"):
    raise ValueError(f"found {backend!r} after the colon, expected 'world' or 'llm'")
  c = default()
  c.stages = ("synthesis",)
  c.data.name = "synthetic"
  c.synthesis.domain = domain
  # As in the paper.
  c.synthesis.set.steering = "views" if domain == "roleplay" else "personas"
  c.synthesis.set.users = SET_USERS[domain]
  if backend == "llm":
    c.synthesis.backend = "openai"
    c.synthesis.set.models = (("", 1.0),)  # refused until a name is given
    c.synthesis.set.judge = ("", 0.7)
    c.synthesis.set.repeats = 2
  return c


def synthetic_users(domain: str) -> ml_collections.ConfigDict:
  """The config that makes a set from a domain's world, and trains a small model on it.

  Args:
    domain: 'reviews', 'elix' or 'roleplay'.
  """
  c = synthetic(domain, "world")
  c.stages = ("synthesis", "tokenizer", "sft", "preference", "evaluate")
  # For a model from scratch: one writer at a low temperature, whose language is small; many texts,
  # or they are learnt by heart; and pairs of which one response is what the user would pick.
  c.synthesis.set.steering = "views"
  c.synthesis.set.questions = 1000
  c.synthesis.set.responses = 18
  c.synthesis.set.models = (("writer-a", 0.7),)
  c.synthesis.set.picked = 1.0
  c.synthesis.flaws.undetermined = 0.3
  c.tokenizer.vocab_size = 2048
  c.model.layers = 2
  for stage in (c.sft, c.preference):
    stage.curriculum.use = False
  # Many queries after one trunk of shots cost little and teach much, those under the gold
  # description (without shots) what the tastes are about.
  c.sft.queries = 8
  c.sft.row_tokens = 960
  c.sft.scored_tokens = 640
  c.sft.loss.description_weight = 0.3
  c.preference.queries = 6
  c.preference.row_tokens = 1280
  c.preference.scored_tokens = 960
  c.preference.layout.description_shots = (0, 4, 8)
  c.preference.layout.description_queries = (0,)
  c.preference.loss.name = "dpo"
  c.preference.loss.beta = 0.5
  c.preference.loss.preference_weight = 0.5
  c.preference.loss.description_weight = 0.5
  c.preference.optimizer.learning_rate = 2e-3
  c.preference.optimizer.adam_learning_rate = 1e-3
  c.preference.optimizer.warmup_steps = 60
  c.preference.optimizer.decay_fraction = 0.6
  c.evaluation.rat_episodes = 100
  c.evaluation.win_rate_users = 100
  c.evaluation.temperatures = (0.3,)
  c.evaluation.max_response_tokens = 64
  c.evaluation.max_description_tokens = 64
  return c


def from_base(world: str) -> ml_collections.ConfigDict:
  """The config that FSPO-trains the base of the worlds on the users of one of them.

  Args:
    world: 'reviews', whose episodes are made as they are needed, or 'elix', 'elix_easy' or
      'roleplay', of which a synthetic set is made first.
  """
  if world not in ROW_STEPS:
    raise ValueError(f"world={world!r}: expected one of {tuple(ROW_STEPS)}")
  c = default() if world == "reviews" else synthetic_users(world.removesuffix("_easy"))
  if world == "elix_easy":
    c.elix_variant = "easy"
    c.synthesis.set.users = SET_USERS[world]
  fresh = world == "reviews"
  c.stages = (*(() if fresh else ("synthesis",)), "base", "preference", "evaluate")
  c.base = "published"
  use_base_shape(c)
  c.vocab_chunk = 3072
  c.preference.steps = ROW_STEPS[world]
  c.preference.queries = 1 if fresh else 6
  c.preference.row_tokens = c.preference.scored_tokens = 0  # what the texts take
  c.preference.curriculum.use = False
  c.preference.layout.query_shots = (8,)
  c.preference.layout.description_shots = ()
  c.preference.layout.description_queries = ()
  # With beta 0.5 DPO asks for about the margins of a calibrated generative model.
  c.preference.loss.name = "dpo"
  c.preference.loss.beta = 0.5
  c.preference.loss.preference_weight = 1.0
  c.preference.optimizer.learning_rate = 2e-3
  c.preference.optimizer.adam_learning_rate = 1e-3
  c.preference.optimizer.warmup_steps = 40
  c.preference.optimizer.decay_fraction = 0.6
  c.evaluation.max_response_tokens = 64
  c.evaluation.max_description_tokens = 64
  return c
