# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Markdown of the reports: tables, numbers with intervals, any text as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import html
import re


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, align: str = "left") -> str:
  """A Markdown table; the first column is always left-aligned."""
  rule = [":--", *(["--:" if align == "right" else ":--"] * (len(header) - 1))]
  return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def text(given: str) -> str:
  """Any text as Markdown that shows it as it is, on one line, also in a table."""
  escaped = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", html.escape(given.strip(), quote=False))
  return "<br>".join(escaped.splitlines())


def rate(mean: float, interval: Sequence[float] | None = None, *, unit: str = "") -> str:
  """A fraction in %, such as "71.2 [69.0, 73.3]"."""
  shown = f"{100 * mean:.1f}{unit}"
  if interval is None:
    return shown
  return f"{shown} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def p_value(p: float) -> str:
  """A probability, such as "0.031" or "2e-09"."""
  return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
