# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import json
import os
import signal
import subprocess
import sys
import tracemalloc

import hypothesis
from hypothesis import strategies as st
import pytest

from fspo_jax.synthesis import jobs
from fspo_jax.synthesis.jobs import JobError
from fspo_jax.synthesis.journal import Journal, JournalError
from fspo_jax.synthesis.llm import Request, RequestError


def failing(index):
  return RequestError(
    Request("label", "m", "", "p", "label", "{}", 1.0, index, 10), f"http {500 + index % 2}", "bad"
  )


def write_parts(directory, name, count, n):
  for i in range(n):
    with Journal(jobs.part_path(directory, name, i, n), sync_every=10**6) as journal:
      for index in reversed(jobs.shard(count, i, n)):
        journal.append({"index": index, "square": index**2})


def run(path, units, work, concurrency=4):
  with Journal(path) as journal:
    asyncio.run(jobs.run(units, work, journal, concurrency=concurrency, label="things"))


def test_every_unit_is_done_once_and_no_more_than_so_many_at_once(tmp_path):
  at_once, most, done = 0, 0, []

  async def work(index):
    nonlocal at_once, most
    at_once += 1
    most = max(most, at_once)
    await asyncio.sleep(0.001 * (index % 3))
    at_once -= 1
    done.append(index)
    return {"index": index}

  run(tmp_path / "a.jsonl", range(10), work)
  assert sorted(done) == list(range(10))
  assert most == 4
  run(tmp_path / "a.jsonl", range(15), work)
  assert sorted(done) == list(range(15))


def test_failed_units_are_listed_after_the_others_and_tried_again(tmp_path, capfd):
  tried = []

  async def work(index):
    tried.append(index)
    if index < 50 and len(tried) <= 100:
      raise failing(index)
    return {"index": index}

  with pytest.raises(JobError) as caught:
    run(tmp_path / "a.jsonl", range(100), work)
  lines = str(caught.value).splitlines()
  assert lines[0] == "things: 50 of 100 units failed; running again tries those"
  assert {line.strip() for line in lines[1:3]} == {"25 x label: http 500", "25 x label: http 501"}
  assert lines[3].startswith("  unit 0: label (request ")
  assert lines[-2].startswith("  unit 19: ") and lines[-1] == "  ... and 30 more units"
  assert capfd.readouterr() == ("", "")
  run(tmp_path / "a.jsonl", range(100), work)
  assert sorted(tried[100:]) == list(range(50))


def test_a_unit_that_would_fail_again_is_journaled_with_its_reason(tmp_path):
  async def work(index):
    if index == 3:
      request = Request("question", "m", "", "p", "question", "{}", 1.0, index, 10)
      raise RequestError(request, "content filter", "no")
    return {"index": index}

  run(tmp_path / "a.jsonl", range(5), work)
  with Journal(tmp_path / "a.jsonl") as journal:
    (failed,) = [record for record in journal if "failed" in record]
  assert failed["index"] == 3
  assert (failed["failed"]["stage"], failed["failed"]["reason"]) == ("question", "content filter")


def test_any_other_error_ends_the_job_and_keeps_what_is_done(tmp_path):
  async def work(index):
    if index == 5:
      raise ZeroDivisionError("a bug")
    return {"index": index}

  with pytest.raises(ZeroDivisionError, match="a bug"):
    run(tmp_path / "a.jsonl", range(10), work, concurrency=1)
  with Journal(tmp_path / "a.jsonl") as journal:
    assert journal.done == {0, 1, 2, 3, 4}


def test_ctrl_c_is_heard_by_work_that_never_waits(tmp_path, repo):
  # A job in the background of a shell ignores SIGINT, and hands that on.
  code = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from fspo_jax.synthesis import jobs
from fspo_jax.synthesis.journal import Journal
async def work(index):
  print(index, flush=True)
  return {"index": index}
with Journal(sys.argv[1], sync_every=1000) as journal:
  try:
    asyncio.run(jobs.run(range(10**6), work, journal, concurrency=2, label="things"))
  except KeyboardInterrupt:
    sys.exit(7)
"""
  process = subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path / "a.jsonl")],
    cwd=repo,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  first = process.stdout.readline()
  os.kill(process.pid, signal.SIGINT)
  out, err = process.stdout.read(), process.stderr.read()
  assert (process.wait(), err) == (7, b"")
  with Journal(tmp_path / "a.jsonl") as journal:
    assert sorted(journal.done) == list(map(int, (first + out).split()))


@hypothesis.given(st.integers(0, 50), st.integers(1, 9))
def test_shards_are_a_partition(count, n):
  found = [index for i in range(n) for index in jobs.shard(count, i, n)]
  assert sorted(found) == list(range(count))


def test_shards_are_parsed():
  assert jobs.parse_shard("2/8") == (2, 8)
  assert jobs.parse_shard("0/1") == (0, 1)
  for wrong in ("8/8", "1", "", "a/b", "-1/2", "0/0", "1/2/3", "٢/٨", " 1/2"):
    with pytest.raises(ValueError, match="shard: found .*, expected i/n"):
      jobs.parse_shard(wrong)


@pytest.mark.parametrize("count", [1, 7, 24])
def test_merged_sets_do_not_depend_on_the_split(tmp_path, count):
  digests = set()
  for n in (1, 3, 8):
    directory = tmp_path / str(n)
    write_parts(directory, "users", count, n)
    (directory / "users-more-00000-of-00009.jsonl").write_text("of another name")
    assert jobs.parts(directory, "users") == n
    users = jobs.merge(directory, "users", count)
    for _ in range(2):
      assert list(users()) == [{"index": i, "square": i**2} for i in range(count)]
    digests.add((directory / "users.complete.json").read_text())
  assert len(digests) == 1
  assert json.loads(digests.pop())["count"] == count


def test_what_is_missing_is_named_by_shard(tmp_path):
  write_parts(tmp_path, "users", 40, 4)
  jobs.part_path(tmp_path, "users", 3, 4).unlink()
  path = jobs.part_path(tmp_path, "users", 1, 4)
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[1:5] + lines[7:9]) + lines[9][:5])  # Without 37, 17, 13, 1.
  with pytest.raises(JobError) as caught:
    jobs.merge(tmp_path, "users", 40)
  assert [line.strip() for line in str(caught.value).split(": ", 1)[1].splitlines()] == [
    "found 26 of 40 users, expected all; missing are",
    "shard 1/4: 1",
    "shard 1/4: 13 to 17 in steps of 4",
    "shard 1/4: 37",
    "shard 3/4: 3 to 39 in steps of 4",
  ]
  assert not (tmp_path / "users.complete.json").exists()


def test_many_gaps_are_counted(tmp_path):
  with Journal(tmp_path / "users-00000-of-00001.jsonl") as journal:
    for index in range(0, 60, 2):
      journal.append({"index": index})
  with pytest.raises(JobError, match="shard 0/1: 1\n[^$]*and 10 more ranges"):
    jobs.merge(tmp_path, "users", 60)


def test_nothing_mixed_repeated_or_out_of_range_is_merged(tmp_path):
  with pytest.raises(JobError, match="found no part of users"):
    jobs.merge(tmp_path / "absent", "users", 3)
  assert jobs.parts(tmp_path, "users") == 0
  write_parts(tmp_path, "users", 6, 2)
  with pytest.raises(JobError, match="00001-of-00002.jsonl:1: found index 5, expected 0 to 4"):
    jobs.merge(tmp_path, "users", 5)
  second = jobs.part_path(tmp_path, "users", 1, 2)
  good = second.read_text()
  second.write_text(good + '{"index":4}\n')
  with pytest.raises(JobError, match="00001-of-00002.jsonl:4: found index 4, .*00000-of-00002"):
    jobs.merge(tmp_path, "users", 6)
  second.write_text("broken\n" + good)
  with pytest.raises(JournalError, match=":1: found a broken line"):
    jobs.merge(tmp_path, "users", 6)
  second.write_text(good)
  write_parts(tmp_path, "users", 6, 1)
  with pytest.raises(JobError, match="parts of 1 and of 2, expected one split"):
    jobs.merge(tmp_path, "users", 6)


def test_merging_does_not_hold_the_records(tmp_path):
  with Journal(tmp_path / "users-00000-of-00001.jsonl", sync_every=10**6) as journal:
    for index in range(500):
      journal.append({"index": index, "text": "x" * 10_000})
  tracemalloc.start()
  for _ in jobs.merge(tmp_path, "users", 500)():
    pass
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1e6
