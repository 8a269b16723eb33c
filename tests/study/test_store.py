# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what is kept, for how long, and of its deletion."""

import os
import sqlite3
import stat
import subprocess
import sys
import time

import pytest

from fspo_jax.study import manage, records
from fspo_jax.workdir import WorkdirError
from tests.study import small

DAY = 86_400.0
SECRET = "my neighbour Bartholomew said so"


def _bytes_on_disk(study):
  return b"".join(file.read_bytes() for file in study.path.iterdir() if file.is_file())


def _compared(study, browser):
  """A participant who has compared all, with a reason for the first."""
  browser.go_through(browser.join())
  small.do_jobs(study)
  browser.answer(browser.get("/compare/0"), "first", reason=SECRET)
  return browser.go_through(browser.get("/"), phase="compare")


def test_a_participant_deletes_all_of_their_data_from_the_disk_too(study, browser):
  _compared(study, browser)
  (before,) = records.participants(study.store)
  assert SECRET.encode() in _bytes_on_disk(study)
  page = browser.get("/delete")
  assert "is deleted" in browser.post("/delete", page).text
  assert SECRET.encode() not in _bytes_on_disk(study)
  assert records.participants(study.store) == [] and records.comparisons(study.store) == []
  with study.store.read() as db:
    for table in ("items", "answers", "former_answers", "jobs", "sessions"):
      assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    person = db.execute("SELECT * FROM participants").fetchone()
  assert person["pseudonym"] != before.user_id and person["consented_at"] is None
  assert browser.get("/").status_code == 401
  assert browser.get(f"/join/{browser.link}").status_code == 410
  assert [(e["what"], e["detail"]) for e in study.store.events()] == [
    ("deleted", "asked for by a participant")
  ]


def test_a_job_of_somebody_who_is_gone_changes_nothing(study, browser):
  browser.go_through(browser.join())
  job = study.flow.next_job()
  browser.post("/delete", browser.get("/delete"))
  small.personalizing.do(study.flow, small.FewShotModels(), job)
  assert study.flow.next_job() is None and records.comparisons(study.store) == []


def test_retention_is_enforced_when_the_study_is_opened_and_while_it_is_served(tmp_path):
  study = small.study(tmp_path, retention_days=10.0)
  ((ana, _), (ben, _)) = study.store.invite(2, 0.0)
  now = 1e6
  study.flow.consent(ana, now)
  study.flow.consent(ben, now)
  study.flow.answer(ben, "label", 0, "first", seconds=1.0, revision=0, now=now + 5 * DAY)
  with study.store.read() as db:
    kept = {row["id"]: row["pseudonym"] for row in db.execute("SELECT * FROM participants")}
  assert study.store.purge(now + 9.9 * DAY) == 0
  assert study.store.purge(now + 10.1 * DAY) == 1
  assert [p.user_id for p in records.participants(study.store)] == [kept[ben]]
  again = small.opening.reopen(study.path)  # long after 1970
  assert records.participants(again.store) == []
  assert "kept for as long" in again.store.events()[-1]["detail"]


def test_expired_sessions_are_nobody(study):
  ((ana, _),) = study.store.invite(1, 0.0)
  token = study.store.open_session(ana, 0.0)
  assert study.store.session(token, 29 * DAY).participant == ana
  assert study.store.session(token, 31 * DAY) is None
  study.store.purge(31 * DAY)
  with study.store.read() as db:
    assert db.execute("SELECT count(*) FROM sessions").fetchone()[0] == 0


def test_only_the_newest_sessions_of_a_participant_are_kept(study):
  ((ana, _), (ben, _)) = study.store.invite(2, 0.0)
  theirs = study.store.open_session(ben, 0.0)
  tokens = [study.store.open_session(ana, float(i)) for i in range(25)]
  assert study.store.session(tokens[0], 30.0) is None
  assert study.store.session(tokens[-1], 30.0) is not None
  assert study.store.session(theirs, 30.0) is not None


def test_only_the_owner_can_read_the_files(study, browser):
  browser.join()
  assert stat.S_IMODE(study.path.stat().st_mode) == 0o700
  for file in study.path.glob("study.sqlite*"):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_connection_writes_to_the_disk_before_it_says_so(study):
  for scope in (study.store.read, study.store.write):
    with scope() as db:
      assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
      assert db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
      assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_process_killed_in_a_transaction_leaves_the_others_answers(study):
  ((ana, _),) = study.store.invite(1, 0.0)
  now = time.time()
  study.flow.consent(ana, now)
  study.flow.answer(ana, "label", 0, "first", seconds=1.0, revision=0, now=now)
  script = (
    "import os, pathlib, signal, sys; from fspo_jax.study import opening\n"
    "study = opening.reopen(pathlib.Path(sys.argv[1]))\n"
    "with study.store.write() as db:\n"
    "  db.execute('DELETE FROM answers'); os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script, str(study.path)],
    env={**os.environ, "PYTHONPATH": str(small.REPO)},
    check=False,
  )
  assert done.returncode == -9
  assert small.opening.reopen(study.path).flow.place(ana).position == 1


def test_a_transaction_that_raises_did_nothing(study):
  with pytest.raises(ZeroDivisionError), study.store.write() as db:
    db.execute("INSERT INTO meta VALUES ('a', 'b')")
    raise ZeroDivisionError
  assert study.store.meta("a") is None


def test_a_commit_that_fails_leaves_no_transaction_behind(study):
  with pytest.raises(sqlite3.IntegrityError), study.store.write() as db:
    db.execute("PRAGMA defer_foreign_keys=ON")  # nobody looks for participant 999 before COMMIT
    db.execute("INSERT INTO sessions VALUES (x'00', 999, 1.0)")
  study.store.set_meta("a", "b")  # by the same connection
  assert study.store.meta("a") == "b"
  with study.store.read() as db:
    assert db.execute("SELECT count(*) FROM sessions").fetchone()[0] == 0


def test_only_who_is_there_is_deleted_and_once(study, capsys):
  ((ana, _),) = study.store.invite(1, 0.0)
  study.flow.consent(ana, time.time())
  delete = [str(study.path), "delete"]
  with pytest.raises(SystemExit, match="delete 999: found no such participant"):
    manage.main([*delete, "999"])
  assert study.store.events() == []
  manage.main([*delete, str(ana)])
  assert "are deleted" in capsys.readouterr().out
  with pytest.raises(SystemExit, match=f"delete {ana}: found no such participant"):
    manage.main([*delete, str(ana)])
  assert [e["detail"] for e in study.store.events()] == ["asked for by the researcher"]


def test_a_study_goes_on_with_its_own_config_and_questions_alone(tmp_path):
  study = small.study(tmp_path)
  again = small.study(tmp_path, server__port=9000, contact="Ana")  # the same study
  assert again.settings.server.port == 9000 and again.store.key == study.store.key
  with pytest.raises(WorkdirError, match="participants"):
    small.study(tmp_path, participants=3)  # the planned sample is planned once
  prompts = tmp_path / "prompts.txt"
  prompts.write_text(prompts.read_text().replace("Another", "One more"))
  with pytest.raises(ValueError, match="prompts.path"):
    small.opening.reopen(study.path)
  with pytest.raises(FileNotFoundError, match="no study"):
    small.opening.reopen(tmp_path)
