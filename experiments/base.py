# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The base of the embedded worlds: one decoder, pretrained on the text of all three.

It learns to answer, to follow descriptions, to read responses, and the few-shot format, whose
labels are random: it does not personalize yet. Hours on two cores; it may be stopped and resumed.
`publish_base.py` measures the result and makes the folder that comes with the package.

python -m fspo_jax.main --config=experiments/base.py --workdir=runs/base

One that falls short is written all the same with --below_gate=accept, and goes on from there:

python -m fspo_jax.main --config=experiments/base.py:continued --workdir=runs/base_continued \
  --config.base=FOLDER
"""

import ml_collections

from fspo_jax import presets


def get_config(part: str = "first") -> ml_collections.ConfigDict:
  """The config of the experiment; `part` is 'first', or 'continued' from another base."""
  if part not in ("first", "continued"):
    raise ValueError(f"found {part!r} after the colon, expected 'first' or 'continued'")
  return presets.worlds_base() if part == "first" else presets.worlds_base_continued()
