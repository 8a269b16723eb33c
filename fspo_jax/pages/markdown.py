# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A document as Markdown, with its figures as PNG files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import html
import os
import pathlib
import re

from fspo_jax.pages.document import (
  Answers,
  Block,
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
  Text,
  spans,
)
from fspo_jax.paths import write_atomic

# An interval such as [69.0, 73.3] is no link, and is read more easily as it is.
_SPECIAL = re.compile(r"(\[-?[\d.]+, -?[\d.]+\](?![(\[:]))|[\\`*_\[\]|~$#]")


def write(path: str | os.PathLike[str], document: Document) -> None:
  """Writes a document, and the figures that are in it into the same folder."""
  path = pathlib.Path(path)
  text = "\n\n".join([f"# {line(document.title)}", *_blocks(document.blocks, 2, path.parent)])
  # Half of a surrogate pair is no text; it is shown by its number.
  write_atomic(path, f"{text}\n".encode(errors="backslashreplace"))


def line(text: Text) -> str:
  """Any text as Markdown that shows it as it is, on one line, also in a table."""
  if isinstance(text, str):
    return _escaped(text.strip())
  return "".join(_span(p) if isinstance(p, Span) else _escaped(p) for p in spans(text))


def table(header: Sequence[Text], rows: Iterable[Sequence[Text]], *, numeric: bool = False) -> str:
  """A table; the first column is always left-aligned."""
  rule = [":--", *(["--:" if numeric else ":--"] * (len(header) - 1))]
  cells = [[*map(_cell, header)], rule, *([*map(_cell, row)] for row in rows)]
  return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _first(text: str) -> str:
  """A line that begins like an item of a list, or is a rule, as the text that it is."""
  return re.sub(r"^(?:(\d+)(?=[.)](?:\s|$))|(?=[-+=]))", r"\1\\", text)


def _cell(text: Text) -> str:
  # A bar ends a cell even within code.
  return re.sub(r"(?<!\\)\|", r"\|", line(text))


def _escaped(text: str) -> str:
  escaped = _SPECIAL.sub(lambda m: m[1] or f"\\{m[0]}", html.escape(text, quote=False))
  return "<br>".join(escaped.splitlines())


def _span(span: Span) -> str:
  if span.style == "code":
    text = " ".join(span.text.splitlines())
    fence = _fence(text, 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
  mark = "**" if span.style == "strong" else "*"
  return f"{mark}{line(span.text)}{mark}"


def _fence(text: str, least: int) -> str:
  """More backticks than there are in a row in what they are around."""
  return "`" * max(least, *(len(run) + 1 for run in re.findall("`*", text)))


def _blocks(blocks: Sequence[Block], level: int, directory: pathlib.Path) -> Iterator[str]:
  for block in blocks:
    match block:
      case Paragraph():
        yield _first(line(block.text))
      case Bullets():
        yield "\n".join(f"- {_first(line(item))}" for item in block.items)
      case Table():
        yield table(block.header, block.rows, numeric=block.numeric)
      case Figure():
        block.draw(directory / f"{block.name}.png")
        yield f"![{line(block.alt)}]({block.name}.png)"
      case Listing():
        fence = _fence(block.text, 3)
        yield f"{fence}{block.language}\n{block.text}\n{fence}"
      case Pairs():
        yield _pairs(block)
      case Answers():
        yield _answers(block)
      case Fold():
        yield f"<details><summary>{html.escape(block.summary)}</summary>"
        # The blank lines inside make a Markdown reader go on reading Markdown.
        yield from _blocks(block.blocks, level, directory)
        yield "</details>"
      case Section():
        yield f"{'#' * level} {line(block.title)}"
        yield from _blocks(block.blocks, level + 1, directory)


def _pairs(block: Pairs) -> str:
  rows = [
    (str(i), pair.prompt, pair.chosen, pair.rejected)
    for i, pair in enumerate(block.pairs, block.first)
  ]
  return table(("", block.name, Span("chosen"), "rejected"), rows)


def _answers(block: Answers) -> str:
  names = [name for name, _ in block.answers[0].facts] if block.answers else []
  rows = [(a.label, a.text, *(fact for _, fact in a.facts)) for a in block.answers]
  return table(("", "response", *names), rows)
