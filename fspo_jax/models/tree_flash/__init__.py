# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention on token trees by Pallas kernels, which skip blocks that nobody looks at.

Those for TPUs (`tpu`) and for GPUs (`gpu`) have their rules, mask and list of blocks in common.

`tree_blocks` says once for all layers which there are, and `attention` goes through these.
"""

from fspo_jax.models.tree_flash.attention import attention
from fspo_jax.models.tree_flash.blocks import TreeBlocks, tree_blocks
from fspo_jax.models.tree_flash.refusals import check

__all__ = [
  "TreeBlocks",
  "attention",
  "check",
  "tree_blocks",
]
