# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sets of users that the synthetic preference factory has made."""

from fspo_jax.datasets.synthetic.synthetic_dataset_builder import Builder, build, set_path

__all__ = ["Builder", "build", "set_path"]
