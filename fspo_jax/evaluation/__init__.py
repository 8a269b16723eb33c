# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How well a policy knows its users: preference accuracy by k, win rates, and the report."""
