# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The roleplay world: personas who weigh the views that an open-ended question can be answered by.

A question asks how to reach an everyday goal. A response proposes one of the six views that the
question offers, such as an evening class, and every view has features, such as social and paid (see
`roleplay_text`). A persona cares about some of the six dimensions of features, and about one of
them above all. The reward of a response is the weighted sum of its view's features, whether the
question offers the view or not.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools

from jaxtyping import Float
import numpy as np

from fspo_jax.worlds import reviews_text, roleplay_text, roleplay_topics
from fspo_jax.worlds.kinds import KindsWorld, check_pair_arguments
from fspo_jax.worlds.roleplay_text import DIMENSIONS, TRAITS
from fspo_jax.worlds.roleplay_topics import GOALS
from fspo_jax.worlds.world import Choose, Split, TopicSplit

PERSONAS = 1500

# The words of a description that tell tastes: traits, and the one that comes above all.
_ABOVE_ALL = len(TRAITS)
_TRAIT_READER = reviews_text.PhraseReader(
  {d: tuple((word,) for word in words) for d, words in enumerate(TRAITS)}
  | {_ABOVE_ALL: (("above all",),)}
)


@dataclasses.dataclass(frozen=True, slots=True)
class Persona:
  """A user of the roleplay world. Two personas are equal if they have the same tastes.

  Attributes:
    weights: On each of `DIMENSIONS`, what its features count: 0 where the persona does not care,
      +-1, or +-2 above all. Every persona of the world has one of +-2.
    name: For colour, like all that follows; a persona read from a description has none of it.
      Demographics never decide tastes, and tastes never decide demographics: no stereotypes.
    age: In years.
    job: With an article.
    home: With a preposition.
    interest: What the persona likes.

  Raises:
    ValueError: If the weights are not one for each dimension, -2 to 2.
  """

  weights: tuple[int, ...]
  name: str = dataclasses.field(default="Somebody", compare=False)
  age: int | None = dataclasses.field(default=None, compare=False)
  job: str = dataclasses.field(default="", compare=False)
  home: str = dataclasses.field(default="", compare=False)
  interest: str = dataclasses.field(default="", compare=False)

  def __post_init__(self) -> None:
    if len(self.weights) != len(DIMENSIONS) or not -2 <= min(self.weights) <= max(self.weights) < 3:
      raise ValueError(f"weights: found {self.weights}, expected {len(DIMENSIONS)} of -2 to 2.")

  @property
  def traits(self) -> dict[str, int]:
    """From the word for each taste to how much it counts, 1 or 2; the weightiest comes first."""
    named = {TRAITS[d][weight > 0]: abs(weight) for d, weight in enumerate(self.weights) if weight}
    return dict(sorted(named.items(), key=lambda item: -item[1]))

  @property
  def about(self) -> str:
    """A sentence on the demographics."""
    if not self.job:
      return f"{self.name}."
    return f"{self.name}, {self.age}, {self.job} {self.home} who likes {self.interest}."


@functools.cache
def population() -> tuple[Persona, ...]:
  """The 1,500 personas of the world, with 2, 3 or 4 tastes, in a fixed order.

  A fixed random choice of all 1,560 that have one taste above all and the others equal.
  """
  weights = []
  for count in (2, 3, 4):
    for cared in itertools.combinations(range(len(DIMENSIONS)), count):
      for signs in itertools.product((1, -1), repeat=count):
        for above_all in cared:
          sign = dict(zip(cared, signs, strict=True))
          weights.append(
            tuple(sign.get(d, 0) * (1 + (d == above_all)) for d in range(len(DIMENSIONS)))
          )
  order = np.random.default_rng(0).permutation(len(weights))[:PERSONAS]
  return tuple(_persona(index, weights[i]) for index, i in enumerate(order.tolist()))


def _persona(index: int, weights: tuple[int, ...]) -> Persona:
  """Gives the persona of an index its demographics, whatever the tastes are."""
  rng = np.random.default_rng([1, index])
  tables = (
    roleplay_topics.NAMES,
    roleplay_topics.JOBS,
    roleplay_topics.HOMES,
    roleplay_topics.INTERESTS,
  )
  name, job, home, interest = (table[rng.integers(len(table))] for table in tables)
  return Persona(weights, name, int(rng.integers(20, 66)), job, home, interest)


def _named(description: str) -> dict[int, set[int]]:
  """The weights that any text gives to each dimension it says anything of."""
  named: dict[int, set[int]] = {}
  weight = 1
  for dimension, value in _TRAIT_READER.find(reviews_text.normalise(description)):
    if dimension == _ABOVE_ALL:
      weight = 2
    else:
      named.setdefault(dimension, set()).add(weight if value else -weight)
      weight = 1
  return named


def _weights(named: dict[int, set[int]]) -> tuple[int, ...]:
  """One weight for each dimension, 0 where both signs are named; of one sign the weightiest."""
  weights = [0] * len(DIMENSIONS)
  for dimension, found in named.items():
    if min(found) * max(found) > 0:
      weights[dimension] = max(found, key=abs)
  return tuple(weights)


@dataclasses.dataclass(frozen=True)
class RoleplayWorld(KindsWorld[Persona]):
  """The roleplay world; implements `world.World[Persona]`. It has the splits `train` and `unseen`.

  A prompt is about a goal of `roleplay_topics`; methods that take one raise ValueError if it names
  none, or several.

  Attributes:
    seed: Decides which users and which topics are unseen, and nothing else.
    candidates: A preference is the best and the worst of so many random responses.
    label_noise: The probability that a preference's label is swapped.
    unseen_users: The number of users in the split `unseen`, of 1,500.
    unseen_topics: The share of the topics in the split `unseen`.

  Raises:
    ValueError: If one of them is out of range.
  """

  seed: int = 0
  candidates: int = 4
  label_noise: float = 0.05
  unseen_users: int = 300
  unseen_topics: float = 0.2

  def __post_init__(self) -> None:
    check_pair_arguments(self.candidates, self.label_noise)
    if not 0 <= self.unseen_users < PERSONAS:
      raise ValueError(
        f"unseen_users: found {self.unseen_users}, expected 0 to {PERSONAS - 1}, to leave some to"
        " train on."
      )
    if not 0 <= self.unseen_topics < 1 or not self.topics("train"):
      raise ValueError(
        f"unseen_topics: found {self.unseen_topics}, expected a share of 0 or more that leaves some"
        f" of the {len(GOALS)} topics to train on."
      )

  @property
  def name(self) -> str:
    """The domain's name."""
    return "roleplay"

  @functools.cached_property
  def _users(self) -> dict[str, tuple[Persona, ...]]:
    unseen = _draw([self.seed, 0], PERSONAS, self.unseen_users)
    return {
      "train": tuple(user for i, user in enumerate(population()) if i not in unseen),
      "unseen": tuple(user for i, user in enumerate(population()) if i in unseen),
    }

  @functools.cached_property
  def _topics(self) -> dict[str, tuple[str, ...]]:
    unseen = _draw([self.seed, 1], len(GOALS), round(self.unseen_topics * len(GOALS)))
    return {
      "train": tuple(goal for i, goal in enumerate(GOALS) if i not in unseen),
      "unseen": tuple(goal for i, goal in enumerate(GOALS) if i in unseen),
    }

  def users(self, split: Split) -> tuple[Persona, ...]:
    """All users of a split, `train` or `unseen`."""
    if split not in self._users:
      raise ValueError(f"split: found {split!r}, expected one of {sorted(self._users)}.")
    return self._users[split]

  def user_id(self, user: Persona) -> str:
    """The traits, the weightiest first and with its weight: `outgoing2-thrifty-handy`."""
    traits = [word + str(weight) * (weight > 1) for word, weight in user.traits.items()]
    return "-".join(traits) or "indifferent"

  def describe(self, user: Persona) -> str:
    """Demographics and traits, as '... who likes chess. Above all outgoing; also thrifty.'."""
    above_all = [word for word, weight in user.traits.items() if weight > 1]
    others = [word for word, weight in user.traits.items() if weight == 1]
    parts = [f"above all {word}" for word in above_all]
    parts += [f"also {', '.join(others)}"] * bool(others)
    traits = "; ".join(parts)
    return f"{user.about} {traits[0].upper()}{traits[1:]}." if traits else user.about

  def read(self, description: str) -> Persona:
    """Reads the trait words of any text: 2 for the first one after 'above all', 1 for others.

    A dimension of which both traits are named counts 0. Demographics are not read.
    """
    return Persona(_weights(_named(description)))

  def vague(self, rng: np.random.Generator, user: Persona, share: float) -> Persona:
    """The same persona, who has lost each taste with probability `share`."""
    kept = (rng.random(len(user.weights)) >= share).tolist()
    weights = tuple(w * keep for w, keep in zip(user.weights, kept, strict=True))
    return dataclasses.replace(user, weights=weights)

  def addition(
    self, choose: Choose, description: str, prompt: str, chosen: str, rejected: str
  ) -> str | None:
    """'They are also adventurous.': a trait of which the description says nothing, not even both.

    Picked among those that tell the two responses apart, where the description does not.
    """
    offer = roleplay_text.offer(prompt)
    better, worse = offer.read(chosen), offer.read(rejected)
    if better is None or worse is None:
      return None
    named = _named(description)
    difference = offer.features[:, better] - offer.features[:, worse]
    if np.dot(_weights(named), difference):
      return None
    traits = [
      TRAITS[d][by > 0] for d, by in enumerate(difference.tolist()) if by and d not in named
    ]
    return f"They are also {traits[choose(len(traits))]}." if traits else None

  def description_f1(self, user: Persona, text: str) -> float:
    """F1 of the traits that a text names, whatever their weights; 1 if neither has any."""
    own, named = user.traits.keys(), self.read(text).traits.keys()
    return 2.0 * len(own & named) / (len(own) + len(named)) if own or named else 1.0

  def topics(self, split: TopicSplit) -> tuple[str, ...]:
    """The goals of a split, `train` or `unseen`."""
    if split not in self._topics:
      raise ValueError(f"split: found {split!r}, expected one of {sorted(self._topics)}.")
    return self._topics[split]

  def write_question(self, choose: Choose, topic: str) -> str:
    """Asks how to reach the goal `topic`."""
    return roleplay_topics.question(choose(roleplay_topics.TEMPLATES), topic)

  def kinds(self, prompt: str) -> int:
    """How many views the prompt offers."""
    return len(roleplay_text.offer(prompt).views)

  def write_response(self, choose: Choose, prompt: str, kind: int) -> str:
    """A response that proposes one of the prompt's views."""
    offer = roleplay_text.offer(prompt)
    return roleplay_text.write(choose, offer.goal, offer.views[kind])

  def kind(self, prompt: str, response: str) -> int | None:
    """The one of the prompt's views that any text names; None if it names none, or several."""
    return roleplay_text.offer(prompt).read(response)

  def view(self, prompt: str, kind: int) -> str:
    """The plain name of a view, as 'take an evening class'."""
    return roleplay_text.offer(prompt).views[kind].wordings[0]

  def read_view(self, prompt: str, view: str) -> int | None:
    """The same as `kind`: a response names its view by any of the wordings."""
    return self.kind(prompt, view)

  def reading(self, prompt: str, kind: int) -> str:
    """Who likes each of the view's features: "outgoing, lavish, traditional, organised"."""
    return _likers(roleplay_text.offer(prompt).views[kind])

  def knowledge(self) -> tuple[tuple[str, str], ...]:
    """Who likes every way to go about a goal, by any of its wordings."""
    return tuple(
      (f"Who likes to {way}?", _likers(view))
      for view in roleplay_text.VIEWS
      for way in view.wordings
    )

  def wishes(self, user: Persona) -> tuple[tuple[str, str], ...]:
    """Every way, by any of its wordings, that the persona likes best of all."""
    rewards = self._of_all_views(user)
    return tuple(
      ("What would they like to do?", way)
      for view, reward in zip(roleplay_text.VIEWS, rewards, strict=True)
      if reward == rewards.max()
      for way in view.wordings
    )

  def tastes(self, users: Sequence[Persona]) -> Float[np.ndarray, "users tastes"]:
    """The weights."""
    weights = [user.weights for user in users]
    return np.asarray(weights, np.float64).reshape(len(weights), len(DIMENSIONS))

  def kind_rewards(
    self, tastes: Float[np.ndarray, "*users tastes"], prompt: str
  ) -> Float[np.ndarray, "*users kinds"]:
    """The weighted sum of the features of every view that the prompt offers."""
    return tastes @ roleplay_text.offer(prompt).features

  def reward(self, user: Persona, prompt: str, response: str) -> float:
    """The weighted sum of the features of the view that a response names, offered or not.

    Views make sense for any goal, and a prompt does not say which ones personas are shown. Of a
    text that names none, or several, 1 below the worst of all.
    """
    del prompt
    view = roleplay_text.read(response)
    if view is None:
      return float(self._of_all_views(user).min() - 1)
    return float(np.dot(user.weights, view.features))

  def best_response(self, rng: np.random.Generator, user: Persona, prompt: str) -> str:
    """A random response of the views that the user likes best, offered or not."""
    rewards = self._of_all_views(user)
    view = roleplay_text.VIEWS[rng.choice(np.flatnonzero(rewards == rewards.max()))]
    goal = roleplay_text.offer(prompt).goal
    return roleplay_text.write(lambda n: int(rng.integers(n)), goal, view)

  def _of_all_views(self, user: Persona) -> Float[np.ndarray, " views"]:
    return np.asarray([np.dot(user.weights, view.features) for view in roleplay_text.VIEWS])


def _likers(view: roleplay_text.View) -> str:
  """The traits that a view's features please."""
  return ", ".join(TRAITS[d][value > 0] for d, value in enumerate(view.features) if value)


def _draw(seed: list[int], total: int, count: int) -> set[int]:
  """So many distinct numbers less than `total`."""
  return set(np.random.default_rng(seed).permutation(total)[:count].tolist())
