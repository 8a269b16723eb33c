# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preferences and users, the records that everything else is made of; as JSONL and as splits."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import pathlib
import re
from typing import IO
import zlib

KNOWN_KEYS = ("user_id", "prompt", "chosen", "rejected", "description")
REQUIRED_KEYS = KNOWN_KEYS[:-1]
MAX_PROBLEMS = 20

_SURROGATE = re.compile("[\ud800-\udfff]")  # Half a character, which UTF-8 cannot write.
# An episode needs a query and at least one shot whose prompt is not the query's.
_MIN_PROMPTS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Preference:
  """One labelled pair: of two responses to `prompt`, the user prefers `chosen`."""

  prompt: str
  chosen: str
  rejected: str


@dataclasses.dataclass(frozen=True, slots=True)
class User:
  """A user: their preferences and, where it is known, the gold description."""

  user_id: str
  preferences: tuple[Preference, ...]
  description: str | None = None


class PreferenceError(ValueError):
  """Preferences that cannot be used: where, what was found, what was expected."""


class Problems:
  """Gathers what is wrong with one file, so that its owner can mend it all in one go."""

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self.path = os.fspath(path)
    self._shown: list[str] = []
    self._count = 0

  def add(self, line: int | None, found: str, expected: str) -> None:
    """Notes a problem on `line` (from 1; None is the file as a whole)."""
    self._count += 1
    if len(self._shown) < MAX_PROBLEMS:
      place = self.path if line is None else f"{self.path}:{line}"
      self._shown.append(f"{place}: found {found}, expected {expected}")

  def check(self) -> None:
    """Raises PreferenceError with the first 20 problems and the number of the others, if any."""
    if more := self._count - len(self._shown):
      self._shown.append(f"... and {more} more problems in {self.path}")
    if self._shown:
      raise PreferenceError("\n".join(self._shown))


def read_jsonl(path: str | os.PathLike[str]) -> list[User]:
  """Reads users from a JSONL file, plain or gzip (told by its first bytes, not by its name).

  One object a line: `user_id`, `prompt`, `chosen`, `rejected` and, if known, `description`, all
  of them non-empty strings. A user may have several lines, anywhere in the file, every one with
  the same description.

  Returns:
    The users, in order of first appearance, their preferences in the order of the file.

  Raises:
    PreferenceError: naming file and line of up to 20 problems.
    OSError: if the file cannot be read.
  """
  with open_lines(path) as lines:
    return _parse(lines, path)


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
  for user_id in _repeated_ids(users):
    problems.add(None, f"several users {_show(user_id)}", "one user an id")
  for user in users:
    if not user.preferences:
      problems.add(None, f"user {_show(user.user_id)} without preferences", "one or more")
  problems.check()
  # A lone surrogate passes here, to be reported by _parse with its line.
  lines = [line.encode("utf-8", "surrogatepass") for user in users for line in _dump(user)]
  _parse(lines, path)
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


@dataclasses.dataclass(frozen=True)
class Splits:
  """Users to train on and users to evaluate on, split by user *and* by prompt.

  Attributes:
    train: the training users, with none but their preferences on training prompts.
    evaluation: users to evaluate on, by the name of the group, with all their preferences. The
      group 'unseen' holds users never trained on.
    query_prompts: the prompts that evaluation queries may be about; training has none of them.
      Shots may come from any other prompt than the query's.
    set_aside: what is in none of the groups and why: reason ('preferences: ...', 'users: ...')
      to count. Nothing is dropped in silence.

  Raises:
    PreferenceError: if any of this does not hold, a group has two users with one id, or an
      evaluation user has no episode (a query on a query prompt, and a shot on another prompt).
  """

  train: tuple[User, ...]
  evaluation: dict[str, tuple[User, ...]]
  query_prompts: frozenset[str]
  set_aside: dict[str, int]

  def __post_init__(self) -> None:
    trained = {user.user_id for user in self.train}
    for user in self.train:
      if asked := _prompts(user) & self.query_prompts:
        raise PreferenceError(
          f"train, user {_show(user.user_id)}: found a preference on the query prompt "
          f"{_show(min(asked))}, expected training prompts only"
        )
    for name, users in self.evaluation.items():
      for user in users:
        place = f"evaluation {name!r}, user {_show(user.user_id)}"
        if name == "unseen" and user.user_id in trained:
          raise PreferenceError(f"{place}: found in train too, expected users never trained on")
        if not _has_episode(user, self.query_prompts):
          raise PreferenceError(
            f"{place}: found no query prompt with another prompt beside it, expected a query and "
            "a shot"
          )
    for users in (self.train, *self.evaluation.values()):
      for user_id in _repeated_ids(users):
        raise PreferenceError(f"found several users {_show(user_id)}, expected one an id")

  def queries(self, group: str) -> list[tuple[str, Preference]]:
    """All (user_id, preference) of an evaluation group that may be asked as queries, in order."""
    return [
      (user.user_id, preference)
      for user in self.evaluation[group]
      for preference in user.preferences
      if preference.prompt in self.query_prompts
    ]


def split(
  users: Iterable[User], *, unseen_users: float, unseen_prompts: float, seed: int
) -> Splits:
  """Splits users by user and by prompt: train x train, and unseen users' queries on unseen prompts.

  Which side a user or a prompt falls on depends on (seed, user_id) or (seed, prompt) alone, so
  more users never move the others.

  Args:
    users: the users, one an id.
    unseen_users: the share of users never trained on, in (0, 1); a probability, not a quota.
    unseen_prompts: the share of prompts never trained on, in (0, 1).
    seed: any integer.

  Returns:
    The splits, with one evaluation group: 'unseen'.

  Raises:
    ValueError: if a share is not in (0, 1).
    PreferenceError: if nobody is left on one of the sides, or two users have one id.
  """
  for name, share in (("unseen_users", unseen_users), ("unseen_prompts", unseen_prompts)):
    if not 0 < share < 1:
      raise ValueError(f"{name}: found {share}, expected a share between 0 and 1")
  users = list(users)
  prompts = set().union(*map(_prompts, users))
  unseen = {u.user_id for u in users if held_out("user", u.user_id, share=unseen_users, seed=seed)}
  return assemble(
    [user for user in users if user.user_id not in unseen],
    [user for user in users if user.user_id in unseen],
    query_prompts={p for p in prompts if held_out("prompt", p, share=unseen_prompts, seed=seed)},
    set_aside={},
  )


def assemble(
  train: Iterable[User],
  unseen: Iterable[User],
  *,
  query_prompts: Iterable[str],
  set_aside: dict[str, int],
) -> Splits:
  """Makes Splits of a given split: sets aside, and counts, what must not or cannot be used.

  Args:
    train: the users to train on; their preferences on query prompts are set aside.
    unseen: the users never to train on.
    query_prompts: the prompts never to train on.
    set_aside: what the caller has set aside, by reason; added to, in the result only.

  Returns:
    The splits, with the one evaluation group 'unseen'.

  Raises:
    PreferenceError: if nobody is left on one of the sides, or two users have one id.
  """
  query_prompts = frozenset(query_prompts)
  counts = collections.Counter(set_aside)
  training: list[User] = []
  for user in train:
    kept = tuple(p for p in user.preferences if p.prompt not in query_prompts)
    counts["preferences: of training users on unseen prompts"] += len(user.preferences) - len(kept)
    user = dataclasses.replace(user, preferences=kept)
    if len(_prompts(user)) >= _MIN_PROMPTS:
      training.append(user)
    else:
      counts["users: training users with fewer than two training prompts"] += 1
      counts["preferences: of training users with fewer than two training prompts"] += len(kept)
  evaluated: list[User] = []
  for user in unseen:
    if _has_episode(user, query_prompts):
      evaluated.append(user)
    else:
      counts["users: unseen users without a query and a shot"] += 1
      counts["preferences: of unseen users without a query and a shot"] += len(user.preferences)
  set_aside = {reason: count for reason, count in counts.items() if count}
  for side, found in (("training", training), ("unseen", evaluated)):
    if not found:
      raise PreferenceError(
        f"found no {side} user left, expected one or more; set aside: {set_aside}"
      )
  return Splits(tuple(training), {"unseen": tuple(evaluated)}, query_prompts, set_aside)


def held_out(kind: str, name: str, *, share: float, seed: int) -> bool:
  """Whether `name` is among the held-out `share` of its `kind`; a pure function of all four.

  The same on every machine (SHA-256, not Python's salted hash); a larger share holds out a
  superset.
  """
  digest = hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).digest()
  return int.from_bytes(digest[:6]) / 2**48 < share


def _repeated_ids(users: Iterable[User]) -> list[str]:
  counts = collections.Counter(user.user_id for user in users)
  return [user_id for user_id, count in counts.items() if count > 1]


def _prompts(user: User) -> set[str]:
  return {preference.prompt for preference in user.preferences}


def _has_episode(user: User, query_prompts: frozenset[str]) -> bool:
  prompts = _prompts(user)
  return len(prompts) >= _MIN_PROMPTS and not prompts.isdisjoint(query_prompts)


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
      try:
        record = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
      except UnicodeDecodeError as error:
        problems.add(line, f"a byte that is not UTF-8 at column {error.start + 1}", "UTF-8 text")
      except (ValueError, RecursionError) as error:
        found = f"broken JSON ({error})" if raw.strip() else "an empty line"
        problems.add(line, found, "one JSON object")
      else:
        if isinstance(record, dict):
          yield line, record
        else:
          problems.add(line, _kind(record), "one JSON object")
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    problems.add(line + 1, f"a broken gzip stream ({error})", "a whole gzip file")
    return
  if not line:
    problems.add(None, "no line", "one JSON object a line")


def _parse(lines: Iterable[bytes], path: str | os.PathLike[str]) -> list[User]:
  """The users in lines, as `read_jsonl`."""
  problems = Problems(path)
  preferences: dict[str, dict[Preference, int]] = {}  # With the line each was first seen on.
  descriptions: dict[str, tuple[int, str | None]] = {}
  for line, record in json_objects(lines, problems):
    if not _well_formed(record, line, problems):
      continue
    user_id, description = record["user_id"], record.get("description")
    preference = Preference(record["prompt"], record["chosen"], record["rejected"])
    first, known = descriptions.setdefault(user_id, (line, description))
    if description != known:
      was = f"description {_show(description)} of user {_show(user_id)}"
      problems.add(line, was, f"{_show(known)} as on line {first}")
    earlier = preferences.setdefault(user_id, {}).setdefault(preference, line)
    if earlier != line:
      was = f"a preference of user {_show(user_id)} repeated from line {earlier}"
      problems.add(line, was, "it once")
  problems.check()
  return [User(u, tuple(found), descriptions[u][1]) for u, found in preferences.items()]


def _well_formed(record: dict, line: int, problems: Problems) -> bool:
  """Whether a record has the right keys with the right values; notes all that is wrong."""
  found: list[tuple[str, str]] = []
  unknown = [key for key in record if key not in KNOWN_KEYS]
  missing = [key for key in REQUIRED_KEYS if key not in record]
  if unknown:
    names = ", ".join(map(_show, unknown))
    found.append((f"unknown keys {names}", "only " + ", ".join(KNOWN_KEYS)))
  if missing:
    found.append((f"no {', '.join(missing)}", "all of " + ", ".join(REQUIRED_KEYS)))
  for key in KNOWN_KEYS:
    if key not in record:
      continue
    value = record[key]
    if not isinstance(value, str):
      or_none = " (or the key left out)" if key == "description" else ""
      found.append((f"{key} that is {_kind(value)}", "a string" + or_none))
    elif not value.strip():
      found.append((f"{key} that is empty", "text"))
    elif _SURROGATE.search(value):
      found.append((f"{key} with half a surrogate pair", "valid Unicode"))
  if not found and record["chosen"].strip() == record["rejected"].strip():
    found.append((f"chosen equal to rejected ({_show(record['chosen'])})", "two responses"))
  for was, expected in found:
    problems.add(line, was, expected)
  return not found


def _dump(user: User) -> Iterator[str]:
  """The user's lines of JSONL."""
  description = {} if user.description is None else {"description": user.description}
  for p in user.preferences:
    texts = {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
    yield json.dumps({"user_id": user.user_id} | texts | description, ensure_ascii=False) + "\n"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
  record = dict(pairs)
  if len(record) < len(pairs):
    key, count = collections.Counter(key for key, _ in pairs).most_common(1)[0]
    raise ValueError(f"the key {_show(key)} {count} times")
  return record


def _show(value: object) -> str:
  text = json.dumps(value, ensure_ascii=True)
  return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: object) -> str:
  names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
  return "null" if value is None else names.get(type(value), "a number") + f" ({_show(value)})"
