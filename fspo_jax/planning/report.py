# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A plan as numbers (for programs) and as Markdown (for people)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from typing import Any

from fspo_jax.planning import estimate as estimate_lib
from fspo_jax.planning.hardware import GIB, Target
from fspo_jax.planning.meshes import Candidate
from fspo_jax.planning.program import Compiled


@dataclasses.dataclass(frozen=True)
class Row:
  """A mesh that was compiled.

  Attributes:
    candidate: the mesh, its policy, and what the formulas say.
    compiled: what the compiler says.
    program_flops: of matrix products, of the whole batch, counted in the program.
    params: bytes of the parameters, on a chip.
    optimizer: of the optimizer's state.
    frozen: of the reference, or the adapters' base.
  """

  candidate: Candidate
  compiled: Compiled
  program_flops: float
  params: int
  optimizer: int
  frozen: int


@dataclasses.dataclass(frozen=True)
class Run:
  """What the config asks for.

  Attributes:
    config: its name.
    stage: which of its stages.
    work: its step.
    steps: how many.
    terms: preference terms of a step at most (pairs), or of SFT the responses.
    episodes: of the whole stage.
  """

  config: str
  stage: str
  work: estimate_lib.Work
  steps: int
  terms: int
  episodes: int


def times(row: Row, target: Target) -> dict[str, float] | None:
  """The roofline of a step, in seconds; None for a chip without peaks, or what does not fit."""
  chip, compiled, formula = target.chip, row.compiled, row.candidate.estimate
  if not chip.flops or not compiled.fits:
    return None
  found = {"compute": row.program_flops / len(target.devices) / chip.flops}
  if compiled.traffic is None:
    found |= {"memory": formula.memory_s, "links": formula.links_s}
  else:
    # What a CPU's program reads and writes says nothing of GPUs.
    moved = compiled.moved / chip.memory_bandwidth if target.is_exact else formula.memory_s
    sent = sum(compiled.traffic.by_axes().values()) / chip.link_bandwidth
    found |= {"memory": moved, "links": sent}
  return found | {"bound": max(found.values()), "one_after_another": sum(found.values())}


def fits(row: Row, target: Target) -> bool:
  """Whether the chip's memory is enough; of chips that others stand in for, by the formulas."""
  if target.is_exact:
    return row.compiled.fits and row.compiled.memory <= target.chip.memory
  return row.candidate.estimate.memory <= target.chip.memory


def as_json(rows: list[Row], others: list[Candidate], run: Run, target: Target) -> dict[str, Any]:
  """The plan as JSON has it: bytes, seconds, FLOPs."""
  chip = dataclasses.asdict(target.chip)
  return {
    "config": run.config,
    "stage": run.stage,
    "topology": target.topology,
    "chips": len(target.devices),
    "chip": chip,
    "memory_is_compiled": target.is_exact,
    "steps": run.steps,
    "episodes": run.episodes,
    "model_flops": estimate_lib.model_flops(run.work),
    "compiled": [_row_json(row, run, target) for row in rows],
    "estimated": [
      {"mesh": one.mesh, "remat": one.remat, **dataclasses.asdict(one.estimate)} for one in others
    ],
    "versions": versions(),
  }


def versions() -> dict[str, str]:
  """Of what compiled."""
  found = {}
  for name in ("jax", "jaxlib", "libtpu"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "none"
  return found


def _row_json(row: Row, run: Run, target: Target) -> dict[str, Any]:
  compiled, roofline = row.compiled, times(row, target)
  work = dataclasses.replace(
    run.work, model=dataclasses.replace(run.work.model, remat=row.candidate.remat)
  )
  found: dict[str, Any] = {
    "mesh": row.candidate.mesh,
    "remat": row.candidate.remat,
    "fits": fits(row, target),
    "memory": {
      "total": compiled.memory,
      "params": row.params,
      "optimizer": row.optimizer,
      "frozen": row.frozen,
      "temporaries": compiled.temporaries,
      "code": compiled.code,
      "estimated_total": row.candidate.estimate.memory,
    },
    "flops": {
      "program": row.program_flops,
      "formula": estimate_lib.program_flops(work),
      "xla_per_chip_loops_once": compiled.flops_one_round,
    },
    "moved_bytes": compiled.moved,
    "compile_seconds": {"wall": compiled.wall_s, "cpu": compiled.cpu_s},
  }
  if compiled.traffic is not None:
    found["sent_bytes"] = {
      "by_axes": compiled.traffic.by_axes(),
      "by_kind": compiled.traffic.by_kind(),
      "loops_of_unknown_length": compiled.traffic.unknown_loops,
    }
  if roofline is not None:
    chips, seconds = len(target.devices), roofline["bound"]
    peak = chips * target.chip.flops
    found |= {
      "step_seconds": roofline,
      "mfu_bound": estimate_lib.model_flops(run.work) / peak / seconds,
      "terms_per_second": run.terms / seconds,
      "hours": run.steps * seconds / 3600,
      "chip_hours": run.steps * seconds / 3600 * chips,
    }
  return found


def _gib(value: float) -> str:
  return f"{value / GIB:.2f}"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
  lines = [header, ["---"] * len(header), *rows]
  return [f"| {' | '.join(line)} |" for line in lines]


def as_markdown(plan: dict[str, Any]) -> str:
  """The plan, to be read; `plan` is of `as_json`."""
  chip, rows = plan["chip"], plan["compiled"]
  lines = [
    f"## {plan['config']}, stage {plan['stage']}, on {plan['topology']} ({plan['chips']} chips)",
    "",
    _verdict(plan),
    "",
  ]
  meshes = []
  for row in rows:
    meshes.append([_name(row), "compiled", *_measures(row)])
  for one in plan["estimated"]:
    bound = max(one["compute_s"], one["memory_s"], one["links_s"])
    name = _name(one)
    meshes.append([name, "formula", "", _gib(one["memory"]), _seconds(bound), "", "", "", ""])
  header = ["data x fsdp x tensor, remat", "by", "fits", "GiB a chip", "step s, at least"]
  lines += _table([*header, "MFU, at most", "terms/s", "hours", "chip-hours"], meshes)
  for row in rows[:1]:
    lines += ["", *_details(row, plan)]
  if chip["flops"]:
    lines += [
      "",
      f"Chip {chip['name']}: {chip['flops'] / 1e12:.0f} TFLOP/s (bf16), "
      f"{chip['memory'] / GIB:.1f} GiB at {chip['memory_bandwidth'] / 1e9:.0f} GB/s, sends "
      f"{chip['link_bandwidth'] / 1e9:.0f} GB/s over all its links.",
    ]
  names = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
  return "\n".join([*lines, f"Compiled with {names}.", ""])


def _verdict(plan: dict[str, Any]) -> str:
  rows = plan["compiled"]
  best = next((row for row in rows if row["fits"]), None)
  if best is None:
    return "**Does not fit**: none of the meshes that were compiled."
  by = "by the compiler" if plan["memory_is_compiled"] else "by formula: it stands for a GPU"
  text = f"**Fits**: {_name(best)}, {_gib(_memory(best, plan))} GiB a chip ({by})"
  if "hours" not in best:
    return text + ". No peaks are known of this chip, so there is no time."
  return (
    f"{text}; a step of {plan['episodes'] // plan['steps']} episodes takes at least "
    f"{_seconds(best['step_seconds']['bound'])} s, {plan['steps']} steps {best['hours']:.2f} "
    f"hours or {best['chip_hours']:.0f} chip-hours; MFU at most {best['mfu_bound']:.0%}."
  )


def _memory(row: dict[str, Any], plan: dict[str, Any]) -> float:
  return row["memory"]["total" if plan["memory_is_compiled"] else "estimated_total"]


def _name(row: dict[str, Any]) -> str:
  return " x ".join(str(size) for size in row["mesh"].values()) + f", {row['remat']}"


def _seconds(value: float) -> str:
  return "" if not value else f"{value:.3g}"


def _measures(row: dict[str, Any]) -> list[str]:
  found = ["yes" if row["fits"] else "no", _gib(row["memory"]["total"])]
  if "hours" not in row:
    return [*found, "", "", "", "", ""]
  return [
    *found,
    _seconds(row["step_seconds"]["bound"]),
    f"{row['mfu_bound']:.0%}",
    f"{row['terms_per_second']:.0f}",
    f"{row['hours']:.2f}",
    f"{row['chip_hours']:.0f}",
  ]


def _details(row: dict[str, Any], plan: dict[str, Any]) -> list[str]:
  """What the first of the compiled meshes needs, by kind."""
  memory, flops = row["memory"], row["flops"]
  kinds = ("params", "optimizer", "frozen", "temporaries", "code")
  found = [f"{_name(row)}, of a chip and a step:", ""]
  found.append(
    "- memory, GiB: " + ", ".join(f"{kind} {_gib(memory[kind])}" for kind in kinds) + "."
  )
  per_chip = flops["program"] / plan["chips"]
  found.append(
    f"- matrix products: {per_chip / 1e12:.2f} TFLOP (by formula "
    f"{flops['formula'] / plan['chips'] / 1e12:.2f}; what the batch needs "
    f"{plan['model_flops'] / plan['chips'] / 1e12:.2f}; XLA, loop bodies once, "
    f"{flops['xla_per_chip_loops_once'] / 1e12:.2f})."
  )
  if "sent_bytes" in row:
    sent = row["sent_bytes"]
    by = [f"{axes} {value / 1e9:.2f}" for axes, value in sent["by_axes"].items()]
    kinds = [f"{kind} {value / 1e9:.2f}" for kind, value in sent["by_kind"].items()]
    found.append(f"- sent, GB: by axes {', '.join(by) or 'nothing'}; {', '.join(kinds)}.")
    if unknown := sent["loops_of_unknown_length"]:
      found.append(f"- loops of unknown length, counted once: {unknown}; more is moved and sent.")
  else:
    found.append("- sent: the program could not be read; seconds of memory and links by formula.")
  if "step_seconds" in row:
    seconds = row["step_seconds"]
    parts = [f"{kind} {seconds[kind]:.3f}" for kind in ("compute", "memory", "links")]
    found.append(
      f"- seconds, at least: {', '.join(parts)}; {seconds['bound']:.3f} if each hides the others, "
      f"{seconds['one_after_another']:.3f} one after another."
    )
  spent = row["compile_seconds"]
  found.append(f"- compiled in {spent['wall']:.0f} s ({spent['cpu']:.0f} s of CPU).")
  return found


def best_first(rows: list[Row], target: Target) -> list[Row]:
  """Those that fit first, the fastest of them first."""

  def rank(row: Row) -> tuple[bool, float, float]:
    roofline = times(row, target)
    return not fits(row, target), roofline["bound"] if roofline else math.inf, row.compiled.memory

  return sorted(rows, key=rank)
