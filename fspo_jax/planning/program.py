# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The real training step of a config, traced and compiled from shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import math
import re
import sys
import time
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import ml_collections

from fspo_jax import config as config_lib
from fspo_jax import hlo, reference, sharding, updates
from fspo_jax import rows as rows_lib
from fspo_jax.episodes.batching import Packing, TreeBatch
from fspo_jax.models import transformer, vpl
from fspo_jax.planning import collectives, hbm
from fspo_jax.planning.estimate import Work
from fspo_jax.training import adapters, optimizer
from fspo_jax.training import state as state_lib

_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a step is given, as shapes and where they live."""

  state: state_lib.TrainState
  frozen: Any
  batch: TreeBatch


def _cached(c: ml_collections.ConfigDict, name: str) -> bool:
  """Whether the reference's scores surely come with a stage's batch (see `reference.cached`)."""
  keys = c.preference.reference_cache
  sure = keys.use == "on" or (keys.use == "auto" and bool(keys.directory))
  return name == "preference" and sure and not reference.why_not(c)


def abstract_batch(
  packing: Packing, rows: int, mesh: jax.sharding.Mesh, *, with_reference: bool
) -> TreeBatch:
  """The shapes of a global batch."""
  where = sharding.batch_sharding(mesh)

  def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=where)

  size = {"L": packing.tokens, "S": packing.scored_tokens, "G": packing.segments}
  size["P"] = packing.pairs
  axes = dict.fromkeys(("tokens", "positions", "roles", "subtree_end"), "L")
  axes |= dict.fromkeys(("source", "target", "segment"), "S")
  axes |= dict.fromkeys(("segment_kind", "segment_shots"), "G")
  names = ("chosen", "rejected", "shots", "context", "episode")
  axes |= {f"pair_{name}": "P" for name in names}
  return TreeBatch(
    **{name: array(size[axis]) for name, axis in axes.items()},
    pair_weight=array(packing.pairs, dtype=jnp.float32),
    dropped_shots=array(),
    row=array(),
    reference=array(packing.segments, dtype=jnp.float32) if with_reference else None,
  )


def inputs(
  c: ml_collections.ConfigDict,
  name: str,
  model: transformer.Transformer,
  mesh: jax.sharding.Mesh,
) -> Inputs:
  """The shapes of what a stage's step is given, and where they live on `mesh`."""
  keys, lora = c[name], config_lib.lora(c[name])
  policy = base = state_lib.abstract_params(model, mesh)
  needs = config_lib.objective(keys).needs_reference
  if lora is not None:
    policy = adapters.abstract(base, lora, mesh)
  elif name == "preference" and (encoder := rows_lib.vpl(c)) is not None:
    policy = base | vpl.abstract_encoder(encoder, model.config.width, mesh)
  cached = needs and _cached(c, name)
  rule = optimizer.make_optimizer(config_lib.optimizer(keys), keys.steps)
  return Inputs(
    state=state_lib.abstract_state(policy, rule, mesh),
    frozen=base if lora is not None or (needs and not cached) else None,
    batch=abstract_batch(config_lib.packing(keys), keys.rows_per_step, mesh, with_reference=cached),
  )


def work(c: ml_collections.ConfigDict, name: str, model: transformer.Transformer) -> Work:
  """What a stage's step does; ValueError where only texts could tell how long its rows are."""
  keys, packing = c[name], config_lib.packing(c[name])
  return Work(
    model=model.config,
    rows=keys.rows_per_step,
    tokens=packing.tokens,
    scored=packing.scored_tokens,
    scores_reference=config_lib.objective(keys).needs_reference and not _cached(c, name),
    moments={"adamw": 2, "rmsprop": 1, "muon": 1}[keys.optimizer.name],
    trains_all=not keys.lora.rank,
    accumulate=keys.accumulate,
  )


def shard_bytes(tree: Any) -> int:
  """Bytes of a tree on one chip, by its shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def matrix_flops(jaxpr: jax.extend.core.Jaxpr) -> float:
  """FLOPs of the matrix products of a program; of a loop's body, as often as it goes round.

  A loop without a number of rounds counts once, of branches the costliest, and a kernel what it
  says itself: as if no block of a tree were dead. What nobody reads, as the gradient of a matrix
  that is not trained, is not computed.
  """
  total, read = 0.0, _variables(jaxpr.outvars)
  for equation in reversed(jaxpr.eqns):
    if read.isdisjoint(equation.outvars) and not equation.effects:
      continue
    read |= _variables(equation.invars)
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      out = math.prod(equation.outvars[0].aval.shape)
      total += 2.0 * out * math.prod(shape[i] for i in contracted)
      continue
    if equation.primitive.name == "pallas_call":
      total += equation.params["cost_estimate"].flops
      continue
    inner = [matrix_flops(sub) for sub in _inner(equation.params)]
    if equation.primitive.name == "scan":
      total += equation.params["length"] * sum(inner)
    elif equation.primitive.name == "cond":
      total += max(inner)
    elif equation.primitive.name == "shard_map":  # its shapes are those of parts of these axes
      mesh, axes = equation.params["mesh"], equation.params["newly_manual_axes"]
      total += math.prod(mesh.shape[axis] for axis in axes) * sum(inner)
    else:
      total += sum(inner)
  return total


def _variables(atoms: Sequence[Any]) -> set[jax.extend.core.Var]:
  return {atom for atom in atoms if isinstance(atom, jax.extend.core.Var)}


def _inner(params: dict[str, Any]) -> Iterator[jax.extend.core.Jaxpr]:
  for value in params.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      one = getattr(one, "jaxpr", one)  # a closed one has its own
      if isinstance(one, jax.extend.core.Jaxpr):
        yield one


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a step on a mesh.

  Attributes:
    fits: whether it has found room in the chip's memory.
    limit: bytes that it may use on a chip, where it has said so; else 0.
    memory: bytes of a chip that it uses, or would.
    temporaries: of them, what lives within a step: activations, gradients, gathered parameters.
    code: of them, the program's.
    flops_one_round: its own count, on a chip, of loop bodies once.
    moved: bytes that a chip reads from its memory and writes to it; 0 where JAX cannot read the
      program (what libtpu makes for some chips has instructions that an older jaxlib refuses).
    traffic: what a chip sends; None as above.
    wall_s: seconds that compiling took.
    cpu_s: seconds of all this process's threads in that.
  """

  fits: bool
  limit: float
  memory: float
  temporaries: float
  code: float
  flops_one_round: float
  moved: float
  traffic: collectives.Traffic | None
  wall_s: float
  cpu_s: float


def trace(
  c: ml_collections.ConfigDict,
  name: str,
  model: transformer.Transformer,
  mesh: jax.sharding.Mesh,
) -> tuple[jax.stages.Traced, Inputs]:
  """The step of a stage as a program, and what it is given."""
  given = inputs(c, name, model, mesh)
  made = updates.make(c, name, model, mesh, seed=0)
  return made.trace(given.state, given.frozen, given.batch), given


def used_bytes(stats: Any) -> int:
  """Bytes of a chip that a program's arrays take at once, by `Compiled.memory_analysis`."""
  arrays = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
  return arrays + stats.temp_size_in_bytes


def compile_step(traced: jax.stages.Traced, mesh: jax.sharding.Mesh) -> Compiled:
  """Compiles a step for the chips of its mesh."""
  lowered, wall, cpu = traced.lower(), time.monotonic(), time.process_time()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    found = _OUT_OF_MEMORY.search(str(error))
    if found is None:
      raise
    used, limit = (float(found[i]) * _UNITS[found[i + 1]] for i in (1, 3))
    spent = time.monotonic() - wall, time.process_time() - cpu
    return Compiled(False, limit, used, 0.0, 0.0, 0.0, 0.0, None, *spent)
  spent = time.monotonic() - wall, time.process_time() - cpu
  stats = compiled.memory_analysis()
  try:
    module = hlo.parse(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    print(f"the program cannot be read: {str(error).splitlines()[0]}", file=sys.stderr)
    module = None
  code = stats.generated_code_size_in_bytes
  return Compiled(
    fits=True,
    limit=0.0,
    memory=used_bytes(stats) + code,
    temporaries=stats.temp_size_in_bytes,
    code=code,
    flops_one_round=(compiled.cost_analysis() or {}).get("flops", 0.0),
    moved=hbm.traffic(module) if module else 0.0,
    traffic=collectives.traffic(module, dict(mesh.shape)) if module else None,
    wall_s=spent[0],
    cpu_s=spent[1],
  )
