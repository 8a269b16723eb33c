# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One stage of training: the step, the optimizer, the loop, and its metrics."""
