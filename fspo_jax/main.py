# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The command line: runs the stages of a recipe in order, and resumes what is done.

python -m fspo_jax.main --config=experiments/quickstart.py --workdir=DIR [--config.KEY=VALUE ...]
"""

from __future__ import annotations

import logging
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from fspo_jax import recipe
from fspo_jax.episodes.batching import RowOverflowError
from fspo_jax.training.loop import TrainingError
from fspo_jax.workdir import Workdir, WorkdirError, fingerprint

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run; a run that is there already, of this config, goes on."
)


def _set_up_logging() -> None:
  """Our own messages, and of the libraries' (which share absl's logger) the warnings alone."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  ours = logging.getLogger("fspo_jax")
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False


def main(argv: list[str]) -> int:
  """Checks everything, then runs. What cannot be done is said in one line, before any compute."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  _set_up_logging()
  try:
    plan = recipe.make_plan(_CONFIG.value)
    data = fingerprint(_CONFIG.value.data.path)
    identity = recipe.as_json(_CONFIG.value) | {"data_sha256": data}
    workdir = Workdir(_WORKDIR.value, identity)
  except (ValueError, OSError, WorkdirError) as error:
    print(f"fspo_jax: cannot start: {error}", file=sys.stderr)
    return 2
  try:
    recipe.Recipe(plan, workdir).run()
  except (TrainingError, RowOverflowError) as error:
    print(f"fspo_jax: stopped: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(f"fspo_jax: interrupted; the same command goes on in {workdir.path}", file=sys.stderr)
    return 130
  print(f"results: {workdir.path / 'results.json'}")
  print(f"report:  {workdir.path / 'report' / 'report.md'}")
  return 0


def run() -> None:
  """Parses the flags and runs `main`, whose value is the exit status."""
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)


if __name__ == "__main__":
  run()
