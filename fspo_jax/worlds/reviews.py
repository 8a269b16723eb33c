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

from jaxtyping import Float, Int
import numpy as np

from fspo_jax.preferences import Preference
from fspo_jax.worlds import reviews_descriptions, reviews_text
from fspo_jax.worlds.kinds import check_pair_arguments
from fspo_jax.worlds.reviews_descriptions import COMBINATION_INDEX, Tastes, combination_reward
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS, NAMES, Combination, parse
from fspo_jax.worlds.world import Choose, Split, TopicSplit

_VALUES = np.asarray(COMBINATIONS)
# In how many attributes two combinations differ, int[96, 96].
DIFFERENCES = (_VALUES[:, None] != _VALUES[None]).sum(-1)
# The 13 values of all attributes in a row: where each attribute's begin, and which of them every
# combination has, float[96, 13].
_SIZES = [len(values) for values in ATTRIBUTES.values()]
_STARTS = np.cumsum([0, *_SIZES[:-1]])
_HAS_VALUE = np.zeros((len(COMBINATIONS), sum(_SIZES)))
np.put_along_axis(_HAS_VALUE, _STARTS + _VALUES, 1.0, axis=1)


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


def combination_rewards(tastes: Tastes) -> Int[np.ndarray, " combinations"]:
  """The reward of every combination, in the order of `COMBINATIONS`."""
  return (_VALUES == tastes.preferred) @ np.asarray(tastes.weights)


@dataclasses.dataclass(frozen=True)
class ReviewsWorld:
  """The reviews world; implements `world.World[Tastes]`.

  Attributes:
    seed: Decides which users and which topics are unseen, and nothing else.
    candidates: A preference is the best and the worst of so many random responses.
    label_noise: The probability that a preference's label is swapped.
    min_differences: In how many attributes the two responses differ at least.
    unseen_users: The number of users in the split `unseen`.
    unseen_topics: The share of the topics in the split `unseen`.
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
  unseen_topics: float = 0.1
  phrasings: int = reviews_text.PHRASINGS
  fillers: int = len(reviews_text.FILLERS)
  held_out: tuple[tuple[str, str], ...] = (("sentiment", "negative"), ("humour", "joking"))

  def __post_init__(self) -> None:
    if not 1 <= self.min_differences <= len(ATTRIBUTES):
      raise ValueError(f"min_differences: found {self.min_differences}, expected 1 to 6.")
    check_pair_arguments(self.candidates, self.label_noise)
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
    if not 0 <= self.unseen_topics < 1 or not self.topics("train"):
      raise ValueError(f"unseen_topics: found {self.unseen_topics}, which leaves none to train on.")

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
    values = [
      ATTRIBUTES[NAMES[a]][user.preferred[a]] + str(user.weights[a]) * (user.weights[a] > 1)
      for a in user.cared
    ]
    return "-".join(values) or "indifferent"

  def describe(self, user: Tastes) -> str:
    """The gold description; see `reviews_descriptions.describe`."""
    return reviews_descriptions.describe(user)

  def read(self, description: str) -> Tastes:
    """The user of any description; see `reviews_descriptions.read`."""
    return reviews_descriptions.read(description)

  def vague(self, rng: np.random.Generator, user: Tastes, share: float) -> Tastes:
    """The user without so large a share of the tastes, rounded to whole tastes, at random."""
    if not 0 <= share <= 1:
      raise ValueError(f"share: found {share}, expected 0 to 1.")
    cared = user.cared
    left_out = set(rng.choice(cared, round(share * len(cared)), replace=False).tolist())
    return Tastes(
      tuple(-1 if a in left_out else value for a, value in enumerate(user.preferred)),
      tuple(0 if a in left_out else weight for a, weight in enumerate(user.weights)),
    )

  def addition(
    self, choose: Choose, description: str, prompt: str, chosen: str, rejected: str
  ) -> str | None:
    """A sentence such as "Reviews should also be free of spoilers."; `prompt` does not matter.

    See `reviews_descriptions.addition`.
    """
    del prompt
    return reviews_descriptions.addition(choose, description, chosen, rejected)

  def description_f1(self, user: Tastes, text: str) -> float:
    """F1 of the tastes that any description names, against the user's own; 1 if both are none."""
    named = reviews_descriptions.description_tastes(text)
    own = {a: user.preferred[a] for a in user.cared}
    both = len(named.items() & own.items())
    return 2.0 * both / (len(named) + len(own)) if named or own else 1.0

  def reward(self, user: Tastes, prompt: str, response: str) -> float:
    """The summed weight of the tastes that `response` satisfies; `prompt` does not matter."""
    del prompt
    return float(combination_reward(user, parse(response)))

  @functools.cached_property
  def _topics(self) -> dict[str, tuple[str, ...]]:
    titles = reviews_text.TITLES
    order = np.random.default_rng([self.seed, 1]).permutation(len(titles))
    unseen = set(order[: round(self.unseen_topics * len(titles))].tolist())
    return {
      "train": tuple(title for i, title in enumerate(titles) if i not in unseen),
      "unseen": tuple(title for i, title in enumerate(titles) if i in unseen),
    }

  def topics(self, split: TopicSplit) -> tuple[str, ...]:
    """The titles of invented movies, such as "The Silent Harbor"."""
    if split not in self._topics:
      raise ValueError(f"split: found {split!r}, expected one of {sorted(self._topics)}.")
    return self._topics[split]

  def write_question(self, choose: Choose, topic: str) -> str:
    """A prompt that asks about a movie."""
    return reviews_text.TEMPLATES[choose(len(reviews_text.TEMPLATES))].format(topic)

  def question(self, rng: np.random.Generator) -> str:
    """A random prompt that asks about a random movie."""
    return self._questions(rng, 1)[0]

  def _questions(self, rng: np.random.Generator, count: int) -> list[str]:
    """Draws distinct questions."""
    total = reviews_text.QUESTION_COUNT
    if count > total:
      raise ValueError(f"count: found {count}, expected at most {total}, for distinct questions.")
    return list(map(reviews_text.question, rng.choice(total, count, replace=False).tolist()))

  @property
  def _spacing(self) -> int:
    # Evenly spaced, so that a few fillers show every part of the grammar.
    return len(reviews_text.FILLERS) // self.fillers

  def respond(self, rng: np.random.Generator, combination: Combination) -> str:
    """A random response with the attributes of `combination`."""
    return self._responses(rng, [combination])[0]

  def _responses(self, rng: np.random.Generator, combinations: Sequence[Combination]) -> list[str]:
    count = len(combinations)
    phrasings = rng.integers(self.phrasings, size=(count, reviews_text.SLOTS)).tolist()
    fillers = (rng.integers(self.fillers, size=count) * self._spacing).tolist()
    return list(map(reviews_text.render, combinations, phrasings, fillers))

  def kinds(self, prompt: str) -> int:
    """The 96 combinations of attributes, whatever the prompt."""
    del prompt
    return len(COMBINATIONS)

  def write_response(self, choose: Choose, prompt: str, kind: int) -> str:
    """A response with the attributes of `COMBINATIONS[kind]`; `prompt` does not matter."""
    del prompt
    phrasings = [choose(self.phrasings) for _ in range(reviews_text.SLOTS)]
    combination = COMBINATIONS[kind]
    filler = choose(self.fillers) * self._spacing if reviews_text.is_long(combination) else 0
    return reviews_text.render(combination, phrasings, filler)

  def kind(self, prompt: str, response: str) -> int | None:
    """The index into `COMBINATIONS` of any text; None if it lacks an attribute."""
    del prompt
    return COMBINATION_INDEX.get(parse(response))

  def view(self, prompt: str, kind: int) -> str:
    """The six values: "positive, short, formal, funny, free of spoilers, about the plot"."""
    del prompt
    return reviews_descriptions.view(kind)

  def read_view(self, prompt: str, view: str) -> int | None:
    """The kind whose six values a text names; None if it does not name one of each attribute."""
    del prompt
    return reviews_descriptions.read_view(view)

  def reading(self, prompt: str, kind: int) -> str:
    """The same as `view`."""
    return self.view(prompt, kind)

  def knowledge(self) -> tuple[tuple[str, str], ...]:
    """What every marker says: "positive" is said by "won me over"."""
    return tuple(
      (f"What do the words {marker!r} say?", reviews_descriptions.word(attribute, value))
      for attribute, value, marker in reviews_text.markers()
    )

  def wishes(self, user: Tastes) -> tuple[tuple[str, str], ...]:
    """None: see `World.wishes`."""
    del user
    return ()

  def tastes(self, users: Sequence[Tastes]) -> Float[np.ndarray, "users tastes"]:
    """The weight of each of the 13 values of all attributes."""
    vectors = np.zeros((len(users), sum(_SIZES)))
    for row, user in enumerate(users):
      for attribute in user.cared:
        vectors[row, _STARTS[attribute] + user.preferred[attribute]] = user.weights[attribute]
    return vectors

  def kind_rewards(
    self, tastes: Float[np.ndarray, "*users tastes"], prompt: str
  ) -> Float[np.ndarray, "*users kinds"]:
    """The reward of every combination, in the order of `COMBINATIONS`."""
    del prompt
    return tastes @ _HAS_VALUE.T

  def best_response(self, rng: np.random.Generator, user: Tastes, prompt: str) -> str:
    """A random response that satisfies all tastes of the user; `prompt` does not matter."""
    del prompt
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
    swapped with probability `label_noise`. Both default to the world's own. Raises ValueError for
    a user without tastes, to whom no two differ.
    """
    candidates = self.candidates if candidates is None else candidates
    label_noise = self.label_noise if label_noise is None else label_noise
    check_pair_arguments(candidates, label_noise)
    if not user.cared:
      raise ValueError(f"user: found {user}, expected one with tastes, who prefers something.")
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
        yield self.describe(users[rng.integers(len(users))])
