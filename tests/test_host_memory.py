# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests that freed memory stays with a process: what the kernel says of processes of their own."""

import os
import subprocess
import sys

import pytest

# Calls that each need and free arrays of 36 MB: the pages that the kernel was asked for.
_PROGRAM = """
import resource
from fspo_jax import host_memory
print(host_memory.keep_freed())
import jax, jax.numpy as jnp
f = jax.jit(lambda x: jnp.flip(jnp.outer(x, x), axis=0) + 1)
x = jnp.ones(3000)
for _ in range(10):
  f(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
  f(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(program, **environment):
  """What it prints, in an environment without settings of the C library."""
  kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
  command = [sys.executable, "-c", program]
  done = subprocess.run(
    command, env=kept | environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_no_pages_are_asked_for_again():
  told, pages = _run(_PROGRAM, JAX_PLATFORMS="cpu")
  assert told == "True"
  untold, asked = _run(_PROGRAM.replace("host_memory.keep_freed()", "0"), JAX_PLATFORMS="cpu")
  assert untold == "0"
  # An array is 3000 x 3000 x 4 bytes, 8,789 pages of 4 KiB, and each call has a new one.
  assert int(asked) > 99 * 8789
  assert int(pages) * 10 < int(asked)


@pytest.mark.parametrize(
  "environment",
  [
    {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"},
    {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.arena_max=4"},
    {"JAX_PLATFORMS": "cuda,cpu"},
  ],
  ids=["settings", "tunables", "accelerator"],
)
def test_who_has_settings_or_an_accelerator_is_left_alone(environment):
  program = "from fspo_jax import host_memory; print(host_memory.keep_freed())"
  assert _run(program, **environment) == ["False"]
