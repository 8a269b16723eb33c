# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether implicit rewards mean what they say: how often a pair is ranked right, by how surely.

DPO's model of a preference (Bradley and Terry) says that the first of two responses is preferred
with probability sigmoid(margin), the margin the difference of their implicit rewards. The error is
the expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (ICML
2017), over bins of equal width of the confidence, from 0.5 to 1: the mean over pairs of the
distance, in their bin, of how often it is right from how sure it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from typing import Any

from jaxtyping import Float
import numpy as np
import scipy.special

from fspo_jax.evaluation import plots, statistics
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.results import SPLITS

BINS = 10


def reliability(margins: Float[np.ndarray, " n"], bins: int = BINS) -> dict[str, Any]:
  """Accuracy by confidence, as JSON has it.

  Args:
    margins: implicit reward of the chosen response minus that of the rejected one, of each pair.
    bins: of the confidence.

  Returns:
    `ece`; `log_loss`, in nats, of the probability of what was chosen (0.69 knows nothing); `pairs`;
    and of each bin that has any: its mean `confidence`, `accuracy` and number of `pairs`.

  Raises:
    ValueError: there are no margins, or one is not finite.
  """
  margins = np.asarray(margins, np.float64)
  if not margins.size:
    raise ValueError("margins: expected one or more, found none")
  right = statistics.preference_accuracy(margins)
  confidence = scipy.special.expit(np.abs(margins))
  # 1 belongs to the last bin.
  place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
  pairs = np.bincount(place, minlength=bins)
  sure, correct = (np.bincount(place, x, bins) for x in (confidence, right))
  return {
    "ece": float(np.abs(correct - sure).sum() / margins.size),
    "log_loss": float(np.logaddexp(0, -margins).mean()),
    "pairs": margins.size,
    "bins": [
      {
        "confidence": float(sure[i] / pairs[i]),
        "accuracy": float(correct[i] / pairs[i]),
        "pairs": int(pairs[i]),
      }
      for i in np.flatnonzero(pairs)
    ],
  }


def plot(found: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
  """Draws reliability diagrams, a panel for each split, as PNG or SVG.

  Args:
    found: {split: {method: what `reliability` gives}}.
    path: the file.
  """
  drawn = [
    plots.Panel(SPLITS[split], [_diagonal(), *_lines(found[split])], percent=True, ends=False)
    for split in SPLITS
    if found.get(split)
  ]
  plots.panels(drawn, path, xlabel="how sure it is of its ranking")


def _diagonal() -> plots.Line:
  return plots.Line("As sure as right", "#BDBDBD", (0.5, 1.0), (0.5, 1.0))


def _lines(by_method: Mapping[str, Any]) -> Sequence[plots.Line]:
  lines = []
  for method in METHODS:
    if method in by_method:
      bins = by_method[method]["bins"]
      lines.append(
        plots.Line(
          f"{METHODS[method].label}  ECE {100 * by_method[method]['ece']:.1f}",
          METHODS[method].color,
          [b["confidence"] for b in bins],
          [b["accuracy"] for b in bins],
        )
      )
  return lines
