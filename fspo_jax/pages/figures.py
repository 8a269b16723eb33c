# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of figures: equal figures give equal bytes, for one version of matplotlib."""

from __future__ import annotations

import os
import pathlib

import matplotlib
import matplotlib.figure


def save(figure: matplotlib.figure.Figure, path: str | os.PathLike[str], *, dpi: int) -> None:
  """Writes a figure as PNG, or as SVG where the path ends so.

  Args:
    figure: what to write.
    path: the file.
    dpi: pixels per inch, of a PNG.
  """
  path = pathlib.Path(path)
  if path.suffix == ".svg":
    # Names inside the file are hashes of what they name and of this salt.
    with matplotlib.rc_context({"svg.hashsalt": "fspo_jax"}):
      figure.savefig(path, format="svg", metadata={"Creator": None, "Date": None})
  else:
    # No "Software" entry: a PNG must not change with matplotlib's patch release.
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": None})
