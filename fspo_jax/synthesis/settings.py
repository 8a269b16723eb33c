# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a synthetic set is made of: sizes, models, remedies. All that it depends on but answers."""

from __future__ import annotations

import dataclasses
from typing import Literal

Steering = Literal["none", "personas", "views"]


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
  """A model of the ensemble and the temperature it is sampled at."""

  name: str
  temperature: float

  def __post_init__(self) -> None:
    if not self.name or self.temperature < 0:
      raise ValueError(f"model: found {self}, expected a name and a temperature of 0 or more")


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
  """How a set is made. The fields are the keys of `config.synthesis.set`.

  Attributes:
    users: how many users there are.
    unseen_users: the share of them that is never trained on, a probability.
    questions: how many questions the bank has.
    unseen_topics: the share of questions that is about topics never trained on.
    responses: how many responses a question has.
    steering: what responses are written for: 'none', 'personas' or 'views'.
    models: the ensemble; response i of a question is by model i modulo their number.
    judge: labels and refines.
    pairs: pairs of responses that a user judges, about distinct questions.
    anchors: how many of them are the same for all users, so that any two users can be compared.
    picked: the share of the others, a probability, of which one response is from the viewpoint that
      the user would pick, so that most users have an opinion; for steering by views alone.
    repeats: how often a pair is judged in each order.
    both_orders: judge both, and drop the pairs whose order decides.
    ignore_length: tell the judge to ignore length.
    refine: append to a description what determines its undetermined preferences, then relabel.
    measure_every: one user in so many is also judged by the first description, to be compared.
    max_tokens: the longest answer, in tokens.
  """

  users: int
  unseen_users: float
  questions: int
  unseen_topics: float
  responses: int
  steering: Steering
  models: tuple[Model, ...]
  judge: Model
  pairs: int
  anchors: int
  picked: float
  repeats: int
  both_orders: bool
  ignore_length: bool
  refine: bool
  measure_every: int
  max_tokens: int

  def __post_init__(self) -> None:
    for name in ("users", "questions", "pairs", "repeats", "measure_every", "max_tokens"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}: found {getattr(self, name)}, expected 1 or more")
    if self.responses < 2:
      raise ValueError(f"responses: found {self.responses}, expected 2 or more, for a pair")
    for name in ("unseen_users", "unseen_topics"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name}: found {getattr(self, name)}, expected a share, less than 1")
    if self.steering not in ("none", "personas", "views"):
      raise ValueError(f"steering: found {self.steering!r}, expected 'none', 'personas' or 'views'")
    if not 0 <= self.anchors <= self.pairs:
      raise ValueError(f"anchors: found {self.anchors}, expected 0 to pairs={self.pairs}")
    if not 0 <= self.picked <= 1 or (self.picked and self.steering != "views"):
      raise ValueError(
        f"picked: found {self.picked} with steering={self.steering!r}, expected a share, and 0 "
        "without views to pick from"
      )
    if not self.models:
      raise ValueError("models: found none, expected one or more")
    if self.pairs > self.questions:
      raise ValueError(
        f"pairs: found {self.pairs}, expected at most questions={self.questions}: a user judges a "
        "question once"
      )
