# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The elix world, "explain a concept to X": learners whose level of expertise differs by subject.

The kinds of response are the five levels that a concept can be explained at (see `elix_text`), and
the reward of a level is minus its distance to the learner's own level in the prompt's subject.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import re
from typing import Literal, TypeVar

from jaxtyping import Float
import numpy as np

from fspo_jax.worlds import elix_text
from fspo_jax.worlds.elix_text import LEVELS
from fspo_jax.worlds.elix_topics import CONCEPTS, SUBJECTS
from fspo_jax.worlds.kinds import KindsWorld, check_pair_arguments
from fspo_jax.worlds.world import Choose, Split, TopicSplit

Variant = Literal["easy", "hard"]

_LEARNERS_PER_LEVEL = 60
_UNSEEN_USERS: dict[Variant, int] = {"easy": 50, "hard": 110}
_WEAK, _STRONG = 0, len(LEVELS) - 1

_LEVEL_INDEX = {name: level for level, name in enumerate(LEVELS)}
_SUBJECT_INDEX = {name: subject for subject, name in enumerate(SUBJECTS)}
_AT_LEVEL = tuple(f"at {'an' if name[0] in 'aeiou' else 'a'} {name} level" for name in LEVELS)
# Levels whose subjects come after, "an expert in law and music", not before, "law: expert".
_AHEAD_INDEX = {
  f"{name}{noun} in": level
  for level, name in enumerate(LEVELS)
  for noun in ("", " level", " student")
}
_ANY_SUBJECT = "|".join(SUBJECTS)
_ANY_LEVEL = "|".join(LEVELS)
# What a description is read by: subjects, levels, and ends of clauses.
_TERM = re.compile(
  rf"\b(?:(?:{'|'.join(_AHEAD_INDEX)})(?= (?:{_ANY_SUBJECT})\b)|{_ANY_SUBJECT}|{_ANY_LEVEL})\b"
  r"|[.;!?]"
)
_WORD_OR_END = re.compile(r"\w+|[.;!?]")
_LEVEL = re.compile(rf"\b(?:{_ANY_LEVEL})\b")

_Member = TypeVar("_Member")


@dataclasses.dataclass(frozen=True, slots=True)
class Learner:
  """A user of the elix world.

  Attributes:
    levels: Their level in each of `SUBJECTS`, an index into `LEVELS`; None where it is unknown.
    number: Tells learners of the same levels apart, where a world has several.

  Raises:
    ValueError: If the levels are not one per subject, or out of range.
  """

  levels: tuple[int | None, ...]
  number: int | None = None

  def __post_init__(self) -> None:
    known = [level for level in self.levels if level is not None]
    if len(self.levels) != len(SUBJECTS) or (
      known and not 0 <= min(known) <= max(known) < len(LEVELS)
    ):
      raise ValueError(
        f"levels: found {self.levels}, expected {len(SUBJECTS)}, each 0 to {len(LEVELS) - 1} or"
        " None."
      )

  @property
  def base(self) -> int | None:
    """The level in most subjects, of several the lowest; None if any subject's is unknown."""
    return None if None in self.levels else max(range(len(LEVELS)), key=self.levels.count)

  @property
  def exceptions(self) -> dict[int, int]:
    """The known levels other than the base, by subject."""
    base = self.base
    return {s: v for s, v in enumerate(self.levels) if v is not None and v != base}


def _learner(base: int | None, exceptions: dict[int, int], number: int | None = None) -> Learner:
  return Learner(tuple(exceptions.get(s, base) for s in range(len(SUBJECTS))), number)


@functools.cache
def population(variant: Variant) -> tuple[Learner, ...]:
  """All users of a variant, in a fixed order.

  easy: 60 learners of each level, the same in all subjects. hard: the 330 learners with one strong
  subject (expert), a weak one (child) and a level between in the others, and the 220 with two
  strong subjects and any lower level in the others.
  """
  if variant == "easy":
    return tuple(
      _learner(level, {}, number)
      for level in range(len(LEVELS))
      for number in range(_LEARNERS_PER_LEVEL)
    )
  subjects = range(len(SUBJECTS))
  return tuple(
    _learner(base, {strong: _STRONG, weak: _WEAK})
    for base in range(_WEAK + 1, _STRONG)
    for strong, weak in itertools.permutations(subjects, 2)
  ) + tuple(
    _learner(base, dict.fromkeys(pair, _STRONG))
    for base in range(_STRONG)
    for pair in itertools.combinations(subjects, 2)
  )


def describe(learner: Learner) -> str:
  """The description: the base level, then the subjects that differ, the strongest first.

  "Explain at a high school level; law and music: expert, physics: child." Without a base level "A
  curious learner; physics: expert.", and of whom nothing is known "A curious learner."
  """
  base, exceptions = learner.base, learner.exceptions
  text = "A curious learner" if base is None else f"Explain {_AT_LEVEL[base]}"
  groups = []
  for level in sorted(set(exceptions.values()), reverse=True):
    subjects = (SUBJECTS[subject] for subject, other in exceptions.items() if other == level)
    groups.append(f"{' and '.join(subjects)}: {LEVELS[level]}")
  return f"{text}; {', '.join(groups)}." if groups else f"{text}."


def read(description: str) -> Learner:
  """The learner of any description: the inverse of `describe` but for `Learner.number`.

  A level belongs to the subjects named before it in its clause ("In law, explain at an expert
  level.") or right after it ("an expert in law and music"); any other is general and holds for all
  subjects that are not named. What is said to be at several levels is unknown, like what is not
  said at all.
  """
  said: dict[int | None, set[int]] = {}
  before: list[int] = []  # Subjects whose level is still to come.
  ahead: int | None = None  # The level of the subjects that come next.
  for term in _TERM.findall(" ".join(_WORD_OR_END.findall(description.lower()))):
    if (subject := _SUBJECT_INDEX.get(term)) is not None:
      if ahead is None:
        before.append(subject)
      else:
        said.setdefault(subject, set()).add(ahead)
    elif term in ".;!?":
      before, ahead = [], None
    elif (level := _LEVEL_INDEX.get(term)) is not None:
      for key in before or [None]:
        said.setdefault(key, set()).add(level)
      before, ahead = [], None
    else:
      ahead = _AHEAD_INDEX[term]
  levels = {key: found.pop() if len(found) == 1 else None for key, found in said.items()}
  base = levels.get(None)
  return Learner(tuple(levels.get(subject, base) for subject in range(len(SUBJECTS))))


def _of_split(splits: dict[str, tuple[_Member, ...]], split: str) -> tuple[_Member, ...]:
  if split not in splits:
    raise ValueError(f"split: found {split!r}, expected one of {sorted(splits)}.")
  return splits[split]


@dataclasses.dataclass(frozen=True)
class ElixWorld(KindsWorld[Learner]):
  """The elix world; implements `world.World[Learner]`.

  Attributes:
    seed: Decides which users and which topics are unseen, and nothing else.
    candidates: A preference is the best and the worst of so many random responses.
    label_noise: The probability that a preference's label is swapped.
    variant: Whose users there are; see `population`.
    unseen_users: The number of users in the split `unseen`; None: 50 if easy, 110 if hard.
    unseen_topics: The share of every subject's concepts that training never sees.

  Raises:
    ValueError: If one of them is out of range, or leaves nothing to train on.
  """

  seed: int = 0
  candidates: int = 4
  label_noise: float = 0.05
  variant: Variant = "hard"
  unseen_users: int | None = None
  unseen_topics: float = 0.2

  def __post_init__(self) -> None:
    check_pair_arguments(self.candidates, self.label_noise)
    if self.variant not in _UNSEEN_USERS:
      raise ValueError(f"variant: found {self.variant!r}, expected one of {list(_UNSEEN_USERS)}.")
    most = len(population(self.variant)) - 1
    if self.unseen_users is not None and not 0 <= self.unseen_users <= most:
      raise ValueError(f"unseen_users: found {self.unseen_users}, expected 0 to {most}.")
    if not 0 <= self.unseen_topics < 1 or not self.topics("train"):
      raise ValueError(
        f"unseen_topics: found {self.unseen_topics}, expected a share that leaves training topics."
      )

  @property
  def name(self) -> str:
    """The domain's name."""
    return "elix"

  @functools.cached_property
  def _users(self) -> dict[str, tuple[Learner, ...]]:
    everyone = population(self.variant)
    count = _UNSEEN_USERS[self.variant] if self.unseen_users is None else self.unseen_users
    order = np.random.default_rng([self.seed, 0]).permutation(len(everyone))
    unseen = set(order[:count].tolist())
    return {
      "train": tuple(user for i, user in enumerate(everyone) if i not in unseen),
      "unseen": tuple(user for i, user in enumerate(everyone) if i in unseen),
    }

  @functools.cached_property
  def _topics(self) -> dict[str, tuple[str, ...]]:
    rng = np.random.default_rng([self.seed, 1])
    train: list[str] = []
    unseen: list[str] = []
    for concepts in CONCEPTS.values():
      held_out = set(rng.permutation(len(concepts))[: round(self.unseen_topics * len(concepts))])
      for i, concept in enumerate(concepts):
        (unseen if i in held_out else train).append(concept)
    return {"train": tuple(train), "unseen": tuple(unseen)}

  def users(self, split: Split) -> tuple[Learner, ...]:
    """All users of the split `train` or `unseen`; ValueError for any other."""
    return _of_split(self._users, split)

  def topics(self, split: TopicSplit) -> tuple[str, ...]:
    """The concepts of a split."""
    return _of_split(self._topics, split)

  def user_id(self, user: Learner) -> str:
    """The base level and what differs: `high-school-law4-physics0`, or `college-017` if easy."""
    base = user.base
    parts = ["curious" if base is None else LEVELS[base].replace(" ", "-")]
    parts += [f"{SUBJECTS[subject]}{level}" for subject, level in user.exceptions.items()]
    if user.number is not None:
      parts.append(f"{user.number:03d}")
    return "-".join(parts)

  def describe(self, user: Learner) -> str:
    """The gold description; see `describe`."""
    return describe(user)

  def read(self, description: str) -> Learner:
    """The learner of any description; see `read`."""
    return read(description)

  def vague(self, rng: np.random.Generator, user: Learner, share: float) -> Learner:
    """The learner with the base level and every exception left out with probability `share`.

    An exception that is left out falls back to the base level; without that, to unknown.
    """
    base = None if rng.random() < share else user.base
    kept = {s: level for s, level in user.exceptions.items() if rng.random() >= share}
    return _learner(base, kept, user.number)

  def addition(
    self, choose: Choose, description: str, prompt: str, chosen: str, rejected: str
  ) -> str | None:
    """The level of `chosen`, in general: who lacks a level in one subject lacks the base level.

    None if the description says the level in the prompt's subject (even if it says two, which no
    sentence can mend), or the responses do not differ in kind.
    """
    del choose  # There is one wording.
    subject = elix_text.topic(prompt)[1]
    level = self.kind(prompt, chosen)
    if level is None or level == self.kind(prompt, rejected):
      return None
    if read(description).levels[subject] is not None:
      return None
    sentence = f"Explain {_AT_LEVEL[level]}."
    return sentence if read(f"{description} {sentence}").levels[subject] == level else None

  def description_f1(self, user: Learner, text: str) -> float:
    """F1 of the (subject, level) pairs that a description names, against the user's own."""
    own, named = (
      {(subject, level) for subject, level in enumerate(learner.levels) if level is not None}
      for learner in (user, read(text))
    )
    return 2.0 * len(own & named) / (len(own) + len(named)) if own or named else 1.0

  def write_question(self, choose: Choose, topic: str) -> str:
    """A question about a concept; ValueError if `topic` is none."""
    return elix_text.write_question(choose, topic)

  def kinds(self, prompt: str) -> int:
    """Five, the levels."""
    del prompt
    return len(LEVELS)

  def write_response(self, choose: Choose, prompt: str, kind: int) -> str:
    """An explanation of the prompt's concept at a level."""
    return elix_text.write_response(choose, elix_text.topic(prompt)[0], kind)

  def kind(self, prompt: str, response: str) -> int | None:
    """The level of any text; see `elix_text.read_level`."""
    del prompt
    return elix_text.read_level(response)

  def view(self, prompt: str, kind: int) -> str:
    """Whom a level is for: `for a middle school student`."""
    del prompt
    whom = LEVELS[kind]
    return {"child": "for a child", "expert": "for an expert"}.get(whom, f"for a {whom} student")

  def read_view(self, prompt: str, view: str) -> int | None:
    """The level that a text names; None if it names none, or several."""
    del prompt
    found = set(_LEVEL.findall(" ".join(_WORD_OR_END.findall(view.lower()))))
    return _LEVEL_INDEX[found.pop()] if len(found) == 1 else None

  def reading(self, prompt: str, kind: int) -> str:
    """The prompt's subject and the level: "physics: expert"."""
    return f"{SUBJECTS[elix_text.topic(prompt)[1]]}: {LEVELS[kind]}"

  def knowledge(self) -> tuple[tuple[str, str], ...]:
    """Which subject every concept belongs to, asked by itself and after any question about it.

    The latter is for concepts that are met in no other question: what a small model knows of them
    by themselves it does not know of them in a question, even of one that names the subject.
    """
    found = []
    for subject, concepts in CONCEPTS.items():
      for concept in concepts:
        found.append((f"Which subject does {concept} belong to?", subject))
        for template in range(elix_text.QUESTION_TEMPLATES):
          question = elix_text.write_question(lambda _, chosen=template: chosen, concept)
          found.append((f"{question} Which subject is that?", subject))
    return tuple(found)

  def wishes(self, user: Learner) -> tuple[tuple[str, str], ...]:
    """At what level every training concept should be explained, whose subject is named."""
    found = []
    for concept in self.topics("train"):
      subject = elix_text.topic(concept)[1]
      if (level := user.levels[subject]) is not None:
        question = f"At what level should {concept} in {SUBJECTS[subject]} be explained?"
        found.append((question, LEVELS[level]))
    return tuple(found)

  def tastes(self, users: Sequence[Learner]) -> Float[np.ndarray, "users subjects"]:
    """The level of each user in each subject; nan where it is unknown."""
    return np.array([user.levels for user in users], np.float64).reshape(-1, len(SUBJECTS))

  def kind_rewards(
    self, tastes: Float[np.ndarray, "*users subjects"], prompt: str
  ) -> Float[np.ndarray, "*users levels"]:
    """Minus the distance of every level to the user's in the prompt's subject; 0 if unknown."""
    own = tastes[..., elix_text.topic(prompt)[1], None]
    return -np.nan_to_num(np.abs(np.arange(len(LEVELS)) - own))
