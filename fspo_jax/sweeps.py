# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sweeps: the runs that an experiment's file lists, how far they are, and what they measured.

Beside `get_config`, the file of an experiment has two functions; `arg` is what follows the colon of
`--config`, or None:

  sweep(add, arg)  calls add(**{"preference.loss.beta": 0.1, "seed": 0}) once for each run
  metrics(arg)     returns what to tabulate: {name: path into results.json}, or paths alone, such as
                   "preference_accuracy.fspo.unseen.8"

Nothing is run here: see `launch/sweep.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import copy
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import statistics
import sys
import types
from typing import Any

from absl import flags
import ml_collections
from ml_collections.config_flags import config_flags
import numpy as np

from fspo_jax import recipe, workdir
from fspo_jax.evaluation import results as results_lib


class SweepError(ValueError):
  """A sweep that cannot be run or tabulated as asked."""


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An experiment's file and what follows the colon, None without one."""

  path: pathlib.Path
  arg: str | None
  module: types.ModuleType

  @property
  def name(self) -> str:
    """As `--config` has it."""
    return str(self.path) if self.arg is None else f"{self.path}:{self.arg}"

  def metrics(self) -> dict[str, str]:
    """What to tabulate: paths into results.json by name."""
    found = self.module.metrics(self.arg)
    if isinstance(found, str):  # A tuple of one that lacks its comma.
      raise SweepError(f"metrics(arg): expected a mapping or a tuple of paths, found {found!r}")
    return dict(found) if isinstance(found, Mapping) else {path: path for path in found}


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    index: its number, from 0.
    overrides: what it sets, by dotted key.
    config: all of its config, as JSON has it.
    directory: where it goes.
    flags: of `fspo_jax.main`.
  """

  index: int
  overrides: dict[str, Any]
  config: dict[str, Any]
  directory: pathlib.Path
  flags: tuple[str, ...]

  def ended(self) -> bool:
    """Whether the last of its stages was run to its end."""
    return (self.directory / "stages" / f"{self.config['stages'][-1]}.json").exists()


def load(config: str) -> Experiment:
  """Opens the file that `--config` names; SweepError if there is none, or it has no sweep."""
  name, colon, arg = config.partition(":")
  path = pathlib.Path(name).absolute()
  if not path.is_file():
    raise SweepError(f"--config={config}: found no file {path}")
  spec = importlib.util.spec_from_file_location("swept_experiment", path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # as dataclasses in the file need
  spec.loader.exec_module(module)
  missing = [name for name in ("get_config", "sweep", "metrics") if not hasattr(module, name)]
  if missing:
    raise SweepError(
      f"--config={config}: found no {missing[0]} in the file, expected get_config(), "
      "sweep(add, arg) and metrics(arg)"
    )
  return Experiment(path, arg if colon else None, module)


def runs_of(experiment: Experiment, directory: pathlib.Path, extra: Sequence[str]) -> list[Run]:
  """All runs of a sweep in order, each with the config that `fspo_jax.main` will have.

  Args:
    experiment: whose sweep.
    directory: whose folders they go to.
    extra: `--config.KEY=VALUE` that all of them get.

  Raises:
    SweepError: naming the first run and key that cannot be.
  """
  for flag in extra:
    if not re.match(r"--config\.[^=]+=", flag):
      raise SweepError(f"found {flag} after --, expected --config.KEY=VALUE")
  try:
    base = experiment.module.get_config(*([] if experiment.arg is None else [experiment.arg]))
  except (TypeError, ValueError) as error:
    raise SweepError(f"--config={experiment.name}: {error}") from error
  _resolve(base, extra, "after --")
  added = []
  experiment.module.sweep(lambda **overrides: added.append(overrides), experiment.arg)
  if not added:
    raise SweepError(f"--config={experiment.name}: sweep(add, arg) added no run")
  keys = set().union(*added)
  for flag in extra:
    if flag.removeprefix("--config.").partition("=")[0] in keys:
      raise SweepError(f"found {flag} after --, but the sweep itself sets this key")
  runs, indices = [], {}
  for index, overrides in enumerate(added):
    # JSON has no numpy numbers, as of arange.
    overrides = {k: v.item() if isinstance(v, np.generic) else v for k, v in overrides.items()}
    own = [f"--config.{key}={value}" for key, value in overrides.items()]
    config = _resolve(base, [*extra, *own], f"run {index}")
    for key, value in overrides.items():
      _check_type(index, key, value, config)
    config = recipe.as_json(config)
    first = indices.setdefault(json.dumps(config, sort_keys=True), index)
    if first != index:
      raise SweepError(f"run {index}: {overrides} gives the same config as run {first}")
    place = directory / _folder(index, overrides, keys)
    main = (f"--config={experiment.name}", f"--workdir={place}", *own, *extra)
    runs.append(Run(index, overrides, config, place, main))
  return runs


def _resolve(
  base: ml_collections.ConfigDict, overrides: Sequence[str], whose: str
) -> ml_collections.ConfigDict:
  """A config with overrides, parsed by what `fspo_jax.main` parses them with."""
  argv, values = ["sweep", *overrides], flags.FlagValues()
  try:
    config = config_flags.DEFINE_config_dict(
      "config", copy.deepcopy(base), flag_values=values, sys_argv=argv
    )
    values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise SweepError(f"{whose}: {error}") from error
  return config.value


def _check_type(index: int, key: str, value: Any, config: ml_collections.ConfigDict) -> None:
  """Refuses what a flag would turn into something else, such as 1 for a string or a bool."""
  found = config_flags.GetValue(key, config)
  as_given = tuple(value) if isinstance(value, list) else value
  if found != as_given or isinstance(found, bool) != isinstance(value, bool):
    group = isinstance(found, ml_collections.ConfigDict)
    expected = "the single keys of this group" if group else f"a value of {type(found).__name__}"
    raise SweepError(f"run {index}: found {key}={value!r}, expected {expected}")


def _folder(index: int, overrides: Mapping[str, Any], keys: set[str]) -> str:
  """A run's folder: of each key the last part, unless another key of the sweep ends in it too."""
  last = [key.rpartition(".")[2] for key in keys]
  parts = []
  for key, value in overrides.items():
    short = key.rpartition(".")[2]
    parts.append(f"{short if last.count(short) == 1 else key}={value}")
  text = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", ",".join(parts) or "default")
  return f"{index:03d}-{text[:120]}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


_fingerprint = functools.cache(workdir.fingerprint)


def _difference(run: Run) -> str | None:
  """A key in which what lies in a run's folder is another run; None if it is this one."""
  known = dict(_flat(json.loads((run.directory / "config.json").read_text())))
  ours = dict(_flat(run.config))
  sources = {"data_sha256": ours["data.path"], "topics_sha256": ours["synthesis.topics"]}
  # Results may be tabulated where the data is not.
  ours |= {key: _fingerprint(path) for key, path in sources.items() if os.path.exists(path)}
  for key in sorted(known.keys() | ours.keys()):
    skipped = key.startswith(recipe.FREE_KEYS) or (key.endswith("_sha256") and key not in ours)
    if not skipped and known.get(key) != ours.get(key):
      return key
  return None


def state_of(run: Run) -> tuple[str, results_lib.Results]:
  """How far a run is ("finished", or why it is not) and its results."""
  if not run.directory.exists():
    return "missing", {}
  try:
    if different := _difference(run):
      return f"another config ({different})", {}
    if "evaluate" not in run.config["stages"]:
      return "finished" if run.ended() else "unfinished", {}
    return "finished", results_lib.read(run.directory / "results.json")
  except (FileNotFoundError, NotADirectoryError):
    return "unfinished", {}
  except ValueError as error:
    return f"broken ({error})", {}


def look_up(tree: Any, path: str) -> float | None:
  """The number at a dotted path, if there is one; keys may have dots of their own."""
  if not path:
    return tree if isinstance(tree, (int, float)) and not isinstance(tree, bool) else None
  parts = path.split(".") if isinstance(tree, dict) else []
  for i in range(1, len(parts) + 1):
    head, tail = ".".join(parts[:i]), ".".join(parts[i:])
    if head in tree and (found := look_up(tree[head], tail)) is not None:
      return found
  return None


def collect(runs: Sequence[Run], metrics: Mapping[str, str]) -> dict[str, Any]:
  """What each run measured, and over the seeds of those that differ in nothing else, as JSON."""
  rows, groups = [], {}
  for run in runs:
    state, results = state_of(run)
    found = {name: look_up(results, path) for name, path in metrics.items()}
    rows.append(
      {
        "index": run.index,
        "folder": run.directory.name,
        "state": state,
        "overrides": run.overrides,
        "metrics": found,
      }
    )
    same = json.dumps({k: v for k, v in run.config.items() if k != "seed"}, sort_keys=True)
    groups.setdefault(same, []).append(rows[-1])
  seeds = [_over_seeds(group, metrics) for group in groups.values()]
  return {"metrics": dict(metrics), "runs": rows, "seeds": seeds}


def _over_seeds(rows: Sequence[dict[str, Any]], metrics: Mapping[str, str]) -> dict[str, Any]:
  measured = {}
  for name in metrics:
    values = [row["metrics"][name] for row in rows if row["metrics"][name] is not None]
    measured[name] = {
      "n": len(values),
      "mean": statistics.fmean(values) if values else None,
      "min": min(values, default=None),
      "max": max(values, default=None),
    }
  return {
    "runs": [row["index"] for row in rows],
    "overrides": {key: value for key, value in rows[0]["overrides"].items() if key != "seed"},
    "metrics": measured,
  }


def tables(collected: Mapping[str, Any]) -> str:
  """The same as Markdown: a table of runs, and one over seeds where some differ in it alone."""
  metrics = list(collected["metrics"])
  keys = list(dict.fromkeys(key for row in collected["runs"] for key in row["overrides"]))
  rows = [["run", "state", *keys, *metrics]]
  for row in collected["runs"]:
    settings = [str(row["overrides"].get(key, "")) for key in keys]
    values = [_number(row["metrics"][name]) for name in metrics]
    rows.append([str(row["index"]), row["state"], *settings, *values])
  text = _table(rows)
  if all(len(group["runs"]) == 1 for group in collected["seeds"]):
    return text
  keys = [key for key in keys if key != "seed"]
  rows = [["runs", *keys, *metrics]]
  for group in collected["seeds"]:
    settings = [str(group["overrides"].get(key, "")) for key in keys]
    values = [_spread(group["metrics"][name]) for name in metrics]
    rows.append([", ".join(map(str, group["runs"])), *settings, *values])
  return f"{text}\n## Over seeds\n\nMean (min to max; n runs that measured it).\n\n{_table(rows)}"


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.4g}"


def _spread(found: Mapping[str, Any]) -> str:
  low, high = _number(found["min"]), _number(found["max"])
  return f"{_number(found['mean'])} ({low} to {high}; n={found['n']})" if found["n"] else "- (n=0)"


def _table(rows: Sequence[Sequence[str]]) -> str:
  rule = [":--"] * len(rows[0])
  lines = [[cell.replace("|", "\\|") for cell in row] for row in (rows[0], rule, *rows[1:])]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)
