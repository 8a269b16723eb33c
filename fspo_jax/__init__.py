# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""FSPO in JAX: few-shot preference optimization, where every user is a task."""

from __future__ import annotations

import os
import typing

if typing.TYPE_CHECKING:
  from fspo_jax.inference.personalizer import Personalizer


def load(path: str | os.PathLike[str]) -> Personalizer:
  """Opens a model by its path, to personalize with; see `inference.loading.load`."""
  # Worlds, synthesis and datasets work without jax: it is imported where a model is.
  from fspo_jax.inference import loading

  return loading.load(path)
