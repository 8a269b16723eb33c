# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Who is compared, each behind `prepare`, `check` and `train`; see `step.py` beside this folder."""
