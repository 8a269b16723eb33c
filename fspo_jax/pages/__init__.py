# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages for people: one structure of sections and tables, as Markdown and as one HTML file."""
