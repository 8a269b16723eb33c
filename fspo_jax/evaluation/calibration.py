# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether implicit rewards mean what they say: how often a pair is ranked right, by how surely.

With h the log-odds of two responses against the reference, a policy that minimises its loss says
that the first is preferred with a probability of

- sigmoid(beta h), of DPO, whose model of a preference is Bradley and Terry's (arXiv 2305.18290,
  eq. 6)
- 1/2 + beta h, of IPO: p (h - 1/(2 beta))^2 + (1 - p) (h + 1/(2 beta))^2 is least there (arXiv
  2310.12036, eq. 17). What lies outside [0, 1] is as sure as can be.

The error is the expected calibration error of Guo et al., "On Calibration of Modern Neural
Networks" (ICML 2017), over bins of equal width of the confidence, from 0.5 to 1: the mean over
pairs of the distance, in their bin, of how often it is right from how sure it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

from jaxtyping import Float
import ml_collections
import numpy as np
import scipy.special

from fspo_jax.evaluation import plots, statistics
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.results import SPLITS

BINS = 10


@dataclasses.dataclass(frozen=True)
class Link:
  """From log-odds against the reference to the probability of a preference.

  Attributes:
    loss: that the policy was trained with, 'dpo' or 'ipo'.
    beta: of the loss.
  """

  loss: str
  beta: float

  def __post_init__(self) -> None:
    if self.loss not in ("dpo", "ipo"):
      raise ValueError(f"loss: found {self.loss!r}, expected 'dpo' or 'ipo'")

  def probability(self, h: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Of the response whose log-odds are `h` above the other's."""
    if self.loss == "dpo":
      return scipy.special.expit(self.beta * h)
    return np.clip(0.5 + self.beta * h, 0.0, 1.0)


def link_of(config: ml_collections.ConfigDict) -> Link | None:
  """A run's; None where its policy promises no probabilities, or others than those above."""
  loss = config.preference.loss
  if "preference" not in config.stages or not loss.preference_weight or config.vpl.use:
    return None
  if loss.name not in ("dpo", "ipo") or loss.length_normalize or loss.label_smoothing:
    return None
  return Link(loss.name, loss.beta)


def reliability(probability: Float[np.ndarray, " n"], bins: int = BINS) -> dict[str, Any]:
  """Accuracy by confidence, as JSON has it.

  Args:
    probability: of the chosen response, of each pair.
    bins: of the confidence.

  Returns:
    `ece`; `brier`, the mean square of the probability of what was not chosen (0.25 knows nothing);
    `pairs`; and of each bin that has any: its mean `confidence`, `accuracy` and number of `pairs`.

  Raises:
    ValueError: there are no pairs, or what is no probability.
  """
  probability = np.asarray(probability, np.float64)
  if not probability.size or not ((probability >= 0) & (probability <= 1)).all():
    raise ValueError(f"probability: expected numbers in [0, 1], one or more, found {probability}")
  right = statistics.preference_accuracy(probability - 0.5)
  confidence = np.maximum(probability, 1 - probability)
  # 1 belongs to the last bin.
  place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
  pairs = np.bincount(place, minlength=bins)
  sure, correct = (np.bincount(place, x, bins) for x in (confidence, right))
  return {
    "ece": float(np.abs(correct - sure).sum() / probability.size),
    "brier": float(((1 - probability) ** 2).mean()),
    "pairs": probability.size,
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
