# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which model is a run's reference; whether its log-probabilities are kept, and of what."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import ml_collections

from fspo_jax import checkpoints, paths, workdir
from fspo_jax import config as config_lib
from fspo_jax.episodes import batching
from fspo_jax.models import transformer
from fspo_jax.training import reference_cache

_USES = ("auto", "on", "off")
# Keys of `data` that say where it is and what is accepted, and not what it is.
_PLACES = ("path", "below_gate")
# Keys of `model` that say in which parts it is computed, and not what.
_BLOCKS = ("attention", "attention_block", "remat")


def _parts(model: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Keys that change nothing; kernels round in their own way, which is that of their blocks."""
  return _BLOCKS if model.attention == "xla" else ("remat",)


def stage(c: ml_collections.ConfigDict) -> str:
  """The stage whose model the policy starts from, and is compared with."""
  return "sft" if "sft" in c.stages else "base"


def check(c: ml_collections.ConfigDict) -> None:
  """Refuses, with a ValueError, a cache that cannot be."""
  keys = c.preference.reference_cache
  if keys.use not in _USES:
    raise ValueError(f"preference.reference_cache.use={keys.use!r} is not one of {_USES}")
  if keys.use == "off" and keys.directory:
    raise ValueError(
      f"preference.reference_cache.directory={keys.directory!r}: found use='off', expected 'auto' "
      "or 'on'"
    )
  if keys.use == "on" and (why := why_not(c)):
    raise ValueError(f"preference.reference_cache.use='on': {why}; expected 'auto' or 'off'")


def why_not(c: ml_collections.ConfigDict) -> str:
  """Why a run can have no cache; '' if it can."""
  if "preference" not in c.stages:
    return f"found stages={tuple(c.stages)} without 'preference', whose reference it is"
  if not config_lib.objective(c.preference).needs_reference:
    loss = c.preference.loss
    return (
      f"found loss.name={loss.name!r} with preference_weight={loss.preference_weight}, which "
      "compares with no reference"
    )
  if c.vpl.use:
    return "found vpl.use=True, whose encoder reads the reference's hidden states at each step"
  return ""


def cached(
  c: ml_collections.ConfigDict,
  rows: batching.Rows,
  run: paths.Path,
  *,
  model: transformer.Transformer,
  params: dict,
  mesh: jax.sharding.Mesh,
  seed: int,
  made: pathlib.Path | None,
) -> reference_cache.CachedRows | None:
  """The preference stage's rows with the reference's log-probabilities; None for no cache.

  Without a say in the config there is one where rows come again in the run (description pairs do,
  round and round), or where runs share it: one of a sweep computes it, and the others read.

  Args:
    c: the config.
    rows: of the preference stage.
    run: the run's directory.
    model: the decoder.
    params: the reference's.
    mesh: where it runs.
    seed: of the rows.
    made: where the synthesis stage has put the set, for `data.name='synthetic'`.

  Raises:
    reference_cache.ReferenceCacheError: there is another reference's cache, or other rows'.
  """
  stage = c.preference
  keys, count = stage.reference_cache, stage.steps * stage.rows_per_step
  whole = -(-stage.steps // stage.window_rows) * stage.window_rows * stage.rows_per_step
  pays = bool(keys.directory) or (rows.period is not None and rows.period < count)
  if keys.use == "off" or (keys.use == "auto" and (not pays or why_not(c))):
    return None
  return reference_cache.fill(
    keys.directory or run / "reference_cache",
    _facts(c, rows, params, seed, str(made or c.data.path), _pairs(c, run)),
    rows,
    count=whole,  # a run's last windows are there, whether it has all of their rows or not
    model=model,
    params=params,
    mesh=mesh,
    vocab_chunk=c.vocab_chunk,
    rows_per_batch=stage.rows_per_step // stage.accumulate,
    threads=stage.data_threads,
  )


def _facts(
  c: ml_collections.ConfigDict,
  rows: batching.Rows,
  params: dict,
  seed: int,
  data: str,
  pairs: bytes,
) -> dict[str, Any]:
  """All that a row's log-probabilities under the reference depend on, by name."""
  stage = c.preference
  curriculum = None
  if stage.curriculum.use:  # then a row also depends on how far in the run it is
    keys = stage.curriculum
    count = stage.steps * stage.rows_per_step * stage.row_episodes
    curriculum = [keys.start, keys.end, keys.candidates, count]
  groups = {
    "model": {key: value for key, value in c.model.items() if key not in _parts(c.model)},
    "data": {key: value for key, value in c.data.items() if key not in _PLACES},
    "world": dict(c.world) | {"seed": c.world_seed, "elix_variant": c.elix_variant},
    "template": dataclasses.asdict(rows.formatter.template),
    "layout": dataclasses.asdict(rows.layout),
    "packing": dataclasses.asdict(rows.packing),
  }
  return {
    "reference_sha256": checkpoints.fingerprint(params),
    "data_sha256": workdir.fingerprint(data),
    "tokenizer_sha256": _sha256(rows.formatter.tokenizer.model),
    "description_pairs_sha256": _sha256(pairs),
    "seed": c.seed,
    "rows_seed": seed,
    "shots": stage.shots,
    "queries": stage.queries,
    "flip_shots": stage.flip_shots,
    "curriculum": curriculum,
    **{f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()},
  }


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest() if content else ""


def _pairs(c: ml_collections.ConfigDict, run: paths.Path) -> bytes:
  """The file of description pairs that rows are of, if they are."""
  return (run / "description_pairs.jsonl").read_bytes() if c.on_policy.use else b""
