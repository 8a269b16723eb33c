# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a config asks for that cannot be done, refused before any compute, with the keys."""

from __future__ import annotations

import dataclasses
import datetime

import jax
import ml_collections

from fspo_jax import base, base_parts, reference, sharding
from fspo_jax import config as config_lib
from fspo_jax import rows as rows_lib
from fspo_jax.episodes.templates import Role
from fspo_jax.evaluation import evaluate
from fspo_jax.models import tree_flash
from fspo_jax.training import optimizer


def _check_stage(stage: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
  """Refuses what a stage cannot do, and why."""
  layout, rows = config_lib.layout(stage), config_lib.loop(stage)
  config_lib.objective(stage)
  optimizer.make_optimizer(config_lib.optimizer(stage), stage.steps)
  if config_lib.lora(stage) is not None and stage.optimizer.name != "adamw":
    raise ValueError(
      f"lora.rank={stage.lora.rank}: found optimizer.name={stage.optimizer.name!r}, expected "
      "'adamw': Muon makes an update's singular values equal, and a factor is not an update"
    )
  asked = (*layout.query_shots, *layout.description_shots)
  if asked and max(asked) > stage.shots:
    raise ValueError(
      f"layout scores something after {max(asked)} shots, but an episode has shots={stage.shots}"
    )
  if min(asked, default=0) < 0 or stage.shots < 0 or stage.queries < 1:
    raise ValueError("numbers of shots are 0 or more, and queries 1 or more")
  tokens = stage.row_tokens, stage.scored_tokens
  if min(tokens) < 0 or bool(tokens[0]) != bool(tokens[1]) or stage.row_episodes < 1:
    raise ValueError(
      f"row_tokens={tokens[0]}, scored_tokens={tokens[1]} and row_episodes={stage.row_episodes}: "
      "expected both numbers of tokens or neither (0), and 1 episode or more"
    )
  if not stage.row_tokens and not stage.shots:
    raise ValueError(
      "row_tokens=0 and shots=0: an episode longer than those that were looked at has no shot to "
      "leave out; expected row_tokens and scored_tokens"
    )
  shards = sharding.batch_shards(mesh) * rows.accumulate
  if rows.rows_per_step % shards:
    raise ValueError(
      f"rows_per_step={rows.rows_per_step} cannot be split over mesh.dcn_data x data x fsdp = "
      f"{sharding.batch_shards(mesh)} devices and accumulate={rows.accumulate} parts"
    )
  objective = config_lib.objective(stage)
  if objective.needs_pairs and not layout.max_pairs(stage.shots, stage.queries):
    raise ValueError("loss.preference_weight > 0, but layout scores no pairs")
  if not layout.max_segments(stage.shots, stage.queries):
    raise ValueError("layout scores nothing")


def _check_mesh(c: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
  """Refuses axes of the mesh that do not divide what they split."""
  model = c.model
  split = {
    "fsdp": {"model.width": model.width},
    "tensor": {
      "model.heads x head_dim": model.heads * model.head_dim,
      "model.kv_heads x head_dim": model.kv_heads * model.head_dim,
      "model.mlp": model.mlp,
    },
    "context": {"model.attention_block": model.attention_block},
  }
  for name in ("sft", "preference"):
    if name in c.stages:
      if c.mesh.context == -1 and not c[name].row_tokens:
        raise ValueError(
          f"mesh.context=-1 and {name}.row_tokens=0: expected one of them to be a number: rows are "
          "made as long as the axis divides"
        )
      for key in ("row_tokens", "scored_tokens"):
        split["context"][f"{name}.{key}"] = c[name][key]
  for axis, sizes in split.items():
    for key, size in sizes.items():
      if size % mesh.shape[axis]:
        raise ValueError(
          f"mesh.{axis}={mesh.shape[axis]} does not divide {key}={size}, which it splits: "
          f"{size} = {size // mesh.shape[axis]} x {mesh.shape[axis]} + {size % mesh.shape[axis]}"
        )


def _check_attention(c: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
  """Refuses kernels that the devices, the shape or a method cannot have."""
  tree_flash.check(config_lib.transformer(c, vocab_size=1), mesh)
  trains = "evaluate" in c.stages and "user_lora" in c.evaluation.methods
  if c.model.attention != "xla" and trains:
    raise ValueError(
      f"model.attention={c.model.attention!r} and the method 'user_lora' in evaluation.methods: "
      "users are trained side by side, which the kernels cannot; expected 'xla'"
    )


def _check_stages(stages: tuple[str, ...]) -> None:
  """Refuses stages that are not in order, or whose models nothing makes."""
  if not stages or stages != tuple(s for s in config_lib.STAGES if s in stages):
    raise ValueError(f"stages={stages} are not some of {config_lib.STAGES}, in their order")
  needs = {
    "sft": ("base", "tokenizer"),
    "preference": ("base", "sft"),
    "evaluate": ("base", "preference"),
  }
  for stage, makers in needs.items():
    if stage in stages and not {*makers} & {*stages}:
      raise ValueError(f"stages={stages}: {stage!r} needs {makers[0]!r} or {makers[1]!r} before it")
  if {"base", "tokenizer"} <= {*stages}:
    raise ValueError(f"stages={stages}: a base has its own tokenizer; leave one of the two out")


def _check_template(c: ml_collections.ConfigDict) -> None:
  """Refuses templates that there are not, and those that a tokenizer made here has not."""
  if c.template not in config_lib.TEMPLATES:
    raise ValueError(f"template={c.template!r} is not one of {sorted(config_lib.TEMPLATES)}")
  trained = "tokenizer" in c.stages and not c.tokenizer.path
  if c.template == "chat" and trained:
    raise ValueError(
      "template='chat': found a tokenizer that is trained here, which has no chat template; "
      "expected tokenizer.path, or the stage 'base'"
    )
  if c.template == "markers" and c.tokenizer.path:
    raise ValueError(
      f"template='markers' and tokenizer.path={c.tokenizer.path!r}: the markers are tokens of "
      "tokenizers that are trained here; expected 'headings' or 'chat'"
    )
  if c.template != "chat" and (c.chat.system or c.chat.date):
    raise ValueError(
      f"template={c.template!r}: found chat.system={c.chat.system!r} and chat.date="
      f"{c.chat.date!r}, expected '': they are of the template 'chat'"
    )
  try:
    datetime.date.fromisoformat(c.chat.date or "2024-07-26")
  except ValueError as error:
    raise ValueError(f"chat.date={c.chat.date!r}: expected one like '2024-07-26'") from error
  if c.tokenizer.path and "tokenizer" not in c.stages:
    raise ValueError(
      f"tokenizer.path={c.tokenizer.path!r} and stages={tuple(c.stages)}: expected 'tokenizer', "
      "the stage that reads it"
    )


def settings(c: ml_collections.ConfigDict) -> evaluate.Settings:
  """How the evaluation is done; ValueError naming the keys of what is impossible."""
  names = [field.name for field in dataclasses.fields(evaluate.Settings)]
  return evaluate.Settings(**{name: c.evaluation[name] for name in names})


def check(c: ml_collections.ConfigDict) -> jax.sharding.Mesh:
  """Checks all of a config that can be without its data, and makes the mesh.

  Raises:
    ValueError: an impossible combination, naming the keys.
  """
  stages = tuple(c.stages)
  _check_stages(stages)
  if ("base" in stages) != bool(c.base):
    raise ValueError(
      f"base={c.base!r} and stages={stages}: expected a base, and the stage 'base' that gets it, "
      "or neither"
    )
  if (c.data.name == "synthetic") != ("synthesis" in stages):
    raise ValueError(
      f"data.name={c.data.name!r} and stages={stages}: the stage 'synthesis' makes the data "
      "'synthetic', and nothing else does (a set that is there already is a 'user_set')"
    )
  if c.data.name == "pretraining" and not {*stages} <= {"base", "tokenizer", "sft"}:
    raise ValueError(
      f"data.name='pretraining' and stages={stages}: a base is not evaluated on users, and has no "
      "preferences; its stages are ('tokenizer', 'sft'), or ('base', 'sft') to go on with another"
    )
  if c.base == "published" and not base.PUBLISHED.is_dir():
    raise ValueError(
      f"base='published': found no {base.PUBLISHED}, expected the base that comes with the "
      "package; 'scratch' pretrains one"
    )
  _check_template(c)
  config_lib.transformer(c, vocab_size=1)
  if c.model.roles and c.model.roles < len(Role):
    raise ValueError(f"model.roles={c.model.roles} is neither 0 nor at least {len(Role)}")
  if c.vocab_chunk < 1 or c.tokenizer.model_type not in ("bpe", "unigram"):
    raise ValueError(
      f"vocab_chunk={c.vocab_chunk} must be at least 1, and tokenizer.model_type="
      f"{c.tokenizer.model_type!r} 'bpe' or 'unigram'"
    )
  for key in ("small_users", "bad_lines"):
    if c.data[key] not in ("refuse", "set_aside"):
      raise ValueError(f"data.{key}={c.data[key]!r} is not 'refuse' or 'set_aside'")
  if c.data.below_gate not in ("refuse", "accept"):
    raise ValueError(f"data.below_gate={c.data.below_gate!r} is not 'refuse' or 'accept'")
  settings(c)
  rows_lib.check(c)
  mesh = sharding.make_mesh(**c.mesh)
  _check_mesh(c, mesh)
  _check_attention(c, mesh)
  for name in ("sft", "preference"):
    try:
      _check_stage(c[name], mesh)
    except ValueError as error:
      raise ValueError(f"{name}: {error}") from error
  if c.sft.loss.preference_weight > 0:
    raise ValueError(
      "sft.loss.preference_weight > 0: the SFT stage makes the reference, it has none"
    )
  if c.sft.lora.rank and "sft" in stages and "base" not in stages:
    raise ValueError(
      f"sft.lora.rank={c.sft.lora.rank} and stages={stages}: expected the stage 'base', or "
      "sft.lora.rank=0: adapters are of a pretrained model, and there is none"
    )
  if c.preference.lora.rank and c.vpl.use:
    raise ValueError(
      f"preference.lora.rank={c.preference.lora.rank} and vpl.use=True: expected one of the two; "
      "VPL trains all parameters and an encoder"
    )
  reference.check(c)
  if c.base == "scratch":  # refused now, and not after the hours that it takes
    base.check_fits(base_parts.config(base_parts.CHAIN[0], world_seed=c.world_seed), c)
  elif c.base:
    base.check(c)
  if c.evaluation.rows % sharding.batch_shards(mesh):
    raise ValueError(
      f"evaluation.rows={c.evaluation.rows} cannot be split over mesh.dcn_data x data x fsdp = "
      f"{sharding.batch_shards(mesh)} devices"
    )
  return mesh
