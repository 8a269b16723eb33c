# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""FSPO in JAX: few-shot preference optimization, where every user is a task."""
