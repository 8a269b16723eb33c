# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A small world for the factory's tests: users rank six manners of advice on any topic.

A prompt has four of the six manners as its kinds. A user likes each manner to another degree, and
a description names manners with degrees, so that any two kinds differ to whoever is fully known.
"""

import asyncio
import itertools
import random
import re
import zlib

import numpy as np

from fspo_jax.synthesis import domains
from fspo_jax.synthesis.llm import RequestError
from fspo_jax.synthesis.settings import Model, Settings
from fspo_jax.worlds.kinds import KindsWorld

MANNERS = ("playful", "practical", "historical", "sceptical", "poetic", "technical")
_SAYINGS = (
  "Games and jokes teach most",
  "Use your hands before your head",
  "Old chronicles know where it began",
  "Doubt what everybody claims",
  "Listen for its music",
  "Measure every quantity exactly",
)
# From the best to the worst.
VERBS = ("adores", "likes", "accepts", "tolerates", "dislikes", "hates")
_TOPICS = """bread clocks rivers chess maps glass bees tea rope salt paper kites moss drums ink snow
soap wells lamps wool""".split()
_NAMED = re.compile(f"({'|'.join(VERBS)}) ({'|'.join(MANNERS)})")
_SPOKEN = re.compile("|".join(MANNERS))

_ASK = ("What should I know about", "Tell me about", "How do I get into", "Why do people like")
_MORE = ("", " in a day", " with friends", " on a budget", " at home", " as a beginner")
_FIRST = ("I would start", "It is best to start", "Let us start", "One might start", "Do start")
_SECOND = ("It takes an hour", "Everybody can do it", "Go slowly", "Ask a friend", "Keep at it")
_THIRD = (
  "",
  " The rest follows.",
  " Then go on from there, day by day.",
  " Write down what helps.",
)


class TinyWorld(KindsWorld):
  seed = 0
  candidates = 4
  label_noise = 0.0
  name = "roleplay"

  def users(self, split):
    everyone = list(itertools.permutations(range(6)))  # Of each manner, which verb.
    random.Random(0).shuffle(everyone)
    return {"train": tuple(everyone[::2]), "unseen": tuple(everyone[1::2])}[split]

  def user_id(self, user):
    return "-".join(VERBS[verb] for verb in user)

  def describe(self, user):
    named = [f"{VERBS[v]} {MANNERS[m]} advice" for m, v in enumerate(user) if v is not None]
    return f"This person {', '.join(named)}." if named else "This person is somebody."

  def read(self, description):
    named = {m: v for v, m in _NAMED.findall(description)}
    return tuple(VERBS.index(named[m]) if m in named else None for m in MANNERS)

  def vague(self, rng, user, share):
    left_out = rng.permutation(6)[: round(6 * share)]
    return tuple(None if m in left_out else v for m, v in enumerate(user))

  def addition(self, choose, description, prompt, chosen, rejected):
    user, best, worst = self.read(description), *self._manners(prompt, chosen, rejected)
    if best == worst or user[best] is not None or user[worst] is not None:
      return None
    # A verb that is not taken, of the upper half for the best or of the lower half for the worst.
    free = [v for v in range(6) if v not in user]
    verb = free[choose(len(free))]
    return f"The person {VERBS[verb]} {MANNERS[best if verb < 3 else worst]} advice."

  def description_f1(self, user, text):
    named = self.read(text)
    both = sum(a == b for a, b in zip(user, named, strict=True) if a is not None)
    return 2 * both / max(1, sum(v is not None for v in (*user, *named)))

  def topics(self, split):
    return _TOPICS[:16] if split == "train" else _TOPICS[16:]

  def write_question(self, choose, topic):
    return f"{_ASK[choose(len(_ASK))]} {topic}{_MORE[choose(len(_MORE))]}?"

  def kinds(self, prompt):
    return 4

  def view(self, prompt, kind):
    return f"the {MANNERS[self._offers(prompt)[kind]]} side"

  def read_view(self, prompt, view):
    return self.kind(prompt, view)

  def write_response(self, choose, prompt, kind):
    manner = MANNERS[self._offers(prompt)[kind]]
    return (
      f"{_FIRST[choose(len(_FIRST))]} from the {manner} side. {_SAYINGS[MANNERS.index(manner)]}. "
      f"{_SECOND[choose(len(_SECOND))]}.{_THIRD[choose(len(_THIRD))]}"
    )

  def kind(self, prompt, response):
    spoken, offers = _SPOKEN.findall(response), self._offers(prompt)
    manner = MANNERS.index(spoken[0]) if len(spoken) == 1 else None
    return offers.index(manner) if manner in offers else None

  def reading(self, prompt, kind):
    return self.view(prompt, kind)

  def knowledge(self):
    return ()

  def tastes(self, users):
    # A manner of which nothing is known is between two verbs: it ties with its like alone.
    return np.array([[0.0 if v is None else 2.5 - v for v in user] for user in users])

  def kind_rewards(self, tastes, prompt):
    return tastes[..., self._offers(prompt)]

  def _manners(self, prompt, *responses):
    return [self._offers(prompt)[self.kind(prompt, response)] for response in responses]

  def _offers(self, prompt):
    first = zlib.crc32(prompt.encode())
    return [(first + step) % 6 for step in (0, 1, 3, 5)]


DOMAIN = domains.make_domain("roleplay", TinyWorld().topics("train"), TinyWorld().topics("unseen"))
SETTINGS = Settings(
  users=60,
  unseen_users=0.3,
  questions=80,
  unseen_topics=0.2,
  responses=6,
  steering="views",
  models=(Model("a", 1.0), Model("b", 0.8)),
  judge=Model("judge", 0.7),
  pairs=24,
  anchors=0,
  picked=0.0,
  repeats=2,
  both_orders=True,
  ignore_length=True,
  refine=True,
  measure_every=4,
  max_tokens=256,
)


class Asked:
  """Passes requests on, notes them, and fails those that `fails` names a reason for."""

  def __init__(self, llm, fails=lambda request: None, slow=False):
    self.llm, self.fails, self.slow = llm, fails, slow
    self.requests = []

  async def answer(self, request):
    self.requests.append(request)
    if self.slow:
      await asyncio.sleep(random.random() / 1000)
    if reason := self.fails(request):
      raise RequestError(request, reason, "as the test wants it")
    return await self.llm.answer(request)

  def count(self, stage):
    return sum(request.stage == stage for request in self.requests)
