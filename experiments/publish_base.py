# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Measures a pretrained base, and makes the folder that runs start from, if it is good enough.

An average hides the one taste that a base cannot see, so every word is gated by itself: read off a
single response in 99 % of the cases, and descriptions followed in 95 %, in each world, on unseen
users and unseen topics, and once more where a user's usual kind of answer would be wrong. A base
that falls short is written only with --below_gate=accept.

python experiments/publish_base.py --workdir=runs/base --out=runs/base/published
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from absl import app, flags
import ml_collections

from fspo_jax import base as base_lib
from fspo_jax import base_parts, data, logs
from fspo_jax.evaluation import base_quality, results
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer
from fspo_jax.training import metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "The run of experiments/base.py.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_USERS = flags.DEFINE_integer("users", 200, "Users asked, and pairs read, in each world.")
_PART = flags.DEFINE_enum(
  "part", "first", list(base_parts.PARTS), "What of experiments/base.py the run is."
)
_BELOW_GATE = flags.DEFINE_enum(
  "below_gate", "refuse", ["refuse", "accept"], "What to do with a base that falls short."
)

FOLLOWING, READING = 0.95, 0.99
_SAMPLED = Decoding(0.3, 1.0, 64)
_GREEDY = Decoding(0.0, 1.0, 40)
_CURVE_POINTS = 400


def measure(writer: Writer, c: ml_collections.ConfigDict, users: int) -> dict[str, Any]:
  """How well a base follows and reads, by world.

  Args:
    writer: the base.
    c: its config.
    users: asked and read in each world.

  Returns:
    {world: {"following": {topics: mean}, "following_ci95": ..., "following_seldom": {topics: mean},
    "reading": {word: share}}}; of `following_seldom` nothing where no prompt is seldom.
  """
  found = {}
  for name in data.WORLDS:
    world = data.make_world(c, name)
    by_topics = {
      topics: base_quality.following(
        world, writer, _SAMPLED, topics=topics, users=users, prompts=2, seed=0
      )
      for topics in ("train", "unseen")
    }
    seldom = {
      topics: base_quality.following_seldom(
        world, writer, _SAMPLED, topics=topics, users=users, seed=0
      )
      for topics in by_topics
    }
    found[name] = {
      "following": {topics: interval.mean for topics, interval in by_topics.items()},
      "following_ci95": {topics: interval.ci for topics, interval in by_topics.items()},
      "following_seldom": {
        topics: interval.mean for topics, interval in seldom.items() if interval is not None
      },
      "reading": base_quality.reading(world, writer, _GREEDY, pairs=users, seed=0),
    }
    print(f"{name}: {summary(found[name])}", flush=True)
  return found


def summary(quality: dict[str, Any]) -> str:
  """One line on a world."""
  worst = min(quality["reading"], key=quality["reading"].__getitem__)
  shares = ", ".join(f"{topics} topics {x:.3f}" for topics, x in quality["following"].items())
  seldom = ", ".join(f"{x:.3f}" for x in quality["following_seldom"].values())
  return (
    f"following {shares}{f' (seldom kinds {seldom})' if seldom else ''};"
    f" reading, worst word {worst!r}: {quality['reading'][worst]:.3f}"
  )


def below_gate(quality: dict[str, dict[str, Any]]) -> list[str]:
  """What falls short, in words."""
  found = []
  for world, q in quality.items():
    for topics, share in q["following"].items():
      if share < FOLLOWING:
        found.append(f"{world}, {topics} topics: following {share:.3f}, expected {FOLLOWING}")
    for topics, share in q["following_seldom"].items():
      if share < FOLLOWING:
        found.append(f"{world}, {topics} topics: seldom kinds {share:.3f}, expected {FOLLOWING}")
    for word, share in q["reading"].items():
      if share < READING:
        found.append(f"{world}: reading of {word!r} {share:.3f}, expected {READING}")
  return found


def main(argv: list[str]) -> int:
  """Measures, then writes or refuses."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  workdir = pathlib.Path(_WORKDIR.value)
  config = ml_collections.ConfigDict(json.loads((workdir / "config.json").read_text()))
  if (_PART.value == "first") == bool(config.base):
    raise app.UsageError(
      f"--part={_PART.value}: the run in {workdir} has base={config.base!r}; a base is what all "
      "parts but the first go on from"
    )
  writer = Writer.load(workdir / "checkpoints" / "sft")
  quality = measure(writer, config, _USERS.value)
  short = below_gate(quality)
  if short and _BELOW_GATE.value == "refuse":
    print("publish_base: not written, below the gate:\n  " + "\n  ".join(short), file=sys.stderr)
    return 1
  part = "" if _PART.value == "first" else f":{_PART.value}"
  command = f"python -m fspo_jax.main --config=experiments/base.py{part} --workdir=WORKDIR"
  before = None
  if config.base:
    command += f" --config.base=FOLDER --config.seed={config.seed}"
    before = json.loads((base_lib.folder(config.base) / "provenance.json").read_text())
    with config.unlocked():
      config.base = "FOLDER"
  environment = results.environment(seed=config.seed)
  del environment["command"]  # of this script, with this machine's paths
  rows = metrics.read_jsonl(workdir / "metrics" / "sft.jsonl")
  base_lib.save(
    _OUT.value,
    base_lib.Base(config, writer.params, writer.formatter.tokenizer),
    provenance={
      "command": command,
      "base": before,  # what it went on from
      "quality": quality,
      "below_gate": short,
      "environment": environment,
    },
    curves=rows[:: max(len(rows) // _CURVE_POINTS, 1)],
  )
  print(f"base:    {_OUT.value}")
  return 0


if __name__ == "__main__":
  logs.run(main)
