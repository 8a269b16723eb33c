# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The main job: FSPO on the embedded reviews world, from scratch, on a laptop CPU.

python -m fspo_jax.main --config=experiments/quickstart.py --workdir=runs/quickstart
"""

import ml_collections

from fspo_jax import config


def get_config() -> ml_collections.ConfigDict:
  """The config of the main job."""
  c = config.default()
  c.model.layers = 2
  return c
