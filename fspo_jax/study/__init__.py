# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The human study: people label pairs, a model personalizes, and they compare it blindly."""
