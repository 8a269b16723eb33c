# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A program of its own: the memory of a step, as planned and as measured.

Measured is the most that this process has resident while the step runs, less what it had before
there were any arrays, when the step was compiled already: what the kernel counts (VmHWM), not what
JAX says of itself. It prints both as JSON.
"""

import ctypes
import gc
import json
import pathlib

import jax
import ml_collections
import numpy as np

from fspo_jax import config, sharding
from fspo_jax.models import transformer
from fspo_jax.planning import program


def step_config() -> ml_collections.ConfigDict:
  """A step of about 400 MiB: enough beside what else a process may need a little of."""
  c = config.default()
  c.model.vocab_size = 8192
  c.model.width, c.model.layers, c.model.mlp = 512, 2, 1024
  c.model.heads, c.model.kv_heads, c.model.head_dim = 8, 4, 64
  c.model.remat = "full"
  c.preference.rows_per_step = 2
  c.preference.row_tokens, c.preference.scored_tokens = 1024, 640
  c.preference.optimizer.name = "adamw"
  return c


def _status(key: str) -> int:
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{key}:"):
      return int(line.split()[1]) * 1024
  raise KeyError(key)


def _trim() -> None:
  gc.collect()
  ctypes.CDLL("libc.so.6").malloc_trim(0)


def _array(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  # Every page is written: zeros that nobody has touched take no memory.
  return jax.device_put(np.full(leaf.shape, 1, leaf.dtype), leaf.sharding).block_until_ready()


def main() -> None:
  """Compiles, runs, and prints."""
  c = step_config()
  mesh = sharding.make_mesh(**c.mesh, devices=jax.devices()[:1])
  model = transformer.Transformer(config.transformer(c, 1))
  traced, given = program.trace(c, "preference", model, mesh)
  compiled = traced.lower().compile()
  jax.block_until_ready(jax.device_put(np.ones(8), jax.devices()[0]))
  _trim()
  before = _status("VmRSS")
  arrays = jax.tree.map(_array, (given.state, given.frozen, given.batch))
  _trim()
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
  made = jax.block_until_ready(compiled(*arrays))
  measured = _status("VmHWM") - before
  assert len(jax.tree.leaves(made)) > 0
  planned = program.used_bytes(compiled.memory_analysis())
  print(json.dumps({"planned": planned, "measured": measured}))


if __name__ == "__main__":
  main()
