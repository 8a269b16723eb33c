# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The plots of a quality card, drawn off screen, in one style, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import pathlib

import matplotlib.axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
import matplotlib.figure
import matplotlib.style
import matplotlib.ticker
import numpy as np

from fspo_jax.pages import figures
from fspo_jax.synthesis.measures import Histogram
from fspo_jax.synthesis.quality_schema import QualityCard

# Of Okabe and Ito's palette, which people of every kind of colour vision tell apart.
_BLUE, _ORANGE, _MUTED = "#0072B2", "#E69F00", "#6B6B6B"
_STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": "#BDBDBD",
  "axes.labelcolor": _MUTED,
  "axes.spines.left": False,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 11,
  "axes.titleweight": "bold",
  "font.family": "DejaVu Sans",
  "font.size": 10,
  "legend.frameon": False,
  "text.color": "#222222",
  "xtick.color": "#BDBDBD",
  "xtick.labelcolor": _MUTED,
  "ytick.labelcolor": _MUTED,
  "ytick.left": False,
}
_INCHES = (5.6, 3.2)


def similarity(card: QualityCard, path: pathlib.Path) -> None:
  """Draws the cosines of the responses to a prompt."""
  with _figure(path) as ax:
    _bars(ax, card.diversity.cosines, _BLUE)
    if card.diversity.mean is not None:
      ax.axvline(card.diversity.mean.mean, color=_MUTED, linewidth=1, linestyle=(0, (4, 2)))
    ax.set(title="Similarity of two responses to a prompt", xlabel="cosine (less is better)")


def entropy(card: QualityCard, path: pathlib.Path) -> None:
  """Draws the entropy of labels before and after refinement."""
  with _figure(path) as ax:
    _bars(ax, card.coherence.pairs_before, _ORANGE, label="first description")
    _bars(ax, card.coherence.pairs_after, _BLUE, label="final description")
    ax.set(title="Entropy of a pair's labels", xlabel="nats (less is better)")
    ax.legend()


def lengths(card: QualityCard, path: pathlib.Path) -> None:
  """Draws the lengths of chosen and of rejected responses."""
  with _figure(path) as ax:
    _bars(ax, card.length.chosen, _BLUE, label="chosen")
    _bars(ax, card.length.rejected, _ORANGE, label="rejected")
    ax.set(title="Length of responses", xlabel="characters (the same for both is better)")
    ax.legend()


def preferences(card: QualityCard, path: pathlib.Path) -> None:
  """Draws how many preferences users have."""
  with _figure(path) as ax:
    _bars(ax, card.made.per_user, _BLUE, of="users")
    ax.set(title="Preferences per user", xlabel="preferences")
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))


def disagreement(card: QualityCard, path: pathlib.Path) -> None:
  """Draws how far every two users disagree; some two must have enough pairs in common."""
  shares = np.array(card.agreement.matrix, np.float64)
  with _figure(path, inches=(5.2, 4.4)) as ax:
    ax.set_facecolor("#DDDDDD")
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="share of opposite labels", shrink=0.8)
    ax.set(title=f"Disagreement of {len(shares)} users", xticks=[], yticks=[])
    ax.set_xlabel("users, the alike side by side; grey: too few common pairs")
    ax.spines["bottom"].set_visible(False)


def _bars(
  ax: matplotlib.axes.Axes, found: Histogram, color: str, *, label: str = "", of: str = "pairs"
) -> None:
  """A histogram as shares of the whole, so that two of different sizes can be compared."""
  shares = np.array(found.counts) / max(1, sum(found.counts))
  ax.stairs(shares, found.edges, fill=True, color=color, alpha=0.35)
  ax.stairs(shares, found.edges, color=color, linewidth=1.6, label=label)
  ax.set_ylabel(f"share of {of}")
  ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, symbol=" %"))
  ax.grid(axis="y", color="#EEEEEE", linewidth=0.8)


@contextlib.contextmanager
def _figure(
  path: pathlib.Path, *, inches: tuple[float, float] = _INCHES
) -> Iterator[matplotlib.axes.Axes]:
  with matplotlib.style.context(["default", _STYLE]):
    figure = matplotlib.figure.Figure(inches, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.subplots()
    figures.save(figure, path, dpi=110)
