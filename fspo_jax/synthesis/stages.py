# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The stages of the factory: a question with its responses, and a user who judges pairs of them.

Each unit of work, an item of the bank or a user, is a pure function of (seed, index) and of what
the language model answers; the seed of every request follows from what it is for.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
import hashlib
import itertools
import math
from typing import TypeVar

import numpy as np

from fspo_jax import preferences
from fspo_jax.synthesis import domains, prompts
from fspo_jax.synthesis.domains import Domain
from fspo_jax.synthesis.llm import LLM, Request, RequestError
from fspo_jax.synthesis.records import Item, Response, Split, SyntheticUser, Votes
from fspo_jax.synthesis.settings import Settings

# How often a response is asked for again that reads as another one of the question.
_RETRIES = 3
# The least share of an unseen user's questions that is about topics never trained on.
_UNSEEN_SHARE = 1 / 4

_T = TypeVar("_T")


def item_topic(domain: Domain, settings: Settings, index: int) -> tuple[Split, str, int]:
  """The topic of question `index`: its split, the topic, and the question's number about it.

  Topics are taken in turns, and questions about unseen topics are spread evenly. Raises ValueError
  if a share of unseen topics is asked for and the domain has none.
  """
  before = math.floor(index * settings.unseen_topics)
  if math.floor((index + 1) * settings.unseen_topics) > before:
    split, topics, rank = "unseen", domain.topics_unseen, before
  else:
    split, topics, rank = "train", domain.topics_train, index - before
  if not topics:
    raise ValueError(
      f"unseen_topics: found {settings.unseen_topics}, expected 0: {domain.name} has no "
      "topics that are not trained on"
    )
  return split, topics[rank % len(topics)], rank // len(topics)


def user_split(settings: Settings, seed: int, index: int) -> Split:
  """The split of user `index`."""
  unseen = preferences.held_out("user", str(index), share=settings.unseen_users, seed=seed)
  return "unseen" if unseen else "train"


async def make_item(llm: LLM, domain: Domain, settings: Settings, seed: int, index: int) -> Item:
  """Makes question `index` of the bank, with responses.

  Responses that get no answer, or none that differs from the others', are set aside and counted.

  Raises:
    RequestError: no question, or no viewpoints on it; or an outage.
  """
  split, topic, number = item_topic(domain, settings, index)
  model = settings.models[index % len(settings.models)]
  question_seed = _seed(seed, "item", index, "question")
  question = prompts.question(domain, settings, model, question_seed, topic, number)
  (prompt,) = await _ask(llm, question)
  steers = await _steers(llm, domain, settings, seed, index, prompt)

  async def write(i: int, attempt: int) -> str:
    steer = steers[i % len(steers)]
    if isinstance(steer, RequestError):
      raise steer
    request = prompts.response(
      domain,
      settings,
      settings.models[i % len(settings.models)],
      _seed(seed, "item", index, "response", i, attempt),
      prompt,
      description=steer if settings.steering == "personas" else "",
      view=steer if settings.steering == "views" else "",
    )
    (text,) = await _ask(llm, request)
    return text

  found: dict[str, Response] = {}
  set_aside: collections.Counter[str] = collections.Counter()
  for i, text in enumerate(await _settled(write(i, 0) for i in range(settings.responses))):
    for attempt in range(1, _RETRIES + 1):
      if text in found:
        (text,) = await _settled([write(i, attempt)])
    if isinstance(text, RequestError):
      set_aside[_reason(text)] += 1
    elif text in found:
      set_aside["response: equal"] += 1
    else:
      by = settings.models[i % len(settings.models)]
      found[text] = Response(text, by.name, by.temperature, steers[i % len(steers)])
  return Item(index, split, topic, prompt, tuple(found.values()), _counts(set_aside))


async def make_user(
  llm: LLM, domain: Domain, settings: Settings, seed: int, bank: Mapping[int, Item], index: int
) -> SyntheticUser:
  """Makes user `index`, who judges pairs of responses to distinct questions of the bank.

  With refinement, the user's pairs are walked in order. Where the judgements by the description as
  it is by then do not determine the preference, one of the two responses is taken to be preferred,
  at random, and what would determine it is appended. Of some pairs, one response is then replaced
  by one from the viewpoint that the user would pick. In the end all pairs are judged by the final
  description. A pair that one request got no answer for is set aside and counted.

  Args:
    llm: answers the requests.
    domain: what they are about.
    settings: of the set.
    seed: of the set.
    bank: the items by index; those that could not be made are missing.
    index: of the user.

  Raises:
    RequestError: no persona; or an outage.
  """
  split = user_split(settings, seed, index)
  persona = description = await _persona(llm, domain, settings, seed, index)
  rng = np.random.default_rng([seed, 1, index])
  pairs = _pairs(rng, settings, seed, bank, split)
  first = (rng.random(len(pairs)) < 0.5).tolist()  # Whether the first is taken to be preferred.
  judge = _Judge(llm, domain, settings, seed, index, pairs)
  additions = 0
  for number in range(len(pairs)) if settings.refine else ():
    votes = await judge.votes(description, number)
    if votes and _undetermined(votes, settings):
      if addition := await judge.addition(description, number, "A" if first[number] else "B"):
        description, additions = f"{description} {addition}", additions + 1
  if settings.picked:
    judge = await judge.with_picks(rng, description)
  measured = index % settings.measure_every == 0
  for told in (persona, description) if measured else (description,):
    await _settled(judge.votes(told, number) for number in range(len(pairs)))

  numbers = [number for number in range(len(pairs)) if number not in judge.failed]
  after = tuple(judge.known[description, number] for number in numbers)
  kept = tuple(i for i, v in enumerate(after) if not (settings.both_orders and v.flips))
  set_aside = collections.Counter(judge.failed.values())
  set_aside["label: the order decides"] = len(after) - len(kept)
  set_aside["pair: no question left"] = settings.pairs - len(pairs)
  return SyntheticUser(
    index=index,
    user_id=f"{domain.name}-{index:06d}",
    split=split,
    persona=persona,
    description=description,
    additions=additions,
    before=tuple(judge.known[persona, n] for n in numbers) if measured else (),
    after=after,
    kept=kept,
    set_aside=_counts(set_aside),
  )


class _Judge:
  """Judges one user's pairs, and asks nothing twice: an equal request has the same answer."""

  def __init__(
    self,
    llm: LLM,
    domain: Domain,
    settings: Settings,
    seed: int,
    index: int,
    pairs: Sequence[tuple[Item, int, int]],
  ) -> None:
    self._llm, self._domain, self._settings, self._pairs = llm, domain, settings, pairs
    self._seed, self._index = seed, index
    self.known: dict[tuple[str, int], Votes] = {}
    self.failed: dict[int, str] = {}  # Why pairs are set aside.

  async def votes(self, description: str, number: int) -> Votes | None:
    """The judgements of pair `number`; None if it is set aside."""
    if number in self.failed:
      return None
    known = self.known.get((description, number))
    if known is None:
      item, a, b = self._pairs[number]
      orders = ((a, b), (b, a)) if self._settings.both_orders else ((a, b),)
      requests = [
        prompts.label(
          self._domain,
          self._settings,
          _seed(self._seed, "user", self._index, "label", number, order, repeat),
          description,
          item.prompt,
          item.responses[first].text,
          item.responses[second].text,
        )
        for order, (first, second) in enumerate(orders)
        for repeat in range(self._settings.repeats)
      ]
      said = await _settled(_ask(self._llm, request) for request in requests)
      if errors := [answer for answer in said if isinstance(answer, RequestError)]:
        self.failed[number] = _reason(errors[0])
        return None
      ahead, back = said[: self._settings.repeats], said[self._settings.repeats :]
      forward, backward = (ahead.count(("A",)), len(ahead)), (back.count(("B",)), len(back))
      known = self.known[description, number] = Votes(item.index, a, b, forward, backward)
    return known

  async def with_picks(self, rng: np.random.Generator, description: str) -> _Judge:
    """The judge of pairs of which some have a response that the described user would pick.

    In a share `picked` of the pairs, one response is from the viewpoint of the item that the user
    would pick, the other from another one.
    """
    pairs, failed = list(self._pairs), dict(self.failed)
    drawn = rng.random(len(pairs))
    drawn[: self._settings.anchors] = 1.0  # Those are the same for all users.
    asked = np.flatnonzero(drawn < self._settings.picked).tolist()
    draws = rng.random((len(asked), 3)).tolist()
    answers = await _settled(self._pick(description, number) for number in asked)
    for number, view, (x, y, swap) in zip(asked, answers, draws, strict=True):
      responses = pairs[number][0].responses
      if isinstance(view, RequestError):
        failed[number] = _reason(view)
        continue
      own = [i for i, r in enumerate(responses) if r.steer.split() == view.split()]
      others = [i for i, r in enumerate(responses) if r.steer.split() != view.split()]
      if not own or not others:
        failed[number] = "pick: no pair of viewpoints"
        continue
      a, b = own[int(x * len(own))], others[int(y * len(others))]
      pairs[number] = (pairs[number][0], *((a, b) if swap < 0.5 else (b, a)))
    judge = _Judge(self._llm, self._domain, self._settings, self._seed, self._index, pairs)
    judge.failed = failed
    return judge

  async def _pick(self, description: str, number: int) -> str:
    """The viewpoint of a pair's item that the user would pick. Raises RequestError."""
    item = self._pairs[number][0]
    request = prompts.pick(
      self._domain,
      self._settings,
      _seed(self._seed, "user", self._index, "pick", number),
      description,
      item.prompt,
      sorted({response.steer for response in item.responses}),
    )
    return (await _ask(self._llm, request))[0]

  async def addition(self, description: str, number: int, preferred: str) -> str:
    """What makes the described user prefer 'A' or 'B' of a pair; empty if nothing would."""
    item, a, b = self._pairs[number]
    request = prompts.refine(
      self._domain,
      self._settings,
      _seed(self._seed, "user", self._index, "refine", number),
      description,
      item.prompt,
      item.responses[a].text,
      item.responses[b].text,
      preferred,
    )
    (text,) = await _settled([_ask(self._llm, request)])
    if isinstance(text, RequestError):
      self.failed[number] = _reason(text)
      return ""
    return text[0]


def _undetermined(votes: Votes, settings: Settings) -> bool:
  return (settings.both_orders and votes.flips) or 1 / 4 < votes.share < 3 / 4


def _pairs(
  rng: np.random.Generator,
  settings: Settings,
  seed: int,
  bank: Mapping[int, Item],
  split: Split,
) -> list[tuple[Item, int, int]]:
  """Draws questions that read differently, of what a user of the split may see, and pairs.

  The first `anchors` questions to train on come before the drawn ones, with the same pair for all.
  """
  order = rng.permutation(settings.questions).tolist()
  seen: set[str] = set()

  def usable(only: Split | None, indices: Iterable[int] = order) -> Iterator[Item]:
    for item in filter(None, map(bank.get, indices)):
      if only in (None, item.split) and len(item.responses) > 1 and item.prompt not in seen:
        seen.add(item.prompt)
        yield item

  anchors = list(itertools.islice(usable("train", range(settings.questions)), settings.anchors))
  count, drawn = settings.pairs - len(anchors), []
  if split == "unseen":
    drawn += itertools.islice(usable("unseen"), math.ceil(count * _UNSEEN_SHARE))
  others = usable("train" if split == "train" else None)
  drawn += itertools.islice(others, count - len(drawn))
  rng.shuffle(drawn)
  draws = [np.random.default_rng([seed, 2, item.index]).random(2).tolist() for item in anchors]
  draws += rng.random((len(drawn), 2)).tolist()
  found = []
  for item, (x, y) in zip(anchors + drawn, draws, strict=True):
    responses = item.responses
    a = int(x * len(responses))
    # Responses from one viewpoint are equal to every user; a pair is of two, if there are two.
    others = [i for i, r in enumerate(responses) if r.steer != responses[a].steer]
    others = others or [i for i in range(len(responses)) if i != a]
    found.append((item, a, others[int(y * len(others))]))
  return found


def persona_request(domain: Domain, settings: Settings, seed: int, number: int) -> Request:
  """What asks for the description of user `number`: the same, whoever asks for it."""
  model = settings.models[number % len(settings.models)]
  person = domains.demographics(seed, number)
  request_seed = _seed(seed, "user", number, "persona")
  return prompts.persona(domain, settings, model, request_seed, number, person)


async def _persona(llm: LLM, domain: Domain, settings: Settings, seed: int, number: int) -> str:
  (description,) = await _ask(llm, persona_request(domain, settings, seed, number))
  return description


async def _steers(
  llm: LLM, domain: Domain, settings: Settings, seed: int, index: int, prompt: str
) -> Sequence[str | RequestError]:
  """What the responses to a question are written for, in turns; a persona may have failed."""
  if settings.steering == "none":
    return ("",)
  if settings.steering == "views":
    model = settings.models[index % len(settings.models)]
    request_seed = _seed(seed, "item", index, "views")
    request = prompts.views(domain, settings, model, request_seed, prompt, settings.responses)
    return (await _ask(llm, request))[: settings.responses]
  # Of the users to train on: nothing that training reads is written for the others.
  order = np.random.default_rng([seed, 0, index]).permutation(settings.users).tolist()
  train = (number for number in order if user_split(settings, seed, number) == "train")
  personas = itertools.islice(train, settings.responses)
  return await _settled(_persona(llm, domain, settings, seed, number) for number in personas)


async def _ask(llm: LLM, request: Request) -> tuple[str, ...]:
  """The texts of the answer. Raises RequestError."""
  answer = await llm.answer(request)
  try:
    return prompts.texts_of(request.schema_name, answer)
  except ValueError as error:
    raise RequestError(request, "schema", str(error)) from error


async def _settled(awaitables: Iterable[Awaitable[_T]]) -> list[_T | RequestError]:
  """Awaits all at once, to their end; a RequestError is a result, any other error is raised.

  So is an outage: what is set aside stays so, and a server that is down must not thin out a set.
  """
  results = await asyncio.gather(*awaitables, return_exceptions=True)
  for result in results:
    if isinstance(result, BaseException) and not (
      isinstance(result, RequestError) and not result.is_outage
    ):
      raise result
  return results


def _reason(error: RequestError) -> str:
  return f"{error.request.stage}: {error.reason}"


def _counts(set_aside: collections.Counter[str]) -> dict[str, int]:
  """In one order, whichever request was answered first."""
  return {reason: count for reason, count in sorted(set_aside.items()) if count}


def _seed(seed: int, *purpose: str | int) -> int:
  """The seed of a request, 31 bits: a pure function of what the request is for."""
  digest = hashlib.sha256("\0".join(map(str, (seed, *purpose))).encode()).digest()
  return int.from_bytes(digest[:4]) >> 1
