# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scoring: log-probabilities of the scored tokens alone, in chunks of the vocabulary.

Logits of a whole batch are never materialised: hidden states are gathered where a scored token is
predicted, and the log-sum-exp runs over the vocabulary chunk by chunk, recomputed backwards.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

from flax import linen as nn
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


# Of each token, over the vocabulary seen so far: the largest logit, the sum of exponentials under
# it (apart, since their sum rounds), and the target's logit, or 0 where that has not been seen.
_Sums = tuple[Float[Array, " S"], Float[Array, " S"], Float[Array, " S"]]


def token_logprobs(
  hidden: Float[Array, "*batch D"],
  head: Float[Array, "D V"],
  targets: Int[Array, "*batch"],
  *,
  chunk: int,
  softcap: float = 0.0,
) -> Float[Array, "*batch"]:
  """Log-probability of `targets`, in float32, a chunk of the vocabulary at a time.

  No array of tokens x V is ever made, forwards or backwards: the largest is tokens x `chunk`, the
  size of the hidden states where `chunk` is D. Where a mesh has split the vocabulary, each part is
  gone through where it lies, all at once, and what is sent are three numbers a token, and backwards
  the gradient of the hidden states.

  Args:
    hidden: hidden states where the targets are predicted.
    head: the vocabulary projection.
    targets: token ids.
    chunk: vocabulary entries per chunk.
    softcap: bound of the logits, by tanh; 0 for none.

  Returns:
    log softmax(hidden @ head)[targets], of capped logits where there is a cap.
  """
  flat, flat_targets = (sharding.flat_tokens(x, targets.ndim) for x in (hidden, targets))
  return _logprobs(flat, head.T, flat_targets, chunk, softcap).reshape(targets.shape)


_NONE = np.iinfo(np.int32).min  # no token's id, counted from any part


class _Chunks(NamedTuple):
  """Where the chunks of a table are, each of `size` entries.

  Where that does not divide the table, the first chunk overlaps the second, and only its first
  `of_first` entries count: so that all are read where they lie.
  """

  starts: Int[np.ndarray, " N"]
  size: int
  of_first: int


def _chunks(vocab: int, chunk: int) -> _Chunks:
  count = -(-vocab // chunk)
  size = -(-vocab // count)  # of equal chunks hardly anything is computed twice
  of_first = vocab - (count - 1) * size
  starts = np.maximum(np.arange(-1, count - 1) * size + of_first, 0)
  return _Chunks(starts.astype(np.int32), size, of_first)


def _logits(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  start: Int[Array, ""],
  chunks: _Chunks,
  softcap: float,
) -> tuple[Float[Array, "S C"], Float[Array, "C D"], Int[Array, " C"]]:
  """The logits of a chunk, its entries as they were used, and their ids."""
  piece = jax.lax.dynamic_slice_in_dim(table, start, chunks.size).astype(hidden.dtype)
  # Brought together here, once for all its products, and not the whole table before.
  piece = nn.with_logical_constraint(piece, (None, "embed"))
  piece = nn.with_logical_constraint(piece, (None, None))
  logits = jnp.matmul(hidden, piece.T, preferred_element_type=jnp.float32)
  logits = soft_caps.soft_cap(logits, softcap)
  index = jnp.arange(chunks.size)
  if chunks.of_first == chunks.size:
    return logits, piece, start + index
  counts = (start > 0) | (index < chunks.of_first)
  ids = jnp.where(counts, start + index, _NONE)
  return jnp.where(counts[None, :], logits, -jnp.inf), piece, ids


def _look(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  chunk: int,
  softcap: float,
) -> _Sums:
  """Goes through a table; targets that are not in it are not seen."""
  chunks = _chunks(len(table), chunk)

  def step(sums: _Sums, start: Int[Array, ""]) -> tuple[_Sums, None]:
    largest, total, of_target = sums
    logits, _, ids = _logits(hidden, table, start, chunks, softcap)
    top = jnp.maximum(largest, logits.max(-1))
    total = total * jnp.exp(largest - top) + jnp.exp(logits - top[:, None]).sum(-1)
    is_target = ids[None, :] == targets[:, None]
    return (top, total, of_target + jnp.where(is_target, logits, 0.0).sum(-1)), None

  zeros = jnp.zeros(targets.shape, jnp.float32)
  return jax.lax.scan(step, (zeros - 1e30, zeros, zeros), chunks.starts)[0]


def _look_back(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  largest: Float[Array, " S"],
  total: Float[Array, " S"],
  g: Float[Array, " S"],
  chunk: int,
  softcap: float,
) -> tuple[Float[Array, "S D"], Float[Array, "V D"]]:
  """The gradients of hidden states and table, from g (one-hot(target) - softmax) d logits."""
  chunks = _chunks(len(table), chunk)

  def step(found: tuple[Array, Array], start: Int[Array, ""]) -> tuple[tuple[Array, Array], None]:
    d_hidden, d_table = found
    logits, piece, ids = _logits(hidden, table, start, chunks, softcap)
    softmax = jnp.exp(logits - largest[:, None]) / total[:, None]
    is_target = ids[None, :] == targets[:, None]
    d_logits = (is_target - softmax) * g[:, None]
    if softcap:
      d_logits *= soft_caps.slope(logits, softcap)
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden += jnp.matmul(d_logits, piece, preferred_element_type=jnp.float32)
    d_piece = jnp.matmul(d_logits.T, hidden, preferred_element_type=jnp.float32)
    # What the first chunk writes of the second, that writes anew.
    d_piece = d_piece.astype(table.dtype)
    return (d_hidden, jax.lax.dynamic_update_slice_in_dim(d_table, d_piece, start, 0)), None

  d_table = nn.with_logical_constraint(jnp.zeros_like(table), (None, "embed"))
  return jax.lax.scan(step, (jnp.zeros(hidden.shape, jnp.float32), d_table), chunks.starts)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _logprobs(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  chunk: int,
  softcap: float,
) -> Float[Array, " S"]:
  return _logprobs_forward(hidden, table, targets, chunk, softcap)[0]


@jax.named_scope("head")
def _logprobs_forward(
  hidden: Float[Array, "S D"],
  table: Float[Array, "V D"],
  targets: Int[Array, " S"],
  chunk: int,
  softcap: float,
) -> tuple[Float[Array, " S"], Any]:
  def look(part: Float[Array, "V D"], first: Array, hidden: Array, targets: Array) -> Any:
    return _look(hidden, part, targets - first, chunk, softcap), None

  (tops, totals, of_target), _ = sharding.over_vocab(look, table, hidden, targets)
  largest = tops.max(0)
  total = (totals * jnp.exp(tops - largest[None])).sum(0)
  saved = hidden, table, targets, largest, total
  return of_target.sum(0) - largest - jnp.log(total), saved


@jax.named_scope("head")
def _logprobs_backward(
  chunk: int, softcap: float, saved: Any, g: Float[Array, " S"]
) -> tuple[Array, Array, None]:
  hidden, table, *of_tokens = saved

  def look_back(
    part: Float[Array, "V D"], first: Array, hidden: Array, targets: Array, *rest: Array
  ) -> tuple[Array, Array]:
    return _look_back(hidden, part, targets - first, *rest, chunk, softcap)

  d_hidden, d_table = sharding.over_vocab(look_back, table, hidden, *of_tokens, g)
  return d_hidden.sum(0).astype(hidden.dtype), d_table, None


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
