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

and so do `base.py:reading`, with more about what reviews are like, `base.py:levels`, with more
about who knows what of which subject, `base.py:subjects`, with more answers by it,
`base.py:topics`, with more about what topics are that it never answers on, `base.py:rehearsal`,
with all of it once more, `base.py:long`, with longer documents, and `base.py:instructions`, with
more answers among them. `--config.base=scratch` of a run that starts from the base makes all of
them, one after another (`fspo_jax/base_parts.py`).
"""

import ml_collections

from fspo_jax import base_parts


def get_config(part: str = "first") -> ml_collections.ConfigDict:
  """The config of the experiment; `part` is 'first', or one that goes on from a base."""
  return base_parts.config(part)
