# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a study's folder to its parts, which every command and process opens in the same way."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import ml_collections

from fspo_jax.study import questions as questions_lib
from fspo_jax.study import settings as settings_lib
from fspo_jax.study.flow import Flow
from fspo_jax.study.store import FILE, Store
from fspo_jax.workdir import Workdir, fingerprint


@dataclasses.dataclass(frozen=True)
class Study:
  """An open study."""

  path: pathlib.Path
  flow: Flow

  @property
  def store(self) -> Store:
    """Where everything is kept."""
    return self.flow.store

  @property
  def settings(self) -> settings_lib.Settings:
    """What it is about."""
    return self.flow.settings


def start(config: ml_collections.ConfigDict, workdir: str) -> Study:
  """Makes the study of a config, or goes on with it.

  Raises:
    ValueError: an impossible config, or questions that cannot be used.
    OSError: a file that is not there.
    WorkdirError: the folder is of something else, or of another config or other questions.
  """
  settings = settings_lib.read(config)
  questions = questions_lib.load(config)
  as_json = json.loads(config.to_json_best_effort())
  as_json["fingerprints"] = {
    "pairs": fingerprint(config.pairs.path),
    "prompts": fingerprint(config.prompts.path),
  }
  work = Workdir(workdir, as_json, settings_lib.FREE_KEYS)
  work.path.chmod(0o700)
  store = Store(work.path, retention_days=settings.retention_days)
  return Study(work.path, Flow(store, settings, questions))


def reopen(workdir: pathlib.Path) -> Study:
  """Opens a study that has been started.

  Raises:
    FileNotFoundError: there is none.
    ValueError: its questions are not what they were.
  """
  path = workdir.absolute()
  if not (path / FILE).is_file() or not (path / "config.json").is_file():
    raise FileNotFoundError(f"{workdir}: found no study, expected config.json and {FILE}")
  config = ml_collections.ConfigDict(json.loads((path / "config.json").read_text()))
  settings = settings_lib.read(config)
  for key, known in config.fingerprints.items():
    if fingerprint(config[key].path) != known:
      raise ValueError(
        f"{key}.path={config[key].path!r}: is not the file that the study began with"
      )
  store = Store(path, retention_days=settings.retention_days)
  return Study(path, Flow(store, settings, questions_lib.load(config)))
