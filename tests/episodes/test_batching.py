# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of batching: what fits a row, what padding is, and the same batches for any host count."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.episodes import batching, templates, trees
from fspo_jax.episodes.batching import Packing
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import Kind, Layout
from fspo_jax.preferences import Preference
from tests import tiny

FORMATTER = templates.Formatter(tiny.CharTokenizer())
# In characters a shot on the trunk is `?q!a$~b$`, 8 tokens, its rejected branch `b$` 2 more; a
# query is `?x!z$y$`, 7 tokens, 4 of them scored; and every episode starts with `^`.
QUERY_LAST = Layout(query_shots=(9,))


def _episode(shots, user="u"):
  letters = iter("abcdefghijklmnopqrstuvw")
  made = tuple(Preference(f"{next(letters)}", "+", "-") for _ in range(shots))
  return Episode(user, made, (Preference("x", "y", "z"),))


def _packing(tokens, scored=99, episodes=1, layout=QUERY_LAST, shots=9):
  sizes = {"episodes": episodes, "tokens": tokens, "scored_tokens": scored}
  return Packing.of(layout, shots=shots, queries=1, **sizes)


def _texts(built):
  return [FORMATTER.tokenizer.decode(t.tree.tokens) for t in built]


def test_whole_shots_are_dropped_oldest_first_until_the_row_fits():
  # 1 + 8 n + 7 tokens: 40 for 4 shots, 24 for 2.
  for tokens, kept in ((40, "abcd"), (39, "bcd"), (31, "cd"), (24, "cd"), (23, "d"), (8, "")):
    built, dropped = batching.fit([_episode(4)], FORMATTER, QUERY_LAST, _packing(tokens))
    trunk = "".join(f"?{q}!+$~-$" for q in kept)
    assert _texts(built) == [f"^{trunk}?x!z$y$"]
    assert dropped == 4 - len(kept)
    row = batching.pack(built, _packing(tokens), dropped)
    assert row.dropped_shots == dropped
    assert row.pair_shots[0] == len(kept)


def test_the_budget_of_scored_tokens_counts_too():
  layout = Layout(shot_pairs=True, query_shots=(9,))  # 4 scored tokens a shot, 4 for the query
  packing = _packing(999, scored=13, layout=layout)
  built, dropped = batching.fit([_episode(4)], FORMATTER, layout, packing)
  assert _texts(built) == ["^?c!-$+$~-$?d!-$+$~-$?x!z$y$"]
  assert dropped == 2


def test_the_longest_episode_of_a_row_gives_way():
  packing = _packing(24 + 16 + 3, episodes=2)
  built, dropped = batching.fit([_episode(1), _episode(4)], FORMATTER, QUERY_LAST, packing)
  assert _texts(built) == ["^?a!+$~-$?x!z$y$", "^?c!+$~-$?d!+$~-$?x!z$y$"]
  assert dropped == 2


def test_queries_that_do_not_fit_alone_are_an_error_and_never_cut():
  with pytest.raises(ValueError) as caught:
    batching.fit([_episode(3, "ann")], FORMATTER, QUERY_LAST, _packing(7, 50))
  assert str(caught.value) == (
    "user 'ann': the queries alone take 8 tokens (4 scored), more than the row's 7 (50); raise "
    "the stage's row_tokens or scored_tokens"
  )
  with pytest.raises(ValueError, match=r"8 tokens \(4 scored\), more than the row's 50 \(3\)"):
    batching.fit([_episode(3)], FORMATTER, QUERY_LAST, _packing(50, 3))


def test_padding_fraction_of_a_known_row():
  built, _ = batching.fit([_episode(1), _episode(0)], FORMATTER, QUERY_LAST, _packing(40, 9, 2))
  row = batching.pack(built, _packing(40, 9, 2))  # 16 + 8 of 40 tokens
  assert batching.padding_fraction(row) == pytest.approx(0.4)
  full = batching.pack(built, _packing(24, 9, 2))
  assert batching.padding_fraction(full) == 0.0
  assert batching.padding_fraction(batching.stack([row, row])) == pytest.approx(0.4)


def test_a_packed_row_by_hand():
  # Index:  0         1         2
  #         012345678901234567890123456   ^?x!z$y$ is 0 .. 7, the other episode 8 .. 23.
  built = [templates.build(_episode(k), FORMATTER, QUERY_LAST) for k in (0, 1)]
  row = batching.pack(built, _packing(27, 10, 2))
  text = FORMATTER.tokenizer.decode(row.tokens[:24])
  assert text == "^?x!z$y$^?a!+$~-$?x!z$y$"
  assert row.tokens[24:].tolist() == [0, 0, 0]
  # Scored: the rejected z$, and the chosen y$ which is predicted from the `!` as well.
  assert row.source[:8].tolist() == [3, 4, 3, 6, 19, 20, 19, 22]
  assert "".join(map(chr, row.target[:8])) == "z$y$z$y$"
  assert row.segment.tolist() == [1, 1, 0, 0, 3, 3, 2, 2, 4, 4]  # padding: one past the last
  assert row.segment_kind.tolist() == [Kind.CHOSEN, Kind.REJECTED] * 2
  assert row.segment_shots.tolist() == [0, 0, 1, 1]
  assert row.pair_chosen.tolist() == [0, 2]
  assert row.pair_rejected.tolist() == [1, 3]
  assert row.pair_shots.tolist() == [0, 1]
  assert row.pair_episode.tolist() == [0, 1]
  assert row.pair_weight.tolist() == [1.0, 1.0]
  mask = trees.attention_mask(row.subtree_end)
  assert mask[24:].sum() == 3 and mask[:, 24:].sum() == 3  # padding sees and is seen by itself
  assert not mask[8:24, :8].any()


@hypothesis.given(st.lists(tiny.nodes(max_nodes=6), min_size=1, max_size=3))
def test_sources_are_the_parents_of_the_scored_tokens(roots):
  built = [tiny.episode_tree(root) for root in roots]
  row = batching.pack(built, Packing(3, 64, 64, 30, 1))
  forest = trees.concatenate([t.tree for t in built], [len(t.segments) for t in built])
  scored = [i for i in range(len(forest)) if forest.segments[i] >= 0]
  n = len(scored)
  assert row.source[:n].tolist() == [trees.path_to(forest, i)[-2] for i in scored]
  assert row.target[:n].tolist() == forest.tokens[scored].tolist()
  assert (row.segment[n:] == 30).all() and (row.segment[:n] < 30).all()
  assert row.pair_weight.tolist() == [0.0]


def test_every_row_has_the_same_shapes_and_types():
  # Episodes of 0 to 3 shots, some of which lose shots.
  sizes = iter([0, 3, 1, 2] * 10)
  packing = _packing(24, 8, shots=3)
  rows = batching.Rows(lambda _: _episode(next(sizes)), FORMATTER, QUERY_LAST, packing)
  made = [rows(i) for i in range(8)]
  assert len({int(row.dropped_shots) for row in made}) > 1
  expected = dict.fromkeys(("tokens", "positions", "roles", "subtree_end"), (24,))
  expected |= dict.fromkeys(("source", "target", "segment"), (8,))
  expected |= dict.fromkeys(("segment_kind", "segment_shots"), (2,))
  for row in made:
    assert row.reference is None  # these rows do not bring it
    for name, values in row._replace(reference=row.row)._asdict().items():
      scalar = name in ("dropped_shots", "row", "reference")
      shape = () if scalar else expected.get(name, (1,))
      assert values.shape == shape, name
      assert values.dtype == (np.float32 if name == "pair_weight" else np.int32), name


def test_pairs_compare_the_responses_of_one_question():
  source = tiny.rows(episodes=2, tokens=1400, scored_tokens=1000)
  batch = tiny.batch(source, 4)
  layout = source.layout
  assert batch.pair_weight.shape == (4, 2 * layout.max_pairs(2, 1))
  assert batch.pair_weight.all() and not batch.dropped_shots.any()
  for row in range(4):
    take = lambda name, i, row=row: getattr(batch, name)[row, i]  # noqa: E731
    for p in range(batch.pair_weight.shape[1]):
      chosen, rejected = take("pair_chosen", p), take("pair_rejected", p)
      assert take("segment_kind", chosen) == Kind.CHOSEN
      assert take("segment_kind", rejected) == Kind.REJECTED
      assert (
        take("segment_shots", chosen) == take("segment_shots", rejected) == take("pair_shots", p)
      )
      first = [batch.source[row][batch.segment[row] == s][0] for s in (chosen, rejected)]
      assert first[0] == first[1]
    assert take("pair_episode", slice(None)).tolist() == [0] * 5 + [1] * 5


@dataclasses.dataclass(frozen=True)
class _Numbered:
  """Rows that say which row they are."""

  packing: Packing = _packing(8)

  def __call__(self, row):
    built, _ = batching.fit([_episode(0)], FORMATTER, QUERY_LAST, self.packing)
    return batching.pack(built, self.packing, dropped=row)


def _row_numbers(**options):
  return [b.dropped_shots.tolist() for b in batching.batches(_Numbered(), **options)]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_the_global_batch_is_the_same_for_any_number_of_processes_and_any_start(processes, start):
  parts = [
    _row_numbers(
      rows_per_step=8,
      steps=5,
      start=start,
      process_index=p,
      process_count=processes,
      threads=p % 2,
    )
    for p in range(processes)
  ]
  whole = [sum((list(part[s]) for part in parts), []) for s in range(5 - start)]
  assert whole == [list(range(8 * s, 8 * s + 8)) for s in range(start, 5)]
  assert all(len(rows) == 8 // processes for part in parts for rows in part)


def test_rows_pack_consecutive_episodes():
  source = tiny.rows(episodes=2, tokens=1400, scored_tokens=1000)
  single = dataclasses.replace(source, packing=dataclasses.replace(source.packing, episodes=1))
  two, first, second = source(3), single(6), single(7)
  n = int((1 - batching.padding_fraction(first)) * 1400 + 0.5)
  m = int((1 - batching.padding_fraction(second)) * 1400 + 0.5)
  np.testing.assert_array_equal(two.tokens[:n], first.tokens[:n])
  np.testing.assert_array_equal(two.tokens[n : n + m], second.tokens[:m])


def test_rows_that_cannot_be_split_are_refused():
  with pytest.raises(ValueError, match="8 rows a step cannot be split over 3 processes"):
    next(batching.batches(_Numbered(), rows_per_step=8, steps=1, process_count=3))


def test_a_packing_holds_each_of_the_episodes():
  episodes = [_episode(k) for k in (1, 3, 2)]
  found = batching.fit_packing(episodes, FORMATTER, QUERY_LAST, 3, multiple=1)
  assert (found.tokens, found.scored_tokens) == (32, 4)
  found = batching.fit_packing(episodes[:1], FORMATTER, QUERY_LAST, 3, multiple=1)
  assert (found.tokens, found.scored_tokens) == (16, 4)
