# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The users of the reviews world, and how descriptions of them are written and read back.

A description names the preferred value of some attributes, each by one fixed wording:

  "Reviews should be, above all, positive; also: short, about the plot. Reviews should also be
  funny."

The taste above all has weight 2, every other weight 1; of the attributes that a description does
not name, it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

from fspo_jax.worlds import reviews_text
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS, Traits, parse
from fspo_jax.worlds.world import Choose

COMBINATION_INDEX: dict[Traits, int] = {c: i for i, c in enumerate(COMBINATIONS)}

# How a description names each value: one fixed wording.
_WORDINGS: tuple[tuple[str, ...], ...] = (
  ("positive", "negative"),
  ("short", "long"),
  ("formal", "casual"),
  ("funny", "serious"),
  ("full of spoilers", "free of spoilers"),
  ("about the acting", "about the plot", "about the visuals"),
)
# Read like a value, of an attribute beyond the last: it says that the next value has weight 2.
_ABOVE_ALL = (len(ATTRIBUTES), 0)
_READER = reviews_text.PhraseReader(
  {a: tuple((wording,) for wording in wordings) for a, wordings in enumerate(_WORDINGS)}
  | {_ABOVE_ALL[0]: (("above all",),)}
)
_NO_TASTES = "A moviegoer."


@dataclasses.dataclass(frozen=True, slots=True)
class Tastes:
  """A user of the reviews world: the preferred value of each attribute and how much it counts.

  Attributes:
    preferred: One value index per attribute, -1 where the user does not care.
    weights: One weight per attribute, 0 where the user does not care. Every user of the world has
      one weight of 2, the others are 1; users whom a description leaves vague may have none at all.

  Raises:
    ValueError: If preferred values and weights do not fit each other.
  """

  preferred: tuple[int, ...]
  weights: tuple[int, ...]

  def __post_init__(self) -> None:
    fits = len(self.preferred) == len(self.weights) == len(ATTRIBUTES) and all(
      (weight > 0 and 0 <= value < len(values)) or (weight == 0 and value == -1)
      for value, weight, values in zip(
        self.preferred, self.weights, ATTRIBUTES.values(), strict=True
      )
    )
    if not fits:
      raise ValueError(
        f"Tastes need {len(ATTRIBUTES)} values, each with a positive weight or -1 with weight 0;"
        f" found {self.preferred=}, {self.weights=}."
      )

  @property
  def cared(self) -> tuple[int, ...]:
    """The attributes the user cares about, in order."""
    return tuple(a for a, weight in enumerate(self.weights) if weight)


def combination_reward(tastes: Tastes, traits: Traits) -> int:
  """The summed weight of the satisfied tastes; an attribute that is None satisfies none."""
  return sum(
    weight
    for weight, preferred, value in zip(tastes.weights, tastes.preferred, traits, strict=True)
    if weight and preferred == value
  )


def describe(tastes: Tastes) -> str:
  """The gold description: the weightiest taste first, then the others in their fixed order.

  Where no taste weighs more than 1, all are in the fixed order; "A moviegoer." has no tastes.
  """
  wording = {a: _WORDINGS[a][tastes.preferred[a]] for a in tastes.cared}
  if not wording:
    return _NO_TASTES
  if max(tastes.weights) == 1:
    return f"Reviews should be {', '.join(wording.values())}."
  above_all = max(tastes.cared, key=lambda a: tastes.weights[a])
  text = f"Reviews should be, above all, {wording.pop(above_all)}"
  if wording:
    text += f"; also: {', '.join(wording.values())}"
  return text + "."


def description_tastes(text: str) -> dict[int, int]:
  """Reads any description: the preferred value of every attribute it names unambiguously."""
  return _values(reviews_text.normalise(text))


def _values(words: str) -> dict[int, int]:
  values = _READER.unambiguous(words)
  values.pop(_ABOVE_ALL[0], None)
  return values


def read(text: str) -> Tastes:
  """The user of any description: `description_tastes`, 2 the weight of the one after "above all".

  The inverse of `describe`, also where sentences of `addition` follow. A text that names no taste
  gives a user without any.
  """
  words = reviews_text.normalise(text)
  values, traits = _values(words), _READER.find(words)
  preferred = [-1] * len(ATTRIBUTES)
  weights = [0] * len(ATTRIBUTES)
  for attribute, value in values.items():
    preferred[attribute] = value
    weights[attribute] = 1
  if _ABOVE_ALL in traits:
    following = traits[traits.index(_ABOVE_ALL) + 1 :]
    if following and following[0][0] in values:
      weights[following[0][0]] = 2
  return Tastes(tuple(preferred), tuple(weights))


def parse_description(text: str) -> Tastes | None:
  """The inverse of `describe`; None if `text` is anything else (but for case and punctuation)."""
  tastes = read(text)
  same = reviews_text.normalise(describe(tastes)) == reviews_text.normalise(text)
  return tastes if same else None


def addition(choose: Choose, description: str, chosen: str, rejected: str) -> str | None:
  """A sentence that, appended to `description`, makes its user prefer `chosen`.

  It names one attribute of which the description names no value, and on which the two responses
  differ; where there is none, and tastes are at odds, which of them comes above all. None where
  neither helps, or the user likes one of the two more already.
  """
  tastes, better, worse = read(description), parse(chosen), parse(rejected)
  if combination_reward(tastes, better) != combination_reward(tastes, worse):
    return None
  named = {attribute for attribute, _ in _READER.find(reviews_text.normalise(description))}
  silent = [a for a in range(len(ATTRIBUTES)) if a not in named]
  wordings = _differences(better, worse, silent)
  if wordings:
    return f"Reviews should also be {wordings[choose(len(wordings))]}."
  satisfied = [a for a in tastes.cared if tastes.preferred[a] == better[a]]
  wordings = _differences(better, worse, satisfied)
  if wordings and _ABOVE_ALL[0] not in named:
    return f"Above all, reviews should be {wordings[choose(len(wordings))]}."
  return None


def _differences(better: Traits, worse: Traits, attributes: Iterable[int]) -> list[str]:
  """The wordings of what one response has and the other has not, of some attributes."""
  return [
    _WORDINGS[a][better[a]] for a in attributes if better[a] is not None and better[a] != worse[a]
  ]


def view(kind: int) -> str:
  """The six values of a combination, given as its index into `COMBINATIONS`."""
  return ", ".join(map(tuple.__getitem__, _WORDINGS, COMBINATIONS[kind]))


def word(attribute: int, value: int) -> str:
  """How views and descriptions name a value of an attribute: "positive"."""
  return _WORDINGS[attribute][value]


def read_view(text: str) -> int | None:
  """The inverse of `view`, of any text; None if it does not name one value of each attribute."""
  values = description_tastes(text)
  return COMBINATION_INDEX.get(tuple(values.get(a) for a in range(len(ATTRIBUTES))))
