# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets of users: each module reads one source and gives `preferences.Splits`."""
