# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the worker: real models, jobs that fail, and questions that the model chooses."""

import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fspo_jax import base as base_lib
from fspo_jax.evaluation import active_questions
from fspo_jax.preferences import Preference
from fspo_jax.study import choosing, personalizing, plan
from fspo_jax.study import settings as settings_lib
from fspo_jax.study.flow import Job
from fspo_jax.study.questions import Pair
from tests import tiny_base
from tests.study import small


def test_a_failing_model_is_tried_again_and_then_waits_for_the_researcher(study, browser):
  class Broken(small.FewShotModels):
    broken = True

    def respond(self, arm, shots, prompts, seed):
      if self.broken and arm.name == "other":
        raise RuntimeError("no memory")
      return super().respond(arm, shots, prompts, seed)

  browser.go_through(browser.join())
  models = Broken()
  small.do_jobs(study, models)
  page = browser.get("/")
  assert "longer than it should" in page.text and "http-equiv" not in page.text
  with study.store.read() as db:
    (job,) = db.execute("SELECT * FROM jobs WHERE state != 'done'").fetchall()
  assert (job["state"], job["attempts"], job["error"]) == ("failed", 3, "RuntimeError: no memory")
  models.broken = False
  assert study.flow.retry() == 1
  small.do_jobs(study, models)
  assert browser.get("/").url.path == "/compare/0"


def test_a_job_that_kills_the_worker_is_not_tried_forever(study, browser):
  browser.go_through(browser.join())
  taken = [study.flow.next_job().name for _ in range(9)]  # and never comes back
  assert {name: taken.count(name) for name in taken} == {"personalized": 3, "plain": 3, "other": 3}
  assert study.flow.next_job() is None
  assert "longer than it should" in browser.get("/").text


def test_empty_responses_are_failures(study, browser):
  class Silent(small.FewShotModels):
    def respond(self, arm, shots, prompts, seed):
      return [" \n" for _ in prompts]

  browser.go_through(browser.join())
  small.do_jobs(study, Silent())
  assert "longer than it should" in browser.get("/").text


@pytest.mark.parametrize("choose", ["uncertainty", "information"])
def test_the_model_chooses_the_pairs(tmp_path, choose):
  study = small.study(
    tmp_path, labels__choose=choose, labels__candidates=4, labels__targets=2, labels__number=3
  )
  with small.served(study) as client:
    browser = small.Browser(client(), study)
    page = browser.join()
    steps = 0
    while steps < 40 and study.flow.place(browser.number).page in ("label", "wait"):
      steps += 1
      if page.url.path == "/wait":
        job = study.flow.next_job()
        if job.kind == "respond":
          break
        asked = study.flow.asked(browser.number)
        personalizing.do(study.flow, small.FewShotModels(), job)
        assert len(study.flow.asked(browser.number) - asked) == 1
        page = browser.get("/")
      else:
        page = browser.answer(page, browser.choose(page, "short"))
  shots = study.flow.shots(browser.number)
  assert len(shots) == 3 and len({shot.prompt for shot in shots}) == 3


def test_the_chosen_pair_is_the_one_that_active_questions_would_ask(study):
  rng = np.random.default_rng(0)
  pairs = study.flow.questions.pairs
  table = {pair.prompt: rng.uniform(0.05, 0.95, 2) for pair in pairs}

  def predict(contexts, asked):
    told = [len(context) % 2 for context in contexts]
    return np.array([[table[p.prompt][t] for p in own] for t, own in zip(told, asked, strict=True)])

  labels = dataclasses.replace(study.settings.labels, choose="uncertainty", candidates=5, targets=3)
  study.flow.settings = dataclasses.replace(study.settings, labels=labels)
  job = Job(1, 1, "choose", "0", 0)
  found = choosing.choose(study.flow, job, [], {0, 1}, predict)
  order = [i for i in plan.candidates(study.settings, 1, len(pairs), 0) if i not in (0, 1)]
  assert found == min(order[:5], key=lambda i: abs(table[pairs[i].prompt][0] - 0.5))
  # All probabilities are what they are whatever was told, but for one candidate, which tells all.
  telling = order[2]

  def knowing(contexts, asked):
    return np.array(
      [
        [
          {"first": 0.99, "second": 0.01}[context[-1].chosen.split()[0]]
          if context and context[-1].prompt == pairs[telling].prompt
          else 0.5
          for _ in own
        ]
        for context, own in zip(contexts, asked, strict=True)
      ]
    )

  study.flow.settings = dataclasses.replace(
    study.settings, labels=dataclasses.replace(labels, choose="information")
  )
  renamed = [Pair(p.prompt, f"first {i}", f"second {i}") for i, p in enumerate(pairs)]
  study.flow.questions = dataclasses.replace(study.flow.questions, pairs=tuple(renamed))
  assert choosing.choose(study.flow, job, [], {0, 1}, knowing) == telling
  assert settings_lib.CHOOSING == active_questions.STRATEGIES


def test_a_real_model_answers_and_one_without_preferences_cannot_choose(tmp_path):
  assert settings_lib.PUBLISHED == base_lib.PUBLISHED
  tiny_base.make(tmp_path / "base")
  study = small.study(
    tmp_path / "study",
    personalized__path=str(tmp_path / "base"),
    personalized__context="shots_and_description",
    arms=(("plain", "", "none"),),
    generation__max_tokens=6,
    generation__description_tokens=4,
  )
  models = personalizing.LoadedModels(study.settings)
  models.check()
  shots = [Preference("Is it good?", "Yes, it is.", "No.")] * 2
  ours, plain = study.settings.arms
  told = models.respond(ours, shots, ["Should I see it?", "Why?"], 3)
  untold = models.respond(plain, shots, ["Should I see it?", "Why?"], 3)
  assert len(told) == len(untold) == 2 and all(told + untold)
  assert untold == models.respond(plain, [], ["Should I see it?", "Why?"], 3)
  labels = dataclasses.replace(study.settings.labels, choose="information")
  active = personalizing.LoadedModels(dataclasses.replace(study.settings, labels=labels))
  with pytest.raises(ValueError, match="labels.choose='information'.*not trained on preferences"):
    active.check()


def test_predictions_are_sigmoids_of_rewards(study):
  class Ranking:
    def margins(self, contexts, pairs):
      return np.array(
        [
          [(len(p.chosen) - len(p.rejected)) * (1 + len(shots)) for p in own]
          for shots, own in zip(contexts, pairs, strict=True)
        ]
      )

  labels = dataclasses.replace(study.settings.labels, scale=0.5)
  models = personalizing.LoadedModels(dataclasses.replace(study.settings, labels=labels))
  models._load = lambda path: Ranking()
  pair = Preference("?", "abc", "a")
  found = models.predict([(), (pair,)], [[pair, pair.swapped()]] * 2)
  one, two = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))
  np.testing.assert_allclose(found, [[one, 1 - one], [two, 1 - two]])


def test_the_worker_process_is_alone_and_leaves_with_its_server(study):
  def taken():
    with open(study.path / "worker.lock", "w") as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        return True
    return False

  command = [sys.executable, "-m", "fspo_jax.study.personalizing", str(study.path)]
  environment = {**os.environ, "PYTHONPATH": str(small.REPO)}
  # The worker's parent is a shell, which is killed as a server may be.
  line = '"$@" --parent=$$ & wait'
  shell = subprocess.Popen(["sh", "-c", line, "sh", *command], env=environment)
  _until(taken)
  with personalizing.alone(study.path, lambda: True):
    pass  # whoever is to stop does not wait for it
  shell.send_signal(signal.SIGKILL)
  shell.wait()
  _until(lambda: not taken())
  # One whose server was killed before it could look is told whose it was.
  late = subprocess.run([*command, f"--parent={shell.pid}"], env=environment, timeout=180)
  assert late.returncode == 0


def _until(true, seconds=180):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.1)
