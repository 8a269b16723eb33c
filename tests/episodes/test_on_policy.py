# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of on-policy description pairs: which are kept, resuming after a kill, serving them."""

import collections
import dataclasses
import json

import numpy as np
import pytest
import scipy.sparse

from fspo_jax.episodes import batching, on_policy
from fspo_jax.episodes.sampling import DescriptionPair, WorldEpisodes
from fspo_jax.episodes.templates import Context, Layout
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.synthesis.embedders import CharacterNgrams
from tests import tiny

SETTINGS = on_policy.Settings(episodes=10, shots=(1, 3), samples=4, seed=5, chunk=4)
FACTS = {"policy": "sft", "temperature": 1.0}
SOURCE = WorldEpisodes(tiny.world(), "train", 3, 2, seed=0)
TASTES = ("positive", "negative", "short", "long", "formal", "casual", "funny", "serious")


class RandomWriter:
  """Writes random tastes, by shots and seeds alone, and notes what it was asked."""

  def __init__(self, cut=0.0):
    self.cut, self.calls = cut, []

  def __call__(self, users, *, n, seeds):
    self.calls.append([(len(shots), *own) for shots, own in zip(users, seeds, strict=True)])
    return [
      [self._write(shots, *own, j) for j in range(n)]
      for shots, own in zip(users, seeds, strict=True)
    ]

  def _write(self, shots, *seeds):
    rng = np.random.default_rng([*seeds, len(shots)])
    named = rng.choice(TASTES, 2, replace=False)
    return Written(f"Reviews should be {', '.join(named)}.", bool(rng.random() >= self.cut))


def fits(users, texts):
  """Any function of both would do."""
  return [len(text) * 31 % (7 + len(shots)) for shots, text in zip(users, texts, strict=True)]


def _make(path, writer=None, settings=SETTINGS, facts=FACTS, source=SOURCE, closeness=None):
  closeness = closeness or on_policy.trait_closeness(tiny.world())
  return on_policy.make(path, source, writer or RandomWriter(), closeness, fits, settings, facts)


def test_a_pair_is_the_closest_and_the_furthest_of_the_samples(tmp_path):
  found = _make(tmp_path / "pairs.jsonl")
  world = tiny.world()
  pairs = {p.index: p for p in found.pairs}
  assert list(pairs) == sorted(pairs)
  ties = 0
  for index in range(SETTINGS.episodes):
    episode = SOURCE(index)
    user = world.read(episode.description)
    # With the number of shots that the episode drew, which the writer's texts depend on.
    options = {}
    for k in SETTINGS.shots:
      (written,) = RandomWriter()([episode.shots[:k]], n=4, seeds=[(SETTINGS.seed, index)])
      options[k] = {w.text: world.description_f1(user, w.text) for w in written}
    if index not in pairs:
      ties += 1
      assert any(len(set(values.values())) == 1 for values in options.values())
      continue
    pair = pairs[index].described
    values = options[pair.shots]
    fit = dict(zip(values, fits([[0] * pair.shots] * len(values), list(values)), strict=True))
    assert pair.kept == max(fit, key=fit.get)  # the first of equals
    assert values[pair.better] == max(values.values()) > min(values.values()) == values[pair.worse]
    assert pairs[index].user_id == episode.user_id
  assert dict(found.skipped) == ({"tie": ties} if ties else {})
  assert len(pairs) + ties == 10 and len(pairs) > 4
  kept = [p.described.kept in (p.described.better, p.described.worse) for p in found.pairs]
  assert any(kept) and not all(kept)
  assert {p.described.shots for p in found.pairs} == {1, 3}


def test_ties_and_cut_descriptions_are_skipped_and_counted(tmp_path):
  everything = on_policy.Settings(episodes=40, shots=(3,), samples=2, seed=1)
  found = _make(tmp_path / "a", RandomWriter(cut=0.5), everything)
  # Two samples of which half are cut: both are left in a quarter of the episodes. The standard
  # deviation of 40 coins of 3/4 is 2.7.
  assert 20 < found.skipped["unfinished"] < 40
  assert len(found.pairs) + sum(found.skipped.values()) == 40
  far = dataclasses.replace(everything, gap=1.0)  # no two F1s differ by more
  nothing = _make(tmp_path / "b", settings=far)
  assert (nothing.pairs, nothing.skipped) == ((), {"tie": 40})
  with pytest.raises(ValueError, match=r"no description pair \(skipped: {'tie': 40}\)"):
    on_policy.PairedEpisodes(SOURCE, nothing)


def _of_lengths(path, texts, gap=0.0):
  """The pairs of one episode with these samples, of which the longest is the closest."""
  settings = on_policy.Settings(episodes=1, shots=(1,), samples=len(texts), seed=0, gap=gap)
  written = [[Written(text, True) for text in texts]]
  return _make(
    path,
    lambda *_, **__: written,
    settings,
    closeness=lambda _, found: [float(len(text)) for text in found],
  )


def test_of_equally_close_descriptions_the_first_are_the_pair(tmp_path):
  found = _of_lengths(tmp_path / "a", ("one", "two", "three", "seven"))
  # Of 3, 3, 5 and 5 letters, times 31 modulo 8: 5, 5, 3 and 3.
  (pair,) = found.pairs
  assert pair.described == DescriptionPair(1, better="three", worse="one", kept="one")


@pytest.mark.parametrize("gap, skipped", [(0.0, {}), (1.9, {}), (2.0, {"tie": 1})])
def test_a_difference_that_is_no_more_than_the_gap_is_a_tie(tmp_path, gap, skipped):
  found = _of_lengths(tmp_path / "a", ("one", "seven"), gap)
  assert (found.skipped, len(found.pairs)) == (skipped, 1 - len(skipped))
  assert _of_lengths(tmp_path / "b", ("one", "two"), gap).skipped == {"tie": 1}


@pytest.mark.parametrize("whole", [0, 1, 4, 6, 9])
@pytest.mark.parametrize("torn", [b"", b'{"index": 6, "user'])
def test_who_was_killed_ends_with_the_same_file(tmp_path, whole, torn):
  straight, stopped = tmp_path / "straight", tmp_path / "stopped"
  expected = _make(straight)
  lines = straight.read_bytes().splitlines(keepends=True)
  assert len(lines) == 1 + SETTINGS.episodes
  stopped.write_bytes(b"".join(lines[: 1 + whole]) + torn)
  writer = RandomWriter()
  assert _make(stopped, writer) == expected
  assert stopped.read_bytes() == straight.read_bytes()
  # Whole chunks are not written again; the one that was stopped is, as a whole.
  asked = [seeds[2] for call in writer.calls for seeds in call]
  assert asked == list(range(whole // 4 * 4, 10))


def test_a_finished_file_is_only_read(tmp_path):
  path, writer = tmp_path / "pairs", RandomWriter()
  expected = _make(path)
  assert _make(path, writer) == on_policy.read(path) == expected
  assert writer.calls == []


def test_killed_before_the_first_line_was_whole(tmp_path):
  path = tmp_path / "pairs"
  path.write_bytes(b'{"epis')
  assert _make(path) == _make(tmp_path / "other")
  assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_reading_leaves_a_line_alone_that_is_being_written(tmp_path):
  path = tmp_path / "pairs"
  expected = _make(path)
  content = path.read_bytes() + b'{"index": 10'
  path.write_bytes(content)
  assert on_policy.read(path) == expected
  assert path.read_bytes() == content


def test_a_pair_depends_on_seed_and_index_alone(tmp_path):
  long = _make(tmp_path / "long")
  other_chunks = dataclasses.replace(SETTINGS, episodes=6, chunk=1)
  short = _make(tmp_path / "short", settings=other_chunks)
  assert short.pairs == tuple(p for p in long.pairs if p.index < 6)
  other = _make(tmp_path / "other", settings=dataclasses.replace(SETTINGS, seed=6))
  assert other.pairs != long.pairs


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"settings": dataclasses.replace(SETTINGS, samples=5)},
      "found pairs of samples=4, expected 5",
    ),
    ({"facts": FACTS | {"policy": "x"}}, "found pairs of policy='sft', expected 'x'"),
    ({"facts": {"policy": "sft"}}, "found pairs of temperature=1.0, expected None"),
  ],
)
def test_pairs_of_other_settings_are_refused_and_left_alone(tmp_path, changes, message):
  path = tmp_path / "pairs"
  _make(path)
  before = path.read_bytes()
  with pytest.raises(ValueError, match=message):
    _make(path, **changes)
  assert path.read_bytes() == before


def test_what_is_kept_came_to_its_end(tmp_path):
  texts = ["one", "three", "seven", "eleven"]
  written = [[Written(text, text != "seven") for text in texts], [Written("cut", False)] * 4]
  settings = on_policy.Settings(episodes=2, shots=(1,), samples=4, seed=0)
  asked = []

  def kept(users, found):
    asked.append((len(users), list(found)))
    return [text == "three" for text in found]

  found = on_policy.make(
    tmp_path / "pairs", SOURCE, lambda *_, **__: written, lambda _, t: [*map(len, t)], kept,
    settings, FACTS,
  )  # fmt: skip
  (pair,) = found.pairs
  assert pair.described == DescriptionPair(1, better="eleven", worse="one", kept="three")
  assert found.skipped == {"unfinished": 1}
  assert asked == [(3, ["one", "three", "eleven"])]  # nothing of the episode that is skipped


def test_pairs_of_a_version_that_kept_none_are_refused(tmp_path):
  path = tmp_path / "pairs"
  _make(path)
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for record in lines:
    record.pop("kept", None)
  path.write_text("".join(json.dumps(record) + "\n" for record in lines))
  with pytest.raises(ValueError, match=r"pairs: found no \['kept'\] in the pair of episode \d+"):
    on_policy.read(path)


def test_a_pair_of_one_text_is_none():
  with pytest.raises(ValueError, match="found twice 'm'"):
    DescriptionPair(1, better="m", worse="m", kept="m")


def test_a_broken_line_is_refused_with_its_number(tmp_path):
  path = tmp_path / "pairs"
  _make(path)
  lines = path.read_bytes().splitlines(keepends=True)
  for number, line, expected in (
    (4, b"nonsense\n", "the pair of episode 2"),
    (4, lines[4], "the pair of episode 2"),  # one line is missing
    (1, b"[]\n", "the settings"),
  ):
    path.write_bytes(b"".join([*lines[: number - 1], line, *lines[number:]]))
    with pytest.raises(ValueError, match=f"pairs:{number}: found .*, expected {expected}"):
      _make(path)


def test_episodes_without_a_gold_description_or_shots_enough_are_refused(tmp_path):
  with pytest.raises(ValueError, match="found 3 shots and description=.*expected 4 shots or more"):
    _make(tmp_path / "a", settings=dataclasses.replace(SETTINGS, shots=(4,)))
  nobody = lambda i: dataclasses.replace(SOURCE(i), description=None)  # noqa: E731
  with pytest.raises(ValueError, match="episode 0 .*description=None, expected .* gold desc"):
    _make(tmp_path / "b", source=nobody)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"samples": 1}, "samples: found 1, expected 2 or more"),
    ({"episodes": 0}, "episodes: found 0"),
    ({"gap": -0.1}, "gap: found -0.1"),
    ({"shots": ()}, r"shots: found \(\)"),
    ({"shots": (2, -1)}, r"shots: found \(2, -1\)"),
  ],
)
def test_impossible_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SETTINGS, **changes)


def test_paired_episodes_go_round_those_that_have_a_pair(tmp_path):
  found = _make(tmp_path / "pairs")
  episodes = on_policy.PairedEpisodes(SOURCE, found)
  count = len(found.pairs)
  for i in (0, 1, count - 1, count, 3 * count + 2):
    pair = found.pairs[i % count]
    assert episodes(i) == dataclasses.replace(SOURCE(pair.index), described=pair.described)
  other = WorldEpisodes(tiny.world(), "train", 3, 2, seed=1)
  with pytest.raises(ValueError, match="the pairs are of other episodes"):
    on_policy.PairedEpisodes(other, found)(0)


def test_closeness_by_an_embedder_is_the_cosine_with_the_gold_description():
  texts = ["likes short reviews", "hates cheese", "likes short reviews", "likes long reviews"]
  sparse = on_policy.embedding_closeness(CharacterNgrams())("likes short reviews.", texts)
  assert sparse[0] == sparse[2] == max(sparse)
  assert sparse[0] > sparse[3] > sparse[1] >= 0
  vectors = {"gold": [1.0, 0.0], "a": [0.6, 0.8], "b": [-1.0, 0.0]}
  asked = []

  def embedder(found):
    asked.append(list(found))
    return np.array([vectors[text] for text in found])

  dense = on_policy.embedding_closeness(embedder)
  np.testing.assert_allclose(dense("gold", ["b", "a", "b"]), [-1.0, 0.6, -1.0])
  assert asked == [["gold", "b", "a"]]  # once each, so that equal texts are equally close
  assert scipy.sparse.issparse(CharacterNgrams()(["x"]))  # both forms were tested


def test_closeness_by_traits_reads_the_tastes():
  closeness = on_policy.trait_closeness(tiny.world())
  gold = "Reviews should be, above all, positive; also: short."
  texts = ["Reviews should be negative.", "Reviews should be short.", "positive and short"]
  np.testing.assert_allclose(closeness(gold, texts), [0.0, 2 / 3, 1.0])


def test_what_a_policy_samples_makes_rows_to_train_on(tmp_path):
  model = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)
  writer = Writer(model, tiny.params(model), tiny.formatter(), batch=8)

  def describe(users, *, n, seeds):
    written = rat.sample(writer, users, Decoding(1.0, 1.0, 12), n=n, seeds=seeds)
    # Random parameters hardly ever write EOS.
    return [[dataclasses.replace(w, finished=True) for w in own] for own in written]

  settings = on_policy.Settings(episodes=4, shots=(0, 2), samples=2, seed=0)
  # Random words name no taste, but some have more letters of the gold description than others.
  closeness = on_policy.embedding_closeness(CharacterNgrams())
  found = _make(tmp_path / "pairs", describe, settings, closeness=closeness)
  assert len(found.pairs) == 4
  layout = Layout(query_shots=(3,), description_pairs=True)
  packing = batching.Packing.of(
    layout, shots=3, queries=2, episodes=1, tokens=1024, scored_tokens=512
  )
  rows = batching.Rows(on_policy.PairedEpisodes(SOURCE, found), tiny.formatter(), layout, packing)
  batch = batching.stack([rows(i) for i in range(4)])
  contexts = collections.Counter(batch.pair_context[batch.pair_weight > 0].tolist())
  assert contexts == {Context.SHOTS: 8, Context.DESCRIPTION_PAIR: 4}
