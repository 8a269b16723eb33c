# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From log-probabilities to a loss: SFT, DPO, IPO. Pure functions of (log-prob sum, length)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scores = Float[Array, "..."]

PREFERENCE_LOSSES = ("ipo", "dpo")


def normalize(logprob: Scores, length: Scores, length_normalize: bool) -> Scores:
  """The sum of a response's token log-probabilities, or their mean.

  The FSPO paper's code takes sums; TRL divides by the length for IPO. The same beta means
  different things in the two, so the choice is always spelled out.
  """
  return logprob / jnp.maximum(length, 1.0) if length_normalize else logprob


def margin(
  policy_chosen: Scores, policy_rejected: Scores, ref_chosen: Scores, ref_rejected: Scores
) -> Scores:
  """H = [log pi(y_w) - log ref(y_w)] - [log pi(y_l) - log ref(y_l)].

  DPO (arXiv 2305.18290) eq. 7 without its beta; IPO (arXiv 2310.12036) eq. 17, where it is h_pi.
  """
  return (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)


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


def sft(logprob: Scores, length: Scores, length_normalize: bool) -> Scores:
  """Negative log-likelihood of a response: -log pi(y | context)."""
  return -normalize(logprob, length, length_normalize)


def preference(name: str, h: Scores, beta: float, label_smoothing: float) -> Scores:
  """The preference loss called `name`; an unknown name or an option it does not have raises."""
  if name == "dpo":
    return dpo(h, beta, label_smoothing)
  if name == "ipo":
    if label_smoothing:
      raise ValueError("loss.label_smoothing is DPO's; IPO has none: set it to 0")
    return ipo(h, beta)
  raise ValueError(f"loss.name={name!r} is not one of {PREFERENCE_LOSSES}")


def at_reference(name: str, beta: float) -> float:
  """The loss where policy and reference agree (h = 0): log 2 for DPO, (1 / (2 beta))^2 for IPO."""
  preference(name, jnp.zeros(()), beta, 0.0)
  return math.log(2.0) if name == "dpo" else (1.0 / (2.0 * beta)) ** 2
