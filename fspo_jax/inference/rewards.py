# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The implicit reward: what a preference-trained policy thinks that a user likes.

It ranks responses, and so also the policy's own: of several samples the best may be kept, which
asks nothing more of the user (`ImplicitReward.respond`).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools

import jax
from jaxtyping import Array, Float
import numpy as np

from fspo_jax import losses
from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import Layout
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import scoring, transformer
from fspo_jax.preferences import Preference
from fspo_jax.training import step

_BUCKET = 64  # tokens; a row is rounded up to it, so that few shapes are compiled
_ROWS, _SHOTS = 8, 8  # rows that are scored at once; their shots are rounded up to a multiple


@dataclasses.dataclass(frozen=True)
class ImplicitReward:
  """beta * (log pi(response | shots, prompt) - log pi_ref(the same)), DPO's implicit reward.

  As arXiv 2305.18290, section 4; each per token if the policy was trained so, and without the
  reference for objectives that have none. Only differences between responses to one prompt mean
  anything.

  Attributes:
    policy: what was trained.
    reference: parameters of what it was trained against; None where they are not at hand.
    objective: what it was trained to minimise; None for what was not trained on preferences.
    vocab_chunk: vocabulary entries per chunk of the projection.
  """

  policy: Writer
  reference: dict | None
  objective: step.Objective | None
  vocab_chunk: int

  def check(self) -> None:
    """ValueError for a model that was not trained on preferences, or without its reference."""
    objective = self.objective
    if objective is None or not objective.needs_pairs:
      raise ValueError("found a model that was not trained on preferences: it has no rewards")
    if objective.needs_reference and self.reference is None:
      raise ValueError(
        f"the rewards of loss.name={objective.name!r} compare with the reference, which is not "
        "beside this checkpoint; load the run's directory"
      )

  def of(
    self, shots: Sequence[Preference], prompt: str, responses: Sequence[str]
  ) -> Float[np.ndarray, " responses"]:
    """The reward of each response to a prompt, the shots read once for all of them.

    Args:
      shots: of the user, oldest first.
      prompt: what was asked.
      responses: to compare.

    Raises:
      ValueError: as `check` does.
    """
    self.check()
    if not responses:
      return np.zeros(0, np.float32)
    # One row: the shots once, and every response as a segment of its own after them.
    layout = Layout(query_shots=(len(shots),), rejected=False)
    queries = tuple(Preference(prompt, response, "") for response in responses)
    episode, form = Episode("", tuple(shots), queries), self.policy.formatter
    packing = batching.fit_packing(
      [episode], form, layout, len(shots), queries=len(responses), multiple=_BUCKET
    )
    row = batching.Rows(lambda _: episode, form, layout, packing)(0)
    return self._segments(batching.stack([row]))[0, : len(responses)]

  def margins(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """The reward of the first response of each pair minus that of the second, for many users.

    Args:
      contexts: the shots of each user, oldest first.
      pairs: of each, equally many; `chosen` is the first response, whoever likes it.

    Raises:
      ValueError: as `check` does.
    """
    self.check()
    if not contexts or not pairs[0]:
      return np.zeros((len(contexts), 0), np.float32)
    episodes = [
      Episode("", tuple(shots), tuple(asked)) for shots, asked in zip(contexts, pairs, strict=True)
    ]
    # After as many shots as each has; rounded up, so that few shapes are compiled.
    most = -(-max(1, *(len(e.shots) for e in episodes)) // _SHOTS) * _SHOTS
    layout, count = Layout(query_shots=(most,)), len(pairs[0])
    form = self.policy.formatter
    packing = batching.fit_packing(
      episodes, form, layout, most, queries=count, multiple=4 * _BUCKET
    )
    rows = batching.Rows(lambda i: episodes[i % len(episodes)], form, layout, packing)
    together = min(_ROWS, len(episodes))
    found = []
    for first in range(0, len(episodes), together):
      batch = batching.stack([rows(i) for i in range(first, first + together)])
      rewards = self._segments(batch)
      better, worse = (
        np.take_along_axis(rewards, np.asarray(of)[:, :count], 1)
        for of in (batch.pair_chosen, batch.pair_rejected)
      )
      found.append(better - worse)
    return np.concatenate(found)[: len(episodes)]

  def respond(
    self,
    users: Sequence[Sequence[Preference]],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    n: int,
    seed: int,
    descriptions: Sequence[str | None] | None = None,
  ) -> list[list[Written]]:
    """The best of n responses of the policy to each prompt, by the reward (best-of-n sampling).

    The reward is that of the shots alone, also of what is written under a description: a wrong
    description is not believed twice.

    Args:
      users: the shots of each user.
      prompts: of each user, equally many.
      decoding: how tokens are chosen.
      n: responses that are sampled, of which the first of the best is kept; one that was cut at
        the token limit only if all were.
      seed: with the indices of user, prompt and sample, all that the randomness depends on.
      descriptions: of each user, put after the shots.

    Raises:
      ValueError: n is less than 1, or several are asked for at temperature 0, where all are the
        same; or as `check` and `Writer.respond` do.
    """
    self.check()
    if n < 1 or (n > 1 and decoding.temperature == 0.0):
      raise ValueError(
        f"found {n} responses at temperature {decoding.temperature}, expected 1 or more, and 1 at "
        "temperature 0, where all of them are the same"
      )
    repeated = [[prompt for prompt in own for _ in range(n)] for own in prompts]
    written = self.policy.respond(users, repeated, decoding, seed=seed, descriptions=descriptions)
    return [
      [self._best(shots, prompt, own[i * n : (i + 1) * n]) for i, prompt in enumerate(asked)]
      for shots, asked, own in zip(users, prompts, written, strict=True)
    ]

  def _best(self, shots: Sequence[Preference], prompt: str, written: Sequence[Written]) -> Written:
    if len(written) == 1:
      return written[0]
    # Also texts that came twice: rows of as many responses have few shapes to compile.
    rewards = self.of(shots, prompt, [w.text for w in written])
    finished = np.array([w.finished for w in written])
    if finished.any():
      rewards = np.where(finished, rewards, -np.inf)
    return written[int(np.argmax(rewards))]

  def _segments(self, batch: batching.TreeBatch) -> Float[np.ndarray, "rows segments"]:
    """The reward of every segment."""
    values = self._scores(self.policy.params, batch)
    if self.objective.needs_reference:
      values = values - self._scores(self.reference, batch)
    return self.objective.beta * np.asarray(values)

  def _scores(self, params: dict, batch: batching.TreeBatch) -> Float[Array, "rows segments"]:
    return _scores(
      self.policy.model, params, batch, self.vocab_chunk, self.objective.length_normalize
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _scores(
  model: transformer.Transformer,
  params: dict,
  batch: batching.TreeBatch,
  vocab_chunk: int,
  length_normalize: bool,
) -> Float[Array, "rows segments"]:
  """Log-probability of every response, or its mean over tokens."""
  scores = scoring.segment_scores(model, params, batch, chunk=vocab_chunk)
  return losses.normalize(scores.logprob, scores.length, length_normalize)
