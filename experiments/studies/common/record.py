# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a study of a finished run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import os
import pathlib
from typing import Any

from fspo_jax import paths, recipe
from fspo_jax.evaluation import results


def write(
  run: recipe.Recipe,
  name: str,
  found: Mapping[str, Any],
  draw: Callable[[pathlib.Path], None] | None = None,
  *,
  out: str | os.PathLike[str] | None,
) -> None:
  """Writes NAME.json and, where it is drawn, NAME.png; says where they are.

  Args:
    run: the finished run.
    name: of the study.
    found: what it has found; that of the machine and the versions is put beside it.
    draw: draws it to a path.
    out: the folder, which may be in a bucket; None for the run's folder 'studies'.
  """
  folder = run.workdir.path / "studies" if out is None else paths.path(out)
  record = {**found, "environment": results.environment(seed=run.config.seed)}
  text = json.dumps(record, indent=2, sort_keys=True) + "\n"
  with paths.local_copy(folder) as made:
    paths.write_atomic(made / f"{name}.json", text.encode())
    if draw is not None:
      draw(made / f"{name}.png")
  print(f"study:   {folder / name}.json{'' if draw is None else ' and .png'}")
