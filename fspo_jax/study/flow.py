# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A participant's way through the study: where they are, and what an answer or a response changes.

consent -> labels -> (the model answers) -> comparisons -> the end. Every change is one transaction,
and doing it twice is doing it once.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import json
import sqlite3
from typing import Literal

from fspo_jax.preferences import Preference
from fspo_jax.study import plan
from fspo_jax.study.questions import Questions
from fspo_jax.study.settings import Settings
from fspo_jax.study.store import Store

Page = Literal["consent", "label", "wait", "compare", "done"]
PHASES = ("label", "compare")


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a participant is.

  Attributes:
    page: what they are to see.
    position: of the first item without an answer, on 'label' and 'compare'.
    total: items of this phase, as far as it is known.
    trouble: on 'wait', whether a job has failed for good.
    ahead: on 'wait', how many jobs there are to do, of everybody.
    outcome: on 'done', how it ended.
  """

  page: Page
  position: int = 0
  total: int = 0
  trouble: bool = False
  ahead: int = 0
  outcome: str | None = None


@dataclasses.dataclass(frozen=True)
class Job:
  """Work for the model; `name` is an arm ('respond') or a position ('choose')."""

  id: int
  participant: int
  kind: str
  name: str
  attempts: int


class Flow:
  """The rules of a study, over its store."""

  def __init__(self, store: Store, settings: Settings, questions: Questions) -> None:
    """Takes the parts; see their types."""
    self.store, self.settings, self.questions = store, settings, questions

  def consent(self, participant: int, now: float) -> None:
    """A participant agrees, and gets the first item."""
    with self.store.write() as db:
      agreed = db.execute(
        "UPDATE participants SET consented_at = ?, consent = ?"
        " WHERE id = ? AND consented_at IS NULL AND deleted_at IS NULL",
        (now, self.settings.consent_hash, participant),
      )
      if agreed.rowcount:
        self._advance_labels(db, participant, now)

  def place(self, participant: int) -> Place:
    """Where a participant is."""
    with self.store.read() as db:
      return self._place(db, participant)

  def _place(self, db: sqlite3.Connection, participant: int) -> Place:
    person = db.execute(
      "SELECT consented_at, outcome FROM participants WHERE id = ?", (participant,)
    ).fetchone()
    if person["consented_at"] is None:
      return Place("consent")
    if person["outcome"]:
      return Place("done", outcome=person["outcome"])
    for phase in reversed(PHASES):
      shown, answered, first = db.execute(
        "SELECT count(*), count(a.item), min(CASE WHEN a.item IS NULL THEN position END)"
        " FROM items i LEFT JOIN answers a ON a.item = i.id WHERE participant = ? AND phase = ?",
        (participant, phase),
      ).fetchone()
      if first is not None:
        total = shown if phase == "compare" else self._labels_total(db, participant)
        return Place(phase, position=first, total=total)
      if shown and phase == "compare":
        break
    failed, ahead = db.execute(
      "SELECT count(*) FILTER (WHERE state = 'failed' AND participant = ?),"
      " count(*) FILTER (WHERE state = 'waiting') FROM jobs WHERE state IN ('failed', 'waiting')",
      (participant,),
    ).fetchone()
    return Place("wait", trouble=bool(failed), ahead=ahead)

  def _labels_total(self, db: sqlite3.Connection, participant: int) -> int:
    skipped = db.execute(
      "SELECT count(*) FROM items i JOIN answers a ON a.item = i.id"
      " WHERE participant = ? AND phase = 'label' AND pair IS NOT NULL AND choice = 'skip'",
      (participant,),
    ).fetchone()[0]
    labels, checks = self.settings.labels, self.settings.attention.labels
    return labels.number + checks + min(skipped, labels.spares)

  def item(self, participant: int, phase: str, position: int) -> sqlite3.Row | None:
    """An item that may be answered now, with the answer that it has: so far, or going back."""
    with self.store.read() as db:
      place = self._place(db, participant)
      if place.page != phase or position > place.position:
        return None
      return _item(db, participant, phase, position)

  def answer(
    self,
    participant: int,
    phase: str,
    position: int,
    choice: str,
    *,
    reason: str = "",
    seconds: float,
    revision: int,
    now: float,
  ) -> Literal["saved", "same", "stale", "closed"]:
    """Keeps an answer.

    Args:
      participant: whose.
      phase: 'label' or 'compare'.
      position: of the item.
      choice: 'first', 'second', 'tie' or 'skip'.
      reason: for it.
      seconds: that it took.
      revision: of the answer that was shown with the form; 0 for none.
      now: the time.

    Returns:
      'saved': it is on the disk. 'same': it was already there, as after a double click. 'stale':
      another answer was given since the form was shown, in another window, and holds. 'closed':
      there is nothing to answer there, or not any more.
    """
    with self.store.write() as db:
      place = self._place(db, participant)
      item = _item(db, participant, phase, position)
      if place.page != phase or position > place.position or item is None:
        return "closed"
      if item["choice"] == choice and item["reason"] == reason:
        return "same"
      if (item["revision"] or 0) != revision:
        return "stale"
      if item["choice"] is not None:
        db.execute("INSERT INTO former_answers SELECT * FROM answers WHERE item = ?", (item["id"],))
      db.execute(
        "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
        (item["id"], choice, reason, seconds, now, revision + 1),
      )
      if phase == "label":
        self._advance_labels(db, participant, now)
      else:
        self._advance_comparisons(db, participant, now)
      return "saved"

  def _advance_labels(self, db: sqlite3.Connection, participant: int, now: float) -> None:
    """When all items are answered: the next one, or the end of the labels."""
    rows = label_items(db, participant)
    if any(row["choice"] is None for row in rows):
      return
    labels, position = self.settings.labels, len(rows)
    asked = [row["pair"] for row in rows if row["pair"] is not None]
    known = sum(row["pair"] is not None and row["choice"] != "skip" for row in rows)
    check = plan.label_checks(self.settings, participant).get(position)
    if check is not None:
      _insert(db, participant, "label", position, check)
    elif known < labels.number and len(asked) < labels.number + labels.spares:
      if labels.choose == "random":
        order = plan.pair_order(self.settings, participant, len(self.questions.pairs))
        self._insert_pair(db, participant, position, next(i for i in order if i not in asked))
      else:
        _enqueue(db, participant, "choose", str(position))
    elif known < labels.minimum:
      _end(db, participant, "too few labels", now)
    else:
      for arm in self.settings.arms:
        _enqueue(db, participant, "respond", arm.name)

  def _insert_pair(
    self, db: sqlite3.Connection, participant: int, position: int, index: int
  ) -> None:
    item = plan.label_item(self.settings, participant, index, self.questions.pairs[index])
    _insert(db, participant, "label", position, item)

  def _advance_comparisons(self, db: sqlite3.Connection, participant: int, now: float) -> None:
    if self._place(db, participant).page != "compare":
      _end(db, participant, "finished", now)

  # What the worker asks and tells.

  def next_job(self) -> Job | None:
    """The next job, one attempt counted; people are waiting for questions the most."""
    with self.store.read() as db:
      row = db.execute(
        "SELECT id, participant, kind, name, attempts FROM jobs WHERE state = 'waiting'"
        " ORDER BY kind, attempts, id LIMIT 1"
      ).fetchone()
    if row is None:
      return None
    job = Job(*row)
    if job.attempts >= self.settings.generation.attempts:
      self.failed(job, "the worker did not survive it")
      return self.next_job()
    with self.store.write() as db:
      db.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (job.id,))
    return job

  def shots(self, participant: int) -> list[Preference]:
    """What a participant has labelled, in order, without skips and checks."""
    with self.store.read() as db:
      return preferences(label_items(db, participant))

  def asked(self, participant: int) -> set[int]:
    """The pairs that a participant was shown."""
    with self.store.read() as db:
      return {row["pair"] for row in label_items(db, participant) if row["pair"] is not None}

  def prompts(self, participant: int) -> list[str]:
    """What is to be answered for a participant."""
    return plan.prompts(self.settings, participant, self.questions.prompts)

  def chosen(self, job: Job, index: int) -> None:
    """The model has chosen a pair to ask about. A participant who is gone stays so."""
    with self.store.write() as db:
      if _finish(db, job, json.dumps(index)):
        self._insert_pair(db, job.participant, int(job.name), index)

  def responded(self, job: Job, responses: list[str], now: float) -> None:
    """An arm has answered the prompts; with the last of them, the comparisons are there."""
    result = dict(zip(self.prompts(job.participant), responses, strict=True))
    with self.store.write() as db:
      if not _finish(db, job, json.dumps(result)):
        return
      rows = db.execute(
        "SELECT name, state, result FROM jobs WHERE participant = ? AND kind = 'respond'",
        (job.participant,),
      ).fetchall()
      if any(row["state"] != "done" for row in rows):
        return
      found = {row["name"]: json.loads(row["result"]) for row in rows}
      shown, identical = plan.comparisons(self.settings, job.participant, found)
      for phase, items in (("compare", shown), ("identical", identical)):
        for position, item in enumerate(items):
          _insert(db, job.participant, phase, position, item)
      self._advance_comparisons(db, job.participant, now)

  def failed(self, job: Job, error: str) -> None:
    """A job did not work out; it is tried again, until it has had its attempts."""
    last = job.attempts + 1 >= self.settings.generation.attempts
    with self.store.write() as db:
      db.execute(
        "UPDATE jobs SET state = ?, error = ? WHERE id = ? AND state = 'waiting'",
        ("failed" if last else "waiting", error[:2000], job.id),
      )

  def retry(self) -> int:
    """Gives all failed jobs their attempts anew; how many."""
    with self.store.write() as db:
      return db.execute(
        "UPDATE jobs SET state = 'waiting', attempts = 0 WHERE state = 'failed'"
      ).rowcount


def preferences(rows: Iterable[sqlite3.Row]) -> list[Preference]:
  """The labelled pairs among label items with their answers."""
  found = []
  for row in rows:
    if row["pair"] is not None and row["choice"] in ("first", "second"):
      pair = Preference(row["prompt"], row["first"], row["second"])
      found.append(pair if row["choice"] == "first" else pair.swapped())
  return found


def label_items(db: sqlite3.Connection, participant: int) -> list[sqlite3.Row]:
  """The label items of a participant in order, checks among them, with their answers so far."""
  return db.execute(
    "SELECT i.*, choice FROM items i LEFT JOIN answers a ON a.item = i.id"
    " WHERE participant = ? AND phase = 'label' ORDER BY position",
    (participant,),
  ).fetchall()


def _item(
  db: sqlite3.Connection, participant: int, phase: str, position: int
) -> sqlite3.Row | None:
  return db.execute(
    "SELECT i.*, choice, reason, revision FROM items i LEFT JOIN answers a ON a.item = i.id"
    " WHERE participant = ? AND phase = ? AND position = ?",
    (participant, phase, position),
  ).fetchone()


def _insert(
  db: sqlite3.Connection, participant: int, phase: str, position: int, item: plan.Item
) -> None:
  db.execute(
    "INSERT INTO items (participant, phase, position, prompt, first, second, pair, arm, key)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    (participant, phase, position, *dataclasses.astuple(item)),
  )


def _enqueue(db: sqlite3.Connection, participant: int, kind: str, name: str) -> None:
  db.execute(
    "INSERT OR IGNORE INTO jobs (participant, kind, name, state) VALUES (?, ?, ?, 'waiting')",
    (participant, kind, name),
  )


def _finish(db: sqlite3.Connection, job: Job, result: str) -> bool:
  """Whether the job was still there to be finished."""
  done = db.execute(
    "UPDATE jobs SET state = 'done', result = ?, error = NULL WHERE id = ? AND state = 'waiting'",
    (result, job.id),
  )
  return done.rowcount == 1


def _end(db: sqlite3.Connection, participant: int, outcome: str, now: float) -> None:
  db.execute(
    "UPDATE participants SET ended_at = ?, outcome = ? WHERE id = ?", (now, outcome, participant)
  )
