# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers as reports show them."""

from __future__ import annotations

from collections.abc import Sequence


def rate(mean: float, interval: Sequence[float] | None = None, *, unit: str = "") -> str:
  """A fraction in %, such as "71.2 [69.0, 73.3]"."""
  shown = f"{100 * mean:.1f}{unit}"
  if interval is None:
    return shown
  return f"{shown} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def p_value(p: float) -> str:
  """A probability, such as "0.031" or "2e-09"."""
  return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def duration(seconds: float) -> str:
  """A time, such as "1 h 02 min", "12 min 34 s" or "3.2 s"."""
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: int, noun: str) -> str:
  """So many of what a noun names, such as "1 user" or "3 users"."""
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
