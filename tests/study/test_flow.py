# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the way through a study, by the real app: no answer is lost, and none is doubled."""

import concurrent.futures

import pytest

from fspo_jax.study import plan, records
from tests.study import small


def _count(study, table):
  with study.store.read() as db:
    return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def _answers(study):
  with study.store.read() as db:
    rows = db.execute(
      "SELECT phase, position, choice, revision FROM answers a JOIN items i ON i.id = a.item"
      " ORDER BY phase DESC, position"
    ).fetchall()
  return [tuple(row) for row in rows]


def test_a_whole_study(study, browser):
  page = browser.join(consent=False)
  assert page.url.path == "/consent" and "research study" in page.text
  assert browser.get("/label/0").url.path == "/consent"  # nothing before the consent
  assert browser.post("/consent", page).status_code == 422  # the box is not ticked
  page = browser.go_through(browser.join())
  assert page.url.path == "/wait"
  models = small.do_jobs(study)
  ((_, shots, _), *others) = models.calls
  assert len(shots) == 3 and all(shot.chosen.startswith(small.SHORT) for shot in shots)
  assert [name for name, _, _ in others] == ["plain", "other"]
  page = browser.go_through(browser.get("/"), phase="compare")
  assert page.url.path == "/done" and study.settings.thanks in page.text
  found = records.comparisons(study.store)
  assert [c.arm for c in sorted(found, key=lambda c: c.arm)] == ["other"] * 2 + ["plain"] * 2
  assert {c.choice for c in found} == {"ours"}
  (person,) = records.participants(study.store)
  assert (person.outcome, person.labels, person.checks, person.failed) == ("finished", 3, 2, 0)
  assert browser.get("/compare/0").url.path == "/done"


def test_pages_do_not_tell_which_arm_is_which(study, browser):
  browser.go_through(browser.join())
  small.do_jobs(study)
  page = browser.get("/")
  while page.url.path != "/done":
    assert not any(word in page.text for word in ("plain", "other<", "personal", "arm"))
    page = browser.answer(page, browser.choose(page, "short"))


def test_a_double_click_is_one_answer(study, browser):
  page = browser.join()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    pages = list(pool.map(lambda _: browser.answer(page, "first"), range(8)))
  assert {p.status_code for p in pages} == {200} and {p.url.path for p in pages} == {"/label/1"}
  assert _answers(study) == [("label", 0, "first", 1)]
  assert _count(study, "items") == 2 and _count(study, "former_answers") == 0


def test_reloading_and_going_back_lose_nothing(study, browser):
  first = browser.join()
  second = browser.answer(first, "first")
  assert browser.get("/label/1").text.count("<section") == 2
  again = browser.get("/label/0")
  assert "your choice so far" in again.text
  assert browser.get("/label/1").url.path == "/label/1"
  page = browser.answer(again, "second")  # a change of mind is kept, and what was there before
  assert page.url.path == second.url.path
  assert _answers(study) == [("label", 0, "second", 2)]
  with study.store.read() as db:
    assert [r["choice"] for r in db.execute("SELECT * FROM former_answers")] == ["first"]
  assert browser.get("/label/7").url.path == "/label/1"  # nobody goes ahead


def test_a_stale_tab_does_not_overwrite(study, browser):
  page = browser.join()
  browser.answer(page, "first")
  stale = browser.answer(page, "second")  # the form of another tab, which has not seen the answer
  assert stale.status_code == 409 and "another window" in stale.text
  assert _answers(study) == [("label", 0, "first", 1)]
  assert browser.answer(stale, "second").url.path == "/label/1"
  assert _answers(study) == [("label", 0, "second", 2)]


def test_answers_after_a_phase_change_nothing(study, browser):
  first = browser.join()
  assert browser.go_through(first).url.path == "/wait"
  before = _answers(study)
  assert browser.answer(first, "second").url.path == "/wait"
  assert _answers(study) == before


def test_leaving_and_coming_back_by_the_link(study, browser):
  page = browser.answer(browser.join(), "second")
  browser.client.cookies.clear()
  assert browser.get("/").status_code == 401
  assert browser.join(consent=False).url.path == page.url.path


def test_skipping_brings_spare_pairs_until_there_is_nothing_to_go_by(study, browser):
  page, shown = browser.join(), set()
  while page.url.path.startswith("/label/"):
    shown.add(page.url.path)
    page = browser.answer(page, "skip")
  # 3 pairs, 2 spares and a check.
  assert len(shown) == 6 and page.url.path == "/done" and "skipped" in page.text
  assert records.participants(study.store)[0].outcome == "too few labels"
  assert study.flow.next_job() is None


def test_what_was_typed_is_not_lost_when_it_is_too_long(study, browser):
  browser.go_through(browser.join())
  small.do_jobs(study)
  page = browser.get("/")
  limit = study.settings.limits.reason_characters
  long = browser.answer(page, "first", reason="x" * (limit + 1))
  assert long.status_code == 422 and "x" * (limit + 1) in long.text
  assert browser.answer(long, "first", reason="x" * limit).url.path == "/compare/1"
  page = browser.get("/compare/1")  # the longest in bytes that fits
  assert browser.answer(page, "first", reason="\U0001f600" * limit).url.path == "/compare/2"


def test_equal_responses_are_ties_that_nobody_is_asked_about(study, browser):
  class Same(small.FewShotModels):
    def respond(self, arm, shots, prompts, seed):
      return [f"The same to {prompt}" for prompt in prompts]

  browser.go_through(browser.join())
  small.do_jobs(study, Same())
  assert browser.get("/").url.path == "/done"
  assert {c.choice for c in records.comparisons(study.store)} == {"identical"}


def test_orders_and_sides_depend_on_seed_and_participant_alone(study):
  pairs, settings = study.flow.questions.pairs, study.settings
  orders = {tuple(plan.pair_order(settings, who, len(pairs))) for who in range(20)}
  assert len(orders) == 20
  assert plan.pair_order(settings, 3, 14) == plan.pair_order(settings, 3, 14)
  firsts = [plan.label_item(settings, who, 0, pairs[0]).first for who in range(400)]
  assert 150 < firsts.count(pairs[0].first) < 250
  assert all(0 not in plan.label_checks(settings, who) for who in range(50))


def test_comparisons_are_balanced_and_hold_every_arm_once_a_prompt(study):
  settings = study.settings
  told = {arm.name: {p: f"{arm.name} {p}" for p in ("a", "b")} for arm in settings.arms}
  ours_first = 0
  for who in range(300):
    shown, identical = plan.comparisons(settings, who, told)
    real = [item for item in shown if item.arm]
    assert not identical and len(shown) == len(real) + 1
    assert sorted((i.arm, i.prompt) for i in real) == [
      (arm, prompt) for arm in ("other", "plain") for prompt in ("a", "b")
    ]
    for item in real:
      ours = item.first if item.key == "first" else item.second
      assert ours == f"personalized {item.prompt}"
      ours_first += item.key == "first"
  assert 500 < ours_first < 700


@pytest.mark.parametrize("order", [(), ("other", "plain", "personalized")])
def test_comparisons_come_with_the_last_response_whichever_it_is(study, browser, order):
  browser.go_through(browser.join())
  jobs = [study.flow.next_job() for _ in range(3)]
  jobs.sort(key=lambda job: order.index(job.name) if order else 0)
  assert len({job.name for job in jobs}) == 3
  for job in jobs:
    assert browser.get("/").url.path == "/wait"
    small.personalizing.do(study.flow, small.FewShotModels(), job)
    small.personalizing.do(study.flow, small.FewShotModels(), job)  # done twice is done once
  assert browser.get("/").url.path == "/compare/0"
