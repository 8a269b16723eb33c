# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of windows: each episode once, rows about as full, any row by itself, little padding."""

import dataclasses
import itertools
import threading

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax import config, presets, rows
from fspo_jax.episodes import batching, templates, windows
from fspo_jax.episodes.batching import Packing
from fspo_jax.episodes.sampling import Episode, WorldEpisodes
from fspo_jax.episodes.templates import Layout
from fspo_jax.preferences import Preference
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.roleplay import RoleplayWorld
from tests import tiny

FORMATTER = templates.Formatter(tiny.CharTokenizer())
LAYOUT = Layout(shot_pairs=True, query_shots=(9,))


@st.composite
def _windows(draw):
  """Sizes of the episodes of a window, and its number of rows."""
  per_row, count = draw(st.integers(1, 4)), draw(st.integers(1, 8))
  tokens = draw(st.lists(st.integers(1, 99), min_size=per_row * count, max_size=per_row * count))
  scored = [draw(st.integers(0, n)) for n in tokens]
  return np.stack([tokens, scored], axis=1), count


@hypothesis.settings(max_examples=50)
@hypothesis.given(_windows())
def test_every_episode_is_in_one_row_and_no_row_is_empty_or_crowded(window):
  sizes, count = window
  found = windows.spread(sizes, count, (100, 50))
  assert sorted(itertools.chain(*found)) == list(range(len(sizes)))
  assert len(found) == count
  most = windows.most_in_row(len(sizes) // count)
  assert all(members == sorted(members) and 1 <= len(members) <= most for members in found)


@hypothesis.settings(max_examples=50)
@hypothesis.given(_windows())
def test_rows_are_hardly_fuller_than_they_have_to_be(window):
  """With two episodes a row Graham's rule is the best, long ones with short ones, or better."""
  sizes, count = window
  tokens = np.resize(sizes[:, 0], 2 * count)
  found = windows.spread(np.stack([tokens, tokens], axis=1), count, (1, 1))
  ordered = np.sort(tokens)
  paired = max(ordered[:count] + ordered[::-1][:count])
  assert max(tokens[members].sum() for members in found) <= paired


def test_exchanges_fill_what_the_longest_first_rule_leaves():
  # Longest first: 9 + 4 + 3, 7 + 5 + 3 ..., which is 16, 15 and 14 tokens; 45 are 15 each.
  tokens = np.asarray([9, 7, 6, 5, 4, 4, 4, 3, 3])
  sizes = np.stack([tokens, tokens], axis=1)
  loads = [tokens[members].sum() for members in windows.spread(sizes, 3, (1, 1))]
  assert loads == [15, 15, 15]


def test_a_window_by_hand():
  # Longest first: 9 (0) opens a row, 8 (3) another, 7 (1) a third; 4 (4) goes to the 7, 3 (5) to
  # the 8, 2 (2) to the 9. Rows come by what opened them, 0, 1, 3, not by their lengths.
  sizes = np.asarray([[9, 0], [7, 0], [2, 0], [8, 0], [4, 0], [3, 0]])
  assert windows.spread(sizes, 3, (11, 1)) == [[0, 2], [1, 4], [3, 5]]
  assert windows.least_budget(sizes, 3, 1) == (11, 0)
  # Two windows: in the second, of ones alone, rows of 2 tokens; a sixth of the six rows are 11.
  both = np.concatenate([sizes, np.ones_like(sizes)])
  assert windows.least_budget(both, 3, 2) == (11, 2)
  assert windows.least_budget(both, 3, 2, over=0.5)[0] == 11
  assert windows.least_budget(both, 3, 2, over=0.6)[0] == 2
  # Scored tokens count as well: both rows have one of the episodes that are all scored.
  scored = np.asarray([[5, 5], [5, 5], [5, 1], [5, 1]])
  assert sorted(windows.spread(scored, 2, (10, 6))) == [[0, 2], [1, 3]]


def _episode(index):
  """Of 0 to 4 shots, each of other lengths."""
  rng = np.random.default_rng([7, index])
  text = lambda mark: mark * int(rng.integers(1, 12))  # noqa: E731
  shots = tuple(Preference(f"{i}q", text("+"), text("-")) for i in range(int(rng.integers(5))))
  return Episode(f"u{index}", shots, (Preference("x" * (index % 7 + 1), text("y"), text("z")),))


def _rows(per_row, count, tokens=260, scored=200):
  sizes = {"episodes": per_row, "tokens": tokens, "scored_tokens": scored, "window_rows": count}
  packing = Packing.of(LAYOUT, shots=4, queries=1, **sizes)
  return batching.Rows(_episode, FORMATTER, LAYOUT, packing)


def _same(one, other):
  for name, values in one._asdict().items():
    np.testing.assert_array_equal(values, other._asdict()[name], err_msg=name)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
  per_row=st.integers(1, 3), count=st.integers(2, 6), asked=st.lists(st.integers(0, 17), min_size=1)
)
def test_a_row_is_the_same_whichever_were_asked_before(per_row, count, asked):
  source = _rows(per_row, count)
  for row in asked:
    _same(source(row), _rows(per_row, count)(row))


def test_a_row_is_the_same_in_any_thread():
  source, found = _rows(2, 4), {}
  expected = [_rows(2, 4)(row) for row in range(12)]

  def ask(order):
    for row in order:
      found[order[0], row] = source(row)

  orders = [list(range(12)), list(range(11, -1, -1)), [5, 0, 11, 4, 7]]
  threads = [threading.Thread(target=ask, args=(order,)) for order in orders]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 29
  for (_, row), made in found.items():
    _same(made, expected[row])


@pytest.mark.parametrize("tokens", [260, 110])
def test_a_window_has_all_of_its_episodes_and_no_row_is_over_its_budget(tokens):
  """With room for all, each tree is there token by token; without, shots are cut, and counted."""
  source = _rows(2, 6, tokens=tokens)
  for window in (0, 3):
    made = [source(window * 6 + slot) for slot in range(6)]
    there, texts = [], []
    for row in made:
      roots = np.flatnonzero((row.positions == 0) & (row.tokens == ord("^")))
      ends = row.subtree_end[roots]
      assert ends.max() <= tokens
      texts += ["".join(map(chr, row.tokens[a:b])) for a, b in zip(roots, ends, strict=True)]
      there += sorted({*row.pair_episode[row.pair_weight > 0].tolist()})
    assert sorted(there) == list(range(12))
    whole = [
      templates.build(_episode(window * 12 + i), FORMATTER, LAYOUT).tree.tokens for i in range(12)
    ]
    dropped = sum(int(row.dropped_shots) for row in made)
    if tokens == 260:
      assert dropped == 0
      assert sorted(texts) == sorted("".join(map(chr, tree)) for tree in whole)
    else:
      queried = [f"?{_episode(window * 12 + i).queries[0].prompt}!" for i in range(12)]
      shots = sum(len(_episode(window * 12 + i).shots) for i in range(12))
      assert dropped > 0 and sum(text.count("~") for text in texts) == shots - dropped
      assert all(any(query in text for text in texts) for query in queried)


@dataclasses.dataclass(frozen=True)
class _Numbered:
  """Rows that say which row they are."""

  source: batching.Rows = _rows(1, 1)

  def __call__(self, row):
    return self.source(0)._replace(row=np.asarray(row, np.int32))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 2, 3, 7, 10])
def test_a_place_of_the_batch_has_one_window_after_another(processes, start):
  """Any number of processes and any start: batch s has one row of each of the same windows."""
  steps, size, count = 10, 4, 3
  parts = [
    [
      batch.row.tolist()
      for batch in batching.batches(
        _Numbered(),
        rows_per_step=size,
        steps=steps,
        start=start,
        window_rows=count,
        process_index=p,
        process_count=processes,
        threads=p % 2,
      )
    ]
    for p in range(processes)
  ]
  whole = [sum((part[s] for part in parts), []) for s in range(steps - start)]
  expected = [
    [((s // count) * size + place) * count + s % count for place in range(size)]
    for s in range(start, steps)
  ]
  assert whole == expected
  # No row comes twice, and but for the last windows, which the run ends in, all do.
  rest = {row for batch in whole for row in batch}
  assert len(rest) == size * (steps - start)
  if start == 0:
    assert {*range(9 * size)} <= rest


@pytest.mark.parametrize("processes", [1, 2])
def test_each_process_plans_windows_of_its_own(processes, monkeypatch):
  planned = []
  plan = batching.Rows._plan

  def spy(self, window):
    planned.append(window)
    return plan(self, window)

  monkeypatch.setattr(batching.Rows, "_plan", spy)
  for p in range(processes):
    source = _rows(2, 3)
    parts = {"process_index": p, "process_count": processes, "threads": p}
    made = batching.batches(source, rows_per_step=4, steps=6, window_rows=3, **parts)
    assert len(list(made)) == 6
  assert sorted(planned) == list(range(8))  # none twice


@dataclasses.dataclass(frozen=True)
class _Natural:
  """Episodes of a tokenizer of characters, whose texts have log-normal lengths."""

  sigma: float

  def __call__(self, index):
    rng = np.random.default_rng([3, index])

    def text(median):
      return "a" * max(1, round(median * np.exp(self.sigma * rng.standard_normal())))

    preferences = [Preference(f"{i}{text(12)}", text(30), text(30)) for i in range(9)]
    return Episode("u", tuple(preferences[:8]), tuple(preferences[8:]))


def _world(world, shots=8):
  return WorldEpisodes(world, "train", shots, 1, seed=5), templates.Formatter(tiny.CharTokenizer())


_PADDING = {
  "reviews": (lambda: _world(tiny.world()), 2, 32),
  "elix": (lambda: _world(ElixWorld(0)), 2, 32),
  "roleplay": (lambda: _world(RoleplayWorld(0)), 2, 32),
  "texts of log-normal lengths, sigma 0.5": (lambda: (_Natural(0.5), FORMATTER), 4, 64),
  "texts of log-normal lengths, sigma 0.8": (lambda: (_Natural(0.8), FORMATTER), 4, 64),
}


@pytest.mark.parametrize("case", _PADDING)
def test_five_percent_of_the_tokens_or_less_are_padding(case):
  """Rows whose lengths a run finds itself, measured on windows that it did not look at."""
  make, per_row, count = _PADDING[case]
  episode, formatter = make()
  c = config.default()
  stage = c.preference
  stage.rows_per_step = 2 * per_row
  presets.share_rows(stage, per_row, count)
  assert stage.rows_per_step == 2  # with as many episodes as before
  stage.steps = 8 * count
  stage.layout.description_shots = stage.layout.description_queries = ()
  source = rows.of_stage(c, "preference", episode, formatter)
  assert (source.packing.tokens % 32, source.packing.window_episodes) == (0, per_row * count)
  unseen = (16, 17)
  made = batching.stack([source(w * count + slot) for w in unseen for slot in range(count)])
  assert batching.padding_fraction(made) <= 0.05
  asked = len(unseen) * source.packing.window_episodes * stage.shots
  assert made.dropped_shots.sum() <= 0.005 * asked
