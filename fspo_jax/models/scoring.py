# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scoring: log-probabilities of the scored tokens alone, in chunks of the vocabulary.

Logits of a whole batch are never materialised: hidden states are gathered where a scored token is
predicted, and the log-sum-exp runs over the vocabulary chunk by chunk, recomputed backwards.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from fspo_jax import sharding
from fspo_jax.models import soft_caps, transformer


class ScoredTrees(Protocol):
  """What scoring reads of a batch of token trees; `episodes.batching.TreeBatch` says what it is."""

  tokens: Int[Array | np.ndarray, "B L"]
  positions: Int[Array | np.ndarray, "B L"]
  roles: Int[Array | np.ndarray, "B L"]
  subtree_end: Int[Array | np.ndarray, "B L"]
  source: Int[Array | np.ndarray, "B S"]
  target: Int[Array | np.ndarray, "B S"]
  segment: Int[Array | np.ndarray, "B S"]
  segment_kind: Int[Array | np.ndarray, "B G"]


class SegmentScores(NamedTuple):
  """Log-probability of each scored segment (summed over its tokens, with EOS) and its length."""

  logprob: Float[Array, "B G"]
  length: Float[Array, "B G"]


# Over the chunks so far: the largest logit, and the sum of exponentials under it.
_Carry = tuple[Float[Array, " S"], Float[Array, " S"]]


def token_logprobs(
  hidden: Float[Array, "*batch D"],
  head: Float[Array, "D V"],
  targets: Int[Array, "*batch"],
  *,
  chunk: int,
  softcap: float = 0.0,
) -> Float[Array, "*batch"]:
  """Log-probability of `targets`, in float32, a chunk of the vocabulary at a time.

  Args:
    hidden: hidden states where the targets are predicted.
    head: the vocabulary projection.
    targets: token ids.
    chunk: vocabulary entries per chunk.
    softcap: bound of the logits, by tanh; 0 for none.

  Returns:
    log softmax(hidden @ head)[targets], of capped logits where there is a cap.
  """
  flat = hidden.reshape(-1, hidden.shape[-1])
  return _logprobs(flat, head.T, targets.reshape(-1), chunk, softcap).reshape(targets.shape)


def _chunks(table: Float[Array, "V D"], chunk: int) -> tuple[Float[Array, "N C D"], Array]:
  """The table in pieces, the last one padded, and the id that each piece starts at."""
  vocab, width = table.shape
  chunk = min(chunk, vocab)
  count = -(-vocab // chunk)
  padded = jnp.pad(table, ((0, count * chunk - vocab), (0, 0)))
  return padded.reshape(count, chunk, width), jnp.arange(count) * chunk


def _logits(
  hidden: Float[Array, "S D"], piece: Float[Array, "C D"], start: Array, vocab: int, softcap: float
) -> Float[Array, "S C"]:
  logits = jnp.matmul(hidden, piece.astype(hidden.dtype).T, preferred_element_type=jnp.float32)
  logits = soft_caps.soft_cap(logits, softcap)
  if vocab % piece.shape[0] == 0:
    return logits
  return jnp.where((start + jnp.arange(piece.shape[0]) < vocab)[None, :], logits, -jnp.inf)


def _target_logits(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  softcap: float,
) -> Float[Array, " S"]:
  # Rounded as in `_logits`, or probabilities would not add up to 1 in half precision.
  rows = table[targets].astype(hidden.dtype).astype(jnp.float32)
  return soft_caps.soft_cap((hidden.astype(jnp.float32) * rows).sum(-1), softcap)


def _normalizer(
  hidden: Float[Array, "S D"], table: Float[Array, "V D"], chunk: int, softcap: float
) -> _Carry:
  """The largest logit, and the sum of exponentials under it: apart, since their sum rounds."""

  def step(carry: _Carry, piece_and_start: tuple[Array, Array]) -> tuple[_Carry, None]:
    largest, total = carry
    logits = _logits(hidden, *piece_and_start, table.shape[0], softcap)
    top = jnp.maximum(largest, logits.max(-1))
    total = total * jnp.exp(largest - top) + jnp.exp(logits - top[:, None]).sum(-1)
    return (top, total), None

  zeros = jnp.zeros(hidden.shape[0], jnp.float32)
  normalizer, _ = jax.lax.scan(step, (zeros - 1e30, zeros), _chunks(table, chunk))
  return normalizer


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _logprobs(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  chunk: int,
  softcap: float,
) -> Float[Array, " S"]:
  return _logprobs_forward(hidden, table, targets, chunk, softcap)[0]


def _logprobs_forward(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  chunk: int,
  softcap: float,
) -> tuple[Float[Array, " S"], Any]:
  largest, total = _normalizer(hidden, table, chunk, softcap)
  of_target = _target_logits(hidden, table, targets, softcap)
  return of_target - largest - jnp.log(total), (hidden, table, targets, of_target, largest, total)


def _logprobs_backward(
  chunk: int, softcap: float, saved: Any, g: Float[Array, " S"]
) -> tuple[Array, Array, None]:
  """The gradient, (one-hot(target) - softmax) d logits, a chunk at a time."""
  hidden, table, targets, target_logits, largest, total = saved

  def step(
    d_hidden: Float[Array, "S D"], piece_and_start: tuple[Array, Array]
  ) -> tuple[Array, Array]:
    piece, start = piece_and_start
    logits = _logits(hidden, piece, start, table.shape[0], softcap)
    softmax = jnp.exp(logits - largest[:, None]) / total[:, None]
    d_logits = softmax * -g[:, None]
    if softcap:
      d_logits *= soft_caps.slope(logits, softcap)
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden += jnp.matmul(d_logits, piece.astype(hidden.dtype), preferred_element_type=jnp.float32)
    d_piece = jnp.matmul(d_logits.T, hidden, preferred_element_type=jnp.float32)
    return d_hidden, d_piece

  g_target = g * soft_caps.slope(target_logits, softcap) if softcap else g
  of_target = g_target[:, None] * table[targets].astype(hidden.dtype).astype(jnp.float32)
  d_hidden, d_pieces = jax.lax.scan(step, of_target, _chunks(table, chunk))
  d_table = d_pieces.reshape(-1, table.shape[1])[: table.shape[0]]
  d_table = d_table.at[targets].add(g_target[:, None] * hidden.astype(jnp.float32))
  return d_hidden.astype(hidden.dtype), d_table.astype(table.dtype), None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)


def segment_scores(
  model: transformer.Transformer,
  params: dict,
  batch: ScoredTrees,
  *,
  chunk: int,
  offset: Float[Array, "B D"] | None = None,
) -> SegmentScores:
  """Scores every segment of a batch of token trees.

  Args:
    model: the decoder.
    params: its parameters.
    batch: an `episodes.batching.TreeBatch`.
    chunk: vocabulary entries per chunk.
    offset: of the token embeddings of each row; see `transformer.Transformer`.

  Returns:
    Log-probability and length of each segment; 0 and 0 for padding.
  """
  hidden = _scored_hidden(model, params, batch, offset)
  return _scores(model, params, batch, hidden, chunk)


def segment_scores_and_features(
  model: transformer.Transformer, params: dict, batch: ScoredTrees, *, chunk: int
) -> tuple[SegmentScores, Float[Array, "B G D"]]:
  """Scores every segment as `segment_scores` does, and gives its feature.

  That is the mean hidden state that its tokens are predicted from; 0 for padding.
  """
  hidden = _scored_hidden(model, params, batch, None)
  scores = _scores(model, params, batch, hidden, chunk)

  def by_segment(values: Float[Array, "S D"], ids: Int[Array, " S"]) -> Float[Array, "G D"]:
    segments = batch.segment_kind.shape[1]
    return jax.ops.segment_sum(values, ids, num_segments=segments + 1)[:segments]

  total = jax.vmap(by_segment)(hidden.astype(jnp.float32), batch.segment)
  return scores, total / jnp.maximum(scores.length, 1.0)[..., None]


def _scored_hidden(
  model: transformer.Transformer,
  params: dict,
  batch: ScoredTrees,
  offset: Float[Array, "B D"] | None,
) -> Float[Array, "B S D"]:
  """Hidden states where the scored tokens are predicted."""
  hidden, _ = model.apply(
    {"params": params},
    batch.tokens,
    batch.positions,
    batch.roles,
    batch.subtree_end,
    offset=offset,
  )
  hidden = sharding.gather_tokens(hidden)
  return sharding.split_tokens(jnp.take_along_axis(hidden, batch.source[..., None], axis=1))


def _scores(
  model: transformer.Transformer,
  params: dict,
  batch: ScoredTrees,
  hidden: Float[Array, "B S D"],
  chunk: int,
) -> SegmentScores:
  head, softcap = transformer.head(params, model.config), model.config.logit_softcap
  logprobs = token_logprobs(hidden, head, batch.target, chunk=chunk, softcap=softcap)
  return sum_segments(logprobs, batch)


def sum_segments(logprobs: Float[Array, "B S"], batch: ScoredTrees) -> SegmentScores:
  """Adds the scored tokens' log-probabilities up by segment."""
  segments = batch.segment_kind.shape[1]

  def by_segment(values: Float[Array, " S"], ids: Int[Array, " S"]) -> Float[Array, " G"]:
    # Padding tokens go to one segment more, which is cut off.
    return jax.ops.segment_sum(values, ids, num_segments=segments + 1)[:segments]

  total = jax.vmap(by_segment)(logprobs, batch.segment)
  length = jax.vmap(by_segment)(jnp.ones_like(logprobs), batch.segment)
  return SegmentScores(total, length)
