# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of calibration, of the breakdown by attribute, and of what the report says of them."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from fspo_jax import losses
from fspo_jax.evaluation import analysis, calibration, report_analysis, statistics
from fspo_jax.evaluation.win_rate import Match
from fspo_jax.pages import markdown
from fspo_jax.pages.document import Document
from fspo_jax.preferences import Preference
from fspo_jax.worlds.roleplay import RoleplayWorld
from tests import tiny

USERS = [f"user {i // 2}" for i in range(20)]


def test_reliability_by_hand():
  """Two bins: three pairs surer than 0.75, of which one is wrong, and one that is not sure."""
  margins = np.array([math.log(4), math.log(4), -math.log(9), math.log(1.5)])
  of_chosen = calibration.Link("dpo", 0.5).probability(2 * margins)
  assert of_chosen == pytest.approx([0.8, 0.8, 0.1, 0.6])
  found = calibration.reliability(of_chosen, bins=2)
  first, second = found["bins"]
  assert (first["confidence"], first["accuracy"], first["pairs"]) == (pytest.approx(0.6), 1.0, 1)
  assert second["confidence"] == pytest.approx((0.8 + 0.8 + 0.9) / 3)
  assert second["accuracy"] == pytest.approx(2 / 3) and second["pairs"] == 3
  assert found["ece"] == pytest.approx((0.4 + 3 * (2.5 / 3 - 2 / 3)) / 4)
  assert found["brier"] == pytest.approx((0.2**2 + 0.2**2 + 0.9**2 + 0.4**2) / 4)


def test_where_ipo_is_least_is_what_it_promises():
  """Of responses that are preferred with probability p, the log-odds that minimise IPO give p."""
  link, p = calibration.Link("ipo", beta=0.1), np.linspace(0.05, 0.95, 7)
  for each in p:
    loss = lambda h, p=each: p * losses.ipo(h, 0.1) + (1 - p) * losses.ipo(-h, 0.1)  # noqa: E731
    least = scipy.optimize.minimize_scalar(lambda h, loss=loss: float(loss(h)), tol=1e-9).x
    assert link.probability(np.array([least]))[0] == pytest.approx(each, abs=1e-3)
  assert link.probability(np.array([-9.0, 9.0])).tolist() == [0.0, 1.0]
  with pytest.raises(ValueError, match="expected 'dpo' or 'ipo'"):
    calibration.Link("kto", 0.1)


def test_who_draws_as_it_says_is_calibrated_and_who_boasts_is_not():
  rng = np.random.default_rng(0)
  margins = rng.normal(0, 2, 40_000)
  right = rng.random(margins.size) < scipy.special.expit(np.abs(margins))
  signed = np.where(right, np.abs(margins), -np.abs(margins))
  link = calibration.Link("dpo", 1.0)
  honest = calibration.reliability(link.probability(signed))
  assert honest["ece"] < 0.01
  boast = calibration.reliability(link.probability(10 * signed))
  assert boast["ece"] > 0.1 and boast["brier"] > honest["brier"]
  assert boast["bins"][-1]["confidence"] <= 1  # sureness of 1 has a bin
  # Nothing known is nothing promised.
  assert calibration.reliability(np.full(10, 0.5))["ece"] == 0


def test_only_trained_methods_have_implicit_rewards():
  margins = {name: [np.array([9.0]), np.array([0.5, np.nan, -1.0])] for name in ("base", "fspo")}
  link = calibration.Link("dpo", 2.0)
  found = analysis.calibrated(margins, link)
  assert found == {"fspo": calibration.reliability(link.probability(np.array([0.5, -1.0])))}
  with pytest.raises(ValueError, match="one or more"):
    calibration.reliability(np.array([]))


@pytest.fixture(scope="module")
def match():
  rng = np.random.default_rng(2)
  rewards = {
    "base": rng.random((20, 3)),
    "fewshot_prompted": rng.random((20, 3)) + 0.05,
    "fspo": rng.random((20, 3)) + 0.4,
    "fspo_rat": rng.random((20, 3)) + 0.3,
  }
  again = rng.random((20, 3))
  outcomes = {
    n: statistics.win_rate(r, again if n == "base" else rewards["base"]) for n, r in rewards.items()
  }
  return Match({}, rewards, {}, outcomes, [], again)


def test_fspo_is_compared_with_every_baseline_and_its_variants_once(match):
  found = analysis.paired(match, USERS, 200)
  assert {(a, b) for a, by in found.items() for b in by} == {
    ("fspo", "base"), ("fspo", "fewshot_prompted"),
    ("fspo_rat", "base"), ("fspo_rat", "fewshot_prompted"), ("fspo_rat", "fspo"),
  }  # fmt: skip
  one = found["fspo"]["fewshot_prompted"]
  difference = match.outcomes["fspo"] - match.outcomes["fewshot_prompted"]
  assert one["difference"] == pytest.approx(difference.mean()) and one["users"] == 10
  assert one["ci95"][0] <= one["difference"] <= one["ci95"][1]
  preferred = (match.rewards["fspo"] > match.rewards["fewshot_prompted"]).mean()
  assert one["preferred"] == pytest.approx(preferred)
  assert set(analysis.binomial(match, USERS)) == {"fewshot_prompted", "fspo", "fspo_rat"}


def test_a_pair_counts_in_every_attribute_in_which_it_differs():
  world, queries, words = tiny.world(), [], []
  rng = np.random.default_rng(4)
  prompt = world.question(rng)
  for _ in range(80):
    kinds = [int(rng.integers(world.kinds(prompt))) for _ in range(2)]
    texts = [world.write_response(lambda n: int(rng.integers(n)), prompt, k) for k in kinds]
    queries.append(
      Preference(prompt, *texts) if texts[0] != texts[1] else Preference(prompt, *"ab")
    )
    words.append([world.reading(prompt, kind).split(", ") for kind in kinds])
  margins = {"base": [rng.normal(size=80)], "fspo_rat": [rng.normal(size=30)]}
  found = analysis.by_attribute(world, queries, margins)
  assert "negative / positive" in found
  for name, by in found.items():
    one, other = name.split(" / ")
    own = [
      i
      for i, (a, b) in enumerate(words)
      if {(one, other), (other, one)} & {*zip(a, b, strict=True)}
    ]
    assert by["pairs"] == len(own) >= 20
    assert by["base"] == pytest.approx((margins["base"][0][own] > 0).mean())
    few = [i for i in own if i < 30]
    assert by["fspo_rat"] == pytest.approx((margins["fspo_rat"][0][few] > 0).mean())


def test_attributes_that_apply_or_do_not_are_counted_by_their_words():
  """Roleplay's views are liked by as many people as may be, and have no word for the others."""
  world, rng = RoleplayWorld(), np.random.default_rng(0)
  choose = lambda n: int(rng.integers(n))  # noqa: E731
  queries, differences = [], []
  for _ in range(120):
    prompt = world.write_question(choose, world.topics("train")[choose(20)])
    kinds = [choose(world.kinds(prompt)) for _ in range(2)]
    texts = [world.write_response(choose, prompt, kind) for kind in kinds]
    queries.append(
      Preference(prompt, *texts) if texts[0] != texts[1] else Preference(prompt, *"ab")
    )
    likers = [{*world.reading(prompt, kind).split(", ")} for kind in kinds]
    differences.append(likers[0] ^ likers[1] if texts[0] != texts[1] else set())
  found = analysis.by_attribute(world, queries, {"fspo": [np.ones(120)]})
  assert found and not any(" / " in name for name in found)
  for name in found:
    assert found[name]["pairs"] == sum(name in words for words in differences)
    assert found[name]["fspo"] == 1.0


def test_the_report_shows_all_of_it(match, tmp_path):
  link = calibration.Link("dpo", 1.0)
  results = {
    "binomial": {"unseen": analysis.binomial(match, USERS)},
    "paired": {"unseen": analysis.paired(match, USERS, 200)},
    "calibration": {"unseen": analysis.calibrated({"fspo": [np.linspace(-1, 3, 50)]}, link)},
    "accuracy_by_attribute": {"unseen": {"concise / verbose": {"pairs": 30, "fspo": 0.9}}},
  }
  markdown.write(tmp_path / "report.md", Document("t", report_analysis.sections(results)))
  text = (tmp_path / "report.md").read_text()
  assert "| FSPO − Few-shot prompted |" in text
  assert "| concise / verbose | 30 | 90.0 |" in text
  assert f"{100 * results['calibration']['unseen']['fspo']['ece']:.1f}" in text
  assert (tmp_path / "calibration.png").stat().st_size > 10_000
  assert report_analysis.sections({}) == []
