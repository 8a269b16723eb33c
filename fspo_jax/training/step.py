# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training step: token trees in, a sharded update out."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import optax

from fspo_jax import losses, sharding
from fspo_jax.episodes.batching import TreeBatch
from fspo_jax.episodes.templates import Context, Kind
from fspo_jax.models import scoring, transformer
from fspo_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a stage minimises: a weighted sum of a preference loss and likelihoods.

  Attributes:
    name: the preference loss, one of `losses.PREFERENCE_LOSSES`.
    beta: its strength.
    label_smoothing: of DPO.
    length_normalize: log-probabilities per token instead of sums, in the preference loss.
    preference_weight: weight of the preference loss (mean over pairs); 0 for SFT.
    chosen_weight: weight of the chosen responses' negative log-likelihood (mean over tokens).
    description_weight: the same for descriptions.
    gamma: of SimPO, the target of beta times the difference in mean log-probability.
    desirable_weight: of KTO, lambda_D: the weight of chosen responses.
    undesirable_weight: of KTO, lambda_U: the weight of rejected responses.
  """

  name: str
  beta: float
  label_smoothing: float
  length_normalize: bool
  preference_weight: float
  chosen_weight: float
  description_weight: float
  gamma: float = 0.0
  desirable_weight: float = 1.0
  undesirable_weight: float = 1.0

  def __post_init__(self) -> None:
    for key in ("beta", "desirable_weight", "undesirable_weight"):
      if getattr(self, key) <= 0:
        raise ValueError(f"loss.{key}={getattr(self, key)} must be positive")
    if self.gamma < 0:
      raise ValueError(f"loss.gamma={self.gamma} must be 0 or more")
    zero = jnp.zeros(())
    self.preference_loss(zero, zero, zero)  # refuses what the loss does not have
    if self.name == "simpo" and not self.length_normalize:
      raise ValueError(
        f"loss.length_normalize={self.length_normalize}, expected True for loss.name='simpo': its "
        "reward is the mean log-probability of a token; without a reference, a sum is mostly length"
      )

  @property
  def needs_pairs(self) -> bool:
    """Whether pairs are scored: only the preference loss is about them."""
    return self.preference_weight > 0

  @property
  def needs_reference(self) -> bool:
    """Whether the reference is scored: only the preference loss compares with it, if at all."""
    return self.needs_pairs and self.name not in losses.REFERENCE_FREE

  @property
  def needs_reference_point(self) -> bool:
    """Whether the loss of a pair is relative to z_0, which the whole batch decides: KTO's is."""
    return self.needs_pairs and self.name == "kto"

  def preference_loss(
    self,
    chosen: losses.Scores,
    rejected: losses.Scores,
    z0: Float[Array, ""] | None,
  ) -> losses.Scores:
    """The preference loss of each pair, from its responses' log pi - log ref."""
    return losses.preference(
      self.name,
      chosen,
      rejected,
      beta=self.beta,
      label_smoothing=self.label_smoothing,
      gamma=self.gamma,
      desirable_weight=self.desirable_weight,
      undesirable_weight=self.undesirable_weight,
      z0=z0,
    )


# One update: (state, frozen, batch) -> (state, metrics). Frozen is what it reads and never changes:
# the reference's parameters, which where adapters are trained are also their base.
StepFn = Callable[[TrainState, Any, TreeBatch], tuple[TrainState, Metrics]]

# The policy's parameters, from those that are trained, what is frozen, and the batch.
PolicyFn = Callable[[Any, Any, TreeBatch], dict]


def all_trained(params: Any, frozen: Any, batch: TreeBatch) -> dict:
  """The policy whose parameters are all trained; `training.adapters` has the other."""
  del frozen, batch
  return params


def pair_log_ratios(
  policy: scoring.SegmentScores,
  reference: scoring.SegmentScores,
  batch: TreeBatch,
  length_normalize: bool,
) -> tuple[Float[Array, "B P"], Float[Array, "B P"]]:
  """Log pi - log ref of every pair's chosen and rejected response.

  Padding pairs give whatever segment 0 gives, with weight 0.
  """

  def pick(scores: scoring.SegmentScores, segments: Int[Array, "B P"]) -> Float[Array, "B P"]:
    values = losses.normalize(scores.logprob, scores.length, length_normalize)
    return jnp.take_along_axis(values, segments, axis=1)

  return (
    pick(policy, batch.pair_chosen) - pick(reference, batch.pair_chosen),
    pick(policy, batch.pair_rejected) - pick(reference, batch.pair_rejected),
  )


def pair_margins(
  policy: scoring.SegmentScores,
  reference: scoring.SegmentScores,
  batch: TreeBatch,
  length_normalize: bool,
) -> Float[Array, "B P"]:
  """H of every pair; padding pairs as in `pair_log_ratios`."""
  return losses.margin(*pair_log_ratios(policy, reference, batch, length_normalize))


def _weights(batch: TreeBatch) -> dict[str, Float[Array, "..."]]:
  """Masks of everything that is averaged."""
  described = batch.pair_context == Context.DESCRIPTION
  return {
    "pair": batch.pair_weight,
    "described_pair": batch.pair_weight * described,
    **{
      kind.name.lower(): (batch.segment_kind == kind).astype(jnp.float32)
      for kind in (Kind.CHOSEN, Kind.DESCRIPTION)
    },
  }


def token_counts(batch: TreeBatch) -> dict[str, Float[Array, ""]]:
  """Denominators of a batch: of pairs, and of scored tokens by kind."""
  weights = _weights(batch)
  ones = jnp.ones(batch.segment.shape, jnp.float32)
  length = scoring.sum_segments(ones, batch).length
  counts = {name: (weights[name] * length).sum() for name in ("chosen", "description")}
  counts["pair"] = weights["pair"].sum()
  counts["described_pair"] = weights["described_pair"].sum()
  return {name: jnp.maximum(count, 1.0) for name, count in counts.items()}


def mean_log_ratio(
  objective: Objective,
  policy: scoring.SegmentScores,
  reference: scoring.SegmentScores,
  batch: TreeBatch,
  counts: dict[str, Float[Array, ""]],
) -> Float[Array, ""]:
  """Mean of log pi - log ref over the pairs' responses: a part's share, which adds up over parts.

  Of the whole batch, `losses.reference_point` makes it KTO's z_0.
  """
  chosen, rejected = pair_log_ratios(policy, reference, batch, objective.length_normalize)
  return (batch.pair_weight * 0.5 * (chosen + rejected)).sum() / counts["pair"]


@jax.named_scope("objective")
def objective_value(
  objective: Objective,
  policy: scoring.SegmentScores,
  reference: scoring.SegmentScores | None,
  batch: TreeBatch,
  counts: dict[str, Float[Array, ""]],
  z0: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
  """The loss of (a part of) a batch, divided by the counts of the whole of it.

  Dividing by the whole batch's counts makes the parts' losses and gradients add up exactly, for
  gradient accumulation and for any sharding.

  Args:
    objective: what to minimise.
    policy: segment scores of the policy.
    reference: of the reference; None when the objective does not need them.
    batch: the token trees.
    counts: `token_counts` of the whole batch.
    z0: the reference point of the whole batch, for an objective that needs one.

  Returns:
    The loss and the metrics, all of which add up over parts.
  """
  weights = _weights(batch)
  terms, metrics = [], {}
  for kind, weight in (
    ("chosen", objective.chosen_weight),
    ("description", objective.description_weight),
  ):
    nll = losses.sft(policy.logprob, policy.length, length_normalize=False)
    value = (weights[kind] * nll).sum() / counts[kind]
    metrics[f"nll/{kind}"] = value
    terms.append(weight * value)
  if objective.needs_pairs and not objective.needs_reference:
    reference = jax.tree.map(jnp.zeros_like, policy)  # log pi itself is compared
  if reference is not None:
    chosen, rejected = pair_log_ratios(policy, reference, batch, objective.length_normalize)
    h = losses.margin(chosen, rejected)
    each = objective.preference_loss(chosen, rejected, z0)

    def mean(values: Float[Array, "B P"], name: str) -> Float[Array, ""]:
      return (weights[name] * values).sum() / counts[name]

    value = mean(each, "pair")
    terms.append(objective.preference_weight * value)
    correct = (h > 0) + 0.5 * (h == 0)
    metrics["preference/loss"] = value
    metrics["rewards/margins"] = objective.beta * mean(h, "pair")
    metrics["logps/abs_margins"] = mean(jnp.abs(h), "pair")
    metrics["rewards/accuracies"] = mean(correct, "pair")
    metrics["rewards/accuracies_described"] = mean(correct, "described_pair")
    if objective.needs_reference_point:
      metrics["preference/reference_point"] = mean(jnp.broadcast_to(z0, h.shape), "pair")
  loss = sum(terms)
  metrics["loss"] = loss
  return loss, metrics


def make_step(
  model: transformer.Transformer,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  *,
  vocab_chunk: int,
  accumulate: int,
  policy_params: PolicyFn = all_trained,
) -> MeshStep:
  """The jitted step (state, frozen, batch) -> (state, metrics).

  Args:
    model: the decoder.
    objective: what to minimise.
    optimizer: the update rule.
    mesh: where it runs.
    vocab_chunk: vocabulary entries per chunk of the projection.
    accumulate: parts the batch's rows are split into, one after another; the gradient is the
      whole batch's. KTO then takes one more forward pass, for the whole batch's reference point.
    policy_params: how the policy is made of what is trained.

  Returns:
    The step; it donates the state. Frozen may be None where nothing reads it: all parameters are
    trained, and the objective has no reference or the batch brings its scores.
  """

  def scores(
    params: Any, frozen: Any, part: TreeBatch
  ) -> tuple[scoring.SegmentScores, scoring.SegmentScores | None]:
    own = policy_params(params, frozen, part)
    policy = scoring.segment_scores(model, own, part, chunk=vocab_chunk)
    if not objective.needs_reference:
      return policy, None
    if part.reference is not None:
      return policy, scoring.SegmentScores(part.reference, policy.length)
    with jax.named_scope("reference"):
      reference = scoring.segment_scores(model, frozen, part, chunk=vocab_chunk)
    return policy, jax.lax.stop_gradient(reference)

  def part_loss(
    params: Any,
    frozen: Any,
    part: TreeBatch,
    counts: dict[str, Float[Array, ""]],
    z0: Float[Array, ""] | None,
  ) -> tuple[Float[Array, ""], Metrics]:
    policy, reference = scores(params, frozen, part)
    if objective.needs_reference_point and z0 is None:  # the part is the whole batch
      z0 = losses.reference_point(mean_log_ratio(objective, policy, reference, part, counts))
    return objective_value(objective, policy, reference, part, counts, z0)

  def reference_point_of_parts(
    params: Any, frozen: Any, parts: TreeBatch, counts: dict[str, Float[Array, ""]]
  ) -> Float[Array, ""]:
    # A forward pass of its own: the gradient of the first part needs the scores of the last.
    def body(total: Float[Array, ""], part: TreeBatch) -> tuple[Float[Array, ""], None]:
      policy, reference = scores(params, frozen, part)
      return total + mean_log_ratio(objective, policy, reference, part, counts), None

    return losses.reference_point(jax.lax.scan(body, jnp.zeros(()), parts)[0])

  gradient = jax.grad(part_loss, has_aux=True)

  def step(state: TrainState, frozen: Any, batch: TreeBatch) -> tuple[TrainState, Metrics]:
    counts = token_counts(batch)
    if accumulate == 1:
      grads, metrics = gradient(state.params, frozen, batch, counts, None)
    else:
      # Interleaved parts, so that every device keeps rows in every part.
      parts = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1),
        batch,
      )
      z0 = None
      if objective.needs_reference_point:
        z0 = reference_point_of_parts(state.params, frozen, parts, counts)

      def body(total: Any, part: TreeBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(state.params, frozen, part, counts, z0)), None

      shapes = jax.eval_shape(
        gradient, state.params, frozen, jax.tree.map(lambda x: x[0], parts), counts, z0
      )
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      (grads, metrics), _ = jax.lax.scan(body, zeros, parts)
    return updated(state, grads, metrics, optimizer)

  return on_mesh(step, mesh)


@jax.named_scope("optimizer")
def updated(
  state: TrainState, grads: Any, metrics: Metrics, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
  """The state after a gradient, and the metrics with the norms of it and of the update."""
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norms = {"grad_norm": optax.global_norm(grads), "update_norm": optax.global_norm(updates)}
  return TrainState(state.step + 1, params, opt_state), metrics | norms


class MeshStep:
  """A step, jitted, on a mesh; it donates the state."""

  def __init__(self, step: StepFn, mesh: jax.sharding.Mesh) -> None:
    self._jitted, self._mesh = jax.jit(step, donate_argnums=0), mesh

  def __call__(
    self, state: TrainState, frozen: Any, batch: TreeBatch
  ) -> tuple[TrainState, Metrics]:
    """One update."""
    with sharding.use(self._mesh):
      return self._jitted(state, frozen, batch)

  def trace(self, state: TrainState, frozen: Any, batch: TreeBatch) -> jax.stages.Traced:
    """The program of an update, of shapes alone: to be looked at, or compiled ahead of time."""
    with sharding.use(self._mesh):
      return self._jitted.trace(state, frozen, batch)


def on_mesh(step: StepFn, mesh: jax.sharding.Mesh) -> MeshStep:
  """The step, jitted, on a mesh; it donates the state."""
  return MeshStep(step, mesh)
