# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds the ELIX set of the paper, which `released` reads."""

from fspo_jax.datasets import released


class Builder(released.ReleasedSetBuilder):
  """ELIX as a TFDS data set."""

  SCHEMA = released.ELIX
  MANUAL_DOWNLOAD_INSTRUCTIONS = SCHEMA.how_to_get
