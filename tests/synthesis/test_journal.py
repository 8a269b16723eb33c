# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fspo_jax.synthesis import journal as journal_lib
from fspo_jax.synthesis.journal import Journal, JournalError, Ledger
from fspo_jax.synthesis.llm import Request, RequestError


def ask(seed=0, stage="label"):
  return Request(stage, "m", "", "p", "label", "{}", 1.0, seed, 10)


class Backend:
  """Notes its attempts as an LLM that is paid does; fails as its script says."""

  def __init__(self, note, script=()):
    self.note, self.script, self.calls = note, list(script), []

  async def answer(self, request):
    self.note(request, "sent", "")
    self.calls.append(request.seed)
    await asyncio.sleep(0)
    while self.script and self.script.pop(0) == "retry":
      self.note(request, "retry", "http 500")
      self.note(request, "sent", "")
    if request.seed >= 100:
      raise RequestError(request, "schema", "off")
    return {"preferred": "A", "seed": request.seed, "text": "é\n\u2028"}


def test_records_come_back_in_order_of_finishing(tmp_path):
  records = [{"index": 4, "text": "é\n\u2028"}, {"index": 0, "more": [1, None, 0.5]}]
  with Journal(tmp_path / "new" / "units.jsonl") as journal:
    for record in records:
      journal.append(record)
    assert list(journal) == records
    assert journal.done == {0, 4}
  with Journal(tmp_path / "new" / "units.jsonl") as journal:
    assert list(journal) == records
    assert journal.done == {0, 4}
    assert isinstance(iter(journal), type(i for i in ()))


def test_torn_at_any_byte_the_whole_records_stay(tmp_path):
  path = tmp_path / "units.jsonl"
  records = [{"index": i, "text": "é" * i} for i in range(3)]
  with Journal(path) as journal:
    for record in records:
      journal.append(record)
  content = path.read_bytes()
  ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
  for size in range(len(content) + 1):
    path.write_bytes(content[:size])
    whole = sum(end <= size for end in ends)
    with Journal(path) as journal:
      assert list(journal) == records[:whole]
      for record in records[whole:]:
        journal.append(record)
    assert path.read_bytes() == content


def test_a_tail_of_zeros_is_torn_too(tmp_path):
  path = tmp_path / "units.jsonl"
  path.write_bytes(b'{"index":0}\n' + bytes(50))
  with Journal(path) as journal:
    journal.append({"index": 1})
  assert path.read_bytes() == b'{"index":0}\n{"index":1}\n'


@pytest.mark.parametrize("broken", [b'{"index":', b"\xff", b"[1]", b""])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_touched(tmp_path, broken):
  path = tmp_path / "units.jsonl"
  content = b'{"index":0}\n' + broken + b'\n{"index":1}\n'
  path.write_bytes(content)
  with pytest.raises(JournalError, match=r"units.jsonl:2: found a broken line"):
    Journal(path)
  assert path.read_bytes() == content
  path.write_bytes(b"")
  Journal(path).close()  # The lock of the one that failed is gone.


@pytest.mark.parametrize(
  ("line", "found"),
  [('{"index":0}', "index 0 again"), ("{}", "index None"), ('{"index":true}', "index True")],
)
def test_a_bad_index_is_named(tmp_path, line, found):
  path = tmp_path / "units.jsonl"
  path.write_text('{"index":0}\n' + line + "\n")
  with pytest.raises(JournalError, match=f"units.jsonl:2: found {found}"):
    Journal(path)


def test_a_duplicate_is_not_written(tmp_path):
  with Journal(tmp_path / "units.jsonl") as journal:
    journal.append({"index": 3})
    with pytest.raises(JournalError, match="found index 3 again"):
      journal.append({"index": 3, "other": 1})
    with pytest.raises(JournalError, match="found index -1"):
      journal.append({"index": -1})
    with pytest.raises(ValueError):
      journal.append({"index": 4, "x": float("nan")})
    journal.append({"index": 4})
    assert list(journal) == [{"index": 3}, {"index": 4}]


def test_two_cannot_write_one_journal(tmp_path, repo):
  path = tmp_path / "units.jsonl"
  code = "import sys; from fspo_jax.synthesis.journal import Journal; Journal(sys.argv[1])"
  command = [sys.executable, "-c", code, str(path)]
  with Journal(path):
    with pytest.raises(JournalError, match="another process"):
      Journal(path)
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode and "found another process writing it" in done.stderr
  subprocess.run(command, cwd=repo, check=True)


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
  path = tmp_path / "units.jsonl"
  with Journal(path) as journal:
    journal.append({"index": 0})
    file = journal._lines._file  # pylint: disable=protected-access

    class Full:
      def write(self, data):
        if len(data) < 5:
          raise OSError(28, "No space left on device")
        return file.write(data[:5])

      def __getattr__(self, name):
        return getattr(file, name)

    with monkeypatch.context() as patch:
      patch.setattr(journal._lines, "_file", Full())
      with pytest.raises(OSError, match="No space"):
        journal.append({"index": 1, "text": "long enough"})
    assert path.read_bytes() == b'{"index":0}\n'
    journal.append({"index": 1})
  assert path.read_bytes() == b'{"index":0}\n{"index":1}\n'


def test_sync_every(tmp_path, monkeypatch):
  synced = []
  monkeypatch.setattr(journal_lib.os, "fsync", synced.append)
  with Journal(tmp_path / "units.jsonl", sync_every=4) as journal:
    for index in range(10):
      journal.append({"index": index})
    assert len(synced) == 2
  assert len(synced) == 3


def test_killed_while_appending_nothing_finished_is_lost(tmp_path, repo):
  path = tmp_path / "units.jsonl"
  code = """
import sys
from fspo_jax.synthesis.journal import Journal
with Journal(sys.argv[1], sync_every=1000) as journal:
  for index in range(len(journal.done), 10**6):
    journal.append({"index": index, "text": "x" * 3000})
    print(index, flush=True)
"""
  for _ in range(2):
    process = subprocess.Popen(
      [sys.executable, "-c", code, str(path)], cwd=repo, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    said = process.stdout.read().split(b"\n")[:-1]
    process.wait()
    with Journal(path) as journal:
      assert journal.done == set(range(len(journal.done)))
      assert int(said[-1]) < len(journal.done) <= int(said[-1]) + 2


def test_an_answer_is_paid_once_across_processes(tmp_path):
  path = tmp_path / "ledger.jsonl"
  with Ledger(path, Backend) as ledger:
    first = [asyncio.run(ledger.answer(ask(seed))) for seed in (0, 1, 0)]
    assert ledger._llm.calls == [0, 1]  # pylint: disable=protected-access
  with Ledger(path, Backend) as ledger:
    assert [asyncio.run(ledger.answer(ask(seed))) for seed in (0, 1, 0)] == first
    asyncio.run(ledger.answer(ask(2)))
    assert ledger._llm.calls == [2]  # pylint: disable=protected-access
    counts = ledger.report()["label"]
  assert dataclasses.asdict(counts) == {
    "asked": 4,
    "from_ledger": 3,
    "sent": 3,
    "answered": 3,
    "retried": {},
    "failed": {},
    "lost": 0,
  }


def test_equal_requests_at_once_are_asked_once(tmp_path):
  async def run(ledger):
    return await asyncio.gather(*(ledger.answer(ask(i % 2)) for i in range(6)))

  with Ledger(tmp_path / "ledger.jsonl", Backend) as ledger:
    assert [a["seed"] for a in asyncio.run(run(ledger))] == [0, 1] * 3
    assert ledger._llm.calls == [0, 1]  # pylint: disable=protected-access
    assert ledger.report()["label"].from_ledger == 4


def test_who_waits_for_a_cancelled_asker_still_gets_the_answer(tmp_path):
  async def run(ledger):
    first = asyncio.create_task(ledger.answer(ask()))
    second = asyncio.create_task(ledger.answer(ask()))
    await asyncio.sleep(0)
    first.cancel()
    return await second

  with Ledger(tmp_path / "ledger.jsonl", Backend) as ledger:
    assert asyncio.run(run(ledger))["seed"] == 0


def test_failures_reach_all_who_wait_and_are_asked_anew(tmp_path):
  async def run(ledger):
    return await asyncio.gather(*(ledger.answer(ask(100)) for _ in range(3)), return_exceptions=1)

  with Ledger(tmp_path / "ledger.jsonl", Backend) as ledger:
    assert all(isinstance(error, RequestError) for error in asyncio.run(run(ledger)))
    assert ledger._llm.calls == [100]  # pylint: disable=protected-access
    with pytest.raises(RequestError):
      asyncio.run(ledger.answer(ask(100)))
    assert ledger.report()["label"].failed == {"schema": 2}


def test_every_attempt_has_one_outcome_by_stage(tmp_path):
  path = tmp_path / "ledger.jsonl"
  with Ledger(path, lambda note: Backend(note, ["retry", "retry", "", "retry", ""])) as ledger:
    asyncio.run(ledger.answer(ask(0)))
    asyncio.run(ledger.answer(ask(1, "persona")))
    with pytest.raises(RequestError):
      asyncio.run(ledger.answer(ask(100)))
    live = ledger.report()
  with Ledger(path, Backend) as ledger:
    found = ledger.report()
  for counts in live.values():
    counts.asked = 0
  assert found == live
  label, persona = found["label"], found["persona"]
  assert (label.sent, label.answered, label.retried) == (4, 1, {"http 500": 2})
  assert (label.failed, label.lost) == ({"schema": 1}, 0)
  assert (persona.sent, persona.answered, persona.retried) == (2, 1, {"http 500": 1})


def test_what_was_in_flight_at_a_kill_is_counted_and_asked_again(tmp_path):
  path = tmp_path / "ledger.jsonl"
  with Ledger(path, Backend) as ledger:
    asyncio.run(ledger.answer(ask()))
  content = path.read_bytes()
  for size in range(content.index(b"\n") + 1, len(content), 13):
    path.write_bytes(content[:size])
    with Ledger(path, Backend) as ledger:
      assert ledger.report()["label"].lost == 1
      asyncio.run(ledger.answer(ask()))
    with Ledger(path, Backend) as ledger:
      counts = ledger.report()["label"]
      assert (counts.sent, counts.answered, counts.lost) == (2, 1, 1)


def test_an_attempt_is_filed_before_it_is_sent(tmp_path):
  path = tmp_path / "ledger.jsonl"

  class Looks(Backend):
    async def answer(self, request):
      self.note(request, "sent", "")
      return {"seen": json.loads(path.read_text())["event"]}

  with Ledger(path, Looks) as ledger:
    assert asyncio.run(ledger.answer(ask())) == {"seen": "sent"}


@pytest.mark.parametrize(
  ("line", "found"),
  [
    ({"event": "sent"}, "expected an event"),
    ({"event": "eaten", "stage": "s", "key": "00"}, "found event 'eaten'"),
    ({"event": "answered", "stage": "s", "key": "00", "answer": {}}, "found a second answer"),
  ],
)
def test_a_ledger_that_cannot_be_is_named(tmp_path, line, found):
  path = tmp_path / "ledger.jsonl"
  first = {"event": "answered", "stage": "s", "key": "00", "answer": {}}
  path.write_text(json.dumps(first) + "\n" + json.dumps(line) + "\n")
  with pytest.raises(JournalError, match=f"ledger.jsonl:2: .*{found}"):
    Ledger(path, Backend)
