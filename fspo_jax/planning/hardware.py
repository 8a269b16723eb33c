# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chips, by what their makers publish, and the devices that a program is compiled for."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a chip can do at most.

  Attributes:
    name: as in a topology.
    flops: a second, of bfloat16 matrix products, dense; 0 where nothing is published.
    memory: bytes.
    memory_bandwidth: bytes a second; 0 as above.
    link_bandwidth: bytes a second that it sends to other chips, over all its links; 0 as above.
  """

  name: str
  flops: float
  memory: float
  memory_bandwidth: float
  link_bandwidth: float


# Cloud TPU documentation, "TPU v5e", "TPU v5p" and "TPU v6e": peak compute per chip (bf16), HBM
# capacity and bandwidth, and the interconnect's Gbps over all ports (1,600, 4,800 and 3,200), / 8.
# NVIDIA H100 and H200 SXM data sheets: bf16 Tensor Core without sparsity (half of what is printed
# first), memory, memory bandwidth, and half of NVLink's 900 GB/s, which counts both directions.
CHIPS = {
  chip.name: chip
  for chip in (
    Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9),
    Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9),
    Chip("v6e", 918e12, 32 * GIB, 1600e9, 400e9),
    Chip("h100", 989e12, 80e9, 3350e9, 450e9),
    Chip("h200", 989e12, 141e9, 4800e9, 450e9),
  )
}
_TPUS = ("v5e", "v5p", "v6e")


class TopologyError(ValueError):
  """A topology that there is not, or that cannot be compiled for here."""


@dataclasses.dataclass(frozen=True)
class Target:
  """What a plan is for.

  Attributes:
    topology: its name, like 'v5e:16x16', 'h100:8' or 'cpu:1'.
    chip: each of its chips.
    devices: as many as there are chips, to compile for.
    is_exact: whether these are the chips themselves, so that the memory that the compiler counts
      is theirs; GPUs are stood in for by as many CPU devices.
  """

  topology: str
  chip: Chip
  devices: tuple[jax.Device, ...]
  is_exact: bool


def chips(topology: str) -> int:
  """How many chips a topology has.

  Raises:
    TopologyError: it is not one.
  """
  match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+){0,2})", topology)
  if not match or match[1] not in (*CHIPS, "cpu"):
    raise TopologyError(
      f"topology={topology!r}: expected a chip of {tuple(CHIPS)} and a shape, like 'v5e:16x16', "
      "'v5p:4x4x4' or 'h100:8'"
    )
  count = 1
  for size in match[2].split("x"):
    count *= int(size)
  return count


def target(topology: str) -> Target:
  """The devices of a topology. No backend of JAX may have been used before for GPUs and CPUs.

  Raises:
    TopologyError: there is no such topology, or what compiles for it is not installed.
  """
  count, name = chips(topology), topology.partition(":")[0]
  if name in _TPUS:
    return Target(topology, CHIPS[name], _tpus(topology), True)
  jax.config.update("jax_num_cpu_devices", count)
  devices = tuple(jax.devices("cpu"))
  if len(devices) != count:
    raise TopologyError(
      f"topology={topology!r}: found {len(devices)} CPU devices, expected {count}: JAX was used "
      "before with another number"
    )
  if name == "cpu":
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / count
    return Target(topology, Chip("cpu", 0.0, memory, 0.0, 0.0), devices, True)
  return Target(topology, CHIPS[name], devices, False)


def _tpus(topology: str) -> tuple[jax.Device, ...]:
  # libtpu asks the cloud's metadata server where it runs, which is nowhere.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # it is locked, for the chips' sake
  os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
  from jax.experimental import topologies  # It reads these.

  if importlib.util.find_spec("libtpu") is None:
    raise TopologyError(
      f"topology={topology!r}: found no libtpu, which compiles for TPUs (and needs none): "
      "pip install 'fspo_jax[tpu-plan]'"
    )
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except (RuntimeError, ValueError) as error:
    raise TopologyError(f"topology={topology!r}: {str(error).splitlines()[0]}") from error
  return tuple(found.devices)
