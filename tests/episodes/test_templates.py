# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of templates: golden layouts in characters, and what every path of any episode reads as."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.episodes import batching, templates, trees
from fspo_jax.episodes.sampling import DescriptionPair, Episode
from fspo_jax.episodes.templates import Context, Kind, Layout, Segment
from fspo_jax.preferences import Preference
from tests import tiny

CHARS = tiny.CharTokenizer()
EPISODE = Episode("u", (Preference("q", "a", "b"),), (Preference("x", "y", "z"),), "d")
EVERYTHING = Layout(
  shot_pairs=True, query_shots=(0, 1), description_shots=(1,), description_queries=(1,)
)


def _build(episode=EPISODE, layout=EVERYTHING, template=templates.MARKERS, tokenizer=CHARS):
  return templates.build(episode, templates.Formatter(tokenizer, template), layout)


def _path_text(built, segment, tokenizer=CHARS):
  """What the model has read when it has read a segment to its end."""
  last = np.flatnonzero(built.tree.segments == segment)[-1]
  return tokenizer.decode(built.tree.tokens[trees.path_to(built.tree, int(last))])


def _text(values):
  return "".join(map(str, values))


def test_golden_layout_with_markers():
  # ? question, ! preferred, ~ dispreferred, @ description, ^ BOS, $ EOS. The branches after 0
  # shots, the shot with its rejected branch first, and at its end the branches after 1 shot.
  built = _build()
  tree = built.tree
  assert CHARS.decode(tree.tokens) == "^?x!z$y$?q!b$a$~b$?x!z$y$@d$?x!z$y$"
  assert _text(tree.roles.tolist()) == "01112222111222233311122224441112222"
  depths = "^0 ?1x2!3 z4$5 y4$5 ?1q2!3 b4$5 a4$5 ~6b7$8 ?9x10!11 z12$13 y12$13 @9d10$11 ?12x13!14"
  depths += " z15$16 y15$16"
  pairs = zip(CHARS.decode(tree.tokens), tree.positions.tolist(), strict=True)
  assert "".join(f"{c}{p}" for c, p in pairs) == depths.replace(" ", "")
  paths = {i: _path_text(built, i) for i in range(len(built.segments))}
  shot = "^?q!a$~b$"
  by_kind = {
    (Kind.CHOSEN, 0): ["^?q!a$", "^?x!y$"],
    (Kind.REJECTED, 0): ["^?q!b$", "^?x!z$"],
    (Kind.DESCRIPTION, 1): [shot + "@d$"],
    (Kind.CHOSEN, 1): [shot + "?x!y$", shot + "@d$?x!y$"],
    (Kind.REJECTED, 1): [shot + "?x!z$", shot + "@d$?x!z$"],
  }
  for (kind, shots), expected in by_kind.items():
    found = [paths[i] for i, s in enumerate(built.segments) if s == Segment(kind, shots)]
    assert sorted(found) == sorted(expected)
  assert len(paths) == 9
  read = {(paths[p.chosen], paths[p.rejected], p.shots, p.context) for p in built.pairs}
  assert read == {
    ("^?q!a$", "^?q!b$", 0, Context.SHOTS),
    ("^?x!y$", "^?x!z$", 0, Context.SHOTS),
    (shot + "?x!y$", shot + "?x!z$", 1, Context.SHOTS),
    (shot + "@d$?x!y$", shot + "@d$?x!z$", 1, Context.DESCRIPTION),
  }
  assert len(built.pairs) == 4


def test_golden_layout_with_headings():
  question, preferred = "\n## Question\n", "\n## Preferred Response\n"
  dispreferred, description = "\n## Dispreferred Response\n", "\n## User Description\n"
  query = f"{question}x{preferred}z$y$"
  built = _build(template=templates.HEADINGS)
  assert CHARS.decode(built.tree.tokens) == (
    f"^{query}{question}q{preferred}b$a${dispreferred}b${query}{description}d${query}"
  )
  # Headings belong to what they open, but a question's holds the one that opens its answer.
  assert np.count_nonzero(built.tree.roles == templates.Role.QUESTION) == 4 * len(
    f"{question}x{preferred}"
  )
  assert np.count_nonzero(built.tree.segments >= 0) == 2 * len(built.segments)


@pytest.mark.parametrize(
  "layout, tokens, segments, pairs",
  [
    (Layout(), "^?q!a$~b$", 0, 0),
    (Layout(shot_pairs=True), "^?q!b$a$~b$", 2, 1),
    (Layout(shot_pairs=True, rejected=False), "^?q!a$~b$", 1, 0),
    (Layout(query_shots=(1,), rejected=False), "^?q!a$~b$?x!y$", 1, 0),
    (Layout(description_shots=(0,)), "^@d$?q!a$~b$", 1, 0),
    (Layout(query_shots=(5, 8, 1)), "^?q!a$~b$?x!z$y$", 2, 1),
  ],
)
def test_a_layout_says_which_branches_there_are(layout, tokens, segments, pairs):
  built = _build(layout=layout)
  assert CHARS.decode(built.tree.tokens) == tokens
  assert (len(built.segments), len(built.pairs)) == (segments, pairs)


def test_numbers_of_shots_that_an_episode_does_not_reach_are_clipped_to_its_own():
  layout = Layout(query_shots=(0, 3), description_shots=(2, 5), description_queries=(5,))
  built = _build(layout=layout)
  assert CHARS.decode(built.tree.tokens) == "^?x!z$y$?q!a$~b$?x!z$y$@d$?x!z$y$"
  assert {s.shots for s in built.segments} == {0, 1}


def test_queries_under_a_description_need_the_description():
  with pytest.raises(ValueError, match=r"description_queries has \[3\].*description_shots=\(2,\)"):
    Layout(description_shots=(2,), description_queries=(2, 3))


def test_descriptions_written_after_each_number_of_shots_take_the_gold_ones_place():
  episode = Episode("u", EPISODE.shots, EPISODE.queries, "d", written=("m", "n"))
  built = _build(episode, Layout(description_shots=(0, 1)))
  assert CHARS.decode(built.tree.tokens) == "^@m$?q!a$~b$@n$"
  nobody = Episode("u", EPISODE.shots, EPISODE.queries)
  assert CHARS.decode(_build(nobody, Layout(description_shots=(0, 1))).tree.tokens) == "^?q!a$~b$"


DESCRIBED = Episode(
  "u",
  EPISODE.shots,
  EPISODE.queries,
  "d",
  described=DescriptionPair(1, better="m", worse="n", kept="n"),
)


def test_a_description_pair_hangs_after_its_shots_with_queries_under_the_kept_one():
  layout = Layout(description_pairs=True, description_pair_queries=True)
  built = _build(DESCRIBED, layout)
  assert CHARS.decode(built.tree.tokens) == "^?q!a$~b$@n$?x!z$y$m$"
  assert _text(built.tree.roles.tolist()) == "0" + "11122333" + "444" + "1112222" + "44"
  shot = "^?q!a$~b$"
  paths = {i: _path_text(built, i) for i in range(len(built.segments))}
  assert {(paths[p.chosen], paths[p.rejected], p.shots, p.context) for p in built.pairs} == {
    (shot + "@m$", shot + "@n$", 1, Context.DESCRIPTION_PAIR),
    (shot + "@n$?x!y$", shot + "@n$?x!z$", 1, Context.DESCRIPTION),
  }
  assert len(built.pairs) == layout.max_pairs(1, 1) == 2
  assert len(built.segments) == layout.max_segments(1, 1) == 4
  # What was sampled is compared, and imitated by no likelihood.
  kinds = {paths[i]: s.kind for i, s in enumerate(built.segments)}
  assert kinds[shot + "@m$"] == kinds[shot + "@n$"] == Kind.SAMPLED_DESCRIPTION
  assert len({Context.SHOTS, Context.DESCRIPTION, Context.DESCRIPTION_PAIR}) == 3
  # The kept one need not be one of the two; then it is scored by nothing itself.
  third = dataclasses.replace(DESCRIBED.described, kept="o")
  built = _build(dataclasses.replace(DESCRIBED, described=third), layout)
  assert CHARS.decode(built.tree.tokens) == "^?q!a$~b$@n$m$o$?x!z$y$"
  paths = {_path_text(built, i) for i in range(len(built.segments))}
  assert paths == {shot + end for end in ("@m$", "@n$", "@o$?x!y$", "@o$?x!z$")}
  # Without queries under it, it is not there.
  bare = _build(dataclasses.replace(DESCRIBED, described=third), Layout(description_pairs=True))
  assert CHARS.decode(bare.tree.tokens) == "^?q!a$~b$@n$m$"


def test_a_description_pair_needs_no_gold_description_and_no_scored_responses():
  layout = Layout(rejected=False, query_shots=(1,), description_shots=(1,), description_pairs=True)
  built = _build(DESCRIBED, layout)
  assert CHARS.decode(built.tree.tokens) == "^?q!a$~b$?x!y$@d$@n$m$"
  assert [p.context for p in built.pairs] == [Context.DESCRIPTION_PAIR]
  assert (layout.max_segments(1, 1), layout.max_pairs(1, 1)) == (4, 1)
  assert len(built.segments) == 4
  # A layout without pairs does not see them.
  plain = Layout(rejected=False, query_shots=(1,), description_shots=(1,))
  assert CHARS.decode(_build(DESCRIBED, plain).tree.tokens) == "^?q!a$~b$?x!y$@d$"


def test_a_description_pair_stays_where_a_row_has_no_room_for_all_its_shots():
  layout = Layout(description_pairs=True)
  shots = (Preference("q", "a", "b"), Preference("r", "c", "e"))
  episode = Episode("u", shots, EPISODE.queries, described=DescriptionPair(2, "m", "n", "m"))
  packing = batching.Packing.of(layout, shots=2, queries=1, episodes=1, tokens=15, scored_tokens=8)
  form = templates.Formatter(CHARS, templates.MARKERS)
  (built,), dropped = batching.fit([episode], form, layout, packing)
  assert (CHARS.decode(built.tree.tokens), dropped) == ("^?r!c$~e$@n$m$", 1)
  row = batching.pack([built], packing)
  assert row.pair_context.tolist() == [Context.DESCRIPTION_PAIR]
  assert row.segment_kind.tolist() == [Kind.SAMPLED_DESCRIPTION] * 2


def test_pairs_of_descriptions_are_refused_where_there_are_none():
  with pytest.raises(ValueError, match="description_pairs=True: found an episode of user 'u' with"):
    _build(EPISODE, Layout(description_pairs=True))
  with pytest.raises(ValueError, match="description_pair_queries=True with description_pairs=Fal"):
    Layout(description_pair_queries=True)


def test_golden_layout_with_rewards():
  # Each response under its own reward, in front of and among the shots, and under a description.
  built = _build(layout=dataclasses.replace(EVERYTHING, rewards=True))
  assert CHARS.decode(built.tree.tokens) == "^?x~z$!y$?q~b$!a$~b$?x~z$!y$@d$?x~z$!y$"
  assert _text(built.tree.roles.tolist()) == "0" + "11333122" + "11333122" + "333" + (
    "11333122" + "444" + "11333122"
  )
  shot = "^?q!a$~b$"
  found = {(_path_text(built, i), s.kind, s.shots) for i, s in enumerate(built.segments)}
  assert found == {
    ("^?x~z$", Kind.CHOSEN, 0),
    ("^?x!y$", Kind.CHOSEN, 0),
    ("^?q~b$", Kind.CHOSEN, 0),
    ("^?q!a$", Kind.CHOSEN, 0),
    (shot + "?x~z$", Kind.CHOSEN, 1),
    (shot + "?x!y$", Kind.CHOSEN, 1),
    (shot + "@d$", Kind.DESCRIPTION, 1),
    (shot + "@d$?x~z$", Kind.CHOSEN, 1),
    (shot + "@d$?x!y$", Kind.CHOSEN, 1),
  }
  assert built.pairs == ()


@pytest.mark.parametrize("template", [templates.MARKERS, templates.HEADINGS])
def test_the_high_reward_is_asked_for_as_a_sampler_asks(template):
  form = templates.Formatter(tiny.tokenizer(), template)
  episode = Episode("u", (), (Preference("Well?", "A gem.", "A bore."),))
  rewards, plain = (
    templates.build(episode, form, Layout(query_shots=(0,), rewards=r)).tree for r in (True, False)
  )

  def path(tree, text):
    """The ids and roles up to a response's end."""
    ids = list(form.answer(text))
    (last,) = [
      i
      for i in range(len(tree))
      if tree.segments[i] >= 0 and tree.tokens[trees.path_to(tree, i)].tolist()[-len(ids) :] == ids
    ]
    found = trees.path_to(tree, last)
    return tree.tokens[found].tolist(), tree.roles[found].tolist()

  assert path(rewards, "A gem.") == path(plain, "A gem.")
  low, roles = path(rewards, "A bore.")
  end = form.dispreferred("A bore.")
  assert low == [form.tokenizer.bos_id, *form.asked("Well?"), *end]
  assert roles[-len(end) :] == [templates.Role.DISPREFERRED] * len(end)


def test_rewards_need_the_rejected_responses():
  with pytest.raises(ValueError, match="rewards=True with rejected=False"):
    Layout(rewards=True, rejected=False)


@st.composite
def _episodes(draw):
  """Episodes whose texts are all different letters."""
  shots, queries = draw(st.integers(0, 4)), draw(st.integers(1, 3))
  letters = iter("abcdefghijklmnopqrstuvwxyz")
  take = lambda n: tuple(  # noqa: E731
    Preference(*(next(letters) for _ in range(3))) for _ in range(n)
  )
  pair = DescriptionPair(draw(st.integers(0, shots)), "G", "H", draw(st.sampled_from("GHK")))
  return Episode("u", take(shots), take(queries), "D", described=pair)


@st.composite
def _layouts(draw, shots):
  ks = lambda source: tuple(sorted(draw(st.sets(source))))  # noqa: E731
  described = ks(st.integers(0, shots))
  queried = ks(st.sampled_from(described)) if described else ()
  flags = draw(st.booleans()), draw(st.booleans())
  pairs = draw(st.booleans())
  more = pairs, pairs and draw(st.booleans()), flags[1] and draw(st.booleans())
  return Layout(*flags, ks(st.integers(0, shots)), described, queried, *more)


@hypothesis.given(st.data())
def test_every_path_reads_as_its_shots_and_then_its_question_and_answer(data):
  episode = data.draw(_episodes())
  shots, queries = len(episode.shots), len(episode.queries)
  layout = data.draw(_layouts(shots))
  built = _build(episode, layout)
  assert len(built.segments) == layout.max_segments(shots, queries)
  assert len(built.pairs) == layout.max_pairs(shots, queries)
  before = [
    "^" + "".join(f"?{s.prompt}!{s.chosen}$~{s.rejected}$" for s in episode.shots[:k])
    for k in range(shots + 1)
  ]
  expected, pairs = [], []

  def responses(start, preference, k, context):
    start += f"?{preference.prompt}"
    if layout.rewards:
      expected.append((f"{start}!{preference.chosen}$", Kind.CHOSEN, k))
      expected.append((f"{start}~{preference.rejected}$", Kind.CHOSEN, k))
      return
    start += "!"
    expected.append((f"{start}{preference.chosen}$", Kind.CHOSEN, k))
    if layout.rejected:
      expected.append((f"{start}{preference.rejected}$", Kind.REJECTED, k))
      pairs.append((f"{start}{preference.chosen}$", f"{start}{preference.rejected}$", k, context))

  for k, shot in enumerate(episode.shots):
    if layout.shot_pairs:
      responses(before[k], shot, k, Context.SHOTS)
  for k in layout.query_shots:
    for query in episode.queries:
      responses(before[k], query, k, Context.SHOTS)
  for k in layout.description_shots:
    expected.append((before[k] + "@D$", Kind.DESCRIPTION, k))
    if k in layout.description_queries:
      for query in episode.queries:
        responses(before[k] + "@D$", query, k, Context.DESCRIPTION)
  if layout.description_pairs:
    k = episode.described.shots
    better, worse = (f"{before[k]}@{text}$" for text in "GH")
    expected += [(path, Kind.SAMPLED_DESCRIPTION, k) for path in (better, worse)]
    pairs.append((better, worse, k, Context.DESCRIPTION_PAIR))
    for query in episode.queries if layout.description_pair_queries else ():
      responses(f"{before[k]}@{episode.described.kept}$", query, k, Context.DESCRIPTION)
  paths = [_path_text(built, i) for i in range(len(built.segments))]
  found = [(path, s.kind, s.shots) for path, s in zip(paths, built.segments, strict=True)]
  assert sorted(found) == sorted(expected)
  read = [(paths[p.chosen], paths[p.rejected], p.shots, p.context) for p in built.pairs]
  assert sorted(read) == sorted(pairs)
  # The trunk holds all shots, and a shot's scored chosen response is the one that lies on it.
  trunk = trees.path_to(built.tree, len(built.tree) - 1)
  assert CHARS.decode(built.tree.tokens[trunk]).startswith(before[-1])
  if layout.shot_pairs:
    on_trunk = set(built.tree.segments[trunk].tolist())
    for k, shot in enumerate(episode.shots):
      (segment,) = [
        i for i, path in enumerate(paths) if path == f"{before[k]}?{shot.prompt}!{shot.chosen}$"
      ]
      assert segment in on_trunk


@pytest.mark.parametrize("template", [templates.MARKERS, templates.HEADINGS])
def test_a_path_detokenises_to_the_text_it_was_made_from(template):
  shots = (Preference("Any good?", "Loved it.", "No."), Preference("And this?", "Yes!", "Hm, no"))
  episode = Episode("u", shots, (Preference("Well?", "A gem.", "A bore."),), "Likes films.")
  layout = Layout(query_shots=(2,), description_shots=(2,), description_queries=(2,))
  built = _build(episode, layout, template, tiny.tokenizer())

  def opened(opening, text):
    # SentencePiece puts a space before any text, and a heading is text.
    space = "" if template is templates.MARKERS else " "
    return f"{space}{opening} {text}"

  read = "".join(
    opened(template.question, s.prompt)
    + opened(template.preferred, s.chosen)
    + opened(template.dispreferred, s.rejected)
    for s in shots
  )
  read += opened(template.description, "Likes films.")
  read += opened(template.question, "Well?") + opened(template.preferred, "A gem.")
  (pair,) = [p for p in built.pairs if p.context == Context.DESCRIPTION]
  # Decoding takes the very first space away.
  assert _path_text(built, pair.chosen, tiny.tokenizer()) == read.removeprefix(" ")
  path = trees.path_to(built.tree, int(np.flatnonzero(built.tree.segments == pair.chosen)[-1]))
  ends = np.count_nonzero(built.tree.tokens[path] == tiny.tokenizer().eos_id)
  assert ends == 2 * len(shots) + 2
  assert built.tree.tokens[0] == tiny.tokenizer().bos_id


def test_markers_are_one_token_each_wherever_they_stand():
  form, encode = tiny.formatter(), tiny.tokenizer().encode
  question, preferred, dispreferred, description = (
    form.tokenizer.token_id(marker) for marker in vars(templates.MARKERS).values()
  )
  assert len({question, preferred, dispreferred, description}) == 4
  assert form.question("Any good?") == (question, *encode("Any good?"), preferred)
  assert form.dispreferred("No.") == (dispreferred, *encode("No."), tiny.tokenizer().eos_id)
  assert form.description() == (description,)
