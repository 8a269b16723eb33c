# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run will need, estimated, and compiled ahead of time."""
