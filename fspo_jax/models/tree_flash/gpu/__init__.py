# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The kernels for GPUs (Triton): a program for every output block, which loops over its live pairs.

The list of these is the one that the kernels for TPUs have: a program finds its part by offsets.
"""

from fspo_jax.models.tree_flash.gpu.backward import backward
from fspo_jax.models.tree_flash.gpu.forward import forward

__all__ = ["backward", "forward"]
