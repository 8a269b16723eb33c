# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sections of a report on what `analysis.py` finds; what is not in the results is left out."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

from fspo_jax.evaluation import calibration
from fspo_jax.evaluation.formatting import p_value, rate
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.results import SPLITS, Results
from fspo_jax.pages.document import Figure, Paragraph, Section, Span, Table

KEYS = ("binomial", "paired", "calibration", "accuracy_by_attribute")


def sections(results: Results) -> list[Section]:
  """What chance explains, accuracy by attribute, and calibration, as far as they are known."""
  return [
    *_chance(results.get("binomial", {}), results.get("paired", {})),
    *_by_attribute(results.get("accuracy_by_attribute", {})),
    *_calibration(results.get("calibration", {})),
  ]


def _chance(binomial: Mapping[str, Any], paired: Mapping[str, Any]) -> list[Section]:
  found = []
  for split in SPLITS:
    tables = []
    rows = [
      [METHODS[name].label, f"{x['won']} : {x['lost']}", p_value(x["p"]),
       f"{x['users_for']} : {x['users_against']}", p_value(x["p_by_user"])]
      for name, x in _in_order(binomial.get(split, {}))
    ]  # fmt: skip
    if rows:
      header = ["against the base", "won : lost", "p", "users won : lost", "p"]
      tables.append(Table(header, rows, numeric=True))
    rows = [
      [
        f"{METHODS[ours].label} − {METHODS[other].label}",
        rate(x["difference"], x["ci95"]),
        p_value(x["permutation_p"]),
        p_value(x["wilcoxon_p"]),
        rate(x["preferred"]),
      ]
      for ours, by in _in_order(paired.get(split, {}))
      for other, x in _in_order(by)
    ]
    if rows:
      header = ["win rates", "difference", "p, permutation", "p, Wilcoxon", "preferred"]
      tables.append(Table(header, rows, numeric=True))
    if tables:
      found.append(Section(SPLITS[split], tables))
  if not found:
    return []
  note = Paragraph(
    (
      "p of the first table: one-sided binomial tests, of responses (as if they were independent, "
      "which those to one user are not) and of users; ties are left out. Of the second: two-sided "
      "tests by user of the difference of win rates, in %, with its 95 % interval from resampling "
      "users; ",
      Span("preferred", "code"),
      " is how often the first one's response is liked better than the second's, ties half.",
    )
  )
  return [Section("What chance explains", [note, *found])]


def _by_attribute(found: Mapping[str, Any]) -> list[Section]:
  made = []
  for split in SPLITS:
    attributes = found.get(split)
    if not attributes:
      continue
    methods = [name for name in METHODS if any(name in x for x in attributes.values())]
    rows = [
      [name, str(x["pairs"]), *(rate(x[m]) if m in x else "" for m in methods)]
      for name, x in attributes.items()
    ]
    header = ["the responses differ in", "pairs", *(METHODS[m].label for m in methods)]
    made.append(Section(SPLITS[split], [Table(header, rows, numeric=True)]))
  if not made:
    return []
  note = Paragraph(
    "Preference accuracy in % after all shots; a pair that differs in several attributes counts in "
    "each."
  )
  return [Section("By attribute", [note, *made])]


def _calibration(found: Mapping[str, Any]) -> list[Section]:
  if not any(found.values()):
    return []
  rows = [
    [METHODS[name].label, SPLITS[split], f"{100 * x['ece']:.1f}", f"{x['brier']:.3f}",
     str(x["pairs"])]
    for split in SPLITS
    for name, x in _in_order(found.get(split, {}))
  ]  # fmt: skip
  alt = "Reliability: for each method how often it is right, by how sure it is"
  note = Paragraph(
    "How often a pair is ranked right, by how sure the implicit rewards are of it, after all "
    "shots. ECE: the mean distance of the two, in %. Brier: the mean square of the probability "
    "of what was not chosen; 0.25 knows nothing. Where the likelihood of chosen responses is in "
    "the loss too, as it is by default, what the margins promise is approximate."
  )
  return [
    Section(
      "Calibration of the implicit reward",
      [
        Figure("calibration", alt, functools.partial(calibration.plot, found)),
        Table(["", "users", "ECE", "Brier", "pairs"], rows, numeric=True),
        note,
      ],
    )
  ]


def _in_order(by_method: Mapping[str, Any]) -> list[tuple[str, Any]]:
  return [(name, by_method[name]) for name in METHODS if name in by_method]
