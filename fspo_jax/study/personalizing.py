# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The worker: a process of its own, of the least priority, in which the models answer.

It takes jobs from the study's file and puts responses there, so that no page waits for a model, and
nothing is lost when it, or the server, is killed: a job that is not done is done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import fcntl
import functools
import logging
import os
import pathlib
import sys
import time
from typing import Protocol

from jaxtyping import Float
import numpy as np
import scipy.special

import fspo_jax
from fspo_jax.preferences import Preference
from fspo_jax.study import choosing, opening
from fspo_jax.study.flow import Flow, Job
from fspo_jax.study.settings import Arm, Settings

_LOG = logging.getLogger(__name__)
_IDLE_SECONDS = 0.2  # between looks for a job


class Models(Protocol):
  """What answers and predicts."""

  def respond(
    self, arm: Arm, shots: Sequence[Preference], prompts: Sequence[str], seed: int
  ) -> list[str]:
    """An arm's response to each prompt, for the user with these shots."""

  def predict(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """As `active_questions.Predictor`, by the personalized arm's model."""


class LoadedModels:
  """The models of a study's arms, each loaded when it is first needed, and kept."""

  def __init__(self, settings: Settings) -> None:
    """Loads nothing yet."""
    self._settings = settings
    self._load = functools.cache(fspo_jax.load)

  def check(self) -> None:
    """Loads all of them, and sees whether they can do what is asked; ValueError if not."""
    for arm in self._settings.arms:
      try:
        self._load(arm.path)
      except (ValueError, OSError) as error:
        raise ValueError(f"{arm.name}: {error}") from error
    if self._settings.labels.choose != "random":
      try:
        self.predict([()], [[Preference("Which?", "This one.", "That one.")]])
      except ValueError as error:
        raise ValueError(
          f"labels.choose={self._settings.labels.choose!r}: the model cannot predict answers "
          f"({error}); expected one trained on preferences, or 'random'"
        ) from error

  def respond(
    self, arm: Arm, shots: Sequence[Preference], prompts: Sequence[str], seed: int
  ) -> list[str]:
    """See `Models`."""
    keys, model = self._settings.generation, self._load(arm.path)
    known = list(shots) if arm.context != "none" else []
    descriptions = None
    if arm.context == "shots_and_description":
      descriptions = [model.describe(known, max_new_tokens=keys.description_tokens)]
    (responses,) = model.respond_many(
      [known],
      [list(prompts)],
      descriptions=descriptions,
      max_new_tokens=keys.max_tokens,
      temperature=keys.temperature,
      top_p=keys.top_p,
      seed=seed,
    )
    return responses

  def predict(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """See `Models`: the sigmoid of the difference of implicit rewards, scaled."""
    model = self._load(self._settings.arms[0].path)
    return scipy.special.expit(self._settings.labels.scale * model.margins(contexts, pairs))


def do(flow: Flow, models: Models, job: Job) -> None:
  """Does a job, or notes why not."""
  settings = flow.settings
  try:
    shots = flow.shots(job.participant)
    if job.kind == "choose":
      asked = flow.asked(job.participant)
      flow.chosen(job, choosing.choose(flow, job, shots, asked, models.predict))
      return
    arm = next(arm for arm in settings.arms if arm.name == job.name)
    seed = settings.seed * 1_000_003 + job.participant  # other samples for others
    responses = models.respond(arm, shots, flow.prompts(job.participant), seed)
    empty = [text for text in responses if not text.strip()]
    if empty:
      raise ValueError(f"found {len(empty)} empty responses of {len(responses)}")
    flow.responded(job, responses, time.time())
  except Exception as error:  # Whatever it is, the others' jobs go on.
    _LOG.exception("%s %s of participant %d", job.kind, job.name, job.participant)
    flow.failed(job, f"{type(error).__name__}: {error}")


def work(flow: Flow, models: Models, stop: Callable[[], bool]) -> None:
  """Does jobs as they come, until it is to stop."""
  while not stop():
    job = flow.next_job()
    if job is None:
      time.sleep(_IDLE_SECONDS)
    else:
      do(flow, models, job)


@contextlib.contextmanager
def alone(folder: pathlib.Path, stop: Callable[[], bool]) -> Iterator[None]:
  """Waits until no other worker is at it: one that outlived its server may finish its job."""
  with open(folder / "worker.lock", "w") as lock:
    while not stop():
      with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      time.sleep(_IDLE_SECONDS)
    yield


def main(arguments: Sequence[str] | None = None) -> None:
  """Works on a study's jobs until the process that started it is gone."""
  parser = argparse.ArgumentParser(
    prog="python -m fspo_jax.study.personalizing", description="The worker of a human study."
  )
  parser.add_argument("workdir", type=pathlib.Path, help="of the study")
  parser.add_argument("--check", action="store_true", help="only see whether the models will do")
  # By then the imports have taken seconds, in which a server can be killed: it says who it is.
  parser.add_argument("--parent", type=int, default=os.getppid(), help="process to end with")
  flags = parser.parse_args(arguments)
  study = opening.reopen(flags.workdir)
  models = LoadedModels(study.settings)
  if flags.check:
    try:
      models.check()
    except ValueError as error:
      sys.exit(str(error))
    return
  os.nice(study.settings.generation.nice)
  logging.basicConfig(format="%(asctime)s worker: %(message)s", datefmt="%H:%M:%S")

  def orphaned() -> bool:
    return os.getppid() != flags.parent

  with alone(study.path, orphaned):
    work(study.flow, models, orphaned)


if __name__ == "__main__":
  main()
