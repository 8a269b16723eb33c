# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""A human study: does a model that has seen a person's choices serve them better?

To try it out, with questions of the embedded reviews world, on this machine alone:

python -m fspo_jax.study --config=experiments/study.py --workdir=runs/study \
  --config.personalized.path=runs/quickstart

For real people, give your own questions (--config.pairs.path, --config.prompts.path), whom they can
ask (--config.contact), and the address that a reverse proxy with TLS gives to the server
(--config.server.url). `fspo_jax/study/settings.py` lists all keys; `python -m fspo_jax.study.power`
says how many participants it takes.
"""

import ml_collections

from fspo_jax.study import settings


def get_config() -> ml_collections.ConfigDict:
  """A config to start from."""
  c = settings.default()
  c.pairs.world = "reviews"
  c.participants = 30
  c.labels.number = 8
  # The model with the participant's labels against the same without, and its base.
  c.arms = (
    ("without_shots", "", "none"),
    ("base", "published", "none"),
  )
  c.comparisons.prompts = 4
  c.generation.max_tokens = 64
  return c
