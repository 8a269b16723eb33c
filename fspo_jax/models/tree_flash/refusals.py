# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the kernels cannot do, refused before anything is computed."""

from __future__ import annotations

import jax

from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.models.tree_flash.tpu.kernels import LANES

# Queries of a block, of all heads of a group, times bytes of a number: as far as they were compiled
# for a TPU core's fast memory.
_MOST_BYTES = 4096


def check(model: TransformerConfig, mesh: jax.sharding.Mesh) -> None:
  """Refuses, with a ValueError, kernels where they cannot be: the platform, the shape, the mesh.

  The mask needs no check: every mask that a token tree has, they have.
  """
  if model.attention == "xla":
    return
  chosen, tensor = f"model.attention={model.attention!r}", mesh.shape["tensor"]
  if model.kv_heads % tensor:
    raise ValueError(
      f"{chosen}: mesh.tensor={tensor} does not divide model.kv_heads={model.kv_heads}: a kernel "
      "has whole heads; expected 'xla'"
    )
  if model.attention == "pallas_interpret":
    return
  platform = mesh.devices.flat[0].platform
  if platform != "tpu":
    raise ValueError(
      f"{chosen}: found devices of the platform {platform!r}, expected 'tpu'; others have 'xla'"
    )
  if model.dtype == "float16":
    raise ValueError(f"{chosen}: found model.dtype='float16', expected 'bfloat16' or 'float32'")
  if model.attention_block % LANES:
    raise ValueError(
      f"{chosen}: found model.attention_block={model.attention_block}, expected a multiple of "
      f"{LANES}, the lanes of a TPU"
    )
  group = model.heads // model.kv_heads
  # A head fills whole lanes, whatever its size.
  size = {"bfloat16": 2, "float32": 4}[model.dtype] * -(-model.head_dim // LANES)
  most = _MOST_BYTES // size // group // LANES * LANES
  if not most:
    raise ValueError(
      f"{chosen}: found model.heads / model.kv_heads = {group}, model.head_dim={model.head_dim}, "
      f"model.dtype={model.dtype!r}, of which no block fits a core's fast memory; expected 'xla'"
    )
  if model.attention_block > most:
    raise ValueError(
      f"{chosen}: found model.attention_block={model.attention_block}, expected at most {most} "
      f"with model.heads / model.kv_heads = {group}, model.head_dim={model.head_dim} and "
      f"model.dtype={model.dtype!r}: a block has to fit a core's fast memory"
    )
