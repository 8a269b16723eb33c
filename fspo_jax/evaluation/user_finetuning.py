# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What one would try instead of FSPO: fine-tune the base on each user's own shots.

Every user gets parameters of their own, LoRA adapters (arXiv 2106.09685) or all of them, trained by
DPO (arXiv 2305.18290) against the base, or by SFT on the chosen responses. Nothing is put into the
context: shots and queries are scored given the question alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import optax

from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import Formatter, Layout
from fspo_jax.evaluation.contenders import check_one_query, shots_of
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import lora, scoring, transformer
from fspo_jax.preferences import Preference
from fspo_jax.training import metrics, step

OBJECTIVES = ("dpo", "sft")
# One pair a row, after its question alone.
_LAYOUT = Layout(query_shots=(0,))


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a user's parameters are trained.

  Attributes:
    steps: of Adam, each on all of the user's shots.
    learning_rate: of Adam, constant.
    objective: 'dpo' against the base, or 'sft' on the chosen responses (mean over their tokens).
    beta: of DPO; 0 for SFT, which has none.
    lora: the adapters; None to train all parameters.
    ks: the numbers of shots that margins are measured after.
    episodes: margins are measured on so many of the first ones, or on all if there are fewer.
    users_at_once: trained together; changes the speed and the memory, not the results.
  """

  steps: int
  learning_rate: float
  objective: str
  beta: float
  lora: lora.LoraConfig | None
  ks: tuple[int, ...]
  episodes: int
  users_at_once: int

  def __post_init__(self) -> None:
    for name in ("steps", "episodes", "users_at_once"):
      if vars(self)[name] < 1:
        raise ValueError(f"user_finetuning.{name}={vars(self)[name]} must be at least 1")
    if self.learning_rate <= 0:
      raise ValueError(f"user_finetuning.learning_rate={self.learning_rate} must be positive")
    if self.objective not in OBJECTIVES:
      raise ValueError(f"user_finetuning.objective={self.objective!r} is not one of {OBJECTIVES}")
    if self.objective == "dpo" and self.beta <= 0:
      raise ValueError(f"user_finetuning.beta={self.beta} must be positive for DPO")
    if self.objective == "sft" and self.beta != 0:
      raise ValueError(f"user_finetuning.beta={self.beta}: expected 0 for SFT, which has none")
    if not self.ks or min(self.ks) < 0 or sorted(set(self.ks)) != list(self.ks):
      raise ValueError(
        f"user_finetuning.ks={self.ks}: expected increasing numbers of shots, 0 or more"
      )

  @property
  def loss(self) -> step.Objective:
    """The same as a training stage's objective."""
    dpo = self.objective == "dpo"
    return step.Objective(
      name="dpo",
      beta=self.beta if dpo else 1.0,
      label_smoothing=0.0,
      length_normalize=False,
      preference_weight=float(dpo),
      chosen_weight=float(not dpo),
      description_weight=0.0,
    )


@dataclasses.dataclass(frozen=True)
class UserFinetuning:
  """The contender that fine-tunes the base on each user's shots.

  A user's parameters are a pure function of the seed and the shots: every user starts from the
  same random adapters, and each step of Adam is on all the shots, so that no order is drawn.

  Attributes:
    model: the decoder.
    params: of the base, which is also the frozen reference.
    formatter: text to token ids.
    settings: how.
    seed: of the adapters.
    vocab_chunk: vocabulary entries per chunk of the projection.
  """

  model: transformer.Transformer
  params: dict
  formatter: Formatter
  settings: Settings
  seed: int
  vocab_chunk: int

  def margins(self, episodes: Sequence[Episode]) -> list[Float[np.ndarray, " episodes"]]:
    """The margin of each episode's query after 0, 1, ... shots; nan where it is not measured.

    It is the log-ratio to the base, both given the question alone: exactly 0 after 0 shots.

    Args:
      episodes: with equally many shots and one query each.

    Raises:
      ValueError: the episodes are not of that form, `ks` asks for more shots than they have, or
        the training diverged.
    """
    ks, shots = self.settings.ks, self._shots(episodes)
    if shots < max(ks):
      raise ValueError(f"user_finetuning.ks={ks}, but the episodes have {shots} shots")
    check_one_query(episodes)
    found = np.full((shots + 1, len(episodes)), np.nan, np.float32)
    measured = episodes[: self.settings.episodes]
    if 0 in ks:
      found[0, : len(measured)] = 0.0
    trained = [k for k in ks if k]
    with metrics.progress_bar() as bar:
      task = bar.add_task("users' own parameters", total=len(measured) * len(trained), note="")
      groups = self._groups([(*e.shots, e.queries[0]) for e in measured]) if trained else ()
      for users, batch in groups:
        query = jax.tree.map(lambda x: x[:, -1:], batch)
        for k in trained:
          own = self._train(jax.tree.map(lambda x, k=k: x[:, :k], batch), measured, users)
          values = _margins(self.model, self.settings, self.vocab_chunk, self.params, own, query)
          self._check(values, measured, users)
          found[k, users] = np.asarray(values)[: len(users)]
          bar.update(task, advance=len(users))
    return list(found)

  def respond(
    self,
    episodes: Sequence[Episode],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    seed: int,
  ) -> list[list[Written]]:
    """Answers each user's prompts, without any context, after fine-tuning on all their shots.

    Args:
      episodes: the users' shots, equally many.
      prompts: of each user.
      decoding: how tokens are chosen.
      seed: with the indices of user and prompt, all that the sampling depends on.

    Returns:
      For each user, a response to each prompt.

    Raises:
      ValueError: the users and their prompts do not match, or the training diverged.
    """
    if len(prompts) != len(episodes):
      raise ValueError(f"{len(episodes)} users, but prompts for {len(prompts)}")
    answers = []
    for user, params in enumerate(self.parameters(episodes)):
      # A writer counts users from 0, and each of ours has one to themselves.
      own = int(np.random.SeedSequence([seed, user]).generate_state(1, np.uint64)[0])
      writer = Writer(self.model, params, self.formatter)
      answers += writer.respond([()], [prompts[user]], decoding, seed=own)
    return answers

  def parameters(self, episodes: Sequence[Episode]) -> Iterator[dict]:
    """Each user's own parameters after fine-tuning on all the shots of their episode."""
    if self._shots(episodes) == 0:
      yield from [self.params] * len(episodes)
      return
    for users, batch in self._groups([e.shots for e in episodes]):
      trained = self._train(batch, episodes, users)
      for i in range(len(users)):
        yield _applied(self.settings, self.params, jax.tree.map(lambda x, i=i: x[i], trained))

  def _shots(self, episodes: Sequence[Episode]) -> int:
    count = shots_of(episodes)
    if not all(isinstance(shot, Preference) for e in episodes for shot in e.shots):
      raise ValueError("expected shots that are preferences; found pages, which compare nothing")
    return count

  def _group(self, users: int) -> int:
    return min(self.settings.users_at_once, users)

  def _groups(
    self, pairs: Sequence[Sequence[Preference]]
  ) -> Iterator[tuple[list[int], batching.TreeBatch]]:
    """Groups of users with their pairs [users, pairs, ...], of one static shape.

    The last group is filled up with the first users, who are not among the ones that are named.
    """
    count = len(pairs[0])
    source = [Episode("", (), (pair,)) for own in pairs for pair in own]
    packing = batching.fit_packing(source, self.formatter, _LAYOUT, 0, multiple=16)
    row = batching.Rows(source.__getitem__, self.formatter, _LAYOUT, packing)
    group = self._group(len(pairs))
    for first in range(0, len(pairs), group):
      users = [u % len(pairs) for u in range(first, first + group)]
      batch = batching.stack([row(u * count + i) for u in users for i in range(count)])
      shaped = jax.tree.map(lambda x: x.reshape(group, count, *x.shape[1:]), batch)
      yield users[: len(pairs) - first], shaped

  def _train(self, shots: batching.TreeBatch, episodes: Sequence[Episode], users: list[int]) -> Any:
    """What is trained, for each user of a group."""
    start: Any = self.params
    if self.settings.lora is not None:
      start = lora.init(jax.random.key(self.seed), self.params, self.settings.lora)
    else:
      # Small updates would be lost to rounding in half precision.
      start = jax.tree.map(lambda x: x.astype(jnp.float32), start)
    trained, norms = _trained(
      self.model, self.settings, self.vocab_chunk, self.params, start, shots
    )
    self._check(norms, episodes, users)
    return trained

  def _check(
    self, values: Float[Array, " group"], episodes: Sequence[Episode], users: list[int]
  ) -> None:
    # Not a number is how a margin says that it was not measured: it must not mean anything else.
    finite = np.isfinite(np.asarray(values))[: len(users)]
    if not finite.all():
      raise ValueError(
        f"fine-tuning on the shots of user {episodes[users[int(finite.argmin())]].user_id!r} "
        f"diverged: lower user_finetuning.learning_rate={self.settings.learning_rate}"
      )


def _applied(settings: Settings, params: dict, trained: Any) -> dict:
  """A user's parameters: the base's with the adapters merged, or those trained in their place."""
  if settings.lora is not None:
    return lora.merge(params, trained, settings.lora)
  return jax.tree.map(lambda x, base: x.astype(base.dtype), trained, params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _trained(
  model: transformer.Transformer,
  settings: Settings,
  vocab_chunk: int,
  params: dict,
  start: Any,
  shots: batching.TreeBatch,
) -> tuple[Any, Float[Array, " users"]]:
  """What is trained, after `steps` steps from `start`, and its norm, for each user."""
  adam = optax.adam(settings.learning_rate)
  objective = settings.loss

  def of_user(batch: batching.TreeBatch) -> tuple[Any, Float[Array, ""]]:
    counts = step.token_counts(batch)
    reference = None
    if objective.needs_reference:
      reference = scoring.segment_scores(model, params, batch, chunk=vocab_chunk)

    def loss(trained: Any) -> Float[Array, ""]:
      own = _applied(settings, params, trained)
      policy = scoring.segment_scores(model, own, batch, chunk=vocab_chunk)
      return step.objective_value(objective, policy, reference, batch, counts)[0]

    def update(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
      trained, state = carry
      updates, state = adam.update(jax.grad(loss)(trained), state)
      return (optax.apply_updates(trained, updates), state), None

    (trained, _), _ = jax.lax.scan(update, (start, adam.init(start)), length=settings.steps)
    return trained, optax.global_norm(trained)

  return jax.vmap(of_user)(shots)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _margins(
  model: transformer.Transformer,
  settings: Settings,
  vocab_chunk: int,
  params: dict,
  trained: Any,
  query: batching.TreeBatch,
) -> Float[Array, " users"]:
  """The margin of each user's one pair, under what was trained for them, against the base."""

  def of_user(own: Any, batch: batching.TreeBatch) -> Float[Array, ""]:
    policy, reference = (
      scoring.segment_scores(model, p, batch, chunk=vocab_chunk)
      for p in (_applied(settings, params, own), params)
    )
    return step.pair_margins(policy, reference, batch, length_normalize=False)[0, 0]

  return jax.vmap(of_user)(trained, query)
