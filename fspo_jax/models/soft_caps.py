# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Soft caps: scores and logits kept within a bound by tanh (Gemma 2, arXiv 2408.00118)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def soft_cap(x: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
  """Bounds `x` to -cap .. cap by cap * tanh(x / cap); `x` itself where `cap` is 0."""
  return cap * jnp.tanh(x / cap) if cap else x


def slope(capped: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
  """The derivative of `soft_cap` where its value is `capped`; of -inf, a masked entry, it is 0."""
  return 1.0 - (jnp.maximum(capped, -cap) / cap) ** 2
