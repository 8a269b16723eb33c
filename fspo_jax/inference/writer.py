# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The Writer: the shots of many users in, descriptions of them and responses for them out."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os

import jax
from jaxtyping import Float
import ml_collections
import numpy as np

from fspo_jax import checkpoints, paths, sharding
from fspo_jax import config as config_lib
from fspo_jax.episodes import tokenizers
from fspo_jax.episodes.templates import After, Formatter, Role
from fspo_jax.inference import sampler
from fspo_jax.inference.sampler import Run
from fspo_jax.models import transformer
from fspo_jax.preferences import Preference
from fspo_jax.training import adapters
from fspo_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Written:
  """A sampled text, and whether it came to its own end."""

  text: str
  finished: bool


@dataclasses.dataclass(frozen=True)
class Writer:
  """Answers the prompts of many users at once, each known by a few preferences.

  The engine of the evaluation; `inference.personalizer` is the one to use in a notebook.

  Attributes:
    model: the decoder.
    params: its parameters.
    formatter: the same text-to-tokens that it was trained with.
    batch: sequences that run together.
    mesh: where the parameters lie.
  """

  model: transformer.Transformer
  params: dict
  formatter: Formatter
  batch: int = 128
  mesh: jax.sharding.Mesh = dataclasses.field(default_factory=sharding.one_device)

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> Writer:
    """Opens a stage's checkpoints (`workdir/checkpoints/preference`): all it takes is the path."""
    with checkpoints.Checkpoints(directory) as saved:
      config = ml_collections.ConfigDict(saved.metadata()["config"])
      # Checkpoints that are older than VPL have no such keys.
      if paths.path(directory).name == "preference" and "vpl" in config and config.vpl.use:
        raise ValueError(
          f"{directory}: found a policy of VPL, which is told who asks by a latent, expected one "
          "that reads shots; evaluate it with the method 'vpl'"
        )
      tokenizer = tokenizers.from_bytes(saved.tokenizer())
      model = transformer.Transformer(config_lib.opened(config, tokenizer.vocab_size))
    mesh = sharding.one_device()
    params = adapters.load(paths.path(directory), state_lib.abstract_params(model, mesh), mesh)
    return cls(model, params, config_lib.formatter(config, tokenizer))

  def context(self, shots: Sequence[Preference], description: str | None = None) -> Run:
    """The tokens of a user's context: the shots, then a description if there is one."""
    form = self.formatter
    run = Run.of(form.start, Role.CONTROL)
    for k, shot in enumerate(shots):
      run += Run.of(form.question(shot.prompt, After.of(shots[:k])), Role.QUESTION)
      run += Run.of(form.answer(shot.chosen), Role.PREFERRED)
      run += Run.of(form.dispreferred(shot.rejected), Role.DISPREFERRED)
    if description is not None:
      run += self.asked_to_describe(shots)
      run += Run.of(form.answer(description), Role.DESCRIPTION)
    return run

  def asked_to_describe(self, shots: Sequence[Preference]) -> Run:
    """What stands between a context of these shots and a description of the user."""
    return Run.of(self.formatter.description(After.of(shots)), Role.DESCRIPTION)

  def asked(self, prompt: str, shots: Sequence[Preference], description: str | None) -> Run:
    """What stands between a context of these shots and a response to a prompt."""
    after = After.of(shots, described=description is not None)
    return Run.of(self.formatter.question(prompt, after), Role.QUESTION)

  def describe(
    self,
    users: Sequence[Sequence[Preference]],
    decoding: sampler.Decoding,
    *,
    seed: int,
  ) -> list[Written]:
    """Writes a description of each user from their shots (the first half of RAT)."""
    written = []
    for first in range(0, len(users), self.batch):
      chosen = users[first : first + self.batch]
      runs = [self.context(shots) + self.asked_to_describe(shots) for shots in chosen]
      context = self.prefill(runs, decoding.max_tokens)
      seeds = [(seed, first + i) for i in range(len(runs))]
      written += self.sample(context, Role.DESCRIPTION, decoding, seeds)
    return written

  def respond(
    self,
    users: Sequence[Sequence[Preference]],
    prompts: Sequence[Sequence[str]],
    decoding: sampler.Decoding,
    *,
    seed: int,
    descriptions: Sequence[str | None] | None = None,
    offsets: Float[np.ndarray, "users D"] | None = None,
  ) -> list[list[Written]]:
    """Answers each user's prompts; a user's context is computed once.

    Args:
      users: the shots of each user; none at all for the unpersonalized model.
      prompts: the prompts of each user, equally many.
      decoding: how tokens are chosen.
      seed: with the indices of user and prompt, all that the randomness depends on.
      descriptions: of each user, put after the shots: gold, or written by `describe`.
      offsets: of each user, added to the embeddings of all their tokens (see `models.vpl`).

    Returns:
      For each user, a response to each prompt.

    Raises:
      ValueError: the users have different numbers of prompts.
    """
    counts = {len(p) for p in prompts}
    if len(counts) != 1 or len(prompts) != len(users):
      raise ValueError(
        f"{len(users)} users need equally many prompts each; found {sorted(counts)} prompts for "
        f"{len(prompts)} users"
      )
    (copies,) = counts
    descriptions = descriptions if descriptions is not None else [None] * len(users)
    answers: list[list[Written]] = []
    group = max(self.batch // copies, 1)
    for first in range(0, len(users), group):
      chosen = range(first, min(first + group, len(users)))
      questions = [self.asked(q, users[u], descriptions[u]) for u in chosen for q in prompts[u]]
      room = max(len(q.tokens) for q in questions) + decoding.max_tokens
      context = self.prefill(
        [self.context(users[u], descriptions[u]) for u in chosen],
        offset=None if offsets is None else offsets[first : chosen.stop],
      )
      context = sampler.fan_out(context, copies, room)
      context = sampler.extend(self.model, self.params, context, questions)
      seeds = [(seed, u, i) for u in chosen for i in range(copies)]
      written = self.sample(context, Role.PREFERRED, decoding, seeds)
      answers += [written[i * copies : (i + 1) * copies] for i in range(len(chosen))]
    return answers

  def prefill(
    self, runs: list[Run], room: int = 0, offset: Float[np.ndarray, "runs D"] | None = None
  ) -> sampler.Context:
    """What the model knows after each of some runs, with room for so many tokens more."""
    capacity = max(len(run.tokens) for run in runs) + room
    context = sampler.empty(self.model.config, len(runs), capacity, offset)
    return sampler.extend(self.model, self.params, context, runs)

  def sample(
    self,
    context: sampler.Context,
    role: Role,
    decoding: sampler.Decoding,
    seeds: Sequence[Sequence[int]],
  ) -> list[Written]:
    """Continues each context, which is consumed, to a text of its own; see `sampler.sample`."""
    tokenizer = self.formatter.tokenizer
    sampled = sampler.sample(
      self.model,
      self.params,
      context,
      role=role,
      eos_id=self.formatter.stop_id,
      decoding=decoding,
      seeds=seeds,
    )
    return [Written(tokenizer.decode(s.tokens).strip(), s.finished) for s in sampled]
