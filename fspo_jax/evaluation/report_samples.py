# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The section of a report that sets the methods' responses side by side, for some users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

from fspo_jax.evaluation.formatting import count
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.pages.document import (
  Answer,
  Answers,
  Block,
  Bullets,
  Fold,
  Pairs,
  Paragraph,
  Section,
  Span,
  Text,
)
from fspo_jax.preferences import Preference

_SHOTS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class UserSample:
  """One user, one prompt, and what each method answered.

  Attributes:
    user_id: the user.
    description: the gold description, where it is known.
    shots: the preferences the methods saw.
    prompt: what was asked.
    responses: {method: response}; the methods are keys of `METHODS`.
    rewards: {method: the judge's reward of its response}, where there is a judge; a method may be
      missing.
    written_description: the description the model wrote from the shots, where it wrote one.
  """

  user_id: str
  description: str | None
  shots: Sequence[Preference]
  prompt: str
  responses: Mapping[str, str]
  rewards: Mapping[str, float] | None = None
  written_description: str | None = None


def sections(samples: Sequence[UserSample]) -> list[Section]:
  """A section with one for each sample, or none; ValueError for an unknown method."""
  shown = []
  for sample in samples:
    unknown = sorted({*sample.responses, *(sample.rewards or {})} - set(METHODS))
    if unknown:
      raise ValueError(
        f"sample of user {sample.user_id!r}: expected methods of {list(METHODS)}, found {unknown}"
      )
    fold = "closed" if shown else "open"
    shown.append(Section(f"User {sample.user_id}", [*_blocks(sample)], fold=fold))
  return [Section("Side by side", shown)] if shown else []


def _blocks(sample: UserSample) -> list[Block]:
  about = (
    ("Gold description:", sample.description),
    ("Description the model wrote:", sample.written_description),
  )
  known: list[Text] = [(Span(name), f" {text.strip()}") for name, text in about if text is not None]
  return [
    *([Bullets(known)] if known else []),
    *_shots(sample.shots),
    Paragraph((Span("Prompt:"), f" {sample.prompt.strip()}")),
    _answers(sample),
  ]


def _shots(shots: Sequence[Preference]) -> list[Block]:
  if not shots:
    return []
  rest = shots[_SHOTS_SHOWN:]
  folded = Pairs("shots", rest, first=_SHOTS_SHOWN + 1)
  return [
    Pairs("shots", shots[:_SHOTS_SHOWN]),
    *([Fold(count(len(rest), "more shot"), [folded])] if rest else []),
  ]


def _answers(sample: UserSample) -> Answers:
  rewards = sample.rewards or {}
  best, base = max(rewards.values(), default=None), rewards.get("base")
  answers = []
  for method, row in METHODS.items():
    if method not in sample.responses:
      continue
    facts: list[tuple[str, Text]] = []
    if rewards:
      reward = rewards.get(method)
      text = "" if reward is None else f"{reward:.2f}"
      facts.append(("reward", Span(text) if text and reward == best else text))
    if base is not None:
      facts.append(("against the base", _verdict(method, rewards.get(method), base)))
    answers.append(Answer(row.label, sample.responses[method], facts))
  return Answers(answers)


def _verdict(method: str, reward: float | None, base: float) -> str:
  if method == "base" or reward is None:
    return ""
  return "ties" if reward == base else "wins" if reward > base else "loses"
