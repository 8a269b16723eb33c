# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Descriptions that are wrong in part: how much does RAT lose by what its description gets wrong?

Reviewers of FSPO (arXiv 2502.19312) asked how the win rate falls when 0, 25 or 50 % of the
description is corrupted. A world knows what a description says, so that it can be corrupted taste
by taste.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import numpy as np

from fspo_jax.worlds.elix import Learner
from fspo_jax.worlds.elix_text import LEVELS
from fspo_jax.worlds.reviews_descriptions import Tastes
from fspo_jax.worlds.reviews_text import ATTRIBUTES, NAMES
from fspo_jax.worlds.roleplay import Persona
from fspo_jax.worlds.world import World

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def corrupt(world: World[Any], rng: np.random.Generator, description: str, share: float) -> str:
  """The description with a share of the tastes that it names replaced by other values.

  A taste is what `World.vague` leaves out as one: the value of an attribute (reviews), the level in
  general or in one subject that differs from it (elix), a trait (roleplay). A random choice of them
  get another value, uniformly among the others: if it was right, it is now wrong. Of n tastes,
  share x n are replaced, rounded up or down at random, so that it is exactly the share on average.
  How much each counts stays as it is.

  The result is in the world's own words, also where nothing is replaced: descriptions of any two
  shares differ in their tastes alone. The sentences at its start that name no taste (who a persona
  is) stay word for word. With generators in the same state, what a share replaces, any larger one
  replaces too, and by the same.

  Args:
    world: whose tastes the description names.
    rng: the only source of randomness.
    description: gold or written.
    share: of the tastes, 0 to 1.

  Returns:
    The corrupted description; one that names no taste is returned as it is.

  Raises:
    ValueError: the share is out of range.
  """
  if not 0 <= share <= 1:
    raise ValueError(f"share: found {share}, expected 0 to 1")
  user = world.read(description)
  # As a whole: sentences that contradict each other name no taste.
  if user == world.read(""):
    return description
  about, _ = _split(world, description)
  _, said = _split(world, world.describe(_replaced(user, rng, share)))
  return f"{about} {said}".strip()


def _split(world: World[Any], description: str) -> tuple[str, str]:
  """The sentences up to the first one that names a taste, and the others."""
  nobody = world.read("")
  sentences = _SENTENCE_END.split(description.strip())
  for i, sentence in enumerate(sentences):
    if world.read(sentence) != nobody:
      return " ".join(sentences[:i]), " ".join(sentences[i:])
  return "", description


def _drawn(rng: np.random.Generator, n: int, share: float) -> set[int]:
  """Which of n tastes are replaced: nested for growing shares."""
  order, up = rng.permutation(n), rng.random()
  return set(order[: int(np.floor(share * n + up))].tolist())


@functools.singledispatch
def _replaced(user: Any, rng: np.random.Generator, share: float) -> Any:
  """The user with a share of the tastes replaced."""
  raise TypeError(f"user: found {type(user).__name__}, expected one of the three worlds'")


@_replaced.register
def _(user: Tastes, rng: np.random.Generator, share: float) -> Tastes:
  drawn = {user.cared[i] for i in _drawn(rng, len(user.cared), share)}
  preferred = list(user.preferred)
  for attribute in user.cared:
    values = len(ATTRIBUTES[NAMES[attribute]])
    other = (preferred[attribute] + 1 + int(rng.integers(values - 1))) % values
    if attribute in drawn:
      preferred[attribute] = other
  return dataclasses.replace(user, preferred=tuple(preferred))


@_replaced.register
def _(user: Learner, rng: np.random.Generator, share: float) -> Learner:
  # The key None is the level in general.
  said: dict[int | None, int] = dict(user.exceptions)
  if user.base is not None:
    said = {None: user.base} | said
  drawn = {list(said)[i] for i in _drawn(rng, len(said), share)}
  for key, level in said.items():
    other = (level + 1 + int(rng.integers(len(LEVELS) - 1))) % len(LEVELS)
    if key in drawn:
      said[key] = other
  general = said.get(None)
  return Learner(tuple(said.get(subject, general) for subject in range(len(user.levels))))


@_replaced.register
def _(user: Persona, rng: np.random.Generator, share: float) -> Persona:
  cared = [d for d, weight in enumerate(user.weights) if weight]
  drawn = {cared[i] for i in _drawn(rng, len(cared), share)}
  return Persona(tuple(-w if d in drawn else w for d, w in enumerate(user.weights)))
