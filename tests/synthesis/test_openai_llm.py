# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import collections
import datetime
import email.utils
import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback

import pytest

from fspo_jax.synthesis import jobs, journal, openai_llm, prompts
from fspo_jax.synthesis.llm import Request, RequestError
from fspo_jax.synthesis.openai_llm import AuthError, OpenAILLM
from tests.synthesis import generator
from tests.synthesis.faulty_server import FAULTS, FaultyServer

KEY = "sk-very-secret-0123456789"
RETRIED = {
  "rate limit": "http 429",
  "server error": "http 500",
  "timeout": "timeout",
  "cut": "connection",
  "broken": "json",
  "truncated": "truncated",
  "wrong schema": "schema",
}


class Echo:
  async def answer(self, request):
    return {"response": f"{request.model} on {request.prompt}"}


def ask(number=0, **changes):
  given = {
    "stage": "response",
    "model": "echo",
    "system": "Be brief.",
    "prompt": f"question {number}",
    "schema_name": "response",
    "schema": prompts.SCHEMAS["response"],
    "temperature": 0.5,
    "seed": number,
    "max_tokens": 50,
  }
  return Request(**given | changes)


def make(server, **changes):
  given = {
    "api_key_env": "TEST_KEY",
    "timeout_s": 60.0,  # However busy the machine is.
    "max_attempts": 4,
    "concurrency": 4,
    "validate": prompts.validate,
    "structured": "json_schema",
    "backoff_s": 0.001,
  }
  return OpenAILLM(server if isinstance(server, str) else server.url, **given | changes)


def impatient(fault):
  return {"timeout_s": 1.0} if fault == "timeout" else {}


def answers(llm, *requests):
  async def run():
    try:
      return await asyncio.gather(*map(llm.answer, requests))
    finally:
      await llm.close()

  return asyncio.run(run())


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv("TEST_KEY", KEY)


@pytest.mark.parametrize("structured", ["json_schema", "json_object"])
@pytest.mark.parametrize("system", ["Be brief.", ""])
def test_the_server_is_asked_exactly_what_the_request_says(structured, system):
  with FaultyServer(Echo()) as server:
    request = ask(system=system)
    assert answers(make(server, structured=structured), request) == [
      {"response": "echo on question 0"}
    ]
  assert server.attempts == [(request.key, "")]
  assert server.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_retried_and_every_attempt_noted(fault):
  noted = []

  def note(request, event, reason):
    noted.append((request.seed, event, reason))

  with FaultyServer(Echo(), plan=lambda key, attempt: fault if attempt < 2 else "") as server:
    llm = make(server, note=note, **impatient(fault))
    assert answers(llm, ask()) == [{"response": "echo on question 0"}]
  sent, retry = (0, "sent", ""), (0, "retry", RETRIED[fault])
  assert noted == [sent, retry, sent, retry, sent]
  assert [seen for _, seen in server.attempts] == [fault, fault, ""]


@pytest.mark.parametrize("fault", [*FAULTS, "http 408", "http 409", "http 503"])
def test_a_request_fails_after_the_last_attempt(fault):
  with FaultyServer(Echo(), plan=lambda key, attempt: fault) as server:
    with pytest.raises(RequestError, match=r"^response \(request .*\(attempt 3\)$") as caught:
      answers(make(server, max_attempts=3, **impatient(fault)), ask())
  assert caught.value.reason == RETRIED.get(fault, fault)
  assert len(server.attempts) == 3


@pytest.mark.parametrize(
  ("fault", "reason"),
  [
    *[(f"http {status}", f"http {status}") for status in (400, 413, 422)],
    ("http 400 content_filter", "content filter"),
    ("filter", "content filter"),
    ("refusal", "refusal"),
    ("leak", "api key"),
  ],
)
def test_what_no_retry_can_help_is_sent_once(fault, reason):
  with FaultyServer(Echo(), plan=lambda key, attempt: fault) as server:
    with pytest.raises(RequestError) as caught:
      answers(make(server), ask())
  assert caught.value.reason == reason
  assert len(server.attempts) == 1


@pytest.mark.parametrize("fault", ["no completion", "not json", "half a character"])
def test_what_is_no_answer_is_retried_as_json(fault):
  with FaultyServer(Echo(), plan=lambda key, attempt: fault) as server:
    with pytest.raises(RequestError) as caught:
      answers(make(server), ask())
  assert caught.value.reason == "json"
  assert len(server.attempts) == 4


@pytest.mark.parametrize(
  "fault", [*(f"http {status}" for status in (401, 402, 403, 404)), "http 429 insufficient_quota"]
)
def test_what_is_true_of_every_request_ends_the_job_at_once(fault, tmp_path):
  with FaultyServer(Echo(), plan=lambda key, attempt: fault) as server:
    llm = make(server, concurrency=1)

    async def work(index):
      return {"index": index, **await llm.answer(ask(index))}

    with journal.Journal(tmp_path / "units.jsonl") as units:
      with pytest.raises(AuthError, match=fault[:8]):
        asyncio.run(jobs.run(range(100), work, units, concurrency=1, label="units"))
  assert len(server.attempts) == 1


def test_no_server_is_a_connection_error():
  with FaultyServer(Echo()) as server:
    pass
  with pytest.raises(RequestError, match="connection"):
    answers(make(server, max_attempts=2), ask())


@pytest.mark.parametrize("fault", ["http 400", "http 401", "http 500", "leak"])
def test_the_key_is_in_no_message_no_log_and_no_file(fault, tmp_path, caplog, capfd):
  caplog.set_level(logging.DEBUG)
  with FaultyServer(Echo(), plan=lambda key, attempt: fault) as server:
    with journal.Ledger(
      tmp_path / "ledger.jsonl", lambda note: make(server, note=note, max_attempts=2)
    ) as ledger:
      with pytest.raises((RequestError, AuthError)) as caught:
        asyncio.run(ledger.answer(ask()))
      shown = repr(ledger._llm)  # pylint: disable=protected-access
  error = caught.value
  assert error.__cause__ is None and error.__context__ is None
  said = [
    *traceback.format_exception(error),
    repr(error),
    repr(vars(error)),
    shown,
    caplog.text,
    *capfd.readouterr(),
    (tmp_path / "ledger.jsonl").read_text(),
  ]
  assert not [text for text in said if KEY in text]
  if fault == "http 401":
    # Who refuses a key may quote it masked, which nothing here could tell.
    assert "Bearer" not in str(error)
  elif fault != "leak":
    assert "Bearer [API key]" in str(error)


def test_a_key_is_not_cut_in_half_before_it_is_looked_for(monkeypatch):
  with FaultyServer(Echo(), plan=lambda key, attempt: "http 400") as server:
    for length in range(50, 100, 10):
      monkeypatch.setattr(openai_llm, "_LONGEST_DETAIL", length)
      with pytest.raises(RequestError) as caught:
        answers(make(server), ask())
      assert "sk-" not in str(caught.value)


def test_the_key_comes_from_the_environment(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
  with FaultyServer(Echo()) as server:
    answers(make(server, api_key_env=""), ask())
    assert "sk-" not in server.headers["Authorization"]
    with pytest.raises(ValueError, match="NOT_SET: found nothing, expected the API key"):
      make(server, api_key_env="NOT_SET")
    monkeypatch.setenv("TEST_KEY", "short")
    with pytest.raises(ValueError, match="TEST_KEY: found 5 characters") as caught:
      make(server)
    assert "short" not in str(caught.value)


def test_concurrency_is_bounded_and_used():
  class Slow:
    async def answer(self, request):
      await asyncio.sleep(0.05)
      return {"response": "slow"}

  with FaultyServer(Slow()) as server:
    answers(make(server, concurrency=3), *map(ask, range(12)))
  assert server.most_at_once == 3


def test_retry_after_is_honoured(monkeypatch):
  slept = []
  sleep = asyncio.sleep

  async def fake(seconds, *args):
    slept.append(seconds)
    await sleep(0)

  with FaultyServer(Echo(), plan=lambda key, n: "rate limit" if n < 1 else "") as server:
    llm = make(server, backoff_s=0.0)
    monkeypatch.setattr(openai_llm.asyncio, "sleep", fake)
    answers(llm, ask())
  assert 0.05 in slept


def test_retry_after_is_read_in_both_forms_and_capped():
  read = openai_llm._retry_after  # pylint: disable=protected-access
  now = datetime.datetime.now(datetime.UTC)
  later = email.utils.format_datetime(now + datetime.timedelta(seconds=30), usegmt=True)
  earlier = email.utils.format_datetime(now - datetime.timedelta(seconds=30), usegmt=True)
  assert read("7") == 7
  assert 28 <= read(later) <= 30
  assert read("86400") == 300
  for nothing in (None, "", "-1", "soon", "nan", "inf", earlier):
    assert read(nothing) == 0


def test_back_off_doubles_with_the_same_jitter_every_time():
  llm, other = make("http://localhost:1/v1", backoff_s=1.0), ask(1)
  waits = [llm._backoff(ask(), attempt) for attempt in range(1, 12)]
  assert waits == [llm._backoff(ask(), attempt) for attempt in range(1, 12)]
  assert waits != [llm._backoff(other, attempt) for attempt in range(1, 12)]
  assert all(min(2**n, 60) / 2 <= w <= min(2**n, 60) for n, w in enumerate(waits))


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="max_attempts=0"):
    make("http://localhost:1/v1", max_attempts=0)
  with pytest.raises(ValueError, match="structured: found 'xml'"):
    make("http://localhost:1/v1", structured="xml")


def test_the_missing_sdk_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "openai", None)
  with pytest.raises(ImportError, match=r"pip install fspo_jax\[llm\]"):
    make("http://localhost:1/v1")


@pytest.mark.slow
def test_killed_and_restarted_under_faults_the_set_is_the_same(tmp_path, repo):
  plain, faulty = tmp_path / "plain", tmp_path / "faulty"
  asyncio.run(generator.make(generator.make_llm(), plain))
  command = [sys.executable, "-m", "tests.synthesis.generator"]
  with FaultyServer(generator.make_llm(), 0.3) as server:
    command += [server.url, str(faulty)]
    # Killed while questions are made, early among the users, and late.
    for attempts in (40, 120, 220):
      process = subprocess.Popen(command, cwd=repo, stdout=subprocess.DEVNULL)
      while len(server.attempts) < attempts:
        assert process.poll() is None, f"over after {len(server.attempts)} attempts"
        time.sleep(0.001)
      os.kill(process.pid, signal.SIGKILL)
      assert process.wait() == -signal.SIGKILL
    done = subprocess.run(command, cwd=repo, stdout=subprocess.PIPE, check=True, timeout=600)
    report = json.loads(done.stdout)
    attempts = list(server.attempts)
    # Run again, a finished job asks for nothing.
    subprocess.run(command, cwd=repo, stdout=subprocess.DEVNULL, check=True, timeout=600)
    assert server.attempts == attempts

  for name, count in (("items", 8), ("users", 6)):
    assert list(jobs.merge(faulty, name, count)()) == list(jobs.merge(plain, name, count)())
    complete = f"{name}.complete.json"
    assert (faulty / complete).read_bytes() == (plain / complete).read_bytes()

  events = [json.loads(line) for line in (faulty / "ledger.jsonl").open()]
  by_event = collections.defaultdict(collections.Counter)
  for event in events:
    by_event[event["event"]][event["key"]] += 1
  seen = collections.Counter(key for key, _ in attempts)
  # Every attempt was filed before the server saw it. What it never saw was in flight at a kill, or
  # given up before it arrived, as a busy machine may.
  assert all(count <= by_event["sent"][key] for key, count in seen.items())
  # Nobody paid twice, and nobody was left without an answer.
  assert set(by_event["answered"].values()) == {1}
  assert by_event["answered"].keys() == by_event["sent"].keys()
  assert not by_event["failed"]
  totals, lost = collections.Counter(), 0
  for counts in report.values():
    retried = sum(counts["retried"].values())
    assert counts["sent"] == counts["answered"] + retried + counts["lost"]
    totals += collections.Counter(counts["retried"])
    totals["sent"] += counts["sent"]
    lost += counts["lost"]
  assert lost <= 3 * 8
  never_arrived = by_event["sent"].total() - seen.total()
  assert never_arrived <= lost + totals["timeout"] + totals["connection"]
  assert totals.pop("sent") == by_event["sent"].total()
  assert set(totals) == set(RETRIED.values())
  assert 0.2 < sum(fault != "" for _, fault in attempts) / len(attempts) < 0.4
