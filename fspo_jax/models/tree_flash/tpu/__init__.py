# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels for TPUs (Mosaic): a grid's step for every live pair of blocks."""

from fspo_jax.models.tree_flash.tpu.backward import backward
from fspo_jax.models.tree_flash.tpu.forward import forward

__all__ = ["backward", "forward"]
