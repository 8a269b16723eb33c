# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The embedded simulators of the domains: users with known tastes and a true reward (no jax)."""
