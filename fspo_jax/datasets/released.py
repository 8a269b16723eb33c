# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The three sets that the paper's authors have released, in their own schemas.

Singh et al. 2025 (arXiv 2502.19312); the repositories are named in the README of their code,
github.com/Asap7772/fewshot-preference-optimization. A row is a judged pair. Their users are the
scorers: a level of expertise (ELIX), a kind of review (Reviews), a persona (Roleplay).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import os
import pathlib
from typing import Any

from fspo_jax import jsonl
from fspo_jax.datasets import source_set_builder
from fspo_jax.preferences import Preference, PreferenceError, User

_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
  """One row: who judged, what is known of them, and the pair."""

  user_id: str
  description: str | None
  preference: Preference


class ColumnError(ValueError):
  """A value that a column cannot have; its arguments are what was found, what was expected."""


@dataclasses.dataclass(frozen=True)
class Schema:
  """How one of the sets is stored.

  Attributes:
    repository: where it is, on Hugging Face.
    columns: that are read; others are ignored.
    judgement: makes a judgement of a row that has the columns; raises ColumnError.
  """

  repository: str
  columns: tuple[str, ...]
  judgement: Callable[[Mapping[str, Any]], Judgement]

  @property
  def how_to_get(self) -> str:
    """Where the data is, and under which licence."""
    return (
      f"download the files of huggingface.co/datasets/{self.repository} (we do not know their "
      "licence: see that page) into the folder, as they are: "
      f"{', '.join('*' + suffix for suffix in _SUFFIXES)} with the columns "
      f"{', '.join(self.columns)}"
    )


def read(
  folder: str | os.PathLike[str], schema: Schema
) -> tuple[list[User], collections.Counter[str]]:
  """Reads all files of a folder, whatever splits they are named after.

  Texts are stripped of the white space around them, as the paper's code does. Of a user's
  descriptions the most common one is taken; judgements made with another are set aside.

  Returns:
    The users with at least two prompts, in order of first appearance; and what was set aside, by
    reason.

  Raises:
    FileNotFoundError: if there is no file, saying where to get them.
    PreferenceError: naming file, line (of JSONL) or row (of parquet, from 1) and column of up to
      20 problems of the first file that has any.
    ImportError: if a file is parquet and pyarrow is not installed.
  """
  texts: dict[str, str] = {}  # Most responses are in many pairs: each is kept once.
  rows: dict[str, list[tuple[str | None, Preference]]] = {}
  for file in _files(pathlib.Path(folder), schema):
    problems = jsonl.Problems(file)
    for number, row in _rows(file, schema.columns, problems):
      try:
        judged = schema.judgement(row)
      except ColumnError as error:
        problems.add(number, *error.args)
        continue
      kept = (
        texts.setdefault(x, x) for x in map(str.strip, dataclasses.astuple(judged.preference))
      )
      rows.setdefault(judged.user_id, []).append((judged.description, Preference(*kept)))
    problems.check()
  set_aside: collections.Counter[str] = collections.Counter()
  found = (_user(user_id, judged, set_aside) for user_id, judged in rows.items())
  return [user for user in found if user is not None], set_aside


def _files(folder: pathlib.Path, schema: Schema) -> list[pathlib.Path]:
  files = sorted(file for suffix in _SUFFIXES for file in folder.rglob(f"*{suffix}"))
  if not files:
    raise FileNotFoundError(f"{folder}: found no {' or '.join(_SUFFIXES)}; {schema.how_to_get}")
  return files


def _user(
  user_id: str, rows: list[tuple[str | None, Preference]], set_aside: collections.Counter[str]
) -> User | None:
  """A user of their rows (description, preference); counts what cannot be used."""
  counts = collections.Counter(description for description, _ in rows)
  description = max(counts, key=counts.__getitem__)
  usable: dict[Preference, None] = {}
  for its, preference in rows:
    if its != description:
      set_aside["preferences: by another description than most of the user's"] += 1
    elif not all(dataclasses.astuple(preference)):
      set_aside["preferences: an empty text"] += 1
    elif preference.chosen == preference.rejected:
      set_aside["preferences: equal responses"] += 1
    elif preference in usable:
      set_aside["preferences: repeated"] += 1
    else:
      usable[preference] = None
  return source_set_builder.user_of(user_id, usable, description, set_aside)


def _rows(
  file: pathlib.Path, columns: tuple[str, ...], problems: jsonl.Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
  """(line or row from 1, row) of a file; notes those without the columns."""
  if file.suffix == ".parquet":
    yield from _parquet_rows(file, columns)
    return
  with jsonl.open_lines(file) as lines:
    for line, record in jsonl.json_objects(lines, problems):
      if absent := [column for column in columns if column not in record]:
        problems.add(line, f"no column {', '.join(absent)}", f"the columns {', '.join(columns)}")
      else:
        yield line, record


def _parquet_rows(
  file: pathlib.Path, columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
  try:
    import pyarrow as pa
    import pyarrow.parquet as pq
  except ImportError as error:
    raise ImportError(
      f"{file}: reading parquet needs pyarrow: pip install 'fspo_jax[parquet]', or give JSONL"
    ) from error
  number = 0
  try:
    with pq.ParquetFile(file) as table:
      if absent := [column for column in columns if column not in table.schema_arrow.names]:
        names = ", ".join(table.schema_arrow.names)
        raise PreferenceError(
          f"{file}: found no column {', '.join(absent)} (among {names}), expected the columns "
          f"{', '.join(columns)}"
        )
      # In small batches, so that memory holds the texts and no table.
      for batch in table.iter_batches(batch_size=512, columns=list(columns)):
        for row in batch.to_pylist():
          number += 1
          yield number, row
  except (pa.ArrowException, OSError) as error:
    raise PreferenceError(
      f"{file}: row {number + 1}: found {error}, expected a whole parquet file"
    ) from error


def _text(row: Mapping[str, Any], column: str) -> str:
  """A text, which may be empty: that is counted later, not refused."""
  value = row[column]
  if isinstance(value, str) and not value.strip():
    return ""
  if wrong := jsonl.not_usable(value):
    found, expected = wrong
    raise ColumnError(f"column {column} {found}", expected)
  return value


def _level(row: Mapping[str, Any], column: str) -> str:
  """What names a user: text, or a number."""
  value = row[column]
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not (text := _text(row, column)):
    raise ColumnError(f"column {column} that is empty", "what tells users apart")
  return text.strip()


def _scored(row: Mapping[str, Any], describe: Callable[[str], str]) -> Judgement:
  """A row of ELIX or Reviews: label 0 says that response_x is preferred, 1 that response_y is."""
  if row["label"] not in (0, 1):
    found = f"column label that is {jsonl.kind_of(row['label'])}"
    raise ColumnError(found, "0 (x preferred) or 1 (y preferred)")
  level = _level(row, "scorer_level")
  responses = [_text(row, "response_x"), _text(row, "response_y")]
  if row["label"] == 1:
    responses.reverse()
  known = describe(level) if isinstance(row["scorer_level"], str) else None
  return Judgement(level, known, Preference(_text(row, "prompt"), *responses))


def _elix(row: Mapping[str, Any]) -> Judgement:
  return _scored(row, str)


def _review(row: Mapping[str, Any]) -> Judgement:
  # Levels are words that are joined where two hold, as 'positive+concise'.
  return _scored(row, lambda level: f"Prefers {level.replace('+', ' and ')} reviews.")


def _roleplay(row: Mapping[str, Any]) -> Judgement:
  """A row of Roleplay: yw was preferred to yl by the persona."""
  persona = row["score_persona"]
  # Text, or an object of the persona's traits with the text among them.
  if isinstance(persona, Mapping):
    persona = persona.get("persona_description")
  description = _text({"score_persona": persona}, "score_persona").strip() or None
  texts = (_text(row, column) for column in ("x", "yw", "yl"))
  return Judgement(_level(row, "level"), description, Preference(*texts))


_SCORED_COLUMNS = ("prompt", "response_x", "response_y", "scorer_level", "label")

ELIX = Schema("Asap7772/elix_generations_gpt4omini_pref", _SCORED_COLUMNS, _elix)
REVIEWS = Schema("Asap7772/steered_reviews_full_autolabel_gpt4o_pref", _SCORED_COLUMNS, _review)
ROLEPLAY = Schema(
  "sher222/persona-iterative-responses", ("x", "yw", "yl", "level", "score_persona"), _roleplay
)


class ReleasedSetBuilder(source_set_builder.SourceSetBuilder):
  """Base of the builders of the three sets: a subclass has the schema, and how to get the data."""

  SCHEMA: Schema

  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    return _files(folder, self.SCHEMA)

  def _read(self, folder: pathlib.Path) -> tuple[list[User], collections.Counter[str]]:
    return read(folder, self.SCHEMA)
