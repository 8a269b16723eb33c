# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what a command says while it works, in a process of its own: loggers are global."""

import subprocess
import sys

from tests.tiny import REPO

SCRIPT = """
import logging
from absl import logging as absl_logging
from fspo_jax import logs

def main(argv):
  assert len(argv) == 1
  absl_logging.info("a library's detail")
  absl_logging.warning("a library's warning")
  logging.getLogger("fspo_jax.recipe").info("what we are at")
  print("the result")

logs.run(main)
"""


def test_ours_are_said_and_of_the_libraries_the_warnings_alone():
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT], cwd=REPO, capture_output=True, text=True, check=True
  )
  assert done.stdout == "the result\n"
  assert "a library's warning" in done.stderr and "detail" not in done.stderr
  (ours,) = [line for line in done.stderr.splitlines() if "what we are at" in line]
  assert ours[2] == ours[5] == ":"  # the time, and nothing twice
