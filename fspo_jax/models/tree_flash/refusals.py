# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the kernels cannot do with a model on a mesh, refused before anything is computed."""

from __future__ import annotations

import jax

from fspo_jax.models.architecture import ATTENTIONS, TransformerConfig
from fspo_jax.models.tree_flash.gpu import limits
from fspo_jax.models.tree_flash.tpu.kernels import LANES

# Queries of a block, of all heads of a group, times bytes of a number: as far as they were compiled
# for a TPU core's fast memory.
_MOST_BYTES = 4096
_SIZES = {"bfloat16": 2, "float32": 4}


def check(model: TransformerConfig, mesh: jax.sharding.Mesh, *, stands_for: str = "") -> None:
  """Refuses, with a ValueError, kernels where they cannot be: the platform, the shape, the mesh.

  The mask needs no check: every mask that a token tree has, they have.

  Args:
    model: whose attention it is.
    mesh: what it is for.
    stands_for: the platform that the mesh's devices stand in for, in a plan; '' for their own.
  """
  kernels = ATTENTIONS[model.attention]
  if kernels is None:
    return
  chosen, tensor = f"model.attention={model.attention!r}", mesh.shape["tensor"]
  if model.kv_heads % tensor:
    raise ValueError(
      f"{chosen}: mesh.tensor={tensor} does not divide model.kv_heads={model.kv_heads}: a kernel "
      "has whole heads; expected 'xla'"
    )
  if kernels.interpret:
    return
  platform, expected = stands_for or mesh.devices.flat[0].platform, kernels.platform
  if platform != expected:
    raise ValueError(
      f"{chosen}: found devices of the platform {platform!r}, expected {expected!r}; others have "
      "'xla'"
    )
  if model.dtype not in _SIZES:
    raise ValueError(f"{chosen}: found model.dtype={model.dtype!r}, expected one of {(*_SIZES,)}")
  if expected == "tpu":
    _check_tpu(model, chosen)
    return
  if not stands_for:
    _check_capability(mesh.devices.flat[0].compute_capability, chosen)
  _check_gpu(model, chosen)


def _check_tpu(model: TransformerConfig, chosen: str) -> None:
  if model.attention_block % LANES:
    raise ValueError(
      f"{chosen}: found model.attention_block={model.attention_block}, expected a multiple of "
      f"{LANES}, the lanes of a TPU"
    )
  group = model.heads // model.kv_heads
  # A head fills whole lanes, whatever its size.
  size = _SIZES[model.dtype] * -(-model.head_dim // LANES)
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


def _check_capability(found: str, chosen: str) -> None:
  # Of AMD's it is a name like 'gfx942'.
  if found not in limits.CAPABILITIES:
    raise ValueError(
      f"{chosen}: found GPUs of the compute capability {found!r}, expected one of "
      f"{limits.CAPABILITIES} (A100; H100, H200), for which blocks were sized; others have 'xla'"
    )


def _check_gpu(model: TransformerConfig, chosen: str) -> None:
  block = model.attention_block
  if block < limits.LEAST or block & (block - 1):
    raise ValueError(
      f"{chosen}: found model.attention_block={block}, expected a power of two from {limits.LEAST}"
    )
  most = limits.most_tokens(model.head_dim, _SIZES[model.dtype])
  if most < limits.LEAST:
    raise ValueError(
      f"{chosen}: found model.head_dim={model.head_dim} and model.dtype={model.dtype!r}, of which "
      "no block fits a GPU's shared memory; expected 'xla'"
    )
  if block > most:
    raise ValueError(
      f"{chosen}: found model.attention_block={block}, expected at most {most} with "
      f"model.head_dim={model.head_dim} and model.dtype={model.dtype!r}: blocks have to fit a "
      "GPU's shared memory and registers"
    )
