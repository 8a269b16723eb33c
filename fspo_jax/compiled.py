# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What XLA has compiled is kept in the run's folder: a run that goes on does not compile again."""

from __future__ import annotations

import os

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep(directory: str | os.PathLike[str]) -> None:
  """Keeps compiled programs in a folder, unless JAX_COMPILATION_CACHE_DIR names another.

  Not those of CPUs, which may be of a machine with other instructions than the next one has.
  """
  if jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu":
    jax.config.update("jax_compilation_cache_dir", os.fspath(directory))
    compilation_cache.reset_cache()  # it has looked already, when the config was checked
