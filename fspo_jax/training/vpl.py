# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step of VPL: an encoder of a user's preferences, and a policy given its latent.

The evidence lower bound of variational preference learning (Poddar et al., arXiv 2408.10075,
section 4) is E_{z ~ q(z | D)} [sum of log p(y | s_A, s_B, z)] - KL(q || N(0, I)). Its likelihood is
Bradley-Terry's of rewards; DPO's of implicit ones is the same with r = beta (log pi(. | z) -
log ref), and IPO stands in its place where the loss is IPO. D is the first k pairs of an episode, k
drawn anew, and what is explained are the pairs after them: a latent need not hold what is known.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import optax

from fspo_jax.episodes.batching import TreeBatch
from fspo_jax.episodes.templates import Kind
from fspo_jax.models import scoring, transformer, vpl
from fspo_jax.training import state as state_lib
from fspo_jax.training import step as step_lib


def pair_features(
  features: Float[Array, "B G D"], segments: Int[Array, "B P"]
) -> Float[Array, "B P D"]:
  """The features of each pair's chosen, or rejected, segment."""
  return jnp.take_along_axis(features, segments[..., None], axis=1)


def unknown_only(batch: TreeBatch, known: Bool[Array, "B P"]) -> TreeBatch:
  """The batch without what the pairs that the latent is from would add to a loss."""
  rows = jnp.arange(known.shape[0])[:, None]
  kinds = jnp.asarray(batch.segment_kind)
  for segments in (batch.pair_chosen, batch.pair_rejected):
    kept = jnp.take_along_axis(kinds, segments, axis=1)
    # Padding pairs name segment 0, whose own pair decides: they must not.
    where = jnp.where(batch.pair_weight > 0, segments, kinds.shape[1])
    kinds = kinds.at[rows, where].set(jnp.where(known, Kind.PADDING, kept), mode="drop")
  return batch._replace(segment_kind=kinds, pair_weight=batch.pair_weight * ~known)


def make_step(
  model: transformer.Transformer,
  objective: step_lib.Objective,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  vocab_chunk: int,
  config: vpl.VplConfig,
  shots: int,
  steps: int,
  seed: int,
) -> step_lib.MeshStep:
  """The jitted step (state, reference params, batch) -> (state, metrics).

  Args:
    model: the decoder.
    objective: of the pairs given the latent; it needs a reference.
    optimizer: the update rule.
    mesh: where it runs.
    vocab_chunk: vocabulary entries per chunk of the projection.
    config: of the latent.
    shots: a user is known by the first 0 .. `shots` pairs of an episode, as many of each number;
      rows have one episode, all of whose pairs hang each by itself.
    steps: of the run.
    seed: with the number of the step, all that is random.

  Returns:
    The step; it donates the state.
  """

  def loss(
    params: Any, reference_params: Any, batch: TreeBatch, key: Array, kl_weight: Float[Array, ""]
  ) -> tuple[Float[Array, ""], step_lib.Metrics]:
    with jax.named_scope("reference"):
      reference, features = jax.lax.stop_gradient(
        scoring.segment_scores_and_features(model, reference_params, batch, chunk=vocab_chunk)
      )
    pairs = batch.pair_weight.shape
    for_k, for_z = jax.random.split(key)
    k = jax.random.randint(for_k, (pairs[0], 1), 0, shots + 1)
    known = (jnp.arange(pairs[1])[None, :] < k) & (batch.pair_weight > 0)
    offset, posterior = vpl.encode(
      config,
      params,
      pair_features(features, batch.pair_chosen),
      pair_features(features, batch.pair_rejected),
      known,
      for_z,
    )
    policy = scoring.segment_scores(model, params, batch, chunk=vocab_chunk, offset=offset)
    asked = unknown_only(batch, known)
    value, metrics = step_lib.objective_value(
      objective, policy, reference, asked, step_lib.token_counts(asked)
    )
    divergence = vpl.kl(posterior).mean()
    metrics["vpl/kl"] = divergence
    metrics["vpl/kl_weight"] = kl_weight
    metrics["loss"] = value + kl_weight * divergence
    return metrics["loss"], metrics

  anneal = max(round(config.kl_anneal * steps), 1)

  def step(
    state: state_lib.TrainState, reference_params: Any, batch: TreeBatch
  ) -> tuple[state_lib.TrainState, step_lib.Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    kl_weight = config.kl_weight * jnp.minimum(state.step / anneal, 1.0)
    grads, metrics = jax.grad(loss, has_aux=True)(
      state.params, reference_params, batch, key, kl_weight
    )
    return step_lib.updated(state, grads, metrics, optimizer)

  return step_lib.on_mesh(step, mesh)
