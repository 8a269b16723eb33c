# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A step's arithmetic and memory: formulas, the program, XLA's count, and the kernel's."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import config, sharding, updates
from fspo_jax.episodes import batching
from fspo_jax.models import scoring, transformer
from fspo_jax.planning import estimate, hardware, meshes, program
from fspo_jax.training import state as state_lib
from tests import tiny
from tests.planning import measured


def _traced(remat, **changes):
  c = measured.step_config()
  c.model.width, c.model.mlp, c.model.heads, c.model.kv_heads = 128, 256, 4, 2
  c.model.head_dim, c.model.vocab_size, c.vocab_chunk = 32, 1024, 256
  c.model.attention_block, c.model.remat = 64, remat
  c.preference.row_tokens, c.preference.scored_tokens = 512, 128
  c.update_from_flattened_dict(changes)
  model = transformer.Transformer(config.transformer(c, 1))
  traced, given = program.trace(c, "preference", model, sharding.one_device())
  return traced, given, program.work(c, "preference", model)


@pytest.mark.parametrize(
  "remat, changes",
  [
    ("full", {}),
    ("none", {}),
    ("dots", {"preference.rows_per_step": 4, "preference.accumulate": 2}),
    ("full", {"preference.reference_cache.use": "on", "model.layers": 3}),
    ("full", {"model.attention": "pallas_interpret", "model.layers": 3}),
    ("full", {"model.attention": "pallas_gpu_interpret", "model.layers": 3}),
  ],
)
def test_the_formula_counts_the_programs_matrix_products(remat, changes):
  traced, _, work = _traced(remat, **changes)
  assert program.matrix_flops(traced.jaxpr.jaxpr) == pytest.approx(
    estimate.program_flops(work), rel=1e-6
  )
  assert estimate.model_flops(work) < estimate.program_flops(work)


def test_a_mesh_changes_nothing_in_the_count():
  """The vocabulary's parts are of one axis: along the others the shapes are those of all."""
  shapes = ((8, 4, 16), jnp.float32), ((16, 128), jnp.float32), ((8, 4), jnp.int32)
  given = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

  def counted():
    def score(hidden, head, ids):
      return scoring.token_logprobs(hidden, head, ids, chunk=64).sum()

    return program.matrix_flops(jax.make_jaxpr(jax.grad(score, argnums=(0, 1)))(*given).jaxpr)

  alone = counted()
  with jax.sharding.use_abstract_mesh(
    jax.sharding.AbstractMesh((1, 1, 2, 1, 2), sharding.MESH_AXES)
  ):
    assert counted() == alone == 2 * 4 * 32 * 16 * 128  # logits twice, and two gradients


def test_the_count_is_xlas_where_it_has_no_loops():
  # One layer, one block, one chunk, one row: loops of one round. XLA counts sums and exponentials
  # too, and merges some of what is computed twice.
  changes = {"model.layers": 1, "model.attention_block": 512, "vocab_chunk": 1024}
  changes["preference.rows_per_step"] = 1
  traced, _, _ = _traced("none", **changes)
  analysis = traced.lower().compile().cost_analysis()
  counted = program.matrix_flops(traced.jaxpr.jaxpr)
  assert counted == pytest.approx(analysis["flops"], rel=0.1)


def test_model_flops_of_a_layer_by_hand():
  work = _traced("none", **{"model.layers": 1, "model.windows": (4,)})[2]
  matrices = 128 * 128 * 2 + 2 * 128 * 64 + 3 * 128 * 256
  seen = 1 + 2 + 3 + 4 * (512 - 3)  # keys that queries with a window of 4 look at
  forward = 512 * 2 * matrices + 4 * 128 * seen + 128 * 2 * 128 * 1024
  assert estimate.model_flops(work) == 2 * 4 * forward  # two rows; forward, twice backward, frozen


def test_shapes_are_those_of_a_real_state_and_batch():
  c = measured.step_config()
  c.model.update(dataclasses.asdict(tiny.model(vocab_size=8).config) | {"vocab_size": 512})
  c.preference.layout.description_shots = ()
  c.preference.layout.description_queries = ()
  c.preference.shots = 2
  c.preference.layout.query_shots = (2,)
  mesh = sharding.one_device()
  model = transformer.Transformer(config.transformer(c, 1))
  given = program.inputs(c, "preference", model, mesh)
  rows = tiny.rows(config.layout(c.preference), shots=2, tokens=1024, scored_tokens=640)
  batch = tiny.batch(rows, 2)
  rule = updates.optimizer.make_optimizer(config.optimizer(c.preference), c.preference.steps)
  state = state_lib.init_state(state_lib.init_params(model, mesh, 0), rule, mesh)

  def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)

  assert shapes(given.state) == shapes(state)
  assert shapes(given.batch) == shapes(batch)
  assert isinstance(given.batch, batching.TreeBatch)
  assert given.frozen is not None


def test_rows_whose_length_the_texts_decide_cannot_be_planned():
  c = measured.step_config()
  c.preference.row_tokens = c.preference.scored_tokens = 0
  model = transformer.Transformer(config.transformer(c, 1))
  for plan in (program.work, lambda *args: program.inputs(*args, sharding.one_device())):
    with pytest.raises(ValueError, match="row_tokens=0: found nothing that says how long rows are"):
      plan(c, "preference", model)


def test_candidates_split_everything_evenly_and_the_likeliest_is_first():
  work = dataclasses.replace(_traced("full")[2], rows=8)
  chip = hardware.CHIPS["v5e"]
  found = meshes.candidates(work, 8, chip)
  assert {(one.data, one.fsdp, one.tensor) for one in found} == {
    # Two key heads: at most 2 along tensor.
    (d, f, t)
    for d in (1, 2, 4, 8)
    for f in (1, 2, 4, 8)
    for t in (1, 2)
    if d * f * t == 8
  }
  assert found[0].estimate.rank == min(one.estimate.rank for one in found)
  small = dataclasses.replace(chip, memory=1.0)
  memories = [one.estimate.memory for one in meshes.candidates(work, 8, small)]
  assert memories == sorted(memories)  # none fits: the smallest first


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "v5e:2x2x2x2", "h100:8x"])
def test_unknown_topologies_are_refused(topology):
  with pytest.raises(hardware.TopologyError, match="expected a chip of"):
    hardware.chips(topology)


def test_a_plan_for_cpu_is_within_15_percent_of_the_memory_that_is_measured():
  command = [sys.executable, "-m", "tests.planning.measured"]
  done = subprocess.run(command, cwd=tiny.REPO, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["measured"] > 200e6
  assert found["planned"] == pytest.approx(found["measured"], rel=0.15)
