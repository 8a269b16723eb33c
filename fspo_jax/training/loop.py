# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The loop: batches by step, a checkpoint now and then, a stop when something is not a number."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fspo_jax import checkpoints as checkpoints_lib
from fspo_jax import losses, paths, preemption, sharding
from fspo_jax.episodes import batching
from fspo_jax.training import metrics as metrics_lib
from fspo_jax.training import profile as profile_lib
from fspo_jax.training import state as state_lib
from fspo_jax.training import step as step_lib

_LOG = logging.getLogger(__name__)

# The policy's own forward pass against the reference's is the same program on the same numbers;
# this leaves room for nothing but a different order of sums.
_STEP0_TOLERANCE = 1e-3  # nats


class TrainingError(RuntimeError):
  """Training cannot go on; the message says why and where the last good checkpoint is."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How a stage runs.

  Attributes:
    steps: number of updates.
    rows_per_step: rows of the global batch.
    accumulate: parts the batch is split into.
    log_every: steps between rows of the metrics file.
    checkpoint_every: steps between checkpoints; the last step always has one.
    keep_checkpoints: how many are kept.
    data_threads: threads that make rows ahead.
    window_rows: rows of a window, which come one after another; see `batching.batches`.
  """

  steps: int
  rows_per_step: int
  accumulate: int
  log_every: int
  checkpoint_every: int
  keep_checkpoints: int
  data_threads: int
  window_rows: int = 1

  def __post_init__(self) -> None:
    counts = ("steps", "rows_per_step", "window_rows", "accumulate", "log_every")
    for field in (*counts, "checkpoint_every"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field}={getattr(self, field)} must be at least 1")
    if self.rows_per_step % self.accumulate:
      raise ValueError(
        f"accumulate={self.accumulate} does not divide rows_per_step={self.rows_per_step}"
      )
    if self.checkpoint_every % self.log_every:
      raise ValueError(
        f"log_every={self.log_every} does not divide checkpoint_every={self.checkpoint_every}: a "
        "resumed run would write other rows of metrics than one that was never stopped"
      )

  def logs(self, step: int) -> bool:
    """Whether a step has a row in the metrics file."""
    return step % self.log_every == 0 or step in (1, self.steps)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training stage, all of it.

  Attributes:
    name: of the stage; names its files.
    directory: the run's directory: `checkpoints/<name>`, `metrics/` are made in it.
    step: one update: (state, frozen, batch) -> (state, metrics), as of `step.make_step`.
    objective: what it minimises.
    optimizer: its update rule.
    rows: the data, by index.
    loop: how it runs.
    mesh: where it runs.
    config: the whole run's config, kept in every checkpoint.
    tokenizer: the tokenizer's model, kept in every checkpoint.
    adapters: where adapters are trained, what they are and of which base (see
      `training.adapters`), kept in every checkpoint.
    profile: how many steps to record, see `training.profile`.
  """

  name: str
  directory: paths.Path
  step: step_lib.StepFn
  objective: step_lib.Objective
  optimizer: optax.GradientTransformation
  rows: batching.RowFn
  loop: LoopConfig
  mesh: jax.sharding.Mesh
  config: dict[str, Any]
  tokenizer: bytes
  adapters: Mapping[str, Any] | None = None
  profile: int = 0

  @property
  def checkpoint_directory(self) -> paths.Path:
    """Where the stage's checkpoints lie."""
    return self.directory / "checkpoints" / self.name


def check_step0(objective: step_lib.Objective, metrics: dict[str, float]) -> None:
  """At step 0 the policy equals the reference, or the run is wrong from the start.

  Raises:
    TrainingError: the margin is not 0, or the loss not the one its formula has there.
  """
  expected = losses.at_reference(
    objective.name, objective.beta, objective.desirable_weight, objective.undesirable_weight
  )
  loss, margin = metrics["preference/loss"], metrics["logps/abs_margins"]
  if margin > _STEP0_TOLERANCE or abs(loss - expected) > _STEP0_TOLERANCE * max(expected, 1.0):
    raise TrainingError(
      f"at step 0 the policy differs from the reference: {objective.name} loss {loss:.6f} "
      f"(expected {expected:.6f}), mean |margin| {margin:.6f} nats (expected 0). The "
      "policy must start from the reference's own parameters."
    )
  if metrics["grad_norm"] == 0.0:
    raise TrainingError("the gradient of the first step is exactly 0: nothing would be learned")


class _Reader:
  """Reads a step's metrics once the next one is under way, so that the device never waits."""

  def __init__(
    self,
    stage: Stage,
    writer: metrics_lib.Writer,
    saved: checkpoints_lib.Checkpoints,
  ) -> None:
    self._stage, self._writer, self._saved = stage, writer, saved
    self._pending: tuple[int, Any, dict[str, float]] | None = None

  def push(self, step: int, metrics: Any, extra: dict[str, float]) -> dict[str, float] | None:
    values, self._pending = self.flush(), (step, metrics, extra)
    return values

  def flush(self) -> dict[str, float] | None:
    """Checks and writes the pending step; gives its values."""
    if self._pending is None:
      return None
    step, metrics, extra = self._pending
    self._pending = None
    with profile_lib.span(profile_lib.DEVICE):
      values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = sorted(name for name, value in values.items() if not math.isfinite(value))
    if bad:
      self._writer.write(step, values)
      last = self._saved.latest_step()
      where = f"{self._stage.checkpoint_directory / str(last)}" if last is not None else "none yet"
      raise TrainingError(
        f"{self._stage.name}: step {step}: {', '.join(bad)} not finite; stopped. "
        f"Last good checkpoint: {where}"
      )
    if step == 1 and self._stage.objective.needs_reference:
      check_step0(self._stage.objective, values)
    if self._stage.loop.logs(step):
      self._writer.write(step, values | extra)
    return values


def train(stage: Stage, initial_params: Any, frozen: Any | None) -> Any:
  """Runs a stage from its last checkpoint, or from the start, to its end.

  Args:
    stage: what to run.
    initial_params: what is trained, as it starts when there is no checkpoint; it is consumed.
    frozen: what the step reads beside it: the reference, the adapters' base, or nothing.

  Returns:
    What was trained, after the last step.

  Raises:
    TrainingError: something is not a number, the policy does not start at the reference, or the
      checkpoints are of other adapters, or of adapters of another base.
    Preempted: told to end (SIGTERM); the last step that was done is saved.
  """
  loop = stage.loop
  with checkpoints_lib.Checkpoints(stage.checkpoint_directory, keep=loop.keep_checkpoints) as saved:
    state = state_lib.init_state(initial_params, stage.optimizer, stage.mesh)
    start, dropped = 0, 0.0
    saved.set_broken_aside()
    if saved.latest_step() is not None:
      _check_adapters(stage, saved.metadata().get("adapters"))
      abstract = checkpoints_lib.abstract_like(state)
      for leaf in jax.tree.leaves(state):
        leaf.delete()  # makes room for what takes its place, whoever still holds it
      got = saved.restore(abstract.params, abstract.opt_state)
      start, dropped = got.step, got.metadata.get("dropped_shots", 0.0)
      step = jax.device_put(jnp.int32(start), abstract.step.sharding)
      state = state_lib.TrainState(step, got.params, got.opt_state)
      _LOG.info("%s: resuming after step %d", stage.name, start)
    if start < loop.steps:
      state = _run(stage, state, frozen, saved, start, dropped)
    return state.params


def _check_adapters(stage: Stage, found: Mapping[str, Any] | None) -> None:
  if found != stage.adapters:
    raise TrainingError(
      f"{stage.checkpoint_directory}: found checkpoints of adapters={found}, expected "
      f"{stage.adapters}: adapters on another base than theirs are another model"
    )


def _run(
  stage: Stage,
  state: state_lib.TrainState,
  frozen: Any | None,
  saved: checkpoints_lib.Checkpoints,
  start: int,
  dropped: float,
) -> state_lib.TrainState:
  """Steps `start + 1 .. loop.steps`; `dropped` shots are of steps before, after the last row."""
  loop, mesh = stage.loop, stage.mesh
  data = batching.batches(
    stage.rows,
    rows_per_step=loop.rows_per_step,
    steps=loop.steps,
    start=start,
    window_rows=loop.window_rows,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=loop.data_threads,
  )
  writer = metrics_lib.writer(stage.directory / "metrics", stage.name, start)
  reader = _Reader(stage, writer, saved)
  recorder = profile_lib.Recorder(stage.directory / "profile", stage.name, start, stage.profile)
  try:
    with metrics_lib.progress_bar() as bar, preemption.watch() as watch:
      task = bar.add_task(stage.name, total=loop.steps, completed=start, note="")
      for step, batch in enumerate(profile_lib.waited_for(data), start=start + 1):
        with profile_lib.span(profile_lib.DISPATCH):
          placed = sharding.to_global(mesh, batch)
          state, metrics = stage.step(state, frozen, placed)
        dropped += float(batch.dropped_shots.sum())
        extra = {
          "data/padding_fraction": batching.padding_fraction(batch),
          "data/dropped_shots": dropped,  # since the last row of the file
        }
        values = reader.push(step, metrics, extra)
        recorder.after(step, stage.step, state, frozen, placed)
        dropped = 0.0 if loop.logs(step) else dropped
        bar.update(task, completed=step, note=_note(values))
        told = watch.told()
        if step % loop.checkpoint_every == 0 or step == loop.steps or told:
          reader.flush()  # nothing that is not a number is ever saved
          writer.keep()
          facts = {} if stage.adapters is None else {"adapters": stage.adapters}
          facts |= {"dropped_shots": dropped} if dropped else {}
          saved.save(step, state.params, state.opt_state, stage.config, stage.tokenizer, facts)
          _LOG.info("%s: step %d of %d  %s", stage.name, step, loop.steps, _note(values))
        if told:
          saved.wait()
          raise preemption.Preempted(f"{stage.name}: step {step} of {loop.steps} is saved.")
      reader.flush()
  finally:
    recorder.close()
    writer.close()
  saved.wait()
  return state


def _note(values: dict[str, float] | None) -> str:
  if not values:
    return ""
  accuracy = values.get("rewards/accuracies")
  return f"loss {values['loss']:.3f}" + (f"  acc {accuracy:.3f}" if accuracy is not None else "")
