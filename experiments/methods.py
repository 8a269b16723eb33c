# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The rows of the paper's tables, each a config: what the context holds, and which loss scores it.

All start from the same base and train on the same users. `:METHOD,WORLD` picks one:

python -m fspo_jax.main --config=experiments/methods.py:fspo_ipo,reviews --workdir=runs/fspo_ipo

  prompted            nothing is trained: the base alone, with shots, with the gold description
  dpo, ipo            preference optimization without shots: one model for all users
  pref_ft             SFT on chosen responses, with shots (few-shot Pref-FT, GPO)
  ric                 rewards in context
  vpl                 variational preference learning: a latent of the shots conditions the policy
  fspo_dpo, fspo_ipo  FSPO; fspo_kto and fspo_simpo with other objectives
  fspo_rat            FSPO with user descriptions (RAT): SFT on gold descriptions after shots, then
                      preferences between responses, and between descriptions that it samples
  user_lora           the base fine-tuned on each user's own shots

WORLD is 'reviews' (the default), 'elix', 'elix_easy' (learners of one level in all subjects) or
'roleplay'.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_collections

from fspo_jax import presets

METHODS = (
  "prompted",
  "dpo",
  "ipo",
  "pref_ft",
  "ric",
  "vpl",
  "fspo_dpo",
  "fspo_ipo",
  "fspo_kto",
  "fspo_simpo",
  "fspo_rat",
  "user_lora",
)


def get_config(arg: str = "fspo_ipo") -> ml_collections.ConfigDict:
  """The config of a row: `METHOD` or `METHOD,WORLD`."""
  method, _, world = arg.partition(",")
  if method not in METHODS:
    raise ValueError(f"found {method!r} after the colon, expected one of {METHODS}")
  c = presets.from_base(world or "reviews")
  c.evaluation.rat_episodes = 0
  if method == "fspo_rat":
    _described(c)
    return c
  if method in ("prompted", "user_lora"):
    c.stages = tuple(stage for stage in c.stages if stage != "preference")
    rows = ("fewshot_prompted", "oracle") if method == "prompted" else ("user_lora",)
  elif method in ("dpo", "ipo", "ric"):
    _without_shots(c)
    rows = ("ric",) if method == "ric" else ("plain",)
  elif method == "vpl":
    _with_latents(c)
    rows = ("vpl",)
  else:
    rows = ("pref_ft",) if method == "pref_ft" else ("fspo",)
  c.evaluation.methods = ("base", *rows)
  if method == "pref_ft":
    c.preference.layout.rejected = False
    _likelihood(c)
  elif method == "ric":
    c.preference.layout.rewards = True
    _likelihood(c)
  elif method not in ("prompted", "user_lora", "vpl"):
    _objective(c, method.removeprefix("fspo_"))
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Three seeds of the row that `arg` picks."""
  del arg
  for seed in range(3):
    add(seed=seed)


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy after 8 shots and the win rate, of each method of the row."""
  found = {}
  for method in get_config(arg or "fspo_ipo").evaluation.methods[1:]:
    found[f"accuracy, {method}"] = f"preference_accuracy.{method}.unseen.8"
    found[f"win rate, {method}"] = f"win_rate.{method}.unseen.mean"
  return found


def _without_shots(c: ml_collections.ConfigDict) -> None:
  """Pairs given the question alone, as many in a row as there are with shots."""
  c.preference.shots = 0
  c.preference.queries = 9
  _set_rows(c, reviews=(400, 336), elix=(832, 704), roleplay=(672, 576))
  c.preference.layout.shot_pairs = False
  c.preference.layout.query_shots = (0,)


def _described(c: ml_collections.ConfigDict) -> None:
  """Both halves of RAT: to describe a user from shots, and to answer under what it has written."""
  c.stages = tuple(x for stage in c.stages for x in (("sft",) * (stage == "preference") + (stage,)))
  c.sft.steps = 300
  c.sft.flip_shots = -1.0 if c.data.name == "reviews" else 0.0  # labels that mean something
  c.sft.queries = c.preference.queries
  c.sft.row_tokens = c.sft.scored_tokens = 0
  c.sft.curriculum.use = False
  c.sft.layout.shot_pairs = False
  c.sft.layout.query_shots = ()
  c.sft.layout.description_shots = (0, 1, 2, 4, 8)
  c.sft.layout.description_queries = (0,)
  c.sft.optimizer.learning_rate = 2e-3
  c.sft.optimizer.adam_learning_rate = 1e-3
  c.on_policy.use = True
  c.on_policy.episodes = 3000
  c.on_policy.samples = 6
  c.preference.layout.description_shots = (2, 4, 8)
  c.preference.layout.description_pairs = True
  c.preference.layout.description_pair_queries = True
  if c.data.name == "reviews":
    c.preference.layout.description_shots = (0, 2, 4, 8)
    c.preference.layout.description_queries = (0,)  # or it would unlearn to follow them
  else:
    c.preference.queries = 2
  _set_rows(c, reviews=(736, 496), elix=(1408, 960), roleplay=(1216, 864))
  c.evaluation.methods = ("base", "fspo", "fspo_rat", "fspo_gold")
  c.evaluation.rat_episodes = 200
  c.evaluation.descriptions = 8
  c.evaluation.description_temperature = 1.0


def _with_latents(c: ml_collections.ConfigDict) -> None:
  """The pairs of a user, the first of them the shots, each given the question and the latent."""
  c.vpl.use = True
  if c.preference.queries == 1:  # fresh episodes: rows of 12 pairs
    c.preference.queries = 4
    # Many users in a step, the clearest first: until the latent says something the policy need not
    # listen, and until it listens the latent need not say anything.
    c.preference.rows_per_step = 16
    c.preference.steps = 900
    c.preference.curriculum.use = True
    c.preference.curriculum.start = 0.3
    c.preference.curriculum.end = 0.7
  _set_rows(c, reviews=(576, 448), elix=(1248, 1088), roleplay=(1024, 896))
  c.preference.layout.shot_pairs = False
  c.preference.layout.query_shots = (0,)


def _set_rows(c: ml_collections.ConfigDict, **sizes: tuple[int, int]) -> None:
  """Rows of so many tokens, and so many of them scored, by the domain whose texts they hold."""
  domain = "reviews" if c.data.name == "reviews" else c.synthesis.domain
  c.preference.row_tokens, c.preference.scored_tokens = sizes[domain]


def _likelihood(c: ml_collections.ConfigDict) -> None:
  """The likelihood of what the layout scores, and no preference loss."""
  c.preference.loss.preference_weight = 0.0
  c.preference.loss.chosen_weight = 1.0


def _objective(c: ml_collections.ConfigDict, name: str) -> None:
  """A preference loss, weighted to about the same gradient at the start as DPO's with beta 0.5."""
  loss = c.preference.loss
  loss.name = name
  if name == "ipo":
    loss.beta = 0.1  # a margin of 5 nats
    loss.preference_weight = 0.025
  elif name == "simpo":
    loss.length_normalize = True
    loss.beta = 10.0
    loss.gamma = 1.0
  elif name == "kto":
    loss.preference_weight = 4.0
