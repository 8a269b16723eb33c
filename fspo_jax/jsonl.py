# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Users as JSONL: written whole or not at all; read strictly, or with what is bad set aside."""

from __future__ import annotations

import codecs
import collections
from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import re
from typing import IO
import zlib

from fspo_jax.preferences import Preference, PreferenceError, User

KNOWN_KEYS = ("user_id", "prompt", "chosen", "rejected", "description")
REQUIRED_KEYS = KNOWN_KEYS[:-1]
MAX_PROBLEMS = 20

_SURROGATE = re.compile("[\ud800-\udfff]")  # Half a character, which UTF-8 cannot write.


class Problems:
  """Gathers what is wrong with one file, so that its owner can mend it all in one go.

  Attributes:
    path: of the file.
    kinds: how often there was a problem of each kind, of those that were noted with one.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self.path = os.fspath(path)
    self.kinds: collections.Counter[str] = collections.Counter()
    self._shown: list[str] = []
    self._count = 0

  def add(self, line: int | None, found: str, expected: str, kind: str | None = None) -> None:
    """Notes a problem on `line` (from 1; None is the file as a whole)."""
    self._count += 1
    if kind is not None:
      self.kinds[kind] += 1
    if len(self._shown) < MAX_PROBLEMS:
      place = self.path if line is None else f"{self.path}:{line}"
      self._shown.append(f"{place}: found {found}, expected {expected}")

  def report(self) -> str:
    """The first 20 problems, one a line, and the number of the others; empty for none."""
    more = self._count - len(self._shown)
    return "\n".join(
      [*self._shown, *([f"... and {more} more problems in {self.path}"] if more else [])]
    )

  def check(self) -> None:
    """Raises PreferenceError with the report, if there is any problem."""
    if self._count:
      raise PreferenceError(self.report())


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
  """What could be used of a file, and what could not.

  Attributes:
    users: as `read_jsonl` gives them, of the good lines alone.
    set_aside: what was bad by reason ('lines: ...', 'users: ...', 'preferences: ...') to count.
      A line that is bad in several ways counts once, for the first of them.
    report: the first 20 problems with their lines, and the number of the others; empty for none.
  """

  users: list[User]
  set_aside: dict[str, int]
  report: str


def read_jsonl(path: str | os.PathLike[str], *, min_prompts: int = 1) -> list[User]:
  """Reads users from a JSONL file, plain or gzip (told by its first bytes, not by its name).

  One object a line: `user_id`, `prompt`, `chosen`, `rejected` and, if known, `description`, all
  of them non-empty strings, in UTF-8 (with a byte order mark or without). A user may have several
  lines, anywhere in the file, every one with the same description.

  Args:
    path: the file.
    min_prompts: how many different prompts every user must have; episodes need
      `preferences.MIN_PROMPTS`.

  Returns:
    The users, in order of first appearance, their preferences in the order of the file.

  Raises:
    PreferenceError: naming file and line of up to 20 problems.
    OSError: if the file cannot be read.
  """
  problems = Problems(path)
  with open_lines(path) as lines:
    users = _parse(lines, problems, min_prompts)
  problems.check()
  return users


def read_jsonl_leniently(path: str | os.PathLike[str], *, min_prompts: int = 1) -> Read:
  """Reads the good lines of a file, as `read_jsonl`, and counts what it would have refused.

  Of a repeated preference the first line is good. Where a user's lines have several descriptions,
  those with the most common one are good (of equally common ones, the first). Of a broken gzip
  file, the lines before the break are good.

  Raises:
    PreferenceError: if nothing is good, naming file and line of up to 20 problems.
    OSError: if the file cannot be read.
  """
  problems = Problems(path)
  with open_lines(path) as lines:
    users = _parse(lines, problems, min_prompts)
  if not users:
    problems.check()
  return Read(users, dict(problems.kinds), problems.report())


def write_jsonl(path: str | os.PathLike[str], users: Iterable[User]) -> None:
  """Writes users as JSONL, gzip if the name ends in .gz: the whole file, or nothing at all.

  `read_jsonl` gives the same users back. A file that is there is replaced.

  Raises:
    PreferenceError: if `read_jsonl` would not give them back: no user at all, a user without
      preferences, two with one id, or anything that `read_jsonl` rejects. Nothing is written.
  """
  path = pathlib.Path(path)
  users = list(users)
  problems = Problems(path)
  counts = collections.Counter(user.user_id for user in users)
  for user_id, count in counts.items():
    if count > 1:
      problems.add(None, f"several users {show(user_id)}", "one user an id")
  for user in users:
    if not user.preferences:
      problems.add(None, f"user {show(user.user_id)} without preferences", "one or more")
  problems.check()
  # A lone surrogate passes here, to be reported by _parse with its line.
  lines = [line.encode("utf-8", "surrogatepass") for user in users for line in dump(user)]
  _parse(lines, problems, min_prompts=1)
  problems.check()
  content = b"".join(lines)
  # No time stamp in a gzip file: the same users give the same bytes.
  content = gzip.compress(content, mtime=0) if path.suffix == ".gz" else content
  # In the same folder, so that the last step is a rename within one file system.
  temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    with open(temporary, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def open_lines(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
  """Opens a file, gzip or not (told by its first bytes), to iterate over its lines as bytes."""
  with open(path, "rb") as file:
    yield gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file


def json_objects(lines: Iterable[bytes], problems: Problems) -> Iterator[tuple[int, dict]]:
  """Yields (line number from 1, object) of JSONL, and notes every line that is not an object."""
  line = 0
  try:
    for line, raw in enumerate(lines, start=1):
      raw = raw.rstrip(b"\r\n")  # Or a cut line would be said to have a control character.
      if wrong := _not_text(raw, line):
        problems.add(line, *wrong, kind="lines: not UTF-8 text")
        continue
      try:
        # Of bytes, so that the mark is skipped that some editors write before UTF-8.
        record = json.loads(raw, object_pairs_hook=_unique_keys)
      except (ValueError, RecursionError) as error:
        found, kind = f"broken JSON ({error})", "lines: broken JSON"
        if not raw.strip():
          found, kind = "an empty line", "lines: empty"
        problems.add(line, found, "one JSON object", kind)
      else:
        if isinstance(record, dict):
          yield line, record
        else:
          problems.add(line, kind_of(record), "one JSON object", "lines: not an object")
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    found = f"a broken gzip stream ({error})"
    problems.add(line + 1, found, "a whole gzip file", "files: a broken gzip stream")
    return
  if not line:
    problems.add(None, "no line", "one JSON object a line")


def show(value: object) -> str:
  """A value for a message: as JSON, in ASCII, cut to 60 characters."""
  text = json.dumps(value, ensure_ascii=True)
  return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
  """The kind of a JSON value, and the value, for a message."""
  names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
  return "null" if value is None else names.get(type(value), "a number") + f" ({show(value)})"


def _not_text(raw: bytes, line: int) -> tuple[str, str] | None:
  """What keeps a line from being UTF-8 text, as (found, expected)."""
  if line == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    return "UTF-16 or UTF-32 text (by its byte order mark)", "UTF-8 text"
  if (column := raw.find(b"\0")) >= 0:
    return f"a zero byte at column {column + 1} (UTF-16, or no text at all)", "UTF-8 text"
  try:
    raw.decode("utf-8")
  except UnicodeDecodeError as error:
    byte = f"0x{raw[error.start]:02X}, {show(chr(raw[error.start]))} in Latin-1"
    return f"a byte that is not UTF-8 at column {error.start + 1} ({byte})", "UTF-8 text"
  return None


def _parse(lines: Iterable[bytes], problems: Problems, min_prompts: int) -> list[User]:
  """The users in the good lines; notes what is wrong with the others."""
  rows: dict[str, list[tuple[int, str | None, Preference]]] = {}
  for line, record in json_objects(lines, problems):
    if _well_formed(record, line, problems):
      preference = Preference(record["prompt"], record["chosen"], record["rejected"])
      row = (line, record.get("description"), preference)
      rows.setdefault(record["user_id"], []).append(row)
  found = (_user(user_id, rows[user_id], problems, min_prompts) for user_id in rows)
  return [user for user in found if user is not None]


def _user(
  user_id: str,
  rows: list[tuple[int, str | None, Preference]],
  problems: Problems,
  min_prompts: int,
) -> User | None:
  """A user of well-formed rows (line, description, preference); notes what is wrong with them."""
  counts = collections.Counter(description for _, description, _ in rows)
  description = max(counts, key=counts.__getitem__)  # Of equals, the first.
  first = next(line for line, known, _ in rows if known == description)
  seen: dict[Preference, int] = {}  # With the line each was first seen on.
  for line, its, preference in rows:
    if its != description:
      was = f"description {show(its)} of user {show(user_id)}"
      kind = "lines: another description than the user's"
      problems.add(line, was, f"{show(description)} as on line {first}", kind)
    elif (earlier := seen.setdefault(preference, line)) != line:
      was = f"a preference of user {show(user_id)} repeated from line {earlier}"
      problems.add(line, was, "it once", "lines: a preference repeated")
  prompts = {preference.prompt for preference in seen}
  if len(prompts) >= min_prompts:
    return User(user_id, tuple(seen), description)
  few = f"fewer than {min_prompts} prompts"
  was = f"user {show(user_id)} with {len(prompts)} prompt{'s' * (len(prompts) != 1)} in the file"
  expected = f"{min_prompts} or more: a query's prompt is never among its shots"
  problems.add(first, was, expected, f"users: {few}")
  problems.kinds[f"preferences: of users with {few}"] += len(seen)
  return None


def _well_formed(record: dict, line: int, problems: Problems) -> bool:
  """Whether a record has the right keys with the right values; notes all that is wrong."""
  wrong = list(_what_is_wrong(record))
  for index, (kind, found, expected) in enumerate(wrong):
    problems.add(line, found, expected, f"lines: {kind}" if index == 0 else None)
  return not wrong


def _what_is_wrong(record: dict) -> Iterator[tuple[str, str, str]]:
  """All that is wrong with a record, as (kind, found, expected)."""
  fine = True
  unknown = [key for key in record if key not in KNOWN_KEYS]
  missing = [key for key in REQUIRED_KEYS if key not in record]
  if unknown:
    names = ", ".join(map(show, unknown))
    yield "an unknown key", f"unknown keys {names}", "only " + ", ".join(KNOWN_KEYS)
  if missing:
    yield "a key missing", f"no {', '.join(missing)}", "all of " + ", ".join(REQUIRED_KEYS)
  for key in KNOWN_KEYS:
    if key not in record:
      continue
    if found := not_usable(record[key]):
      was, expected = found
      or_none = " (or the key left out)" if key == "description" else ""
      yield "a value that is not usable text", f"{key} {was}", expected + or_none
      fine = False
  if fine and not missing and record["chosen"].strip() == record["rejected"].strip():
    was = f"chosen equal to rejected ({show(record['chosen'])})"
    yield "chosen equal to rejected", was, "two responses"


def not_usable(value: object) -> tuple[str, str] | None:
  """Why a value cannot be one of a preference's texts, as (found, expected); None if it can."""
  if not isinstance(value, str):
    return f"that is {kind_of(value)}", "a string"
  if not value.strip():
    return "that is empty", "text"
  if _SURROGATE.search(value):
    return "with half a surrogate pair", "valid Unicode"
  return None


def dump(user: User) -> Iterator[str]:
  """The user's lines of JSONL."""
  description = {} if user.description is None else {"description": user.description}
  for p in user.preferences:
    texts = {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
    yield json.dumps({"user_id": user.user_id} | texts | description, ensure_ascii=False) + "\n"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
  record = dict(pairs)
  if len(record) < len(pairs):
    key, count = collections.Counter(key for key, _ in pairs).most_common(1)[0]
    raise ValueError(f"the key {show(key)} {count} times")
  return record
