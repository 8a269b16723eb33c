# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA in a stage: adapters are trained, and the base that they belong to lies once beside them.

A stage's checkpoints then hold adapters and the optimizer's state of these alone. Their folder has
the base too, `checkpoints/<stage>/base`, so that it still is all that a reader needs. Whoever
opens it gets ordinary parameters, the adapters merged: the next stage puts its own adapters on
these, never on adapters, and its reference, the model without them, is the one that it starts from.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from fspo_jax import checkpoints, paths, sharding
from fspo_jax.episodes.batching import TreeBatch
from fspo_jax.models import lora
from fspo_jax.training import loop, step

_INIT, _DROPOUT = 0, 1  # streams of a stage's seed


class AdaptersError(ValueError):
  """Adapters that are not of the base beside them."""


def policy_params(config: lora.LoraConfig, seed: int) -> step.PolicyFn:
  """The policy of a step: the frozen base with the adapters attached.

  Dropout is a pure function of the seed and the row's index in the run: the same for any number of
  devices, hosts, parts of a batch and restarts.
  """

  def attached(adapters: lora.Adapters, base: dict, batch: TreeBatch) -> dict:
    keys = None
    if config.dropout:
      key = jax.random.fold_in(jax.random.key(seed), _DROPOUT)
      keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch.row)
    return lora.attach(base, adapters, config, keys)

  return attached


def start(
  stage: loop.Stage, base: dict, config: lora.LoraConfig, seed: int
) -> tuple[loop.Stage, lora.Adapters]:
  """Makes a stage train adapters: saves the base beside its checkpoints, unless it is there.

  Args:
    stage: what will be trained, with the step of `policy_params`.
    base: the parameters that are frozen.
    config: the adapters' shape.
    seed: of their random factors.

  Returns:
    The stage, and the adapters that it starts from.

  Raises:
    AdaptersError: another base is there already.
  """
  sha256, where = checkpoints.fingerprint(base), _base(stage.checkpoint_directory)
  with checkpoints.Checkpoints(where) as saved:
    saved.set_broken_aside()
    if saved.latest_step() is None:
      saved.save(0, base, None, stage.config, stage.tokenizer, {"sha256": sha256})
    elif saved.metadata()["sha256"] != sha256:
      raise AdaptersError(
        f"{where}: found parameters with SHA-256 {saved.metadata()['sha256'][:12]}, expected "
        f"{sha256[:12]}, which adapters are to be trained on: remove {stage.checkpoint_directory} "
        "to train them anew"
      )
  facts = {**dataclasses.asdict(config), "projections": list(config.projections)}  # as in JSON
  facts["base_sha256"] = sha256
  return dataclasses.replace(stage, adapters=facts), _init(base, config, stage.mesh, seed)


def load(directory: paths.Path, abstract_params: dict, mesh: jax.sharding.Mesh) -> dict:
  """The parameters of a stage's latest checkpoint; adapters are merged into their base.

  Args:
    directory: of the stage's checkpoints.
    abstract_params: shapes, dtypes and shardings of all parameters.
    mesh: where adapters are put.

  Raises:
    FileNotFoundError: there is no checkpoint, or no base of its adapters.
    AdaptersError: the base is not the one that the adapters were trained on.
  """
  found = load_alone(directory, abstract_params, mesh)
  if found is None:
    with checkpoints.Checkpoints(directory) as saved:
      return saved.restore_params(abstract_params)
  config, adapters, sha256 = found
  with checkpoints.Checkpoints(_base(directory)) as saved:
    base = saved.restore_params(abstract_params)
  found = checkpoints.fingerprint(base)
  if found != sha256:
    raise AdaptersError(
      f"{_base(directory)}: found parameters with SHA-256 {found[:12]}, expected {sha256[:12]}, "
      f"which the adapters in {directory} were trained on"
    )
  where = jax.tree.map(lambda x: x.sharding, base)
  merge = functools.partial(lora.merge, config=config)
  return jax.jit(merge, donate_argnums=0, out_shardings=where)(base, adapters)


def load_alone(
  directory: paths.Path, abstract_params: dict, mesh: jax.sharding.Mesh
) -> tuple[lora.LoraConfig, lora.Adapters, str] | None:
  """The adapters of a stage's latest checkpoint without their base; None if it has none.

  Args:
    directory: of the stage's checkpoints.
    abstract_params: shapes, dtypes and shardings of the base.
    mesh: where they are put.

  Returns:
    Their shape, the adapters, and the SHA-256 of the base that they are of.
  """
  with checkpoints.Checkpoints(directory) as saved:
    facts = saved.metadata().get("adapters")
    if facts is None:
      return None
    names = [field.name for field in dataclasses.fields(lora.LoraConfig)]
    shape = {name: facts[name] for name in names} | {"projections": tuple(facts["projections"])}
    config = lora.LoraConfig(**shape)
    adapters = saved.restore_params(abstract(abstract_params, config, mesh))
    return config, adapters, facts["base_sha256"]


def _base(directory: paths.Path) -> paths.Path:
  return directory / "base"


def _init(base: dict, config: lora.LoraConfig, mesh: jax.sharding.Mesh, seed: int) -> lora.Adapters:
  """Fresh adapters; the same values on any mesh. They are small: all of them are everywhere."""
  key = jax.random.fold_in(jax.random.key(seed), _INIT)
  shapes = checkpoints.abstract_like(base)
  everywhere = sharding.replicated(mesh)
  return jax.jit(lambda key: lora.init(key, shapes, config), out_shardings=everywhere)(key)


def abstract(base: dict, config: lora.LoraConfig, mesh: jax.sharding.Mesh) -> Any:
  """Shapes, dtypes and shardings of the adapters of a base, which may be abstract itself."""
  everywhere = sharding.replicated(mesh)
  shapes = jax.eval_shape(lambda: lora.init(jax.random.key(0), base, config))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes)
