# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The policy: the decoder, attention over token trees, and scoring without whole logits."""
