# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: how they find each other, which one writes, and what one's end does.

All processes run the same program on the same config. Each reads its own rows of every batch; the
first one alone writes the run's files, logs and shows progress; checkpoints are written by all.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import re
import socket
import sys
import traceback
from typing import NoReturn

import jax
from jax._src import distributed  # its coordination service keeps keys, and has no public name
from jax.experimental import multihost_utils
import numpy as np

# Without a sign of life from a process for so long, the others end.
HEARTBEAT_SECONDS = 30
# They wait for each other to end together: the first has a checkpoint to seal, or much to copy.
_SHUTDOWN_SECONDS = 3600
_POLL_MILLISECONDS = 1000
_ADDRESS = re.compile(r"([^,\s]+:\d+),(\d+),(\d+)")


def initialize(how: str) -> None:
  """Joins the other processes of the run; to be called before JAX is used.

  Args:
    how: 'none' for a run of one process; 'auto' where the machine knows (Cloud TPU, GKE, Slurm);
      or 'HOST:PORT,INDEX,COUNT': the address of the first process, which this one is, and of how
      many.

  Raises:
    ValueError: `how` is none of these, or the machine does not know.
  """
  if how == "none":
    return
  rules = {
    "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
    "shutdown_timeout_seconds": _SHUTDOWN_SECONDS,
  }
  if how == "auto":
    jax.distributed.initialize(**rules)
    return
  found = _ADDRESS.fullmatch(how)
  if found is None:
    raise ValueError(f"--distributed={how}: expected 'none', 'auto' or HOST:PORT,INDEX,COUNT")
  address, index, count = found[1], int(found[2]), int(found[3])
  if index >= count:
    raise ValueError(f"--distributed={how}: found process {index} of {count}, counted from 0")
  jax.distributed.initialize(address, count, index, **rules)


def first() -> bool:
  """Whether this is the process that writes."""
  return jax.process_index() == 0


def several() -> bool:
  """Whether the run has more than one process."""
  return jax.process_count() > 1


def wait_for_all(what: str) -> None:
  """Returns when every process has come here."""
  if several():
    multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
  """What it wraps is done by the first process, then by the others, who find its files."""
  if not first():
    wait_for_all(f"{what}: the first process is done")
  yield
  if first():
    wait_for_all(f"{what}: the first process is done")


def agreed(value: int) -> int:
  """The first process's value, in all of them."""
  if not several():
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def tell(key: str, word: str) -> None:
  """Says a word to the processes that `hear` it; once for a key."""
  distributed.global_state.client.key_value_set(key, word)


def hear(key: str) -> str:
  """The word that was told, waiting for it however long; Ctrl-C is heard meanwhile."""
  while True:
    try:
      return distributed.global_state.client.blocking_key_value_get(key, _POLL_MILLISECONDS)
    except jax.errors.JaxRuntimeError as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def end(status: int, *, together: bool = False) -> NoReturn:
  """Ends this process, whatever its threads do.

  Args:
    status: the exit status.
    together: all others end too, and this one waits for them: it would be a failure to them.
      Otherwise at once: after a failure, the others would not come.
  """
  try:
    if together:
      jax.distributed.shutdown()
  except BaseException:
    traceback.print_exc()  # nobody gets to see it otherwise
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def names() -> list[str]:
  """The host of every process, by its index."""
  if not several():
    return [socket.gethostname()]
  here = np.zeros(64, np.uint8)
  name = socket.gethostname().encode()[: len(here)]
  here[: len(name)] = np.frombuffer(name, np.uint8)
  found = multihost_utils.process_allgather(here)
  return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in found]
