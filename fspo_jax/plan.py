# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What a run will need, before a chip is paid for: its step, compiled ahead of time.

python -m fspo_jax.plan --config=experiments/roleplay.py:model=llama3.2-3b,hardware=v5e-64 \
  --topology=v5e:8x8

Neither parameters nor data are read or made. TPUs (extra `tpu-plan`) need no TPU: their compiler
runs here, and says what memory a step takes. GPUs (`h100:8`) are stood in for by CPU devices: what
is sent is read from that program, and memory is a formula's. `--platform=cpu` plans for this
machine.

Meshes are estimated by formulas first. The config's own and the most promising (`--compile`) are
compiled; each takes minutes. Times are bounds: at the published peaks, nothing else in the way.
"""

from __future__ import annotations

import json
import math
import sys

from absl import app, flags
import jax
import ml_collections
from ml_collections import config_flags

from fspo_jax import base, sharding
from fspo_jax import config as config_lib
from fspo_jax.episodes import tokenizers
from fspo_jax.models import transformer
from fspo_jax.planning import estimate, hardware, meshes, program, report

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "Like v5e:16x16, v5p:4x4x4, v6e:8x8 or h100:8.")
_PLATFORM = flags.DEFINE_enum("platform", None, ["cpu"], "In place of a topology: this machine.")
_STAGE = flags.DEFINE_enum("stage", "preference", ["sft", "preference"], "Which stage's step.")
_COMPILE = flags.DEFINE_integer("compile", 1, "How many meshes to compile beside the config's own.")
_SHOW = flags.DEFINE_integer("show", 8, "How many meshes to show that are only estimated.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON in place of Markdown.")


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
  model = transformer.Transformer(config_lib.transformer(c, vocab_size(c)))
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
    ValueError: it does not divide the batch.
  """
  try:
    mesh = sharding.make_mesh(**c.mesh, devices=target.devices)
  except ValueError:
    return None
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
) -> dict:
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


def main(argv: list[str]) -> int:
  """Plans, and prints it. What cannot be planned is said in one line."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  try:
    if (_TOPOLOGY.value is None) == (_PLATFORM.value is None):
      raise ValueError("expected one of --topology=NAME and --platform=cpu")
    c = _CONFIG.value
    # Whatever this machine has, nothing runs on it.
    jax.config.update("jax_platforms", "cpu")
    sizes = [c.mesh[axis] for axis in c.mesh]
    local = math.prod(size for size in sizes if size > 0)
    target = hardware.target(_TOPOLOGY.value or f"cpu:{local}")
    made = make(
      c,
      target,
      name=config_flags.get_config_filename(flags.FLAGS["config"]),
      stage=_STAGE.value,
      compiled=_COMPILE.value,
      shown=_SHOW.value,
    )
  except (ValueError, OSError) as error:
    print(f"fspo_jax: cannot plan: {error}", file=sys.stderr)
    return 2
  print(json.dumps(made, indent=2) if _JSON.value else report.as_markdown(made))
  return 0 if any(row["fits"] for row in made["compiled"]) else 1


def run() -> None:
  """Parses the flags and runs `main`, whose value is the exit status."""
  flags.mark_flags_as_required(["config"])
  app.run(main)


if __name__ == "__main__":
  run()
