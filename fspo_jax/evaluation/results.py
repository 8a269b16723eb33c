# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The file `results.json`: what an evaluation measured, in a form that stays the same.

  {
    "preference_accuracy":      {METHOD: {SPLIT: {"0": x, ...}}},            # by k, the shots
    "preference_accuracy_ci95": {METHOD: {SPLIT: {"0": [low, high], ...}}},  # the same keys
    "bayes_accuracy":           {SPLIT: {"0": x, ...}},
    "win_rate":                 {METHOD: {SPLIT: {"mean": x, "ci95": [low, high], "users": n}}},
    "wall_seconds":             {STAGE: seconds},
    "environment":              {...}
  }

These six keys are always there. Accuracies and win rates are fractions in [0, 1]; METHOD is a key
of `methods.METHODS`, SPLIT of `SPLITS`, and the ks of one entry are "0" and greater ones (a method
that is costly to measure may skip some). An interval is null where a single user allows none. Data
of real users has no world behind it, hence one split and, where no judge was asked, an empty
`bayes_accuracy` and `win_rate`.

More top-level keys may follow, of any JSON. Three are known and checked too: `win_rate_*` (of the
shape of `win_rate`), "baselines" ({NAME: {SPLIT: preference accuracy}}) and "padding_fraction"
({STAGE or "evaluation, SPLIT": fraction of the tokens}). A recipe also writes "dropped_shots" (the
same keys: whole shots that rows had no room for) and, for a world, "description_f1" ({SPLIT: {k: F1
of the tastes that the written descriptions name}}); and what `analysis.py` finds, after all shots
and at the first temperature:

  {
    "binomial": {SPLIT: {METHOD: {"won", "lost", "p", "users_for", "users_against", "p_by_user"}}},
    "paired": {SPLIT: {METHOD: {METHOD: {"difference", "ci95", "wilcoxon_p", "permutation_p",
               "preferred", "users"}}}},
    "calibration": {SPLIT: {METHOD: {"ece", "brier", "pairs", "bins": [...]}}},
    "accuracy_by_attribute": {SPLIT: {WORDS: {"pairs": n, METHOD: accuracy}}}
  }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

from fspo_jax import paths
from fspo_jax.evaluation.methods import METHODS

Results = dict[str, Any]

SPLITS: Mapping[str, str] = {
  "unseen": "Unseen users",
  "unseen_known_prompts": "Unseen users, known prompts",
  "heldout_combinations": "Held-out combinations",
}
REQUIRED = (
  "preference_accuracy",
  "preference_accuracy_ci95",
  "bayes_accuracy",
  "win_rate",
  "wall_seconds",
  "environment",
)

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")
# A mean and its interval are sums in different orders: equal ones may differ in the last bits.
_TOLERANCE = 1e-9


def validate(results: Results) -> None:
  """Checks that `results` is what the module's docstring says.

  Raises:
    ValueError: naming the key path of the first thing wrong, what was expected and what was found.
  """
  _expect(isinstance(results, dict), "results", "an object", results)
  _check_json(results, "")
  missing = [key for key in REQUIRED if key not in results]
  if missing:
    raise ValueError(f"results: expected the key {missing[0]!r}, found {sorted(results)}")

  def accuracy(by_k: Any, path: str) -> None:
    _check_ks(by_k, path)
    _check_each(by_k, path, _check_rate)

  _check_methods(results["preference_accuracy"], "preference_accuracy", accuracy)
  if not results["preference_accuracy"]:
    raise ValueError("preference_accuracy: expected at least one method, found none")
  _check_accuracy_intervals(results)
  _check_splits(results["bayes_accuracy"], "bayes_accuracy", accuracy)
  for key in results:
    if key == "win_rate" or key.startswith("win_rate_"):
      _check_methods(results[key], key, _check_win_rate)
  _check_each(results["wall_seconds"], "wall_seconds", _check_seconds)
  _check_each(results["environment"], "environment", _check_json)

  if "baselines" in results:
    _check_each(
      results["baselines"], "baselines", lambda by, path: _check_splits(by, path, _check_rate)
    )
  if "padding_fraction" in results:
    _check_each(results["padding_fraction"], "padding_fraction", _check_rate)


def write(path: str | os.PathLike[str], results: Results) -> None:
  """Validates `results` and writes them to `path`, whole or not at all.

  Equal results give equal bytes: keys are sorted, floats are written in full.

  Raises:
    ValueError: if `results` is not valid; nothing is written.
  """
  validate(results)
  text = json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
  paths.write_atomic(paths.path(path), text.encode())


def read(path: str | os.PathLike[str]) -> Results:
  """Reads and validates a results.json.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no JSON or not valid, naming the file and the key path.
  """
  try:
    results = json.loads(paths.path(path).read_text(encoding="utf-8"))
    validate(results)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  return results


def environment(*, seed: int | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
  """What a run was made with: command, seed, date, machine, software. Imports no jax.

  Args:
    seed: the run's seed, to be kept with the rest; left out where None.
    packages: others that it was made with.

  Returns:
    `command`, `seed`, `date` (UTC, ISO 8601), `python`, `platform`, `cpu` (its model), `cores`,
    `packages` ({name: version} of those installed), and `commit` (the git commit of the work tree
    that holds this package, ending in "-dirty" where files differ from it, or None).
  """
  facts = {
    # As it would be typed in the current folder.
    "command": shlex.join(["python", *sys.orig_argv[1:]]).replace(f"{os.getcwd()}/", ""),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "cpu": _cpu_model(),
    "cores": os.cpu_count(),
    "packages": _package_versions((*_PACKAGES, *packages)),
    "commit": _git_commit(),
  }
  return facts if seed is None else {**facts, "seed": seed}


def _cpu_model() -> str:
  # platform.processor() is empty or just "x86_64" on Linux; the kernel knows the model.
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  return platform.processor() or platform.machine()


def _package_versions(names: Sequence[str]) -> dict[str, str]:
  versions = {}
  for name in names:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _git_commit() -> str | None:
  # --exclude=* keeps tags out of the answer, so that it is always the full hash.
  command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
  try:
    answer = subprocess.run(
      command,
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=30,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return answer.stdout.strip() or None


def _expect(condition: bool, path: str, expected: str, found: Any) -> None:
  if not condition:
    raise ValueError(f"{path}: expected {expected}, found {found!r}")


def _check_json(value: Any, path: str) -> None:
  """Only what JSON can hold, so that a numpy scalar or a nan is reported with its key."""
  if isinstance(value, dict):
    for key, item in value.items():
      _expect(isinstance(key, str), path or "results", "keys that are strings", key)
      _check_json(item, f"{path}.{key}" if path else key)
  elif isinstance(value, list):
    for i, item in enumerate(value):
      _check_json(item, f"{path}[{i}]")
  elif isinstance(value, float):
    _expect(math.isfinite(value), path, "a finite number", value)
  else:
    _expect(value is None or isinstance(value, (bool, int, str)), path, "a JSON value", value)


def _check_each(value: Any, path: str, check: Callable[[Any, str], None]) -> None:
  _expect(isinstance(value, dict), path, "an object", value)
  for key, item in value.items():
    check(item, f"{path}.{key}")


def _check_methods(value: Any, path: str, check: Callable[[Any, str], None]) -> None:
  _check_each(value, path, lambda by, method: _check_splits(by, method, check))
  for method in value:
    _expect(method in METHODS, f"{path}.{method}", f"a method of {list(METHODS)}", method)


def _check_splits(value: Any, path: str, check: Callable[[Any, str], None]) -> None:
  _check_each(value, path, check)
  for split in value:
    _expect(split in SPLITS, f"{path}.{split}", f"a split of {list(SPLITS)}", split)


def _check_ks(value: Any, path: str) -> None:
  _expect(
    isinstance(value, dict) and "0" in value, path, 'an object with keys "0", "1", ...', value
  )
  for k in value:
    _expect(k.isdecimal() and str(int(k)) == k, f"{path}.{k}", "a number of shots", k)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_rate(value: Any, path: str) -> None:
  _expect(_is_number(value) and 0 <= value <= 1, path, "a number in [0, 1]", value)


def _check_seconds(value: Any, path: str) -> None:
  _expect(_is_number(value) and value >= 0, path, "a number of seconds", value)


def _check_interval(value: Any, mean: float, path: str) -> None:
  if value is None:
    return
  pair = isinstance(value, list) and len(value) == 2
  _expect(pair, path, "[low, high] or null", value)
  for i, end in enumerate(value):
    _check_rate(end, f"{path}[{i}]")
  inside = value[0] - _TOLERANCE <= mean <= value[1] + _TOLERANCE
  _expect(inside, path, f"an interval that contains the mean {mean}", value)


def _check_win_rate(value: Any, path: str) -> None:
  keys = {"mean", "ci95", "users"}
  _expect(isinstance(value, dict) and set(value) == keys, path, f"the keys {sorted(keys)}", value)
  _check_rate(value["mean"], f"{path}.mean")
  _check_interval(value["ci95"], value["mean"], f"{path}.ci95")
  users = value["users"]
  count = isinstance(users, int) and not isinstance(users, bool) and users >= 1
  _expect(count, f"{path}.users", "how many users, at least 1", users)


def _check_accuracy_intervals(results: Results) -> None:
  """An interval for every accuracy, and none without."""

  def check(means: Any, intervals: Any, path: str) -> None:
    if not isinstance(means, dict):
      _check_interval(intervals, means, path)
      return
    _expect(isinstance(intervals, dict), path, "an object", intervals)
    expected = sorted(means)
    _expect(
      sorted(intervals) == expected,
      path,
      f"the keys of preference_accuracy, {expected}",
      sorted(intervals),
    )
    for key in means:
      check(means[key], intervals[key], f"{path}.{key}")

  key = "preference_accuracy_ci95"
  check(results["preference_accuracy"], results[key], key)
