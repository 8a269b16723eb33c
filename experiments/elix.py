# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Explain it to me: a synthetic set of learners made by the factory, then FSPO trained on it.

`:hard` has 550 learners whose expertise differs by subject, `:easy` one of five levels. Topics are
held out as well as users. From scratch, in less than twenty minutes on two cores:

python -m fspo_jax.main --config=experiments/elix.py:hard --workdir=runs/elix
"""

import ml_collections

from fspo_jax import presets


def get_config(variant: str = "hard") -> ml_collections.ConfigDict:
  """The config of the experiment; `variant` is 'easy' or 'hard'."""
  c = presets.synthetic_users("elix")
  if variant not in ("easy", "hard"):
    raise ValueError(f"found {variant!r} after the colon, expected 'easy' or 'hard'")
  c.elix_variant = variant
  c.synthesis.set.users = 300 if variant == "easy" else 550
  c.synthesis.set.pairs = 240
  c.sft.steps = 400
  c.preference.steps = 1000
  return c
