# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What flags of studies say that are lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence

from absl import app


def counts(flag: str, values: Sequence[str]) -> list[int]:
  """Numbers of something; UsageError for what there cannot be so many of.

  Args:
    flag: its name.
    values: what it was given.
  """
  if not values or not all(n.isdecimal() and int(n) for n in values):
    raise app.UsageError(f"--{flag}={','.join(values)}: expected integers of 1 or more")
  return [int(n) for n in values]
