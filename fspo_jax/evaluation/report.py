# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: one Markdown file that a person reads from top to bottom.

What is not in the results (Bayes accuracy and win rates, for users without a world or a judge) is
left out of the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from fspo_jax.evaluation import markdown, plots, report_analysis
from fspo_jax.evaluation import results as results_lib
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.results import SPLITS, Results
from fspo_jax.preferences import Preference

_SHOTS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class UserSample:
  """One user, one prompt, and what each method answered.

  Attributes:
    user_id: the user.
    description: the gold description, where it is known.
    shots: the preferences the methods saw.
    prompt: what was asked.
    responses: {method: response}; the methods are keys of `METHODS`.
    rewards: {method: the judge's reward of its response}, where there is a judge; a method may be
      missing.
    written_description: the description the model wrote from the shots, where it wrote one.
  """

  user_id: str
  description: str | None
  shots: Sequence[Preference]
  prompt: str
  responses: Mapping[str, str]
  rewards: Mapping[str, float] | None = None
  written_description: str | None = None


def write_report(
  directory: str | os.PathLike[str],
  results: Results,
  samples: Sequence[UserSample],
  *,
  title: str,
  notes: Sequence[str] = (),
  data_facts: Mapping[str, object] | None = None,
  figures: Mapping[str, str] | None = None,
) -> pathlib.Path:
  """Writes `report.md` and its plots into `directory`, which is made where it is missing.

  Args:
    directory: where report.md, accuracy_by_k.png and (if there are win rates) win_rates.png go.
    results: valid results; their environment says what was run.
    samples: the users to show, usually three.
    title: the heading.
    notes: paragraphs of Markdown to put under the headline, such as what a reader should beware of.
    data_facts: {name: value} about the data, such as how many users were trained on.
    figures: {caption: path relative to `directory`} of further figures, such as training curves.

  Returns:
    The path of report.md.

  Raises:
    ValueError: if the results are not valid, or a sample has a method that is not in `METHODS`.
  """
  results_lib.validate(results)
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  plots.accuracy_by_k(results, directory / "accuracy_by_k.png")
  win_rate_plot = any(results["win_rate"].values())
  if win_rate_plot:
    plots.win_rates(results, directory / "win_rates.png")

  blocks = [f"# {title}", headline(results), *notes]
  blocks += _what_was_run(results["environment"], data_facts or {})
  blocks += ["## Preference accuracy by number of shots", "![Accuracy by k](accuracy_by_k.png)"]
  blocks += _accuracy_tables(results)
  for key in sorted(key for key in results if key == "win_rate" or key.startswith("win_rate_")):
    blocks += _win_rate_table(key, results[key])
    if key == "win_rate" and win_rate_plot:
      blocks.append("![Win rates](win_rates.png)")
  blocks += report_analysis.blocks(results, directory)
  blocks += _methods(results)
  blocks += _baselines(results.get("baselines", {}), results.get("baselines_ci95", {}))
  blocks += _samples(samples)
  for caption, path in (figures or {}).items():
    blocks += [f"## {caption}", f"![{caption}]({path})"]
  blocks += _wall_times(results["wall_seconds"]) + _rest(results)

  path = directory / "report.md"
  path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
  return path


def headline(results: Results) -> str:
  """What the results say in two sentences: accuracy at the most shots, then win rates.

  Args:
    results: valid results.

  Returns:
    Markdown, about the first split that the results have.
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
    value = markdown.rate(accuracy[method][split][last], intervals[method][split][last], unit=" %")
    parts.append(f"{METHODS[method].label} {value}")
  if split in results["bayes_accuracy"]:
    best = results["bayes_accuracy"][split]
    parts.append(f"the Bayes ceiling {markdown.rate(best[str(_last_k(best))], unit=' %')}")
  text = (
    f"**{SPLITS[split]}, up to {_count(k, 'shot')}:** preference accuracy is {', '.join(parts)}."
  )

  rates = {m: by[split] for m, by in results["win_rate"].items() if split in by and m != "base"}
  ours = [method for method in METHODS if method in rates and method.startswith("fspo")] or [
    method for method in METHODS if method in rates
  ]
  if ours:
    wins = [
      f"{METHODS[m].label} wins {markdown.rate(rates[m]['mean'], rates[m]['ci95'], unit=' %')} "
      f"({_count(rates[m]['users'], 'user')})"
      for m in ours
    ]
    text += f" Against the base model's responses, {', '.join(wins)}."
  return text


def _what_was_run(environment: Mapping[str, Any], data_facts: Mapping[str, object]) -> list[str]:
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
  facts = {
    known.get(key, key): environment[key] for key in order if environment.get(key) is not None
  }
  blocks = []
  for heading, table in (("## What was run", facts), ("## Data", data_facts)):
    if table:
      rows = [(markdown.text(key), _value(value)) for key, value in table.items()]
      blocks += [heading, markdown.table(("", ""), rows)]
  return blocks


def _accuracy_tables(results: Results) -> list[str]:
  accuracy, intervals = results["preference_accuracy"], results["preference_accuracy_ci95"]
  blocks = []
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
        row.append("" if mean is None else markdown.rate(mean, intervals[method][split][k]))
      if bayes:
        row.append(markdown.rate(bayes[k]) if k in bayes else "")
      rows.append(row)
    header = [
      "k",
      *(METHODS[method].label for method in methods),
      *(["Bayes ceiling"] if bayes else []),
    ]
    blocks += [f"### {label}", markdown.table(header, rows, align="right")]
  blocks.append(
    "In %, with 95 % intervals from resampling users. Chance is 50; a margin of exactly zero "
    "counts half."
    + (
      " The Bayes ceiling is what an observer reaches who knows how users come about, and has seen "
      "the same k shots; a method that sees and knows no more than that passes it by chance."
      if results["bayes_accuracy"]
      else ""
    )
    + " A method given at k = 0 alone uses no shots."
  )
  return blocks


def _win_rate_table(key: str, rates: Mapping[str, Any]) -> list[str]:
  if not any(rates.values()):
    return []
  splits = [split for split in SPLITS if any(split in by for by in rates.values())]
  rows = []
  for method, row_of in METHODS.items():
    if rates.get(method):
      row = [row_of.label]
      for split in splits:
        rate = rates[method].get(split)
        row += [markdown.rate(rate["mean"], rate["ci95"]), str(rate["users"])] if rate else ["", ""]
      rows.append(row)
  header = [""]
  for split in splits:
    header += [SPLITS[split], "users"]
  variant = key.removeprefix("win_rate").lstrip("_").replace("_", " ")
  return [
    f"## Win rate ({markdown.text(variant)})" if variant else "## Win rate",
    markdown.table(header, rows, align="right"),
    "In %, with 95 % intervals from resampling users: how often the judge prefers the response to "
    "the base model's, for that user; ties count half.",
  ]


def _methods(results: Results) -> list[str]:
  named = {*results["preference_accuracy"], *results["win_rate"]}
  lines = [f"- **{m.label}**: {m.about}" for name, m in METHODS.items() if name in named]
  return ["## The methods", "\n".join(lines)]


def _baselines(
  baselines: Mapping[str, Mapping[str, float]],
  intervals: Mapping[str, Mapping[str, Sequence[float] | None]],
) -> list[str]:
  if not baselines:
    return []
  splits = [split for split in SPLITS if any(split in by for by in baselines.values())]
  rows = [
    [
      markdown.text(name),
      *(markdown.rate(by[s], intervals.get(name, {}).get(s)) if s in by else "" for s in splits),
    ]
    for name, by in sorted(baselines.items())
  ]
  table = markdown.table(["", *(SPLITS[split] for split in splits)], rows, align="right")
  return ["## Baselines", table, "Preference accuracy in %, with 95 % intervals by user."]


def _samples(samples: Sequence[UserSample]) -> list[str]:
  if not samples:
    return []
  blocks = ["## Side by side"]
  for sample in samples:
    unknown = sorted({*sample.responses, *(sample.rewards or {})} - set(METHODS))
    if unknown:
      raise ValueError(
        f"sample of user {sample.user_id!r}: expected methods of {list(METHODS)}, found {unknown}"
      )
    blocks.append(f"### User {markdown.text(sample.user_id)}")
    about = []
    if sample.description is not None:
      about.append(f"- **Gold description:** {markdown.text(sample.description)}")
    if sample.written_description is not None:
      about.append(
        f"- **Description the model wrote:** {markdown.text(sample.written_description)}"
      )
    if about:
      blocks.append("\n".join(about))
    blocks += _shots(sample.shots)
    blocks += [f"**Prompt:** {markdown.text(sample.prompt)}", _responses(sample)]
  return blocks


def _shots(shots: Sequence[Preference]) -> list[str]:
  if not shots:
    return []
  header = ["", "shots", "**chosen**", "rejected"]
  rows = [
    [str(i), markdown.text(shot.prompt), markdown.text(shot.chosen), markdown.text(shot.rejected)]
    for i, shot in enumerate(shots, 1)
  ]
  blocks = [markdown.table(header, rows[:_SHOTS_SHOWN])]
  rest = rows[_SHOTS_SHOWN:]
  if rest:
    more = _count(len(rest), "more shot")
    # The blank lines inside make a Markdown reader go on reading Markdown.
    blocks += [f"<details><summary>{more}</summary>", markdown.table(header, rest), "</details>"]
  return blocks


def _responses(sample: UserSample) -> str:
  rewards = sample.rewards or {}
  best = max(rewards.values(), default=None)
  rows = []
  for method, row_of in METHODS.items():
    if method in sample.responses:
      row = [row_of.label, markdown.text(sample.responses[method])]
      if rewards:
        reward = rewards.get(method)
        text = "" if reward is None else f"{reward:.2f}"
        row.append(f"**{text}**" if text and reward == best else text)
      rows.append(row)
  return markdown.table(["", "response", *(["reward"] if rewards else [])], rows)


def _wall_times(wall_seconds: Mapping[str, float]) -> list[str]:
  if not wall_seconds:
    return []
  rows = [[markdown.text(stage), _duration(seconds)] for stage, seconds in wall_seconds.items()]
  rows.append(["**all**", f"**{_duration(sum(wall_seconds.values()))}**"])
  return ["## Wall time", markdown.table(["stage", ""], rows, align="right")]


def _rest(results: Results) -> list[str]:
  """Later additions to the results that have no section of their own, as they are."""
  shown = {*results_lib.REQUIRED, "baselines", "baselines_ci95", *report_analysis.KEYS}
  rest = {
    key: results[key]
    for key in sorted(results)
    if key not in shown and not key.startswith("win_rate_")
  }
  if not rest:
    return []
  return ["## Further numbers", "```json\n" + json.dumps(rest, indent=2, sort_keys=True) + "\n```"]


def _value(value: object) -> str:
  if isinstance(value, Mapping):
    return ", ".join(f"{markdown.text(str(key))} {_value(item)}" for key, item in value.items())
  return markdown.text(str(value))


def _duration(seconds: float) -> str:
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _last_k(by_k: Mapping[str, object]) -> int:
  return max(map(int, by_k))
