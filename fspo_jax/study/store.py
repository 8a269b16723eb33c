# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The study's SQLite file: transactions, invitations, sessions, deletion, and what happened.

Every write is one transaction, on the disk before it is acknowledged (WAL with synchronous=FULL),
so that neither a killed server nor a machine without power loses an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
import queue
import secrets
import sqlite3
import threading
import time

from fspo_jax.study import security

FILE = "study.sqlite"
SESSION_DAYS = 30.0
RESEARCHER_HOURS = 12.0
_SESSIONS = 20  # of a participant; the oldest go
_SCHEMA = pathlib.Path(__file__).with_name("schema.sql")
_DAY = 86_400.0


@dataclasses.dataclass(frozen=True)
class Session:
  """A browser that has shown a valid link, or the password."""

  token: bytes  # hashed
  participant: int | None  # None: the researcher


class Store:
  """The file of one study; any number of threads and processes may have it open."""

  def __init__(self, folder: str | os.PathLike[str], *, retention_days: float) -> None:
    """Opens the file, makes it where there is none, and deletes what is too old to be kept.

    Args:
      folder: of the study.
      retention_days: how long answers are kept.
    """
    self.path = pathlib.Path(folder) / FILE
    self._retention = retention_days * _DAY
    self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
    # SQLite has one writer at a time; waiting here costs less than its own polling.
    self._writing = threading.Lock()
    os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # nobody else's to read
    with self._connection() as db:
      db.executescript(_SCHEMA.read_text(encoding="utf-8"))
    with self.write() as db:
      db.execute("INSERT OR IGNORE INTO meta VALUES ('key', ?)", (secrets.token_bytes(32),))
    self.key = bytes(self.meta("key"))
    self.purge(time.time())

  def _connect(self) -> sqlite3.Connection:
    db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
      db.execute(f"PRAGMA {pragma}")
    return db

  @contextlib.contextmanager
  def _connection(self) -> Iterator[sqlite3.Connection]:
    try:
      db = self._idle.get_nowait()
    except queue.Empty:
      db = self._connect()
    try:
      yield db
    finally:
      self._idle.put(db)

  @contextlib.contextmanager
  def read(self) -> Iterator[sqlite3.Connection]:
    """A transaction that sees one state of the study."""
    with self._connection() as db, _transaction(db, "BEGIN"):
      yield db

  @contextlib.contextmanager
  def write(self) -> Iterator[sqlite3.Connection]:
    """A transaction that is on the disk when it is over, or did nothing if it raises."""
    with self._writing, self._connection() as db, _transaction(db, "BEGIN IMMEDIATE"):
      yield db

  def close(self) -> None:
    """Closes the connections that are not in use."""
    with contextlib.suppress(queue.Empty):
      while True:
        self._idle.get_nowait().close()

  def meta(self, key: str) -> bytes | str | None:
    """A value that was kept with `set_meta`."""
    with self.read() as db:
      row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]

  def set_meta(self, key: str, value: bytes | str) -> None:
    """Keeps a value."""
    with self.write() as db:
      db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

  def note(self, what: str, detail: str, now: float) -> None:
    """Records what a reader of the results must know, such as that estimates were looked at."""
    with self.write() as db:
      db.execute("INSERT INTO events (at, what, detail) VALUES (?, ?, ?)", (now, what, detail))

  def events(self) -> list[sqlite3.Row]:
    """All that was noted, the oldest first."""
    with self.read() as db:
      return db.execute("SELECT at, what, detail FROM events ORDER BY id").fetchall()

  # Invitations and sessions.

  def invite(self, count: int, now: float) -> list[tuple[int, str]]:
    """Makes invitations: their numbers and secret tokens, which only the caller ever knows."""
    made = []
    with self.write() as db:
      for _ in range(count):
        token = security.new_token()
        found = db.execute(
          "INSERT INTO participants (pseudonym, token, invited_at) VALUES (?, ?, ?)",
          (_pseudonym(), security.token_hash(token), now),
        )
        made.append((int(found.lastrowid or 0), token))
    return made

  def revoke(self, participant: int, now: float) -> bool:
    """Makes a link useless, at once; what was answered is kept. False if there is none."""
    with self.write() as db:
      db.execute("DELETE FROM sessions WHERE participant = ?", (participant,))
      done = db.execute(
        "UPDATE participants SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
        (now, participant),
      )
      return done.rowcount == 1

  def join(self, token: str) -> sqlite3.Row | None:
    """The participant of a link, unless it is unknown or revoked."""
    with self.read() as db:
      return db.execute(
        "SELECT * FROM participants WHERE token = ? AND revoked_at IS NULL",
        (security.token_hash(token),),
      ).fetchone()

  def open_session(self, participant: int | None, now: float) -> str:
    """Makes a session; returns its secret, for the cookie."""
    token = security.new_token()
    kept = RESEARCHER_HOURS * 3600 if participant is None else SESSION_DAYS * _DAY
    with self.write() as db:
      db.execute(
        "INSERT INTO sessions VALUES (?, ?, ?)",
        (security.token_hash(token), participant, now + kept),
      )
      db.execute(
        "DELETE FROM sessions WHERE participant IS ?1 AND rowid NOT IN (SELECT rowid FROM sessions"
        " WHERE participant IS ?1 ORDER BY expires_at DESC LIMIT ?2)",
        (participant, _SESSIONS),
      )
    return token

  def session(self, token: str, now: float) -> Session | None:
    """The session of a cookie; None if there is none, or not any more."""
    hashed = security.token_hash(token)
    with self.read() as db:
      row = db.execute(
        "SELECT participant FROM sessions WHERE token = ? AND expires_at > ?", (hashed, now)
      ).fetchone()
    return None if row is None else Session(hashed, row["participant"])

  def close_session(self, session: Session) -> None:
    """Forgets a session."""
    with self.write() as db:
      db.execute("DELETE FROM sessions WHERE token = ?", (session.token,))

  # Deletion.

  def erase(self, participants: Sequence[int], why: str, now: float) -> int:
    """Deletes all that is known of participants, from the disk too; their links stay used up.

    Returns how many there were to delete.
    """
    if not participants:
      return 0
    erased = 0
    with self.write() as db:
      for participant in participants:
        for table in ("items", "jobs", "sessions"):  # answers go with their items
          db.execute(f"DELETE FROM {table} WHERE participant = ?", (participant,))
        done = db.execute(
          "UPDATE participants SET pseudonym = ?, consented_at = NULL, consent = NULL,"
          " ended_at = NULL, outcome = NULL, deleted_at = ? WHERE id = ? AND deleted_at IS NULL",
          (_pseudonym(), now, participant),
        )
        if done.rowcount:
          db.execute("INSERT INTO events (at, what, detail) VALUES (?, 'deleted', ?)", (now, why))
        erased += done.rowcount
    self._truncate()
    return erased

  def purge(self, now: float) -> int:
    """Deletes participants whose last answer is too old, and expired sessions; how many."""
    with self.read() as db:
      old = db.execute(
        "SELECT p.id FROM participants p LEFT JOIN items i ON i.participant = p.id"
        " LEFT JOIN answers a ON a.item = i.id WHERE p.consented_at IS NOT NULL"
        " GROUP BY p.id HAVING max(p.consented_at, coalesce(max(a.answered_at), 0)) < ?",
        (now - self._retention,),
      ).fetchall()
      expired = db.execute("SELECT count(*) FROM sessions WHERE expires_at <= ?", (now,)).fetchone()
    if expired[0]:
      with self.write() as db:
        db.execute("DELETE FROM sessions WHERE expires_at <= ?", (now,))
    return self.erase([row["id"] for row in old], "kept for as long as the study may", now)

  def _truncate(self) -> None:
    """Empties the write-ahead log, where deleted text would otherwise still stand."""
    with self._writing, self._connection() as db:
      for _ in range(50):
        if not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
          return
        time.sleep(0.02)  # somebody is reading; what is left, the next checkpoint takes


def _pseudonym() -> str:
  return f"p{secrets.token_hex(6)}"


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
  db.execute(begin)
  try:
    yield
    db.execute("COMMIT")
  except BaseException:  # a COMMIT that fails leaves the transaction open
    db.rollback()
    raise
