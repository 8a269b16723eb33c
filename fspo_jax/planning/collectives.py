# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a compiled program sends between chips, read from its HLO text.

A collective counts as often as the loops that it is in go round. XLA:TPU splits a collective that
runs beside compute into fusions that each name it again, even within a loop that it runs beside: it
is counted once, by its channel, where it starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re

import numpy as np

from fspo_jax import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_LISTED = re.compile(r"replica_groups=\{(\{[0-9,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?")
_MESH = re.compile(
  r"replica_groups=mesh\[([^\]]*)\]"
  r"(?:, device_ids=\(\[([0-9,]+)\](?:T\(([0-9,]+)\))?\))?\s*\{([^}]*)\}"
)
_PAIRS = re.compile(r"source_target_pairs=\{([0-9,{}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a program.

  Attributes:
    kind: one of `KINDS`.
    axes: mesh axes that its groups lie along, joined by '+'.
    wire_bytes: what one chip sends, once: with n chips in a ring (n - 1) / n of the whole array
      for a gather, a scatter and an exchange, twice that for a reduction to all.
    times: how often it runs in the program.
  """

  kind: str
  axes: str
  wire_bytes: float
  times: int


@dataclasses.dataclass(frozen=True)
class Traffic:
  """All collectives of a program.

  Attributes:
    collectives: each of them.
    unknown_loops: loops whose number of rounds the text does not say; they count once.
  """

  collectives: tuple[Collective, ...]
  unknown_loops: int

  def by_axes(self) -> dict[str, float]:
    """Bytes that one chip sends, by mesh axes."""
    found: dict[str, float] = {}
    for one in self.collectives:
      found[one.axes] = found.get(one.axes, 0.0) + one.wire_bytes * one.times
    return dict(sorted(found.items()))

  def by_kind(self) -> dict[str, float]:
    """Bytes that one chip sends, by kind of collective."""
    found: dict[str, float] = {}
    for one in self.collectives:
      found[one.kind] = found.get(one.kind, 0.0) + one.wire_bytes * one.times
    return dict(sorted(found.items()))


def _size(shape: str, *, largest: bool) -> int:
  """Bytes of a shape, of all in a tuple together; or of the largest alone."""
  sizes = [size for size, _ in hlo.arrays(shape)]
  return max(sizes, default=0) if largest else sum(sizes)


def _iota(dims: str, order: str | None) -> np.ndarray:
  """Numbers from 0 in the shape of `dims`, with its axes in another order where one is given."""
  shape = [int(i) for i in dims.split(",")]
  ids = np.arange(math.prod(shape)).reshape(shape)
  return ids.transpose([int(i) for i in order.split(",")]) if order else ids


def groups(rest: str, chips: int) -> list[list[int]]:
  """The groups of chips of a collective, by their place in the mesh."""
  if match := _LISTED.search(rest):
    return [[int(i) for i in g.split(",")] for g in re.findall(r"\{([0-9,]+)\}", match[1])]
  if match := _IOTA.search(rest):
    return _iota(match[2], match[3]).reshape([int(i) for i in match[1].split(",")]).tolist()
  if match := _MESH.search(rest):
    sizes = {n: int(s) for n, s in re.findall(r"'([^']*)'=(\d+)", match[1])}
    chosen, names = re.findall(r"'([^']*)'", match[4]), list(sizes)
    others = [i for i, n in enumerate(names) if n not in chosen]
    ids = _iota(match[2] or str(math.prod(sizes.values())), match[3])
    ids = ids.reshape(list(sizes.values())).transpose([*others, *(names.index(n) for n in chosen)])
    return ids.reshape(-1, math.prod(sizes[n] for n in chosen)).tolist()
  return [list(range(chips))]  # none are named: all


def axes_of(group: list[int], mesh: Mapping[str, int]) -> str:
  """The mesh axes along which the members of a group differ."""
  places = np.array(np.unravel_index(np.asarray(group), list(mesh.values())))
  names = [n for n, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1]
  return "+".join(names)


def _collective(one: hlo.Instruction, inside: str, mesh: Mapping[str, int]) -> Collective | None:
  """What an instruction sends; None if nothing."""
  kind = one.opcode.removesuffix("-start")
  if kind not in KINDS:
    return None
  whole = _size(one.shape, largest=one.opcode != kind)
  if kind == "collective-permute":
    pairs = [
      [int(a), int(b)]
      for a, b in re.findall(r"\{(\d+),(\d+)\}", _PAIRS.search(one.rest)[1])
      if a != b  # stays where it is
    ]
    crossed = {name for pair in pairs for name in axes_of(pair, mesh).split("+")}
    names = "+".join(n for n in mesh if n in crossed)
    return Collective(kind, names, float(whole), 1) if pairs else None
  found = groups(one.rest, math.prod(mesh.values()))
  n = len(found[0])
  if n == 1:
    return None
  if kind == "all-reduce" and "all-reduce-scatter" in inside:
    kind = "reduce-scatter"  # how XLA:TPU writes one: its shape is the whole array's
  elif kind == "reduce-scatter":
    whole *= n  # its shape is a part's
  factor = (2.0 if kind == "all-reduce" else 1.0) * (n - 1) / n
  return Collective(kind, axes_of(found[0], mesh), factor * whole, 1)


def traffic(module: hlo.Module, mesh: Mapping[str, int]) -> Traffic:
  """The collectives of a compiled program.

  Args:
    module: the program, after compilation.
    mesh: sizes of the mesh by axis, in its order; chips are numbered as in the mesh.
  """
  found: list[Collective] = []

  def fused(name: str) -> Iterator[tuple[hlo.Instruction, str]]:
    """The instructions of a computation and of the fusions in it, and where each stands."""
    for one in module.computations.get(name, ()):
      yield one, name
      if one.called and one.opcode not in ("call", "while", "conditional", *KINDS):
        yield from fused(one.called)

  seen: set[tuple[str, str]] = set()
  for name, times in module.control():  # what is around a loop comes before what is in it
    for one, inside in fused(name):
      sent = _collective(one, inside, mesh)
      channel = re.search(r"channel_id=(\d+)", one.rest)
      key = (sent.kind, channel[1] if channel else f"{inside} {one.name}") if sent else ("", "")
      if sent is not None and key not in seen:
        seen.add(key)
        found.append(dataclasses.replace(sent, times=times))
  return Traffic(tuple(found), module.unknown_loops())
