# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a study has found, as records: for the analysis and for other programs.

`users.jsonl` is in the format of "your own users": `experiments/jsonl.py` trains on it as it is.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from fspo_jax import jsonl
from fspo_jax.paths import write_atomic
from fspo_jax.preferences import User
from fspo_jax.study.flow import label_items, preferences
from fspo_jax.study.store import Store

_VALUE = {"ours": 1.0, "theirs": 0.0, "tie": 0.5, "identical": 0.5, "skip": None}


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One answer to "which response is better".

  Attributes:
    user_id: the participant's pseudonym.
    arm: whom the personalized one was compared with.
    prompt: that both answered.
    ours: the personalized response.
    theirs: that of the arm.
    ours_first: whether ours was shown first.
    choice: 'ours', 'theirs', 'tie', 'skip', or 'identical' where there was nothing to ask.
    reason: in the participant's words.
    seconds: from the page to the answer; None if it was not asked.
    revisions: how often the answer was changed.
    position: in the order of the comparisons.
  """

  user_id: str
  arm: str
  prompt: str
  ours: str
  theirs: str
  ours_first: bool
  choice: str
  reason: str
  seconds: float | None
  revisions: int
  position: int

  @property
  def value(self) -> float | None:
    """1 for ours, 0 for theirs, a half where they are as good; None for a skipped one."""
    return _VALUE[self.choice]


@dataclasses.dataclass(frozen=True)
class Participant:
  """Somebody who has consented.

  Attributes:
    user_id: the pseudonym.
    outcome: 'finished', 'too few labels', or None while they are on their way.
    labels: pairs that they labelled.
    skipped: pairs that they did not.
    checks: attention checks that they answered.
    failed: of these, not as they were told to.
    label_seconds: of each labelled pair.
  """

  user_id: str
  outcome: str | None
  labels: int
  skipped: int
  checks: int
  failed: int
  label_seconds: tuple[float, ...]


def participants(store: Store) -> list[Participant]:
  """All who have consented, and have not deleted their data."""
  found = []
  with store.read() as db:
    for person in _people(db):
      rows = db.execute(
        "SELECT pair, arm, phase, key, choice, seconds FROM items i JOIN answers a ON a.item = i.id"
        " WHERE participant = ? ORDER BY position",
        (person["id"],),
      ).fetchall()
      pairs = [row for row in rows if row["pair"] is not None]
      checks = [row for row in rows if row["pair"] is None and row["arm"] is None]
      labelled = [row for row in pairs if row["choice"] != "skip"]
      found.append(
        Participant(
          person["pseudonym"],
          person["outcome"],
          len(labelled),
          len(pairs) - len(labelled),
          len(checks),
          sum(row["choice"] != row["key"] for row in checks),
          tuple(row["seconds"] for row in labelled),
        )
      )
  return found


def comparisons(store: Store) -> list[Comparison]:
  """All comparisons that were answered, and those whose two responses were equal."""
  with store.read() as db:
    rows = db.execute(
      "SELECT i.*, pseudonym, choice, reason, seconds, revision FROM items i"
      " JOIN participants p ON p.id = participant LEFT JOIN answers a ON a.item = i.id"
      " WHERE arm IS NOT NULL AND (choice IS NOT NULL OR phase = 'identical')"
      " ORDER BY pseudonym, phase, position"
    ).fetchall()
  found = []
  for row in rows:
    first, choice = row["key"] == "first", row["choice"] or "identical"
    ours, theirs = (row["first"], row["second"]) if first else (row["second"], row["first"])
    if choice in ("first", "second"):
      choice = "ours" if choice == row["key"] else "theirs"
    found.append(
      Comparison(
        row["pseudonym"],
        row["arm"],
        row["prompt"],
        ours,
        theirs,
        first,
        choice,
        row["reason"] or "",
        row["seconds"],
        max((row["revision"] or 1) - 1, 0),
        row["position"],
      )
    )
  return found


def users(store: Store) -> list[User]:
  """The participants with what they have labelled: users as any others."""
  found = []
  with store.read() as db:
    for person in _people(db):
      labelled = tuple(preferences(label_items(db, person["id"])))
      if labelled:
        found.append(User(person["pseudonym"], labelled))
  return found


def users_jsonl(store: Store) -> bytes:
  """`users` as the lines of a file; empty if there is none."""
  return "".join(line for user in users(store) for line in jsonl.dump(user)).encode()


def comparisons_jsonl(store: Store) -> bytes:
  """`comparisons` as the lines of a file."""
  lines = (json.dumps(dataclasses.asdict(c), ensure_ascii=False) for c in comparisons(store))
  return "".join(f"{line}\n" for line in lines).encode()


def export(store: Store, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes `users.jsonl` and `comparisons.jsonl`; ValueError if nobody has labelled a pair."""
  found = users(store)
  if not found:
    raise ValueError("found no labelled pair, expected one or more to export")
  paths = [folder / "users.jsonl", folder / "comparisons.jsonl"]
  folder.mkdir(parents=True, exist_ok=True)
  jsonl.write_jsonl(paths[0], found)
  write_atomic(paths[1], comparisons_jsonl(store))
  return paths


def _people(db: Any) -> list[Any]:
  return db.execute(
    "SELECT id, pseudonym, outcome FROM participants WHERE consented_at IS NOT NULL"
    " ORDER BY pseudonym"
  ).fetchall()
