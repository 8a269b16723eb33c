# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preemption: a machine that is taken away says so by SIGTERM, and the run saves and ends.

Alone, a process asks its own signal handler after each step. Of several, JAX's coordination service
passes the notice of any on to all, and they agree on the step after which all of them save.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

from fspo_jax import processes


class Preempted(BaseException):  # like KeyboardInterrupt: nobody is to catch it by accident
  """The run has been told to end, and has saved what it had."""


class Watch:
  """Asked after every step whether to save and end; see `watch`."""

  def __init__(self) -> None:
    self._told = False

  def after(self, step: int) -> bool:
    """Whether to end after this step: the same answer in all processes."""
    if processes.several():
      return bool(multihost_utils.reached_preemption_sync_point(step))
    return self._told

  def _tell(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._told = True


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
  """While it lasts SIGTERM does not end the process, but is told by the watch."""
  found = Watch()
  # The coordination service has its own handler; outside the main thread there can be none.
  if processes.several() or threading.current_thread() is not threading.main_thread():
    yield found
    return
  before = signal.signal(signal.SIGTERM, found._tell)
  try:
    yield found
  finally:
    signal.signal(signal.SIGTERM, before)


def end(number: int, frame: FrameType | None) -> None:
  """A handler of SIGTERM: ends what is under way as Ctrl-C does."""
  del number, frame
  raise Preempted("What was under way goes on from its last checkpoint.")
