# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the sweep of an experiment, all of it or one run, and tabulates what the runs measured.

python launch/sweep.py --config=experiments/X.py[:ARG] --workdir=DIR [-- --config.KEY=VALUE ...]

The experiment's file says what is run (`sweep`) and what is tabulated (`metrics`): see
fspo_jax/sweeps.py. Runs go to DIR/INDEX-OVERRIDES, one after another, a process each. The same
command goes on, and leaves finished runs alone. At the end come DIR/sweep.md and DIR/sweep.json. On
a cluster, give each task of an array one --index and, when they have ended, call --collect once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
from types import FrameType

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this script, from any folder

from fspo_jax import sweeps  # noqa: E402


def say(text: str) -> None:
  """Prints what a reader of the runs' output should see, in its place among it."""
  print(f"sweep: {text}", file=sys.stderr, flush=True)


class Runner:
  """Runs one process at a time, and passes on to it the signals that ask us to stop."""

  def __init__(self) -> None:
    self.stopped = 0  # the signal that asked us to
    self._child: subprocess.Popen | None = None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      if signal.getsignal(number) != signal.SIG_IGN:  # as SIGHUP is under nohup
        signal.signal(number, self._stop)

  def _stop(self, number: int, frame: FrameType | None) -> None:
    self.stopped = number
    if self._child is not None:
      self._child.send_signal(number)

  def run(self, command: Sequence[str]) -> int:
    """Runs a command to its end; its exit status, minus the signal if one has killed it."""
    # In a session of its own, or Ctrl-C at a terminal would reach it twice.
    self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    if self.stopped:
      self._child.send_signal(self.stopped)
    status = self._child.wait()
    self._child = None
    return status


def command_of(run: sweeps.Run, python: str) -> list[str]:
  """What runs a run, from any folder, with the package beside this script."""
  paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  where = f"PYTHONPATH={os.pathsep.join(paths)}"
  return ["env", where, python, "-m", "fspo_jax.main", *run.flags]


def run_all(runs: Sequence[sweeps.Run], total: int, python: str) -> tuple[dict[int, int], int]:
  """Runs what is not finished; exit statuses of those that failed, and the signal that stopped us.

  Args:
    runs: to be run, in this order.
    total: number of runs of the sweep.
    python: that runs them.
  """
  runner, failed = Runner(), {}
  for run in runs:
    if run.ended() and sweeps.state_of(run)[0] == "finished":
      say(f"run {run.index} (0 to {total - 1}): already finished in {run.directory}")
      continue
    say(f"run {run.index} (0 to {total - 1}): starting in {run.directory}")
    status = runner.run(command_of(run, python))
    if runner.stopped:
      again = shlex.join([sys.executable, *sys.argv])
      say(f"stopped in run {run.index}; the same command goes on from there: {again}")
      break
    if status:
      failed[run.index] = status
  for index, status in failed.items():
    how = f"exit code {status}" if status > 0 else f"killed by signal {-status}"
    say(f"run {index} failed ({how}); what it said is above")
  return failed, runner.stopped


def write_tables(
  directory: pathlib.Path,
  experiment: sweeps.Experiment,
  runs: Sequence[sweeps.Run],
  failed: Mapping[int, int],
) -> bool:
  """Writes sweep.md and sweep.json; whether every metric is in the results of some finished run."""
  metrics = experiment.metrics()
  found = sweeps.collect(runs, metrics)
  finished = [row for row in found["runs"] if row["state"] == "finished"]
  for row in found["runs"]:
    if row["index"] in failed:
      row["state"] += f", failed ({failed[row['index']]})"
  known = {run.directory.name for run in runs}
  others = sorted(p.name for p in directory.glob("[0-9]*-*") if p.is_dir() and p.name not in known)
  count = f"{len(finished)} of {len(runs)} runs are finished."
  if others:
    count += f" Folders of runs that the sweep no longer has: {', '.join(others)}."
  text = f"# Sweep of {experiment.name}\n\n{count}\n\n{sweeps.tables(found)}"
  found = {"config": experiment.name, **found, "other_folders": others}
  for name, content in (("sweep.json", json.dumps(found, indent=2) + "\n"), ("sweep.md", text)):
    temporary = directory / f".{name}.{os.getpid()}.tmp"
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, directory / name)
  say(f"{count} Tables: {directory / 'sweep.md'}")
  absent = [m for m in metrics if finished and all(r["metrics"][m] is None for r in finished)]
  for name in absent:
    say(f"metrics(arg): no finished run has a number at {metrics[name]!r} of its results.json")
  return not absent


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The command line; what excludes one another is refused."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("--config", required=True, help="the experiment's file[:ARG]")
  parser.add_argument("--workdir", required=True, help="folder of the runs' folders")
  parser.add_argument("--index", type=int, help="run this one alone, from 0; write no tables")
  parser.add_argument("--dry_run", action="store_true", help="print the commands, run nothing")
  parser.add_argument("--collect", action="store_true", help="write the tables, run nothing")
  parser.add_argument("--python", default=sys.executable, help="that runs them (default: this)")
  parser.add_argument("overrides", nargs="*", help="--config.KEY=VALUE, after --, for all runs")
  args = parser.parse_args(argv)
  if args.collect and (args.dry_run or args.index is not None):
    parser.error("--collect: found with --dry_run or --index, expected alone: it is of all runs")
  return args


def main(argv: Sequence[str] | None = None) -> int:
  """Checks every run, then runs; the exit status."""
  args = parse(argv)
  directory = pathlib.Path(args.workdir).absolute()
  try:
    experiment = sweeps.load(args.config)
    runs = chosen = sweeps.runs_of(experiment, directory, args.overrides)
    experiment.metrics()
    if args.index is not None:
      if not 0 <= args.index < len(runs):
        raise sweeps.SweepError(f"--index={args.index}: expected 0 to {len(runs) - 1}")
      chosen = [runs[args.index]]
    if shutil.which(args.python) is None:
      raise sweeps.SweepError(f"--python={args.python}: found nothing that can be run")
    if (directory / "config.json").exists():
      raise sweeps.SweepError(f"--workdir={directory}: found a run, expected a folder for runs")
    if args.collect and not directory.is_dir():
      raise sweeps.SweepError(f"--workdir={directory}: found no folder, expected a sweep's")
    if not args.dry_run:
      directory.mkdir(parents=True, exist_ok=True)
  except (sweeps.SweepError, OSError) as error:
    print(f"sweep: cannot start: {error}", file=sys.stderr)
    return 2
  if args.dry_run:
    for run in chosen:
      print(shlex.join(command_of(run, args.python)))
    return 0
  failed, stopped = {}, 0
  if not args.collect:
    failed, stopped = run_all(chosen, len(runs), args.python)
  if stopped:
    return 128 + stopped
  if args.index is not None:
    status = failed.get(args.index, 0)
    return status if status >= 0 else 128 - status
  complete = write_tables(directory, experiment, runs, failed)
  return 1 if failed or not complete else 0


if __name__ == "__main__":
  sys.exit(main())
