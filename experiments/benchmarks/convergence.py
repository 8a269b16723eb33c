# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Accuracy on unseen users by the clock: token trees against the paper's two sequences.

python experiments/benchmarks/convergence.py [--seconds=180] [--out=DIR]

Both train the base that comes with the package on the same episodes of the reviews world, with the
quickstart's loss and optimizer at a constant rate, in slices that alternate. A slice ends after so
many seconds of training; evaluation and compilation are not counted. Writes convergence.json and
convergence.png; the last line of the output is the JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
import json
import os
import pathlib
import sys
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments import quickstart  # noqa: E402
from experiments.benchmarks.contenders import fspo  # noqa: E402
from experiments.benchmarks.contenders import setting as setting_lib  # noqa: E402
from fspo_jax import base as base_lib  # noqa: E402
from fspo_jax import config as config_lib  # noqa: E402
from fspo_jax import data, sharding  # noqa: E402
from fspo_jax.episodes import batching, templates  # noqa: E402
from fspo_jax.episodes.sampling import WorldEpisodes  # noqa: E402
from fspo_jax.evaluation import plots, preference_accuracy, statistics  # noqa: E402
from fspo_jax.evaluation import results as results_lib  # noqa: E402
from fspo_jax.training import optimizer as optimizer_lib  # noqa: E402
from fspo_jax.training import state as state_lib  # noqa: E402
from fspo_jax.training import step as step_lib  # noqa: E402

_SECONDS = flags.DEFINE_float("seconds", 180.0, "Of training, of each.")
_CLOCK = flags.DEFINE_enum(
  "clock", "wall", ["wall", "cpu"], "cpu: of the processor, on a machine that others use too."
)
_SLICES = flags.DEFINE_integer("slices", 18, "Parts that they are split into; then it is measured.")
_SHOTS = flags.DEFINE_integer("shots", 8, "N; accuracy is measured after so many.")
_EPISODES = flags.DEFINE_integer("episodes", 4, "Of a step.")
_TRAINING = flags.DEFINE_integer("training", 6000, "Episodes, gone through again and again.")
_EVALUATION = flags.DEFINE_integer("evaluation", 500, "Episodes of unseen users.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the episodes.")
_OUT = flags.DEFINE_string("out", None, "Folder for JSON and plot (default: none are written).")

_NAMES = {"ours": "Token trees", "paper_layout": "Two sequences"}
_COLORS = {"ours": "#0072B2", "paper_layout": "#D55E00"}
_CHUNK = 2048  # of the vocabulary


@dataclasses.dataclass
class Run:
  """One who trains.

  Attributes:
    step: its update.
    state: parameters and moments.
    batches: its data, without an end.
    seconds: of training so far.
    steps: so far.
    curve: of each slice's end, seconds, steps, and the accuracy by number of shots.
  """

  step: step_lib.MeshStep
  state: state_lib.TrainState
  batches: itertools.cycle
  seconds: float = 0.0
  steps: int = 0
  curve: list[dict[str, Any]] = dataclasses.field(default_factory=list)

  def train(self, frozen: Any, seconds: float, *, steps: int | None = None) -> None:
    """Trains for so long, or so many steps; waits for each, to know the time."""
    now = time.perf_counter if _CLOCK.value == "wall" else time.process_time
    mesh, since, done = sharding.one_device(), now(), 0
    while (now() - since < seconds) if steps is None else (done < steps):
      batch = sharding.to_global(mesh, next(self.batches))
      self.state, metrics = self.step(self.state, frozen, batch)
      if not np.isfinite(float(metrics["loss"])):
        raise FloatingPointError(f"the loss is not finite after {self.steps + done} steps")
      done += 1
    self.seconds += now() - since
    self.steps += done


def _batches(rows: Sequence[Any], paper: bool) -> list[batching.TreeBatch]:
  """All batches of an epoch."""
  n = _EPISODES.value
  steps = [rows[i : i + n] for i in range(0, len(rows) - n + 1, n)]
  if not paper:
    return [batching.stack(list(step)) for step in steps]
  return [batching.stack([*c, *r]) for c, r in (zip(*step, strict=True) for step in steps)]


def _optimizer(stage: Any) -> optax.GradientTransformation:
  """The quickstart's, without a decay: nobody knows how many steps there will be."""
  constant = dataclasses.replace(config_lib.optimizer(stage), decay_fraction=0.0)
  return optimizer_lib.make_optimizer(constant, steps=1_000_000)


def _copy(params: Any) -> Any:
  return jax.tree.map(jnp.copy, params)  # a step donates them


def measure() -> dict[str, Any]:
  """Trains both; gives their curves and what follows from them."""
  c, mesh = quickstart.get_config("scratch"), sharding.one_device()
  base = base_lib.load(base_lib.PUBLISHED, mesh)
  model, frozen, form = base.model, base.params, base.formatter
  objective, rule = config_lib.objective(c.preference), _optimizer(c.preference)
  shots, world = _SHOTS.value, data.make_world(c, "reviews")
  draw = WorldEpisodes(world, "train", shots, 1, _SEED.value)
  every, paper = setting_lib.layouts(shots)
  episodes = [draw(i) for i in range(_TRAINING.value)]
  trees = [templates.build(e, form, every) for e in episodes]
  rows = fspo.pack_each(trees, segments=2 * (shots + 1), pairs=shots + 1)
  two = fspo.two_sequences([templates.build(e, form, paper) for e in episodes])
  steps = {
    "ours": step_lib.make_step(model, objective, rule, mesh, vocab_chunk=_CHUNK, accumulate=1),
    "paper_layout": fspo.two_sequences_step(model, objective, rule),
  }
  batches = {"ours": _batches(rows, False), "paper_layout": _batches(two, True)}
  runs = {}
  for name, step in steps.items():
    state = state_lib.init_state(_copy(frozen), rule, mesh)
    runs[name] = Run(step, state, itertools.cycle(batches[name]))
    runs[name].train(frozen, 0.0, steps=2)  # compiles; then from the start again
    state = state_lib.init_state(_copy(frozen), rule, mesh)
    runs[name] = Run(step, state, itertools.cycle(batches[name]))
  accuracy = _Accuracy(model, form, world, frozen)
  start = {"seconds": 0.0, "steps": 0, "accuracy": accuracy(frozen)}
  for run in runs.values():
    run.curve.append(start)
  for number in range(_SLICES.value):
    for name, run in runs.items():
      run.train(frozen, _SECONDS.value / _SLICES.value)
      found = accuracy(run.state.params)
      run.curve.append({"seconds": run.seconds, "steps": run.steps, "accuracy": found})
      last = f"{run.seconds:.0f} s, {run.steps} steps, accuracy {found[str(shots)]:.3f}"
      print(f"{number + 1}/{_SLICES.value} {name}: {last}", file=sys.stderr, flush=True)
  return {
    "curves": {name: run.curve for name, run in runs.items()},
    "time_ratio": time_ratio(*(runs[name].curve for name in ("ours", "paper_layout")), str(shots)),
    "clock": _CLOCK.value,
    "shots": shots,
    "episodes_per_step": _EPISODES.value,
    "training_episodes": _TRAINING.value,
    "evaluation_episodes": _EVALUATION.value,
    "cores": len(os.sched_getaffinity(0)),
    "load_average": os.getloadavg()[0],
    "environment": results_lib.environment(seed=_SEED.value),
  }


def time_ratio(
  ours: list[dict[str, Any]], theirs: list[dict[str, Any]], shots: str
) -> dict[str, Any]:
  """When ours first has what the other has at its end, and its best, over all its seconds.

  Its end is the mean of its last three points: one is too noisy. None: ours never has it.
  """
  of_theirs = [point["accuracy"][shots] for point in theirs]

  def reached(level: float) -> dict[str, Any]:
    when = [p["seconds"] for p in ours if p["accuracy"][shots] >= level]
    return {"accuracy": level, "ratio": when[0] / theirs[-1]["seconds"] if when else None}

  return {"end": reached(float(np.mean(of_theirs[-3:]))), "best": reached(max(of_theirs))}


class _Accuracy:
  """How often the margin of unseen users' queries is positive, after 0 .. N shots."""

  def __init__(self, model: Any, form: templates.Formatter, world: Any, frozen: Any) -> None:
    shots, count = _SHOTS.value, _EVALUATION.value
    # Every shot's pair is one of k = 0 .. N - 1, and the query's that of N.
    draw = WorldEpisodes(world, "unseen", shots, 1, _SEED.value + 1)
    episodes = [draw(i) for i in range(count)]
    layout, _ = setting_lib.layouts(shots)
    packing = batching.fit_packing(episodes, form, layout, shots)
    rows = batching.Rows(lambda i: episodes[i % count], form, layout, packing)

    def score(params: Any) -> preference_accuracy.PairScores:
      return preference_accuracy.score_pairs(
        model,
        params,
        rows,
        count,
        rows_per_batch=8,
        mesh=sharding.one_device(),
        vocab_chunk=_CHUNK,
        label="accuracy",
      )

    self._score, self._count, self._shots = score, count, shots
    self._reference = score(frozen)

  def __call__(self, params: Any) -> dict[str, float]:
    """The accuracy by number of shots."""
    found = self._score(params)

    def at(k: int) -> float:
      margins = [s.at(k, templates.Context.SHOTS, self._count) for s in (found, self._reference)]
      h = margins[0] - margins[1]
      return float(statistics.preference_accuracy(h).mean())

    return {str(k): at(k) for k in range(self._shots + 1)}


def draw_plot(found: dict[str, Any], path: pathlib.Path) -> None:
  """The curves, as PNG."""
  shots = str(found["shots"])

  def line(name: str) -> plots.Line:
    curve = found["curves"][name]
    xs = [point["seconds"] for point in curve]
    return plots.Line(
      _NAMES[name], _COLORS[name], xs, [point["accuracy"][shots] for point in curve]
    )

  panel = plots.Panel(
    f"Preference accuracy after {shots} shots, unseen users", [*map(line, _NAMES)], percent=True
  )
  plots.panels([panel], path, xlabel="seconds of training")


def table(found: dict[str, Any]) -> str:
  """The curves, for people."""
  shots = str(found["shots"])
  lines = [f"| s | {' | '.join(_NAMES.values())} |", "| --- |" + " --- |" * len(_NAMES)]
  for points in zip(*(found["curves"][name] for name in _NAMES), strict=True):
    cells = [f"{p['accuracy'][shots]:.3f} ({p['steps']} steps)" for p in points]
    lines.append(f"| {points[0]['seconds']:.0f} | {' | '.join(cells)} |")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  if _SLICES.value < 3 or _SECONDS.value <= 0:
    raise app.UsageError(
      f"--slices={_SLICES.value} --seconds={_SECONDS.value}: expected 3 or more, and above 0"
    )
  found = measure()
  print(table(found))
  for name, reached in found["time_ratio"].items():
    ratio = "never" if reached["ratio"] is None else f"after {reached['ratio']:.3f} of its time"
    print(f"two sequences' {name}, {reached['accuracy']:.3f}: token trees have it {ratio}")
  if _OUT.value:
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "convergence.json").write_text(json.dumps(found, indent=2) + "\n")
    draw_plot(found, out / "convergence.png")
  print(json.dumps(found))


if __name__ == "__main__":
  app.run(main)
