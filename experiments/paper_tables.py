# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""The paper's tables: every row of `methods.py` on all worlds, beside the paper's numbers.

python experiments/paper_tables.py --workdir=runs/tables [--worlds=reviews] [--rows=fspo_ipo,vpl]
python experiments/paper_tables.py --workdir=runs/tables --collect --out=experiments/results/tables

Each row, world and seed is a run of its own, in WORKDIR/WORLD/ROW/seed=S, all from the same base;
the runs of a seed share a synthetic set in all worlds but reviews, in WORKDIR/sets. Finished runs
are left alone and those that another process is at are passed over, so that the same command goes
on, and may be given several times at once. --runlocal is all of it in small: does it run? Flags of
`fspo_jax.main` for every run come last, after --.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import runpy
import shlex
import statistics
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this folder, from anywhere

import ml_collections  # noqa: E402

from fspo_jax.datasets.synthetic import synthetic_dataset_builder as builder  # noqa: E402
from fspo_jax.evaluation import results as results_lib  # noqa: E402
from fspo_jax.evaluation.methods import METHODS  # noqa: E402

EXPERIMENT = ROOT / "experiments" / "methods.py"
WORLDS = ("reviews", "elix_easy", "elix", "roleplay")
# What a row of a table is: the run it is from and the method in its results, and what the paper has
# for it, a win rate in %; reviews (trained, interpolated) after 8 shots.
ROWS: dict[tuple[str, str], dict[str, str]] = {
  ("prompted", "base"): {
    "reviews": "50.0, 50.0",
    "elix_easy": "50.0",
    "elix": "50.0",
    "roleplay": "50.0",
  },
  ("dpo", "plain"): {},
  ("ipo", "plain"): {"roleplay": "72.4"},
  ("prompted", "fewshot_prompted"): {
    "reviews": "69.1, 59.1",
    "elix_easy": "92.4",
    "elix": "81.4",
    "roleplay": "63.2",
  },
  ("pref_ft", "pref_ft"): {
    "reviews": "65.6, 70.7",
    "elix_easy": "91.2",
    "elix": "82.9",
    "roleplay": "62.8",
  },
  ("ric", "ric"): {"roleplay": "53.3"},
  ("vpl", "vpl"): {"roleplay": "67.3"},
  ("user_lora", "user_lora"): {},
  ("fspo_kto", "fspo"): {},
  ("fspo_simpo", "fspo"): {},
  ("fspo_dpo", "fspo"): {"roleplay": "81.3"},
  ("fspo_ipo", "fspo"): {
    "reviews": "80.4, 73.6",
    "elix_easy": "97.8",
    "elix": "91.8",
    "roleplay": "82.6",
  },
  ("fspo_rat", "fspo_rat"): {"reviews": "92.3, 84.6", "roleplay": "90.3"},
  ("prompted", "oracle"): {"roleplay": "90.9"},
}
NAMES = tuple(dict.fromkeys(run for run, _ in ROWS))
# The objective of a run that has one for a row of its own.
OBJECTIVES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "simpo": "SimPO"}
# Every stage of every row in a few minutes: numbers that mean nothing.
RUNLOCAL = (
  "--config.preference.steps=4",
  "--config.preference.optimizer.warmup_steps=1",
  "--config.preference.rows_per_step=2",
  "--config.sft.steps=4",
  "--config.sft.optimizer.warmup_steps=1",
  "--config.sft.rows_per_step=2",
  "--config.on_policy.episodes=16",
  "--config.synthesis.set.users=40",
  "--config.synthesis.set.questions=60",
  "--config.synthesis.set.pairs=40",
  "--config.data.below_gate=accept",
  "--config.user_finetuning.steps=2",
  "--config.user_finetuning.episodes=4",
  "--config.evaluation.episodes=16",
  "--config.evaluation.win_rate_users=4",
  "--config.evaluation.win_rate_prompts=1",
  "--config.evaluation.bootstrap=50",
)


@dataclasses.dataclass(frozen=True)
class Run:
  """One row on one world with one seed."""

  world: str
  name: str
  seed: int
  directory: pathlib.Path

  @property
  def finished(self) -> bool:
    """Whether it has results."""
    return (self.directory / "results.json").exists()

  def config(self) -> ml_collections.ConfigDict:
    """The row's config, without what the command line changes."""
    return runpy.run_path(str(EXPERIMENT))["get_config"](f"{self.name},{self.world}")


def runs_of(args: argparse.Namespace) -> list[Run]:
  """The runs that are asked for, seed by seed: a first table is there early."""
  root = pathlib.Path(args.workdir).absolute()
  return [
    Run(world, name, seed, root / world / name / f"seed={seed}")
    for seed in args.seeds
    for world in args.worlds
    for name in args.rows
  ]


@contextlib.contextmanager
def only_here(directory: pathlib.Path) -> Iterator[bool]:
  """Whether no other process is at a folder, for as long as it takes; a kill ends it too."""
  directory.parent.mkdir(parents=True, exist_ok=True)
  with open(directory.with_name(f".{directory.name}.lock"), "wb") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    yield True


def execute(config: str, directory: pathlib.Path, flags: Sequence[str]) -> int:
  """Runs `fspo_jax.main` in a process of its own; its exit status."""
  command = [
    sys.executable,
    *("-m", "fspo_jax.main", f"--config={config}", f"--workdir={directory}", *flags),
  ]
  print(f"paper_tables: {shlex.join(command)}", file=sys.stderr, flush=True)
  path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
  return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False).returncode


def set_of(run: Run, root: pathlib.Path, flags: Sequence[str]) -> tuple[list[str], int]:
  """Makes the synthetic set that a run shares; flags that name it, and the exit status.

  None are needed where the world makes episodes as they are asked for.
  """
  config = run.config()
  stages, domain = tuple(config.stages), config.synthesis.domain
  if "synthesis" not in stages:
    return [], 0
  directory = root / "sets" / run.world / f"seed={run.seed}"
  with only_here(directory) as mine:
    if not mine:
      return [], -1
    flags = [f for f in flags if f.startswith(("--config.synthesis.", "--config.data."))]
    flags += [f"--config.seed={run.seed}", "--config.stages=('synthesis',)", "--config.base="]
    # One row's config for all: it is the same set, and a work folder has one config.
    status = execute(f"{EXPERIMENT}:prompted,{run.world}", directory, flags)
  return [
    f"--config.stages={stages[1:]}",
    "--config.data.name=user_set",
    f"--config.data.world={domain}",
    f"--config.data.path={builder.set_path(directory / 'data', domain)}",
  ], status


def run_all(runs: Sequence[Run], root: pathlib.Path, flags: Sequence[str]) -> int:
  """Runs what is not finished and nobody is at; how many failed."""
  failed = 0
  for run in runs:
    with only_here(run.directory) as mine:
      if not mine or run.finished:
        how = "already finished" if run.finished else "another process is at it"
        print(f"paper_tables: {run.directory}: {how}", file=sys.stderr, flush=True)
        continue
      about_set, status = set_of(run, root, flags)
      if status < 0:
        print(f"paper_tables: {run.directory}: its set is being made", file=sys.stderr, flush=True)
        continue
      if not status:
        own = [f"--config.seed={run.seed}", *about_set, *flags]
        status = execute(f"{EXPERIMENT}:{run.name},{run.world}", run.directory, own)
      if status:
        print(f"paper_tables: {run.directory}: failed ({status})", file=sys.stderr, flush=True)
        failed += 1
  return failed


@dataclasses.dataclass(frozen=True)
class Cell:
  """A number over seeds: their mean, and a 95 % interval.

  Seeds have other users and other models, so that their errors are independent: the interval's half
  width is the root of the sum of the squares of theirs (each by user), over their number.
  """

  values: tuple[float, ...]
  intervals: tuple[tuple[float, float] | None, ...]

  def __str__(self) -> str:
    if not self.values:
      return "-"
    mean = 100 * statistics.fmean(self.values)
    if None in self.intervals:
      return f"{mean:.1f}"
    half = sum(((high - low) / 2) ** 2 for low, high in self.intervals) ** 0.5 / len(self.values)
    return f"{mean:.1f} ± {100 * half:.1f}"


def cell(found: Sequence[results_lib.Results], *path: str) -> Cell:
  """What results have at (what, method, split, k), or (what, method, split, "mean")."""
  values, intervals = [], []
  *where, k = path
  for results in found:
    try:
      entry: Any = results
      for key in where:
        entry = entry[key]
      values.append(entry[k])
      if k == "mean":
        intervals.append(entry["ci95"])
      else:
        (what, method, split) = where
        intervals.append(results[f"{what}_ci95"][method][split][k])
    except KeyError:
      continue
  return Cell(tuple(values), tuple(tuple(i) if i else None for i in intervals))


def label(name: str, method: str) -> str:
  """What a row is called: the method, and the objective where several runs have one each."""
  objective = OBJECTIVES.get(name.removeprefix("fspo_"))
  return METHODS[method].label + (f" ({objective})" if objective else "")


def table(world: str, runs: Sequence[Run]) -> str:
  """A world's table, Markdown."""
  found: dict[str, list[results_lib.Results]] = {}
  for run in runs:
    if run.world == world and run.finished:
      found.setdefault(run.name, []).append(results_lib.read(run.directory / "results.json"))
  splits = [s for s in results_lib.SPLITS if any(
    s in by for results in found.values() for r in results for by in r["win_rate"].values()
  )]  # fmt: skip
  head = ["", "row", "paper", "seeds"]
  for split in splits:
    head += [f"win rate, {split}", *(f"accuracy k={k}, {split}" for k in (1, 2, 4, 8))]
  lines = [head, [":--"] * len(head)]
  for (name, method), paper in ROWS.items():
    results = found.get(name, [])
    line = [label(name, method), f"`{name}`", paper.get(world, ""), str(len(results))]
    for split in splits:
      line.append(str(cell(results, "win_rate", method, split, "mean")))
      line += [
        str(cell(results, "preference_accuracy", method, split, str(k))) for k in (1, 2, 4, 8)
      ]
    lines.append(line)
  ceilings = [r for results in found.values() for r in results]
  bayes = ["Bayes ceiling", "", "", ""]
  for split in splits:
    of_k = [
      [r["bayes_accuracy"][split][str(k)] for r in ceilings if split in r["bayes_accuracy"]]
      for k in (1, 2, 4, 8)
    ]
    bayes += ["", *(f"{100 * statistics.fmean(x):.1f}" if x else "-" for x in of_k)]
  lines.append(bayes)
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(args: argparse.Namespace, runs: Sequence[Run]) -> pathlib.Path:
  """Writes README.md with the tables, what made them, and what each run took."""
  out = pathlib.Path(args.out or args.workdir)
  out.mkdir(parents=True, exist_ok=True)
  finished = [run for run in runs if run.finished]
  command = "python experiments/paper_tables.py --workdir=WORKDIR" + " --runlocal" * args.runlocal
  command += f" -- {shlex.join(args.flags)}" * bool(args.flags)
  text = [
    "# The paper's tables, on the embedded worlds\n",
    f"{len(finished)} of {len(runs)} runs, {datetime.date.today().isoformat()}. Win rates against "
    "the base at temperature 0.3, judged by the world's true reward; preference accuracy on "
    "unseen users after k shots; in %, with 95 % intervals by user. The paper's win rates (FSPO, "
    "arXiv 2502.19312) are of Llama 3.2 3B on its own data and judge: to compare the order. "
    "`unseen` are its trained combinations, `heldout_combinations` its interpolated ones; elix is "
    "the paper's ELIX-hard, elix_easy its ELIX-easy.\n",
    f"Made by `{command}`{'; these numbers mean nothing' * args.runlocal}.\n",
  ]
  for world in args.worlds:
    text += [f"## {world}\n", table(world, runs)]
  text += ["## Runs\n", "| run | commit | machine | seconds |\n| :-- | :-- | :-- | --: |\n"]
  for run in finished:
    results = results_lib.read(run.directory / "results.json")
    env, seconds = results["environment"], sum(results["wall_seconds"].values())
    text[-1] += (
      f"| `methods.py:{run.name},{run.world}` seed {run.seed} | {str(env['commit'])[:12]} | "
      f"{env['cpu']}, {env['cores']} cores, {', '.join(env['devices'])} | {seconds:.0f} |\n"
    )
  path = out / "README.md"
  path.write_text("\n".join(text), encoding="utf-8")
  return path


def _choices(known: Sequence[str]) -> Any:
  def parse(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in known]:
      raise argparse.ArgumentTypeError(f"found {unknown[0]!r}, expected some of {known}")
    return [name for name in known if name in chosen]

  return parse


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  parser.add_argument("--workdir", required=True, help="folder of the runs' folders")
  parser.add_argument("--out", help="folder of the tables (default: the workdir)")
  parser.add_argument("--worlds", type=_choices(WORLDS), default=list(WORLDS))
  parser.add_argument("--rows", type=_choices(NAMES), default=list(NAMES))
  parser.add_argument(
    "--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1]
  )
  parser.add_argument("--runlocal", action="store_true", help="all of it in small")
  parser.add_argument("--collect", action="store_true", help="write the tables, run nothing")
  parser.add_argument("flags", nargs="*", help="--config.KEY=VALUE, after --, for all runs")
  args = parser.parse_args(argv)
  for flag in args.flags:
    if not flag.startswith("--config.") or "=" not in flag:
      parser.error(f"found {flag} after --, expected --config.KEY=VALUE")
  return args


def same_flags(root: pathlib.Path, flags: Sequence[str]) -> bool:
  """Whether a folder's runs have these flags; those of a new folder it keeps."""
  file = root / "flags.json"
  root.mkdir(parents=True, exist_ok=True)
  try:
    with open(file, "x", encoding="utf-8") as new:
      json.dump(list(flags), new)
  except FileExistsError:
    return json.loads(file.read_text(encoding="utf-8")) == list(flags)
  return True


def main(argv: Sequence[str] | None = None) -> int:
  """Runs, then writes the tables of what is finished; the exit status."""
  args = parse(argv)
  runs = runs_of(args)
  root = pathlib.Path(args.workdir).absolute()
  flags = [*(RUNLOCAL if args.runlocal else ()), *args.flags]
  if not same_flags(root, flags):
    # Finished runs are not looked into again: numbers of other flags would stand beside these.
    print(
      f"paper_tables: cannot start: {root / 'flags.json'} has other flags than these, {flags}: "
      "give the same ones, or another --workdir",
      file=sys.stderr,
    )
    return 2
  try:
    failed = 0 if args.collect else run_all(runs, root, flags)
  except KeyboardInterrupt:
    print(f"paper_tables: interrupted; the same command goes on in {root}", file=sys.stderr)
    return 130
  print(f"tables:  {write(args, runs)}")
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
