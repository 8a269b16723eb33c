# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The reviews world: users with tastes about how the review of an invented movie is written.

A user cares about some of the six attributes of a response (see `reviews_text`), and about one of
them above all. The reward of a response is the summed weight of the tastes that it satisfies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import itertools

from jaxtyping import Int
import numpy as np

from fspo_jax.preferences import Preference
from fspo_jax.worlds import reviews_text
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS, NAMES, Combination, Traits, parse
from fspo_jax.worlds.world import Split

COMBINATION_INDEX: dict[Combination, int] = {c: i for i, c in enumerate(COMBINATIONS)}
_VALUES = np.asarray(COMBINATIONS)
# In how many attributes two combinations differ, int[96, 96].
DIFFERENCES = (_VALUES[:, None] != _VALUES[None]).sum(-1)

# How a description names each value: one fixed wording.
_WORDINGS: tuple[tuple[str, ...], ...] = (
  ("positive", "negative"),
  ("short", "long"),
  ("formal", "casual"),
  ("funny", "serious"),
  ("full of spoilers", "free of spoilers"),
  ("about the acting", "about the plot", "about the visuals"),
)
_WORDING_READER = reviews_text.PhraseReader(
  {a: tuple((wording,) for wording in wordings) for a, wordings in enumerate(_WORDINGS)}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Tastes:
  """A user of the reviews world: the preferred value of each attribute and how much it counts.

  Attributes:
    preferred: One value index per attribute, -1 where the user does not care.
    weights: One weight per attribute, 0 where the user does not care. Every
      user of the world has one weight of 2, the others are 1.

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
    if not fits or not any(self.weights):
      raise ValueError(
        f"Tastes need {len(ATTRIBUTES)} values, each with a positive weight or -1 with weight 0,"
        f" and care about something; found {self.preferred=}, {self.weights=}."
      )

  @property
  def cared(self) -> tuple[int, ...]:
    """The attributes the user cares about, in order."""
    return tuple(a for a, weight in enumerate(self.weights) if weight)


def enumerate_tastes(cared_counts: Sequence[int]) -> tuple[Tastes, ...]:
  """All users who care about so many attributes: weight 1 each, exactly one of them weight 2."""
  tastes = []
  for count in cared_counts:
    for cared in itertools.combinations(range(len(ATTRIBUTES)), count):
      for values in itertools.product(*(range(len(ATTRIBUTES[NAMES[a]])) for a in cared)):
        for above_all in cared:
          preferred = [-1] * len(ATTRIBUTES)
          weights = [0] * len(ATTRIBUTES)
          for attribute, value in zip(cared, values, strict=True):
            preferred[attribute] = value
            weights[attribute] = 2 if attribute == above_all else 1
          tastes.append(Tastes(tuple(preferred), tuple(weights)))
  return tuple(tastes)


@functools.cache
def population() -> tuple[Tastes, ...]:
  """The 3,240 users of the world, who care about 3, 4 or 5 attributes, in a fixed order."""
  return enumerate_tastes((3, 4, 5))


def combination_reward(tastes: Tastes, traits: Traits) -> int:
  """The summed weight of the satisfied tastes; an attribute that is None satisfies none."""
  return sum(
    weight
    for weight, preferred, value in zip(tastes.weights, tastes.preferred, traits, strict=True)
    if weight and preferred == value
  )


def combination_rewards(tastes: Tastes) -> Int[np.ndarray, " combinations"]:
  """The reward of every combination, in the order of `COMBINATIONS`."""
  return (_VALUES == tastes.preferred) @ np.asarray(tastes.weights)


def describe(tastes: Tastes) -> str:
  """The gold description: the weightiest taste first, then the others in their fixed order."""
  above_all = max(tastes.cared, key=lambda a: tastes.weights[a])
  wording = {a: _WORDINGS[a][tastes.preferred[a]] for a in tastes.cared}
  text = f"Reviews should be, above all, {wording.pop(above_all)}"
  if wording:
    text += f"; also: {', '.join(wording.values())}"
  return text + "."


def description_tastes(text: str) -> dict[int, int]:
  """Reads any description: the preferred value of every attribute it names unambiguously."""
  return _WORDING_READER.unambiguous(reviews_text.normalise(text))


def parse_description(text: str) -> Tastes | None:
  """The inverse of `describe`; None if `text` is anything else (but for case and punctuation)."""
  words = reviews_text.normalise(text)
  traits = _WORDING_READER.find(words)
  values = dict(traits)
  if not values:
    return None
  tastes = Tastes(
    tuple(values.get(a, -1) for a in range(len(ATTRIBUTES))),
    tuple((1 + (a == traits[0][0])) * (a in values) for a in range(len(ATTRIBUTES))),
  )
  return tastes if reviews_text.normalise(describe(tastes)) == words else None


@dataclasses.dataclass(frozen=True)
class ReviewsWorld:
  """The reviews world; implements `world.World[Tastes]`.

  Attributes:
    seed: Decides which users are unseen, and nothing else.
    candidates: A preference is the best and the worst of so many random responses.
    label_noise: The probability that a preference's label is swapped.
    min_differences: In how many attributes the two responses differ at least.
    unseen_users: The number of users in the split `unseen`.
    phrasings: How many of the `PHRASINGS` wordings of each attribute's value are used.
    fillers: How many of the `FILLERS` sentences make responses long.
    held_out: The (attribute, value) pairs that no user of the splits `train`, `unseen` and
      `curriculum` prefers together; if empty, none are held out.

  Raises:
    ValueError: If one of them is out of range.
  """

  seed: int = 0
  candidates: int = 4
  label_noise: float = 0.05
  min_differences: int = 2
  unseen_users: int = 500
  phrasings: int = reviews_text.PHRASINGS
  fillers: int = len(reviews_text.FILLERS)
  held_out: tuple[tuple[str, str], ...] = (("sentiment", "negative"), ("humour", "joking"))

  def __post_init__(self) -> None:
    if not 1 <= self.min_differences <= len(ATTRIBUTES):
      raise ValueError(f"min_differences: found {self.min_differences}, expected 1 to 6.")
    _check_pair_arguments(self.candidates, self.label_noise)
    for name, found, most in (
      ("phrasings", self.phrasings, reviews_text.PHRASINGS),
      ("fillers", self.fillers, len(reviews_text.FILLERS)),
    ):
      if not 1 <= found <= most:
        raise ValueError(f"{name}: found {found}, expected 1 to {most}.")
    for attribute, value in self.held_out:
      if value not in ATTRIBUTES.get(attribute, ()):
        raise ValueError(f"held_out: found {(attribute, value)}, expected one of {ATTRIBUTES}.")
    if self.unseen_users < 0 or not self.users("train"):
      raise ValueError(f"unseen_users: found {self.unseen_users}, which leaves none to train on.")

  @property
  def name(self) -> str:
    """The domain's name."""
    return "reviews"

  def _is_held_out(self, tastes: Tastes) -> bool:
    return bool(self.held_out) and all(
      tastes.preferred[NAMES.index(attribute)] == ATTRIBUTES[attribute].index(value)
      for attribute, value in self.held_out
    )

  @functools.cached_property
  def _splits(self) -> dict[str, tuple[Tastes, ...]]:
    others = [tastes for tastes in population() if not self._is_held_out(tastes)]
    order = np.random.default_rng([self.seed, 0]).permutation(len(others))
    unseen = set(order[: self.unseen_users].tolist())
    return {
      "train": tuple(t for i, t in enumerate(others) if i not in unseen),
      "unseen": tuple(t for i, t in enumerate(others) if i in unseen),
      "heldout_combinations": tuple(t for t in population() if self._is_held_out(t)),
      "curriculum": tuple(
        t for t in enumerate_tastes((len(ATTRIBUTES),)) if not self._is_held_out(t)
      ),
    }

  def users(self, split: Split) -> tuple[Tastes, ...]:
    """All users of a split. Those of `curriculum` care about all six attributes."""
    if split not in self._splits:
      raise ValueError(f"split: found {split!r}, expected one of {sorted(self._splits)}.")
    return self._splits[split]

  def user_id(self, user: Tastes) -> str:
    """The preferred values, the weightiest with its weight: `positive2-short-plot`."""
    return "-".join(
      ATTRIBUTES[NAMES[a]][user.preferred[a]] + str(user.weights[a]) * (user.weights[a] > 1)
      for a in user.cared
    )

  def describe(self, user: Tastes) -> str:
    """The gold description; see `describe`."""
    return describe(user)

  def reward(self, user: Tastes, prompt: str, response: str) -> float:
    """The summed weight of the tastes that `response` satisfies; `prompt` does not matter."""
    del prompt
    return float(combination_reward(user, parse(response)))

  def description_f1(self, user: Tastes, text: str) -> float:
    """F1 of the tastes that any description names, against the user's own."""
    named = description_tastes(text)
    own = {a: user.preferred[a] for a in user.cared}
    both = len(named.items() & own.items())
    return 2.0 * both / (len(named) + len(own))

  def question(self, rng: np.random.Generator) -> str:
    """A random prompt that asks about a random movie."""
    return self._questions(rng, 1)[0]

  def _questions(self, rng: np.random.Generator, count: int) -> list[str]:
    """Draws distinct questions."""
    total = reviews_text.QUESTION_COUNT
    if count > total:
      raise ValueError(f"count: found {count}, expected at most {total}, for distinct questions.")
    return list(map(reviews_text.question, rng.choice(total, count, replace=False).tolist()))

  def respond(self, rng: np.random.Generator, combination: Combination) -> str:
    """A random response with the attributes of `combination`."""
    return self._responses(rng, [combination])[0]

  def _responses(self, rng: np.random.Generator, combinations: Sequence[Combination]) -> list[str]:
    count = len(combinations)
    phrasings = rng.integers(self.phrasings, size=(count, reviews_text.SLOTS)).tolist()
    # Evenly spaced, so that a few fillers show every part of the grammar.
    spacing = len(reviews_text.FILLERS) // self.fillers
    fillers = (rng.integers(self.fillers, size=count) * spacing).tolist()
    return list(map(reviews_text.render, combinations, phrasings, fillers))

  def best_response(self, rng: np.random.Generator, user: Tastes) -> str:
    """A random response that satisfies all tastes of the user."""
    rewards = combination_rewards(user)
    best = rng.choice(np.flatnonzero(rewards == rewards.max()))
    return self.respond(rng, COMBINATIONS[best])

  def sample_pairs(
    self,
    rng: np.random.Generator,
    user: Tastes,
    count: int,
    *,
    candidates: int | None = None,
    label_noise: float | None = None,
  ) -> Int[np.ndarray, "count 2"]:
    """Draws (chosen, rejected) pairs of combinations, as indices into `COMBINATIONS`.

    The best and the worst of `candidates` independent uniform combinations, ties at random; drawn
    anew if their rewards are equal or they differ in fewer than `min_differences` attributes; then
    swapped with probability `label_noise`. Both default to the world's own.
    """
    candidates = self.candidates if candidates is None else candidates
    label_noise = self.label_noise if label_noise is None else label_noise
    _check_pair_arguments(candidates, label_noise)
    rewards = combination_rewards(user).astype(np.float64)
    accepted: list[np.ndarray] = []
    missing = count
    while missing > 0:
      drawn = rng.integers(len(COMBINATIONS), size=(missing * 3 // 2 + 4, candidates))
      # Rewards are whole numbers, so less than one on top only breaks ties. The same noise may
      # serve best and worst: unless the pair is refused, the two ties share no candidate.
      scores = rewards[drawn] + rng.random(drawn.shape)
      rows = np.arange(len(drawn))
      best = drawn[rows, scores.argmax(1)]
      worst = drawn[rows, scores.argmin(1)]
      keep = (rewards[best] > rewards[worst]) & (DIFFERENCES[best, worst] >= self.min_differences)
      accepted.append(np.stack([best, worst], 1)[keep][:missing])
      missing -= len(accepted[-1])
    pairs = np.concatenate(accepted) if accepted else np.empty((0, 2), np.int64)
    swapped = rng.random(count) < label_noise
    return np.where(swapped[:, None], pairs[:, ::-1], pairs)

  def preferences(
    self,
    rng: np.random.Generator,
    user: Tastes,
    count: int,
    *,
    candidates: int | None = None,
    label_noise: float | None = None,
  ) -> list[Preference]:
    """Draws preferences with distinct questions; see `sample_pairs`."""
    pairs = self.sample_pairs(rng, user, count, candidates=candidates, label_noise=label_noise)
    responses = self._responses(rng, [COMBINATIONS[i] for i in pairs.ravel().tolist()])
    return list(map(Preference, self._questions(rng, count), responses[::2], responses[1::2]))

  def corpus(self, rng: np.random.Generator, count: int) -> Iterator[str]:
    """Draws `count` texts: a question, a response, a training user's description, and again."""
    users = self.users("train")
    for i in range(count):
      if i % 3 == 0:
        yield self.question(rng)
      elif i % 3 == 1:
        yield self.respond(rng, COMBINATIONS[rng.integers(len(COMBINATIONS))])
      else:
        yield describe(users[rng.integers(len(users))])


def _check_pair_arguments(candidates: int, label_noise: float) -> None:
  if candidates < 2:
    raise ValueError(f"candidates: found {candidates}, expected at least 2, for a pair.")
  if not 0 <= label_noise < 0.5:
    raise ValueError(f"label_noise: found {label_noise}, expected at least 0 and less than 0.5.")
