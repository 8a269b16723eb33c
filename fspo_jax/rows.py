# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Methods that are more than a prompt: from a config to how they train, and their contenders."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pathlib
from typing import Any

import ml_collections
import numpy as np

from fspo_jax import config as config_lib
from fspo_jax.episodes import batching, on_policy
from fspo_jax.episodes.sampling import EpisodeFn, ShotsAsked
from fspo_jax.episodes.templates import Formatter, Layout
from fspo_jax.evaluation.contenders import Contender, Models
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.user_finetuning import Settings, UserFinetuning
from fspo_jax.evaluation.variational import Variational
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer
from fspo_jax.models.lora import LoraConfig
from fspo_jax.models.vpl import VplConfig
from fspo_jax.synthesis import embedders
from fspo_jax.worlds.world import World

_LOG = logging.getLogger(__name__)

CLOSENESS = ("traits", "characters")

# How long rows have to be is found on so many windows, or of small ones on so many episodes. In so
# many rows a shot then has no room, or all would be as long as the longest.
_WINDOWS, _EPISODES, _OVER = 8, 512, 0.01


def user_finetuning(c: ml_collections.ConfigDict) -> Settings:
  """How a user's own parameters are trained; ValueError naming the key of an impossible value."""
  keys = dict(c.user_finetuning)
  shape = {name: keys.pop(f"lora_{name}") for name in ("rank", "alpha", "projections")}
  shape["projections"] = tuple(shape["projections"])
  keys["ks"] = tuple(keys["ks"])
  return Settings(lora=LoraConfig(**shape) if shape["rank"] else None, **keys)


def vpl(c: ml_collections.ConfigDict) -> VplConfig | None:
  """A user's latent in VPL; None for a policy without one."""
  keys = dict(c.vpl)
  return VplConfig(**keys) if keys.pop("use") else None


def _check_vpl(c: ml_collections.ConfigDict) -> None:
  """Refuses what VPL cannot do."""
  config, methods, stage = vpl(c), c.evaluation.methods, c.preference
  if config is None:
    if "vpl" in methods:
      raise ValueError("evaluation.methods: found 'vpl' with vpl.use=False, expected True")
    return
  if "preference" not in c.stages:
    raise ValueError(f"vpl.use=True and stages={tuple(c.stages)}: expected 'preference', its stage")
  prompted = [name for name in methods if METHODS[name].prompted and METHODS[name].trained]
  if prompted:
    raise ValueError(
      f"vpl.use=True: found evaluation.methods={methods}, expected 'vpl' in place of {prompted}: "
      "its policy is told who asks by a latent, not by what is in the context"
    )
  if config_lib.layout(stage) != Layout(query_shots=(0,)):
    raise ValueError(
      "vpl.use=True: expected a preference.layout with query_shots=(0,) and nothing else: all "
      "pairs are scored, and none is in the context"
    )
  if not stage.row_tokens:
    raise ValueError(
      "vpl.use=True: found preference.row_tokens=0, expected numbers: its shots are asked, and an "
      "episode longer than those that were looked at could leave none out"
    )
  if {stage.row_episodes, stage.window_rows, stage.accumulate} != {1} or stage.shots < 1:
    raise ValueError(
      f"vpl.use=True: found preference.row_episodes={stage.row_episodes}, window_rows="
      f"{stage.window_rows}, accumulate={stage.accumulate} and shots={stage.shots}, expected 1, 1, "
      "1, and 1 or more"
    )
  objective = config_lib.objective(stage)
  if not objective.needs_reference or objective.needs_reference_point:
    raise ValueError(
      f"vpl.use=True: found preference.loss.name={objective.name!r} with preference_weight="
      f"{objective.preference_weight}, expected 'ipo' or 'dpo' with more than 0"
    )


def on_policy_settings(c: ml_collections.ConfigDict, seed: int) -> on_policy.Settings | None:
  """Which descriptions are compared in the preference stage; None for none."""
  keys = c.on_policy
  if not keys.use:
    return None
  shots = tuple(keys.shots)
  return on_policy.Settings(keys.episodes, shots, keys.samples, seed, gap=keys.gap)


def _check_on_policy(c: ml_collections.ConfigDict) -> None:
  """Refuses what pairs of sampled descriptions cannot do."""
  keys, stage = c.on_policy, c.preference
  if keys.use != stage.layout.description_pairs:
    raise ValueError(
      f"on_policy.use={keys.use} and preference.layout.description_pairs="
      f"{stage.layout.description_pairs}: expected both, or neither"
    )
  if c.sft.layout.description_pairs:
    raise ValueError("sft.layout.description_pairs=True: there is no policy yet to describe users")
  if not keys.use:
    return
  if not stage.row_tokens:
    raise ValueError(
      "on_policy.use=True: found preference.row_tokens=0, expected numbers: how long rows with "
      "sampled descriptions are is not known before there are any"
    )
  if "preference" not in c.stages:
    raise ValueError(
      f"on_policy.use=True and stages={tuple(c.stages)}: expected 'preference', its stage"
    )
  on_policy_settings(c, 0)
  Decoding(keys.temperature, 1.0, keys.max_tokens)
  if keys.temperature == 0:
    raise ValueError("on_policy.temperature=0: all samples would be the same, expected more")
  if max(keys.shots) > stage.shots:
    raise ValueError(
      f"on_policy.shots={keys.shots}: found more than preference.shots={stage.shots}"
    )
  if stage.curriculum.use:
    raise ValueError(
      "on_policy.use=True and preference.curriculum.use=True: the episodes that are described come "
      "round and round, and cannot become harder; expected preference.curriculum.use=False"
    )
  if keys.closeness not in CLOSENESS:
    raise ValueError(f"on_policy.closeness={keys.closeness!r} is not one of {CLOSENESS}")


def closeness(c: ml_collections.ConfigDict, world: World[Any] | None) -> on_policy.Closeness:
  """How close descriptions are to gold ones; ValueError if it takes a world, and there is none."""
  if c.on_policy.closeness == "characters":
    return on_policy.embedding_closeness(embedders.CharacterNgrams())
  if world is None:
    raise ValueError(
      "on_policy.closeness='traits': there is no world that could read them; expected 'characters'"
    )
  return on_policy.trait_closeness(world)


def paired(
  c: ml_collections.ConfigDict,
  rows: batching.Rows,
  writer: Writer,
  world: World[Any] | None,
  path: pathlib.Path,
  seed: int,
) -> batching.Rows:
  """Rows of the episodes that have a pair of sampled descriptions, which are made here.

  Args:
    c: the config, with `on_policy.use`.
    rows: those of the preference stage.
    writer: the policy that it starts from.
    world: behind the users, where there is one.
    path: of the file of pairs; half-made ones are finished.
    seed: with an episode's number, all that its pair depends on.
  """
  keys, settings = c.on_policy, on_policy_settings(c, seed)
  decoding = Decoding(keys.temperature, 1.0, keys.max_tokens)
  beta = c.evaluation.description_beta  # what is kept at work
  facts = {
    "temperature": keys.temperature,
    "beta": beta,
    "max_tokens": keys.max_tokens,
    "closeness": keys.closeness,
  }
  pairs = on_policy.make(
    path,
    rows.episode,
    functools.partial(rat.sample, writer, decoding=decoding),
    closeness(c, world),
    rat.Judge(writer, beta, c.evaluation.rows, c.vocab_chunk).fits,
    settings,
    facts,
  )
  count, packing = len(pairs.pairs), rows.packing
  return dataclasses.replace(
    rows,
    episode=on_policy.PairedEpisodes(rows.episode, pairs),
    period=count // math.gcd(count, packing.window_episodes) * packing.window_rows,
  )


def check(c: ml_collections.ConfigDict) -> None:
  """Refuses, with a ValueError, what the methods of `evaluation.methods` cannot do."""
  _check_vpl(c)
  _check_on_policy(c)
  if "user_lora" in c.evaluation.methods:
    settings = user_finetuning(c)
    if max(settings.ks) > c.evaluation.shots:
      raise ValueError(
        f"user_finetuning.ks={settings.ks}: found more than evaluation.shots={c.evaluation.shots}"
      )


def of_stage(
  c: ml_collections.ConfigDict, name: str, episode: EpisodeFn, formatter: Formatter
) -> batching.Rows:
  """A stage's rows; in VPL's its shots are asked like queries, before them."""
  stage, shots, queries = c[name], c[name].shots, c[name].queries
  if name == "preference" and c.vpl.use:
    episode, shots, queries = ShotsAsked(episode), 0, shots + queries
  layout = config_lib.layout(stage)
  if stage.row_tokens:
    packing = config_lib.packing(stage, shots, queries)
  else:
    sample = [episode(i) for i in _sample(stage)]
    packing = batching.fit_packing(
      sample,
      formatter,
      layout,
      shots,
      queries=queries,
      multiple=32 * max(c.mesh.context, 1),
      row_episodes=stage.row_episodes,
      window_rows=stage.window_rows,
      over=_OVER,
    )
    _LOG.info(
      "%s: rows of %d tokens, %d of them scored", name, packing.tokens, packing.scored_tokens
    )
  return batching.Rows(episode, formatter, layout, packing)


def _sample(stage: ml_collections.ConfigDict) -> list[int]:
  """Episodes of windows from all parts of a run, in which they may become shorter or longer."""
  size = stage.row_episodes * stage.window_rows
  there = -(-stage.steps // stage.window_rows) * stage.rows_per_step
  count = min(max(_WINDOWS, _EPISODES // size), there)
  first = np.linspace(0, there - 1, count).astype(int).tolist()
  return [window * size + i for window in first for i in range(size)]


def others(c: ml_collections.ConfigDict, models: Models, seed: int) -> dict[str, Contender]:
  """The contenders of the methods that are more than a prompt, by method.

  Args:
    c: the config.
    models: the base, which they start from, and the policy.
    seed: of all that is random in them.
  """
  found: dict[str, Contender] = {}
  if "user_lora" in c.evaluation.methods:
    found["user_lora"] = UserFinetuning(
      models.model, models.base, models.formatter, user_finetuning(c), seed, c.vocab_chunk
    )
  config = vpl(c)
  if config is not None and "vpl" in c.evaluation.methods:
    keys = c.evaluation
    found["vpl"] = Variational(models, config, keys.rows, keys.max_row_tokens)
  return found
