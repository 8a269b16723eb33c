# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From log-probabilities to a loss: SFT, DPO, IPO, KTO, SimPO. Pure functions of arrays."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scores = Float[Array, "..."]

PREFERENCE_LOSSES = ("ipo", "dpo", "kto", "simpo")
REFERENCE_FREE = ("simpo",)  # of them


def normalize(logprob: Scores, length: Scores, length_normalize: bool) -> Scores:
  """The sum of a response's token log-probabilities, or their mean.

  The FSPO paper's code takes sums; TRL divides by the length for IPO. The same beta means
  different things in the two, so the choice is always spelled out.
  """
  return logprob / jnp.maximum(length, 1.0) if length_normalize else logprob


def margin(chosen: Scores, rejected: Scores) -> Scores:
  """H = r(y_w) - r(y_l), where r = log pi(y) - log ref(y), or log pi(y) without a reference.

  DPO (arXiv 2305.18290) eq. 7 without its beta; IPO (arXiv 2310.12036) eq. 17, where it is h_pi.
  """
  return chosen - rejected


def dpo(h: Scores, beta: float, label_smoothing: float = 0.0) -> Scores:
  """DPO, arXiv 2305.18290 eq. 7: -log sigmoid(beta h).

  With label smoothing e it is conservative DPO (Mitchell 2023, "A note on DPO with noisy
  preferences", eq. 3): -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).
  """
  logits = beta * h
  return -(1.0 - label_smoothing) * jax.nn.log_sigmoid(
    logits
  ) - label_smoothing * jax.nn.log_sigmoid(-logits)


def ipo(h: Scores, beta: float) -> Scores:
  """IPO, arXiv 2310.12036 eq. 17: (h - 1 / (2 beta))^2; the FSPO paper's default."""
  return jnp.square(h - 1.0 / (2.0 * beta))


def simpo(h: Scores, beta: float, gamma: float) -> Scores:
  """SimPO, arXiv 2405.14734 eq. 6: -log sigmoid(beta h - gamma), h of mean log-probabilities."""
  return -jax.nn.log_sigmoid(beta * h - gamma)


def kto(
  chosen: Scores,
  rejected: Scores,
  z0: Scores,
  beta: float,
  desirable_weight: float = 1.0,
  undesirable_weight: float = 1.0,
) -> Scores:
  """KTO, arXiv 2402.01306 eq. 8: lambda_y - v(y), the mean over a pair's two responses.

  The chosen response is desirable, v = lambda_D sigmoid(beta (r - z_0)), and the rejected one
  undesirable, v = lambda_U sigmoid(beta (z_0 - r)), with r = log pi - log ref.
  """
  # lambda - lambda sigmoid(x) is lambda sigmoid(-x), which keeps its digits where it is small.
  desirable = desirable_weight * jax.nn.sigmoid(beta * (z0 - chosen))
  undesirable = undesirable_weight * jax.nn.sigmoid(beta * (rejected - z0))
  return 0.5 * (desirable + undesirable)


def reference_point(mean_log_ratio: Scores) -> Scores:
  """KTO's z_0, the estimate of KL(pi || ref) that rewards are compared with: max(0, mean r).

  The mean is over the chosen and the rejected responses of the whole batch, each in its own
  context. The paper (arXiv 2402.01306 section 4.1) and TRL take the same responses, each in the
  context of another one: that needs a forward pass over sequences that no tree holds. Both are
  biased, as the responses are the data's and not the policy's. Both are blind to the labels, are
  clipped at 0 and have no gradient; this one also moves with what the policy learns of the pairs,
  but only by what their two responses gain together.
  """
  return jax.lax.stop_gradient(jnp.maximum(mean_log_ratio, 0.0))


def sft(logprob: Scores, length: Scores, length_normalize: bool) -> Scores:
  """Negative log-likelihood of a response: -log pi(y | context)."""
  return -normalize(logprob, length, length_normalize)


def preference(
  name: str,
  chosen: Scores,
  rejected: Scores,
  *,
  beta: float,
  label_smoothing: float = 0.0,
  gamma: float = 0.0,
  desirable_weight: float = 1.0,
  undesirable_weight: float = 1.0,
  z0: Scores | None = None,
) -> Scores:
  """The preference loss called `name`, of pairs of r = log pi - log ref (SimPO: mean log pi).

  Raises:
    ValueError: an unknown name, an option that the loss does not have, or KTO without its z0.
  """
  if name not in PREFERENCE_LOSSES:
    raise ValueError(f"loss.name={name!r} is not one of {PREFERENCE_LOSSES}")
  for key, owner, found, none in (
    ("label_smoothing", "DPO", label_smoothing, 0),
    ("gamma", "SimPO", gamma, 0),
    ("desirable_weight", "KTO", desirable_weight, 1),
    ("undesirable_weight", "KTO", undesirable_weight, 1),
  ):
    if owner.lower() != name and found != none:
      raise ValueError(
        f"loss.{key} is {owner}'s; {name.upper()} has none: found {found}, expected {none}"
      )
  if name == "kto":
    if z0 is None:
      raise ValueError("loss.name='kto' needs z0, the whole batch's reference point: found None")
    return kto(chosen, rejected, z0, beta, desirable_weight, undesirable_weight)
  h = margin(chosen, rejected)
  if name == "dpo":
    return dpo(h, beta, label_smoothing)
  return simpo(h, beta, gamma) if name == "simpo" else ipo(h, beta)


def at_reference(
  name: str, beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> float:
  """The loss where policy and reference agree, so that every r, h and z_0 is 0.

  log 2 for DPO, (1 / (2 beta))^2 for IPO, (lambda_D + lambda_U) / 4 for KTO.
  """
  zero = jnp.zeros(())
  preference(name, zero, zero, beta=beta, z0=zero)  # refuses an unknown name
  if name in REFERENCE_FREE:
    raise ValueError(f"loss.name={name!r} has no reference, and no known loss at its start")
  if name == "kto":
    return (desirable_weight + undesirable_weight) / 4.0
  return math.log(2.0) if name == "dpo" else (1.0 / (2.0 * beta)) ** 2
