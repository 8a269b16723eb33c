# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preemption: a machine that is taken away says so by SIGTERM, and the run saves and ends.

Alone, a process asks its own signal handler after each step. Of several, JAX's coordination service
passes the notice of any on to all, and they agree on the step after which all of them save: all ask
equally often, and at the question after the last that any has asked the answer is yes. What the
first does by itself has no steps: it asks every second meanwhile, and the others wait for its word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import itertools
import signal
import threading
from types import FrameType
from typing import Any, TypeVar

from jax.experimental import multihost_utils

from fspo_jax import processes

_LATER = "What was under way goes on from its last checkpoint."
_EVERY_SECONDS = 1.0  # as often as the coordination service looks for the signal
_TOLD = "told to end"
# Of the coordination service, which there is one of: it wants numbers that grow, and each stage
# counts its steps anew.
_QUESTIONS = itertools.count(1)
# Numbers of their own: a question that is skipped may be the one to which the answer is yes.
_WORKS = itertools.count(1)

T = TypeVar("T")


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
    Preempted: at its end, if SIGTERM came after the last question; of several processes all ask
      once more then.
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


def first_works(what: str, work: Callable[[], T]) -> T | None:
  """Has the first process work something out that takes long; the others wait.

  Whichever is told to end, all of them end, wherever the work is: of several processes it has a
  thread of its own, which goes with them. So it is not to write: what it finds is written by who
  calls this, when it is known that nobody was told.

  Args:
    what: names it, in what is said where it was cut off.
    work: what the first process does; the others never call it.

  Returns:
    What the first process found; None in the others.

  Raises:
    Preempted: in all of them, if one was told to end.
  """
  if not processes.several():
    return work()  # which `end` interrupts
  key = f"{what}, {next(_WORKS)}"
  running = None
  if processes.first():
    running = futures.ThreadPoolExecutor(1).submit(work)
    word = _asking_during(running)
    processes.tell(key, word)
  else:
    word = processes.hear(key)
    while word != _TOLD and next(_QUESTIONS) < int(word):
      pass  # from here on all ask with the same numbers again
  if word == _TOLD:
    raise Preempted(f"The stage {what!r} was under way, and begins anew.")
  return running.result() if running else None


def _asking_during(running: futures.Future[Any]) -> str:
  """The number of the last question when the work is done, or that we are told to end."""
  while True:
    number = next(_QUESTIONS)
    if multihost_utils.reached_preemption_sync_point(number):
      return _TOLD
    if futures.wait([running], _EVERY_SECONDS).done:
      running.result()  # raises what it has raised
      return str(number)


def end(number: int, frame: FrameType | None) -> None:
  """A handler of SIGTERM: ends what is under way as Ctrl-C does."""
  del number, frame
  raise Preempted(_LATER)
