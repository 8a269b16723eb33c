# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a config to the contenders of its methods that are more than a prompt to a model."""

from __future__ import annotations

import ml_collections

from fspo_jax.evaluation.contenders import Contender, Models
from fspo_jax.evaluation.user_finetuning import Settings, UserFinetuning
from fspo_jax.models.lora import LoraConfig


def user_finetuning(c: ml_collections.ConfigDict) -> Settings:
  """How a user's own parameters are trained; ValueError naming the key of an impossible value."""
  keys = dict(c.user_finetuning)
  shape = {name: keys.pop(f"lora_{name}") for name in ("rank", "alpha", "projections")}
  shape["projections"] = tuple(shape["projections"])
  keys["ks"] = tuple(keys["ks"])
  return Settings(lora=LoraConfig(**shape) if shape["rank"] else None, **keys)


def check(c: ml_collections.ConfigDict) -> None:
  """Refuses, with a ValueError, what the methods of `evaluation.methods` cannot do."""
  if "user_lora" in c.evaluation.methods:
    settings = user_finetuning(c)
    if max(settings.ks) > c.evaluation.shots:
      raise ValueError(
        f"user_finetuning.ks={settings.ks}: found more than evaluation.shots={c.evaluation.shots}"
      )


def others(c: ml_collections.ConfigDict, models: Models, seed: int) -> dict[str, Contender]:
  """The contenders of the methods that are more than a prompt, by method.

  Args:
    c: the config.
    models: the base, which they start from, and the policy.
    seed: of all that is random in them.
  """
  found: dict[str, Contender] = {}
  if "user_lora" in c.evaluation.methods:
    found["user_lora"] = UserFinetuning(
      models.model, models.base, models.formatter, user_finetuning(c), seed, c.vocab_chunk
    )
  return found
