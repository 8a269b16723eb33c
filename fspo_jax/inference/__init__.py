# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A trained policy at work: the sampler, the Writer for many users, the Personalizer for one."""
