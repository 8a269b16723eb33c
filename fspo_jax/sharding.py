# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The mesh, and one table from logical axes to mesh axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
import numpy as np

MESH_AXES = ("data", "fsdp", "tensor")

# First matching rule wins for each array, and no mesh axis is used twice in one array.
LOGICAL_RULES = (
  ("batch", ("data", "fsdp")),
  ("length", None),
  ("embed_activation", None),
  ("vocab", "tensor"),
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  ("layers", None),
  ("norm", None),
  ("roles", None),
)


def make_mesh(
  data: int, fsdp: int, tensor: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh of `data x fsdp x tensor` devices; one of them may be -1 for all that remain.

  Raises:
    ValueError: the sizes do not fit the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [data, fsdp, tensor]
  asked = dict(zip(MESH_AXES, sizes, strict=True))
  known = int(np.prod([s for s in sizes if s != -1]))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(f"mesh={asked}: sizes are positive, and at most one is -1")
  if len(devices) % known or (-1 not in sizes and known != len(devices)):
    raise ValueError(f"mesh={asked} does not fit {len(devices)} devices")
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  # Not jax.make_mesh: its axes are Explicit by default, which linen's constraints do not expect.
  return Mesh(np.asarray(devices).reshape(sizes), MESH_AXES)


def one_device() -> Mesh:
  """The mesh of the first device alone: to open what any mesh wrote."""
  return make_mesh(1, 1, 1, jax.devices()[:1])


def _place(mesh: Mesh, spec: PartitionSpec) -> Sharding:
  # On one device a NamedSharding says nothing that SingleDeviceSharding does not, but sends the
  # program through the SPMD partitioner, after which XLA's CPU code ran 5x slower (jax 0.10).
  if mesh.size == 1:
    return SingleDeviceSharding(mesh.devices.item())
  return NamedSharding(mesh, spec)


def shardings(mesh: Mesh, abstract_variables: Any) -> Any:
  """Where each array of a tree of boxed (logically annotated) abstract arrays lives."""
  specs = nn.logical_to_mesh(nn.get_partition_spec(abstract_variables), LOGICAL_RULES)

  def is_spec(x: object) -> bool:
    return isinstance(x, PartitionSpec)

  return jax.tree.map(lambda spec: _place(mesh, spec), specs, is_leaf=is_spec)


def batch_sharding(mesh: Mesh) -> Sharding:
  """Rows of a batch are split over `data` and `fsdp`."""
  return _place(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> Sharding:
  """The whole array on every device."""
  return _place(mesh, PartitionSpec())


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
  """Makes the logical constraints inside the model mean axes of `mesh`."""
  if mesh.size == 1:
    yield
    return
  with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_RULES):
    yield


def batch_shards(mesh: Mesh) -> int:
  """How many parts the rows of a batch are split into."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def to_global(mesh: Mesh, local_batch: Any) -> Any:
  """This process's rows to global device arrays."""
  if mesh.size == 1:
    return jax.device_put(local_batch, batch_sharding(mesh))
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local_batch)
