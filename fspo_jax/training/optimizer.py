# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The optimizer: Muon, Adam or RMSprop, warm-up, a constant rate, a linear decay, clipping."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float
import optax
from optax import contrib

OPTIMIZERS = ("muon", "adamw", "rmsprop")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """The update rule.

  Attributes:
    name: 'muon' (matrices of the blocks by Muon, the rest by Adam), 'adamw' or 'rmsprop' (the
      paper's, as in PyTorch: with no momentum, and no bias correction).
    learning_rate: of Muon, AdamW or RMSprop.
    adam_learning_rate: of what Muon leaves to Adam; not used by the others.
    warmup_steps: linear from 0.
    decay_fraction: last part of the run, in which the rate falls linearly to 0.
    clip_norm: largest global norm of the gradient.
    weight_decay: decoupled.
    b2: second-moment decay.
  """

  name: str
  learning_rate: float
  adam_learning_rate: float
  warmup_steps: int
  decay_fraction: float
  clip_norm: float
  weight_decay: float
  b2: float


def schedule(peak: float, config: OptimizerConfig, steps: int) -> optax.Schedule:
  """Warm-up, then `peak`, then down to 0 over the last `decay_fraction` of `steps`."""
  decay = max(round(steps * config.decay_fraction), 1)
  if config.warmup_steps + decay > steps:
    raise ValueError(
      f"optimizer.warmup_steps={config.warmup_steps} and a decay over {decay} steps do not fit "
      f"into {steps} steps"
    )
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak, max(config.warmup_steps, 1)),
      optax.constant_schedule(peak),
      optax.linear_schedule(peak, 0.0, decay),
    ],
    [config.warmup_steps, steps - decay],
  )


def _matrices(params: Any) -> Any:
  """Which parameters Muon takes: the blocks' matrices [layers, in, out]."""

  def dimensions(
    path: jax.tree_util.KeyPath, leaf: Float[Array, "..."]
  ) -> contrib.MuonDimensionNumbers | None:
    in_blocks = path[0].key == "blocks" and leaf.ndim == 3
    return contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2) if in_blocks else None

  return jax.tree_util.tree_map_with_path(dimensions, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
  """The update rule of a run of `steps` steps.

  Raises:
    ValueError: an unknown name.
  """
  rate = schedule(config.learning_rate, config, steps)
  if config.name == "muon":
    rule = contrib.muon(
      rate,
      adam_learning_rate=schedule(config.adam_learning_rate, config, steps),
      adam_b2=config.b2,
      weight_decay=config.weight_decay,
      adam_weight_decay=config.weight_decay,
      muon_weight_dimension_numbers=_matrices,
      consistent_rms=0.2,
    )
  elif config.name == "adamw":
    rule = optax.adamw(rate, b2=config.b2, weight_decay=config.weight_decay)
  elif config.name == "rmsprop":
    rule = optax.chain(
      optax.scale_by_rms(decay=config.b2, eps=1e-8, eps_in_sqrt=False),
      optax.add_decayed_weights(config.weight_decay),
      optax.scale_by_learning_rate(rate),
    )
  else:
    raise ValueError(f"optimizer.name={config.name!r} is not one of {OPTIMIZERS}")
  return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
