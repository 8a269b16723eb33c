# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Episodes that a base model is pretrained on: all that a model should know before it personalizes.

FSPO fine-tunes a model that can read, follows instructions and knows its prompts' format. The base
of the embedded worlds learns these from six kinds of document, each of them an episode:

- answers: under the description of who asks, questions and answers to that user's taste, so that
  descriptions are instructions
- labels: the few-shot format; which response is the preferred one is a coin's toss, so that the
  base knows the format and does not personalize yet
- readings: after each of such shots, what its responses are like
- pages: several responses by one author, who is described after each of them; no pairs and no
  labels, but what many texts have in common
- knowledge: what anybody knows of a domain, as which subject a concept belongs to
- wishes: under the description of who asks, in a word what they would like, where a word can tell
  it: answers cut down to what has to be looked up

Nothing of it is about evaluation users. Of unseen topics there is general knowledge alone: a model
that never met a word cannot know what it is about, and a real one has met them all.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from fspo_jax.episodes.sampling import Episode, Page
from fspo_jax.episodes.templates import Layout
from fspo_jax.preferences import Preference
from fspo_jax.worlds.world import World

_READ = 5  # shots whose responses are read
_UNSAID = "nothing"  # the rejected response where there is none; it is not trained on


@dataclasses.dataclass(frozen=True)
class Phase:
  """What the documents of a part of a run are.

  Attributes:
    start: The first document of the phase, which lasts until the next one's.
    answers: The weight of documents of this kind; only the ratios count.
    labels: The same.
    readings: The same.
    pages: The same.
    knowledge: The same; worlds that have none give the other kinds.
    wishes: The same as knowledge.
    worlds: How often each world is drawn, in their order; only the ratios count.
    best: Whether answers are what the user likes best of all, or of what their question offers:
      instructions that leave less open.

  Raises:
    ValueError: If a weight is negative, or all are 0 but for those of knowledge and wishes.
  """

  start: int
  answers: float
  labels: float
  readings: float
  pages: float
  knowledge: float
  wishes: float
  worlds: tuple[float, ...]
  best: bool

  def __post_init__(self) -> None:
    if min(*self.weights, *self.worlds) < 0 or not sum(self.weights[:4]) or not sum(self.worlds):
      raise ValueError(
        f"found the weights {self.weights} and worlds={self.worlds}, expected 0 or more, not all "
        "0 but for knowledge and wishes, which not every world has, and not all worlds 0"
      )

  @property
  def weights(self) -> tuple[float, ...]:
    """The weights of the six kinds."""
    return self.answers, self.labels, self.readings, self.pages, self.knowledge, self.wishes


@dataclasses.dataclass(frozen=True)
class Mixture:
  """What the documents are, and how authors choose.

  Attributes:
    phases: One after another; the first starts at 0.
    pairs: How many pairs or pages a document of each world has, in the worlds' order: more where
      texts are short, so that all documents are about as long.
    answers: How many answers a document of each world has.
    wishes: How many wishes. With few of each, a step meets many users: looking up in a description
      what a question is about was learned from 48 users of 4 wishes each in 200 steps, and from 8
      users of 24 in none of 400.
    rationality: An author writes a response with probability proportional to exp(rationality x
      reward): at 2.2 a taste of weight 1 of two values is met in 90 %, of weight 2 in 99 %.

  Raises:
    ValueError: If the phases are not in order, the rationality is negative, or there are too few
      pairs for a reading.
  """

  phases: tuple[Phase, ...]
  pairs: tuple[int, ...]
  answers: tuple[int, ...]
  wishes: int
  rationality: float

  def __post_init__(self) -> None:
    starts = [phase.start for phase in self.phases]
    if starts[:1] != [0] or starts != sorted(set(starts)) or self.rationality < 0:
      raise ValueError(
        f"found phases that start at {starts} and rationality={self.rationality}, expected "
        "increasing starts, the first 0, and a rationality of 0 or more"
      )
    lengths = {len(phase.worlds) for phase in self.phases} | {len(self.pairs), len(self.answers)}
    if len(lengths) > 1:
      raise ValueError(
        f"found phases of the worlds {[phase.worlds for phase in self.phases]}, pairs={self.pairs} "
        f"and answers={self.answers}, expected one number for each world"
      )
    if min(self.pairs, default=0) < _READ:
      raise ValueError(f"found pairs={self.pairs}, expected {_READ} or more for each world")
    if min(*self.answers, self.wishes) < 1:
      raise ValueError(
        f"found answers={self.answers} and wishes={self.wishes}, expected 1 or more of each"
      )

  def phase(self, index: int) -> Phase:
    """The phase of document `index`."""
    return [phase for phase in self.phases if phase.start <= index][-1]


def reading_question(side: int) -> str:
  """Asks what a response of the last shot is like: 0 for the first, the preferred one, 1."""
  return f"What is the {('first', 'second')[side]} of these responses like?"


def layout(items: int) -> Layout:
  """One layout for all kinds of document: an episode grows the branches that it has.

  Args:
    items: the most of a document, as in `PretrainingEpisodes`.
  """
  return Layout(
    shot_pairs=True,
    rejected=False,
    description_shots=tuple(range(items + 1)),
    description_queries=(0,),
  )


@dataclasses.dataclass(frozen=True)
class PretrainingEpisodes:
  """Documents of several worlds; document e is a pure function of (seed, e).

  Attributes:
    worlds: whose training users and topics are drawn.
    mixture: what the documents are.
    items: the most pairs, pages or questions of a document; questions of general knowledge are as
      many.
    seed: with the index, all that a document depends on.
  """

  worlds: tuple[World[Any], ...]
  mixture: Mixture
  items: int
  seed: int

  def __post_init__(self) -> None:
    if not self.worlds or len(self.worlds) != len(self.mixture.pairs):
      raise ValueError(
        f"found {len(self.worlds)} worlds and pairs={self.mixture.pairs}, expected a number of "
        "pairs for each of one world or more"
      )
    least = max(3 * _READ, self.mixture.wishes, *self.mixture.pairs, *self.mixture.answers)
    if self.items < least:
      raise ValueError(f"found items={self.items}, expected {least} or more")

  def __call__(self, index: int) -> Episode:
    """Document `index`."""
    rng = np.random.default_rng([self.seed, index])
    phase = self.mixture.phase(index)
    which = int(rng.choice(len(self.worlds), p=np.divide(phase.worlds, sum(phase.worlds))))
    world, pairs = self.worlds[which], self.mixture.pairs[which]
    writer = _Writer(world, rng, self.mixture.rationality)
    weights = np.asarray(phase.weights)
    # What a world has not, it gives to the other kinds.
    weights[4] *= bool(world.knowledge())
    weights[5] *= bool(world.wishes(writer.user))
    kind = int(rng.choice(len(weights), p=weights / weights.sum()))
    if kind == 0:
      return writer.answers(self.mixture.answers[which], best=phase.best)
    if kind == 1:
      return writer.labels(pairs)
    if kind == 2:
      return writer.readings(_READ)
    if kind == 3:
      return writer.pages(pairs)
    if kind == 4:
      return writer.knowledge(self.items)
    return writer.wishes(self.mixture.wishes)


class _Writer:
  """Writes one document of a random training user of a world."""

  def __init__(self, world: World[Any], rng: np.random.Generator, rationality: float) -> None:
    self.world, self.rng, self.rationality = world, rng, rationality
    users = world.users("train")
    self.user = users[rng.integers(len(users))]
    self.topics = world.topics("train")

  def answers(self, count: int, *, best: bool) -> Episode:
    """Questions and answers to the user's taste."""
    queries = []
    for prompt in self._balanced(count) if best else self._prompts(count):
      if best:
        answer = self.world.best_response(self.rng, self.user, prompt)
        other = int(self.rng.integers(self.world.kinds(prompt)))
      else:
        kind = self._liked(prompt)
        other = self._other(kind, self.world.kinds(prompt))
        answer = self._write(prompt, kind)
      queries.append(Preference(prompt, answer, self._write(prompt, other)))
    return self._episode(queries=queries, description=self.world.describe(self.user))

  def labels(self, count: int) -> Episode:
    """Pairs of random kinds in random order."""
    return self._episode(shots=[pair for pair, _ in map(self._pair, self._prompts(count))])

  def readings(self, count: int) -> Episode:
    """Pairs, and after each what its responses are like."""
    shots: list[Preference | Page] = []
    for prompt in self._prompts(count):
      pair, read = self._pair(prompt)
      # In either order: a question alone says which response it is about.
      sides = self.rng.permutation(2).tolist()
      shots += [pair, *(Page(reading_question(side), read[side]) for side in sides)]
    return self._episode(shots=shots)

  def pages(self, count: int) -> Episode:
    """Responses by the user, who is described after each."""
    pages = [Page(p, self._write(p, self._liked(p))) for p in self._prompts(count)]
    return self._episode(shots=pages, description=self.world.describe(self.user))

  def knowledge(self, count: int) -> Episode:
    """Questions of general knowledge, each with its answer."""
    known = self.world.knowledge()
    asked = self.rng.choice(len(known), count, replace=False).tolist()
    return self._episode(shots=[Page(*known[i]) for i in asked])

  def wishes(self, count: int) -> Episode:
    """What the user would like, each answer as likely: the seldom ones must be looked up."""
    asked: dict[str, list[str]] = collections.defaultdict(list)
    for question, answer in self.world.wishes(self.user):
      asked[answer].append(question)
    answers = list(asked)
    queries = []
    for _ in range(count):
      answer = answers[self.rng.integers(len(answers))]
      question = asked[answer][self.rng.integers(len(asked[answer]))]
      queries.append(Preference(question, answer, _UNSAID))
    return self._episode(queries=queries, description=self.world.describe(self.user))

  def _episode(
    self,
    *,
    shots: Sequence[Preference | Page] = (),
    queries: Sequence[Preference] = (),
    description: str | None = None,
  ) -> Episode:
    return Episode(self.world.user_id(self.user), tuple(shots), tuple(queries), description)

  @property
  def _choose(self) -> Callable[[int], int]:
    return lambda alternatives: int(self.rng.integers(alternatives))

  def _prompts(self, count: int) -> list[str]:
    """Distinct questions on training topics."""
    found: dict[str, None] = {}
    while len(found) < count:
      topic = self.topics[self.rng.integers(len(self.topics))]
      found[self.world.write_question(self._choose, topic)] = None
    return list(found)

  def _balanced(self, count: int) -> list[str]:
    """Distinct questions on training topics, about as many of each kind that the user likes best.

    A taste that seldom matters is an instruction all the same: a base that answers as is mostly
    liked would be right nearly always, and would not have to read on.
    """
    tastes = self.world.tastes([self.user])[0]
    of_kind: dict[int, list[str]] = collections.defaultdict(list)
    for prompt in self._prompts(4 * count):
      of_kind[int(self.world.kind_rewards(tastes, prompt).argmax())].append(prompt)
    rounds = itertools.zip_longest(*of_kind.values())
    found = [prompt for round_ in rounds for prompt in round_ if prompt is not None][:count]
    return [found[i] for i in self.rng.permutation(count)]

  def _write(self, prompt: str, kind: int) -> str:
    return self.world.write_response(self._choose, prompt, kind)

  def _liked(self, prompt: str) -> int:
    """A kind as the user, who is not quite consistent, would write it."""
    rewards = self.world.kind_rewards(self.world.tastes([self.user])[0], prompt)
    odds = np.exp(self.rationality * (rewards - rewards.max()))
    return int(self.rng.choice(len(odds), p=odds / odds.sum()))

  def _other(self, kind: int, kinds: int) -> int:
    """A random kind that is not this one."""
    other = int(self.rng.integers(kinds - 1))
    return other + (other >= kind)

  def _pair(self, prompt: str) -> tuple[Preference, tuple[str, str]]:
    """Responses of two kinds that read differently, and what each is like."""
    kinds = self.world.kinds(prompt)
    while True:
      kind = int(self.rng.integers(kinds))
      pair = kind, self._other(kind, kinds)
      first, second = (self.world.reading(prompt, k) for k in pair)
      if first != second:
        return Preference(prompt, *(self._write(prompt, k) for k in pair)), (first, second)
