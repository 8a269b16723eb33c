# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The reference's log-probabilities on disk: computed once, for every run that trains on the rows.

A cache is a folder. `facts.json` says of which reference and which rows it is; anything else is
refused. `rows-<b>.npy` holds rows 128 b .. 128 b + 127, whole or not at all: the log-probability of
every segment of a row, and a seal, a hash of the facts, of all that the reference reads of the row,
and of the values. So what was kept for one row is never used for another, whatever the facts fail
to tell. Rows are known by their index: runs of any length and batch size share them, where
`row_tokens` says how long rows are (with 0 it depends on the run).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import logging
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, UInt8
import numpy as np

from fspo_jax import paths, sharding
from fspo_jax.episodes import batching
from fspo_jax.models import scoring, transformer
from fspo_jax.training import metrics

_LOG = logging.getLogger(__name__)

BLOCK = 128  # rows of a file: what a kill can cost
_SEAL = 16  # bytes


class ReferenceCacheError(ValueError):
  """A cache that is not of this reference and these rows; nothing of it was used or changed."""


class Cache:
  """The folder of a cache."""

  def __init__(
    self, directory: str | os.PathLike[str], facts: Mapping[str, Any], segments: int
  ) -> None:
    """Opens a cache, or makes an empty one.

    Args:
      directory: of the cache.
      facts: which reference and which rows it is of, as JSON has it.
      segments: G, of a row.

    Raises:
      ReferenceCacheError: what lies there is of other facts, which are named.
    """
    self.directory = paths.path(directory)
    self._type = np.dtype([("logprob", "<f4", (segments,)), ("seal", "u1", (_SEAL,))])
    text = json.dumps({"rows_per_file": BLOCK, **facts}, indent=2, sort_keys=True)
    self._key = hashlib.blake2b(text.encode(), digest_size=32).digest()
    self._recent = functools.lru_cache(maxsize=16)(self._load)
    file = self.directory / "facts.json"
    if file.exists():
      self._check_facts(file, json.loads(text))
    else:
      paths.write_atomic(file, text.encode())

  def _check_facts(self, file: paths.Path, ours: dict[str, Any]) -> None:
    try:
      known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
      raise ReferenceCacheError(f"{file}: found no JSON ({error}), expected a cache's") from error
    names = sorted(known.keys() | ours.keys())
    differ = [
      f"{name}: found {known.get(name)!r}, expected {ours.get(name)!r}"
      for name in names
      if known.get(name) != ours.get(name)
    ]
    if differ:
      raise ReferenceCacheError(
        f"{self.directory}: is the cache of another reference or of other rows ({'; '.join(differ)}"
        "); remove it, or give this run another preference.reference_cache.directory"
      )

  def missing(self, blocks: int) -> list[int]:
    """Which of the first blocks are not there; broken ones are not."""
    return [block for block in range(blocks) if self._load(block) is None]

  def write(
    self,
    block: int,
    logprobs: Float[np.ndarray, "rows G"],
    contents: UInt8[np.ndarray, "rows 16"],
  ) -> None:
    """Writes a block of `BLOCK` rows, of which `contents` are what `content` gives."""
    rows = np.zeros(BLOCK, self._type)
    rows["logprob"] = logprobs
    rows["seal"] = [self._seal(*row) for row in zip(contents, rows["logprob"], strict=True)]
    written = io.BytesIO()
    np.save(written, rows)
    paths.write_atomic(self._path(block), written.getvalue())

  def read(self, index: int, row: batching.TreeBatch) -> Float[np.ndarray, " G"]:
    """The log-probabilities of the segments of row `index`.

    Raises:
      ReferenceCacheError: they are not there, or not those of this row.
    """
    block, offset = divmod(index, BLOCK)
    rows = self._recent(block)
    if rows is None:
      raise ReferenceCacheError(f"{self._path(block)}: found no such block, expected one")
    found = rows[offset]
    if (found["seal"] != self._seal(content(row), found["logprob"])).any():
      raise ReferenceCacheError(
        f"{self._path(block)}: row {index} is not the one that these log-probabilities were "
        "computed of, or they are damaged: the data, or how it is read, has changed in a way that "
        f"facts.json does not tell; remove {self.directory} to compute them anew"
      )
    return found["logprob"].copy()

  def _seal(
    self, row: UInt8[np.ndarray, "16"], logprob: Float[np.ndarray, " G"]
  ) -> UInt8[np.ndarray, "16"]:
    sealed = row.tobytes() + logprob.tobytes()
    digest = hashlib.blake2b(sealed, key=self._key, digest_size=_SEAL).digest()
    return np.frombuffer(digest, np.uint8)

  def _path(self, block: int) -> paths.Path:
    return self.directory / f"rows-{block:07d}.npy"

  def _load(self, block: int) -> np.ndarray | None:
    try:
      rows = np.load(io.BytesIO(self._path(block).read_bytes()), allow_pickle=False)
    except FileNotFoundError:
      return None
    except (OSError, ValueError, EOFError) as error:
      _LOG.warning("%s: is broken (%s), and does not count", self._path(block), error)
      return None
    return rows if (rows.dtype, rows.shape) == (self._type, (BLOCK,)) else None


@dataclasses.dataclass(frozen=True)
class CachedRows:
  """Rows that bring the reference's log-probabilities.

  Attributes:
    rows: the rows.
    cache: where those of the distinct ones are.
  """

  rows: batching.Rows
  cache: Cache

  def __call__(self, row: int) -> batching.TreeBatch:
    """Row `row`; ReferenceCacheError if what is kept is not of it."""
    made = self.rows(row)
    index = int(row) if self.rows.period is None else int(row) % self.rows.period
    return made._replace(reference=self.cache.read(index, made))


def content(row: batching.TreeBatch) -> UInt8[np.ndarray, "16"]:
  """A hash of all that the reference's log-probabilities of a row depend on."""
  read = (row.tokens, row.positions, row.roles, row.subtree_end)
  scored = (row.source, row.target, row.segment, row.segment_kind)
  digest = hashlib.blake2b(digest_size=_SEAL)
  for values in (*read, *scored):
    digest.update(np.ascontiguousarray(values, np.int32).tobytes())
  return np.frombuffer(digest.digest(), np.uint8)


def fill(
  directory: str | os.PathLike[str],
  facts: Mapping[str, Any],
  rows: batching.Rows,
  *,
  count: int,
  model: transformer.Transformer,
  params: dict,
  mesh: jax.sharding.Mesh,
  vocab_chunk: int,
  rows_per_batch: int,
  threads: int = 1,
) -> CachedRows:
  """Computes what a cache lacks; who was stopped goes on with the first block that is not there.

  All hosts compute together, and each writes blocks of its own.

  Args:
    directory: of the cache, which all hosts see.
    facts: which reference and which rows it is of, as JSON has it.
    rows: the rows of the run.
    count: the run has rows 0 .. count - 1.
    model: the decoder.
    params: the reference's.
    mesh: where it runs.
    vocab_chunk: vocabulary entries per chunk of the projection.
    rows_per_batch: rows scored together; the mesh divides them.
    threads: that make rows ahead.

  Returns:
    The rows, with the reference's log-probabilities.

  Raises:
    ReferenceCacheError: what lies there is of another reference or of other rows.
  """
  process, processes = jax.process_index(), jax.process_count()
  segments = rows.packing.segments
  if process == 0:
    Cache(directory, facts, segments)  # the others find its facts
  multihost_utils.sync_global_devices("reference cache: open")
  cache = Cache(directory, facts, segments)
  blocks = -(-min(count, rows.period or count) // BLOCK)
  lacks = np.isin(np.arange(blocks), cache.missing(blocks))
  missing = np.flatnonzero(multihost_utils.broadcast_one_to_all(lacks)).tolist()
  batches_per_block = -(-BLOCK // rows_per_batch)

  def row(i: int) -> batching.TreeBatch:
    block, offset = divmod(i, batches_per_block * rows_per_batch)
    return rows(missing[block] * BLOCK + offset)  # some past the block's end fill its last batch

  data = batching.batches(
    row,
    rows_per_step=rows_per_batch,
    steps=batches_per_block * len(missing),
    process_index=process,
    process_count=processes,
    threads=threads,
  )
  score = _scorer(model, params, mesh, vocab_chunk)
  with metrics.progress_bar() as bar:
    task = bar.add_task("reference", total=len(missing), note="")
    for turn, block in enumerate(missing):
      scored = score(itertools.islice(data, batches_per_block))
      if turn % processes == process:
        cache.write(block, *(x[:BLOCK] for x in scored))
      bar.update(task, advance=1)
  multihost_utils.sync_global_devices("reference cache: full")
  _LOG.info("reference cache: computed %d of %d blocks in %s", len(missing), blocks, directory)
  return CachedRows(rows, cache)


def _scorer(
  model: transformer.Transformer, params: dict, mesh: jax.sharding.Mesh, vocab_chunk: int
) -> Callable[[Iterable[batching.TreeBatch]], tuple[np.ndarray, np.ndarray]]:
  """Scores batches of which each host has its part: all their rows, and contents, on each host."""

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def together(
    params: dict, batch: batching.TreeBatch, contents: UInt8[Array, "B 16"]
  ) -> tuple[Float[Array, "B G"], UInt8[Array, "B 16"]]:
    return scoring.segment_scores(model, params, batch, chunk=vocab_chunk).logprob, contents

  def score(batches: Iterable[batching.TreeBatch]) -> tuple[np.ndarray, np.ndarray]:
    scored = []
    for batch in batches:
      local = [content(jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(len(batch.tokens))]
      with sharding.use(mesh):
        scored.append(together(params, *sharding.to_global(mesh, (batch, np.stack(local)))))
    logprobs, contents = zip(*jax.device_get(scored), strict=True)
    return np.concatenate(logprobs), np.concatenate(contents)

  return score
