# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a study asks: pairs to label, and prompts whose responses are compared."""

from __future__ import annotations

import dataclasses
import pathlib

import ml_collections
import numpy as np

from fspo_jax import jsonl
from fspo_jax.preferences import PreferenceError
from fspo_jax.study.settings import WORLDS
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two responses to a prompt; nobody has said yet which one is better."""

  prompt: str
  first: str
  second: str


@dataclasses.dataclass(frozen=True)
class Questions:
  """What a study asks.

  Attributes:
    pairs: that can be labelled, no two about one prompt.
    prompts: that can be answered and compared; none of them is a pair's.
  """

  pairs: tuple[Pair, ...]
  prompts: tuple[str, ...]


def load(c: ml_collections.ConfigDict) -> Questions:
  """The questions of a config.

  Raises:
    ValueError: too few of them, or an impossible combination of keys.
    PreferenceError: naming file and line of what cannot be used.
    OSError: a file cannot be read.
  """
  if bool(c.pairs.path) == bool(c.pairs.world):
    raise ValueError(
      f"pairs.path={c.pairs.path!r} and pairs.world={c.pairs.world!r}: expected one of the two"
    )
  if bool(c.prompts.path) != bool(c.pairs.path):
    raise ValueError(
      f"pairs.path={c.pairs.path!r} and prompts.path={c.prompts.path!r}: expected both, or neither"
    )
  if c.pairs.path:
    found = Questions(read_pairs(c.pairs.path), read_prompts(c.prompts.path))
  else:
    found = of_world(c.pairs.world, c.pairs.count, c.prompts.count, c.seed)
  _check(c, found)
  return found


def _check(c: ml_collections.ConfigDict, found: Questions) -> None:
  pairs = c.labels.number + c.labels.spares
  if c.labels.choose != "random":  # the last choice, too, is between several
    pairs += c.labels.candidates + c.labels.targets * (c.labels.choose == "information")
  if len(found.pairs) < pairs:
    raise ValueError(f"pairs: found {len(found.pairs)}, expected the {pairs} that labels needs")
  if len(found.prompts) < c.comparisons.prompts:
    raise ValueError(
      f"prompts: found {len(found.prompts)}, expected comparisons.prompts={c.comparisons.prompts}"
    )
  both = {pair.prompt for pair in found.pairs} & set(found.prompts)
  if both:
    raise ValueError(
      f"prompts: found {jsonl.show(min(both))} among the pairs too; the model would have been told "
      "which answer to it is liked"
    )


def read_pairs(path: str) -> tuple[Pair, ...]:
  """Reads a JSONL of `{"prompt": text, "responses": [text, text]}`, all of it good."""
  problems = jsonl.Problems(path)
  pairs: dict[str, Pair] = {}
  with jsonl.open_lines(path) as lines:
    for line, record in jsonl.json_objects(lines, problems):
      responses = record.get("responses")
      if set(record) != {"prompt", "responses"}:
        problems.add(line, f"keys {sorted(record)}", "prompt and responses")
      elif not isinstance(responses, list) or len(responses) != 2:
        problems.add(line, f"responses {jsonl.show(responses)}", "two texts")
      elif wrong := next(filter(None, map(jsonl.not_usable, [record["prompt"], *responses])), None):
        problems.add(line, f"a text {wrong[0]}", wrong[1])
      elif responses[0].strip() == responses[1].strip():
        problems.add(line, "one response twice", "two responses")
      elif record["prompt"] in pairs:
        problems.add(line, f"a second pair on {jsonl.show(record['prompt'])}", "one a prompt")
      else:
        pairs[record["prompt"]] = Pair(record["prompt"], *responses)
  problems.check()
  return tuple(pairs.values())


def read_prompts(path: str) -> tuple[str, ...]:
  """Reads a text file of prompts, one a line; empty lines are skipped."""
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except UnicodeDecodeError as error:
    raise PreferenceError(f"{path}: found {error}, expected UTF-8 text") from error
  prompts = [line.strip() for line in lines if line.strip()]
  if len(set(prompts)) < len(prompts):
    twice = next(prompt for prompt in prompts if prompts.count(prompt) > 1)
    raise PreferenceError(f"{path}: found {jsonl.show(twice)} twice, expected every prompt once")
  return tuple(prompts)


def of_world(name: str, pairs: int, prompts: int, seed: int) -> Questions:
  """Pairs of a world's users, the labels taken off, and prompts on topics nobody trained on."""
  if name == "reviews":
    world = ReviewsWorld()
  elif name == "elix":
    world = ElixWorld()
  elif name == "roleplay":
    world = RoleplayWorld()
  else:
    raise ValueError(f"pairs.world={name!r} is not one of {WORLDS}")
  rng = np.random.default_rng([seed, 1])
  topics = list(world.topics("unseen"))
  if prompts > len(topics):
    raise ValueError(f"prompts.count={prompts}: {name} has {len(topics)} unseen topics")
  asked = [
    world.write_question(lambda n: int(rng.integers(n)), topics[i])
    for i in rng.permutation(len(topics))[:prompts]
  ]
  users, found = world.users("train"), {}
  for _ in range(100 * pairs):
    if len(found) == pairs:
      return Questions(tuple(found.values()), tuple(asked))
    (labelled,) = world.preferences(rng, users[rng.integers(len(users))], 1)
    if labelled.prompt not in asked:
      shown = labelled if rng.random() < 0.5 else labelled.swapped()
      pair = Pair(shown.prompt, shown.chosen, shown.rejected)
      found.setdefault(pair.prompt, pair)
  raise ValueError(f"pairs.count={pairs}: found {len(found)} prompts in {name}")
