# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The step on every mesh of eight devices; FSPO_ALL_MESHES=1 asks for it: each takes seconds.

`test_step.py` trains on a few of them, and looks at where arrays lie.
"""

import itertools
import json
import math
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fspo_jax import sharding
from fspo_jax.training import state as state_lib
from fspo_jax.training import step as step_lib
from tests import tiny

AXES = ("data", "fsdp", "tensor", "context", "dcn_data")
# Every way to write 8 as a product over the axes, in order: 20 with dcn_data=1, and 15 more.
MESHES = [m for m in itertools.product((1, 2, 4, 8), repeat=len(AXES)) if math.prod(m) == 8]
ALONE = (1,) * len(AXES)

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not os.environ.get("FSPO_ALL_MESHES"), reason="FSPO_ALL_MESHES is not set"),
]


def _step(mesh):
  """The loss and the gradient of a batch of eight rows, the policy away from its reference."""
  # Everything can be split into eight.
  model = tiny.model(vocab_size=1024, heads=8, kv_heads=8, attention_block=512)
  rule = optax.GradientTransformation(lambda params: params, lambda gradient, *_: (gradient,) * 2)
  places = jax.tree.map(lambda x: x.sharding, state_lib.abstract_params(model, mesh))
  policy, reference = (jax.device_put(tiny.params(model, seed), places) for seed in (1, 0))
  state = state_lib.init_state(jax.tree.map(jnp.copy, policy), rule, mesh)
  update = step_lib.make_step(model, tiny.OBJECTIVE, rule, mesh, vocab_chunk=512, accumulate=1)
  batch = sharding.to_global(mesh, tiny.batch(tiny.rows(), 8))
  state, metrics = update(state, reference, batch)
  gradient = {name: np.asarray(leaf) for name, leaf in tiny.flat(state.opt_state).items()}
  return gradient, {name: float(value) for name, value in metrics.items()}


def _distance(found, expected):
  """The largest difference, of the array's largest entry."""
  return float(np.abs(found - expected).max() / np.abs(expected).max())


def main(path):
  """Writes how far each mesh is from one device: in the metrics, and in the gradient's arrays."""
  expected, metrics = _step(sharding.make_mesh(*ALONE, devices=jax.devices()[:1]))
  assert all(v.any() for v in expected.values())
  found = {}
  for sizes in MESHES:
    gradient, ours = _step(sharding.make_mesh(*sizes))
    found["x".join(map(str, sizes))] = {
      "metrics": max(abs(ours[n] - v) / max(abs(v), 1.0) for n, v in metrics.items()),
      "loss": abs(ours["loss"] / metrics["loss"] - 1),
      "gradient": max(_distance(gradient[n], v) for n, v in expected.items()),
    }
    print(sizes, found["x".join(map(str, sizes))], flush=True)
  pathlib.Path(path).write_text(json.dumps(found))


@pytest.fixture(scope="module")
def distances(tmp_path_factory):
  path = tmp_path_factory.mktemp("meshes") / "distances.json"
  tiny.run("training.test_meshes", path, devices=8)
  return json.loads(path.read_text())


@pytest.mark.parametrize("sizes", MESHES)
def test_every_mesh_has_one_devices_loss_and_gradient(distances, sizes):
  # Devices add up in another order: some 60 steps of float32, as in `test_step.py`.
  assert max(distances["x".join(map(str, sizes))].values()) < 5e-5


if __name__ == "__main__":
  main(*sys.argv[1:])
