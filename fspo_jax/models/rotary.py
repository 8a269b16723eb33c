# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings, arXiv 2104.09864, and how they are stretched to longer sequences."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fspo_jax.models.architecture import TransformerConfig


class Rotation(NamedTuple):
  """Cosine and sine of every token's angles."""

  cos: Float[Array, "B L half"]
  sin: Float[Array, "B L half"]


def _plain(theta: float, head_dim: int) -> Float[Array, " half"]:
  half = head_dim // 2
  return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)


def frequencies(config: TransformerConfig) -> Float[Array, " half"]:
  """Angle per position of every pair, under the config's scaling.

  'linear' (position interpolation, arXiv 2306.15595) divides all of them. 'llama3' (Llama 3.1)
  divides those that turn less than `rope_low_freq_factor` times over the original length, leaves
  those that turn more than `rope_high_freq_factor` times, and blends in between.
  """
  frequency = _plain(config.rope_theta, config.head_dim)
  if config.rope_scaling == "none":
    return frequency
  slow = frequency / config.rope_factor
  if config.rope_scaling == "linear":
    return slow
  turns = config.rope_original_length * frequency / (2 * math.pi)
  low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
  kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return (1 - kept) * slow + kept * frequency


def _rotation(frequency: Float[Array, " half"], positions: Int[Array, "B L"]) -> Rotation:
  angle = positions[..., None].astype(jnp.float32) * frequency[None, None, :]
  return Rotation(jnp.cos(angle), jnp.sin(angle))


def rotation(config: TransformerConfig, positions: Int[Array, "B L"]) -> Rotation:
  """The rotation of tokens at `positions`."""
  return _rotation(frequencies(config), positions)


def local_rotation(config: TransformerConfig, positions: Int[Array, "B L"]) -> Rotation | None:
  """The rotation in layers with a window; None where it is that of the others."""
  if not config.rope_local_theta:
    return None
  return _rotation(_plain(config.rope_local_theta, config.head_dim), positions)


def rotate(x: Float[Array, "B L H D"], by: Rotation) -> Float[Array, "B L H D"]:
  """Rotates pairs (d, d + D / 2) of every head: the layout of Hugging Face checkpoints."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = by.cos[:, :, None, :], by.sin[:, :, None, :]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
