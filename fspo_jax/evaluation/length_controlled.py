# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The length-controlled win rate of AlpacaEval 2.0: what it would be at the baseline's lengths.

Dubois et al., "Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators", arXiv
2404.04475. Of each comparison, the probability that the judge prefers the model is

  sigmoid(a * tanh((len_baseline - len_model) / s) + b * difficulty + c),

s the standard deviation of the difference of lengths, in characters (n - 1 in its denominator).
The win rate is the mean of that at equal lengths, over all instructions: of sigmoid(b * difficulty
+ c).
Nothing is centred, so equal lengths are not corrected, and swapping the sides gives 1 - the rate.

Three variants, by what there is beside the annotations; the names are those of the official package
(alpaca_eval 0.6.6), with which all three agree to the last bit where its library is of the same
version (scikit-learn 1.9.1 here):

- `length_controlled_v1`, the leaderboard's: with difficulties, and with the rows of the baseline
  asked to be verbose and to be concise, each of weight 0.1. Those have the terms of length and
  difficulty and no c, so that length explains of a model hardly more than it does of the baseline.
- `length_controlled_noreg`: with difficulties, without these rows.
- `length_controlled_minimal`: with neither. On AlpacaEval's own files it is far from the
  leaderboard, for models that are much shorter than the baseline by 10 points and more.

The fit is L1-penalized, without an intercept of the solver's own; 5-fold cross-validation chooses
the penalty among 10 values, by the log loss.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

from jaxtyping import Float, Int, Num
import numpy as np
import scipy.special
import sklearn.linear_model
import sklearn.model_selection

V1, NO_REGULARIZATION, MINIMAL = (
  "length_controlled_v1",
  "length_controlled_noreg",
  "length_controlled_minimal",
)

# Facts of the definition. The seed orders liblinear's coordinate descent, which stops at a
# tolerance: with another one the last digits would be others.
_FOLDS, _SEED, _BASELINE_WEIGHT = 5, 123, 0.2
_INVERSE_PENALTIES = np.logspace(-4, 4, 10)
_EPSILON = 1e-15


@dataclasses.dataclass(frozen=True)
class BaselineRows:
  """The baseline against itself when it was asked to be verbose, and when asked to be concise.

  Attributes:
    preference: in [0, 1], 1 where the judge prefers the one that was asked.
    length: the difference of lengths, baseline's minus the other's, by its standard deviation.
    difficulty: of the instruction.
  """

  preference: Float[np.ndarray, " rows"]
  length: Float[np.ndarray, " rows"]
  difficulty: Float[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class LengthControlled:
  """A length-controlled win rate, and the model it comes from.

  Attributes:
    win_rate: a fraction, the mean of `preference`.
    standard_error: of that mean over instructions; of one instruction nan.
    preference: at equal lengths, of every instruction, also of those that the judge left out.
    variant: the name of the formula.
    coefficients: of the length difference, the difficulty (0 without one) and the model.
    inverse_penalty: C, which cross-validation chose.
  """

  win_rate: float
  standard_error: float
  preference: Float[np.ndarray, " n"]
  variant: str
  coefficients: dict[str, float]
  inverse_penalty: float


def length_controlled(
  preference: Float[np.ndarray, " n"],
  baseline_lengths: Num[np.ndarray, " n"],
  model_lengths: Num[np.ndarray, " n"],
  *,
  difficulty: Float[np.ndarray, " n"] | None = None,
  baseline_rows: BaselineRows | None = None,
) -> LengthControlled:
  """The length-controlled win rate of a model against a baseline.

  Args:
    preference: in [0, 1], 1 where the judge prefers the model, nan where it said nothing.
    baseline_lengths: characters of the baseline's outputs.
    model_lengths: characters of the model's.
    difficulty: of the instructions.
    baseline_rows: regularize; they need difficulties.

  Raises:
    ValueError: the arguments do not fit each other, or there is too little to fit.
  """
  preference = np.asarray(preference, np.float64)
  shapes = {np.shape(x) for x in (preference, baseline_lengths, model_lengths)}
  if difficulty is not None:
    shapes.add(np.shape(difficulty))
  if len(shapes) > 1 or preference.ndim != 1:
    raise ValueError(f"expected one number per comparison of each kind, found shapes {shapes}")
  if baseline_rows is not None and difficulty is None:
    raise ValueError(
      "baseline_rows: found them without difficulties, expected both or difficulties"
    )
  judged = ~np.isnan(preference)
  if judged.sum() < _FOLDS:
    raise ValueError(
      f"expected {_FOLDS} or more comparisons with a preference, found {judged.sum()}"
    )
  if not ((preference[judged] >= 0) & (preference[judged] <= 1)).all():
    raise ValueError(f"preference: expected numbers in [0, 1], found {preference[judged]}")

  length = np.tanh(standardized(np.asarray(baseline_lengths) - np.asarray(model_lengths)))
  ones = np.ones_like(length)
  columns = [length, ones] if difficulty is None else [length, np.asarray(difficulty, float), ones]
  rows, target = np.stack(columns, 1)[judged], preference[judged]
  weight = np.ones_like(target)
  if baseline_rows is not None:
    b = baseline_rows
    theirs = np.stack([np.tanh(b.length), b.difficulty, np.zeros_like(b.length)], 1)
    # First, as the folds are by position.
    rows, target = np.concatenate([theirs, rows]), np.concatenate([b.preference, target])
    weight = np.concatenate([np.full(len(theirs), _BASELINE_WEIGHT / 2), weight])
  coefficients, inverse_penalty = _fit(rows, target, weight)

  at_equal_lengths = np.stack([np.zeros_like(length), *columns[1:]], 1)
  found = scipy.special.expit(at_equal_lengths @ coefficients)
  n = len(found)
  a, c = coefficients[0], coefficients[-1]
  return LengthControlled(
    win_rate=float(found.mean()),
    standard_error=float(found.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan,
    preference=found,
    variant=MINIMAL if difficulty is None else NO_REGULARIZATION if baseline_rows is None else V1,
    coefficients={
      "length": float(a),
      "difficulty": 0.0 if difficulty is None else float(coefficients[1]),
      "model": float(c),
    },
    inverse_penalty=inverse_penalty,
  )


def standardized(difference: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
  """Differences of lengths by their standard deviation; not centred.

  Raises:
    ValueError: they are all the same and not 0: nothing tells their effect from the model's.
  """
  difference = np.asarray(difference, np.float64)
  deviation = difference.std(ddof=1) if len(difference) > 1 else 0.0
  if deviation > 0:
    return difference / deviation
  if difference.any():
    raise ValueError(
      f"expected differences of length that differ, found {difference[0]:g} for all "
      f"{len(difference)}: their effect cannot be told from the model's"
    )
  return difference


def _fit(
  rows: Float[np.ndarray, "n terms"],
  target: Float[np.ndarray, " n"],
  weight: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " terms"], float]:
  """The coefficients, and C: the one of the best mean log loss over held-out folds."""
  loss = np.zeros(len(_INVERSE_PENALTIES))
  for train, test in _folds(len(rows)):
    # One generator for all penalties of a fold, as scikit-learn's path of penalties has it.
    generator = np.random.RandomState(_SEED)
    for i, inverse_penalty in enumerate(_INVERSE_PENALTIES):
      found = _solve(rows[train], target[train], weight[train], inverse_penalty, generator)
      p = np.clip(scipy.special.expit(rows[test] @ found), _EPSILON, 1 - _EPSILON)
      y = target[test]
      loss[i] += np.mean(weight[test] * (y * np.log(p) + (1 - y) * np.log(1 - p)))
  best = float(_INVERSE_PENALTIES[loss.argmax()])
  return _solve(rows, target, weight, best, np.random.RandomState(_SEED)), best


def _folds(n: int) -> Iterator[tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]]:
  """Folds as the official tool has them: of comparisons, each a group of its own."""
  groups = np.arange(n)
  yield from sklearn.model_selection.GroupKFold(_FOLDS).split(groups, groups=groups)


def _solve(
  rows: Float[np.ndarray, "n terms"],
  target: Float[np.ndarray, " n"],
  weight: Float[np.ndarray, " n"],
  inverse_penalty: float,
  generator: np.random.RandomState,
) -> Float[np.ndarray, " terms"]:
  """Fits probabilities: every row is won with weight `target`, and lost with what remains."""
  model = sklearn.linear_model.LogisticRegression(
    C=inverse_penalty,
    l1_ratio=1,
    solver="liblinear",
    fit_intercept=False,
    random_state=generator,
  )
  won = np.repeat([1, 0], len(rows))
  weights = np.concatenate([target, 1 - target]) * np.tile(weight, 2)
  return model.fit(np.tile(rows, (2, 1)), won, sample_weight=weights).coef_[0]
