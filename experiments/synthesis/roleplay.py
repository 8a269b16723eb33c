# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""A synthetic set of the roleplay domain: open-ended questions, answered from several views.

From the embedded world, in a minute, or from a language model behind any endpoint that speaks the
OpenAI protocol (its key in the environment variable `synthesis.llm.api_key_env`):

python -m fspo_jax.main --config=experiments/synthesis/roleplay.py:world --workdir=DIR
python -m fspo_jax.main --config=experiments/synthesis/roleplay.py:llm --workdir=DIR \
  --config.synthesis.llm.base_url=http://localhost:8000/v1 \
  --config.synthesis.set.models="(('MODEL', 1.0),)" --config.synthesis.set.judge="('MODEL', 0.7)"
"""

import ml_collections

from fspo_jax import presets


def get_config(backend: str = "world") -> ml_collections.ConfigDict:
  """The config of the set; `backend` is 'world' or 'llm'."""
  return presets.synthetic("roleplay", backend)
