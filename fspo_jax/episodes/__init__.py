# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From users to device batches: episodes, their token trees, tokens, and packed rows."""
