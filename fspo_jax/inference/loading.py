# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a path to a Personalizer: a run, one of its checkpoints, a base's folder, or another's."""

from __future__ import annotations

import json
import os
import pathlib

import ml_collections

from fspo_jax import base as base_lib
from fspo_jax import checkpoints, paths, sharding
from fspo_jax import config as config_lib
from fspo_jax import reference as reference_lib
from fspo_jax.episodes import chat, tokenizers
from fspo_jax.episodes.templates import HEADINGS, Formatter
from fspo_jax.inference.personalizer import Personalizer
from fspo_jax.inference.writer import Writer
from fspo_jax.models import huggingface, transformer
from fspo_jax.training import adapters, step
from fspo_jax.training import state as state_lib

# What an exported folder says beside what others read: template, chat, loss, vocab_chunk.
ABOUT = "fspo_jax.json"
# The stages of a run that leave a model, the last first.
STAGES = ("preference", "sft", "base")
# Of the files of a model that are read: weights, configs, tokenizers and chat templates.
_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja")


def load(path: str | os.PathLike[str]) -> Personalizer:
  """Opens a model, on one device, whatever mesh wrote it.

  Args:
    path: of a run (its workdir; the last stage that was trained), of a stage's checkpoints
      (`WORKDIR/checkpoints/preference`), of a base's folder, or of a folder in the layout of
      Hugging Face: an exported one, which says how it is asked, or any, which is asked in its chat
      template, or else in the paper's headings. Each may be in a bucket (gs://BUCKET/FOLDER).

  Raises:
    FileNotFoundError: there is nothing to open.
    ValueError: the model needs more than preferences.
    ImportError: it is in a bucket, and the extra `gcs` is not installed.
  """
  path = paths.path(path)
  if (path / "checkpoints").is_dir():
    return _of_stage(path / "checkpoints" / last_stage(path))
  if huggingface.is_checkpoint(path):
    with paths.local_files(path, _SUFFIXES) as folder:
      return _of_hugging_face(folder)
  if (path / "model.safetensors").is_file():
    with paths.local_files(path, _SUFFIXES) as folder:
      return _of_base(folder)
  if path.is_dir() and any((child / "params").is_dir() for child in path.iterdir()):
    return _of_stage(path)
  raise FileNotFoundError(
    f"{path}: found no model, expected a run's directory (with checkpoints/ in it), a stage's "
    "checkpoints (with <step>/params), or a folder with model.safetensors"
  )


def last_stage(workdir: paths.Path) -> str:
  """The last stage of a run that has left a model; FileNotFoundError for none."""
  for stage in STAGES:
    if any((workdir / "checkpoints" / stage).glob("*/params")):
      return stage
  raise FileNotFoundError(
    f"{workdir / 'checkpoints'}: found no checkpoint of any of the stages {STAGES}"
  )


def _of_hugging_face(path: pathlib.Path) -> Personalizer:
  config = huggingface.load_config(path)
  model = transformer.Transformer(config)
  params = huggingface.load_params(
    path, config, state_lib.abstract_params(model, sharding.one_device())
  )
  tokenizer = tokenizers.load(path)
  if (path / ABOUT).is_file():
    about = ml_collections.ConfigDict(json.loads((path / ABOUT).read_text(encoding="utf-8")))
    return Personalizer(
      Writer(model, params, config_lib.formatter(about, tokenizer)),
      objective=step.Objective(**about.loss) if about.loss else None,
      vocab_chunk=about.vocab_chunk,
    )
  chats = tokenizer.chat_template is not None
  formatter = chat.formatter(tokenizer) if chats else Formatter(tokenizer, HEADINGS)
  return Personalizer(Writer(model, params, formatter))


def _of_base(path: pathlib.Path) -> Personalizer:
  base = base_lib.load(path, sharding.one_device())
  writer = Writer(base.model, base.params, base.formatter)
  return Personalizer(writer, vocab_chunk=base.config.vocab_chunk)


def _of_stage(path: paths.Path) -> Personalizer:
  writer = Writer.load(path)
  with checkpoints.Checkpoints(path) as saved:
    config = ml_collections.ConfigDict(saved.metadata()["config"])
  if path.name != "preference":
    return Personalizer(writer, vocab_chunk=config.vocab_chunk)
  objective = config_lib.objective(config.preference)
  beside = path.parent / reference_lib.stage(config)
  reference = None
  if objective.needs_reference and any(beside.glob("*/params")):
    mesh = sharding.one_device()
    reference = adapters.load(beside, state_lib.abstract_params(writer.model, mesh), mesh)
  return Personalizer(
    writer, reference=reference, objective=objective, vocab_chunk=config.vocab_chunk
  )
