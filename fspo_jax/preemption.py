# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preemption: a machine that is taken away says so by SIGTERM, and the run saves and ends.

Alone, a process asks its own signal handler after each step. Of several, JAX's coordination service
passes the notice of any on to all, and they agree on the step after which all of them save: all ask
equally often, and at the question after the last that any has asked the answer is yes.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import itertools
import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

from fspo_jax import processes

_LATER = "What was under way goes on from its last checkpoint."
# Of the coordination service, which there is one of: it wants numbers that grow, and each stage
# counts its steps anew.
_QUESTIONS = itertools.count(1)


class Preempted(BaseException):  # like KeyboardInterrupt: nobody is to catch it by accident
  """The run has been told to end, and has saved what it had."""


class Watch:
  """Asked after every step whether to save and end; see `watch`."""

  def __init__(self) -> None:
    self._told = False

  def told(self) -> bool:
    """Whether to save and end now: the same answer in all processes, which ask equally often."""
    if processes.several():
      return bool(multihost_utils.reached_preemption_sync_point(next(_QUESTIONS)))
    return self._told

  def _tell(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._told = True


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
  """While it lasts SIGTERM does not end the process, but is told by the watch.

  Raises:
    Preempted: at its end, if SIGTERM came after the last question.
  """
  found = Watch()
  # The coordination service has its own handler; outside the main thread there can be none.
  if processes.several() or threading.current_thread() is not threading.main_thread():
    yield found
  else:
    before = signal.signal(signal.SIGTERM, found._tell)
    try:
      yield found
    finally:
      signal.signal(signal.SIGTERM, before)
  if found.told():
    raise Preempted(_LATER)


def end(number: int, frame: FrameType | None) -> None:
  """A handler of SIGTERM: ends what is under way as Ctrl-C does."""
  del number, frame
  raise Preempted(_LATER)
