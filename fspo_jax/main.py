# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line: runs the stages of a recipe in order, and resumes what is done.

python -m fspo_jax.main --config=experiments/quickstart.py --workdir=DIR [--config.KEY=VALUE ...]

A synthetic set too large for one machine is made in parts, one process each, in one shared DIR:

python -m fspo_jax.main --config=experiments/synthesis/roleplay.py --workdir=DIR --shard=0/8
"""

from __future__ import annotations

import importlib
import logging
import pathlib
import signal
import sys
import traceback

from absl import app, flags
import jax
from ml_collections import config_flags

from fspo_jax import checks, compiled, data, host_memory, logs, paths, preemption, processes, recipe
from fspo_jax.episodes.batching import RowOverflowError
from fspo_jax.synthesis import pipeline
from fspo_jax.synthesis.jobs import parse_shard
from fspo_jax.training.adapters import AdaptersError
from fspo_jax.training.loop import TrainingError
from fspo_jax.training.reference_cache import ReferenceCacheError
from fspo_jax.workdir import Workdir, WorkdirError, fingerprint

_LOG = logging.getLogger("fspo_jax")
_TOLD = 128 + signal.SIGTERM

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run; a run that is there already, of this config, goes on."
)
_SHARD = flags.DEFINE_string(
  "shard",
  None,
  "I/N: only make part I (from 0) of N of the synthetic set. Run again without it, "
  "when all parts are made, to merge them and go on.",
)
_DISTRIBUTED = flags.DEFINE_string(
  "distributed",
  "none",
  "Of a run of several processes: 'auto' where the machine knows about them (Cloud TPU, GKE, "
  "Slurm), or 'HOST:PORT,INDEX,COUNT': the address of the first, which one this is, how many.",
)
_PROFILE = flags.DEFINE_integer(
  "profile",
  0,
  "So many steps of each stage that trains are recorded, after those that compile: the folder's "
  "profile/STAGE.txt says where their time goes, profile/STAGE has JAX's trace. 0 for none.",
  lower_bound=0,
)
_BEAM = flags.DEFINE_multi_string(
  "beam",
  [],
  "An option of Apache Beam, as --beam=--runner=FlinkRunner (may be repeated), whose workers see "
  "the folder: only make the records of the synthetic set, as a Beam pipeline. Run again without "
  "it to go on.",
)


def _synthesize(factory: pipeline.Factory, workdir: Workdir) -> pathlib.Path:
  """Runs the stage 'synthesis', if it is not finished; returns the set's folder."""
  made = pipeline.set_path(factory, workdir.path)
  if not workdir.finished("synthesis"):
    with workdir.running("synthesis"):
      pipeline.run(factory, workdir.path)
  print(f"set:     {made}")
  print(f"card:    {made / 'card.md'}")
  return made


def main(argv: list[str]) -> int:
  """Checks everything, then runs. What cannot be done is said in one line, before any compute."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  config, factory, plan = _CONFIG.value, None, None
  host_memory.keep_freed()
  try:
    processes.initialize(_DISTRIBUTED.value)
    logs.set_up(logging.INFO if processes.first() else logging.WARNING)
    checks.check(config)
    shard = None if _SHARD.value is None else parse_shard(_SHARD.value)
    if shard and _BEAM.value:
      raise ValueError("--shard and --beam: found both, expected one way to split the work")
    if _BEAM.value:
      importlib.import_module("fspo_jax.synthesis.beam")  # Whether the extra is there is said now.
    alone = "synthesis" in config.stages or config.on_policy.use
    if alone and processes.several():
      raise ValueError(
        "--distributed: found the stage 'synthesis' or on_policy.use=True, which one process does; "
        "expected a set that is made before (--shard splits that), and on_policy.use=False"
      )
    if alone and paths.in_bucket(_WORKDIR.value):
      raise ValueError(
        f"--workdir={_WORKDIR.value}: found the stage 'synthesis' or on_policy.use=True, which "
        "write line by line; expected a set that is made before, and on_policy.use=False"
      )
    if "synthesis" in config.stages:
      factory = data.make_factory(config)
    else:
      plan = recipe.make_plan(config)
      if shard or _BEAM.value:
        raise ValueError(
          f"--shard={_SHARD.value}, --beam={_BEAM.value}: only the stage 'synthesis' can be split"
        )
    fingerprints = {"data_sha256": fingerprint(config.data.path)}
    if config.synthesis.topics:
      fingerprints["topics_sha256"] = fingerprint(config.synthesis.topics)
    # Asked for while all are there.
    hosts = ", ".join(f"{i}: {name}" for i, name in enumerate(processes.names()))
    if processes.several():
      _LOG.info("processes and their hosts: %s", hosts)
    else:
      # Ends what is under way as Ctrl-C does; of several, all are to hear of it, which JAX sees to.
      signal.signal(signal.SIGTERM, preemption.end)
    with processes.first_alone("the run's directory"):
      workdir = Workdir(
        _WORKDIR.value,
        recipe.as_json(config) | fingerprints,
        recipe.FREE_KEYS,
        writes=processes.first(),
      )
  except (ValueError, OSError, ImportError, WorkdirError) as error:
    print(f"fspo_jax: cannot start: {error}", file=sys.stderr)
    return 2
  try:
    compiled.keep(workdir.path / "compiled")
    if factory is not None and _BEAM.value:
      pipeline.run_beam(factory, workdir.path / "synthesis", _BEAM.value)
      return 0
    if factory is not None and shard is not None:
      pipeline.run_part(factory, workdir.path / "synthesis", *shard)
      return 0
    if factory is not None:
      made = _synthesize(factory, workdir)
      if len(config.stages) == 1:
        return 0
      try:
        plan = recipe.make_plan(config, made)
      except (ValueError, OSError) as error:
        print(f"fspo_jax: cannot go on from the set {made}: {error}", file=sys.stderr)
        return 2
    recipe.Recipe(plan, workdir, _PROFILE.value).run()
  except (
    TrainingError,
    AdaptersError,
    ReferenceCacheError,
    RowOverflowError,
    *pipeline.ERRORS,
  ) as error:
    print(f"fspo_jax: stopped: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(f"fspo_jax: interrupted; the same command goes on in {workdir.path}", file=sys.stderr)
    return 130
  except preemption.Preempted as end:
    print(
      f"fspo_jax: told to end (SIGTERM). {end} The same command goes on in {workdir.path}",
      file=sys.stderr,
    )
    return _TOLD
  except jax.errors.JaxRuntimeError as error:
    if not processes.several():
      raise
    print(
      f"fspo_jax: stopped, for a process failed or cannot be reached: {error}\n"
      f"fspo_jax: processes and their hosts: {hosts}. The same command goes on in {workdir.path}",
      file=sys.stderr,
    )
    return 1
  if "evaluate" not in config.stages or not processes.first():
    return 0
  print(f"results: {workdir.path / 'results.json'}")
  print(f"report:  {workdir.path / 'report' / 'report.md'}")
  print(f"page:    {workdir.path / 'report' / 'report.html'}")
  return 0


def _main_of_several(argv: list[str]) -> int:
  """`main`; a process that fails ends at once, and does not wait for the others.

  When one is told to end, all are, and end together.
  """
  try:
    status = main(argv)
  except BaseException:
    if not processes.several():
      raise
    traceback.print_exc()
    status = 1
  if status and processes.several():
    processes.end(status, together=status == _TOLD)
  return status


def run() -> None:
  """Parses the flags and runs `main`, whose value is the exit status."""
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(_main_of_several)


if __name__ == "__main__":
  run()
