# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A program of its own: the memory of a step, as planned and as measured.

Measured is the most that this process has resident while the step runs, less what it had before
there were any arrays, when the step was compiled and had run once already: what the kernel counts
(VmHWM), not what JAX says of itself. The program's own code, read from its file when it is first
run, is thus in both. It prints both as JSON.
"""

import ctypes
import gc
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections

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
  # Every page is written: zeros that nobody has touched take no memory. Made by JAX: an array of
  # numpy that happens to lie as JAX likes it is borrowed, and what is borrowed is never donated.
  return jnp.full(leaf.shape, 1, leaf.dtype, device=leaf.sharding).block_until_ready()


def _highest(compiled: jax.stages.Compiled, given: program.Inputs) -> int:
  """The most that is resident while a step runs, bytes; its arrays are gone afterwards."""
  arrays = jax.tree.map(_array, (given.state, given.frozen, given.batch))
  _trim()
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
  made = jax.block_until_ready(compiled(*arrays))
  assert len(jax.tree.leaves(made)) > 0
  return _status("VmHWM")


def main() -> None:
  """Compiles, runs, and prints."""
  c = step_config()
  mesh = sharding.make_mesh(**c.mesh, devices=jax.devices()[:1])
  model = transformer.Transformer(config.transformer(c, 1))
  traced, given = program.trace(c, "preference", model, mesh)
  compiled = traced.lower().compile()
  _highest(compiled, given)
  _trim()
  before = _status("VmRSS")
  measured = _highest(compiled, given) - before
  planned = program.used_bytes(compiled.memory_analysis())
  print(json.dumps({"planned": planned, "measured": measured}))


if __name__ == "__main__":
  main()
