# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the reference's log-probabilities on disk; `main` computes them, to be killed."""

import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fspo_jax import checkpoints, sharding
from fspo_jax.episodes import batching
from fspo_jax.episodes.templates import Layout
from fspo_jax.models import scoring
from fspo_jax.training import reference_cache, step
from fspo_jax.training import state as state_lib
from tests import tiny

BLOCK, COUNT = 8, 20  # rows of a file, and of a run: three files
FACTS = {"reference_sha256": "abc", "seed": 0}
MODEL = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)
ROWS = tiny.rows(Layout(shot_pairs=True, query_shots=(1,)), shots=1, tokens=256, scored_tokens=192)


@dataclasses.dataclass(frozen=True)
class _Stalling(batching.Rows):
  """Rows of which one is never made."""

  stalls: int | None = None

  def __call__(self, row):
    if row == self.stalls:
      time.sleep(600)
    return super().__call__(row)


def _rows(kind=batching.Rows, source=ROWS, **more):
  fields = {f.name: vars(source)[f.name] for f in dataclasses.fields(batching.Rows)}
  return kind(**(fields | more))


def _fill(directory, rows=ROWS, *, facts=FACTS, count=COUNT, batch=2, params=None, mesh=None):
  return reference_cache.fill(
    directory,
    facts,
    rows,
    count=count,
    model=MODEL,
    params=tiny.params(MODEL) if params is None else params,
    mesh=sharding.make_mesh(1, devices=jax.devices()[:1]) if mesh is None else mesh,
    vocab_chunk=512,
    rows_per_batch=batch,
    threads=0,
  )


def _files(directory):
  return {p.name: p.read_bytes() for p in sorted(pathlib.Path(directory).iterdir())}


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(reference_cache, "BLOCK", BLOCK)
    yield


@pytest.fixture(scope="module")
def full(tmp_path_factory):
  """A full cache's folder, and its rows."""
  directory = tmp_path_factory.mktemp("caches") / "full"
  return directory, _fill(directory)


@pytest.fixture
def copy(full, tmp_path):
  """A copy of the full cache's folder."""
  shutil.copytree(full[0], tmp_path / "copy")
  return tmp_path / "copy"


@pytest.fixture
def computed(monkeypatch):
  """The blocks that are computed."""
  blocks, write = [], reference_cache.Cache.write

  def spy(self, block, *values):
    blocks.append(block)
    write(self, block, *values)

  monkeypatch.setattr(reference_cache.Cache, "write", spy)
  return blocks


def test_rows_bring_what_the_reference_says_of_them(full):
  directory, cached = full
  assert list(_files(directory)) == ["facts.json", *(f"rows-{b:07d}.npy" for b in range(3))]
  batch = tiny.batch(cached, COUNT)
  expected = scoring.segment_scores(MODEL, tiny.params(MODEL), batch, chunk=512).logprob
  np.testing.assert_allclose(batch.reference, expected, rtol=1e-6)
  assert (np.abs(batch.reference[batch.segment_kind > 0]) > 1).all()
  for name, values in tiny.batch(ROWS, COUNT)._replace(reference=batch.reference)._asdict().items():
    np.testing.assert_array_equal(batch._asdict()[name], values, err_msg=name)


def test_rows_of_windows_bring_their_own_in_any_order(tmp_path):
  """Windows of two rows, whose episodes change places; a run of odd steps ends within one."""
  sizes = {"shots": 1, "queries": 1, "episodes": 2, "tokens": 512, "scored_tokens": 384}
  packing = batching.Packing.of(ROWS.layout, **sizes, window_rows=2)
  rows = dataclasses.replace(ROWS, packing=packing)
  alone = dataclasses.replace(ROWS, packing=dataclasses.replace(packing, window_rows=1))
  moved = [i for i in range(8) if (rows(i).tokens != alone(i).tokens).any()]
  assert moved
  cached = _fill(tmp_path, rows, count=8)
  batches = batching.batches(cached, rows_per_step=2, steps=3, window_rows=2, threads=0)
  seen = []
  for batch in batches:
    expected = scoring.segment_scores(MODEL, tiny.params(MODEL), batch, chunk=512).logprob
    np.testing.assert_allclose(batch.reference, expected, rtol=1e-6)
    seen += batch.row.tolist()
  assert seen == [0, 2, 1, 3, 4, 6]
  with pytest.raises(reference_cache.ReferenceCacheError, match="is not the one that"):
    dataclasses.replace(cached, rows=alone)(moved[0])


def _losses(rows, frozen, name, accumulate):
  """The metrics of four steps from the reference's parameters."""
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  objective = dataclasses.replace(tiny.OBJECTIVE, name=name)
  rule = optax.sgd(3e-3)
  update = step.make_step(MODEL, objective, rule, mesh, vocab_chunk=512, accumulate=accumulate)
  state, history = state_lib.init_state(jax.tree.map(jnp.copy, tiny.params(MODEL)), rule, mesh), []
  for i in range(4):
    state, found = update(state, frozen, sharding.to_global(mesh, tiny.batch(rows, 4, first=4 * i)))
    history.append({key: float(value) for key, value in found.items()})
  return history


@pytest.mark.parametrize("name, accumulate", [("ipo", 1), ("kto", 2)])
def test_a_training_is_the_same_with_them_and_without_the_reference(full, name, accumulate):
  live = _losses(ROWS, tiny.params(MODEL), name, accumulate)
  cached = _losses(full[1], None, name, accumulate)
  for ours, theirs in zip(cached, live, strict=True):
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
  assert live[3]["logps/abs_margins"] > 0.1


def test_runs_of_any_length_and_batch_share_them(copy, full, computed):
  before = _files(copy)
  _fill(copy)
  _fill(copy, count=3, batch=4)
  assert computed == [] and _files(copy) == before
  longer = _fill(copy, count=33, batch=4)
  assert computed == [3, 4]
  assert {name: _files(copy)[name] for name in before} == before
  expected = tiny.batch(_fill(copy.parent / "at once", count=33, batch=4), 33)
  np.testing.assert_array_equal(tiny.batch(longer, 33).reference, expected.reference)
  # A batch that a block is no multiple of.
  odd = tiny.batch(_fill(copy.parent / "odd", batch=3), COUNT)
  np.testing.assert_allclose(odd.reference, tiny.batch(full[1], COUNT).reference, rtol=1e-6)


def test_rows_that_come_again_are_computed_once(tmp_path, computed):
  again = _rows(episode=lambda i: ROWS.episode(i % 10), period=10)
  cached = _fill(tmp_path / "again", again, count=1000)
  assert computed == [0, 1]
  batch = tiny.batch(cached, 24)
  np.testing.assert_array_equal(batch.reference[:10], batch.reference[10:20])
  assert batch.row.tolist() == list(range(24))  # an index of its own nonetheless


@hypothesis.given(st.integers(0, 2**16), st.sampled_from(sorted(FACTS)), st.booleans())
def test_the_cache_of_anything_else_is_refused_by_name(full, value, name, gone):
  directory, _ = full
  before = _files(directory)
  facts = {k: v for k, v in FACTS.items() if k != name or not gone}
  if not gone:
    hypothesis.assume(value != FACTS[name])
    facts[name] = value
  with pytest.raises(reference_cache.ReferenceCacheError) as caught:
    _fill(directory, facts=facts)
  assert f"({name}: found {FACTS[name]!r}, expected {facts.get(name)!r})" in str(caught.value)
  assert _files(directory) == before


def test_other_rows_under_the_same_facts_are_refused(full):
  """As after a change of code: nothing in the config tells, and the row itself does."""
  directory, _ = full
  others = {
    "seed": tiny.rows(ROWS.layout, shots=1, tokens=256, scored_tokens=192, seed=1),
    "template": _rows(formatter=tiny.formatter(tiny.templates.HEADINGS)),
  }
  for name, rows in others.items():
    cached = _fill(directory, rows)
    with pytest.raises(reference_cache.ReferenceCacheError, match=r"row 5 is not the one that"):
      cached(5)
      pytest.fail(name)

  # One preference of one row.
  def swapped(index):
    episode = ROWS.episode(index)
    if index != 5:
      return episode
    return dataclasses.replace(episode, shots=tuple(p.swapped() for p in episode.shots))

  cached = _fill(directory, _rows(episode=swapped))
  cached(4), cached(6)
  with pytest.raises(reference_cache.ReferenceCacheError, match=r"row 5 is not the one"):
    cached(5)


def test_what_was_written_for_other_facts_is_never_read(copy, full):
  """Blocks that end up in a folder of other facts, as when two runs make one at the same time."""
  other = _fill(copy.parent / "other", facts=FACTS | {"reference_sha256": "def"})
  shutil.copy(copy / "rows-0000000.npy", other.cache.directory / "rows-0000000.npy")
  with pytest.raises(reference_cache.ReferenceCacheError, match=r"row 0 is not the one"):
    other(0)
  np.testing.assert_array_equal(other(8).reference, full[1](8).reference)


def test_a_broken_block_is_computed_anew(copy, computed):
  before = _files(copy)
  block = copy / "rows-0000001.npy"
  block.write_bytes(before[block.name][:-7])
  (copy / "rows-0000002.npy").write_bytes(b"")
  (copy / ".rows-0000002.npy.ab.tmp").write_bytes(before[block.name][:50])
  _fill(copy)
  assert computed == [1, 2]
  assert {name: _files(copy)[name] for name in before} == before


def test_a_damaged_value_is_not_used(copy):
  block = copy / "rows-0000001.npy"
  data = bytearray(block.read_bytes())
  size = len(reference_cache.Cache(copy, FACTS, ROWS.packing.segments)._load(0)[0].tobytes())
  data[-2 * size] ^= 1  # the lowest bit of the first value of row 14
  block.write_bytes(data)
  cached = _fill(copy)
  cached(13), cached(15)
  with pytest.raises(reference_cache.ReferenceCacheError, match="or they are damaged"):
    cached(14)
  block.unlink()
  cached = reference_cache.CachedRows(ROWS, reference_cache.Cache(copy, FACTS, 2))
  with pytest.raises(reference_cache.ReferenceCacheError, match="found no such block"):
    cached(14)


def test_facts_that_cannot_be_read_are_refused(copy):
  (copy / "facts.json").write_text('{"seed": ')
  with pytest.raises(reference_cache.ReferenceCacheError, match=r"facts\.json: found no JSON"):
    _fill(copy)


def test_a_fingerprint_is_of_every_bit_name_and_type():
  params = tiny.params(MODEL)
  known = checkpoints.fingerprint(params)
  assert checkpoints.fingerprint(jax.device_get(params)) == known
  for path in (("embedding",), ("blocks", "down", "kernel")):
    changed = jax.tree.map(np.array, params)
    leaf = changed
    for key in path:
      leaf = leaf[key]
    leaf.reshape(-1)[-1] = np.nextafter(leaf.reshape(-1)[-1], np.float32(9))
    assert checkpoints.fingerprint(changed) != known
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert checkpoints.fingerprint(half) != known
  assert checkpoints.fingerprint({"embedding": params}) != known


def main(directory):
  """Computes a cache up to the middle of its second block, and waits there to be killed."""
  reference_cache.BLOCK = BLOCK
  _fill(directory, _rows(_Stalling, stalls=BLOCK + 3))


def main_of_two(directory, process):
  """Computes a cache as one of two processes, and says which blocks it wrote and what it reads."""
  reference_cache.BLOCK = BLOCK
  written, write = [], reference_cache.Cache.write

  def spy(self, block, *values):
    written.append(block)
    write(self, block, *values)

  reference_cache.Cache.write = spy
  mesh = sharding.make_mesh(2, 1, 1)
  params = jax.tree.map(
    lambda x, like: jax.make_array_from_callback(x.shape, like.sharding, x.__getitem__),
    jax.device_get(tiny.params(MODEL)),
    state_lib.abstract_params(MODEL, mesh),
  )
  assert checkpoints.fingerprint(params) == checkpoints.fingerprint(tiny.params(MODEL))
  cached = _fill(directory, mesh=mesh, params=params)
  np.savez(f"{directory}.{process}.npz", written=written, found=tiny.batch(cached, COUNT).reference)


@pytest.mark.slow
def test_two_hosts_compute_together_and_each_writes_its_own(full, tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  processes = []
  for process in (0, 1):
    line, environment = tiny.command("training.one_of_two", tmp_path / "two", process, port)
    processes.append(subprocess.Popen(line, env=environment, cwd=tiny.REPO))
  assert [process.wait(timeout=300) for process in processes] == [0, 0]
  expected = tiny.batch(full[1], COUNT).reference
  for process, blocks in ((0, [0, 2]), (1, [1])):
    saved = np.load(tmp_path / f"two.{process}.npz")
    assert saved["written"].tolist() == blocks
    np.testing.assert_allclose(saved["found"], expected, rtol=1e-6)
  # Any number of hosts goes on with it.
  np.testing.assert_array_equal(
    tiny.batch(_fill(tmp_path / "two"), COUNT).reference, saved["found"]
  )


def test_who_is_killed_goes_on_and_ends_with_the_same(full, tmp_path, computed):
  line, environment = tiny.command("training.test_reference_cache", tmp_path / "killed")
  log = (tmp_path / "log").open("w")
  process = subprocess.Popen(line, env=environment, cwd=tiny.REPO, stdout=log, stderr=log)
  deadline = time.monotonic() + 300
  try:
    while not (tmp_path / "killed" / "rows-0000000.npy").exists():
      assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
      time.sleep(0.005)
  finally:
    os.kill(process.pid, signal.SIGKILL)
    log.close()
  assert process.wait() == -signal.SIGKILL
  assert list(_files(tmp_path / "killed")) == ["facts.json", "rows-0000000.npy"]
  _fill(tmp_path / "killed")
  assert computed == [1, 2]
  assert _files(tmp_path / "killed") == _files(full[0])


if __name__ == "__main__":
  main(*sys.argv[1:])
