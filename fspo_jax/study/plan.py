# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Who is asked what, in which order, on which side: pure functions of seed and participant.

The same participant gets the same whenever it is computed, and others say nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np

from fspo_jax.study.questions import Pair
from fspo_jax.study.settings import OURS, Attention, Settings

# What a generator is for.
_PAIRS, _SIDES, _PROMPTS, _COMPARISONS, _CHECKS, _CANDIDATES = range(6)


@dataclasses.dataclass(frozen=True)
class Item:
  """Two texts to choose from; the columns of the table `items`."""

  prompt: str
  first: str
  second: str
  pair: int | None = None
  arm: str | None = None
  key: str | None = None


def _rng(settings: Settings, participant: int, *what: int) -> np.random.Generator:
  return np.random.default_rng([settings.seed, participant, *what])


def pair_order(settings: Settings, participant: int, pairs: int) -> list[int]:
  """The order in which a participant is asked about the pairs of the pool."""
  return _rng(settings, participant, _PAIRS).permutation(pairs).tolist()


def candidates(settings: Settings, participant: int, pairs: int, position: int) -> list[int]:
  """The order in which pairs are considered when the model chooses the one at a position."""
  return _rng(settings, participant, _CANDIDATES, position).permutation(pairs).tolist()


def label_item(settings: Settings, participant: int, index: int, pair: Pair) -> Item:
  """A pair, on random sides."""
  swap = _rng(settings, participant, _SIDES, index).random() < 0.5
  first, second = (pair.second, pair.first) if swap else (pair.first, pair.second)
  return Item(pair.prompt, first, second, pair=index)


def label_checks(settings: Settings, participant: int) -> dict[int, Item]:
  """The attention checks among the labels, by position; never the first of all."""
  attention, rng = settings.attention, _rng(settings, participant, _CHECKS)
  checks = _checks(attention, rng)[: attention.labels]
  where = 1 + rng.permutation(settings.labels.number + len(checks) - 1)[: len(checks)]
  return dict(zip(where.tolist(), checks, strict=True))


def prompts(settings: Settings, participant: int, known: tuple[str, ...]) -> list[str]:
  """The prompts that are answered for a participant."""
  order = _rng(settings, participant, _PROMPTS).permutation(len(known))
  return [known[i] for i in order[: settings.comparisons.prompts]]


def comparisons(
  settings: Settings, participant: int, responses: Mapping[str, Mapping[str, str]]
) -> tuple[list[Item], list[Item]]:
  """What a participant compares, in random order and on random sides.

  Args:
    settings: the study's.
    participant: who.
    responses: of each arm, by prompt.

  Returns:
    The items to show, with checks among them; and those with two equal responses, of which nobody
    can prefer one.
  """
  rng = _rng(settings, participant, _COMPARISONS)
  shown, identical = [], []
  for arm in settings.others:
    for prompt, ours in responses[OURS].items():
      theirs, key = responses[arm.name][prompt], "first" if rng.random() < 0.5 else "second"
      texts = (ours, theirs) if key == "first" else (theirs, ours)
      same = ours.strip() == theirs.strip()
      (identical if same else shown).append(Item(prompt, *texts, arm=arm.name, key=key))
  shown = [shown[i] for i in rng.permutation(len(shown))]
  attention = settings.attention
  checks = _checks(attention, _rng(settings, participant, _CHECKS))[attention.labels :]
  if shown:  # nobody is asked the checks alone
    for check in checks[: attention.comparisons]:
      shown.insert(int(rng.integers(len(shown) + 1)), check)
  return shown, identical


def _checks(attention: Attention, rng: np.random.Generator) -> list[Item]:
  """All checks in random order, on random sides."""
  found = []
  for i in rng.permutation(len(attention.checks)):
    instruction, right, wrong = attention.checks[i]
    if rng.random() < 0.5:
      found.append(Item(instruction, right, wrong, key="first"))
    else:
      found.append(Item(instruction, wrong, right, key="second"))
  return found
