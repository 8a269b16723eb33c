# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contender of VPL: users are told by latents of their shots, and nothing is in the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from fspo_jax import sharding
from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode, ShotsAsked
from fspo_jax.episodes.templates import Layout
from fspo_jax.evaluation.contenders import (
  Margins,
  Models,
  check_one_query,
  shots_of,
)
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Written
from fspo_jax.models import scoring, transformer, vpl
from fspo_jax.training.step import pair_margins
from fspo_jax.training.vpl import pair_features

_LAYOUT = Layout(query_shots=(0,))


@dataclasses.dataclass(frozen=True)
class Variational:
  """VPL in the evaluation: the latent is the posterior's mean, as of a user without a draw.

  Attributes:
    models: the base, which embeds, and the policy with its encoder.
    config: of the latent.
    rows: episodes scored together.
    max_row_tokens: an episode of more tokens is refused: nothing of it may be left out.
  """

  models: Models
  config: vpl.VplConfig
  rows: int
  max_row_tokens: int

  def margins(self, episodes: Sequence[Episode]) -> list[Margins]:
    """The margin of each episode's query after 0, 1, ... of its shots, against the base.

    Args:
      episodes: with equally many shots and one query each.
    """
    check_one_query(episodes)
    shots = shots_of(episodes)
    found = np.full((shots + 1, len(episodes)), np.nan, np.float32)
    batches = self._batches([ShotsAsked(episodes.__getitem__)(i) for i in range(len(episodes))])
    alone = self._batches([dataclasses.replace(e, shots=()) for e in episodes])
    for (here, pairs), (_, query) in zip(batches, alone, strict=True):
      with sharding.use(self.models.mesh):
        values = _margins(
          self.models.model,
          self.config,
          self.models.vocab_chunk,
          shots,
          self.models.base,
          self.models.policy,
          pairs,
          query,
        )
      found[:, here] = np.asarray(values)[:, : len(here)]
    return list(found)

  def respond(
    self,
    episodes: Sequence[Episode],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    seed: int,
  ) -> list[list[Written]]:
    """Responses of the policy under the latent of all of a user's shots, and no context."""
    return self.models.writer(trained=True).respond(
      [()] * len(episodes), prompts, decoding, seed=seed, offsets=self.offsets(episodes)
    )

  def offsets(self, episodes: Sequence[Episode]) -> Float[np.ndarray, "episodes D"]:
    """The offset of each user's embeddings, from all of their shots."""
    found = np.zeros((len(episodes), self.models.model.config.width), np.float32)
    if shots_of(episodes) == 0:
      return found  # the prior's mean
    shown = [dataclasses.replace(e, shots=(), queries=e.shots) for e in episodes]
    for here, pairs in self._batches(shown):
      with sharding.use(self.models.mesh):
        values = _offsets(
          self.models.model,
          self.config,
          self.models.vocab_chunk,
          self.models.base,
          self.models.policy,
          pairs,
        )
      found[here] = np.asarray(values)[: len(here)]
    return found

  def _batches(self, episodes: Sequence[Episode]) -> Iterator[tuple[list[int], batching.TreeBatch]]:
    """Episodes without shots, equally long; the last batch is filled up with the first ones."""
    formatter = self.models.formatter
    packing = batching.fit_packing(
      episodes,
      formatter,
      _LAYOUT,
      0,
      queries=len(episodes[0].queries),
      limit=self.max_row_tokens,
    )
    rows = batching.Rows(lambda i: episodes[i % len(episodes)], formatter, _LAYOUT, packing)
    for first in range(0, len(episodes), self.rows):
      here = list(range(first, min(first + self.rows, len(episodes))))
      batch = batching.stack([rows(i) for i in range(first, first + self.rows)])
      yield here, sharding.to_global(self.models.mesh, batch)


def _encoded(
  config: vpl.VplConfig,
  policy: dict,
  features: Float[Array, "B G D"],
  batch: batching.TreeBatch,
  known: Int[Array, ""] | int,
) -> Float[Array, "B D"]:
  """The offset of users who are known by their first `known` pairs."""
  which = jnp.arange(batch.pair_weight.shape[1]) < known
  offset, _ = vpl.encode(
    config,
    policy,
    pair_features(features, batch.pair_chosen),
    pair_features(features, batch.pair_rejected),
    jnp.broadcast_to(which, batch.pair_weight.shape),
  )
  return offset


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _margins(
  model: transformer.Transformer,
  config: vpl.VplConfig,
  vocab_chunk: int,
  shots: int,
  base: dict,
  policy: dict,
  pairs: batching.TreeBatch,
  query: batching.TreeBatch,
) -> Float[Array, "ks B"]:
  """The margin of each row's query after 0 .. `shots` of its other pairs."""
  _, features = scoring.segment_scores_and_features(model, base, pairs, chunk=vocab_chunk)
  reference = scoring.segment_scores(model, base, query, chunk=vocab_chunk)

  def after(k: Array) -> Float[Array, " B"]:
    offset = _encoded(config, policy, features, pairs, k)
    scores = scoring.segment_scores(model, policy, query, chunk=vocab_chunk, offset=offset)
    return pair_margins(scores, reference, query, length_normalize=False)[:, 0]

  return jax.lax.map(after, jnp.arange(shots + 1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _offsets(
  model: transformer.Transformer,
  config: vpl.VplConfig,
  vocab_chunk: int,
  base: dict,
  policy: dict,
  batch: batching.TreeBatch,
) -> Float[Array, "B D"]:
  _, features = scoring.segment_scores_and_features(model, base, batch, chunk=vocab_chunk)
  return _encoded(config, policy, features, batch, batch.pair_weight.shape[1])
