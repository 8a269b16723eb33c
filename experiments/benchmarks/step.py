# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Preference training by the step: ours on token trees against the paper's layout, TRL and Tunix.

python experiments/benchmarks/step.py [--model=small] [--rounds=5] [--only=ours,trl] [--out=FILE]

All contenders train the same model from the same weights on the same episodes, by AdamW, each in a
process of its own, in rounds that alternate. First it is shown that they compute the same thing.
Prints a table and, as the last line, JSON; `README.md` beside this file says what the figures mean.
Who needs `pip install fspo_jax[bench]` and is without it is reported as absent, and why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.benchmarks.contenders import contract, counting  # noqa: E402
from experiments.benchmarks.contenders import setting as setting_lib  # noqa: E402
from fspo_jax.evaluation import results as results_lib  # noqa: E402
from fspo_jax.models import shapes  # noqa: E402

_MODEL = flags.DEFINE_enum("model", "small", [*setting_lib.MODELS, *shapes.NAMES], "Its shape.")
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", setting_lib.DTYPES, "Of parameters, computation and the optimizer's moments."
)
_WORLD = flags.DEFINE_enum("world", "reviews", setting_lib.WORLDS, "Whose episodes.")
_SHOTS = flags.DEFINE_integer("shots", 8, "N, preferences in an episode's context.")
_EPISODES = flags.DEFINE_integer("episodes", 4, "Of a step.")
_TOKENS = flags.DEFINE_integer("tokens", 0, "Of the largest tree, by longer texts; 0: as they are.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds of each contender.")
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of a round.")
_WARMUP = flags.DEFINE_integer("warmup", 2, "Steps before the first round, not timed.")
_PLATFORM = flags.DEFINE_enum(
  "platform", "cpu", ["cpu", "gpu"], "gpu: one contender at a time, begun anew each round."
)
_ONLY = flags.DEFINE_list("only", list(contract.NAMES), "Contenders, beside ours and paper_layout.")
_KERNEL_BLOCK = flags.DEFINE_integer(
  "kernel_block",
  setting_lib.Setting.kernel_block,
  f"Tokens of a block of {contract.KERNELS}'s attention.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and episodes.")
_OUT = flags.DEFINE_string("out", None, "File for the JSON, indented.")

# Largest difference of log-probabilities, and of a gradient from the largest of its tensor.
_TOLERANCE = {"float32": (2e-4, 1e-3), "bfloat16": (3e-2, 1e-1)}
_LINES = ("contender", "terms/s", "of ours", "unique tokens/s", "MFU", "padding", "peak GB")


class BenchmarkError(RuntimeError):
  """What is compared is not the same, or who must run does not."""


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


class Process:
  """A contender's process, from its start to its end."""

  def __init__(self, name: str, workdir: pathlib.Path) -> None:
    platforms = {"cpu": "cpu", "gpu": "cuda"}[_PLATFORM.value]
    environment = {
      **os.environ,
      "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
      "JAX_PLATFORMS": platforms,
      "JAX_NUMPY_RANK_PROMOTION": "allow",  # other people's code does
      "HF_HUB_OFFLINE": "1",
      "TOKENIZERS_PARALLELISM": "false",
    }
    self.name, self._log = name, workdir / f"{name}.log"
    with self._log.open("a") as log:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "experiments.benchmarks.contenders.worker", name, str(workdir)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
      )
    self.facts = self._answer()

  def _answer(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      tail = "\n".join(self._log.read_text().splitlines()[-20:])
      raise BenchmarkError(f"{self.name}: ended with {self._process.wait()}\n{tail}")
    return json.loads(line)

  def run(self, steps: int) -> dict[str, float]:
    """Seconds of so many steps."""
    self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
    self._process.stdin.flush()
    return self._answer()

  def end(self) -> dict[str, Any]:
    """Ends it; gives its peak memory and its matrix product's FLOPs a second."""
    self._process.stdin.close()
    found = self._answer()
    self._process.wait()
    return found

  def kill(self) -> None:
    """Ends it, whatever it is doing."""
    self._process.kill()
    self._process.wait()


class Contenders:
  """All of them, and what was measured so far."""

  def __init__(self, workdir: pathlib.Path, stack: contextlib.ExitStack) -> None:
    self._workdir, self._stack = workdir, stack
    self.absent: dict[str, str] = {}
    self.ready: dict[str, Process] = {}
    self.rounds: dict[str, list[dict[str, float]]] = {}
    self.ends: dict[str, dict[str, Any]] = {}

  def open(self, name: str) -> None:
    """Starts a contender, which then is ready or absent."""
    process = Process(name, self._workdir)
    self._stack.callback(process.kill)
    if "absent" not in process.facts:
      self.ready[name] = process
      self.rounds.setdefault(name, [])
      _say(f"{name}: ready after {process.facts['setup_seconds']:.0f} s")
    elif name in contract.REQUIRED:
      raise BenchmarkError(f"{name}: {process.facts['absent']}")
    else:
      self.absent[name] = process.facts["absent"]
      _say(f"{name}: absent: {self.absent[name]}")

  def check(self, dtype: str) -> dict[str, dict[str, float]]:
    """Compares what they compute with `paper_layout`: see `differences`."""
    expected = dict(np.load(self._workdir / "check-paper_layout.npz"))
    found = {}
    for name in self.ready:
      if name != "paper_layout":
        shown = dict(np.load(self._workdir / f"check-{name}.npz"))
        found[name] = differences(name, shown, expected, dtype)
        _say(f"{name}: as paper_layout but for {found[name]}")
    return found

  def alternate(self) -> None:
    """Warm-up, then the rounds; the order turns, so that nobody always comes after the same."""
    resident, names = _PLATFORM.value == "cpu", list(self.ready)
    if resident:
      for name in names:
        self.ready[name].run(_WARMUP.value)
    for number in range(_ROUNDS.value):
      turn = number % len(names)
      for name in names[turn:] + names[:turn]:
        if not resident:
          self.open(name)
          if name in self.absent:
            raise BenchmarkError(f"{name}: was ready, and then: {self.absent[name]}")
          self.ready[name].run(_WARMUP.value)
        self.rounds[name].append(self.ready[name].run(_STEPS.value))
        _say(f"round {number + 1}: {name}: {self.rounds[name][-1]['seconds']:.2f} s")
        if not resident:
          self.ends[name] = self.ready[name].end()
    if resident:
      self.ends = {name: self.ready[name].end() for name in names}


def differences(
  name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str
) -> dict[str, float]:
  """How far a contender's first batch is from the paper's layout in our model.

  Args:
    name: of the contender, for errors.
    found: its log-probabilities and, if it has them, gradients (see `contract.Contender`).
    expected: those of `paper_layout`.
    dtype: that they were computed in, which decides how far they may be.

  Returns:
    The largest relative difference of a log-probability and, where there are gradients, the largest
    difference of one from the largest of its tensor.

  Raises:
    BenchmarkError: it is too large: they do not compute the same.
  """
  scores = ("chosen", "rejected", "ref_chosen", "ref_rejected")
  gradients = [key for key in found if key.startswith("gradient/")]
  by_key = [_apart(found[k], expected[k], np.abs(expected[k])) for k in scores]
  apart = {"logprobs": float(np.max(by_key))}  # unlike max, not a number if any is not
  if gradients:
    missing = {key for key in expected if key.startswith("gradient/")} ^ set(gradients)
    if missing:
      raise BenchmarkError(f"{name}: found other tensors than paper_layout: {sorted(missing)}")
    by_key = [_apart(found[k], expected[k], np.abs(expected[k]).max()) for k in gradients]
    apart["gradient"] = float(np.max(by_key))
  for key, limit in zip(("logprobs", "gradient"), _TOLERANCE[dtype], strict=True):
    if not apart.get(key, 0.0) <= limit:  # nor not a number
      raise BenchmarkError(f"{name}: {key} differ from paper_layout by {apart[key]:.2g} > {limit}")
  return apart


def _apart(found: np.ndarray, expected: np.ndarray, scale: np.ndarray) -> float:
  if found.shape != expected.shape:
    raise BenchmarkError(f"found the shape {found.shape}, expected {expected.shape}")
  return float(np.max(np.abs(found - expected) / scale))


def _spread(values: list[float]) -> dict[str, float]:
  return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _row(
  name: str,
  work: counting.Work,
  rounds: list[dict[str, float]],
  end: dict[str, Any],
  peak: dict[str, float],
) -> dict[str, Any]:
  """The figures of a contender; rates are medians over rounds."""
  steps = _spread([r["steps"] / r["seconds"] for r in rounds])
  cpu = statistics.median(r["steps"] / r["cpu_seconds"] for r in rounds)
  device = end["device_peak_bytes"]
  found = {
    "terms_per_second": work.terms * steps["median"],
    "terms_per_second_min": work.terms * steps["min"],
    "terms_per_second_max": work.terms * steps["max"],
    "terms_per_cpu_second": work.terms * cpu,
    "unique_tokens_per_second": work.unique_tokens * steps["median"],
    "useful_mfu": work.useful_flops * steps["median"] / peak["per_second"],
    "useful_mfu_by_cpu": work.useful_flops * cpu / peak["per_cpu_second"],
    "padding_fraction": work.padding_fraction,
    "peak_gb": (end["peak_bytes"] if device is None else device) / 1e9,
    "imports_gb": end["imports_bytes"] / 1e9,
    "terms_per_step": work.terms,
    "tokens_per_step": work.tokens,
    "step_seconds": [r["seconds"] / r["steps"] for r in rounds],
    "step_cpu_seconds": [r["cpu_seconds"] / r["steps"] for r in rounds],
    "reference": "precomputed" if name in contract.CACHED else "each step",
  }
  return found


def _compared(rows: dict[str, Any], works: dict[str, counting.Work]) -> dict[str, Any]:
  """How many times as many terms a second ours has as each other, round by round."""
  found = {}
  for name, row in rows.items():
    if name == "ours" or row is None:
      continue
    terms = works["ours"].terms / works[name].terms

    def ratio(key: str, row: dict = row, terms: float = terms) -> list[float]:
      pairs = zip(rows["ours"][key], row[key], strict=True)
      return [terms * theirs / ours for ours, theirs in pairs]

    found[name] = _spread(ratio("step_seconds"))
    found[name]["cpu_median"] = statistics.median(ratio("step_cpu_seconds"))
  return found


def measure(workdir: pathlib.Path) -> dict[str, Any]:
  """All of it, in a folder that is empty; gives what the last line says."""
  setting = setting_lib.Setting(
    _MODEL.value,
    _DTYPE.value,
    _WORLD.value,
    _SHOTS.value,
    _EPISODES.value,
    _STEPS.value,
    _TOKENS.value,
    _SEED.value,
    _KERNEL_BLOCK.value,
  )
  setting.write(workdir)
  names = [n for n in contract.NAMES if n in ("ours", "paper_layout", *_ONLY.value)]
  command = [sys.executable, "-m", "experiments.benchmarks.contenders.weights", str(workdir)]
  path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  subprocess.run(
    command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}, check=True
  )
  task = setting_lib.task(setting)
  with contextlib.ExitStack() as stack:
    contenders = Contenders(workdir, stack)
    for name in names:
      contenders.open(name)
      if _PLATFORM.value == "gpu" and name in contenders.ready:
        contenders.ready[name].kill()
    checks = contenders.check(setting.dtype)
    contenders.alternate()
  works = {
    name: counting.work(
      setting,
      task,
      paper=name in contract.PAPER,
      cached=name in contract.CACHED,
      padded=process.facts["padded_tokens"],
    )
    for name, process in contenders.ready.items()
  }
  peaks = [end["peak_flops"] for end in contenders.ends.values() if end["peak_flops"]]
  peak = {key: max(p[key] for p in peaks) for key in ("per_second", "per_cpu_second")}
  rows: dict[str, Any] = {
    name: _row(name, works[name], contenders.rounds[name], contenders.ends[name], peak)
    if name in works
    else None
    for name in contract.NAMES
  }
  faster = _compared(rows, works)
  expected = counting.predicted(works["ours"], works["paper_layout"])
  return {
    **rows,
    "absent": {n: contenders.absent.get(n, "not asked for") for n, row in rows.items() if not row},
    "ours_over": faster,
    "predicted_over_paper_layout": expected,
    "reached_of_predicted": {
      key: faster["paper_layout"]["median"] / value for key, value in expected.items()
    },
    "differences": checks,
    "peak_flops": peak,
    "setting": dataclasses.asdict(setting),
    "rounds": _ROUNDS.value,
    "steps_per_round": _STEPS.value,
    "platform": _PLATFORM.value,
    # With a full one JAX compiles nothing, and peaks of memory are lower.
    "compilation_cache": "JAX_COMPILATION_CACHE_DIR" in os.environ,
    "cores": len(os.sched_getaffinity(0)),
    "load_average": os.getloadavg()[0],
    "environment": results_lib.environment(
      seed=setting.seed, packages=("torch", "transformers", "trl", "google-tunix")
    ),
  }


def table(found: dict[str, Any]) -> str:
  """What was measured, for people."""
  lines = ["| " + " | ".join(_LINES) + " |", "|" + " --- |" * len(_LINES)]
  for name in contract.NAMES:
    row = found[name]
    if row is None:
      lines.append(f"| {name} | absent: {found['absent'][name]} |" + " |" * (len(_LINES) - 2))
      continue
    ratio = found["ours_over"].get(name)
    slower = "" if ratio is None else "1 / {median:.1f} ({min:.1f} to {max:.1f})".format(**ratio)
    cells = (
      name,
      f"{row['terms_per_second']:.2f}",
      slower,
      f"{row['unique_tokens_per_second']:.0f}",
      f"{row['useful_mfu']:.1%}",
      f"{row['padding_fraction']:.1%}",
      f"{row['peak_gb']:.2f}",
    )
    lines.append("| " + " | ".join(cells) + " |")
  predicted, reached = found["predicted_over_paper_layout"], found["reached_of_predicted"]
  measured = found["ours_over"]["paper_layout"]["median"]
  lines += [
    "",
    f"ours over paper_layout: {measured:.2f} x measured; counting tokens predicts "
    f"{predicted['by_tokens']:.2f} x ({reached['by_tokens']:.0%} reached); counting FLOPs, with "
    f"attention and vocabulary, {predicted['by_flops']:.2f} x ({reached['by_flops']:.0%} reached)",
    f"peak of a matrix product: {found['peak_flops']['per_second'] / 1e9:.0f} GFLOP/s",
  ]
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  unknown = set(_ONLY.value) - set(contract.NAMES)
  if unknown:
    raise app.UsageError(f"--only: found {sorted(unknown)}, expected some of {contract.NAMES}")
  if _KERNEL_BLOCK.present and contract.KERNELS not in _ONLY.value:
    raise app.UsageError(
      f"--kernel_block={_KERNEL_BLOCK.value}: found --only={','.join(_ONLY.value)}, expected "
      f"{contract.KERNELS} among them, which alone has such blocks"
    )
  for flag in (_ROUNDS, _STEPS, _WARMUP):
    if flag.value < 1:
      raise app.UsageError(f"--{flag.name}={flag.value}: expected 1 or more")
  with tempfile.TemporaryDirectory() as folder:
    found = measure(pathlib.Path(folder))
  if _OUT.value:
    pathlib.Path(_OUT.value).write_text(json.dumps(found, indent=2) + "\n")
  print(table(found))
  print(json.dumps(found))


if __name__ == "__main__":
  app.run(main)
