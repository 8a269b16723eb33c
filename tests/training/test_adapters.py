# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of stages that train adapters; on eight devices in a process of its own (`main`)."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import checkpoints, sharding
from fspo_jax.episodes.templates import Layout
from fspo_jax.models import lora
from fspo_jax.training import adapters, loop, metrics, optimizer, step
from fspo_jax.training import state as state_lib
from tests import tiny

STEPS, SEED = 6, 5
CONFIG = lora.LoraConfig(rank=2, alpha=8.0, projections=("q", "v", "down"), dropout=0.2)
RULE = optimizer.OptimizerConfig(
  name="adamw",
  learning_rate=2e-3,
  adam_learning_rate=0.0,
  warmup_steps=1,
  decay_fraction=0.2,
  clip_norm=1.0,
  weight_decay=0.0,
  b2=0.98,
)
MODEL = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)
ROWS = tiny.rows(Layout(shot_pairs=True, query_shots=(1,)), shots=1, tokens=256, scored_tokens=192)


def _rows(row):
  """The same two rows again and again, by which a few steps already help."""
  return ROWS(row % 2)._replace(row=np.int32(row))


def _mesh():
  return sharding.make_mesh(1, devices=jax.devices()[:1])


def _update(mesh, rule, *, accumulate=1, config=CONFIG):
  return step.make_step(
    MODEL,
    tiny.OBJECTIVE,
    rule,
    mesh,
    vocab_chunk=512,
    accumulate=accumulate,
    policy_params=adapters.policy_params(config, SEED),
  )


def _stage(directory, rows=_rows):
  mesh, rule = _mesh(), optimizer.make_optimizer(RULE, STEPS)
  return loop.Stage(
    name="preference",
    directory=pathlib.Path(directory),
    step=_update(mesh, rule),
    objective=tiny.OBJECTIVE,
    optimizer=rule,
    rows=rows,
    loop=loop.LoopConfig(
      steps=STEPS,
      rows_per_step=2,
      accumulate=1,
      log_every=1,
      checkpoint_every=2,
      keep_checkpoints=2,
      data_threads=0,
    ),
    mesh=mesh,
    config={"seed": 0},
    tokenizer=tiny.tokenizer().model,
  )


def _train(directory, rows=_rows, *, base=None, config=CONFIG):
  base = tiny.params(MODEL) if base is None else base
  stage, fresh = adapters.start(_stage(directory, rows), base, config, SEED)
  return loop.train(stage, fresh, base)


def _load(directory):
  return adapters.load(directory, state_lib.abstract_params(MODEL, _mesh()), _mesh())


def _assert_same(found, expected):
  for (name, ours), theirs in zip(tiny.flat(found).items(), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run's folder, and the adapters that came out of it."""
  directory = tmp_path_factory.mktemp("trained")
  return directory, jax.device_get(_train(directory))


def test_the_policy_starts_at_its_reference_and_only_adapters_are_trained(trained):
  directory, own = trained
  rows = metrics.read_jsonl(directory / "metrics" / "preference.jsonl")
  assert rows[0]["logps/abs_margins"] == 0.0 and rows[0]["rewards/margins"] == 0.0
  assert rows[0]["preference/loss"] == pytest.approx(25.0, rel=1e-6)
  assert rows[-1]["logps/abs_margins"] > 0.1 and rows[-1]["loss"] < rows[0]["loss"]
  shapes = jax.tree.map(jnp.shape, own)
  assert shapes == jax.tree.map(jnp.shape, lora.init(jax.random.key(0), tiny.params(MODEL), CONFIG))
  fresh = adapters.start(_stage(directory), tiny.params(MODEL), CONFIG, SEED)[1]
  assert all((own[name].b != fresh[name].b).any() for name in CONFIG.projections)


def test_a_checkpoint_holds_adapters_and_its_folder_their_base_once(trained):
  directory, own = trained
  stage, fresh = adapters.start(_stage(directory), tiny.params(MODEL), CONFIG, SEED)
  state = state_lib.init_state(fresh, stage.optimizer, stage.mesh)
  with checkpoints.Checkpoints(stage.checkpoint_directory) as saved:
    got = saved.restore(*map(checkpoints.abstract_like, (state.params, state.opt_state)))
  assert got.step == STEPS
  _assert_same(got.params, own)
  largest = max(x.size for x in jax.tree.leaves(got.opt_state))
  assert largest == max(x.size for x in jax.tree.leaves(own))  # moments of adapters alone
  assert got.metadata["adapters"] == {
    "rank": 2,
    "alpha": 8.0,
    "projections": ["q", "v", "down"],
    "dropout": 0.2,
    "base_sha256": checkpoints.fingerprint(tiny.params(MODEL)),
  }
  names = {p.name for p in stage.checkpoint_directory.iterdir() if p.is_dir()}
  assert names == {str(STEPS - 2), str(STEPS), "base"}


def test_the_folder_alone_is_enough_to_get_the_merged_parameters(trained, tmp_path):
  directory, own = trained
  shutil.copytree(directory / "checkpoints" / "preference", tmp_path / "elsewhere")
  expected = tiny.flat(lora.merge(tiny.params(MODEL), own, CONFIG))
  for name, leaf in tiny.flat(_load(tmp_path / "elsewhere")).items():
    np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


class _Stops:
  """Rows of which one cannot be made, or is needed no more."""

  def __init__(self, at):
    self.at = at

  def __call__(self, row):
    if row == self.at:
      raise RuntimeError(f"row {row} cannot be made")
    return _rows(row)


@pytest.mark.parametrize("stopped", [1, 7])
def test_a_run_that_stopped_goes_on_as_if_it_had_not(trained, tmp_path, stopped):
  """Its dropout too: before any checkpoint, and after one."""
  directory, own = trained
  with pytest.raises(RuntimeError, match=f"row {stopped} cannot be made"):
    _train(tmp_path, _Stops(stopped))
  _assert_same(_train(tmp_path), own)
  files = [path / "metrics" / "preference.jsonl" for path in (directory, tmp_path)]
  assert files[0].read_bytes() == files[1].read_bytes()


def test_adapters_of_another_base_or_shape_are_refused(trained, tmp_path):
  directory, _ = trained
  other = tiny.params(MODEL, seed=1)
  with pytest.raises(adapters.AdaptersError, match="expected .*, which adapters are to be trained"):
    _train(directory, base=other)
  shape = dataclasses.replace(CONFIG, alpha=4.0)
  with pytest.raises(loop.TrainingError, match=r"found checkpoints of adapters=.*'alpha': 8\.0"):
    _train(directory, config=shape)
  with pytest.raises(loop.TrainingError, match=r"adapters=.*, expected None"):
    loop.train(_stage(directory), jax.tree.map(jnp.copy, other), None)
  # Somebody puts another base beside them.
  copy = tmp_path / "copy"
  shutil.copytree(directory / "checkpoints" / "preference", copy)
  shutil.rmtree(copy / "base")
  with pytest.raises(FileNotFoundError, match=r"copy/base: no checkpoint"):
    _load(copy)
  with checkpoints.Checkpoints(copy / "base") as saved:
    saved.save(0, other, None, {}, b"")
  with pytest.raises(adapters.AdaptersError, match=r"copy/base: found parameters with SHA-256"):
    _load(copy)


def test_a_kill_before_the_base_was_whole_leaves_nothing_to_trust(trained, tmp_path):
  half = tmp_path / "checkpoints" / "preference" / "base"
  shutil.copytree(trained[0] / "checkpoints" / "preference" / "base" / "0", half / "0.orbax-tmp")
  shutil.rmtree(half / "0.orbax-tmp" / "params")
  _assert_same(_train(tmp_path), trained[1])
  assert _load(half.parent)["embedding"].shape == tiny.params(MODEL)["embedding"].shape


def _two_steps(mesh, accumulate=1):
  """The metrics of two steps with dropout, and the adapters after them."""
  rule = optimizer.make_optimizer(RULE, STEPS)
  update = _update(mesh, rule, accumulate=accumulate)
  base = jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding),
    tiny.params(MODEL),
    state_lib.abstract_params(MODEL, mesh),
  )
  own = lora.init(jax.random.key(0), tiny.params(MODEL), CONFIG)
  own = jax.tree.map(lambda x: jax.device_put(x, sharding.replicated(mesh)), own)
  state, history = state_lib.init_state(own, rule, mesh), []
  for i in range(2):
    batch = sharding.to_global(mesh, tiny.batch(ROWS, 8, first=8 * i))
    state, found = update(state, base, batch)
    history.append({name: float(value) for name, value in found.items()})
  return history, tiny.flat(jax.device_get(state.params))


def _assert_close(found, expected):
  for ours, theirs in zip(found[0], expected[0], strict=True):
    accuracies = {name for name in theirs if "accur" in name}  # at margin 0, of rounding alone
    ours, theirs = ({k: v for k, v in m.items() if k not in accuracies} for m in (ours, theirs))
    assert ours == pytest.approx(theirs, rel=5e-5, abs=1e-5)
  for (name, ours), theirs in zip(found[1].items(), jax.tree.leaves(expected[1]), strict=True):
    # Adam's first steps are signs: where a gradient is nearly 0 they are of rounding.
    close = np.isclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert close.mean() > 0.99, name


def test_parts_of_a_batch_drop_what_the_whole_of_it_does():
  _assert_close(_two_steps(_mesh(), accumulate=4), _two_steps(_mesh()))


def test_dropout_is_another_at_every_step_and_with_every_seed():
  base, own = tiny.params(MODEL), lora.init(jax.random.key(0), tiny.params(MODEL), CONFIG)

  def keys(row, seed):
    batch = tiny.batch(ROWS, 1, first=row)
    made = adapters.policy_params(CONFIG, seed)(own, base, batch)
    return jax.random.key_data(made["blocks"]["q"]["adapter"].keys).tolist()

  assert keys(0, 1) == keys(0, 1)
  assert keys(0, 1) != keys(1, 1) and keys(0, 1) != keys(0, 2)
  none = dataclasses.replace(CONFIG, dropout=0.0)
  made = adapters.policy_params(none, 1)(own, base, tiny.batch(ROWS, 1))
  assert made["blocks"]["q"]["adapter"].keys is None


def main(file):
  """Two steps on eight devices."""
  history, own = _two_steps(sharding.make_mesh(2, 2, 2))
  arrays = {name: np.asarray(x) for name, x in own.items()}
  np.savez(file, history=json.dumps(history), **arrays)


@pytest.mark.slow
def test_eight_devices_drop_what_one_does(tmp_path):
  tiny.run("training.test_adapters", tmp_path / "eight.npz", devices=8)
  eight = dict(np.load(tmp_path / "eight.npz"))
  history = json.loads(str(eight.pop("history")))
  _assert_close((history, eight), _two_steps(_mesh()))


if __name__ == "__main__":
  main(*sys.argv[1:])
