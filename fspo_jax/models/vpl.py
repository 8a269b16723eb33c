# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""VPL's own parameters: from a user's preferences to a latent, and from the latent to the decoder.

Variational preference learning (Poddar et al., arXiv 2408.10075, section 4): an encoder
q(z | {(s_A, s_B, y)}) = N(mu, diag sigma^2) reads pairs of embeddings that the frozen language
model gives; the prior is N(0, I). There z conditions a reward model; here, as in the FSPO paper's
row, the policy, whose reward is implicit: z is projected to the width of the decoder and added to
every token's embedding.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from fspo_jax import sharding

# Where the parameters lie in a policy's: beside the decoder's own, which do not look at them.
NAME = "user_encoder"


@dataclasses.dataclass(frozen=True)
class VplConfig:
  """A user's latent, and how it is trained.

  Attributes:
    latent: its dimensions.
    hidden: width of the encoder; attention has `hidden / 32` heads.
    kl_weight: of KL(q || N(0, I)), against the mean loss of a pair. The evidence bound of a user
      with n pairs to explain has 1 / n; less keeps the latent from collapsing onto the prior.
    kl_anneal: fraction of the run over which the weight grows from 0, linearly.
  """

  latent: int
  hidden: int
  kl_weight: float
  kl_anneal: float

  def __post_init__(self) -> None:
    if self.latent < 1 or self.hidden < 32 or self.hidden % 32:
      raise ValueError(
        f"vpl.latent={self.latent} must be at least 1, and vpl.hidden={self.hidden} a multiple of "
        "32"
      )
    if self.kl_weight < 0 or not 0 <= self.kl_anneal <= 1:
      raise ValueError(
        f"vpl.kl_weight={self.kl_weight} must be 0 or more, vpl.kl_anneal={self.kl_anneal} a "
        "fraction of the run"
      )


class Posterior(NamedTuple):
  """A diagonal Gaussian over latents, for each user."""

  mean: Float[Array, "B Z"]
  log_variance: Float[Array, "B Z"]


class UserEncoder(nn.Module):
  """The encoder q, and the projection of its latent to an offset of embeddings."""

  config: VplConfig
  width: int

  @nn.compact
  def __call__(
    self,
    chosen: Float[Array, "B P D"],
    rejected: Float[Array, "B P D"],
    known: Bool[Array, "B P"],
    noise: Float[Array, "B Z"] | None = None,
  ) -> tuple[Float[Array, "B D"], Posterior]:
    """The offset of each user's embeddings, and the posterior that it is from.

    Args:
      chosen: embeddings of the responses that were preferred.
      rejected: of the others.
      known: which of the pairs the user is known by; with none the posterior is the prior.
      noise: standard normal, to sample z = mu + sigma x noise; None for the mean.
    """
    c = self.config
    pairs = jnp.concatenate([chosen, rejected], axis=-1).astype(jnp.float32)
    h = nn.leaky_relu(nn.Dense(c.hidden, name="pair_in")(pairs), 0.2)
    h = nn.leaky_relu(nn.Dense(c.hidden, name="pair_out")(h), 0.2)
    attend = nn.MultiHeadDotProductAttention(c.hidden // 32, name="set_attention")
    h = h + attend(h, mask=known[:, None, None, :])
    count = known.sum(-1, keepdims=True).astype(jnp.float32)
    # The mean forgets how many they are, and the more there are the surer one may be.
    pooled = jnp.where(known[..., None], h, 0.0).sum(1) / jnp.maximum(count, 1.0)
    pooled = jnp.concatenate([pooled, jnp.log1p(count)], axis=-1)
    some = count > 0
    posterior = Posterior(
      jnp.where(some, nn.Dense(c.latent, name="mean")(pooled), 0.0),
      jnp.where(some, nn.Dense(c.latent, name="log_variance")(pooled), 0.0),
    )
    z = posterior.mean
    if noise is not None:
      z = z + jnp.exp(0.5 * posterior.log_variance) * noise
    # Zeros at first: the policy starts as the reference, whoever the user is.
    project = nn.Dense(
      self.width, use_bias=False, kernel_init=nn.initializers.zeros_init(), name="offset"
    )
    return project(z), posterior


def add_encoder(params: dict, config: VplConfig, mesh: jax.sharding.Mesh, seed: int) -> dict:
  """A decoder's parameters with those of a new encoder; the same values on any mesh."""
  width = params["embedding"].shape[1]
  abstract = abstract_encoder(config, width, mesh)
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract[NAME])
  made = jax.jit(functools.partial(_init, config, width, seed), out_shardings=where)()
  return {**params, NAME: made}


def abstract_encoder(config: VplConfig, width: int, mesh: jax.sharding.Mesh) -> dict:
  """Shapes, dtypes and shardings of the encoder, which is small: all of it is everywhere."""
  everywhere = sharding.replicated(mesh)
  shapes = jax.eval_shape(functools.partial(_init, config, width, 0))
  return {
    NAME: jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
    )
  }


def _init(config: VplConfig, width: int, seed: int) -> dict:
  nothing = jnp.zeros((1, 1, width))
  encoder = UserEncoder(config, width)
  return encoder.init(jax.random.key(seed), nothing, nothing, jnp.ones((1, 1), bool))["params"]


def kl(posterior: Posterior) -> Float[Array, " B"]:
  """KL(q || N(0, I)) of each user, in nats: (mu^2 + sigma^2 - 1 - log sigma^2) / 2, summed."""
  mean, log_variance = posterior
  return 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance).sum(-1)


def encode(
  config: VplConfig,
  params: dict,
  chosen: Float[Array, "B P D"],
  rejected: Float[Array, "B P D"],
  known: Bool[Array, "B P"],
  key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "B D"], Posterior]:
  """Runs the encoder in a policy's parameters: see `UserEncoder`; a key samples the latents."""
  noise = None
  if key is not None:
    noise = jax.random.normal(key, (chosen.shape[0], config.latent))
  encoder = UserEncoder(config, chosen.shape[-1])
  return encoder.apply({"params": params[NAME]}, chosen, rejected, known, noise)
