# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of training, made where it lives: parameters, and the optimizer's arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from fspo_jax import sharding
from fspo_jax.models import transformer


class TrainState(NamedTuple):
  """All that a step changes."""

  step: Any
  params: Any
  opt_state: Any


def init_params(model: transformer.Transformer, mesh: jax.sharding.Mesh, seed: int) -> Any:
  """Random parameters, made where they live; the same values on any mesh."""
  ints = jnp.zeros((1, 2), jnp.int32)

  def init() -> Any:
    return model.init(jax.random.key(seed), ints, ints, ints, ints)["params"]

  where = sharding.shardings(mesh, jax.eval_shape(init))
  with sharding.use(mesh):
    return jax.jit(lambda: nn.meta.unbox(init()), out_shardings=where)()


def abstract_params(model: transformer.Transformer, mesh: jax.sharding.Mesh) -> Any:
  """Shapes, dtypes and shardings of the parameters, without making them."""
  ints = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  boxed = jax.eval_shape(lambda *a: model.init(jax.random.key(0), *a)["params"], *[ints] * 4)
  where = sharding.shardings(mesh, boxed)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.meta.unbox(boxed), where
  )


def init_state(
  params: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
  """A fresh state; the optimizer's arrays live where the parameters that they belong to do."""
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(params, optimizer, mesh))
  opt_state = jax.jit(optimizer.init, out_shardings=where.opt_state)(params)
  return TrainState(jax.device_put(jnp.zeros((), jnp.int32), where.step), params, opt_state)


def abstract_state(
  params: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
  """Shapes, dtypes and shardings of the state of parameters that may be abstract themselves."""
  everywhere = sharding.replicated(mesh)
  # A moment's path in the optimizer's state ends in its parameter's path. (optax.tree_map_params
  # stops at Muon's masked parts.)
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)

  def place(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
    for param_path, param in leaves:
      if path[-len(param_path) :] == param_path and leaf.shape == param.shape:
        return param.sharding
    return everywhere

  def abstract(leaf: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  made = jax.eval_shape(optimizer.init, params)
  return TrainState(
    jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
    jax.tree.map(lambda leaf: abstract(leaf, leaf.sharding), params),
    jax.tree_util.tree_map_with_path(lambda path, leaf: abstract(leaf, place(path, leaf)), made),
  )
