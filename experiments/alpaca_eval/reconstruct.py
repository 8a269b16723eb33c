# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Reconstructs what AlpacaEval's length control knows of its 805 instructions, from its results.

python experiments/alpaca_eval/reconstruct.py --clone=DIR --out=FILE

The official tool downloads `df_gamed.csv`: the difficulty of each instruction, and how the judge
liked the baseline when it was asked to be verbose or concise. Who has that file needs none of this.
DIR is a work tree of github.com/tatsu-lab/alpaca_eval; what is used of it is what it publishes of
its fits, and the annotations that are there (of a partial copy, those of some models).

- Difficulties are those at which the published coefficients of every model explain its annotations
  (a logistic regression with one unknown per instruction), and give its published rate.
- Lengths of the baseline's verbose and concise outputs are in `model_outputs.json`.
- The judge's preferences among them are not: in their place stand the probabilities of their own
  published coefficients, moved so that their mean is the published win rate. A logistic regression
  depends on preferences through their sums with its features alone, of which its own fit is right.
  (`slope`, by how much the length coefficients are less steep there than of these rows alone, is
  the one number that is chosen: such that our fits have the published length coefficient, in the
  mean over every second model.)

FILE is in the package as `fspo_jax/evaluation/alpaca_eval_805.csv`. It holds no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import pathlib

from absl import app, flags
from jaxtyping import Float
import numpy as np
import scipy.optimize
import scipy.special

from fspo_jax.evaluation import alpaca_files, length_controlled

_CLONE = flags.DEFINE_string("clone", None, "Work tree of alpaca_eval.", required=True)
_OUT = flags.DEFINE_string("out", None, "The CSV file to write.", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of moving the slope.")

_JUDGE, _BASELINE = "weighted_alpaca_eval_gpt4_turbo", "gpt4_1106_preview"
_WEIGHTS = f"src/alpaca_eval/metrics/weights/{_JUDGE}/length_controlled_v1/baseline_{_BASELINE}.csv"
_LEADERBOARD = f"src/alpaca_eval/leaderboards/data_AlpacaEval_2/{_JUDGE}_leaderboard.csv"
_PRIOR = 0.1  # of difficulties, by their squares: enough for what no model says anything of
_RATE_ERROR = 5e-4  # how closely published rates are met
_ASKED = (f"{_BASELINE}_verbose", f"{_BASELINE}_concise")

Numbers = Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Published:
  """What is published of one model: (length, difficulty, model) coefficients and rates."""

  coefficients: Float[np.ndarray, " 3"]
  win_rate: float
  length_controlled: float


@dataclasses.dataclass(frozen=True)
class Annotated:
  """One model's annotations, in the order of the instructions."""

  name: str
  preference: Numbers
  baseline_lengths: Numbers
  model_lengths: Numbers

  @property
  def length_term(self) -> Numbers:
    """The first feature."""
    difference = self.baseline_lengths - self.model_lengths
    return np.tanh(length_controlled.standardized(difference))


def read_published(clone: pathlib.Path) -> dict[str, Published]:
  """Coefficients and rates by model, of those that have both."""
  with open(clone / _WEIGHTS, encoding="utf-8", newline="") as file:
    weights = {row[0]: np.asarray(row[1:], float) for row in list(csv.reader(file))[1:]}
  with open(clone / _LEADERBOARD, encoding="utf-8", newline="") as file:
    rates = {row[""]: row for row in csv.DictReader(file)}
  return {
    name: Published(
      weights[name],
      float(rates[name]["win_rate"]) / 100,
      float(rates[name]["length_controlled_winrate"]) / 100,
    )
    for name in weights
    if name in rates and name != _BASELINE
  }


def read_annotated(
  clone: pathlib.Path, names: Sequence[str], instructions: Sequence[str]
) -> list[Annotated]:
  """The models that have an annotation of every instruction."""
  found = []
  for name in names:
    path = clone / "results" / name / _JUDGE / "annotations.json"
    if not path.exists():
      continue
    rows = alpaca_files.read_annotations(path)
    by_instruction = {row.instruction: row for row in rows}
    if set(by_instruction) != set(instructions):
      continue  # the official tool goes by position, and so has fitted other instructions
    own = [by_instruction[text] for text in instructions]
    found.append(
      Annotated(
        name,
        np.array([row.win for row in own]),
        np.array([len(row.output_1) for row in own], float),
        np.array([len(row.output_2) for row in own], float),
      )
    )
  return found


def outputs_of(clone: pathlib.Path, name: str) -> dict[str, str]:
  """A model's outputs by instruction."""
  rows = alpaca_files.read_outputs(clone / "results" / name / "model_outputs.json")
  return {row["instruction"]: row["output"] for row in rows}


def difficulties(
  annotated: Sequence[Annotated], published: Mapping[str, Published], count: int
) -> Numbers:
  """Of each instruction."""
  known = [(a, published[a.name].coefficients) for a in annotated]
  terms = [(b, a * one.length_term + c, one.preference) for one, (a, b, c) in known]
  rated = np.array([[*p.coefficients[1:], p.length_controlled] for p in published.values()])

  def loss(d: Numbers) -> tuple[float, Numbers]:
    value, gradient = _PRIOR * float(d @ d) / 2, _PRIOR * d
    for b, rest, preference in terms:
      scores = b * d + rest
      value += float((np.logaddexp(0, scores) - preference * scores).sum())
      gradient = gradient + b * (scipy.special.expit(scores) - preference)
    p = scipy.special.expit(rated[:, :1] * d + rated[:, 1:2])
    miss = (p.mean(1) - rated[:, 2]) / _RATE_ERROR
    slope = (miss / _RATE_ERROR)[:, None] * rated[:, :1] * p * (1 - p) / count
    return value + float(miss @ miss) / 2, gradient + slope.sum(0)

  start = np.zeros(count)
  options = {"maxiter": 5000, "maxfun": 10000}
  return scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x


def asked_rows(
  clone: pathlib.Path,
  published: Mapping[str, Published],
  baseline: Mapping[str, str],
  difficulty: Numbers,
  slope: float,
) -> length_controlled.BaselineRows:
  """The baseline asked to be verbose, and to be concise."""
  parts = []
  for name in _ASKED:
    own = outputs_of(clone, name)
    length = length_controlled.standardized([len(baseline[x]) - len(own[x]) for x in baseline])
    a, b, c = published[name].coefficients
    score = slope * a * np.tanh(length) + b * difficulty + c
    parts.append((_moved(score, published[name].win_rate), length, difficulty))
  return length_controlled.BaselineRows(*map(np.concatenate, zip(*parts, strict=True)))


def _moved(score: Numbers, rate: float) -> Numbers:
  """Probabilities of scores that are moved so that the mean is `rate`."""
  shift = scipy.optimize.brentq(lambda s: scipy.special.expit(score + s).mean() - rate, -9, 9)
  return scipy.special.expit(score + shift)


def main(argv: list[str]) -> None:
  """Reconstructs, says how near it comes to the leaderboard, and writes the file."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  clone = pathlib.Path(_CLONE.value)
  published = read_published(clone)
  baseline = outputs_of(clone, _BASELINE)
  annotated = read_annotated(clone, [*published], [*baseline])
  print(f"{len(annotated)} models have all annotations, {len(published)} have coefficients")
  # Every second one sets the slope, and all are compared below; difficulties are of all.
  difficulty = difficulties(annotated, published, len(baseline))
  slope = 1.0
  for _ in range(_ROUNDS.value):
    rows = asked_rows(clone, published, baseline, difficulty, slope)
    fits = [
      length_controlled.length_controlled(
        a.preference,
        a.baseline_lengths,
        a.model_lengths,
        difficulty=difficulty,
        baseline_rows=rows,
      )
      for a in annotated
    ]
    ours = np.array([fit.coefficients["length"] for fit in fits])
    theirs = np.array([published[a.name].coefficients[0] for a in annotated])
    rates = np.array([published[a.name].length_controlled for a in annotated])
    error = 100 * (np.array([fit.win_rate for fit in fits]) - rates)
    print(
      f"slope {slope:.3f}: length coefficient {ours.mean():.3f}, published {theirs.mean():.3f}; "
      f"rate off by {np.abs(error).mean():.2f} points in the mean, at most "
      f"{np.abs(error).max():.2f} ({annotated[int(np.abs(error).argmax())].name})"
    )
    best = rows
    slope *= (theirs[::2].mean() / ours[::2].mean()) ** 3  # it moves by less than the ratio
  write(pathlib.Path(_OUT.value), [*baseline], difficulty, best)


def write(
  path: pathlib.Path,
  instructions: Sequence[str],
  difficulty: Numbers,
  rows: length_controlled.BaselineRows,
) -> None:
  """One line per instruction, known by the start of its SHA-256."""
  columns = [*rows.length.reshape(2, -1), *rows.preference.reshape(2, -1)]
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(alpaca_files.KNOWN_COLUMNS)
    for i, text in enumerate(instructions):
      numbers = (f"{c[i]:.3f}" for c in (difficulty, *columns))
      writer.writerow([alpaca_files.digest(text), *numbers])


if __name__ == "__main__":
  app.run(main)
