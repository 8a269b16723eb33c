# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scoring: log-probabilities of the scored tokens alone, in chunks of the vocabulary.

Logits of a whole batch are never materialised: hidden states are gathered where a scored token is
predicted, and the log-sum-exp runs over the vocabulary chunk by chunk, recomputed backwards.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from fspo_jax.models import transformer


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


# Over the chunks so far: the largest logit, the sum of exponentials under it, the target's logit.
_Carry = tuple[Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"]]


def token_logprobs(
  hidden: Float[Array, "*batch D"],
  head: Float[Array, "D V"],
  targets: Int[Array, "*batch"],
  *,
  chunk: int,
) -> Float[Array, "*batch"]:
  """Log-probability of `targets`, in float32, a chunk of the vocabulary at a time.

  Args:
    hidden: hidden states where the targets are predicted.
    head: the vocabulary projection.
    targets: token ids.
    chunk: vocabulary entries per chunk.

  Returns:
    log softmax(hidden @ head)[targets].
  """
  vocab = head.shape[1]
  chunks = -(-vocab // chunk)
  padded = jnp.pad(head, ((0, 0), (0, chunks * chunk - vocab)))
  pieces = jnp.moveaxis(padded.reshape(head.shape[0], chunks, chunk), 1, 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def step(
    carry: _Carry, piece_and_start: tuple[Float[Array, "D C"], Int[Array, ""]]
  ) -> tuple[_Carry, None]:
    largest, total, target_logit = carry
    piece, start = piece_and_start
    logits = jnp.matmul(hidden, piece.astype(hidden.dtype), preferred_element_type=jnp.float32)
    ids = start + jnp.arange(chunk)
    logits = jnp.where(ids < vocab, logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.maximum(largest, logits.max(-1)))
    total = total * jnp.exp(largest - top) + jnp.exp(logits - top[..., None]).sum(-1)
    local = targets - start
    here = (local >= 0) & (local < chunk)
    picked = jnp.take_along_axis(logits, jnp.clip(local, 0, chunk - 1)[..., None], axis=-1)
    return (top, total, jnp.where(here, picked[..., 0], target_logit)), None

  zeros = jnp.zeros(targets.shape, jnp.float32)
  starts = jnp.arange(chunks) * chunk
  (largest, total, target_logit), _ = jax.lax.scan(
    step, (zeros - 1e30, zeros, zeros), (pieces, starts)
  )
  return target_logit - largest - jnp.log(total)


def segment_scores(
  model: transformer.Transformer, params: dict, batch: ScoredTrees, *, chunk: int
) -> SegmentScores:
  """Scores every segment of a batch of token trees.

  Args:
    model: the decoder.
    params: its parameters.
    batch: an `episodes.batching.TreeBatch`.
    chunk: vocabulary entries per chunk.

  Returns:
    Log-probability and length of each segment; 0 and 0 for padding.
  """
  hidden, _ = model.apply(
    {"params": params}, batch.tokens, batch.positions, batch.roles, batch.subtree_end
  )
  gathered = jnp.take_along_axis(hidden, batch.source[..., None], axis=1)
  logprobs = token_logprobs(
    gathered, transformer.head(params, model.config), batch.target, chunk=chunk
  )
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
