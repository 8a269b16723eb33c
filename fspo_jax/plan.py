# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""What a run will need, before a chip is paid for: its step, compiled ahead of time.

python -m fspo_jax.plan --config=experiments/roleplay.py:model=llama3.2-3b,hardware=v5e-64 \
  --topology=v5e:8x8

Neither parameters nor data are read or made. TPUs (extra `tpu-plan`) need no TPU: their compiler
runs here, and says what memory a step takes. GPUs (`h100:8`) are stood in for by CPU devices: what
is sent is read from that program, and memory is a formula's. `--platform=cpu` plans for this
machine.

Meshes are estimated by formulas first. The config's own and the most promising (`--compile`) are
compiled; each takes minutes. Times are bounds: at the published peaks, nothing else in the way.
"""

from __future__ import annotations

import json
import math
import sys

from absl import app, flags
import jax
from ml_collections import config_flags

from fspo_jax.planning import hardware, planner, report

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "Like v5e:16x16, v5p:4x4x4, v6e:8x8 or h100:8.")
_PLATFORM = flags.DEFINE_enum("platform", None, ["cpu"], "In place of a topology: this machine.")
_STAGE = flags.DEFINE_enum("stage", "preference", ["sft", "preference"], "Which stage's step.")
_COMPILE = flags.DEFINE_integer("compile", 1, "How many meshes to compile beside the config's own.")
_SHOW = flags.DEFINE_integer("show", 8, "How many meshes to show that are only estimated.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON in place of Markdown.")


def main(argv: list[str]) -> int:
  """Plans, and prints it. What cannot be planned is said in one line."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  try:
    if (_TOPOLOGY.value is None) == (_PLATFORM.value is None):
      raise ValueError("expected one of --topology=NAME and --platform=cpu")
    c = _CONFIG.value
    # Whatever this machine has, nothing runs on it.
    jax.config.update("jax_platforms", "cpu")
    sizes = [c.mesh[axis] for axis in c.mesh]
    local = math.prod(size for size in sizes if size > 0)
    target = hardware.target(_TOPOLOGY.value or f"cpu:{local}")
    made = planner.make(
      c,
      target,
      name=config_flags.get_config_filename(flags.FLAGS["config"]),
      stage=_STAGE.value,
      compiled=_COMPILE.value,
      shown=_SHOW.value,
    )
  except (ValueError, OSError) as error:
    print(f"fspo_jax: cannot plan: {error}", file=sys.stderr)
    return 2
  print(json.dumps(made, indent=2) if _JSON.value else report.as_markdown(made))
  return 0 if any(row["fits"] for row in made["compiled"]) else 1


def run() -> None:
  """Parses the flags and runs `main`, whose value is the exit status."""
  flags.mark_flags_as_required(["config"])
  app.run(main)


if __name__ == "__main__":
  run()
