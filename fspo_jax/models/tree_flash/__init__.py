# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention on token trees by Pallas kernels for TPUs, which skip blocks that nobody looks at.

  tree = tree_flash.tree_blocks(subtree_end, positions, block=512)  # once for all layers
  out = tree_flash.attention(q, k, v, subtree_end, positions, tree, block=512)
"""

from fspo_jax.models.tree_flash.attention import attention, why_not
from fspo_jax.models.tree_flash.blocks import TreeBlocks, dead_fraction, live_blocks, tree_blocks

__all__ = [
  "TreeBlocks",
  "attention",
  "dead_fraction",
  "live_blocks",
  "tree_blocks",
  "why_not",
]
