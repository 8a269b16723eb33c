# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bytes that a compiled program reads from a chip's memory and writes to it, from its HLO text.

As XLA's own cost analysis counts: what an instruction reads and writes, fusions as one, of a slice
the slice alone; but loop bodies as often as they go round, and nothing of what lies in the fast
memory beside the compute units (`S(1)` in a layout). It is what the program as it was compiled is
charged with, no bound of what another could do; a fusion beside which a collective goes on is also
charged with the collective's arrays. A kernel (`models.tree_flash`) is charged with its arrays
once, though it reads keys and values again for each block of queries.
"""

from __future__ import annotations

from fspo_jax import hlo

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
_FREE |= {"call", "after-all", "iota", "partition-id", "replica-id", "opt-barrier"}
_SLICES = ("dynamic-slice", "slice", "gather")


def _sizes(shape: str) -> list[int]:
  """Bytes of each array of a shape that lies in the chip's large memory."""
  return [0 if "S(" in layout else size for size, layout in hlo.arrays(shape)]


class _Computation:
  """A computation's instructions, by name."""

  def __init__(self, instructions: list[hlo.Instruction]) -> None:
    self.instructions = instructions
    self.shapes = {one.name: one.shape for one in instructions}
    self.uses: dict[str, list[hlo.Instruction]] = {}
    for one in instructions:
      for name in one.operands:
        self.uses.setdefault(name, []).append(one)

  def parameter(self, index: int) -> str | None:
    """The name of a parameter."""
    for one in self.instructions:
      if one.opcode == "parameter" and one.rest.startswith(f"{index})"):
        return one.name
    return None

  def read(self, index: int) -> int | None:
    """Bytes that are read of a parameter where only slices of it are; None where all of it is."""
    name = self.parameter(index)
    uses = self._through(name) if name else []
    if not uses:
      return None
    total = 0
    for source, one in uses:
      if one.opcode in _SLICES and one.operands[:1] == (source,):
        total += sum(_sizes(one.shape))
      elif one.opcode == "dynamic-update-slice" and one.operands[:1] == (source,):
        continue  # it is written in place
      else:
        return None
    return total

  def _through(self, name: str) -> list[tuple[str, hlo.Instruction]]:
    """What uses an array, looking through bitcasts."""
    found: list[tuple[str, hlo.Instruction]] = []
    for one in self.uses.get(name, ()):
      found += self._through(one.name) if one.opcode == "bitcast" else [(name, one)]
    return found

  def written(self) -> int:
    """Bytes of the root, of an update in place the update alone."""
    root = self.instructions[-1]
    by_name = {one.name: one for one in self.instructions}
    parts = root.operands if root.opcode == "tuple" else (root.name,)
    total = 0
    for name in parts:
      one = by_name.get(name)
      while one is not None and one.opcode == "bitcast":
        one = by_name.get(one.operands[0])
      if one is None:
        continue
      updates = one.opcode == "dynamic-update-slice"
      total += sum(_sizes(self.shapes[one.operands[1]] if updates else one.shape))
    return total


def traffic(module: hlo.Module) -> float:
  """Bytes that a compiled program reads and writes on a chip."""
  computations = {name: _Computation(found) for name, found in module.computations.items()}

  def moved(inside: _Computation, one: hlo.Instruction) -> float:
    operands = [sum(_sizes(inside.shapes.get(name, ""))) for name in one.operands]
    if one.opcode in _SLICES:
      return 2.0 * sum(_sizes(one.shape))
    if one.opcode == "dynamic-update-slice":
      return 2.0 * operands[1]
    if one.opcode.endswith("-done"):
      return 0.0  # counted where it started
    if one.opcode.endswith("-start"):
      return sum(operands) + float(max(_sizes(one.shape), default=0))
    called = computations.get(one.called) if one.opcode == "fusion" and one.called else None
    if called is None:
      return sum(operands) + float(sum(_sizes(one.shape)))
    read = 0.0
    for index, whole in enumerate(operands):
      part = called.read(index) if whole else 0
      read += whole if part is None else min(part, whole)
    return read + min(called.written(), sum(_sizes(one.shape)))

  total = 0.0
  for name, times in module.control():
    inside = computations.get(name)
    if inside is not None:
      total += times * sum(
        moved(inside, one) for one in inside.instructions if one.opcode not in _FREE
      )
  return total
