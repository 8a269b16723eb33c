# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The three domains: what a language model has to know of each to write and to judge for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np

from fspo_jax import preferences


@dataclasses.dataclass(frozen=True)
class Domain:
  """A domain of synthetic preferences; all texts are parts of prompts, in whole sentences.

  Attributes:
    name: of the domain.
    topics_train: what questions to train on are about.
    topics_unseen: what questions that training never sees are about.
    question: what a question is.
    persona: what the description of a user says.
    response: what a response is.
    view: what a viewpoint on a question is.
    guidelines: how to judge which of two responses a user prefers.
  """

  name: str
  topics_train: tuple[str, ...]
  topics_unseen: tuple[str, ...]
  question: str
  persona: str
  response: str
  view: str
  guidelines: str

  def __post_init__(self) -> None:
    if not self.topics_train:
      raise ValueError(f"topics_train of {self.name}: found none, expected one or more")
    if both := sorted({*self.topics_train} & {*self.topics_unseen}):
      raise ValueError(
        f"topics of {self.name}: found {both[0]!r} in topics_train and in topics_unseen, expected "
        "no topic in both"
      )


def make_domain(name: str, topics_train: Sequence[str], topics_unseen: Sequence[str]) -> Domain:
  """The domain `name` about these topics. Raises ValueError if there is no such domain."""
  if name not in _TEXTS:
    raise ValueError(f"domain: found {name!r}, expected one of {', '.join(_TEXTS)}")
  return Domain(name, tuple(topics_train), tuple(topics_unseen), **_TEXTS[name])


def split_topics(
  topics: Iterable[str], *, unseen_topics: float, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Splits one's own list of topics into (train, unseen), by (seed, topic) alone."""
  topics = tuple(dict.fromkeys(topics))
  unseen = {t for t in topics if preferences.held_out("topic", t, share=unseen_topics, seed=seed)}
  return tuple(t for t in topics if t not in unseen), tuple(t for t in topics if t in unseen)


def demographics(seed: int, index: int) -> str:
  """Who person `index` is in a line, so that the personas of a language model differ."""
  rng = np.random.default_rng([seed, index])
  age = int(rng.integers(16, 86))
  region, job = _REGIONS[rng.integers(len(_REGIONS))], _JOBS[rng.integers(len(_JOBS))]
  # The young and the old mostly have no job, or no longer.
  job = "student" if age < 21 else f"retired {job}" if age > 67 else job
  first, second = rng.choice(len(_TRAITS), 2, replace=False)
  return f"{age} years old; from {region}; {job}; {_TRAITS[first]} and {_TRAITS[second]}"


def _list(text: str) -> tuple[str, ...]:
  return tuple(entry.strip() for entry in text.replace("\n", " ").split("|"))


_REGIONS = _list(
  """a village in northern Portugal | Lagos, Nigeria | a suburb of Chicago | rural Bihar
| Seoul | a mining town in Chile | the Scottish Highlands | Cairo | a farm in Saskatchewan | Manila
| the outskirts of Paris | a fishing town in Norway | Mexico City | Nairobi | a small town in Ohio
| Istanbul | the Polish lake district | Ho Chi Minh City | Melbourne | the Mississippi Delta
| Tehran | a port in southern Italy | Sao Paulo | Hokkaido | Tbilisi | Johannesburg | Glasgow
| a village in Transylvania | Karachi | the Navajo Nation | Jakarta | Berlin"""
)

_JOBS = _list(
  """nurse | bus driver | software developer | primary school teacher | farmer | electrician
| accountant | chef | shop assistant | lawyer | musician | welder | biologist | hairdresser
| civil engineer | police officer | translator | carpenter | social worker | journalist
| warehouse worker | dentist | football coach | librarian | pastor | estate agent
| call-centre agent | graphic designer | physicist | cleaner | pilot | home maker"""
)

_TRAITS = _list(
  """curious | impatient | warm-hearted | sceptical | thrifty | adventurous | shy | ironic
| methodical | dreamy | competitive | easy-going | proud | anxious | sociable | stubborn | playful
| frugal with words | sentimental | practical | rebellious | traditional | perfectionist
| spontaneous | solitary | generous | blunt | optimistic | melancholic | eager to learn"""
)


_TEXTS: dict[str, dict[str, str]] = {
  "reviews": {
    "question": (
      "A question asks for a review of one invented movie that fits the topic. It gives the "
      "movie's title and leaves open how the review should be written."
    ),
    "persona": (
      "Say how this person wants movie reviews to be written: praising or critical, short or long, "
      "formal or casual, funny or serious, with or without spoilers, and about which side of a "
      "movie (acting, plot, visuals, music ...). Not everything matters to everyone: name what "
      "does, and what matters most."
    ),
    "response": "A response is a review of the movie, in one to four sentences.",
    "view": (
      "A viewpoint is a way to review the movie: the verdict, the manner and the side of the movie "
      "it dwells on."
    ),
    "guidelines": (
      "- The better review is written the way the description asks for.\n"
      "- What matters most to the person outweighs everything else; then count what else they "
      "name.\n"
      "- What the description does not mention does not matter to the person. Whether you would "
      "praise the movie does not matter either."
    ),
  },
  "elix": {
    "question": "A question asks for an explanation of one concept that belongs to the topic.",
    "persona": (
      "Say how much this person knows of different subjects, from the level of a child to that of "
      "an expert, and where they learnt it (school, work, hobbies). Expertise differs by subject: "
      "name several subjects, strong and weak ones."
    ),
    "response": (
      "A response explains the concept in two to four sentences, for a reader of one level of "
      "expertise."
    ),
    "view": (
      "A viewpoint is the level of expertise that an explanation is written for: a child, a middle "
      "school student, a high school student, a college student, an expert."
    ),
    "guidelines": (
      "- The better explanation fits what the description says the person knows of the concept's "
      "subject: neither over their head nor beneath it.\n"
      "- Judge by the words and ideas that an explanation takes for granted, not by its tone.\n"
      "- Where neither fits, the one nearer to the person's level is better."
    ),
  },
  "roleplay": {
    "question": (
      "A question is open-ended: it asks for advice, an opinion or ideas, and different people "
      "would be happy with quite different answers. It names nothing of the person who asks."
    ),
    "persona": (
      "Say who this person is (age, home, work, family), what they are like (traits), what they "
      "care about and do in their free time (interests), and what follows from it for the advice "
      "they like to get: for example how they like to learn, what they spend money and time on, "
      "whom they like to be with."
    ),
    "response": (
      "A response answers the question in two to four sentences and commits itself to one idea."
    ),
    "view": (
      "A viewpoint is one way to answer the question that suits some people and not others; for "
      "'How do I learn to cook?' these are to watch videos, to read a book, to take a class."
    ),
    "guidelines": (
      "- The better response is the one that this person would rather act on, given their life, "
      "traits and interests.\n"
      "- A response that goes against what the description says is worse than one that ignores "
      "it.\n"
      "- General helpfulness and polish do not matter; the fit to the person does."
    ),
  },
}
