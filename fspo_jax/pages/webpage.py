# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A document as one HTML file that asks nobody for anything: its figures and its style are in it.

Everything in it is escaped, figures are images, in which nothing runs, and a policy in the page's
head forbids browsers whatever it does not need. It works without JavaScript: it has none.
"""

from __future__ import annotations

import base64
import os
import pathlib
import tempfile

import jinja2

from fspo_jax.pages.document import Document, Figure, spans
from fspo_jax.paths import write_atomic

# Of a figure, in bytes; one of more points than this is smaller as PNG.
_LARGEST_SVG = 250_000

HERE = pathlib.Path(__file__).parent

_PAGES = jinja2.Environment(
  loader=jinja2.FileSystemLoader(HERE),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)


def write(path: str | os.PathLike[str], document: Document) -> None:
  """Writes a document as HTML; equal documents give equal bytes."""
  page = _PAGES.get_template("page.html").render(document=document)
  # Half of a surrogate pair is no text; it is shown by its number.
  write_atomic(pathlib.Path(path), f"{page}\n".encode(errors="backslashreplace"))


def _source(figure: Figure) -> str:
  """A figure as the address of an image that is in the address."""
  with tempfile.TemporaryDirectory() as directory:
    drawn = pathlib.Path(directory) / f"{figure.name}.svg"
    figure.draw(drawn)
    data, kind = drawn.read_bytes(), "svg+xml"
    if len(data) > _LARGEST_SVG:
      figure.draw(drawn.with_suffix(".png"))
      data, kind = drawn.with_suffix(".png").read_bytes(), "png"
  return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_PAGES.globals |= {"source": _source, "spans": spans}
