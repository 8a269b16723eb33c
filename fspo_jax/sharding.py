# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The mesh, and one table from logical axes to mesh axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import math
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, Int
import numpy as np

# From the slowest links to the fastest: `dcn_data` is over slices, whose chips meet in the data
# center's network alone; the others are within one. Rows are split over the first three, `fsdp`
# splits parameters too, `tensor` heads and hidden units, and `context` the tokens of a row.
MESH_AXES = ("dcn_data", "data", "fsdp", "context", "tensor")
BATCH_AXES = ("dcn_data", "data", "fsdp")

# First matching rule wins for each array, and no mesh axis is used twice in one array.
LOGICAL_RULES = (
  ("batch", BATCH_AXES),
  ("length", "context"),
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
  data: int,
  fsdp: int = 1,
  tensor: int = 1,
  context: int = 1,
  dcn_data: int = 1,
  *,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh of as many devices along each axis; one of them may be -1 for all that remain.

  Raises:
    ValueError: the sizes do not fit the number of devices, or of slices.
  """
  devices = jax.devices() if devices is None else list(devices)
  asked = {
    "dcn_data": dcn_data,
    "data": data,
    "fsdp": fsdp,
    "context": context,
    "tensor": tensor,
  }
  sizes = list(asked.values())
  known = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(f"mesh={asked}: sizes are positive, and at most one is -1")
  if len(devices) % known or (-1 not in sizes and known != len(devices)):
    product = " x ".join(str(s) for s in sizes if s != -1)
    raise ValueError(f"mesh={asked} does not fit {len(devices)} devices: {product} = {known}")
  sizes = [len(devices) // known if s == -1 else s for s in sizes]
  # Not jax.make_mesh: its axes are Explicit by default, which linen's constraints do not expect.
  return Mesh(_arranged(devices, sizes), MESH_AXES)


def _arranged(devices: Sequence[jax.Device], sizes: list[int]) -> np.ndarray:
  """Devices in the mesh's shape: neighbours on a TPU's links, slices apart, processes whole."""
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if devices[0].platform != "tpu":
    # In the order of processes: an outer axis is over these, an inner one within.
    return np.asarray(devices).reshape(sizes)
  if slices not in (1, sizes[0]):
    raise ValueError(f"mesh.dcn_data={sizes[0]}: found {slices} slices, expected as many, or 1")
  if slices == 1:
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  within, over = [1, *sizes[1:]], [sizes[0], *[1] * (len(sizes) - 1)]
  return mesh_utils.create_hybrid_device_mesh(within, over, devices, allow_split_physical_axes=True)


def one_device() -> Mesh:
  """The mesh of the first device alone: to open what any mesh wrote."""
  return make_mesh(data=1, devices=jax.local_devices()[:1])


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
  """Rows of a batch are split over `dcn_data`, `data` and `fsdp`."""
  return _place(mesh, PartitionSpec(BATCH_AXES))


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


def batch_shards(mesh: Mesh | None = None) -> int:
  """How many parts the rows of a batch are split into, under a mesh or the one that is in use."""
  shape = (jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape
  return math.prod(shape.get(axis, 1) for axis in BATCH_AXES)


def over_vocab(function: Callable[..., tuple[Any, Any]], table: Array, *others: Array) -> Any:
  """Calls a function where each part of a table [vocab, ...] lies, if `tensor` has split it.

  Args:
    function: (part of the table, index of its first entry, *others) -> (anything, None or an array
      of the part's entries).
    table: the table.
    others: what is the same for all parts.

  Returns:
    The function's values: of the first, with an axis in front for the parts; of the second, those
    of all entries.
  """
  parts = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
  first = jnp.arange(parts) * (len(table) // parts)

  def of_part(part: Array, first: Int[Array, "1"], *others: Array) -> tuple[Any, Any]:
    value, of_entries = function(part, first[0], *others)
    return jax.tree.map(lambda x: x[None], value), of_entries

  if parts == 1:
    return of_part(table, first, *others)
  split, same = PartitionSpec("tensor"), PartitionSpec()
  return jax.shard_map(
    of_part,
    in_specs=(split, split, *[same] * len(others)),
    out_specs=split,
    axis_names={"tensor"},
    check_vma=False,
  )(table, first, *others)


def split_tokens(x: Array, axis: int = 1) -> Array:
  """Spreads [batch, ..., length at `axis`, ...] over `context`, where there is such a mesh axis."""
  return _constrained(x, axis, "context")


def gather_tokens(x: Array) -> Array:
  """Brings together [batch, length, ...] that `context` has spread."""
  return _constrained(x, 1, None)


def context_shards() -> int:
  """How many parts the tokens of a row are split into, under the mesh that is in use."""
  return jax.sharding.get_abstract_mesh().shape.get("context", 1)


def flat_tokens(x: Array, dims: int) -> Array:
  """Makes the first `dims` axes of tokens one, of which every device keeps as much as it had."""
  flat = x.reshape(-1, *x.shape[dims:])
  if context_shards() == 1:
    return flat
  rest = [PartitionSpec.UNCONSTRAINED] * (flat.ndim - 1)
  return jax.lax.with_sharding_constraint(flat, PartitionSpec((*BATCH_AXES, "context"), *rest))


def _constrained(x: Array, axis: int, length: str | None) -> Array:
  if context_shards() == 1:
    return x
  spec = [BATCH_AXES, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)]
  spec[axis] = length
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def to_global(mesh: Mesh, local_batch: Any) -> Any:
  """This process's rows to global device arrays."""
  if mesh.size == 1:
    return jax.device_put(local_batch, batch_sharding(mesh))
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local_batch)
