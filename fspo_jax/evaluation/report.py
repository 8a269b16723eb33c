# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation, that a person reads from top to bottom: Markdown, and one HTML file.

What is not in the results (Bayes accuracy and win rates, for users without a world or a judge) is
left out of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import json
import os
import pathlib
from typing import Any

from fspo_jax.evaluation import plots, report_analysis, report_samples
from fspo_jax.evaluation import results as results_lib
from fspo_jax.evaluation.formatting import count, duration, rate
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.report_samples import UserSample
from fspo_jax.evaluation.results import SPLITS, Results
from fspo_jax.pages import markdown, webpage
from fspo_jax.pages.document import (
  Block,
  Bullets,
  Document,
  Figure,
  Listing,
  Paragraph,
  Section,
  Span,
  Table,
  Text,
)


def write_report(
  directory: str | os.PathLike[str],
  results: Results,
  samples: Sequence[UserSample],
  *,
  title: str,
  notes: Sequence[Text] = (),
  data_facts: Mapping[str, object] | None = None,
  sections: Sequence[Section] = (),
) -> pathlib.Path:
  """Writes report.md with its plots, and report.html, into `directory`, made where it is missing.

  Args:
    directory: where report.md, report.html, accuracy_by_k.png and (if there are win rates)
      win_rates.png go.
    results: valid results; their environment says what was run.
    samples: the users to show, usually three.
    title: the heading.
    notes: paragraphs to put under the headline, such as what a reader should beware of.
    data_facts: {name: value} about the data, such as how many users were trained on.
    sections: what else there is to say, such as training curves.

  Returns:
    The path of report.md.

  Raises:
    ValueError: if the results are not valid, or a sample has a method that is not in `METHODS`.
  """
  results_lib.validate(results)
  directory = pathlib.Path(directory)
  blocks: list[Block] = [Paragraph(headline(results), lead=True), *map(Paragraph, notes)]
  blocks += _what_was_run(results["environment"], data_facts or {})
  blocks.append(_accuracy(results))
  for key in sorted(key for key in results if key == "win_rate" or key.startswith("win_rate_")):
    blocks += _win_rates(key, results)
  blocks += report_analysis.sections(results)
  blocks.append(_methods(results))
  blocks += _baselines(results.get("baselines", {}), results.get("baselines_ci95", {}))
  blocks += report_samples.sections(samples)
  blocks += sections
  blocks += _wall_times(results["wall_seconds"]) + _rest(results)

  document = Document(title, blocks)
  directory.mkdir(parents=True, exist_ok=True)
  markdown.write(directory / "report.md", document)
  webpage.write(directory / "report.html", document)
  return directory / "report.md"


def headline(results: Results) -> Text:
  """What the results say in two sentences: accuracy at the most shots, then win rates.

  Args:
    results: valid results.

  Returns:
    A paragraph about the first split that the results have.
  """
  accuracy, intervals = results["preference_accuracy"], results["preference_accuracy_ci95"]
  split = next(split for split in SPLITS if any(split in by for by in accuracy.values()))
  methods = [method for method in METHODS if split in accuracy.get(method, {})]
  k = max(_last_k(accuracy[method][split]) for method in methods)
  # Ours first, then what it is measured against.
  ours = [method for method in methods if method.startswith("fspo")]
  parts = []
  for method in ours + [method for method in methods if method not in ours]:
    last = str(_last_k(accuracy[method][split]))
    value = rate(accuracy[method][split][last], intervals[method][split][last], unit=" %")
    parts.append(f"{METHODS[method].label} {value}")
  if split in results["bayes_accuracy"]:
    best = results["bayes_accuracy"][split]
    parts.append(f"the Bayes ceiling {rate(best[str(_last_k(best))], unit=' %')}")
  text = f" preference accuracy is {', '.join(parts)}."

  rates = {m: by[split] for m, by in results["win_rate"].items() if split in by and m != "base"}
  ours = [method for method in METHODS if method in rates and method.startswith("fspo")] or [
    method for method in METHODS if method in rates
  ]
  if ours:
    wins = [
      f"{METHODS[m].label} wins {rate(rates[m]['mean'], rates[m]['ci95'], unit=' %')} "
      f"({count(rates[m]['users'], 'user')})"
      for m in ours
    ]
    text += f" Against the base model's responses, {', '.join(wins)}."
  return Span(f"{SPLITS[split]}, up to {count(k, 'shot')}:"), text


def _what_was_run(
  environment: Mapping[str, Any], data_facts: Mapping[str, object]
) -> list[Section]:
  known = {
    "command": "Command",
    "seed": "Seed",
    "date": "Date (UTC)",
    "commit": "Commit",
    "cpu": "CPU",
    "cores": "Cores",
    "platform": "Platform",
    "python": "Python",
  }
  order = [*known, *sorted(set(environment) - set(known))]
  run: list[tuple[Text, Text]] = [
    (known.get(key, key), Span(value, "code") if key == "command" else _value(value))
    for key, value in ((key, environment.get(key)) for key in order)
    if value is not None
  ]
  data = [(name, _value(value)) for name, value in data_facts.items()]
  return [
    Section(title, [Table(("", ""), rows)])
    for title, rows in (("What was run", run), ("Data", data))
    if rows
  ]


def _accuracy(results: Results) -> Section:
  accuracy, intervals = results["preference_accuracy"], results["preference_accuracy_ci95"]
  tables = []
  for split, label in SPLITS.items():
    methods = [method for method in METHODS if split in accuracy.get(method, {})]
    if not methods:
      continue
    bayes = results["bayes_accuracy"].get(split)
    ks = 1 + max(_last_k(accuracy[method][split]) for method in methods)
    rows = []
    for k in map(str, range(ks)):
      row = [k]
      for method in methods:
        mean = accuracy[method][split].get(k)
        row.append("" if mean is None else rate(mean, intervals[method][split][k]))
      if bayes:
        row.append(rate(bayes[k]) if k in bayes else "")
      rows.append(row)
    labels = [METHODS[method].label for method in methods]
    header = ["k", *labels, *(["Bayes ceiling"] if bayes else [])]
    tables.append(Section(label, [Table(header, rows, numeric=True)]))
  ceiling = (
    " The Bayes ceiling is what an observer reaches who knows how users come about, and has seen "
    "the same k shots; a method that sees and knows no more than that passes it by chance."
  )
  note = (
    "In %, with 95 % intervals from resampling users. Chance is 50; a margin of exactly zero "
    f"counts half.{ceiling if results['bayes_accuracy'] else ''} A method given at k = 0 alone "
    "uses no shots."
  )
  alt = "Accuracy by k: a line for each method, of the numbers in the tables below"
  figure = Figure("accuracy_by_k", alt, functools.partial(plots.accuracy_by_k, results))
  return Section("Preference accuracy by number of shots", [figure, Paragraph(note), *tables])


def _win_rates(key: str, results: Results) -> list[Section]:
  rates: Mapping[str, Any] = results[key]
  if not any(rates.values()):
    return []
  splits = [split for split in SPLITS if any(split in by for by in rates.values())]
  rows = []
  for method, row_of in METHODS.items():
    if rates.get(method):
      row = [row_of.label]
      for split in splits:
        found = rates[method].get(split)
        row += [rate(found["mean"], found["ci95"]), str(found["users"])] if found else ["", ""]
      rows.append(row)
  header = [""]
  for split in splits:
    header += [SPLITS[split], "users"]
  blocks: list[Block] = [
    Table(header, rows, numeric=True),
    Paragraph(
      "In %, with 95 % intervals from resampling users: how often the judge prefers the response "
      "to the base model's, for that user; ties count half."
    ),
  ]
  variant = key.removeprefix("win_rate").lstrip("_").replace("_", " ")
  if not variant:
    alt = "Win rates: a point and its interval for each method, of the numbers in the table above"
    blocks.append(Figure("win_rates", alt, functools.partial(plots.win_rates, results)))
  return [Section(f"Win rate ({variant})" if variant else "Win rate", blocks)]


def _methods(results: Results) -> Section:
  named = {*results["preference_accuracy"], *results["win_rate"]}
  items = [(Span(m.label), f": {m.about}") for name, m in METHODS.items() if name in named]
  return Section("The methods", [Bullets(items)])


def _baselines(
  baselines: Mapping[str, Mapping[str, float]],
  intervals: Mapping[str, Mapping[str, Sequence[float] | None]],
) -> list[Section]:
  if not baselines:
    return []
  splits = [split for split in SPLITS if any(split in by for by in baselines.values())]
  rows = [
    [
      name,
      *(rate(by[s], intervals.get(name, {}).get(s)) if s in by else "" for s in splits),
    ]
    for name, by in sorted(baselines.items())
  ]
  table = Table(["", *(SPLITS[split] for split in splits)], rows, numeric=True)
  note = Paragraph("Preference accuracy in %, with 95 % intervals by user.")
  return [Section("Baselines", [table, note])]


def _wall_times(wall_seconds: Mapping[str, float]) -> list[Section]:
  if not wall_seconds:
    return []
  rows: list[tuple[Text, Text]] = [(stage, duration(s)) for stage, s in wall_seconds.items()]
  rows.append((Span("all"), Span(duration(sum(wall_seconds.values())))))
  return [Section("Wall time", [Table(("stage", ""), rows, numeric=True)])]


def _rest(results: Results) -> list[Section]:
  """Later additions to the results that have no section of their own, as they are."""
  shown = {*results_lib.REQUIRED, "baselines", "baselines_ci95", *report_analysis.KEYS}
  rest = {
    key: results[key]
    for key in sorted(results)
    if key not in shown and not key.startswith("win_rate_")
  }
  if not rest:
    return []
  text = json.dumps(rest, indent=2, sort_keys=True)
  return [Section("Further numbers", [Listing(text, "json")])]


def _value(value: object) -> str:
  if isinstance(value, Mapping):
    return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
  if isinstance(value, list):
    return ", ".join(map(_value, value))
  return str(value)


def _last_k(by_k: Mapping[str, object]) -> int:
  return max(map(int, by_k))
