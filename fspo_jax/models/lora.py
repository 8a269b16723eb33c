# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA, arXiv 2106.09685: low-rank adapters of the blocks' matrices.

Adapters are a tree of arrays of their own beside the parameters, {projection: Adapter}, so that
many of them share one base. A model gets them in one of two ways: `merge` makes ordinary parameters
of the sum, to sample and to publish; `attach` leaves the base as it is and puts the factors beside
its matrices, to train: no second copy of the base, no gradient of its size, and dropout.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

# Matrices of `transformer.Block`. New ones go last: `init` draws by the place in this list.
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


class Adapter(NamedTuple):
  """The two factors of one projection's update, for all layers at once.

  The paper multiplies from the left and we from the right: `a[l].T` is its A [rank, in] and
  `b[l].T` its B [out, rank], as in the files of PEFT.
  """

  a: Float[Array, "layers inputs rank"]
  b: Float[Array, "layers rank outputs"]


Adapters = dict[str, Adapter]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """The shape and scale of adapters.

  Attributes:
    rank: of an update.
    alpha: updates are scaled by alpha / rank, so that a learning rate suits any rank.
    projections: which matrices have one, of PROJECTIONS.
    dropout: probability that an adapter does not see an entry of its input, in training.
  """

  rank: int
  alpha: float
  projections: tuple[str, ...]
  dropout: float = 0.0

  def __post_init__(self) -> None:
    if self.rank < 1:
      raise ValueError(f"lora.rank={self.rank} must be at least 1")
    if self.alpha <= 0:
      raise ValueError(f"lora.alpha={self.alpha} must be positive")
    if not 0 <= self.dropout < 1:
      raise ValueError(f"lora.dropout={self.dropout} must be at least 0 and below 1")
    unknown = [name for name in self.projections if name not in PROJECTIONS]
    if unknown or not self.projections or len(set(self.projections)) != len(self.projections):
      raise ValueError(
        f"lora.projections={self.projections}: expected one or more distinct ones of {PROJECTIONS}"
      )

  @property
  def scale(self) -> float:
    """Alpha / rank."""
    return self.alpha / self.rank


def init(key: Key[Array, ""], params: dict, config: LoraConfig) -> Adapters:
  """Fresh adapters, whose update is exactly 0: A is random and B zero (section 4.1).

  Only one of the two may be zero, or neither would ever get a gradient.

  Args:
    key: of the random factors; a projection's does not depend on which others have one.
    params: of a Transformer.
    config: the adapters' shape.

  Returns:
    The adapters, in float32 whatever the parameters are in: they are what is trained.
  """
  adapters = {}
  for name in config.projections:
    layers, inputs, outputs = params["blocks"][name]["kernel"].shape
    own = jax.random.fold_in(key, PROJECTIONS.index(name))
    # Inputs of unit variance come out of A with unit variance.
    a = jax.random.normal(own, (layers, inputs, config.rank), jnp.float32) * inputs**-0.5
    adapters[name] = Adapter(a, jnp.zeros((layers, config.rank, outputs), jnp.float32))
  return adapters


@struct.dataclass
class Attached:
  """What lies beside a matrix; the layers' are stacked, and each layer sees its own.

  Attributes:
    a: the factor of the inputs, [inputs, rank].
    b: that of the outputs, times alpha / rank, [rank, outputs].
    keys: of each row's dropout; None for none.
    dropout: its probability.
  """

  a: Float[Array, "..."]
  b: Float[Array, "..."]
  keys: Key[Array, "..."] | None
  dropout: float = struct.field(pytree_node=False)

  def update(self, x: Float[Array, "B L I"]) -> Float[Array, "B L O"]:
    """What a layer's matrix adds to its product with `x`."""
    if self.keys is not None:
      keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.dropout, x.shape[1:]))
      x = jnp.where(keep(self.keys), x / (1 - self.dropout), 0)
    return (x @ self.a.astype(x.dtype)) @ self.b.astype(x.dtype)


def attach(
  params: dict, adapters: Adapters, config: LoraConfig, keys: Key[Array, " B"] | None = None
) -> dict:
  """The parameters with adapters beside their matrices: W x + alpha / rank * B A dropout(x).

  Pure and differentiable; no array of the base is copied.

  Args:
    params: of a Transformer.
    adapters: of each of the config's projections.
    config: the adapters' shape, scale and dropout.
    keys: of each row of the batch that the model is applied to: all that its dropout depends on,
      and so the same wherever the row lies. None to apply the adapters without dropout.

  Returns:
    Parameters for `Transformer.apply`, and for nothing else.

  Raises:
    ValueError: an adapter is missing, or one too many, or its shapes are not its matrix's; or
      the parameters have adapters already.
  """
  blocks = _checked_blocks(params, adapters, config)
  for name, adapter in adapters.items():
    own = None
    if keys is not None and config.dropout:
      split = jax.vmap(
        lambda key, name=name, layers=adapter.a.shape[0]: jax.random.split(
          jax.random.fold_in(key, PROJECTIONS.index(name)), layers
        ),
        out_axes=1,
      )
      own = split(keys)  # [layers, B]
    attached = Attached(adapter.a, config.scale * adapter.b, own, config.dropout)
    blocks[name] = {**blocks[name], "adapter": attached}
  return {**params, "blocks": blocks}


def merge(params: dict, adapters: Adapters, config: LoraConfig) -> dict:
  """The parameters with W + alpha / rank * A B in place of W: eq. 3, multiplied out.

  Pure and differentiable; arrays without an adapter are passed on, not copied.

  Args:
    params: of a Transformer.
    adapters: of each of the config's projections.
    config: the adapters' shape and scale.

  Returns:
    Parameters of the same shapes and dtypes.

  Raises:
    ValueError: an adapter is missing, or one too many, or its shapes are not its matrix's; or
      the parameters have adapters attached.
  """
  blocks = _checked_blocks(params, adapters, config)
  for name, adapter in adapters.items():
    kernel = blocks[name]["kernel"]
    # In full precision, which some devices do not multiply in unless asked to: once for all tokens.
    update = jnp.einsum(
      "lir,lro->lio", adapter.a, adapter.b, precision=jax.lax.Precision.HIGHEST
    ).astype(jnp.float32)
    merged = kernel.astype(jnp.float32) + config.scale * update
    blocks[name] = {**blocks[name], "kernel": merged.astype(kernel.dtype)}
  return {**params, "blocks": blocks}


def _checked_blocks(params: dict, adapters: Adapters, config: LoraConfig) -> dict:
  """The blocks' parameters, in a dict to change; ValueError if the adapters are not theirs."""
  if set(adapters) != set(config.projections):
    raise ValueError(
      f"adapters of {sorted(adapters)}, but lora.projections={config.projections}: they must be "
      "the same"
    )
  blocks = dict(params["blocks"])
  taken = [name for name in PROJECTIONS if "adapter" in blocks[name]]
  if taken:
    # Without the new ones the model would still have the old: no longer the base.
    raise ValueError(
      f"params: found adapters attached to {taken}, expected parameters without any: merge the "
      "first adapters before there are others"
    )
  for name, adapter in adapters.items():
    _check(name, adapter, blocks[name]["kernel"].shape, config.rank)
  return blocks


def _check(name: str, adapter: Adapter, kernel: tuple[int, int, int], rank: int) -> None:
  layers, inputs, outputs = kernel
  for factor, found, expected in (
    ("a", adapter.a.shape, (layers, inputs, rank)),
    ("b", adapter.b.shape, (layers, rank, outputs)),
  ):
    if found != expected:
      raise ValueError(
        f"adapters[{name!r}].{factor} has shape {found}; with lora.rank={rank} and "
        f"blocks/{name}/kernel of shape {kernel} it must be {expected}"
      )
