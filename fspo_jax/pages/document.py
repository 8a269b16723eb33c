# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a page says, and nothing of how it looks: sections of text, tables, figures, pairs.

`markdown.py` and `webpage.py` show it, each all of it, so that the two cannot disagree. Any text
may be anybody's (a model's, a user's, the name of a file): whoever shows it escapes it. A block's
`kind` is for templates, which know no classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import ClassVar, Literal

from fspo_jax.preferences import Preference


@dataclasses.dataclass(frozen=True)
class Span:
  """A piece of a line that stands out."""

  text: str
  style: Literal["strong", "emphasis", "code"] = "strong"


# A line of text: plain, or in pieces.
Text = str | Span | tuple[str | Span, ...]


def spans(text: Text) -> list[Span | str]:
  """The pieces of a line."""
  return list(text) if isinstance(text, tuple) else [text]


def plain(text: Text) -> str:
  """A line without what stands out in it."""
  return "".join(piece if isinstance(piece, str) else piece.text for piece in spans(text))


@dataclasses.dataclass(frozen=True)
class Paragraph:
  """A paragraph; the `lead` is what a reader who reads one thing should read."""

  text: Text
  lead: bool = False
  kind: ClassVar = "paragraph"


@dataclasses.dataclass(frozen=True)
class Bullets:
  """A list without an order."""

  items: Sequence[Text]
  kind: ClassVar = "bullets"


@dataclasses.dataclass(frozen=True)
class Table:
  """A table whose first column names its rows.

  Attributes:
    header: of every column; all '' for none.
    rows: the cells, as many in each as in the header.
    numeric: whether all columns but the first are numbers, to be aligned.
  """

  header: Sequence[Text]
  rows: Sequence[Sequence[Text]]
  numeric: bool = False
  kind: ClassVar = "table"

  def __post_init__(self) -> None:
    for row in self.rows:
      if len(row) != len(self.header):
        raise ValueError(f"row {list(row)}: expected {len(self.header)} cells, found {len(row)}")


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture.

  Attributes:
    name: of its file, without what follows the dot.
    alt: what is to be seen in it, for who cannot see it.
    draw: writes it to a path, as PNG or SVG by how that ends; the same bytes every time.
  """

  name: str
  alt: str
  draw: Callable[[pathlib.Path], None]
  kind: ClassVar = "figure"


@dataclasses.dataclass(frozen=True)
class Listing:
  """Lines for a machine, such as commands; `language` is a name as GitHub has it."""

  text: str
  language: str
  kind: ClassVar = "listing"


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Labelled pairs of a user, numbered from `first`."""

  name: str
  pairs: Sequence[Preference]
  first: int = 1
  kind: ClassVar = "pairs"


@dataclasses.dataclass(frozen=True)
class Answer:
  """One of several answers to the same prompt: whose, what, and `facts` about it by name."""

  label: str
  text: str
  facts: Sequence[tuple[str, Text]] = ()


@dataclasses.dataclass(frozen=True)
class Answers:
  """Answers side by side; all have the same facts, '' where one is not known."""

  answers: Sequence[Answer]
  kind: ClassVar = "answers"


@dataclasses.dataclass(frozen=True)
class Fold:
  """What a reader may open."""

  summary: str
  blocks: Sequence[Block]
  kind: ClassVar = "fold"


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading and what is under it; on a page that can, it may be a `fold`, at first as it says."""

  title: str
  blocks: Sequence[Block]
  fold: Literal["", "open", "closed"] = ""
  kind: ClassVar = "section"


Block = Paragraph | Bullets | Table | Figure | Listing | Pairs | Answers | Fold | Section


@dataclasses.dataclass(frozen=True)
class Document:
  """A page."""

  title: str
  blocks: Sequence[Block]
