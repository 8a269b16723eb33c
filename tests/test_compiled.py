# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of where compiled programs are kept."""

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import pytest

from fspo_jax import compiled

DIRECTORY, LEAST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture(autouse=True)
def _as_it_was():
  before = {name: getattr(jax.config, name) for name in (DIRECTORY, LEAST)}
  jax.config.update(DIRECTORY, None)
  jax.config.update(LEAST, 0.0)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def _compile(number):
  jax.block_until_ready(jax.jit(lambda x: x * number + 1)(jnp.ones(3)))


def test_what_is_compiled_for_an_accelerator_is_kept_even_after_a_first_look(tmp_path, monkeypatch):
  _compile(2)  # without a cache
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  compiled.keep(tmp_path / "compiled")
  _compile(3)
  assert [path for path in (tmp_path / "compiled").iterdir() if "cache" in path.name]


def test_nothing_is_kept_of_a_cpu_and_a_folder_that_is_named_stays(tmp_path, monkeypatch):
  compiled.keep(tmp_path / "compiled")
  assert jax.config.jax_compilation_cache_dir is None
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  jax.config.update(DIRECTORY, str(tmp_path / "named"))
  compiled.keep(tmp_path / "compiled")
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "named")
