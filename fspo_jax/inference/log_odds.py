# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Log-odds of a batch's pairs under one model, on whatever mesh it lies."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fspo_jax import sharding
from fspo_jax.episodes import batching
from fspo_jax.models import scoring, transformer
from fspo_jax.training import step


def of_pairs(
  model: transformer.Transformer,
  params: dict,
  batch: batching.TreeBatch,
  *,
  mesh: jax.sharding.Mesh,
  vocab_chunk: int,
) -> Float[jax.Array, "B P"]:
  """The difference log p(chosen) - log p(rejected) of each pair, summed over tokens, in nats.

  Args:
    model: the decoder.
    params: its parameters, on the mesh.
    batch: this process's rows, on the host.
    mesh: where it runs; the axes that split rows divide these.
    vocab_chunk: vocabulary entries per chunk of the projection.
  """
  with sharding.use(mesh):
    return _of_pairs(model, params, sharding.to_global(mesh, batch), vocab_chunk)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _of_pairs(
  model: transformer.Transformer, params: dict, batch: batching.TreeBatch, vocab_chunk: int
) -> Float[jax.Array, "B P"]:
  scores = scoring.segment_scores(model, params, batch, chunk=vocab_chunk)
  nothing = jax.tree.map(jnp.zeros_like, scores)
  return step.pair_margins(scores, nothing, batch, length_normalize=False)
