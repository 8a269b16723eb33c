# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a quality card holds, and its JSON. `quality.measure` makes one."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import types
import typing
from typing import Any

from fspo_jax.preferences import Preference
from fspo_jax.synthesis.measures import Histogram, Interval, QualityError

SCHEMA_VERSION = 1

_DIGITS = 6  # of numbers in JSON: more would differ between machines, and say nothing


@dataclasses.dataclass(frozen=True, slots=True)
class Diversity:
  """How alike the responses to one prompt are, over a sample of prompts; less is better.

  Attributes:
    embedder: whose cosines these are; those of two embedders cannot be compared.
    prompts: how many prompts were sampled.
    mean: of the prompts' mean pairwise cosines; None without a prompt of two responses.
    median: the mean of the prompts' median pairwise cosines.
    near_duplicates: the share of pairs of responses with a cosine above 0.95.
    cosines: of all pairs of responses to one prompt.
  """

  embedder: str
  prompts: int
  mean: Interval | None
  median: float | None
  near_duplicates: float | None
  cosines: Histogram


@dataclasses.dataclass(frozen=True, slots=True)
class Coherence:
  """The binary entropy of repeated labels in nats (0 to 0.69), mean over pairs; less is better.

  The paper's refinement takes it from 0.64 to 0.13. None where no pair was judged twice.

  Attributes:
    users: how many users were judged by their first description too.
    before: of these users, by their first description.
    after: of the same users, by their final description.
    fall: `before` over `after`; None where either is not known or `after` is 0.
    everyone: of all users, by their final description.
    pairs_before: the entropies that `before` is the mean of.
    pairs_after: those of `after`.
  """

  users: int
  before: Interval | None
  after: Interval | None
  fall: float | None
  everyone: Interval | None
  pairs_before: Histogram
  pairs_after: Histogram


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
  """Whether the order of two responses decides between them.

  Attributes:
    flip_rate: the share of pairs whose order decides, of those judged in both orders, before any
      filter; less is better. None if none was.
    first_preferred: how often the response shown first is preferred, of all judgements, before any
      filter; an unbiased judge is at 0.5.
    first_preferred_kept: the same of the pairs that became preferences.
  """

  flip_rate: Interval | None
  first_preferred: Interval | None
  first_preferred_kept: Interval | None


@dataclasses.dataclass(frozen=True, slots=True)
class Length:
  """Whether length decides, over all preferences; without any bias both numbers are 0.5.

  Attributes:
    longer_chosen: how often the longer response (in characters) is the chosen one, ties half.
    area_under_curve: how often a chosen response is longer than a rejected one, of any two in the
      set: what length alone would tell of a label.
    chosen: the lengths of chosen responses.
    rejected: the lengths of rejected responses, in the same bins.
  """

  longer_chosen: Interval | None
  area_under_curve: float | None
  chosen: Histogram
  rejected: Histogram


@dataclasses.dataclass(frozen=True, slots=True)
class Yield:
  """What came of it.

  Attributes:
    users: all users; `unseen_users` of them are never trained on.
    unseen_users: see `users`.
    prompts: all questions; `unseen_prompts` of them are about topics never trained on.
    unseen_prompts: see `prompts`.
    responses: all responses to them.
    judged: pairs judged by the final descriptions.
    preferences: pairs kept.
    fewest: preferences of the user with the fewest.
    median: of the users' numbers of preferences.
    most: preferences of the user with the most.
    per_user: the users' numbers of preferences.
    additions: how many sentences refinement appended to a description, on average.
    most_additions: to the one that it appended the most to.
    set_aside_items: what could not be used of questions and responses, by reason.
    set_aside_users: judged pairs that the filters dropped, and pairs that could not be judged, by
      reason.
    duplicates: how often a prompt, a response, a description or a preference of a user is there
      again.
  """

  users: int
  unseen_users: int
  prompts: int
  unseen_prompts: int
  responses: int
  judged: int
  preferences: int
  fewest: int
  median: float
  most: int
  per_user: Histogram
  additions: float
  most_additions: int
  set_aside_items: Mapping[str, int]
  set_aside_users: Mapping[str, int]
  duplicates: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
  """How far users disagree about the pairs that both have labelled.

  Attributes:
    others: with how many sampled users every user was compared.
    mean: the share of common pairs that two users label in opposite ways; None without any.
    comparable: the share of two users with enough pairs in common (5) to compare them alone.
    regenerate: the users whom the regenerate rule names, by user id, and why.
    matrix: the disagreement of every two of some of the others, the alike side by side; None where
      they have too few pairs in common.
  """

  others: int
  mean: float | None
  comparable: float
  regenerate: Mapping[str, str]
  matrix: tuple[tuple[float | None, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Leakage:
  """What evaluation on unseen users and topics rests on; all of it must be 0.

  Attributes:
    unseen_preferences_of_train_users: preferences of training users about unseen topics.
    topics_in_both_splits: topics of both training and unseen questions.
    prompts_in_both_splits: prompts of both.
    repeated_user_ids: users with the id of an earlier one.
  """

  unseen_preferences_of_train_users: int
  topics_in_both_splits: int
  prompts_in_both_splits: int
  repeated_user_ids: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
  """A user to show: the first description, the final one, and some preferences."""

  user_id: str
  persona: str
  description: str
  preferences: tuple[Preference, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class QualityCard:
  """All that was measured of a set.

  Attributes:
    schema_version: of these fields.
    seed: of the samples and the intervals.
    diversity: of responses.
    coherence: of labels.
    order: its bias.
    length: its bias.
    made: what came of it.
    agreement: between users.
    leakage: between splits.
    samples: some users.
  """

  schema_version: int
  seed: int
  diversity: Diversity
  coherence: Coherence
  order: Order
  length: Length
  made: Yield
  agreement: Agreement
  leakage: Leakage
  samples: tuple[Sample, ...]


def as_json(card: QualityCard) -> dict[str, Any]:
  """The card as JSON has it, its numbers rounded to 6 digits after the point."""
  return _rounded(dataclasses.asdict(card))


def from_json(found: object) -> QualityCard:
  """The inverse of `as_json`, up to rounding.

  Raises:
    QualityError: naming the key that is missing, unknown or of another type than expected.
  """
  if isinstance(found, Mapping) and found.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
    raise QualityError(
      f"schema_version: found {found['schema_version']!r}, expected {SCHEMA_VERSION}: measure the "
      "set again"
    )
  return _parse(QualityCard, found, "card")


def _rounded(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _rounded(item) for key, item in value.items()}
  if isinstance(value, tuple | list):
    return [_rounded(item) for item in value]
  return round(value, _DIGITS) if isinstance(value, float) else value


def _parse(kind: Any, found: object, where: str) -> Any:
  """A value of an annotated type, one of those that the card's fields have."""
  arguments = typing.get_args(kind)
  if isinstance(kind, types.UnionType):  # something, or None
    return None if found is None else _parse(arguments[0], found, where)
  if dataclasses.is_dataclass(kind):
    hints = typing.get_type_hints(kind)
    if not isinstance(found, Mapping) or found.keys() != hints.keys():
      keys = sorted(found) if isinstance(found, Mapping) else found
      raise QualityError(f"{where}: found {keys!r}, expected the keys {sorted(hints)}")
    return kind(**{k: _parse(hint, found[k], f"{where}.{k}") for k, hint in hints.items()})
  if typing.get_origin(kind) is tuple and isinstance(found, list):
    return tuple(_parse(arguments[0], value, f"{where}[{i}]") for i, value in enumerate(found))
  if typing.get_origin(kind) is Mapping and isinstance(found, dict):
    return {key: _parse(arguments[1], value, f"{where}.{key}") for key, value in found.items()}
  if kind is float and type(found) in (int, float) and math.isfinite(found):
    return float(found)
  if kind in (int, str) and type(found) is kind:
    return found
  raise QualityError(f"{where}: found {found!r}, expected {_name(kind)}")


def _name(kind: Any) -> str:
  names = {float: "a finite number", int: "an integer", str: "a string", tuple: "a list"}
  return names.get(kind) or names.get(typing.get_origin(kind), "an object")
