# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The language of the roleplay world: ways to reach a goal, written as responses and read back.

A response proposes one view, a way to go about the goal, and says three things about it that
are true of the view, each of them a feature with a sign:

  "To learn to cook, I would take an evening class. I like that good company comes with it, it
  costs something extra and there is a clear plan. Give it a month and see how it goes."

So a reader can learn what a view is like from what is said of it. The view alone is its kind:
`Offer.read` finds the thing that it is about (the evening class), and is the inverse of `write`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re

import numpy as np

from fspo_jax.worlds import reviews_text
from fspo_jax.worlds.roleplay_topics import goal_of, phrases
from fspo_jax.worlds.world import Choose

# The six dimensions of views and of tastes: what -1 and +1 mean of a view ...
DIMENSIONS: dict[str, tuple[str, str]] = {
  "company": ("alone", "social"),
  "cost": ("paid", "free"),
  "pace": ("relaxed", "active"),
  "medium": ("screen", "hands-on"),
  "novelty": ("familiar", "new"),
  "planning": ("spontaneous", "organised"),
}
# ... and the word for a person who likes it that way.
TRAITS: tuple[tuple[str, str], ...] = (
  ("solitary", "outgoing"),
  ("lavish", "thrifty"),
  ("easygoing", "energetic"),
  ("digital", "handy"),
  ("traditional", "adventurous"),
  ("spontaneous", "organised"),
)

# A prompt offers so many of the views.
KINDS = 6
# A response says so many of its view's features.
_STATED = 3

# What is said of a view that has the feature. All features have as many words to say, half of the
# clauses four words long and half of them five, so that length tells nothing.
_CLAUSES: dict[str, tuple[str, ...]] = {
  feature: phrases(table)
  for feature, table in {
    "social": """you will meet people | good company comes with it | you share it with others
      | others will join you | there is always somebody around | it brings people together
      | you can laugh together | you get to know people""",
    "alone": """you can be alone | it is just for you | nobody else will come along
      | you have some privacy | no crowd will disturb you | you work by yourself
      | you are left in peace | it needs nobody else""",
    "free": """it costs you nothing | you spend nothing on it | no money changes hands
      | it is free of charge | there is never a bill | your wallet stays shut
      | you keep your money | everybody gets it for free""",
    "paid": """it is worth paying | you get what you pay | it is a small luxury
      | money buys real quality | the price is well spent | you treat yourself nicely
      | it feels like a treat | it costs something extra""",
    "active": """it keeps you moving | your heart will beat faster | you are on your feet
      | it gives you energy | there is plenty of action | it makes you sweat
      | your whole body wakes up | you stay very active""",
    "relaxed": """it is calm throughout | you can take it slowly | it lets you lie back
      | nothing is in a rush | there is no hurry | it leaves you quite relaxed
      | you can simply rest | it is very gentle""",
    "hands-on": """you use your hands | you work with your hands | you get to touch things
      | your hands stay busy | you hold something real | it is practical all along
      | your fingers learn quickly | you can really handle it""",
    "screen": """a screen is enough | it happens on a screen | you only need a phone
      | your laptop does it | it works on any device | everything is on screen
      | you just click along | you can stay behind screens""",
    "new": """it is something new | you will surprise yourself there | few people have tried it
      | it is quite unusual | it feels like an adventure | you discover fresh things
      | you see a new side | it breaks old habits""",
    "familiar": """it is well tested | people have always done it | you know what comes next
      | it feels quite familiar | it is a good tradition | it never really changes
      | it has always worked well | there are no surprises""",
    "organised": """there is a clear plan | everything has its order | each week is planned
      | it runs like clockwork | it has a fixed schedule | it is well organised
      | you always know the plan | nothing is left to chance""",
    "spontaneous": """you can start now | you can go any time | there is nothing to book
      | you follow your mood | nothing has to be arranged | you decide right then
      | you never need to prepare | it leaves things open""",
  }.items()
}

# The views: what they are like, how one goes about them, and the thing that tells them apart.
_VIEWS: tuple[tuple[str, str, str], ...] = (
  (
    "social paid familiar organised",
    "take | join | attend",
    "an evening class | a night class | a weekly course | a college course",
  ),
  (
    "alone free relaxed screen",
    "watch | look up | put on",
    "some videos online | some video clips | some filmed lessons | some tutorial videos",
  ),
  (
    "alone free relaxed familiar",
    "read | borrow | pick up",
    "a library book | a library guide | a library handbook | a library paperback",
  ),
  (
    "social active hands-on organised",
    "join | visit | look for",
    "a local club | a hobby club | a neighbourhood group | a town club",
  ),
  (
    "paid active organised",
    "hire | pay | work with",
    "a private coach | a personal trainer | a private tutor | an expert teacher",
  ),
  (
    "alone screen new organised",
    "follow | use | set up",
    "a phone app | a mobile app | a reminder app | a progress app",
  ),
  (
    "social free familiar spontaneous",
    "ask | visit | talk to",
    "a good neighbour | the people next door | an old neighbour | a kind neighbour",
  ),
  (
    "alone hands-on familiar organised",
    "keep | fill | write in",
    "a paper journal | a paper diary | a handwritten notebook | a bedside notebook",
  ),
  (
    "social paid relaxed new",
    "book | try | go on",
    "a weekend retreat | a country retreat | a group retreat | a quiet retreat",
  ),
  (
    "relaxed screen new spontaneous",
    "play | download | pick up",
    "a video game | a computer game | an online game | a puzzle game",
  ),
  (
    "alone free hands-on spontaneous",
    "improvise with | tinker with | play with",
    "household things | kitchen scraps | spare parts | garage leftovers",
  ),
  (
    "social relaxed familiar spontaneous",
    "invite | have | ask",
    "some old friends over | a few friends over | some friends round | the usual friends round",
  ),
  (
    "social active new",
    "enter | try | look for",
    "a local contest | a public challenge | a town tournament | an open competition",
  ),
  (
    "social free screen spontaneous",
    "join | browse | post in",
    "an online forum | a chat group | an online community | a message board",
  ),
  (
    "alone paid hands-on new",
    "order | buy | pick up",
    "a starter kit | a beginner kit | a boxed kit | a craft kit",
  ),
  (
    "alone paid screen organised",
    "buy | take | pay for",
    "an online course | a web course | a video course | an internet course",
  ),
  (
    "paid active hands-on new",
    "attend | book | look for",
    "a weekend workshop | a studio workshop | a maker workshop | a craft workshop",
  ),
  (
    "alone free active spontaneous",
    "practise | exercise | walk",
    "alone in the park | alone by the river | alone in the woods | alone in nature",
  ),
  (
    "social free active hands-on",
    "help at | volunteer at | serve at",
    "a community project | a charity shop | a community kitchen | a charity fair",
  ),
  (
    "free relaxed familiar",
    "enjoy | turn on | listen to",
    "the local radio | a radio show | a radio talk | some radio stories",
  ),
  (
    "paid active screen new",
    "rent | try | work with",
    "a VR headset | a motion simulator | a virtual trainer | a virtual studio",
  ),
  (
    "free active familiar organised",
    "follow | repeat | stick to",
    "a daily drill | a morning routine | a training plan | a weekly timetable",
  ),
  (
    "paid active new spontaneous",
    "take | try | go on",
    "a surprise trip | a road trip | a mystery tour | a city break",
  ),
  (
    "alone screen new spontaneous",
    "ask | question | chat with",
    "an AI assistant | a friendly chatbot | a voice assistant | an AI helper",
  ),
)


@dataclasses.dataclass(frozen=True)
class View:
  """One way to go about a goal.

  Attributes:
    features: -1, 0 or +1 on each of `DIMENSIONS`.
    things: What tells the view, without articles; no other view has any of them.
    wordings: The ways to name it, the plain one first.
    remarks: What can be said of it: clauses, for each of its 3 or 4 features.
  """

  features: tuple[int, ...]
  things: tuple[str, ...]
  wordings: tuple[str, ...]
  remarks: tuple[tuple[str, ...], ...]


def _view(features: str, verbs: str, things: str) -> View:
  names = features.split()
  return View(
    tuple((plus in names) - (minus in names) for minus, plus in DIMENSIONS.values()),
    tuple(re.sub(r"^(an?|the|some) ", "", thing) for thing in phrases(things)),
    tuple(" ".join(words) for words in itertools.product(phrases(verbs), phrases(things))),
    tuple(_CLAUSES[name] for name in names),
  )


VIEWS: tuple[View, ...] = tuple(_view(*row) for row in _VIEWS)

_OPENINGS = phrases("""
  To {goal}, I would {way}. | If you want to {goal}, {way}. | A good way to {goal} is to {way}.
  | You could {way} to {goal}. | I think you should {way} to {goal}. | Why not {way} to {goal}?
  | My advice is to {way} to {goal}. | One way to {goal} is to {way}.
  | Many people {way} to {goal}. | Somebody who hopes to {goal} might {way}.""")
_LEADS = phrases("""
  That way | I like that | It helps that | You may enjoy that | What counts is that
  | Remember that | The point is that | Best of all, | It is good that | I find that""")
# Closing sentences, which say nothing of a view. Plain first, as everywhere.
_CLOSINGS = tuple(
  f"{first} and {second}."
  for first, second in itertools.product(
    phrases("""
      Give it a month | Try it for a while | Take the first step | Be patient with it
      | Make a small beginning | Have a little faith | Do what you can | Set a modest goal"""),
    phrases("""
      see how it goes | the rest will follow | it will become natural | you will see progress
      | judge for yourself | you will be glad | then look back | tell me about it"""),
  )
)


def write(choose: Choose, goal: str, view: View) -> str:
  """Writes a response that proposes a view for a goal, in two or three sentences."""
  opening = _OPENINGS[choose(len(_OPENINGS))]
  text = opening.format(goal=goal, way=view.wordings[choose(len(view.wordings))])
  lead = _LEADS[choose(len(_LEADS))]
  # Three features of every view, so that length tells nothing of it.
  left_out = choose(len(view.remarks)) if len(view.remarks) > _STATED else None
  first, second, third = (
    clauses[choose(len(clauses))] for i, clauses in enumerate(view.remarks) if i != left_out
  )
  text = f"{text} {lead} {first}, {second} and {third}"
  return f"{text}. {_CLOSINGS[choose(len(_CLOSINGS))]}" if choose(2) else f"{text}."


_READER = reviews_text.PhraseReader({0: tuple(view.things for view in VIEWS)})


def read(text: str) -> View | None:
  """The one of all `VIEWS` that any text names; None if it names none, or several."""
  index = _READER.unambiguous(reviews_text.normalise(text)).get(0)
  return None if index is None else VIEWS[index]


class Offer:
  """The views that prompts about a goal offer, in order: the kinds of response to them.

  Attributes:
    goal: What the prompts are about.
    views: `KINDS` of `VIEWS`; on every dimension they are not all alike.
    features: Of these views, float64[dimensions, kinds].
  """

  def __init__(self, goal: str) -> None:
    self.goal = goal
    self.views = _offered(goal)
    self.features = np.asarray([view.features for view in self.views], np.float64).T
    self.features.setflags(write=False)

  def read(self, text: str) -> int | None:
    """Which of the offer's views any text names; None if it names another, none, or several."""
    view = read(text)
    return self.views.index(view) if view in self.views else None


_offer = functools.cache(Offer)


@functools.lru_cache(maxsize=4096)
def offer(prompt: str) -> Offer:
  """What a prompt offers. Raises ValueError if it is about no goal of the world."""
  return _offer(goal_of(prompt))


def _offered(goal: str) -> tuple[View, ...]:
  """A random choice that depends on the goal alone, and leaves no dimension without a difference.

  By SHA-256, which is the same on every machine and in every version.
  """
  draws = (_draw(goal, attempt) for attempt in itertools.count())
  return next(
    views
    for views in draws
    if all(len(set(values)) > 1 for values in zip(*(view.features for view in views), strict=True))
  )


def _draw(goal: str, attempt: int) -> tuple[View, ...]:
  def order(index: int) -> bytes:
    return hashlib.sha256(f"{goal}\0{attempt}\0{index}".encode()).digest()

  return tuple(VIEWS[index] for index in sorted(range(len(VIEWS)), key=order)[:KINDS])
