# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Export: a run's model as a folder in the layout of Hugging Face, for others and for us.

`transformers` and vLLM open it as any checkpoint; `fspo_jax.load` opens it too, and asks it as it
was trained:

python -m fspo_jax.export --workdir=runs/mine --out=exported

A run that trained adapters can export these alone, as PEFT has them:

python -m fspo_jax.export --workdir=runs/mine --out=adapter --adapter

Both folders may be in a bucket (gs://BUCKET/FOLDER).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import ml_collections

from fspo_jax import checkpoints, paths, sharding
from fspo_jax import config as config_lib
from fspo_jax.episodes import tokenizers
from fspo_jax.inference import loading
from fspo_jax.inference.writer import Writer
from fspo_jax.models import huggingface, transformer
from fspo_jax.models.huggingface import companions, files
from fspo_jax.training import adapters
from fspo_jax.training import state as state_lib

# Where a run keeps what its base's folder says beside the weights, and which files these are.
FOLDER, COMPANIONS = "hugging_face", (files.CONFIG, companions.GENERATION)
_DTYPES = ("float32", "bfloat16", "float16")


class ExportError(ValueError):
  """A model that cannot be exported so: which, what was found, what was expected."""


def export(
  run: str | os.PathLike[str],
  out: str | os.PathLike[str],
  *,
  stage: str | None = None,
  dtype: str | None = None,
) -> None:
  """Writes the model of a run; adapters are merged into it.

  Args:
    run: the workdir of a run: a folder, or gs://BUCKET/FOLDER.
    out: a new or empty folder, or gs://BUCKET/FOLDER.
    stage: whose model; None for the last.
    dtype: of the weights; None for that of the run's parameters.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    HuggingFaceError: no family of models is like this one, or `out` is not empty.
    TokenizerError: nobody else has a tokenizer like this one.
    ImportError: one of them is in a bucket, and the extra `gcs` is not installed.
  """
  huggingface.check_new(out)  # before the whole model is read
  path = paths.path(run)
  directory = _stage(path, stage)
  writer = Writer.load(directory)
  with checkpoints.Checkpoints(directory) as saved:
    config = ml_collections.ConfigDict(saved.metadata()["config"])
  params = writer.params
  if dtype is not None:
    params = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
  beside = _beside(path, config, writer)
  about = {key: config[key] for key in ("template", "vocab_chunk")}
  about |= {"chat": config.chat.to_dict(), "loss": {}}
  if directory.name == "preference":
    about["loss"] = config.preference.loss.to_dict()
  text = json.dumps(about, indent=2) + "\n"
  with _written(out) as folder:
    huggingface.save_model(folder, params, writer.model.config, beside)
    paths.write_atomic(folder / loading.ABOUT, text.encode())


def export_adapter(
  run: str | os.PathLike[str], out: str | os.PathLike[str], *, stage: str | None = None
) -> None:
  """Writes the adapters of a run, to be added to its base.

  Args:
    run: the workdir of a run: a folder, or gs://BUCKET/FOLDER.
    out: a new or empty folder, or gs://BUCKET/FOLDER.
    stage: whose adapters; None for the last stage.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ExportError: it has no adapters, or not on a base that others can have.
    HuggingFaceError: `out` is not empty.
    ImportError: one of them is in a bucket, and the extra `gcs` is not installed.
  """
  huggingface.check_new(out)
  path = paths.path(run)
  directory, mesh = _stage(path, stage), sharding.one_device()
  with checkpoints.Checkpoints(directory) as saved:
    config = ml_collections.ConfigDict(saved.metadata()["config"])
    tokenizer = tokenizers.from_bytes(saved.tokenizer())
  shape = config_lib.transformer(config, tokenizer.vocab_size)
  abstract = state_lib.abstract_params(transformer.Transformer(shape), mesh)
  found = adapters.load_alone(directory, abstract, mesh)
  if found is None:
    raise ExportError(f"{directory}: found no adapters, expected a run with lora.rank more than 0")
  if not (path / FOLDER).is_dir():
    raise ExportError(
      f"{path}: found no {FOLDER}/, expected a run whose base is a folder in the layout of Hugging "
      "Face: nobody else has the base of these adapters; without --adapter they are merged"
    )
  if directory.name == "preference" and "sft" in config.stages:
    raise ExportError(
      f"{directory}: found adapters on what the stage 'sft' has trained, expected adapters on the "
      "base: nobody else has theirs; without --adapter they are merged"
    )
  lora_config, factors, _ = found
  with _written(out) as folder:
    huggingface.save_adapter(folder, factors, lora_config, shape, base=config.base)


@contextlib.contextmanager
def _written(out: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """A folder of this machine to write: `out` itself, or one that is copied there at the end."""
  path = paths.path(out)
  if not paths.in_bucket(path):
    yield pathlib.Path(path)  # made by who writes, when nothing is refused any more
    return
  with paths.local_copy(path) as folder:
    yield folder


def _stage(run: paths.Path, stage: str | None) -> paths.Path:
  return run / "checkpoints" / (loading.last_stage(run) if stage is None else stage)


def _beside(
  run: paths.Path, config: ml_collections.ConfigDict, writer: Writer
) -> huggingface.Companions:
  """What the base's folder said, or, of a base of ours, what its tokenizer says."""
  tokenizer = writer.formatter.tokenizer
  if (run / FOLDER).is_dir():
    beside = huggingface.load_companions(run / FOLDER)
  else:
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    beside = huggingface.Companions(
      max_length=config.evaluation.max_row_tokens,
      token_ids={name: value for name, value in ids.items() if value is not None},
    )
  return dataclasses.replace(beside, tokenizer=tokenizer.files)


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m fspo_jax.export",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--workdir", required=True, help="of the run: a folder, or gs://")
  parser.add_argument("--out", required=True, help="a new or empty folder, or gs://")
  parser.add_argument("--stage", choices=loading.STAGES, help="whose model; default: the last")
  parser.add_argument("--dtype", choices=_DTYPES, help="of the weights; default: the run's")
  parser.add_argument("--adapter", action="store_true", help="the adapters alone, for PEFT")
  flags = parser.parse_args(argv)
  if flags.adapter and flags.dtype:
    parser.error("--adapter and --dtype: adapters are written as they were trained")
  try:
    if flags.adapter:
      export_adapter(flags.workdir, flags.out, stage=flags.stage)
    else:
      export(flags.workdir, flags.out, stage=flags.stage, dtype=flags.dtype)
  except (ValueError, OSError, ImportError) as error:
    print(f"fspo_jax.export: {error}", file=sys.stderr)
    return 1
  print(f"exported: {flags.out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
