# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the mesh and the table of rules; training on real meshes is in training/test_step.py."""

import jax
from jax.sharding import PartitionSpec, SingleDeviceSharding
import numpy as np
import pytest

from fspo_jax import sharding
from fspo_jax.training import state as state_lib
from tests import tiny


def _devices(count):
  """The one device, as many times as a mesh needs: enough to say where things would go."""
  return jax.devices()[:1] * count


@pytest.mark.parametrize(
  "asked, devices, expected",
  [
    ((1, 1, 1), 1, (1, 1, 1)),
    ((-1, 1, 1), 8, (8, 1, 1)),
    ((-1, 2, 2), 8, (2, 2, 2)),
    ((1, -1, 2), 8, (1, 4, 2)),
    ((2, 2, -1), 4, (2, 2, 1)),
  ],
)
def test_one_axis_may_take_all_that_remain(asked, devices, expected):
  mesh = sharding.make_mesh(*asked, devices=_devices(devices))
  assert tuple(mesh.shape[name] for name in ("data", "fsdp", "tensor")) == expected
  assert mesh.shape["context"] == mesh.shape["dcn_data"] == 1
  assert sharding.batch_shards(mesh) == expected[0] * expected[1]


def test_every_axis_has_its_devices():
  mesh = sharding.make_mesh(data=-1, fsdp=2, tensor=2, context=2, dcn_data=2, devices=_devices(32))
  expected = {"dcn_data": 2, "data": 2, "fsdp": 2, "context": 2, "tensor": 2}
  assert dict(mesh.shape) == expected
  assert sharding.batch_shards(mesh) == 8


def test_without_devices_named_a_mesh_has_all_there_are():
  assert sharding.make_mesh(-1, 1, 1).size == len(jax.devices())


@pytest.mark.parametrize(
  "asked, devices, message",
  [
    ((-1, -1, 1), 8, "sizes are positive, and at most one is -1"),
    ((0, 1, 1), 8, "sizes are positive"),
    ((-2, 1, 1), 8, "sizes are positive"),
    ((2, 1, 1), 8, "does not fit 8 devices"),
    ((3, 1, 1), 8, "does not fit 8 devices"),
    ((-1, 3, 1), 8, "does not fit 8 devices"),
    ((16, 1, 1), 8, "does not fit 8 devices"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused_by_its_name(asked, devices, message):
  with pytest.raises(ValueError, match=message) as caught:
    sharding.make_mesh(*asked, devices=_devices(devices))
  data, fsdp, tensor = asked
  expected = {"dcn_data": 1, "data": data, "fsdp": fsdp, "context": 1, "tensor": tensor}
  assert f"mesh={expected}" in str(caught.value)


def test_where_every_parameter_goes():
  mesh = sharding.make_mesh(2, 2, 2, devices=_devices(8))
  found = tiny.flat(state_lib.abstract_params(tiny.model(tied=False), mesh))
  specs = {
    name.replace("']['", ".").strip("[']"): leaf.sharding.spec for name, leaf in found.items()
  }
  layer_in = PartitionSpec(None, "fsdp", "tensor")
  layer_out = PartitionSpec(None, "tensor", "fsdp")
  assert specs == {
    "embedding": PartitionSpec("tensor", "fsdp"),
    "head": PartitionSpec("fsdp", "tensor"),
    "role_embedding": PartitionSpec(None, "fsdp"),
    "final_norm.scale": PartitionSpec(None),
    "blocks.attention_norm.scale": PartitionSpec(None, None),
    "blocks.mlp_norm.scale": PartitionSpec(None, None),
    **{f"blocks.{name}.kernel": layer_in for name in ("q", "k", "v", "gate", "up")},
    **{f"blocks.{name}.kernel": layer_out for name in ("o", "down")},
  }


def test_rows_are_split_over_data_and_fsdp_and_counters_over_nothing():
  mesh = sharding.make_mesh(2, 2, 2, devices=_devices(8))
  assert sharding.batch_sharding(mesh).spec == PartitionSpec(("dcn_data", "data", "fsdp"))
  assert sharding.batch_sharding(mesh).shard_shape((8, 5)) == (2, 5)
  assert sharding.replicated(mesh).shard_shape((8, 5)) == (8, 5)


def test_one_device_needs_no_partitioner():
  mesh = sharding.make_mesh(1, devices=_devices(1))
  params = state_lib.abstract_params(tiny.model(), mesh)
  assert {type(x.sharding) for x in jax.tree.leaves(params)} == {SingleDeviceSharding}
  local = {"a": np.arange(6).reshape(2, 3)}
  array = sharding.to_global(mesh, local)["a"]
  assert isinstance(array.sharding, SingleDeviceSharding)
  np.testing.assert_array_equal(array, local["a"])
  with sharding.use(mesh):
    assert jax.sharding.get_abstract_mesh().empty
