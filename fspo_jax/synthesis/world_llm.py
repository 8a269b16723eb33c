# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A world as a language model: it answers the factory's requests, with a language model's flaws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import random
from typing import Any, Generic
import zlib

from jaxtyping import Float
import numpy as np

from fspo_jax.synthesis import prompts
from fspo_jax.synthesis.llm import Note, Request
from fspo_jax.worlds.world import Choose, UserT, World


@dataclasses.dataclass(frozen=True)
class Flaws:
  """What is wrong with the stand-in, each a probability or a share; 0 for none.

  Attributes:
    position_bias: how often the judge answers A, whatever A is.
    length_bias: how often the judge prefers the longer response, whatever it says; a fifth of it
      where the request says to ignore length.
    undetermined: the share of a user's tastes that the first description leaves out.
    label_noise: how often the judge errs.
  """

  position_bias: float = 0.0
  length_bias: float = 0.0
  undetermined: float = 0.0
  label_noise: float = 0.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      if not 0 <= (found := getattr(self, field.name)) <= 1:
        raise ValueError(f"{field.name}: found {found}, expected 0 to 1")


def make(
  world: World[UserT], flaws: Flaws, population: Sequence[UserT], note: Note
) -> WorldLLM[UserT]:
  """A `pipeline.Factory`'s backend; `note` is never told of an attempt: none costs or fails."""
  del note
  return WorldLLM(world, flaws, population)


class WorldLLM(Generic[UserT]):
  """Answers requests as a language model would that knows a world; implements `llm.LLM`.

  It knows a request's text and nothing else, so that it answers the same behind an HTTP server;
  an answer is a pure function of the request. How varied its texts are depends on the temperature,
  and their most ordinary wordings on the model's name, as with real models.
  """

  def __init__(self, world: World[UserT], flaws: Flaws, population: Sequence[UserT]) -> None:
    """Initializes the stand-in.

    Args:
      world: whose domain the requests are about.
      flaws: what is wrong with the answers.
      population: the users that personas are of; persona n is number n modulo their number.
    """
    if not population:
      raise ValueError("population: found no users, expected one or more")
    self._world, self._flaws, self._population = world, flaws, population
    # A judge reads the same things again and again: a description with every question, a response
    # in both orders and for every user.
    self._tastes = functools.lru_cache(64)(self._read_tastes)
    self._rewards = functools.lru_cache(1024)(self._read_rewards)
    self._kind = functools.lru_cache(2**16)(world.kind)

  async def answer(self, request: Request) -> dict[str, Any]:
    """The answer, which keeps the request's schema."""
    given = prompts.sections(request.prompt)
    match request.schema_name:
      case "persona":
        return {"description": self._persona(request, given)}
      case "question":
        # The number asks for another question: any, at any temperature.
        rng = random.Random(request.key)
        return {"question": self._world.write_question(rng.randrange, given[prompts.TOPIC])}
      case "views":
        return {"views": self._views(request, given)}
      case "response":
        return {"response": self._response(request, given)}
      case "pick":
        return {"viewpoint": self._pick(request, given)}
      case "label":
        return {"preferred": self._label(request, given)}
      case "verdict":
        return {"preferred": self._label(request, given, tie="tie")}
      case "refine":
        return {"addition": self._addition(request, given)}
    raise ValueError(
      f"schema_name: found {request.schema_name!r}, expected one of {', '.join(prompts.SCHEMAS)}"
    )

  def _persona(self, request: Request, given: Mapping[str, str]) -> str:
    user = self._population[int(given[prompts.NUMBER]) % len(self._population)]
    if self._flaws.undetermined:
      rng = np.random.default_rng(int(request.key[:16], 16))
      user = self._world.vague(rng, user, self._flaws.undetermined)
    return self._world.describe(user)

  def _views(self, request: Request, given: Mapping[str, str]) -> list[str]:
    prompt = given[prompts.QUESTION]
    kinds = self._world.kinds(prompt)
    count = max(1, min(int(given[prompts.COUNT]), kinds))
    drawn = random.Random(request.key).sample(range(kinds), count)
    return [self._world.view(prompt, kind) for kind in drawn]

  def _response(self, request: Request, given: Mapping[str, str]) -> str:
    prompt, rng = given[prompts.QUESTION], random.Random(request.key)
    choose = _choose(rng, request.model, request.temperature)
    kind = None
    if view := given.get(prompts.VIEW):
      kind = self._world.read_view(prompt, view)
    elif description := given.get(prompts.DESCRIPTION):
      rewards = self._rewards(description, prompt)
      best = [k for k, reward in enumerate(rewards) if reward == max(rewards)]
      # Not by `choose`, or who it is written for would shift the wordings.
      kind = best[rng.randrange(len(best))]
    if kind is None:
      # What is said varies less than how it is said: as if by a model a third as warm.
      another = _geometric(rng, _spread(request.temperature / 3))
      kind = (zlib.crc32(prompt.encode()) + another) % self._world.kinds(prompt)
    return self._world.write_response(choose, prompt, kind)

  def _pick(self, request: Request, given: Mapping[str, str]) -> str:
    rng, prompt = random.Random(request.key), given[prompts.QUESTION]
    views = [line.removeprefix("- ") for line in given[prompts.VIEWS].splitlines()]
    if rng.random() < self._flaws.label_noise:
      return views[rng.randrange(len(views))]
    rewards = self._rewards(given[prompts.DESCRIPTION], prompt)
    kinds = [self._world.read_view(prompt, view) for view in views]
    of_views = [min(rewards) - 1 if kind is None else rewards[kind] for kind in kinds]
    best = [view for view, reward in zip(views, of_views, strict=True) if reward == max(of_views)]
    return best[rng.randrange(len(best))]

  def _label(self, request: Request, given: Mapping[str, str], tie: str = "") -> str:
    """'A' or 'B'; `tie` where both are as good, by chance one of the two where that is ''."""
    flaws, rng = self._flaws, random.Random(request.key)
    a, b = given[prompts.RESPONSE_A], given[prompts.RESPONSE_B]
    if rng.random() < flaws.position_bias:
      return "A"
    told = prompts.IGNORE_LENGTH in request.system
    if rng.random() < flaws.length_bias / (5 if told else 1) and len(a) != len(b):
      return "A" if len(a) > len(b) else "B"
    prompt = given[prompts.QUESTION]
    rewards = self._rewards(given[prompts.DESCRIPTION], prompt)
    # A text of no kind is worse than any; only the order counts.
    of_a, of_b = (
      min(rewards) - 1 if kind is None else rewards[kind]
      for kind in (self._kind(prompt, a), self._kind(prompt, b))
    )
    if of_a == of_b:
      return tie or "AB"[rng.random() < 0.5]
    return "AB"[(of_b > of_a) != (rng.random() < flaws.label_noise)]

  def _addition(self, request: Request, given: Mapping[str, str]) -> str:
    chosen, rejected = given[prompts.RESPONSE_A], given[prompts.RESPONSE_B]
    if given[prompts.PREFERRED] == "B":
      chosen, rejected = rejected, chosen
    rng = random.Random(request.key)
    description, prompt = given[prompts.DESCRIPTION], given[prompts.QUESTION]
    return self._world.addition(rng.randrange, description, prompt, chosen, rejected) or ""

  def _read_tastes(self, description: str) -> Float[np.ndarray, " tastes"]:
    return self._world.tastes([self._world.read(description)])[0]

  def _read_rewards(self, description: str, prompt: str) -> list[float]:
    return self._world.kind_rewards(self._tastes(description), prompt).tolist()


def _choose(rng: random.Random, model: str, temperature: float) -> Choose:
  """Picks as a model does: its own most ordinary alternative first, others as it gets warmer."""
  state, spread = zlib.crc32(model.encode()), _spread(temperature)

  def choose(alternatives: int) -> int:
    nonlocal state
    # The model's ordinary alternative at this slot of the text: a linear congruential generator.
    state = (1664525 * state + 1013904223) & 0xFFFFFFFF
    return ((state >> 8) + _geometric(rng, spread)) % alternatives

  return choose


def _spread(temperature: float) -> float:
  """The probability of passing over an alternative: 0.03 at 0.3, 0.36 at 0.7, 0.55 at 1."""
  return math.exp(-0.6 / temperature**1.5) if temperature else 0.0


def _geometric(rng: random.Random, spread: float) -> int:
  """How many alternatives are passed over, each with probability `spread`."""
  return int(math.log(1.0 - rng.random()) / math.log(spread)) if spread else 0
