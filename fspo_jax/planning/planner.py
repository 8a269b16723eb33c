# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a config and chips to a plan: which meshes are compiled, and what is said of them."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

import ml_collections

from fspo_jax import base, sharding
from fspo_jax import config as config_lib
from fspo_jax.episodes import tokenizers
from fspo_jax.models import transformer, tree_flash
from fspo_jax.planning import estimate, hardware, meshes, program, report


def vocab_size(c: ml_collections.ConfigDict) -> int:
  """Token ids of a config's model, as far as it says without making a tokenizer.

  Raises:
    ValueError: nothing says.
  """
  if c.model.vocab_size:
    return c.model.vocab_size
  if c.tokenizer.path:
    return tokenizers.load(c.tokenizer.path).vocab_size
  if c.base and c.base != "scratch":
    folder = base.folder(c.base)
    model = folder / "tokenizer.model"
    return tokenizers.load(model if model.is_file() else folder).vocab_size
  if "tokenizer" in c.stages:
    return c.tokenizer.vocab_size
  raise ValueError("model.vocab_size=0: found no tokenizer either, expected one of the two")


def compile_mesh(
  c: ml_collections.ConfigDict,
  stage: str,
  one: meshes.Candidate,
  target: hardware.Target,
) -> report.Row:
  """Compiles a stage's step on a mesh."""
  c = c.copy_and_resolve_references()
  with c.unlocked():
    c.model.remat = one.remat
    c.mesh.update(one.mesh)
  mesh = sharding.make_mesh(**c.mesh, devices=target.devices)
  config = config_lib.transformer(c, vocab_size(c))
  tree_flash.check(config, mesh, stands_for="" if target.is_exact else "gpu")
  if config.attention == "pallas_gpu":  # CPU devices stand in, which interpret the same kernels
    config = dataclasses.replace(config, attention="pallas_gpu_interpret")
  model = transformer.Transformer(config)
  traced, given = program.trace(c, stage, model, mesh)
  return report.Row(
    candidate=one,
    compiled=program.compile_step(traced, mesh),
    program_flops=program.matrix_flops(traced.jaxpr.jaxpr),
    params=program.shard_bytes(given.state.params),
    optimizer=program.shard_bytes(given.state.opt_state),
    frozen=program.shard_bytes(given.frozen),
  )


def own_mesh(
  c: ml_collections.ConfigDict, work: estimate.Work, target: hardware.Target
) -> meshes.Candidate | None:
  """The config's own mesh; None if it is of another number of chips.

  Raises:
    ValueError: it is none, or does not divide the batch.
  """
  asked = list(c.mesh.values())
  if min(asked) > 0 and math.prod(asked) != len(target.devices):
    return None
  mesh = sharding.make_mesh(**c.mesh, devices=target.devices)
  shards = sharding.batch_shards(mesh) * work.accumulate
  if work.rows % shards:
    raise ValueError(f"rows_per_step={work.rows} cannot be split into mesh x accumulate = {shards}")
  sizes = {axis: mesh.shape[axis] for axis in ("data", "fsdp", "tensor")}
  if math.prod(sizes.values()) != mesh.size:
    raise ValueError(f"mesh={dict(mesh.shape)}: expected axes beside data, fsdp and tensor to be 1")
  return meshes.candidate(work, sizes, c.model.remat, target.chip)


def make(
  c: ml_collections.ConfigDict,
  target: hardware.Target,
  *,
  name: str,
  stage: str = "preference",
  compiled: int = 1,
  shown: int = 8,
) -> dict[str, Any]:
  """The plan of a stage, as `report.as_json` has it.

  Args:
    c: the config.
    target: the chips.
    name: of the config, to be shown.
    stage: 'sft' or 'preference'.
    compiled: how many meshes to compile beside the config's own; as many more while none fits.
    shown: how many of the other meshes to list.

  Raises:
    ValueError: the config does not have the stage, or its batch fits no mesh.
  """
  if stage not in c.stages:
    raise ValueError(f"stages={tuple(c.stages)}: found no {stage!r}, which was asked for")
  model = transformer.Transformer(config_lib.transformer(c, vocab_size(c)))
  work, keys = program.work(c, stage, model), c[stage]
  found = meshes.candidates(work, len(target.devices), target.chip)
  own = own_mesh(c, work, target)
  if own is not None:
    found = [own, *(one for one in found if (one.mesh, one.remat) != (own.mesh, own.remat))]
  if not found:
    raise ValueError(
      f"{stage}.rows_per_step={work.rows} and {len(target.devices)} chips: found no mesh that "
      "splits the batch, the width, the heads, the MLP and the vocabulary evenly"
    )
  rows: list[report.Row] = []
  first = compiled + (own is not None)
  for i, one in enumerate(found[: max(first + compiled, 1)]):
    if i >= max(first, 1) and any(report.fits(row, target) for row in rows):
      break
    print(f"compiling {one.name} ...", file=sys.stderr)
    rows.append(compile_mesh(c, stage, one, target))
  packing = config_lib.packing(keys)
  objective = config_lib.objective(keys)
  terms = packing.pairs if objective.needs_pairs else packing.segments
  run = report.Run(
    config=name,
    stage=stage,
    work=work,
    steps=keys.steps,
    terms=terms * work.rows,
    episodes=keys.steps * work.rows * packing.episodes,
  )
  others = found[len(rows) : len(rows) + shown]
  return report.as_json(report.best_first(rows, target), others, run, target)
