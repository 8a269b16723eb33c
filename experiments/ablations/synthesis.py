# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Does FSPO on synthetic users transfer to others, and what of the synthesis does it need?

The paper's claim: data must be diverse and coherent. Four synthetic sets of as many users, and
FSPO from the base on each; `:VARIANT,WORLD` picks one, of 'roleplay' (the default) or 'elix':

  full          responses from many viewpoints by three writers, one of each pair from the user's
                own; descriptions refined until they determine the labels, which are asked for in
                both orders
  no_diversity  responses by one writer of temperature 0.5, for nobody in particular
  no_coherence  labels by the first, vague description, in one order, length not excused
  neither       both

python -m fspo_jax.main --config=experiments/ablations/synthesis.py:full --workdir=runs/full

Then `experiments/studies/transfer.py --workdirs=runs/full,...` asks all of them about the shifted
world, whose users, topics and words are others.
"""

from collections.abc import Callable

import ml_collections

from fspo_jax import presets

VARIANTS = ("full", "no_diversity", "no_coherence", "neither")


def get_config(arg: str = "full") -> ml_collections.ConfigDict:
  """The config of a variant: `VARIANT` or `VARIANT,WORLD`."""
  variant, _, world = arg.partition(",")
  world = world or "roleplay"
  if variant not in VARIANTS or world not in ("roleplay", "elix"):
    raise ValueError(
      f"found {arg!r} after the colon, expected one of {VARIANTS}, and 'roleplay' or 'elix'"
    )
  c = presets.from_base(world)
  made = c.synthesis.set
  made.models = (("writer-a", 1.0), ("writer-b", 1.0), ("writer-c", 1.0))
  made.pairs = 120
  c.synthesis.flaws.undetermined = 0.5
  if variant in ("no_diversity", "neither"):
    made.steering = "none"
    made.picked = 0.0  # of responses for nobody in particular there is none that one would pick
    made.models = (("writer-a", 0.5),)
  if variant in ("no_coherence", "neither"):
    made.refine = False
    made.both_orders = False
    made.ignore_length = False
  c.data.below_gate = "accept"  # the gate is there to refuse three of them
  c.evaluation.methods = ("base", "fspo")
  c.evaluation.rat_episodes = 0
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Three seeds of the variant that `arg` picks."""
  del arg
  for seed in range(3):
    add(seed=seed)


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy after 8 shots and the win rate, on the set's own users."""
  del arg
  return {
    "accuracy, 8 shots": "preference_accuracy.fspo.unseen.8",
    "win rate": "win_rate.fspo.unseen.mean",
  }
