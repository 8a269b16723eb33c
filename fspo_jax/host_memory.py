# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a process on a CPU frees it keeps: the next step needs as much again.

The C library gives large arrays back to the kernel as soon as they are freed, and every step asks
for the same ones anew, whose pages the kernel has to find and clear. On two cores of a virtual
machine that was about a quarter of a step (experiments/benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys

import jax

# Of glibc's malloc.h, with what each is set to.
_TRIM_THRESHOLD = -1, 2**31 - 1  # what is free at the heap's end stays, up to 2 GiB
_TOP_PAD = -2, 64 * 2**20  # the heap grows by 64 MiB at once
_MMAP_MAX = -4, 0  # large arrays come from the heap too
_ARENA_MAX = -8, 1  # one heap for all threads: each one's own would be of 64 MiB at most


def keep_freed() -> bool:
  """Tells the C library so. To be called before JAX starts the threads that compute.

  Not where an accelerator may hold the arrays, where the library is not glibc, or where the
  environment has settings of its own (MALLOC_*, GLIBC_TUNABLES).

  Returns:
    Whether it was told.
  """
  own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
  if own or not sys.platform.startswith("linux") or not _cpu_alone():
    return False
  library = ctypes.CDLL(None)
  if not hasattr(library, "gnu_get_libc_version"):
    return False
  settings = (_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX)
  told = [library.mallopt(*setting) for setting in settings]
  return min(told) == 1


def _cpu_alone() -> bool:
  """Whether JAX will compute on the CPU, said without starting it."""
  if jax.config.jax_platforms:
    return jax.config.jax_platforms == "cpu"
  return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
