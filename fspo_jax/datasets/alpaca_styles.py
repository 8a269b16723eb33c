# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Users who like concise or verbose answers: a known truth over real text.

AlpacaEval (github.com/tatsu-lab/alpaca_eval, Apache-2.0) publishes the answers of two models to
its 805 instructions, each model asked once to be concise and once to be verbose. A simulated user
likes one of the two styles, always.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
import gzip
import itertools
import json
import os
import pathlib
import zlib

import numpy as np

from fspo_jax import jsonl, preferences

MODELS = ("claude-2.1", "gpt4_0613")
STYLES = ("concise", "verbose")
DESCRIPTIONS = {
  "concise": "Prefers concise answers that get to the point.",
  "verbose": "Prefers long, detailed answers.",
}

_HOW_TO_GET = (
  "get results/NAME/model_outputs.json of github.com/tatsu-lab/alpaca_eval (Apache-2.0), gzip it "
  "and name it NAME.json.gz, for NAME in "
  + ", ".join(f"{model}_{style}" for model, style in itertools.product(MODELS, STYLES))
)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
  """A concise and a verbose answer to one instruction."""

  instruction: str
  concise: str
  verbose: str


def load(
  path: str | os.PathLike[str],
  *,
  users: int,
  unseen_users: int,
  preferences_per_user: int,
  seed: int,
  max_words: int,
  label_noise: float = 0.0,
  same_model: bool = True,
  unseen_instructions: float = 0.3,
  query_instructions: float = 0.5,
) -> preferences.Splits:
  """Simulates users over the answers in a folder.

  Instructions are held out by hash of (seed, instruction). Unseen users have preferences on unseen
  instructions only, shots and queries alike: no text of an evaluation episode was trained on.

  Args:
    path: the folder with the four files.
    users: how many users to train on; even, half of them like concise answers.
    unseen_users: how many users to evaluate on; even likewise.
    preferences_per_user: how many, each on another instruction; of an unseen user's,
      `query_instructions` of them may be queries.
    seed: the seed; user i is a function of (seed, i) and of the usable pairs.
    max_words: pairs with a text of more words, instruction included, are set aside, never cut.
    label_noise: how likely a label is the wrong one, in [0, 0.5]. The labels on query prompts are
      always true: noise is for the shots of evaluation, and for all that is trained on.
    same_model: whether both answers of a pair are by one model, or by any.
    unseen_instructions: the share of instructions never trained on.
    query_instructions: the share of these that queries are about; the others are for shots alone.
      With 1.0 every unseen instruction is a query, and there is nowhere for label noise.

  Returns:
    Splits with the evaluation group 'unseen' and the gold descriptions. `set_aside` counts pairs
    ('pairs: ...') and the instructions that are left with no pair.

  Raises:
    FileNotFoundError: if the folder or a file is absent, saying where to get it.
    ValueError: if an argument is out of range or asks for more instructions than there are.
    preferences.PreferenceError: if a file is not what it should be.
  """
  _check_arguments(users, unseen_users, preferences_per_user, label_noise, query_instructions)
  pairs, set_aside = read_pairs(path, max_words=max_words, same_model=same_model)
  train: list[list[Pair]] = []
  shots: list[list[Pair]] = []
  queries: list[list[Pair]] = []
  for instruction, options in pairs.items():
    if not preferences.held_out("prompt", instruction, share=unseen_instructions, seed=seed):
      train.append(options)
    elif preferences.held_out("query", instruction, share=query_instructions, seed=seed):
      queries.append(options)
    else:
      shots.append(options)
  query_count = max(1, round(preferences_per_user * query_instructions))
  shot_count = preferences_per_user - query_count
  for name, pool, count in (
    ("training instructions", train, preferences_per_user),
    ("unseen instructions for shots", shots, shot_count),
    ("unseen instructions for queries", queries, query_count),
  ):
    if len(pool) < count:
      raise ValueError(
        f"{path}: found {len(pool)} usable {name} (max_words={max_words}), expected at least the "
        f"{count} that preferences_per_user={preferences_per_user} asks for"
      )
  return preferences.Splits(
    train=tuple(
      _user("train", i, seed, ((train, preferences_per_user, label_noise),)) for i in range(users)
    ),
    evaluation={
      "unseen": tuple(
        _user("unseen", i, seed, ((shots, shot_count, label_noise), (queries, query_count, 0.0)))
        for i in range(unseen_users)
      )
    },
    query_prompts=frozenset(options[0].instruction for options in queries),
    set_aside=set_aside,
  )


def read_pairs(
  path: str | os.PathLike[str], *, max_words: int, same_model: bool = True
) -> tuple[dict[str, list[Pair]], dict[str, int]]:
  """Reads the usable pairs: every text short enough, and the verbose answer the longer one.

  Returns:
    The pairs of each instruction that has any, in the order of the files; and what was set aside.

  Raises:
    FileNotFoundError: if the folder or a file is absent, saying where to get it.
    preferences.PreferenceError: if a file is not what it should be.
  """
  answers = _read_answers(pathlib.Path(path))
  sources = [
    (first, second)
    for first, second in itertools.product(MODELS, MODELS)
    if first == second or not same_model
  ]
  pairs: dict[str, list[Pair]] = {}
  set_aside = collections.Counter()
  for index, (instruction, _) in enumerate(answers[MODELS[0], "concise"]):
    usable = []
    for first, second in sources:
      pair = Pair(
        instruction, answers[first, "concise"][index][1], answers[second, "verbose"][index][1]
      )
      if max(map(_words, dataclasses.astuple(pair))) > max_words:
        set_aside[f"pairs: a text of more than {max_words} words"] += 1
      elif _words(pair.verbose) <= _words(pair.concise):
        set_aside["pairs: the verbose answer is not the longer one"] += 1
      else:
        usable.append(pair)
    if usable:
      pairs[instruction] = usable
    else:
      set_aside["instructions: no usable pair"] += 1
  return pairs, dict(set_aside)


def _check_arguments(
  users: int,
  unseen_users: int,
  preferences_per_user: int,
  label_noise: float,
  query_instructions: float,
) -> None:
  for name, count in (("users", users), ("unseen_users", unseen_users)):
    if count < 2 or count % 2:
      raise ValueError(f"{name}: found {count}, expected an even number, half of either taste")
  if preferences_per_user < 2:
    raise ValueError(
      f"preferences_per_user: found {preferences_per_user}, expected 2 or more (a shot, a query)"
    )
  if not 0 <= label_noise <= 0.5:
    raise ValueError(f"label_noise: found {label_noise}, expected 0 to 0.5")
  if not 0 < query_instructions <= 1:
    raise ValueError(f"query_instructions: found {query_instructions}, expected more than 0, to 1")
  if label_noise and query_instructions == 1:
    raise ValueError(
      "query_instructions: found 1 with label noise, expected less than 1: query labels are true, "
      "so unseen users would have no noisy shots"
    )


def _user(
  group: str, index: int, seed: int, parts: Sequence[tuple[list[list[Pair]], int, float]]
) -> preferences.User:
  """User `index` of a group: from each (pool, count, noise), `count` instructions and labels."""
  rng = np.random.default_rng([seed, ("train", "unseen").index(group), index])
  taste = STYLES[index % 2]
  found = []
  for pool, count, noise in parts:
    for chosen in rng.choice(len(pool), size=count, replace=False):
      options = pool[chosen]
      pair = options[rng.integers(len(options))]
      # Drawn whatever the noise is, so that it changes labels and nothing else.
      wrong = rng.random() < noise
      likes_concise = (taste == "concise") != wrong
      responses = (pair.concise, pair.verbose) if likes_concise else (pair.verbose, pair.concise)
      found.append(preferences.Preference(pair.instruction, *responses))
  return preferences.User(f"{group}-{index:05d}", tuple(found), DESCRIPTIONS[taste])


def _words(text: str) -> int:
  return len(text.split())


def _read_answers(folder: pathlib.Path) -> dict[tuple[str, str], list[tuple[str, str]]]:
  """(instruction, output) by (model, style), the same instructions in the same order for each."""
  files = {
    (model, style): folder / f"{model}_{style}.json.gz"
    for model, style in itertools.product(MODELS, STYLES)
  }
  absent = [file.name for file in files.values() if not file.is_file()]
  if absent:
    raise FileNotFoundError(f"{folder}: no {', '.join(absent)}; {_HOW_TO_GET}")
  answers = {key: _read_file(file) for key, file in files.items()}
  (first_key, first), *others = answers.items()
  expected = [instruction for instruction, _ in first]
  for key, answer in others:
    found = [instruction for instruction, _ in answer]
    if found != expected:
      index = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        min(len(found), len(expected)),
      )
      raise preferences.PreferenceError(
        f"{files[key]}: item {index}: found another instruction than in {files[first_key].name}, "
        "expected the same instructions in the same order"
      )
  return answers


def _read_file(file: pathlib.Path) -> list[tuple[str, str]]:
  """(instruction, output) of each item of a gzip JSON list."""
  try:
    items = json.loads(gzip.decompress(file.read_bytes()))
  except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise preferences.PreferenceError(f"{file}: found {error}, expected gzip JSON") from error
  if not isinstance(items, list) or not items:
    raise preferences.PreferenceError(f"{file}: found no list of items, expected a JSON list")
  problems = jsonl.Problems(file)
  seen: dict[str, int] = {}
  for index, item in enumerate(items):
    for key in ("instruction", "output"):
      value = item.get(key) if isinstance(item, dict) else None
      if not isinstance(value, str) or not value.strip():
        problems.add(None, f"no {key} in item {index}", "an object with instruction and output")
        break
    else:
      if (earlier := seen.setdefault(item["instruction"], index)) != index:
        problems.add(None, f"the instruction of item {earlier} in item {index}", "each once")
  problems.check()
  return [(item["instruction"], item["output"]) for item in items]
