# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the factory makes: a bank of questions with responses, and users who judge pairs of them.

Both are small: a judgement names its responses by number, so that a million preferences are
journaled in tens of megabytes. `preferences_of` writes them out.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from fspo_jax.preferences import Preference

Split = Literal["train", "unseen"]


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
  """One response to a question, and how it was made.

  Attributes:
    text: the response.
    model: which model of the ensemble wrote it.
    temperature: of its sampling.
    steer: the persona or view that it was written for; empty for none.
  """

  text: str
  model: str
  temperature: float
  steer: str


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
  """A question of the bank with its responses, no two of which are equal.

  Attributes:
    index: of the item in the bank.
    split: 'unseen' for a question about a topic that training never sees.
    topic: what the question is about.
    prompt: the question.
    responses: of different views, personas, models.
    set_aside: what could not be used, by reason.
  """

  index: int
  split: Split
  topic: str
  prompt: str
  responses: tuple[Response, ...]
  set_aside: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Votes:
  """The judgements of one pair of responses by one user's description, in both orders.

  Attributes:
    item: the index of the question.
    a: the number of one response.
    b: the number of the other.
    forward: how often `a` was preferred, and how often asked, where `a` was shown first.
    backward: the same where `b` was shown first; (0, 0) if that order was never asked.
  """

  item: int
  a: int
  b: int
  forward: tuple[int, int]
  backward: tuple[int, int]

  @property
  def share(self) -> float:
    """How often `a` was preferred, of all judgements, in [0, 1]; 0.5 if there is none."""
    asked = self.forward[1] + self.backward[1]
    return (self.forward[0] + self.backward[0]) / asked if asked else 0.5

  @property
  def flips(self) -> bool:
    """Whether the order decides: the majorities of the two orders differ, or one is a draw."""
    (wins, asked), (wins_back, asked_back) = self.forward, self.backward
    return (2 * wins - asked) * (2 * wins_back - asked_back) <= 0

  @property
  def preferred(self) -> tuple[int, int]:
    """(chosen, rejected) by the majority of all judgements; (a, b) for a draw."""
    return (self.a, self.b) if self.share >= 0.5 else (self.b, self.a)


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticUser:
  """A user of the factory.

  Attributes:
    index: of the user in the set.
    user_id: a unique name.
    split: 'unseen' for a user who is never trained on.
    persona: the description as it was first written.
    description: the final one, with what refinement appended.
    additions: how many sentences were appended.
    before: judgements by the first description; empty where they were not measured.
    after: judgements of all the user's pairs by the final description.
    kept: which of `after` became preferences, after the filters, as indices.
    set_aside: what could not be used, by reason.
  """

  index: int
  user_id: str
  split: Split
  persona: str
  description: str
  additions: int
  before: tuple[Votes, ...]
  after: tuple[Votes, ...]
  kept: tuple[int, ...]
  set_aside: Mapping[str, int]


def preferences_of(user: SyntheticUser, bank: Mapping[int, Item]) -> list[Preference]:
  """The user's preferences, written out. `bank` is the questions by index."""
  found = []
  for votes in map(user.after.__getitem__, user.kept):
    item = bank[votes.item]
    chosen, rejected = (item.responses[i].text for i in votes.preferred)
    found.append(Preference(item.prompt, chosen, rejected))
  return found


def as_json(record: Item | SyntheticUser) -> dict[str, Any]:
  """A record as JSON has it, compact: votes and responses as lists of their fields' values."""
  out = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
  for name in ("responses", "before", "after"):
    if name in out:
      out[name] = [list(_values(x)) for x in out[name]]
  return out


def item_from_json(found: Mapping[str, Any]) -> Item:
  """The inverse of `as_json`."""
  responses = tuple(Response(*values) for values in found["responses"])
  return Item(**{**found, "responses": responses})


def user_from_json(found: Mapping[str, Any]) -> SyntheticUser:
  """The inverse of `as_json`."""
  votes = {name: tuple(map(_votes, found[name])) for name in ("before", "after")}
  return SyntheticUser(**{**found, **votes, "kept": tuple(found["kept"])})


def _values(record: Response | Votes) -> tuple[Any, ...]:
  if isinstance(record, Response):
    return record.text, record.model, record.temperature, record.steer
  return record.item, record.a, record.b, list(record.forward), list(record.backward)


def _votes(values: list[Any]) -> Votes:
  item, a, b, forward, backward = values
  return Votes(item, a, b, tuple(forward), tuple(backward))
