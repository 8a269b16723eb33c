# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""All responses that a run's evaluation sampled: `responses.jsonl`, for any judge to judge later.

A line is one user of one split at one temperature:

  {"split", "temperature", "user_id", "description", "shots": [{"prompt", "chosen", "rejected"}],
   "prompts": [...], "responses": {METHOD: [...]}, "again": [...], "rewards": {METHOD: [...]},
   "rewards_again": [...]}

`responses` are in the order of `prompts`. `again` is the base's second draw, which the base plays
against. Rewards are the world's true ones, and empty where there is no world; `again` is null where
nobody was judged (the samples of users without a world).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

from fspo_jax import paths
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.preferences import Preference

NAME = "responses.jsonl"


@dataclasses.dataclass(frozen=True)
class Answered:
  """What every method answered to one user; see the module's docstring."""

  split: str
  temperature: float
  user_id: str
  description: str | None
  shots: Sequence[Preference]
  prompts: Sequence[str]
  responses: Mapping[str, Sequence[str]]
  again: Sequence[str] | None = None
  rewards: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
  rewards_again: Sequence[float] | None = None


def dumps(answered: Iterable[Answered]) -> bytes:
  """The file."""
  lines = []
  for one in answered:
    record = dataclasses.asdict(one)
    record["shots"] = [_shot(shot) for shot in one.shots]
    lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
  return "".join(lines).encode()


def _shot(shot: Any) -> dict[str, str]:
  return {"prompt": shot.prompt, "chosen": shot.chosen, "rejected": shot.rejected}


def read(path: str | os.PathLike[str]) -> list[Answered]:
  """Reads a file, or that of a run's folder, which may be in a bucket.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a line is not as the module's docstring says.
    ImportError: it is in a bucket, and the extra `gcs` is not installed.
  """
  path = paths.path(path)
  if path.is_dir():
    path /= NAME
  found = []
  # Not splitlines, to which characters that JSON leaves as they are end a line as well.
  for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
    if not line:
      continue
    try:
      record = json.loads(line)
      record["shots"] = tuple(Preference(**shot) for shot in record["shots"])
      one = Answered(**record)
      _check(one)
    except (TypeError, KeyError, ValueError) as error:
      raise ValueError(f"{path}:{number}: {error}") from error
    found.append(one)
  return found


def _check(one: Answered) -> None:
  unknown = sorted(set(one.responses) - set(METHODS))
  if unknown:
    raise ValueError(f"responses: found methods {unknown}, expected some of {list(METHODS)}")
  lists = {f"responses.{name}": own for name, own in one.responses.items()}
  lists |= {f"rewards.{name}": own for name, own in one.rewards.items()}
  lists |= {"again": one.again or one.prompts, "rewards_again": one.rewards_again or one.prompts}
  for name, own in lists.items():
    if len(own) != len(one.prompts):
      raise ValueError(
        f"{name}: found {len(own)}, expected one for each of {len(one.prompts)} prompts"
      )
