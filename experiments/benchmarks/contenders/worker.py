# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A contender in a process of its own: it gets ready, shows what it computes, and runs when told.

python -m experiments.benchmarks.contenders.worker NAME WORKDIR

Over its standard input and output it speaks JSON, a line a message; what else is printed goes to
the standard error. It says `ready` with the tokens that it runs, or `absent` with the reason (what
is wrong with ours ends the process instead); its log-probabilities, and gradients, are then in
WORKDIR/check-NAME.npz. Each line `{"steps": n}` is answered with the seconds that n steps took, and
those of the processor; at the end of the input it says what memory it took, and how fast its
library multiplies matrices.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import functools
import json
import os
import pathlib
import resource
import sys
import time
import traceback
from typing import Any

import numpy as np

from experiments.benchmarks.contenders.contract import (
  CACHED,
  KERNELS,
  OURS,
  AbsentError,
  Contender,
  FinishedError,
  Rounds,
  peak_flops,
)
from experiments.benchmarks.contenders.setting import Setting


def imported(name: str) -> Callable[[Setting, pathlib.Path], Contender]:
  """Imports what a contender needs, and nothing that others do; what makes it is returned."""
  if name in OURS:
    from experiments.benchmarks.contenders import fspo

    if name == "paper_layout":
      return fspo.TwoSequences
    return functools.partial(fspo.Trees, cached=name in CACHED, by_kernels=name == KERNELS)
  if name == "paper_layout_torch":
    from experiments.benchmarks.contenders import paper_torch

    return paper_torch.PaperTorch
  if name == "tunix":
    from experiments.benchmarks.contenders import tunix_dpo

    return tunix_dpo.TunixDPO
  from experiments.benchmarks.contenders import trl_dpo

  return functools.partial(trl_dpo.TRL, precomputed=name in CACHED)


def peak_bytes() -> int:
  """The most resident memory of this program so far: libraries and compilation too.

  That is VmHWM where there is one: ru_maxrss also has what the process that started this one had.
  """
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    for line in status.read_text().splitlines():
      if line.startswith("VmHWM:"):
        return int(line.split()[1]) * 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB, but on macOS


def main(argv: list[str]) -> None:
  """Runs the contender of the command line."""
  _, name, folder = argv
  # What libraries print must not stand between messages.
  channel = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  def answer(message: dict[str, Any]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()

  workdir, since = pathlib.Path(folder), time.perf_counter()
  try:
    make = imported(name)
    imports = peak_bytes()
    contender = make(Setting.read(workdir), workdir)
    np.savez(workdir / f"check-{name}.npz", **contender.check())
  except Exception as error:
    if not isinstance(error, AbsentError) and name in OURS:
      raise
    traceback.print_exc()
    answer({"absent": str(error) if isinstance(error, AbsentError) else repr(error)})
    return
  setup = time.perf_counter() - since
  answer({"ready": name, "padded_tokens": contender.padded_tokens, "setup_seconds": setup})
  with contextlib.suppress(FinishedError):
    contender.train(Rounds(sys.stdin, answer))
  found = {"peak_bytes": peak_bytes(), "imports_bytes": imports}
  found["device_peak_bytes"] = contender.device_peak_bytes()
  answer(found | {"peak_flops": peak_flops(contender.multiply())})


if __name__ == "__main__":
  main(sys.argv)
