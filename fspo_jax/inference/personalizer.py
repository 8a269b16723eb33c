# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The Personalizer: one user's preferences in; a description, responses and a ranking out.

It is what `fspo_jax.load` gives, made for notebooks and services that serve one user at a time:
texts in and texts out, greedy unless a temperature is given. A user's context is computed at
the first request and kept for the next ones. `inference.writer` is its engine.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax.episodes.templates import Role
from fspo_jax.inference import sampler
from fspo_jax.inference.rewards import ImplicitReward
from fspo_jax.inference.sampler import Decoding, Run
from fspo_jax.inference.writer import Writer
from fspo_jax.preferences import Preference
from fspo_jax.training import step

# A preference, or the same as a record has it: {"prompt": ..., "chosen": ..., "rejected": ...}.
PreferenceLike = Preference | Mapping[str, str]

_CUT = "\ufffd"  # how a decoder writes a character of which bytes are still to come


class Personalizer:
  """A model that answers for the user whose preferences it is shown."""

  def __init__(
    self,
    writer: Writer,
    *,
    reference: dict | None = None,
    objective: step.Objective | None = None,
    vocab_chunk: int = 8192,
    users: int = 8,
  ) -> None:
    """Wraps a model.

    Args:
      writer: the model, its parameters and its format.
      reference: parameters of the frozen reference that the policy was trained against; None
        where they are not at hand, or there is none.
      objective: what the policy was trained to minimise, which says what its implicit reward is;
        None for a model that was not trained on preferences.
      vocab_chunk: vocabulary entries per chunk when responses are scored.
      users: whose contexts are kept, those least recently asked about forgotten first.
    """
    self.writer, self._users = writer, users
    self.reward = ImplicitReward(writer, reference, objective, vocab_chunk)
    self._contexts: collections.OrderedDict[Run, sampler.Context] = collections.OrderedDict()

  def describe(
    self,
    preferences: Sequence[PreferenceLike],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> str:
    """Describes the user, as RAT does before it answers.

    Args:
      preferences: of the user, oldest first.
      max_new_tokens: the description is cut there.
      temperature: 0 is greedy.
      top_p: the smallest set of tokens with so much probability is sampled from.
      seed: of the sampling.
    """
    decoding = Decoding(temperature, top_p, max_new_tokens)
    shots = _preferences(preferences)
    run, asked = self.writer.context(shots), self.writer.asked_to_describe(shots)
    stop = self.writer.formatter.stop_id
    return "".join(self._text(run, asked, Role.DESCRIPTION, stop, decoding, (seed, 0))).strip()

  def respond(
    self,
    preferences: Sequence[PreferenceLike],
    prompt: str,
    *,
    description: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> str:
    """Answers a prompt for the user.

    Args:
      preferences: of the user, oldest first; none for the model without personalization.
      prompt: what is asked.
      description: of the user, put after the preferences; what `describe` wrote makes it RAT.
      max_new_tokens: the response is cut there.
      temperature: 0 is greedy.
      top_p: the smallest set of tokens with so much probability is sampled from.
      seed: of the sampling.
    """
    pieces = self.stream(
      preferences,
      prompt,
      description=description,
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      top_p=top_p,
      seed=seed,
    )
    return "".join(pieces).strip()

  def stream(
    self,
    preferences: Sequence[PreferenceLike],
    prompt: str,
    *,
    description: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> Iterator[str]:
    """Answers a prompt piece by piece, as it is written; the arguments are those of `respond`.

    Yields:
      Parts of the text that `respond` returns: joined and stripped, they are the same.
    """
    shots = _preferences(preferences)
    return self._text(
      self.writer.context(shots, description),
      self.writer.asked(prompt, shots, description),
      Role.PREFERRED,
      self.writer.formatter.stop_id,
      Decoding(temperature, top_p, max_new_tokens),
      (seed, 0, 0),  # what the engine gives the first prompt of its first user
    )

  def respond_many(
    self,
    users: Sequence[Sequence[PreferenceLike]],
    prompts: Sequence[Sequence[str]],
    *,
    descriptions: Sequence[str | None] | None = None,
    best_of: int = 1,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> list[list[str]]:
    """Answers the prompts of many users together, which is faster than one after another.

    Args:
      users: the preferences of each.
      prompts: of each user, equally many.
      descriptions: of each user, or None.
      best_of: responses that are sampled, of which the one that `rank` puts first is kept.
      max_new_tokens: a response is cut there.
      temperature: 0 is greedy.
      top_p: the smallest set of tokens with so much probability is sampled from.
      seed: of the sampling, together with the places of user and prompt.

    Returns:
      For each user, a response to each prompt.

    Raises:
      ValueError: users have different numbers of prompts; or several are to be sampled at
        temperature 0, or by a model that has no rewards.
    """
    known = [_preferences(own) for own in users]
    decoding = Decoding(temperature, top_p, max_new_tokens)
    if best_of == 1:
      written = self.writer.respond(known, prompts, decoding, seed=seed, descriptions=descriptions)
    else:
      written = self.reward.respond(
        known, prompts, decoding, n=best_of, seed=seed, descriptions=descriptions
      )
    return [[response.text for response in own] for own in written]

  def rank(
    self, preferences: Sequence[PreferenceLike], prompt: str, responses: Sequence[str]
  ) -> Float[np.ndarray, " responses"]:
    """The implicit reward of each response: the higher, the better the user should like it.

    See `rewards.ImplicitReward`. Only differences between responses to one prompt mean anything.

    Args:
      preferences: of the user, oldest first.
      prompt: what was asked.
      responses: to compare.

    Raises:
      ValueError: the model was not trained on preferences, or its reference is not at hand.
    """
    return self.reward.of(_preferences(preferences), prompt, responses)

  def margins(
    self,
    contexts: Sequence[Sequence[PreferenceLike]],
    pairs: Sequence[Sequence[PreferenceLike]],
  ) -> Float[np.ndarray, "contexts pairs"]:
    """How much better each user should like the first response of each pair: `rank`, for many.

    Args:
      contexts: preferences of each user, oldest first.
      pairs: of each, equally many; `chosen` is the first response, whoever likes it.

    Returns:
      The implicit reward of the first response minus that of the second.

    Raises:
      ValueError: as `rank` does.
    """
    return self.reward.margins(
      [_preferences(shots) for shots in contexts], [_preferences(asked) for asked in pairs]
    )

  def generate(
    self,
    prompt: str = "",
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> str:
    """Continues a text, as the plain language model that it is: no user, no format.

    Args:
      prompt: the beginning, after the token that opens every text, if there is one; it is not in
        the result.
      max_new_tokens: the text is cut there.
      temperature: 0 is greedy.
      top_p: the smallest set of tokens with so much probability is sampled from.
      seed: of the sampling.

    Raises:
      ValueError: an empty prompt, and a tokenizer without a token that opens texts.
    """
    form = self.writer.formatter
    bos, eos = form.tokenizer.bos_id, form.tokenizer.eos_id
    if bos is None and not prompt:
      raise ValueError("prompt='': found a tokenizer without BOS, expected a text to go on from")
    start = Run.of(() if bos is None else (bos,), Role.CONTROL)
    told = Run.of(form.tokenizer.encode(prompt) if prompt else (), Role.PREFERRED)
    decoding = Decoding(temperature, top_p, max_new_tokens)
    stop = form.stop_id if eos is None else eos
    return "".join(self._text(start, told, Role.PREFERRED, stop, decoding, (seed,)))

  def _text(
    self, known: Run, asked: Run, role: Role, stop: int, decoding: Decoding, seed: Sequence[int]
  ) -> Iterator[str]:
    """What is sampled after a context that is kept, and a run that is not, up to `stop`."""
    model, params, tokenizer = (
      self.writer.model,
      self.writer.params,
      self.writer.formatter.tokenizer,
    )
    room = len(asked.tokens) + decoding.max_tokens
    context = sampler.fan_out(self._context(known), 1, room)
    if asked.tokens:
      context = sampler.extend(model, params, context, [asked])
    ids: list[int] = []
    said = ""
    for token in sampler.stream(
      model,
      params,
      context,
      role=role,
      eos_id=stop,
      decoding=decoding,
      seed=seed,
    ):
      ids.append(token)
      text = tokenizer.decode(ids)
      if not text.endswith(_CUT) and text != said:
        yield text[len(said) :]
        said = text
    rest = tokenizer.decode(ids)
    if rest != said:  # it was cut inside a character
      yield rest[len(said) :]

  def _context(self, run: Run) -> sampler.Context:
    """What the model knows after a run: computed once, and kept."""
    if run not in self._contexts:
      self._contexts[run] = self.writer.prefill([run])
    self._contexts.move_to_end(run)
    while len(self._contexts) > self._users:
      self._contexts.popitem(last=False)
    return self._contexts[run]


def _preferences(given: Sequence[PreferenceLike]) -> list[Preference]:
  return [p if isinstance(p, Preference) else _preference(p) for p in given]


def _preference(record: Mapping[str, Any]) -> Preference:
  expected = {"prompt", "chosen", "rejected"}
  if set(record) != expected:
    raise ValueError(f"found a preference with {sorted(record)}, expected {sorted(expected)}")
  return Preference(**record)
