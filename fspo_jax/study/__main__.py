# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Serves a human study, to be stopped and started again at any time.

python -m fspo_jax.study --config=experiments/study.py --workdir=DIR [--config.KEY=VALUE ...]

The password of the dashboard (/researcher) is asked for the first time, or taken from the
environment variable FSPO_STUDY_PASSWORD. `python -m fspo_jax.study.manage` makes invitations.
"""

from __future__ import annotations

import logging
import subprocess
import sys

from absl import app, flags
from ml_collections import config_flags

from fspo_jax.workdir import WorkdirError

try:
  import jinja2  # noqa: F401
  import starlette  # noqa: F401
  import uvicorn
except ImportError as error:
  raise ImportError(f"{error.name}: not installed; pip install 'fspo_jax[study]'") from error

from fspo_jax.study import app as app_lib
from fspo_jax.study import manage, opening

_CONFIG = config_flags.DEFINE_config_file("config", None, "The study.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the study; one that is there already, of this config, goes on."
)


def check_models(study: opening.Study) -> None:
  """Sees, once, whether the models can be loaded and do what is asked; ValueError if not."""
  if study.store.meta("models_checked"):
    return
  print("loading the models once, to see whether they will do ...", flush=True)
  command = [sys.executable, "-m", "fspo_jax.study.personalizing", str(study.path), "--check"]
  done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
  if done.returncode:
    raise ValueError(done.stderr.strip().splitlines()[-1] if done.stderr else "the models failed")
  study.store.set_meta("models_checked", "yes")


def main(argv: list[str]) -> int:
  """Checks everything, then serves."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
  try:
    study = opening.start(_CONFIG.value, _WORKDIR.value)
    manage.set_password(study)
    check_models(study)
  except (ValueError, OSError, WorkdirError) as error:
    print(f"fspo_jax.study: cannot start: {error}", file=sys.stderr)
    return 2
  server = study.settings.server
  print(f"dashboard:   {server.url}/researcher")
  print(f"invitations: python -m fspo_jax.study.manage {_WORKDIR.value} invite 10", flush=True)
  uvicorn.run(
    app_lib.make_app(study),
    host=server.host,
    port=server.port,
    access_log=False,  # it would hold the links' secrets
    server_header=False,
    proxy_headers=bool(server.proxy),
    forwarded_allow_ips=server.proxy or None,
    log_level="warning",
  )
  return 0


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)
