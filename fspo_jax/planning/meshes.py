# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meshes that a step could run on, and which of them to compile."""

from __future__ import annotations

import dataclasses

from fspo_jax.models.architecture import REMAT_POLICIES
from fspo_jax.planning import estimate as estimate_lib
from fspo_jax.planning.hardware import Chip

# The part of a chip's memory that an estimate may fill: formulas leave out what they do not know.
_ROOM = 0.9


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A mesh and a remat policy, with what the formulas say of them.

  Attributes:
    data: chips along the axis `data`.
    fsdp: along `fsdp`.
    tensor: along `tensor`.
    remat: the policy.
    estimate: of memory and time.
  """

  data: int
  fsdp: int
  tensor: int
  remat: str
  estimate: estimate_lib.Estimate

  @property
  def mesh(self) -> dict[str, int]:
    """Sizes by axis."""
    return {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}

  @property
  def name(self) -> str:
    """Like '1 x 16 x 4, full'."""
    return f"{self.data} x {self.fsdp} x {self.tensor}, {self.remat}"


def _divisors(n: int) -> list[int]:
  return [i for i in range(1, n + 1) if n % i == 0]


def _is_possible(work: estimate_lib.Work, data: int, fsdp: int, tensor: int) -> bool:
  """Whether arrays can be split so: along every axis into equal parts."""
  m = work.model
  split = (m.heads, m.kv_heads, m.mlp, m.vocab_size)
  return (
    work.rows % (data * fsdp * work.accumulate) == 0
    and m.width % fsdp == 0
    and all(size % tensor == 0 for size in split)
  )


def candidate(work: estimate_lib.Work, mesh: dict[str, int], remat: str, chip: Chip) -> Candidate:
  """A mesh with its estimate."""
  model = dataclasses.replace(work.model, remat=remat)
  found = estimate_lib.estimate(dataclasses.replace(work, model=model), mesh, chip)
  return Candidate(mesh["data"], mesh["fsdp"], mesh["tensor"], remat, found)


def candidates(work: estimate_lib.Work, chips: int, chip: Chip) -> list[Candidate]:
  """All meshes that split everything evenly, under each policy; the most promising first.

  First those that should fit, by time; then the others, by memory.
  """
  found = [
    candidate(work, {"data": data, "fsdp": fsdp, "tensor": chips // data // fsdp}, remat, chip)
    for data in _divisors(chips)
    for fsdp in _divisors(chips // data)
    if _is_possible(work, data, fsdp, chips // data // fsdp)
    for remat in REMAT_POLICIES
  ]

  def rank(one: Candidate) -> tuple[bool, tuple[float, float], float]:
    memory = one.estimate.memory
    tight = memory > _ROOM * chip.memory
    return tight, (memory, 0.0) if tight else one.estimate.rank, memory

  return sorted(found, key=rank)
