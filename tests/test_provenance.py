# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a report says of how to make its run again, and of its files."""

import json

from fspo_jax import config as config_lib
from fspo_jax import provenance
from fspo_jax.pages.document import plain
from fspo_jax.workdir import Workdir

COMMIT = "433f1a2" * 5 + "433f1"


def _sections(tmp_path, environment, **changes):
  config = config_lib.default()
  config.update_from_flattened_dict(changes)
  workdir = Workdir(
    tmp_path / "run", json.loads(config.to_json_best_effort()) | {"data_sha256": ""}
  )
  for name in ("checkpoints/sft/250/<b>", "checkpoints/sft/250.seal", "metrics/a<script>.jsonl"):
    workdir.write(name, b"")
  return provenance.sections(workdir, environment)


def test_what_makes_the_run_again(tmp_path):
  environment = {"command": "python -m fspo_jax.main --config=a.py", "commit": COMMIT}
  changes = {"preference.steps": 7, "sft.layout.query_shots": (1, 2)}
  again, _ = _sections(tmp_path, environment, **changes)
  commands, elsewhere, _, table, whole = again.blocks
  assert "In another folder" in elsewhere.text
  assert commands.text.splitlines() == [
    f"git checkout {COMMIT}",
    "pip install -e .",
    environment["command"],
  ]
  default = config_lib.default()
  assert [[*map(plain, row)] for row in table.rows] == [
    ["sft.layout.query_shots", "[1, 2]", json.dumps([*default.sft.layout.query_shots])],
    ["preference.steps", "7", str(default.preference.steps)],
  ]
  assert json.loads(whole.blocks[0].text)["preference"]["steps"] == 7


def test_a_changed_work_tree_and_the_default_config_are_said_to_be(tmp_path):
  again, _ = _sections(tmp_path, {"command": "x", "commit": f"{COMMIT}-dirty"})
  commands, note, _, config, _ = again.blocks
  assert commands.text.startswith(f"git checkout {COMMIT}\n")
  assert "differed from the commit" in plain(note.text)
  assert config.text == "The config is the default one."
  again, _ = _sections(tmp_path / "b", {"command": "x", "commit": None})
  assert again.blocks[0].text == "pip install -e .\nx"


def test_files_are_named_from_the_reports_folder(tmp_path):
  _, files = _sections(tmp_path, {"command": "x"})
  assert [plain(path) for path, _ in files.blocks[1].rows] == [
    "../config.json",
    "../metrics/a<script>.jsonl",
    "../checkpoints/sft/250",
  ]
