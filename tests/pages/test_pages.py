# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One document as Markdown and as HTML: both say all of it, and nothing in it comes alive."""

import functools
import html.parser
import re

import hypothesis
from hypothesis import strategies as st
import markdown_it
import matplotlib.figure
import pytest

from fspo_jax.pages import document, figures, markdown, webpage
from fspo_jax.pages.document import (
  Answer,
  Answers,
  Bullets,
  Document,
  Figure,
  Fold,
  Listing,
  Pairs,
  Paragraph,
  Section,
  Span,
  Table,
)
from fspo_jax.preferences import Preference

HOSTILE = '</style></p><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }} | `'
TAGS = set(
  "html head meta title link style body a header h1 h2 h3 h4 nav ul ol li main section p div table "
  "thead tbody tr th td dl dt dd span strong em code pre img details summary".split()
)
VOID = {"meta", "link", "img"}


class Page(html.parser.HTMLParser):
  """What an independent parser makes of a page: its tags in order, its texts, its tables."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self.tables, self._open = [], [], [], []
    self.feed(text)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self._open.append(tag)
    if tag == "table":
      self.tables.append([])
    elif tag == "tr":
      self.tables[-1].append([])
    elif tag in ("td", "th"):
      self.tables[-1][-1].append("")

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)
    if {"td", "th"} & {*self._open}:
      self.tables[-1][-1][-1] += data

  def all(self, tag):
    """The attributes of every tag of a name."""
    return [attrs for name, attrs in self.tags if name == tag]

  @property
  def text(self):
    """All of it, in order."""
    return "".join(self.texts)


def _draw(path, label="x", points=3):
  figure = matplotlib.figure.Figure((2, 1))
  axes = figure.subplots()
  axes.plot([i % 7 for i in range(points)], ".")
  axes.set_title(label, parse_math=False)
  figures.save(figure, path, dpi=50)


def _everything(text):
  """A document with every kind of block, and `text` wherever there can be any."""
  pair = Preference(text, text, text)
  spans = (Span(text), text, Span(text, "code"), Span(text, "emphasis"))
  blocks = [
    Paragraph(spans, lead=True),
    Bullets([text, spans]),
    Table(("", text), [(text, spans), (spans, text)], numeric=True),
    Table(("", ""), [(text, text)]),
    Figure("picture", text, functools.partial(_draw, label=text)),
    Listing(text, "bash"),
    Pairs(text, [pair, pair], first=4),
    Answers([Answer(text, text, [(text, spans), ("known", "")]), Answer("b", text)]),
    Fold(text, [Paragraph(text), Section(text, [Table((text,), [(text,)])], fold="open")]),
  ]
  inner = Section(text, [Section(text, blocks[:3], fold="closed"), blocks[4]])
  return Document(text, [*blocks[:2], Section(text, blocks), Section(text, [inner])])


def _page(tmp_path, made):
  webpage.write(tmp_path / "page.html", made)
  return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_nothing_in_a_page_is_live(tmp_path):
  text = _page(tmp_path, _everything(HOSTILE))
  page, harmless = Page(text), Page(_page(tmp_path, _everything("harmless")))
  # The very tags of a page that nobody tampered with, and all of them known.
  assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
  assert {tag for tag, _ in page.tags} <= TAGS
  for (tag, attrs), (_, expected) in zip(page.tags, harmless.tags, strict=True):
    assert attrs.keys() == expected.keys()
    assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
    for name in ("href", "src"):
      assert re.match(r"data:|#", attrs.get(name, "#")), attrs
  # It is shown as it is, everywhere.
  assert page.text.count(HOSTILE) == harmless.text.count("harmless")
  assert "<script" not in text


def test_the_policy_comes_before_anything_that_it_is_about(tmp_path):
  page = Page(_page(tmp_path, _everything("x")))
  policy = next(a for a in page.all("meta") if "http-equiv" in a)
  assert policy["http-equiv"] == "Content-Security-Policy"
  found = dict(part.split(maxsplit=1) for part in policy["content"].split("; "))
  assert found == {
    "default-src": "'none'",
    "style-src": "'unsafe-inline'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
  }
  tags = [tag for tag, _ in page.tags]
  assert tags.index("meta") + 1 == page.tags.index(("meta", policy)) < tags.index("title")


def test_a_page_can_be_read_by_those_who_cannot_see_it(tmp_path):
  page = Page(_page(tmp_path, _everything("x")))
  assert page.all("html") == [{"lang": "en"}]
  assert all(image["alt"] for image in page.all("img"))
  assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
  assert all(a["aria-label"] for _, a in page.tags if a.get("role") == "region")
  levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
  assert levels.count(1) == 1 == levels[0]
  assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
  ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
  assert len({*ids}) == len(ids)
  links = [attrs["href"][1:] for attrs in page.all("a")]
  assert links == ["main", "section-3", "section-4"]
  assert {*links} <= {*ids}


def test_colours_have_contrast():
  """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 : 1 for text, 3 : 1 for lines that say something."""
  css = (webpage.HERE / "page.css").read_text()
  palettes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in css.split(":root {")[1:]]
  assert len(palettes) == 3  # light, dark, paper

  def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

  for own in palettes:
    colors = palettes[0] | own
    for front, least in (("text", 4.5), ("soft", 4.5), ("accent", 4.5), ("line", 3)):
      for back in ("page", "card"):
        a, b = sorted((luminance(colors[front]), luminance(colors[back])))
        assert (b + 0.05) / (a + 0.05) >= least, (front, back, colors)


def test_equal_documents_give_equal_bytes(tmp_path):
  for i in range(2):
    (tmp_path / str(i)).mkdir()
    markdown.write(tmp_path / str(i) / "page.md", _everything("x"))
    webpage.write(tmp_path / str(i) / "page.html", _everything("x"))
  names = sorted(path.name for path in (tmp_path / "0").iterdir())
  assert names == ["page.html", "page.md", "picture.png"]
  for name in names:
    assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_a_figure_of_many_points_is_no_svg(tmp_path):
  few, many = (
    _page(tmp_path, Document("t", [Figure("f", "alt", functools.partial(_draw, points=points))]))
    for points in (3, 4_000)
  )
  assert Page(few).all("img")[0]["src"].startswith("data:image/svg+xml;base64,")
  assert Page(many).all("img")[0]["src"].startswith("data:image/png;base64,")


def _rendered(tmp_path, made):
  """What a Markdown reader of its own makes of a document."""
  markdown.write(tmp_path / "page.md", made)
  source = (tmp_path / "page.md").read_text(encoding="utf-8")
  reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
  return Page(reader.render(source).replace("<br>", "\n").replace("<hr />", "<hr></hr>"))


SPECIAL = st.text(st.sampled_from("ab \\`*_[]()|~#<>&!-+=1.:$^\n\"'{}/@é"), min_size=1, max_size=9)


def _words(text):
  return text.split()


@hypothesis.given(SPECIAL, SPECIAL)
@hypothesis.settings(max_examples=150)
@hypothesis.example("[54.0, 59.0]", "[1, 2](x)")
@hypothesis.example("- - -", "1. a")
@hypothesis.example("a|b", "``")
def test_both_say_the_same_and_as_it_was_given(tmp_path_factory, one, other):
  tmp_path = tmp_path_factory.mktemp("pages")
  made = Document(
    f"t{one}",
    [
      Paragraph(f"{one}"),
      Bullets([f"{one}", (Span("n:"), f" {other}")]),
      Table(("", one), [(other, one), (one, (Span("n"), f" {other}"))]),
      Section(f"s{other}", [Pairs("shots", [Preference(one, other, one)])]),
    ],
  )
  ours, theirs = Page(_page(tmp_path, made)), _rendered(tmp_path, made)
  assert {tag for tag, _ in theirs.tags} <= TAGS
  cells = [[[*map(_words, row)] for row in table] for table in ours.tables]
  assert [[[*map(_words, row)] for row in table] for table in theirs.tables][:1] == cells
  assert cells[0] == [
    [[], _words(one)],
    [_words(other), _words(one)],
    [_words(one), ["n", *_words(other)]],
  ]
  assert [*map(_words, theirs.tables[1][1][1:])] == [*map(_words, (one, other, one))]
  body = ours.text[ours.text.index("Skip to the content") :]
  for words in (_words(f"t{one}"), _words(one), _words(other), _words(f"s{other}")):
    for page in (body, theirs.text):
      assert " ".join(words) in " ".join(_words(page))


def test_a_table_has_cells_for_its_header():
  with pytest.raises(ValueError, match="expected 2 cells, found 1"):
    Table(("a", "b"), [("x",)])


def test_half_a_surrogate_pair_ends_no_run(tmp_path):
  made = Document("t", [Paragraph("a\ud800b")])
  markdown.write(tmp_path / "page.md", made)
  assert "a\\ud800b" in (tmp_path / "page.md").read_text(encoding="utf-8")
  assert "a\\ud800b" in _page(tmp_path, made)
  assert document.plain(("a", Span("b"))) == "ab"
