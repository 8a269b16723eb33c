# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bring your own users: a JSONL file of preferences, stored as a set of users."""

from fspo_jax.datasets.own_users.own_users_dataset_builder import Builder, build

__all__ = ["Builder", "build"]
