# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a config to the training step of one of its stages, without data or parameters."""

from __future__ import annotations

import jax
import ml_collections

from fspo_jax import config as config_lib
from fspo_jax import rows as rows_lib
from fspo_jax.models import transformer
from fspo_jax.training import adapters, optimizer, step
from fspo_jax.training import vpl as vpl_training


def make(
  c: ml_collections.ConfigDict,
  name: str,
  model: transformer.Transformer,
  mesh: jax.sharding.Mesh,
  seed: int,
) -> step.MeshStep:
  """The jitted step of a stage.

  Args:
    c: the config.
    name: of the stage: 'sft' or 'preference'.
    model: the decoder.
    mesh: where it runs.
    seed: of the stage.
  """
  keys, lora = c[name], config_lib.lora(c[name])
  objective = config_lib.objective(keys)
  rule = optimizer.make_optimizer(config_lib.optimizer(keys), keys.steps)
  encoder = rows_lib.vpl(c) if name == "preference" else None
  if encoder is None:
    return step.make_step(
      model,
      objective,
      rule,
      mesh,
      vocab_chunk=c.vocab_chunk,
      accumulate=keys.accumulate,
      policy_params=step.all_trained if lora is None else adapters.policy_params(lora, seed),
    )
  return vpl_training.make_step(
    model,
    objective,
    rule,
    mesh,
    vocab_chunk=c.vocab_chunk,
    config=encoder,
    shots=keys.shots,
    steps=keys.steps,
    seed=seed,
  )
