# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The text of a compiled HLO module: its computations, and how often each of them runs."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}

_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*)$")
_OPCODE = re.compile(r"^(\(.*?\)|[a-z][a-z0-9]*\[[^ ]*) ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([^\s,)}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BRANCH = re.compile(r"(?:true|false)_computation=%?([^\s,)}]+)")
_KNOWN_ROUNDS = re.compile(r"known_trip_count\W+n\W+(\d+)")  # XLA:CPU says it beside the loop


def arrays(shape: str) -> list[tuple[int, str]]:
  """Bytes and layout of each array of a shape such as bf16[8,128]{1,0}, or of a tuple of them."""
  return [
    (_BYTES.get(dtype, 4) * math.prod(int(d) for d in dims.split(",") if d), layout)
    for dtype, dims, layout in _ARRAY.findall(shape)
  ]


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: of its value.
    shape: of its value, with the layout.
    opcode: what it does.
    operands: names of the values that it is given.
    rest: what stands after the opcode's parenthesis.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  rest: str

  @property
  def called(self) -> str | None:
    """The computation of a fusion or a call."""
    match = _CALLED.search(self.rest)
    return match[1] if match else None


@dataclasses.dataclass(frozen=True)
class Module:
  """A module.

  Attributes:
    computations: the instructions of each.
    entry: the name of the one that is run.
  """

  computations: dict[str, list[Instruction]]
  entry: str

  def rounds(self, loop: Instruction) -> int | None:
    """How often a loop goes round; None if its text does not say.

    A loop's condition is `i < constant`, unless the compiler has noted the number beside it.
    """
    if match := _KNOWN_ROUNDS.search(loop.rest):
      return int(match[1])
    condition = re.search(r"condition=%?([^\s,]+)", loop.rest)
    lines = self.computations.get(condition[1], []) if condition else []
    constants = {
      one.name: int(one.rest.split(")")[0])
      for one in lines
      if one.opcode == "constant" and one.shape.startswith(("s32[]", "u32[]"))
    }
    used = [
      constants[name]
      for one in lines
      if one.shape.startswith("pred[]")
      for name in one.operands
      if name in constants
    ]
    return used[0] if len(used) == 1 else None

  def control(self) -> Iterator[tuple[str, int]]:
    """The computations that run by themselves (not within a fusion), and how often each does."""
    yield from self._control(self.entry, 1)

  def _control(self, name: str, times: int) -> Iterator[tuple[str, int]]:
    yield name, times
    for one in self.computations.get(name, ()):
      if one.opcode == "while":
        body = re.search(r"body=%?([^\s,]+)", one.rest)
        yield from self._control(body[1], times * (self.rounds(one) or 1))
      elif one.opcode == "call" and one.called:
        yield from self._control(one.called, times)
      elif one.opcode == "conditional":
        branches = _BRANCHES.search(one.rest)
        found = branches[1].split(",") if branches else _BRANCH.findall(one.rest)
        for branch in found:
          yield from self._control(branch.strip().lstrip("%"), times)

  def unknown_loops(self) -> int:
    """How many loops there are of which the text does not say how often they go round."""
    loops = [o for name, _ in self.control() for o in self.computations.get(name, ())]
    return sum(o.opcode == "while" and self.rounds(o) is None for o in loops)


def _operands(rest: str) -> tuple[str, ...]:
  """The names up to the parenthesis that closes the operands."""
  depth = 1
  for end, char in enumerate(rest):
    depth += (char == "(") - (char == ")")
    if depth == 0:
      return tuple(re.findall(r"%([^\s,)]+)", rest[:end]))
  return ()


def parse(text: str) -> Module:
  """The module of a text, as `jax.stages.Compiled.as_text` gives it."""
  found: dict[str, list[Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if line.startswith("}"):
      current = None
    elif not line.startswith(" "):
      if match := _COMPUTATION.match(line):
        current = match[2]
        found[current] = []
        entry = current if match[1] else entry
    elif current is not None and (match := _INSTRUCTION.match(line)):
      if parts := _OPCODE.match(match[2]):
        shape, opcode, rest = parts.groups()
        found[current].append(Instruction(match[1], shape, opcode, _operands(rest), rest))
  return Module(found, entry)
