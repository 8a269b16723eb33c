# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a command says while it works: our messages, and of the libraries' the warnings alone."""

from __future__ import annotations

from collections.abc import Callable
import logging
import sys
from typing import Any

from absl import app
from absl import logging as absl_logging


def set_up(level: int = logging.INFO) -> None:
  """Our own messages from `level` on, with the time, on standard error.

  Of the libraries', which share absl's logger, there are the warnings.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)
  ours = logging.getLogger("fspo_jax")
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  ours.addHandler(handler)
  ours.setLevel(level)
  ours.propagate = False


def run(main: Callable[[list[str]], Any]) -> None:
  """`absl.app.run` of a script, which then says what a run would say."""

  def with_messages(argv: list[str]) -> Any:
    set_up()
    return main(argv)

  app.run(with_messages)
