# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for its readers: results.json, and the report with its figures."""

from __future__ import annotations

from collections.abc import Callable
import functools
import pathlib
import statistics
from typing import Any

import jax
import ml_collections

from fspo_jax import config as config_lib
from fspo_jax import data as data_lib
from fspo_jax import paths, provenance
from fspo_jax.datasets.synthetic import synthetic_dataset_builder as builder
from fspo_jax.episodes import sources
from fspo_jax.evaluation import evaluate, plots, report, report_analysis, responses
from fspo_jax.evaluation import results as results_lib
from fspo_jax.pages.document import Figure, Section, Span, Text
from fspo_jax.synthesis import card
from fspo_jax.training import metrics
from fspo_jax.workdir import Workdir


def write(
  workdir: Workdir,
  found: dict[str, evaluate.SplitResult],
  *,
  config: ml_collections.ConfigDict,
  data: data_lib.Data,
  settings: evaluate.Settings,
  mesh: jax.sharding.Mesh,
) -> None:
  """Writes results.json, responses.jsonl and report/.

  Args:
    workdir: of the run.
    found: what was measured, by split.
    config: of the run.
    data: what it was evaluated on.
    settings: how.
    mesh: where.
  """
  trained = [name for name in ("sft", "preference") if name in config.stages]
  temperatures = settings.temperatures

  def by_method(
    get: Callable[[evaluate.SplitResult], dict[str, Any]],
  ) -> dict[str, dict[str, Any]]:
    return {
      method: {split: get(r)[method] for split, r in found.items()}
      for method in next(iter(found.values())).accuracy
    }

  results = {
    "preference_accuracy": by_method(lambda r: r.accuracy),
    "preference_accuracy_ci95": by_method(lambda r: r.intervals),
    "bayes_accuracy": {split: r.bayes for split, r in found.items() if r.bayes},
    "win_rate": {},
    "wall_seconds": workdir.seconds(),
    "environment": results_lib.environment(seed=config.seed)
    | {"devices": [d.device_kind for d in mesh.devices.flat]},
    "padding_fraction": {
      **{
        name: _metric(workdir, name, "data/padding_fraction", statistics.fmean) for name in trained
      },
      **{f"evaluation, {split}": r.facts["padding_fraction"] for split, r in found.items()},
    },
    "dropped_shots": {
      **{n: _metric(workdir, n, "data/dropped_shots", sum) for n in trained},
      **{f"evaluation, {split}": r.facts["dropped_shots"] for split, r in found.items()},
    },
  }
  if data.world is not None and settings.win_rate_users:
    for i, t in enumerate(temperatures):
      key = "win_rate" if i == 0 else f"win_rate_temperature_{t:g}"
      results[key] = by_method(lambda r, t=t: r.win_rates[t])
  descriptions = {split: r.descriptions for split, r in found.items() if r.descriptions}
  if descriptions:
    results["description_f1"] = descriptions
  baselines = {split: r.baselines for split, r in found.items() if r.baselines}
  if baselines:
    names = next(iter(baselines.values()))
    results["baselines"] = {
      name: {split: rules[name].mean for split, rules in baselines.items()} for name in names
    }
    results["baselines_ci95"] = {
      name: {split: rules[name].ci for split, rules in baselines.items()} for name in names
    }
  for key in report_analysis.KEYS:
    by_split = {split: r.analysis[key] for split, r in found.items() if r.analysis.get(key)}
    if by_split:
      results[key] = by_split
  results_lib.write(workdir.path / "results.json", results)
  answered = [one for r in found.values() for one in r.answered]
  workdir.write(responses.NAME, responses.dumps(answered))
  with paths.local_copy(workdir.path / "report") as directory:
    report.write_report(
      directory,
      results,
      next(iter(found.values())).samples,
      title=f"FSPO on {config.data.name}",
      notes=_notes(config, data, settings),
      data_facts=data.source.facts()
      | ({"world": data.world.name, "world seed": config.world_seed} if data.world else {}),
      sections=[
        *_training(workdir, config),
        *_card(workdir, config),
        *provenance.sections(workdir, results["environment"]),
      ],
    )


def _training(workdir: Workdir, config: ml_collections.ConfigDict) -> list[Section]:
  """The curves of the preference stage, if the run has one."""
  if "preference" not in config.stages:
    return []
  rows = metrics.read_jsonl(workdir.path / "metrics" / "preference.jsonl")
  names = ["preference/loss", "rewards/accuracies", "rewards/margins", "nll/chosen"]
  names = names if config.preference.loss.preference_weight else names[-1:]
  changes = []
  for name in names:
    values = [row[name] for row in rows if name in row]
    changes += [f"{name} from {values[0]:.3g} to {values[-1]:.3g}"] if values else []
  alt = f"Training curves, first and last: {', '.join(changes)}"
  draw = functools.partial(plots.training_curves, rows, names=names)
  return [Section("The preference stage", [Figure("training", alt, draw)])]


def _card(workdir: Workdir, config: ml_collections.ConfigDict) -> list[Section]:
  """The quality card of the set that was trained on, if it is a synthetic one."""
  if config.data.name == "synthetic":
    made = builder.set_path(workdir.path / "data", config.synthesis.domain)
  elif config.data.name == "user_set":
    made = pathlib.Path(config.data.path)
  else:
    return []
  file = made / card.CARD_FILE
  return [card.section(file, config_lib.gate(config))] if file.exists() else []


def _notes(
  config: ml_collections.ConfigDict, data: data_lib.Data, s: evaluate.Settings
) -> list[Text]:
  """What a reader of the numbers must know about how they were taken."""
  notes: list[Text] = []
  if config.base == "published":
    notes.append(
      (
        "The base is the published one, pretrained on the text of the three embedded worlds (",
        Span("fspo_jax/worlds/base", "code"),
        "): it follows descriptions and knows the format of shots. Neither the evaluated users "
        "nor, but for what words mean, the unseen topics are in its text.",
      )
    )
  elif config.base:
    notes.append(("The base: ", Span(config.base, "code"), "."))
  if s.rat_episodes and {"fspo_rat", "fspo_gold"} & {*s.methods}:
    notes.append(
      f"Descriptions after shots, written and gold, are scored on the first {s.rat_episodes} of "
      f"the {s.episodes} episodes of a split, against the frozen reference with the same shots "
      "and no description."
    )
  if s.descriptions > 1:
    notes.append(
      f"Of {s.descriptions} descriptions of a user, the greedy one and samples, the one is kept "
      f"under which the labels of the shots are likeliest to the base (beta {s.description_beta})."
    )
  if isinstance(data.source, sources.WorldSource):
    notes.append(
      "The Bayes ceiling of unseen users has the prior that training shows: nobody has the "
      "held-out combination. That of held-out combinations is uniform over all users, which "
      "training cannot teach: there a model starts below 50 % at k = 0."
    )
  elif data.world is not None:
    notes.append(
      "The Bayes ceiling knows what every user of the set likes, how often labels contradict "
      "that, and nothing of how pairs were chosen. Labels are the judge's: no method is right "
      "about one that is wrong."
    )
  return notes


def _metric(workdir: Workdir, stage: str, name: str, of: Callable[[list[float]], float]) -> float:
  """One number `of` all the rows of a stage's metrics."""
  rows = metrics.read_jsonl(workdir.path / "metrics" / f"{stage}.jsonl")
  return of([row[name] for row in rows])
