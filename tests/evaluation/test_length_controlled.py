# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the length-controlled win rate: against the official tool, and its definition."""

import json
import math
import pathlib

import numpy as np
import pytest
import scipy.special

from fspo_jax.evaluation import alpaca_files, length_controlled

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "alpaca_eval"
# (length, difficulty, model) that the preferences were drawn with; see make.py.
TRUTH = {"shorter": (-1.6, 0.8, -0.5), "longer": (-0.9, 0.5, 0.3)}
_IN_TURN = ("length_controlled_minimal", "length_controlled_noreg", "length_controlled_v1")


def _arguments(name, variant):
  rows = alpaca_files.read_annotations(FIXTURES / f"{name}.json")
  known = alpaca_files.read_gamed(FIXTURES / "df_gamed.csv")
  wins = np.array([row.win for row in rows])
  lengths = [np.array([len(row.output_1) for row in rows]),
             np.array([len(row.output_2) for row in rows])]  # fmt: skip
  more = {}
  if variant != _IN_TURN[0]:
    more["difficulty"] = known.difficulty
  if variant == _IN_TURN[2]:
    more["baseline_rows"] = known.baseline_rows
  return wins, lengths, more


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("variant", _IN_TURN)
def test_it_is_what_the_official_tool_says(name, variant):
  expected = json.loads((FIXTURES / "expected.json").read_text())[name][variant]
  wins, lengths, more = _arguments(name, variant)
  found = length_controlled.length_controlled(wins, *lengths, **more)
  assert found.variant == variant
  # The same solver in the same order; other versions of it may differ within its tolerance.
  assert 100 * found.win_rate == pytest.approx(expected["length_controlled_winrate"], abs=1e-6)
  assert 100 * found.standard_error == pytest.approx(expected["lc_standard_error"], abs=1e-6)


def _minimum(rows, target, weight, inverse_penalty, signs):
  """By Newton's method, where no coefficient is 0: |w| has the slope `signs`."""
  coefficients = np.zeros(rows.shape[1])
  for _ in range(50):
    p = scipy.special.expit(rows @ coefficients)
    gradient = inverse_penalty * rows.T @ (weight * (p - target)) + signs
    hessian = inverse_penalty * (rows.T * weight * p * (1 - p)) @ rows
    coefficients -= np.linalg.solve(hessian, gradient)
  np.testing.assert_allclose(gradient, 0, atol=1e-6 * inverse_penalty)
  np.testing.assert_array_equal(np.sign(coefficients), signs)
  return coefficients


@pytest.mark.parametrize("name", TRUTH)
def test_it_is_the_minimum_of_the_definition(name):
  """Of the L1 norm plus C times the weighted cross-entropy, without the library's solver."""
  wins, lengths, more = _arguments(name, "length_controlled_v1")
  known = more["baseline_rows"]
  difference = lengths[0] - lengths[1]
  length = np.tanh(difference / math.sqrt(((difference - difference.mean()) ** 2).sum() / 159))
  judged = ~np.isnan(wins)
  rows = np.concatenate([
    np.stack([np.tanh(known.length), known.difficulty, np.zeros(320)], 1),
    np.stack([length, more["difficulty"], np.ones(160)], 1)[judged],
  ])  # fmt: skip
  target = np.concatenate([known.preference, wins[judged]])
  weight = np.concatenate([np.full(320, 0.1), np.ones(judged.sum())])
  found = length_controlled.length_controlled(wins, *lengths, **more)
  ours = np.array(list(found.coefficients.values()))
  exact = _minimum(rows, target, weight, found.inverse_penalty, np.sign(ours))
  np.testing.assert_allclose(ours, exact, atol=5e-3)  # liblinear stops at 1e-4 of its gradient
  rate = scipy.special.expit(exact[1] * more["difficulty"] + exact[2]).mean()
  assert found.win_rate == pytest.approx(rate, abs=5e-4)


@pytest.mark.parametrize(
  ("name", "coefficients"),
  [
    # statsmodels 0.15.0: GLM(wins, [tanh(length), difficulty, 1], Binomial()).fit().params
    ("shorter", (-0.78599984, 0.6789477, -0.27861448)),
    ("longer", (-0.81860738, 0.67840716, 0.65201122)),
  ],
)
def test_without_its_penalty_it_is_the_plain_glm(name, coefficients, monkeypatch):
  monkeypatch.setattr(length_controlled, "_INVERSE_PENALTIES", np.array([1e5]))
  wins, lengths, more = _arguments(name, "length_controlled_noreg")
  found = length_controlled.length_controlled(wins, *lengths, **more)
  np.testing.assert_allclose(list(found.coefficients.values()), coefficients, atol=2e-3)


def _draw(coefficients, rows=6000, mean=15.0, seed=0):
  rng = np.random.default_rng(seed)
  a, b, c = coefficients
  difficulty = rng.normal(size=rows)
  baseline, own = rng.poisson(100, rows), rng.poisson(100 + mean, rows)
  difference = baseline - own
  score = a * np.tanh(difference / difference.std(ddof=1)) + b * difficulty + c
  wins = (rng.random(rows) < scipy.special.expit(score)).astype(float)
  return wins, baseline, own, difficulty


def test_a_model_that_wins_by_its_length_alone_is_found_out():
  wins, baseline, own, difficulty = _draw((-1.5, 0.7, 0.0))
  found = length_controlled.length_controlled(wins, baseline, own, difficulty=difficulty)
  assert wins.mean() > 0.65
  assert found.win_rate == pytest.approx(0.5, abs=0.06)
  assert found.coefficients["length"] == pytest.approx(-1.5, abs=0.25)
  assert found.coefficients["difficulty"] == pytest.approx(0.7, abs=0.15)


def test_swapping_the_sides_swaps_the_rate():
  wins, baseline, own, difficulty = _draw((-1.0, 0.7, 0.4), rows=400)
  one = length_controlled.length_controlled(wins, baseline, own, difficulty=difficulty)
  other = length_controlled.length_controlled(1 - wins, own, baseline, difficulty=difficulty)
  assert one.win_rate + other.win_rate == pytest.approx(1, abs=1e-3)


def test_equal_lengths_leave_the_rate_as_it_is():
  wins = np.tile([1.0, 1.0, 0.0, 1.0], 50)
  lengths = np.full(200, 30)
  found = length_controlled.length_controlled(wins, lengths, lengths)
  assert found.coefficients["length"] == 0
  assert found.win_rate == pytest.approx(0.75, abs=5e-3)  # but for the penalty


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_lengths": np.arange(19)}, "one number per comparison"),
    ({"model_lengths": np.arange(20) + 3}, "found -3 for all 20"),
    ({"preference": np.full(20, np.nan)}, "5 or more comparisons"),
    ({"preference": np.full(20, 1.5)}, r"in \[0, 1\]"),
    (
      {"baseline_rows": length_controlled.BaselineRows(*np.zeros((3, 4)))},
      "without difficulties",
    ),
  ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
  arguments = {
    "preference": np.tile([0.0, 1.0], 10),
    "baseline_lengths": np.arange(20),
    "model_lengths": np.arange(20)[::-1],
  }
  with pytest.raises(ValueError, match=message):
    length_controlled.length_controlled(**(arguments | change))
