# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A million preferences of the three domains from the embedded worlds, and how fast they are read.

The whole factory, with the world's stand-in for a language model: bank of questions, personas,
judgements in both orders, refinement, relabelling, filters, quality card, ArrayRecord.

python experiments/synthesis/million.py --workdir=DIR

The last line is JSON: `preferences`, `users`, `seconds` (to make them, cards and storage included),
`peak_gb` (largest resident memory: this process and all its workers), `episodes_per_second` (random
episodes of 8 shots read back on one core), and `read_growth_gb` (memory gained while reading).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import sys
import time

import numpy as np

from fspo_jax import data, presets
from fspo_jax.datasets import user_sets
from fspo_jax.episodes.sampling import UserEpisodes
from fspo_jax.synthesis import pipeline

_DOMAINS = ("reviews", "elix", "roleplay")
_SHOTS = 8


def _largest_gb(who: int) -> float:
  """The largest resident memory so far, of this process or of its largest worker."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(who).ru_maxrss * unit / 2**30


def _resident_gb() -> float:
  """The resident memory now; where /proc has it not, the largest so far."""
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():
    return _largest_gb(resource.RUSAGE_SELF)
  return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**30


def _read(paths: list[pathlib.Path], seconds: float) -> tuple[float, float]:
  """Reads random episodes of the sets' training users in turn, for so many seconds.

  Returns:
    Episodes per second, and how much the resident memory grew meanwhile, in GB.
  """
  episodes = [UserEpisodes(user_sets.load(path).train, _SHOTS, 1, seed=1) for path in paths]
  count = 0

  def read_for(duration: float) -> float:
    nonlocal count
    start, first = time.perf_counter(), count
    while (elapsed := time.perf_counter() - start) < duration:
      for _ in range(100):
        episodes[count % len(episodes)](count)
        count += 1
    return (count - first) / elapsed

  read_for(seconds / 10)  # Whatever is allocated once is there.
  before = _resident_gb()
  return read_for(seconds), _resident_gb() - before


def main() -> None:
  """Makes the sets, reads them, prints what was measured."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where the sets go")
  parser.add_argument("--pairs", type=int, default=280, help="judged by each user")
  parser.add_argument("--questions", type=int, default=800, help="of each domain")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--read_seconds", type=float, default=20.0)
  flags = parser.parse_args()

  start, totals, paths = time.perf_counter(), np.zeros(2, int), []
  for name in _DOMAINS:
    config = presets.synthetic(name, "world")
    config.seed = flags.seed
    config.synthesis.set.pairs = flags.pairs
    config.synthesis.set.questions = flags.questions
    config.synthesis.set.measure_every = 20
    began = time.perf_counter()
    paths.append(pipeline.run(data.make_factory(config), flags.workdir / name))
    made = user_sets.facts(paths[-1])
    totals += (made.preferences, made.users)
    took = time.perf_counter() - began
    found = f"{made.preferences:,} preferences of {made.users:,} users"
    print(f"{name}: {found} in {took:.0f} s: {paths[-1]}", flush=True)
  seconds = time.perf_counter() - start
  workers = _largest_gb(resource.RUSAGE_CHILDREN) * config.synthesis.processes
  peak = _largest_gb(resource.RUSAGE_SELF) + workers
  rate, growth = _read(paths, flags.read_seconds)
  print(
    json.dumps(
      {
        "preferences": int(totals[0]),
        "users": int(totals[1]),
        "seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        "episodes_per_second": round(rate),
        "read_growth_gb": round(growth, 3),
      }
    )
  )


if __name__ == "__main__":
  main()
