# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preference accuracy: log-probabilities of evaluation pairs, for every number of shots at once."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Float, Int
import numpy as np

from fspo_jax.episodes import batching
from fspo_jax.episodes.templates import Context
from fspo_jax.inference import log_odds
from fspo_jax.models import transformer
from fspo_jax.training import metrics as metrics_lib


@dataclasses.dataclass(frozen=True)
class PairScores:
  """log p(chosen) - log p(rejected) of every pair of some episodes, under one model.

  Attributes:
    episode: index of the pair's episode.
    shots: number of shots the pair was conditioned on.
    context: `templates.Context` of the pair.
    difference: of the summed log-probabilities, in nats.
    dropped_shots: shots that rows had no room for.
    padding_fraction: part of the tokens that were padding.
  """

  episode: Int[np.ndarray, " n"]
  shots: Int[np.ndarray, " n"]
  context: Int[np.ndarray, " n"]
  difference: Float[np.ndarray, " n"]
  dropped_shots: int
  padding_fraction: float

  def at(self, shots: int, context: Context, episodes: int) -> Float[np.ndarray, " episodes"]:
    """The difference of each episode's pair after `shots` shots; nan where there is none.

    Several queries of an episode are averaged: an episode is one number.
    """
    here = (self.shots == shots) & (self.context == context)
    total = np.bincount(self.episode[here], self.difference[here], episodes)
    count = np.bincount(self.episode[here], minlength=episodes)
    return np.divide(total, count, out=np.full(episodes, np.nan), where=count > 0)


def score_pairs(
  model: transformer.Transformer,
  params: dict,
  rows: batching.Rows,
  episodes: int,
  *,
  rows_per_batch: int,
  mesh: jax.sharding.Mesh,
  vocab_chunk: int,
  label: str,
) -> PairScores:
  """Scores the pairs of episodes `0 .. episodes - 1`.

  Args:
    model: the decoder.
    params: its parameters.
    rows: the episodes by row.
    episodes: how many to score.
    rows_per_batch: rows scored together.
    mesh: where it runs.
    vocab_chunk: vocabulary entries per chunk of the projection.
    label: what the progress bar says.

  Returns:
    The scores, on the host.
  """
  packing = rows.packing
  used = -(-episodes // packing.window_episodes) * packing.window_rows
  steps = -(-used // rows_per_batch)

  columns: list[tuple[np.ndarray, ...]] = []
  dropped, padding = 0, []
  data = batching.batches(rows, rows_per_step=rows_per_batch, steps=steps)
  with metrics_lib.progress_bar() as bar:
    task = bar.add_task(label, total=steps, note="")
    for batch in data:
      difference = np.asarray(
        log_odds.of_pairs(model, params, batch, mesh=mesh, vocab_chunk=vocab_chunk)
      )
      first = batch.row // packing.window_rows * packing.window_episodes
      episode = first[:, None] + batch.pair_episode
      real = (batch.pair_weight > 0) & (episode < episodes)
      values = (episode, batch.pair_shots, batch.pair_context, difference)
      columns.append(tuple(v[real] for v in values))
      dropped += int(batch.dropped_shots.sum())
      padding.append(batching.padding_fraction(batch))
      bar.update(task, advance=1)
  episode, shots, context, difference = (np.concatenate(c) for c in zip(*columns, strict=True))
  return PairScores(episode, shots, context, difference, dropped, float(np.mean(padding)))
