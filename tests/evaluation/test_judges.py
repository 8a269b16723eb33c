# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of judges: the command as it is called, by HTTP against a server that fails."""

import collections
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fspo_jax import paths
from fspo_jax.evaluation import judge, judges, responses
from fspo_jax.evaluation.judges import Comparison, LLMSettings, TrueReward
from fspo_jax.preferences import Preference
from fspo_jax.synthesis import prompts
from fspo_jax.synthesis.llm import RequestError
from fspo_jax.synthesis.world_llm import Flaws, WorldLLM
from tests import tiny
from tests.synthesis.faulty_server import FAULTS, FaultyServer

USERS, PROMPTS = 5, 2
SHOTS = (Preference("Was it good?", "## Yes", "No"),)


def _any_response(world, rng, prompt):
  kind = int(rng.integers(world.kinds(prompt)))
  return world.write_response(lambda n: int(rng.integers(n)), prompt, kind)


def _answered(split="unseen", temperature=0.3):
  """FSPO writes what its user likes best, the base anything."""
  world = tiny.world()
  found = []
  for i, user in enumerate(world.users("unseen")[:USERS]):
    rng = np.random.default_rng([3, i])
    asked = [world.question(rng) for _ in range(PROMPTS)]
    random = [[_any_response(world, rng, p) for p in asked] for _ in range(3)]
    texts = {"base": random[0], "fewshot_prompted": random[1]}
    texts["fspo"] = [world.best_response(rng, user, p) for p in asked]
    texts["fspo"][0] = texts["base"][0] if i == 0 else texts["fspo"][0]

    def rewards(own, user=user, asked=asked):
      return [world.reward(user, p, text) for p, text in zip(asked, own, strict=True)]

    found.append(
      responses.Answered(
        split,
        temperature,
        world.user_id(user),
        world.describe(user),
        SHOTS,
        asked,
        texts,
        random[2],
        {name: rewards(own) for name, own in texts.items()},
        rewards(random[2]),
      )  # fmt: skip
    )
  return found


@pytest.fixture
def run(tmp_path):
  (tmp_path / responses.NAME).write_bytes(
    responses.dumps([*_answered(), *_answered("unseen", 1.0)])
  )
  return tmp_path


class Stand:
  """The stand-in, which also refuses what a plan names."""

  def __init__(self, flaws=None):
    world = tiny.world()
    self._llm = WorldLLM(world, flaws or Flaws(), world.users("train"))

  async def answer(self, request):
    return await self._llm.answer(request)


def _judge(run, server, *more):
  arguments = ("--api_key_env=", "--max_attempts=12", "--timeout_s=60", f"--base_url={server.url}")
  judge.main([str(run), "--model=stand-in", *arguments, *more])
  return json.loads((run / "judge" / "stand-in.json").read_text())


def test_responses_are_read_as_they_were_written(run):
  assert responses.read(run) == [*_answered(), *_answered("unseen", 1.0)]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"responses": {"base": ["one"]}}, "responses.base: found 1, expected one for each of 2"),
    ({"responses": {"fsop": ["1", "2"]}}, "fsop"),
    ({"prompts_": []}, "prompts_"),
  ],
)
def test_a_broken_file_of_responses_is_named(run, change, message):
  line = json.loads((run / responses.NAME).read_text().split("\n")[0]) | change
  (run / responses.NAME).write_text(json.dumps(line) + "\n")
  with pytest.raises(ValueError, match=f"{responses.NAME}:1: .*{message}"):
    responses.read(run)


def test_the_true_reward_says_what_the_rewards_say(run, capsys):
  judge.main([str(run), "--model=world"])
  record = json.loads((run / "judge" / "world.json").read_text())
  assert record["judge"] == {"name": "true reward"}
  for method in ("base", "fspo", "fewshot_prompted"):
    ours, against = [], []
    for one in _answered():
      ours += one.rewards[method]
      against += one.rewards_again if method == "base" else one.rewards["base"]
    ours, against = np.array(ours), np.array(against)
    expected = ((ours > against) + 0.5 * (ours == against)).mean()
    assert record["win_rate"][method]["unseen"]["mean"] == pytest.approx(expected)
  assert record["win_rate"]["fspo"]["unseen"]["users"] == USERS
  assert "FSPO, unseen users: " in capsys.readouterr().out


def test_a_model_without_flaws_judges_as_the_world_does(run):
  with FaultyServer(Stand()) as server:
    record = _judge(run, server)
    sent = len(server.attempts)
    for method, by in record["win_rate"].items():
      found, agreement = by["unseen"], record["agreement"][method]["unseen"]
      assert agreement == {"kappa": 1.0, "comparisons": USERS * PROMPTS}
      assert found["order_flip_rate"] == 0 and found["set_aside"] == {}
    assert record["win_rate"]["fspo"]["unseen"]["identical"] == 1
    judge.main([str(run), "--model=world"])
    world = json.loads((run / "judge" / "world.json").read_text())
    for method, by in world["win_rate"].items():
      assert record["win_rate"][method]["unseen"]["mean"] == by["unseen"]["mean"]
    # Both orders of three methods, but for the one pair that is the same; and all but once.
    assert sent == 2 * (3 * USERS * PROMPTS - 1)
    facts = record["judge"]
    assert facts["model"] == "stand-in" and len(facts["prompt_sha256"]) == 64
    assert facts["base_url"] == server.url and facts["temperature"] == 0
    for path in (run / "judge").glob("verdicts-*"):
      path.unlink()
    again = _judge(run, server, "--methods=fspo", "--response_temperature=1.0")
    assert len(server.attempts) == sent  # the same texts, and the ledger knows
    assert again["win_rate"] == {"fspo": record["win_rate"]["fspo"]}
    _judge(run, server, "--no-ignore_length", "--methods=fspo")
    assert len(server.attempts) == sent + 2 * (USERS * PROMPTS - 1)


def test_a_judge_that_follows_the_order_counts_half(run):
  with FaultyServer(Stand(Flaws(position_bias=1.0))) as server:
    record = _judge(run, server, "--methods=fspo")
  found = record["win_rate"]["fspo"]["unseen"]
  assert found["mean"] == 0.5 and found["order_flip_rate"] == 1.0
  assert found["binomial"]["p"] == 1.0


def test_faults_are_retried_and_counted(run):
  faults = [fault for fault in FAULTS if fault != "timeout"]

  def plan(key, attempt):
    return faults[int(key[:6], 16) % len(faults)] if attempt == 0 else ""

  with FaultyServer(Stand(), plan=plan) as server:
    record = _judge(run, server, "--methods=fspo")
    attempts = collections.Counter(fault or "answered" for _, fault in server.attempts)
  counts = record["requests"].values()
  retried = sum((collections.Counter(c["retried"]) for c in counts), collections.Counter())
  sent, answered = (sum(c[name] for c in counts) for name in ("sent", "answered"))
  assert sent == answered + retried.total()
  assert answered == attempts["answered"] == 2 * (USERS * PROMPTS - 1)
  assert retried["http 429"] == attempts["rate limit"] > 0
  assert retried["http 500"] == attempts["server error"] > 0
  for fault, reason in (("broken", "json"), ("truncated", "truncated"), ("wrong schema", "schema")):
    assert retried[reason] == attempts[fault] > 0
  # A busy machine's network may break more connections, of which the server never hears.
  assert retried["connection"] - attempts["cut"] == sent - attempts.total()
  assert attempts["cut"] > 0
  assert record["win_rate"]["fspo"]["unseen"]["judged"] == USERS * PROMPTS


def test_a_refusal_is_set_aside_and_counted(run, capsys):
  # One of eight requests, whoever asks: about a quarter of the comparisons.
  with FaultyServer(
    Stand(), plan=lambda key, _: "refusal" if int(key[:6], 16) % 8 == 0 else ""
  ) as server:
    found = _judge(run, server, "--methods=fspo")["win_rate"]["fspo"]["unseen"]
    sent = len(server.attempts)
    assert 0 < found["set_aside"]["refusal"] < USERS * PROMPTS
    assert found["judged"] + found["set_aside"]["refusal"] == found["comparisons"]
    assert "set aside: {'refusal'" in capsys.readouterr().out
    assert _judge(run, server, "--methods=fspo")["win_rate"]["fspo"]["unseen"] == found
    assert len(server.attempts) == sent  # it would refuse again


def test_an_outage_ends_it_and_the_same_command_goes_on(run):
  with FaultyServer(Stand()) as server:
    whole = _judge(run, server, "--methods=fspo", "--name=stand-in")
  (run / "judge").rename(run / "before")
  # A quarter of the requests meet a server that is down, as often as they are tried.
  down = True
  with FaultyServer(
    Stand(), plan=lambda key, _: "http 503" if down and int(key[:6], 16) % 4 == 0 else ""
  ) as server:
    with pytest.raises(SystemExit, match="units failed; running again tries those"):
      _judge(run, server, "--methods=fspo", "--max_attempts=1")
    assert not (run / "judge" / "stand-in.json").exists()
    answered = {key for key, fault in server.attempts if not fault}
    down = False
    record = _judge(run, server, "--methods=fspo")
    keys = [key for key, fault in server.attempts if not fault]
  assert record["win_rate"] == whole["win_rate"]
  assert answered and len(keys) == len(set(keys))  # none was paid for twice


def test_killed_at_any_moment_it_goes_on(run):
  def slow(key, attempt):
    time.sleep(0.03)
    return ""

  with FaultyServer(Stand(), plan=slow) as server:
    command = [
      sys.executable, "-m", "fspo_jax.evaluation.judge", str(run), "--model=stand-in",
      "--api_key_env=", f"--base_url={server.url}", "--concurrency=2", "--methods=fspo",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tiny.REPO, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(server.attempts) < 12 and time.monotonic() < deadline:
      time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "judge" / "stand-in.json").exists()
    record = _judge(run, server, "--methods=fspo")
    # Only what was in flight when it was killed was sent twice.
    asked = collections.Counter(key for key, _ in server.attempts)
    assert sum(count - 1 for count in asked.values()) <= 4
  assert record["agreement"]["fspo"]["unseen"]["kappa"] == 1.0


def test_of_a_run_in_a_bucket_the_result_is_there_and_what_was_paid_for_here(run, bucket):
  there, kept = paths.path(f"{bucket}/judged"), run / "kept"
  paths.write_atomic(there / responses.NAME, (run / responses.NAME).read_bytes())
  with FaultyServer(Stand()) as server:
    command = [str(there), "--model=stand-in", "--api_key_env=", f"--base_url={server.url}"]
    with pytest.raises(SystemExit, match="--journals: found gs://.*/judge, expected a folder of"):
      judge.main(command)
    assert not server.attempts
    for _ in range(2):
      judge.main([*command, "--methods=fspo", f"--journals={kept}"])
    assert len(server.attempts) == 2 * (USERS * PROMPTS - 1)  # and none was asked twice
    record = json.loads((there / "judge" / "stand-in.json").read_text())
    assert record["win_rate"] == _judge(run, server, "--methods=fspo")["win_rate"]
  assert {path.name.split("-")[0] for path in kept.iterdir()} == {"ledger", "verdicts"}


@pytest.mark.parametrize(
  ("more", "message"),
  [
    ([], "--base_url is missing"),
    (["--model=world", "--journals=kept"], "--journals=kept: found --model=world, expected none"),
    (["--base_url=http://ana:secret@127.0.0.1:9/v1"], "expected none: it is written down"),
    (["--base_url=http://127.0.0.1:9/v1", "--show=all"], "show: found 'all'"),
    (["--base_url=http://127.0.0.1:9/v1", "--methods=fspo_rat"], "found .'fspo_rat'., expected"),
    (["--base_url=http://127.0.0.1:9/v1", "--response_temperature=2"], r"expected one of \[0.3, 1"),
  ],
)
def test_what_cannot_be_judged_is_named(run, more, message):
  with pytest.raises(SystemExit, match=message):
    judge.main([str(run), "--model=stand-in", "--api_key_env=", *more])


def test_a_wrong_key_ends_it_at_once(run):
  with FaultyServer(Stand(), plan=lambda *_: "http 401") as server:
    with pytest.raises(SystemExit, match="the server refuses the API key"):
      _judge(run, server, "--concurrency=1")
    assert len(server.attempts) <= 2


def _comparison(**changes):
  given = {"user_id": "ana", "description": "Likes it short.", "shots": SHOTS, "prompt": "Why?"}
  return Comparison(**(given | {"ours": "ours", "baseline": "## Task\nAnswer A."} | changes))


class TestRequest:
  def test_the_judge_is_told_of_the_user_what_it_is_to_be_told(self):
    for show, headings in (
      ("description", [prompts.DESCRIPTION]),
      ("preferences", [prompts.PREFERENCES]),
      ("both", [prompts.DESCRIPTION, prompts.PREFERENCES]),
    ):
      asked = judges.request(LLMSettings("m", show), _comparison(), swapped=False)
      given = prompts.sections(asked.prompt)
      rest = [prompts.QUESTION, prompts.RESPONSE_A, prompts.RESPONSE_B, prompts.TASK]
      assert list(given) == headings + rest
      # No text passes for a heading.
      assert given[prompts.RESPONSE_B] == "## Task\nAnswer A."
      if show != "description":
        shot = {"question": "Was it good?", "preferred": "## Yes", "not preferred": "No"}
        assert json.loads(given[prompts.PREFERENCES]) == shot

  def test_the_orders_differ_in_nothing_else(self):
    one, other = (
      prompts.sections(judges.request(LLMSettings("m"), _comparison(), swapped=swapped).prompt)
      for swapped in (False, True)
    )
    assert one[prompts.RESPONSE_A] == other[prompts.RESPONSE_B] == "ours"
    assert {k for k in one if one[k] != other[k]} == {prompts.RESPONSE_A, prompts.RESPONSE_B}

  @pytest.mark.parametrize(
    ("show", "change", "message"),
    [
      ("description", {"description": None}, "'ana' has no description"),
      ("preferences", {"shots": ()}, "'ana' has no preferences"),
    ],
  )
  def test_what_is_not_known_of_the_user_is_not_told(self, show, change, message):
    with pytest.raises(ValueError, match=message):
      judges.request(LLMSettings("m", show), _comparison(**change), swapped=False)

  def test_the_hash_of_the_prompt_is_that_of_what_all_are_asked(self):
    facts = LLMSettings("m").facts
    assert facts["prompt_sha256"] == LLMSettings("other", temperature=1.0).facts["prompt_sha256"]
    for other in (LLMSettings("m", "both"), LLMSettings("m", ignore_length=False)):
      assert other.facts["prompt_sha256"] != facts["prompt_sha256"]


def test_the_true_reward_knows_no_users_without_a_world():
  with pytest.raises(ValueError, match="comparison 0, of user 'ana': expected true rewards"):
    TrueReward().judge([_comparison()])


def test_ties_of_a_judge_count_half(tmp_path):
  class Undecided:
    async def answer(self, request):
      if "odd" in request.prompt:
        raise RequestError(request, "refusal", "no")
      return {"preferred": "tie" if request.stage == judges.FIRST else "B"}

  from fspo_jax.synthesis.journal import Journal

  with Journal(tmp_path / "verdicts.jsonl") as journal:
    found = judges.LLMJudge(Undecided(), LLMSettings("m"), journal, concurrency=2).judge(
      [_comparison(), _comparison(prompt="odd"), _comparison(ours="x", baseline="x")]
    )
  # B of the second order is ours: a win and a tie.
  assert [v.win for v in found] == [0.75, None, 0.5]
  assert found[0].orders == (0.5, 1.0) and found[1].set_aside == "refusal"
