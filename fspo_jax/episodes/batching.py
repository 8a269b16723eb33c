# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches: token trees packed to static shapes, by index, the same for any number of hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import itertools
import threading
from typing import NamedTuple

import grain
from jaxtyping import Bool, Float, Int
import numpy as np

from fspo_jax.episodes import templates, trees, windows
from fspo_jax.episodes.sampling import Episode, EpisodeFn


class RowOverflowError(ValueError):
  """An episode without any shot is longer than a row; nothing is ever truncated."""


class TreeBatch(NamedTuple):
  """Rows of packed token trees; B rows, L tokens, S scored tokens, G segments, P pairs.

  A padding token sees itself alone and nothing sees it. A padding scored token belongs to segment
  G, one past the last; a padding pair has weight 0.
  """

  tokens: Int[np.ndarray, "B L"]
  positions: Int[np.ndarray, "B L"]
  roles: Int[np.ndarray, "B L"]
  subtree_end: Int[np.ndarray, "B L"]
  source: Int[np.ndarray, "B S"]  # index of the token that predicts the scored one
  target: Int[np.ndarray, "B S"]  # id of the scored token
  segment: Int[np.ndarray, "B S"]  # which segment it belongs to
  segment_kind: Int[np.ndarray, "B G"]  # templates.Kind
  segment_shots: Int[np.ndarray, "B G"]
  pair_chosen: Int[np.ndarray, "B P"]  # segment indices
  pair_rejected: Int[np.ndarray, "B P"]
  pair_shots: Int[np.ndarray, "B P"]
  pair_context: Int[np.ndarray, "B P"]  # templates.Context
  pair_episode: Int[np.ndarray, "B P"]  # which of the window's episodes
  pair_weight: Float[np.ndarray, "B P"]
  dropped_shots: Int[np.ndarray, " B"]  # shots that the row's budget left out
  row: Int[np.ndarray, " B"] | None = None  # its index, where it is a run's
  # Log-probability of each segment under the reference, where that is known beforehand.
  reference: Float[np.ndarray, "B G"] | None = None


# The rows of a run: r -> row r, a TreeBatch without the leading B.
RowFn = Callable[[int], TreeBatch]


@dataclasses.dataclass(frozen=True)
class Packing:
  """The static shape of a row.

  Attributes:
    episodes: episodes per row; of a window of several rows, on average.
    tokens: L, tokens per row.
    scored_tokens: S, scored tokens per row.
    segments: G, segments per row.
    pairs: P, pairs per row.
    window_rows: rows that share their episodes, long ones with short ones; see `windows`.
  """

  episodes: int
  tokens: int
  scored_tokens: int
  segments: int
  pairs: int
  window_rows: int = 1

  @property
  def window_episodes(self) -> int:
    """Episodes of a window."""
    return self.episodes * self.window_rows

  @classmethod
  def of(
    cls,
    layout: templates.Layout,
    *,
    shots: int,
    queries: int,
    episodes: int,
    tokens: int,
    scored_tokens: int,
    window_rows: int = 1,
  ) -> Packing:
    """The packing of `episodes` episodes of a layout in a row."""
    most = episodes if window_rows == 1 else windows.most_in_row(episodes)
    return cls(
      episodes=episodes,
      tokens=tokens,
      scored_tokens=scored_tokens,
      # At least one, so that no axis of a batch is empty.
      segments=max(most * layout.max_segments(shots, queries), 1),
      pairs=max(most * layout.max_pairs(shots, queries), 1),
      window_rows=window_rows,
    )


def _size(built: templates.EpisodeTree) -> tuple[int, int]:
  """Tokens, and scored tokens."""
  return len(built.tree), int(np.count_nonzero(built.tree.segments != trees.NO_SEGMENT))


def fit(
  episodes: list[Episode],
  formatter: templates.Formatter,
  layout: templates.Layout,
  packing: Packing,
  built: Sequence[templates.EpisodeTree] | None = None,
) -> tuple[list[templates.EpisodeTree], int]:
  """Builds the trees of a row, dropping whole shots, oldest first, until they fit.

  Args:
    episodes: the episodes of the row.
    formatter: text to token ids.
    layout: which branches to make.
    packing: the row's budget.
    built: the trees of the whole episodes, where they are there already.

  Returns:
    The trees and the number of shots dropped.

  Raises:
    RowOverflowError: even without any shot the row is too long.
  """
  episodes = list(episodes)
  made = (templates.build(episode, formatter, layout) for episode in episodes)
  built = list(made if built is None else built)
  dropped = 0
  while True:
    tokens, scored = np.sum([_size(t) for t in built], axis=0).tolist()
    if tokens <= packing.tokens and scored <= packing.scored_tokens:
      return built, dropped
    droppable = [i for i, episode in enumerate(episodes) if episode.shots]
    if not droppable:
      raise RowOverflowError(
        f"user {episodes[0].user_id!r}: the queries alone take {tokens} tokens ({scored} scored), "
        f"more than the row's {packing.tokens} ({packing.scored_tokens}); raise the stage's "
        "row_tokens or scored_tokens"
      )
    longest = max(droppable, key=lambda i: len(built[i].tree))
    episodes[longest] = dataclasses.replace(episodes[longest], shots=episodes[longest].shots[1:])
    built[longest] = templates.build(episodes[longest], formatter, layout)
    dropped += 1


def fit_packing(
  episodes: Sequence[Episode],
  formatter: templates.Formatter,
  layout: templates.Layout,
  shots: int,
  *,
  queries: int = 1,
  limit: int | None = None,
  multiple: int = 32,
  row_episodes: int = 1,
  window_rows: int = 1,
  over: float = 0.0,
) -> Packing:
  """The smallest row that windows of the episodes fit; by default each is a window, and a row.

  Args:
    episodes: the episodes, of one window after another.
    formatter: text to token ids.
    layout: which branches to make.
    shots: the most of an episode.
    queries: the most of an episode.
    limit: of tokens and of scored tokens; longer episodes will lose shots. None for none.
    multiple: what both are rounded up to, so that few shapes are compiled.
    row_episodes: episodes in a row of a window, on average.
    window_rows: rows of a window.
    over: the part of the rows in which a shot may have no room.
  """
  sizes = np.asarray([_size(templates.build(e, formatter, layout)) for e in episodes])
  count = len(episodes) // (row_episodes * window_rows)
  tokens, scored = windows.least_budget(sizes, window_rows, count, over)

  def up(n: int) -> int:
    rounded = -(-n // multiple) * multiple
    return rounded if limit is None else min(rounded, limit)

  return Packing.of(
    layout,
    shots=shots,
    queries=queries,
    episodes=row_episodes,
    tokens=up(tokens),
    scored_tokens=up(scored),
    window_rows=window_rows,
  )


def pack(
  built: list[templates.EpisodeTree],
  packing: Packing,
  dropped: int = 0,
  which: Sequence[int] | None = None,
) -> TreeBatch:
  """Packs the trees of one row to its static shape.

  Args:
    built: trees that fit (see `fit`).
    packing: the shape.
    dropped: number of shots that were left out to make them fit.
    which: of the window's episodes they are; None for the first ones.

  Returns:
    One row: a TreeBatch without the leading B.
  """
  counts = [len(t.segments) for t in built]
  forest = trees.concatenate([t.tree for t in built], counts)
  n = len(forest)
  row_index = np.arange(packing.tokens, dtype=np.int32)

  def padded(values: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    out = np.full(length, fill, np.int32)
    out[: len(values)] = values
    return out

  scored = np.flatnonzero(forest.segments != trees.NO_SEGMENT)
  subtree_end = row_index + 1
  subtree_end[:n] = forest.subtree_end
  segments = [s for t in built for s in t.segments]
  offsets = np.cumsum([0, *counts[:-1]])
  pairs = [
    (p.chosen + o, p.rejected + o, p.shots, p.context, e)
    for e, t, o in zip(range(len(built)) if which is None else which, built, offsets, strict=True)
    for p in t.pairs
  ]
  columns = np.asarray(pairs, np.int32).reshape(-1, 5).T
  weight = np.zeros(packing.pairs, np.float32)
  weight[: len(pairs)] = 1.0
  return TreeBatch(
    tokens=padded(forest.tokens, packing.tokens),
    positions=padded(forest.positions, packing.tokens),
    roles=padded(forest.roles, packing.tokens),
    subtree_end=subtree_end.astype(np.int32),
    source=padded(forest.parents[scored], packing.scored_tokens),
    target=padded(forest.tokens[scored], packing.scored_tokens),
    segment=padded(forest.segments[scored], packing.scored_tokens, packing.segments),
    segment_kind=padded(np.asarray([s.kind for s in segments], np.int32), packing.segments),
    segment_shots=padded(np.asarray([s.shots for s in segments], np.int32), packing.segments),
    pair_chosen=padded(columns[0], packing.pairs),
    pair_rejected=padded(columns[1], packing.pairs),
    pair_shots=padded(columns[2], packing.pairs),
    pair_context=padded(columns[3], packing.pairs),
    pair_episode=padded(columns[4], packing.pairs),
    pair_weight=weight,
    dropped_shots=np.asarray(dropped, np.int32),
  )


class _Planned(NamedTuple):
  """A window's episodes, their trees, and which of them each of its rows has."""

  episodes: list[Episode]
  built: list[templates.EpisodeTree]
  members: list[list[int]]


@dataclasses.dataclass(frozen=True)
class Rows:
  """Row r of a run, a pure function of r: some of the episodes of its window, packed.

  Window w is rows `w * R .. w * R + R - 1`, R of `packing.window_rows`, and episodes
  `w * E .. w * E + E - 1`, E of `packing.window_episodes`, each in one of these rows.

  Attributes:
    episode: the episodes.
    formatter: text to token ids.
    layout: which branches the episodes' trees have.
    packing: the static shape, and how many episodes there are to how many rows.
    period: rows r and r + period are the same but for their index; None if none come again.
  """

  episode: EpisodeFn
  formatter: templates.Formatter
  layout: templates.Layout
  packing: Packing
  period: int | None = None

  def __call__(self, row: int) -> TreeBatch:
    """Row `row`: a TreeBatch without the leading B."""
    window, slot = divmod(int(row), self.packing.window_rows)
    planned = self._planned(window)
    which = planned.members[slot]
    episodes, built = ([of[i] for i in which] for of in (planned.episodes, planned.built))
    built, dropped = fit(episodes, self.formatter, self.layout, self.packing, built)
    return pack(built, self.packing, dropped, which)._replace(row=np.asarray(row, np.int32))

  def _planned(self, window: int) -> _Planned:
    """A window, which is kept until this thread asks for another."""
    kept = self._kept
    if getattr(kept, "window", None) != window:
      kept.window, kept.planned = window, self._plan(window)
    return kept.planned

  def _plan(self, window: int) -> _Planned:
    packing = self.packing
    count, rows = packing.window_episodes, packing.window_rows
    episodes = [self.episode(window * count + i) for i in range(count)]
    built = [templates.build(episode, self.formatter, self.layout) for episode in episodes]
    if rows == 1:
      return _Planned(episodes, built, [list(range(count))])
    sizes = np.asarray([_size(tree) for tree in built])
    budget = packing.tokens, packing.scored_tokens
    return _Planned(episodes, built, windows.spread(sizes, rows, budget))

  @functools.cached_property
  def _kept(self) -> threading.local:
    return threading.local()


def stack(rows: list[TreeBatch]) -> TreeBatch:
  """Rows to a batch."""
  columns = zip(*rows, strict=True)
  return TreeBatch(*(None if column[0] is None else np.stack(column) for column in columns))


def batches(
  rows: RowFn,
  *,
  rows_per_step: int,
  steps: int,
  start: int = 0,
  window_rows: int = 1,
  process_index: int = 0,
  process_count: int = 1,
  threads: int = 1,
) -> Iterator[TreeBatch]:
  """This process's part of the batches of steps `start .. steps - 1`.

  For R steps, R of `window_rows`, place b of the global batch has the rows of one window, one after
  another: those of window `s // R * rows_per_step + b` at step s. So every window is planned by one
  process alone, however many there are. Where R is 1, batch s is rows `s * rows_per_step ...`.
  Process p holds the p-th contiguous part of the places. There is no iterator state: to resume is
  to pass another `start`.

  Args:
    rows: the rows of the run.
    rows_per_step: B, rows of the global batch.
    steps: number of steps of the run.
    start: first step to yield.
    window_rows: R, rows of a window.
    process_index: which process this is.
    process_count: how many there are; it divides `rows_per_step`.
    threads: windows made ahead by so many threads (0 makes them when asked for).

  Yields:
    TreeBatches of `rows_per_step / process_count` rows.
  """
  if rows_per_step % process_count:
    raise ValueError(f"{rows_per_step} rows a step cannot be split over {process_count} processes")
  local = rows_per_step // process_count
  first = start // window_rows

  def window(i: int) -> list[TreeBatch]:
    """The rows of a window that the run has: of its first and last steps, only some."""
    turn, place = divmod(i, local)
    before = (first + turn) * window_rows
    at = before * rows_per_step + (process_index * local + place) * window_rows
    slots = range(max(start - before, 0), min(steps - before, window_rows))
    return [rows(at + slot) for slot in slots]

  turns = max(-(-steps // window_rows) - first, 0) if steps > start else 0
  # As much again is made as is read: the next windows are there when these are through.
  ahead = local * max(4 * threads // window_rows, 1)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead if threads else 0)
  data = iter(grain.MapDataset.range(turns * local).map(window).to_iter_dataset(options))
  for _ in range(turns):
    for row_of_each in zip(*itertools.islice(data, local), strict=True):
      yield stack(list(row_of_each))


def padding(batch: TreeBatch) -> Bool[np.ndarray, "B L"]:
  """Which of a batch's tokens are padding: position 0, and not the root of a tree."""
  # A padding token's subtree is itself and its position 0; a root's subtree is its whole tree.
  index = np.broadcast_to(np.arange(batch.tokens.shape[-1]), batch.tokens.shape)
  return (batch.positions == 0) & (batch.subtree_end == index + 1)


def padding_fraction(batch: TreeBatch) -> float:
  """The part of a batch's tokens that are padding."""
  return float(np.mean(padding(batch)))
