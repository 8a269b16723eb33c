# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a contender is to the process that runs it, and how its steps are counted and timed."""

from __future__ import annotations

from collections.abc import Callable
import json
import time
from typing import Any, Protocol, TextIO

from jaxtyping import Float
import numpy as np

KERNELS = "ours_pallas_gpu"  # ours, with attention by kernels for GPUs
NAMES = (
  "ours",
  "ours_cached",
  KERNELS,
  "paper_layout",
  "paper_layout_torch",
  "trl",
  "trl_precomputed",
  "tunix",
)
REQUIRED = ("ours", "ours_cached", "paper_layout")  # of a plain installation
OURS = (*REQUIRED, KERNELS)  # in our own code: what is wrong with it is an error
PAPER = tuple(name for name in NAMES if not name.startswith("ours"))
CACHED = ("ours_cached", "trl_precomputed")


class AbsentError(Exception):
  """A contender cannot run here; the message says why."""


class FinishedError(Exception):
  """Nothing more is asked for: ends a training loop that is not ours."""


class Contender(Protocol):
  """Who trains."""

  padded_tokens: int  # that are run in all batches together

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """What it computes of the first batch, before any step.

    Returns:
      `chosen`, `rejected` and, of the reference, `ref_chosen` and `ref_rejected`: the summed
      log-probabilities at k = N by episode. Of some, too, the gradient of the loss by tensor of the
      checkpoint, as `gradient/NAME`.
    """

  def train(self, rounds: Rounds) -> None:
    """Trains, one `rounds.done()` a step, batch after batch, until that raises `FinishedError`."""

  def multiply(self) -> tuple[int, Callable[[], None]] | None:
    """A large matrix product of its library: n, of [n, n], and what makes it; None if another's."""

  def device_peak_bytes(self) -> int | None:
    """The most memory of an accelerator that was used; None on a CPU."""


def peak_flops(product: tuple[int, Callable[[], None]] | None) -> dict[str, float] | None:
  """FLOPs a second, and a second of the processor, of a large matrix product: the best of a few."""
  if product is None:
    return None
  n, multiply = product
  multiply()
  took = []
  for _ in range(5):
    since, cpu = time.perf_counter(), time.process_time()
    multiply()
    took.append((time.perf_counter() - since, time.process_time() - cpu))
  wall, cpu = map(min, zip(*took, strict=True))
  return {"per_second": 2 * n**3 / wall, "per_cpu_second": 2 * n**3 / cpu}


class Rounds:
  """Counts steps, and times the rounds that are asked for; what lies between is not timed."""

  def __init__(self, requests: TextIO, answer: Callable[[dict[str, Any]], None]) -> None:
    self._requests, self._answer = requests, answer
    self._wait: Callable[[], None] = lambda: None
    self._left, self._steps = 0, 0

  def begin(self, wait: Callable[[], None]) -> None:
    """Waits for the first round; `wait` returns when all steps are done."""
    self._wait = wait
    self._next()

  def done(self) -> None:
    """A step is done, or under way; raises `FinishedError` when no more are wanted."""
    self._left -= 1
    if self._left:
      return
    self._wait()
    seconds, cpu = time.perf_counter() - self._since, time.process_time() - self._cpu
    self._answer({"seconds": seconds, "cpu_seconds": cpu, "steps": self._steps})
    self._next()

  def _next(self) -> None:
    line = self._requests.readline()
    if not line:
      raise FinishedError
    self._left = self._steps = json.loads(line)["steps"]
    self._since, self._cpu = time.perf_counter(), time.process_time()
