# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the analysis, of the power analysis, and of the export."""

import json
import runpy

import numpy as np
import pytest
import scipy.stats

from fspo_jax import jsonl
from fspo_jax.preferences import MIN_PROMPTS, Preference
from fspo_jax.study import analysis, manage, power, records
from fspo_jax.study.records import Comparison
from tests.study import small


def _comparison(who, choice, prompt="a", **keys):
  return Comparison(
    who,
    "plain",
    prompt,
    "x",
    "y",
    **{"ours_first": True} | keys,
    choice=choice,
    reason="",
    seconds=2.0,
    revisions=0,
    position=0,
  )


def test_an_arm_by_hand():
  told = [
    *[_comparison("ana", c, p) for c, p in zip(("ours", "ours", "tie"), "abc", strict=True)],
    *[_comparison("ben", c, p) for c, p in zip(("ours", "theirs", "skip"), "abc", strict=True)],
    _comparison("cat", "theirs", "a", ours_first=False),
    _comparison("dan", "ours", "b"),
    _comparison("dan", "identical", "a"),
  ]
  found = analysis.arm(told)
  # Wins 4, losses 2, halves 2, of 8.
  assert found["win_rate"] == pytest.approx(5 / 8)
  assert (found["comparisons"], found["skip"], found["tie"], found["identical"]) == (8, 1, 1, 1)
  # Ana and dan lean to ours, cat against it, ben to neither.
  assert (found["participants_for"], found["participants_against"]) == (2, 1)
  # P(2 or 3 heads of 3) = 4/8; P(4, 5 or 6 of 6) = (15 + 6 + 1) / 64.
  assert found["p_participants"] == pytest.approx(4 / 8)
  assert found["p_comparisons"] == pytest.approx(22 / 64)
  assert found["first_chosen"] == pytest.approx(5 / 6)  # cat chose the first too, and ben did not
  low, high = found["ci95"]
  assert low < 5 / 8 < high
  question = {q["prompt"]: q for q in found["questions"]}["b"]
  assert (question["n"], question["win_rate"]) == (3, pytest.approx(2 / 3))


def test_ties_alone_say_nothing():
  found = analysis.arm([_comparison(who, "tie") for who in ("ana", "ben")])
  assert (found["participants_for"], found["participants_against"]) == (0, 0)
  assert found["p_participants"] == found["p_comparisons"] == 1.0


def test_texts_of_others_are_shown_as_they_are(study):
  prompt = "[a](javascript:b) | <img> *c*"
  study.store.note("looked", "_why_ <b>", 0.0)
  found = analysis.analyze(study.store, study.settings)
  found["arms"] = {"without_shots": analysis.arm([_comparison("ana", "tie", prompt)])}
  text = analysis.markdown(found)
  assert r"| \[a\](javascript:b) \| &lt;img&gt; \*c\* | 1 | 0.500" in text
  assert r"| without\_shots | 0.500 | 0 / 0 of 1 | 1.000 (1.000) | 1 | 1 | 0 |" in text
  assert r"- 1970-01-01 00:00 UTC: looked: \_why\_ &lt;b&gt;" in text


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (3, 7), (9, 9)])
def test_wilson_agrees_with_scipy(wins, n):
  known = scipy.stats.binomtest(wins, n).proportion_ci(method="wilson")
  assert analysis.wilson(wins, n) == pytest.approx((known.low, known.high), abs=1e-12)


def test_the_interval_widens_when_participants_agree_with_themselves():
  independent = [_comparison(f"p{i}", "ours" if i % 4 else "theirs") for i in range(80)]
  clustered = [_comparison(f"p{i // 8}", "ours" if i // 8 % 4 else "theirs") for i in range(80)]
  widths = [np.ptp(analysis.arm(told)["ci95"]) for told in (independent, clustered)]
  assert widths[1] > 2 * widths[0]


def test_an_arm_that_nobody_compared():
  assert analysis.arm([]) == {
    "comparisons": 0,
    "ours": 0,
    "theirs": 0,
    "tie": 0,
    "identical": 0,
    "skip": 0,
  }


def _people(study, client, tastes, **keys):
  """Participants with tastes go through the study; 'inattentive' ones fail every check."""
  for taste in tastes:
    browser = small.Browser(client(), study)
    page = browser.join()
    for phase in ("label", "compare"):
      while page.url.path.startswith(f"/{phase}/"):
        choice = browser.choose(page, taste)
        if "choose" in page.text.split("prompt")[1][:120] and keys.get("inattentive"):
          choice = {"first": "second", "second": "first"}[choice]
        page = browser.answer(page, choice)
      small.do_jobs(study)
      page = browser.get("/")


def test_the_analysis_leaves_out_who_does_not_read_and_who_has_not_finished(
  study, tmp_path, capsys
):
  with small.served(study) as client:
    small.Browser(client(), study).join()  # and leaves
    _people(study, client, ["short"], inattentive=True)
    with pytest.raises(SystemExit, match="planned 2"):
      analysis.main([str(study.path)])
    _people(study, client, ["short", "long"])
  analysis.main([str(study.path)])
  found = json.loads((study.path / "analysis.json").read_text())
  assert found["participants"] == {
    "consented": 4,
    "finished": 3,
    "analyzed": 2,
    "left_out": {"failed attention checks": 1, "not finished": 1},
  }
  assert found["arms"]["plain"]["comparisons"] == 4
  assert found["arms"]["plain"]["win_rate"] == 1.0
  assert found["arms_everybody"]["plain"]["comparisons"] == 6
  assert found["events"] == []
  assert "| plain | 1.000" in capsys.readouterr().out
  assert (study.path / "analysis.md").read_text().startswith("# The human study")


def test_estimates_wait_for_the_planned_sample_unless_it_is_on_the_record(study, researcher):
  page = researcher.get("/researcher/estimates")
  assert "hidden until the planned 2" in page.text
  assert researcher.get("/researcher/export/comparisons.jsonl").url.path == "/researcher/estimates"
  assert "hidden" in researcher.post("/researcher/estimates", page, reason="  ").text
  assert study.store.events() == []
  shown = researcher.post("/researcher/estimates", page, reason="the board asks")
  assert "the board asks" in shown.text and "0 participants are analyzed" in shown.text
  (event,) = study.store.events()
  assert event["detail"] == "the dashboard, with 0 of 2 finished: the board asks"
  with small.served(study) as client:
    _people(study, client, ["short", "long"])
  reached = researcher.get("/researcher/estimates").text
  assert "2 participants are analyzed" in reached and "the board asks" in reached
  assert "comparisons.jsonl" in researcher.get("/researcher").text
  assert len(study.store.events()) == 1


def test_the_dashboard_invites_revokes_and_retries(study, researcher):
  page = researcher.get("/researcher")
  links = researcher.post("/researcher/invite", page, count="2")
  assert links.status_code == 403  # the token of another form
  links = researcher.client.post(
    "/researcher/invite", data={"token": _token(page, "invite"), "count": "2"}
  )
  lines = [line for line in links.text.splitlines() if "/join/" in line]
  made = [line.split("/join/")[1] for line in lines]
  assert len(made) == 2
  first = lines[0].split("\t")[0].split(">")[-1].strip()
  page = researcher.get("/researcher")
  researcher.client.post(
    "/researcher/revoke", data={"token": _token(page, "revoke"), "number": first}
  )
  assert [researcher.client.get(f"/join/{x}").status_code for x in made] == [404, 200]
  assert "revoked" in researcher.get("/researcher").text


def _token(page, action):
  return page.text.split(f'action="/researcher/{action}"')[1].split('value="')[1].split('"')[0]


def test_an_export_is_users_like_any_others(study, tmp_path, repo):
  with small.served(study) as client:
    _people(study, client, ["short", "long"])
  manage.main([str(study.path), "export", str(tmp_path / "out")])
  users = jsonl.read_jsonl(tmp_path / "out/users.jsonl", min_prompts=MIN_PROMPTS)
  assert len(users) == 2 and all(len(user.preferences) == 3 for user in users)
  shorts = [p for p in users[0].preferences + users[1].preferences if p.chosen.startswith("Yes.")]
  assert len(shorts) == 3 and isinstance(shorts[0], Preference)
  lines = [json.loads(x) for x in (tmp_path / "out/comparisons.jsonl").read_text().splitlines()]
  assert {line["user_id"] for line in lines} == {user.user_id for user in users}
  assert all(line["choice"] == "ours" and line["seconds"] >= 0 for line in lines)
  assert (tmp_path / "out/users.jsonl").read_bytes() == records.users_jsonl(study.store)
  # "Bring your own users" takes it as it is.
  from fspo_jax import data

  config = runpy.run_path(str(repo / "experiments/jsonl.py"))["get_config"]()
  config.data.path = str(tmp_path / "out/users.jsonl")
  config.data.unseen_users = config.data.unseen_prompts = 0.5
  for seed in range(20):  # two users are few: whichever split has one on either side
    config.seed = seed
    try:
      splits = data.load(config).source.splits
    except ValueError:
      continue
    assert {u.user_id for u in [*splits.train, *splits.evaluation["unseen"]]} <= {
      u.user_id for u in users
    }
    return
  raise AssertionError("no seed splits the users")


# The power analysis.


def test_votes_without_correlation_are_binomial():
  more, less = power.votes(0.7, 4, 0.0)
  # C(4,3) .7^3 .3 + .7^4 = .6517; .3^4 + C(4,3) .3^3 .7 = .0837
  assert (more, less) == (pytest.approx(0.6517), pytest.approx(0.0837))
  assert power.votes(0.7, 4, 1.0) == pytest.approx((0.7, 0.3))
  assert power.votes(0.7, 1, 0.3) == pytest.approx((0.7, 0.3))  # one comparison is one vote


def test_power_by_hand():
  # 5 votes, each for ours at .9: only 5 of 5 gives p <= .05 (1/32).
  assert power.power(5, win_rate=0.9, comparisons=1, icc=0.0) == pytest.approx(0.9**5)
  assert power.power(4, win_rate=0.9, comparisons=1, icc=0.0) == 0.0
  assert power.power(0, win_rate=0.9, comparisons=1, icc=0.0) == 0.0


@pytest.mark.parametrize("icc", [0.0, 0.3])
def test_power_agrees_with_simulated_studies(icc):
  keys = {"win_rate": 0.7, "comparisons": 4, "icc": icc}
  rng, runs, people = np.random.default_rng(0), 4000, 25
  rate = np.full((runs, people), 0.7)
  if icc:
    rate = rng.beta(0.7 * (1 - icc) / icc, 0.3 * (1 - icc) / icc, (runs, people))
  wins = rng.binomial(4, rate)
  up, down = (wins > 2).sum(1), (wins < 2).sum(1)
  p = scipy.stats.binom.sf(up - 1, up + down, 0.5)
  assert power.power(people, **keys) == pytest.approx((p <= 0.05).mean(), abs=0.025)


def test_participants_needed_are_refused_where_there_are_too_many(monkeypatch):
  keys = {"win_rate": 0.7, "comparisons": 4, "icc": 0.2}
  needed = power.participants_needed(**keys)
  monkeypatch.setattr(power, "_MOST", needed)
  assert power.participants_needed(**keys) == needed
  monkeypatch.setattr(power, "_MOST", needed - 1)
  with pytest.raises(ValueError, match=f"more than {needed - 1} participants"):
    power.participants_needed(**keys)


def test_participants_needed_is_the_fewest(capsys):
  keys = {"win_rate": 0.7, "comparisons": 4, "icc": 0.2}
  needed = power.participants_needed(target=0.9, **keys)
  assert power.power(needed - 1, **keys) < 0.9
  assert all(power.power(n, **keys) >= 0.9 for n in range(needed, needed + 60))
  assert needed > power.participants_needed(target=0.9, **keys | {"win_rate": 0.8})
  power.main(["--win_rate=0.7"])
  assert capsys.readouterr().out.startswith(f"{needed} participants")
  for bad in ({"win_rate": 0.5}, {"win_rate": 1.2}, {"icc": 2.0}, {"win_rate": 0.5001}):
    with pytest.raises(ValueError, match="win_rate="):
      power.participants_needed(**keys | bad)
