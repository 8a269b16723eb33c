# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic preference sets: diverse and coherent, from an LLM or from a world."""
