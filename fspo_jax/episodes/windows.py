# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Windows: episodes spread over rows so that all rows are about as full.

Episodes differ in length, and a row that holds whole episodes is padded where they end. So the
episodes of a window, a fixed range of indices, share its rows: long ones go with short ones. A
window is planned by itself, from the sizes of its own episodes: any row can be made without those
of the windows before.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
import numpy as np


def most_in_row(episodes: int) -> int:
  """The most episodes in a row of a window that has `episodes` for each row on average."""
  return episodes + (episodes + 1) // 2


def spread(sizes: Int[np.ndarray, "E 2"], rows: int, budget: Sequence[float]) -> list[list[int]]:
  """Which row each episode goes to: the longest first, each to the row with the most room.

  It is the rule of longest processing time first (Graham 1969), which makes the fullest of a given
  number of rows hardly fuller than need be. First fit would fill the first rows and leave the last
  ones empty; here rows also have about as many episodes each, and so as much weight in a batch.
  Then one of the fullest row's changes places with another's, as long as that helps.

  Args:
    sizes: tokens, and scored tokens, of each episode; E is a multiple of `rows`.
    rows: how many rows there are.
    budget: tokens, and scored tokens, of a row.

  Returns:
    The episodes of each row, in order. Rows come in the order of the episodes that they began
    with, whose indices have nothing to do with lengths. None is empty, and none has more episodes
    than `most_in_row`; one that is over its budget has to be cut.
  """
  shares = sizes / np.asarray(budget, np.float64)
  row_of, begun = _longest_first(shares, rows)
  _exchange(shares, row_of, rows)
  return [np.flatnonzero(row_of == row).tolist() for row in np.argsort(begun)]


def _longest_first(
  shares: Float[np.ndarray, "E 2"], rows: int
) -> tuple[Int[np.ndarray, " E"], list[int]]:
  """The row of each episode, and the episode that each row began with."""
  most = most_in_row(len(shares) // rows)
  full, count = np.zeros((rows, 2)), np.zeros(rows, int)
  row_of, begun = np.zeros(len(shares), int), [0] * rows
  for episode in np.argsort(-shares.max(axis=1), kind="stable").tolist():
    after = np.where(count < most, (full + shares[episode]).max(axis=1), np.inf)
    row = int(after.argmin())
    if not count[row]:
      begun[row] = episode
    full[row] += shares[episode]
    count[row] += 1
    row_of[episode] = row
  return row_of, begun


def _exchange(shares: Float[np.ndarray, "E 2"], row_of: Int[np.ndarray, " E"], rows: int) -> None:
  """Exchanges one of the fullest row's for another row's, the best two, as long as that helps."""
  full = np.zeros((rows, 2))
  np.add.at(full, row_of, shares)
  for _ in range(len(shares)):
    fullest = int(full.max(axis=1).argmax())
    own, others = np.flatnonzero(row_of == fullest), np.flatnonzero(row_of != fullest)
    if not len(others):
      return
    less = shares[own, None] - shares[None, others]
    worst = np.maximum(full[fullest] - less, full[row_of[others]][None] + less).max(axis=2)
    i, j = np.unravel_index(worst.argmin(), worst.shape)
    if worst[i, j] >= full[fullest].max() - 1e-9:
      return
    full[fullest] -= less[i, j]
    full[row_of[others[j]]] += less[i, j]
    row_of[own[i]], row_of[others[j]] = row_of[others[j]], fullest


def least_budget(
  sizes: Int[np.ndarray, "E 2"], rows: int, windows: int, over: float = 0.0
) -> tuple[int, int]:
  """The fewest tokens, and scored tokens, of rows that some windows fit.

  Args:
    sizes: tokens, and scored tokens, of their episodes, one window after another.
    rows: of a window.
    windows: how many there are.
    over: the part of the rows that may be over either budget.
  """
  # Neither of the two gives way to the other: rows are filled with both alike.
  mean = np.maximum(sizes.mean(axis=0), 1)
  loads = [
    window[members].sum(axis=0)
    for window in np.split(sizes, windows)
    for members in spread(window, rows, mean)
  ]
  tokens, scored = np.quantile(loads, 1 - over, axis=0, method="higher").tolist()
  return tokens, scored
