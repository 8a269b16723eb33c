# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: accuracy by k, win rates, training curves.

Every figure is drawn off screen, in the style below whatever the reader's matplotlibrc says, and
equal numbers give equal bytes (for one version of matplotlib).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import math
import os
from typing import Any

from jaxtyping import Float
import matplotlib.axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
import matplotlib.colors
import matplotlib.figure
import matplotlib.style
import matplotlib.ticker
import numpy as np
import scipy.ndimage
import scipy.optimize

from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.results import SPLITS, Results
from fspo_jax.pages import figures

_INK = "#222222"
_MUTED = "#6B6B6B"
_RULE = "#BDBDBD"
_STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": _RULE,
  "axes.labelcolor": _MUTED,
  "axes.labelsize": 11,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlecolor": _INK,
  "axes.titlelocation": "left",
  "axes.titlepad": 10,
  "axes.titlesize": 12,
  "axes.titleweight": "bold",
  "font.family": "DejaVu Sans",
  "font.size": 11,
  "lines.solid_capstyle": "round",
  "text.color": _INK,
  "xtick.color": _RULE,
  "xtick.labelcolor": _MUTED,
  "ytick.color": _RULE,
  "ytick.labelcolor": _MUTED,
}
_DPI = 150
_PANEL_WIDTH = 5.6  # inches
_PANEL_HEIGHT = 4.0
_NICE = [1, 2, 2.5, 5, 10]  # steps between ticks
# A curve of more points than this gets a running mean over a fortieth of them.
_SMOOTHED_ABOVE = 80


def accuracy_by_k(results: Results, path: str | os.PathLike[str]) -> None:
  """Preference accuracy against the number of shots, one panel per split, written to `path`.

  Each method is a line with its 95 % band; a method given at k = 0 alone uses no shots and is drawn
  level across. The Bayes accuracy is dashed, chance dotted.

  Args:
    results: valid results.
    path: the PNG or SVG to write.
  """
  accuracy, bayes = results["preference_accuracy"], results["bayes_accuracy"]
  splits = [split for split in SPLITS if any(split in by for by in accuracy.values())]
  ks = [max(map(int, by_k)) for by in [*accuracy.values(), bayes] for by_k in by.values()]
  k_max = max(1, *ks)
  with _figure(path, columns=len(splits)) as figure:
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    # First everything that sets the limits of the shared axis, then the labels that depend on them.
    labels = [
      _accuracy_lines(ax, results, split, k_max) for ax, split in zip(panels, splits, strict=True)
    ]
    for ax, split, ends in zip(panels, splits, labels, strict=True):
      ax.set_title(SPLITS[split])
      ax.set_xlabel("shots in the context")
      ax.set_xticks(_integer_ticks(k_max))
      ax.set_xlim(-0.02 * k_max, k_max)
      ax.spines["bottom"].set_bounds(0, k_max)
      ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0, symbol=" %"))
      ax.grid(axis="y", color="#EEEEEE", linewidth=0.8)
      ax.spines["left"].set_visible(False)
      ax.tick_params(axis="y", length=0)
      _direct_labels(ax, ends)
    panels[0].set_ylabel("preference accuracy")


def win_rates(results: Results, path: str | os.PathLike[str], *, key: str = "win_rate") -> None:
  """Win rates against the base model as points with 95 % intervals, one panel per split.

  Args:
    results: valid results.
    path: the PNG or SVG to write.
    key: which win rates, such as "win_rate" or "win_rate_temperature_1".

  Raises:
    ValueError: if there are no win rates under `key`.
  """
  rates = results[key]
  methods = [method for method in METHODS if rates.get(method)]
  splits = [split for split in SPLITS if any(split in rates[method] for method in methods)]
  if not splits:
    raise ValueError(f"{key}: expected the win rate of at least one method, found none")
  height = 1.3 + 0.5 * len(methods)
  with _figure(path, columns=len(splits), height=height) as figure:
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for ax, split in zip(panels, splits, strict=True):
      ax.axvline(0.5, color=_MUTED, linewidth=1, linestyle=(0, (1, 2)))
      for row, method in enumerate(methods):
        if split in rates[method]:
          _win_rate_row(ax, row, rates[method][split], METHODS[method].color)
      ax.set_title(SPLITS[split])
      ax.set_xlim(0, 1)
      ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
      ax.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0, symbol=" %"))
      ax.set_xlabel("win rate against the base model")
      ax.set_ylim(len(methods) - 0.5, -0.5)
      ax.set_yticks(range(len(methods)), [METHODS[method].label for method in methods])
      ax.tick_params(axis="y", length=0, labelcolor=_INK)
      ax.spines["left"].set_visible(False)


def training_curves(
  metrics_rows: Sequence[Mapping[str, float]],
  path: str | os.PathLike[str],
  *,
  names: Sequence[str],
) -> None:
  """Metrics against the step as small multiples, in the order of `names`.

  A long curve is drawn faint, with its running mean over a fortieth of it on top.

  Args:
    metrics_rows: the rows of a metrics JSONL: `step`, and any of the names; a row may lack some.
    path: the PNG or SVG to write.
    names: the metrics to draw, such as "preference/loss".

  Raises:
    ValueError: if there are no names, or a name is in no row.
  """
  if not names:
    raise ValueError("names: expected at least one metric, found none")
  columns = 2 if len(names) == 4 else min(3, len(names))
  rows = math.ceil(len(names) / columns)
  with _figure(path, columns=columns, width=3.6, height=2.5 * rows) as figure:
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for ax, name in zip(panels, names, strict=False):
      points = [(row["step"], row[name]) for row in metrics_rows if name in row]
      if not points:
        found = sorted(set().union(*metrics_rows))
        raise ValueError(f"names: expected metrics of the rows, found {name!r}; they have {found}")
      _curve(ax, *np.asarray(points, np.float64).T)
      ax.set_title(name, fontsize=11, fontweight="normal")
    for i, ax in enumerate(panels):
      ax.set_visible(i < len(names))
      if i + columns >= len(names):
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)


@dataclasses.dataclass(frozen=True)
class Line:
  """A curve: its name, its colour, and a 95 % interval at each point if there is one."""

  label: str
  color: str
  xs: Sequence[float]
  ys: Sequence[float]
  intervals: Sequence[Sequence[float]] | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
  """Curves over one axis.

  Attributes:
    title: what the height is.
    lines: the curves.
    percent: whether heights are fractions, to be shown in %.
    mark: where a thin line stands, such as the end of what was trained; None for none.
    ends: whether each line's name is followed by its last height.
  """

  title: str
  lines: Sequence[Line]
  percent: bool = False
  mark: float | None = None
  ends: bool = True


def panels(drawn: Sequence[Panel], path: str | os.PathLike[str], *, xlabel: str) -> None:
  """Curves side by side, each named at its right end, written to `path` as PNG or SVG."""
  with _figure(path, columns=len(drawn)) as figure:
    for ax, panel in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
      ends = []
      for line in panel.lines:
        if line.intervals is not None:
          band = np.asarray([pair or [math.nan] * 2 for pair in line.intervals], np.float64)
          ax.fill_between(line.xs, *band.T, color=line.color, alpha=0.13, linewidth=0)
        ax.plot(line.xs, line.ys, color=line.color, linewidth=2, clip_on=False)
        value = f"{100 * line.ys[-1]:.1f}" if panel.percent else f"{line.ys[-1]:.2f}"
        label = f"{line.label}  {value}" if panel.ends else line.label
        ends.append((line.ys[-1], label, line.color, False))
      if panel.mark is not None:
        ax.axvline(panel.mark, color=_MUTED, linewidth=1, linestyle=(0, (1, 2)))
      if panel.percent:
        ax.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0, symbol=" %"))
      ax.set_title(panel.title)
      ax.set_xlabel(xlabel)
      ax.grid(axis="y", color="#EEEEEE", linewidth=0.8)
      ax.spines["left"].set_visible(False)
      ax.tick_params(axis="y", length=0)
      _direct_labels(ax, ends)


@contextlib.contextmanager
def _figure(
  path: str | os.PathLike[str],
  *,
  columns: int,
  width: float = _PANEL_WIDTH,
  height: float = _PANEL_HEIGHT,
) -> Iterator[matplotlib.figure.Figure]:
  """A figure of `columns` panels of `width` inches; written to `path` at the end."""
  with matplotlib.style.context(["default", _STYLE]):
    figure = matplotlib.figure.Figure((columns * width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08, wspace=0.04, hspace=0.04)
    yield figure
    figures.save(figure, path, dpi=_DPI)


def _accuracy_lines(
  ax: matplotlib.axes.Axes, results: Results, split: str, k_max: int
) -> list[tuple[float, str, str, bool]]:
  """Draws a panel's lines; returns (height of the right end, text, colour, bold) of each."""
  ends = [(0.5, "Chance", _MUTED, False)]
  ax.plot([0, k_max], [0.5, 0.5], color=_MUTED, linewidth=1, linestyle=(0, (1, 2)))
  for method, row in METHODS.items():
    if split not in results["preference_accuracy"].get(method, {}):
      continue
    mean = _by_k(results["preference_accuracy"][method][split], float)
    intervals = results["preference_accuracy_ci95"][method][split]
    band = _by_k(intervals, lambda pair: pair or [math.nan, math.nan])
    ks = np.asarray(sorted(map(int, intervals)))
    ours = method.startswith("fspo")
    level = len(mean) == 1
    if level:
      ks, mean, band = np.array([0, k_max]), mean.repeat(2), band.repeat(2, axis=0)
    color = METHODS[method].color
    ax.fill_between(ks, *band.T, color=color, alpha=0.13, linewidth=0)
    ax.plot(
      ks,
      mean,
      color=color,
      linewidth=2.4 if ours else 1.6,
      marker=None if level else "o",
      markersize=5 if ours else 4,
      markeredgewidth=0,
      zorder=3 if ours else 2.5,
      clip_on=False,
    )
    ends.append((mean[-1], f"{row.label}  {100 * mean[-1]:.1f}", color, ours))
  if split in results["bayes_accuracy"]:
    mean = _by_k(results["bayes_accuracy"][split], float)
    ax.plot(np.arange(len(mean)), mean, color=_INK, linewidth=1.4, linestyle=(0, (5, 2.5)))
    ends.append((mean[-1], f"Bayes ceiling  {100 * mean[-1]:.1f}", _INK, False))
  return ends


def _by_k(by_k: Mapping[str, Any], convert: Callable[[Any], object]) -> Float[np.ndarray, "ks ..."]:
  return np.array([convert(by_k[str(k)]) for k in sorted(map(int, by_k))], np.float64)


def _direct_labels(ax: matplotlib.axes.Axes, ends: Sequence[tuple[float, str, str, bool]]) -> None:
  """Names the lines at their right ends, as near to them as is possible without overlap."""
  ends = sorted(ends, key=lambda end: end[0])
  low, high = ax.get_ylim()
  gap = 0.058 * (high - low)
  # Least squares under "each at least a gap above the one below" is an isotonic regression.
  steps = gap * np.arange(len(ends))
  heights = scipy.optimize.isotonic_regression([end[0] for end in ends] - steps).x + steps
  for height, (_, text, color, bold) in zip(heights, ends, strict=True):
    _beside(ax, height, text, _darker(color), bold=bold)


def _integer_ticks(k_max: int) -> Sequence[int]:
  return range(0, k_max + 1, max(1, k_max // 8))


def _win_rate_row(
  ax: matplotlib.axes.Axes, row: int, rate: Mapping[str, object], color: str
) -> None:
  mean, interval = rate["mean"], rate["ci95"]
  ax.plot([0, 1], [row, row], color="#EEEEEE", linewidth=0.8, zorder=0.5)
  if interval is not None:
    ax.plot(interval, [row, row], color=color, linewidth=3, alpha=0.45, clip_on=False)
  ax.plot(mean, row, "o", color=color, markersize=8, markeredgewidth=0, zorder=3, clip_on=False)
  _beside(ax, row, f"{100 * mean:.1f}", _darker(color), bold=True)
  if interval is not None:
    text = f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    _beside(ax, row, text, _MUTED, offset=48)


def _beside(
  ax: matplotlib.axes.Axes,
  height: float,
  text: str,
  color: str | tuple[float, float, float],
  *,
  bold: bool = False,
  offset: float = 9,
) -> None:
  """Writes `text` to the right of the panel, `offset` points from it, at `height` of its y axis."""
  ax.annotate(
    text,
    (1, height),
    xycoords=("axes fraction", "data"),
    xytext=(offset, 0),
    textcoords="offset points",
    color=color,
    fontsize=10.5,
    fontweight="bold" if bold else "normal",
    va="center_baseline",
    annotation_clip=False,
  )


def _darker(color: str) -> tuple[float, float, float]:
  """Thin letters need more contrast with the page than a thick line does."""
  red, green, blue = matplotlib.colors.to_rgb(color)
  return 0.78 * red, 0.78 * green, 0.78 * blue


def _curve(
  ax: matplotlib.axes.Axes,
  steps: Float[np.ndarray, " points"],
  values: Float[np.ndarray, " points"],
) -> None:
  smoothed = len(values) > _SMOOTHED_ABOVE
  color = METHODS["fspo"].color
  ax.plot(
    steps, values, color=color, linewidth=0.8 if smoothed else 1.8, alpha=0.3 if smoothed else 1
  )
  if smoothed:
    mean = scipy.ndimage.uniform_filter1d(values, len(values) // 40, mode="nearest")
    ax.plot(steps, mean, color=color, linewidth=1.8)
  ax.grid(axis="y", color="#EEEEEE", linewidth=0.8)
  ax.spines["left"].set_visible(False)
  ax.tick_params(axis="y", length=0)
  ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_NICE, integer=True))
  ax.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_NICE))
