# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One of two processes that compute a reference cache together: DIRECTORY PROCESS PORT."""

import importlib
import sys

import jax


def main(directory, process, port):
  """Joins the other process, which must be before anything else is asked of jax."""
  jax.distributed.initialize(f"localhost:{port}", 2, int(process))
  importlib.import_module("tests.training.test_reference_cache").main_of_two(directory, process)


if __name__ == "__main__":
  main(*sys.argv[1:])
