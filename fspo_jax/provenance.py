# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sections of a report that say how to make its run again, and what files the run has left."""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from fspo_jax import config as config_lib
from fspo_jax.pages.document import Fold, Listing, Paragraph, Section, Span, Table
from fspo_jax.workdir import Workdir, flat

_DIRTY = "-dirty"
# What a run may leave, in the order of a recipe: a pattern, and what its files are.
_FILES = (
  ("config.json", "the config"),
  ("data/synthetic/*/*", "the synthetic set, with its quality card"),
  ("tokenizer.model", "the tokenizer"),
  ("metrics/*.jsonl", "training metrics, a line for each logged step"),
  ("profile/*.txt", "where the time of training steps goes"),
  ("checkpoints/*/*", "a checkpoint: of a stage, by its step"),
  ("results.json", "all numbers of this report"),
  ("responses.jsonl", "all sampled responses, for other judges"),
)


def sections(workdir: Workdir, environment: Mapping[str, Any]) -> list[Section]:
  """How to make a run again, and what it has left.

  Args:
    workdir: of the run.
    environment: what it was made with, as results have it.
  """
  config = json.loads((workdir.path / "config.json").read_text(encoding="utf-8"))
  return [
    Section("To make it again", [*_commands(environment), *_config(config)]),
    _files(workdir),
  ]


def _commands(environment: Mapping[str, Any]) -> list[Listing | Paragraph]:
  lines = []
  commit = environment.get("commit") or ""
  if commit:
    lines.append(f"git checkout {commit.removesuffix(_DIRTY)}")
  lines += ["pip install -e .", environment["command"]]
  blocks: list[Listing | Paragraph] = [Listing("\n".join(lines), "bash")]
  if commit.endswith(_DIRTY):
    note = "The files differed from the commit: this does not make quite the same."
    blocks.append(Paragraph(Span(note)))
  note = "In another folder: in its own the finished run is found, and nothing is done."
  return [*blocks, Paragraph(note)]


def _config(config: dict[str, Any]) -> list[Paragraph | Table | Fold]:
  """What differs from the defaults, and all of it."""
  default = flat(json.loads(config_lib.default().to_json_best_effort()))
  rows = [
    (Span(key, "code"), Span(json.dumps(value), "code"), Span(json.dumps(default[key]), "code"))
    for key, value in flat(config).items()
    if key in default and value != default[key]
  ]
  # Of data, which no default has.
  rows += [
    (Span(key, "code"), Span(value, "code"), "")
    for key, value in flat(config).items()
    if key not in default and value
  ]
  whole = Fold("The whole config", [Listing(json.dumps(config, indent=2), "json")])
  if not rows:
    return [Paragraph("The config is the default one."), whole]
  return [
    Paragraph("Where the config is not the default:"),
    Table(("key", "here", "default"), rows),
    whole,
  ]


def _files(workdir: Workdir) -> Section:
  rows = [
    (Span(f"../{path.relative_to(workdir.path)}", "code"), what)
    for pattern, what in _FILES
    for path in sorted(workdir.path.glob(pattern))
    if not pattern.startswith("checkpoints") or path.name.isdigit()
  ]
  note = Paragraph("From the folder of this report:")
  return Section("Files of the run", [note, Table(("path", "what it is"), rows)])
