# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of checkpoints; onto eight devices and back in a process of its own (`main`)."""

import json
import pathlib
import shutil
import sys

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fspo_jax import checkpoints, seals, sharding
from fspo_jax.training import state as state_lib
from tests import tiny

CONFIG = {"seed": 3, "model": {"width": 16}, "shots": [0, 8], "name": None, "rate": 1e-3}
TOKENIZER = bytes(range(256))
RULE = optax.adam(1e-3)


def _mesh():
  return sharding.make_mesh(1, devices=jax.devices()[:1])


def _state(seed=0):
  """Parameters and an optimizer state that is nowhere zero."""
  params = tiny.params(tiny.model(), seed)
  state = state_lib.init_state(jax.tree.map(jnp.copy, params), RULE, _mesh())
  filled = jax.tree.map(lambda x: x + jnp.asarray(seed + 7, x.dtype), state.opt_state)
  return state.params, filled


def _save(saved, at, params, opt_state):
  saved.save(at, params, opt_state, CONFIG, TOKENIZER)


def _assert_same(found, expected):
  for (name, ours), theirs in zip(tiny.flat(found).items(), jax.tree.leaves(expected), strict=True):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """Checkpoints of steps 2 and 4; parameters of step 4 are those of seed 4."""
  path = tmp_path_factory.mktemp("saved") / "stage"
  with checkpoints.Checkpoints(path) as saved:
    for at in (2, 4):
      _save(saved, at, *_state(at))
  return path


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_checkpoint_that_is_not_what_was_written_is_passed_over(
  directory, tmp_path, harm, caplog
):
  """Whichever of its files it is; and the step can be saved again."""
  names = [p.relative_to(directory) for p in (directory / "4").rglob("*") if p.is_file()]
  assert len(names) > 5
  for i, name in enumerate(sorted(names)):
    copy = tmp_path / str(i)
    shutil.copytree(directory, copy)
    content = bytearray((copy / name).read_bytes())
    if harm == "remove":
      (copy / name).unlink()
    elif harm == "cut":
      (copy / name).write_bytes(content[:-1])
    else:
      content[len(content) // 2] ^= 1
      (copy / name).write_bytes(content)
    caplog.clear()
    with checkpoints.Checkpoints(copy) as saved:
      assert saved.latest_step() == 2, name
      assert name.relative_to("4").as_posix() in caplog.text
  params, opt_state = _state(2)
  with checkpoints.Checkpoints(copy) as saved:
    found = saved.restore(*map(checkpoints.abstract_like, (params, opt_state)))
    assert found.step == 2
    _assert_same(found.params, params)
    (copy / "4.broken").mkdir()  # of an earlier time
    saved.set_broken_aside()
    assert not (copy / "4.seal").exists()
    _save(saved, 4, *_state(4))
    assert saved.latest_step() == 4
  assert (copy / "4.broken").is_dir()
  with checkpoints.Checkpoints(copy) as saved:
    assert saved.latest_step() == 4


@pytest.mark.parametrize("seal", [b"\xff{", b"[1]", b'"text"', b'{"metadata/metadata": 7}'])
def test_a_seal_that_cannot_be_read_is_of_no_use(directory, tmp_path, caplog, seal):
  copy = tmp_path / "copy"
  shutil.copytree(directory, copy)
  (copy / "4.seal").write_bytes(seal)
  with checkpoints.Checkpoints(copy) as saved:
    assert saved.latest_step() == 2
  assert f"checkpoint {copy / '4'} is broken, and not used: cannot be read" in caplog.text


def test_a_crc32c_of_a_bucket_is_not_checked_here(directory, tmp_path):
  """Of what a bucket put together from parts it knows nothing else; other files are checked."""
  copy = tmp_path / "copy"
  shutil.copytree(directory, copy)
  seal = json.loads((copy / "4.seal").read_text())
  first, second = sorted(seal)[:2]
  (copy / "4" / first).write_bytes(b"goes unnoticed")
  (copy / "4.seal").write_text(json.dumps(seal | {first: "AAAAAA=="}))
  assert seals.problem(copy, 4, optional="opt_state") is None
  (copy / "4" / second).write_bytes(b"does not")
  (copy / "4.seal").write_text(json.dumps(seal | {first: "BBBBBB=="}))
  assert seals.problem(copy, 4, optional="opt_state") == f"{second}: not what was written"


def test_everything_comes_back_bit_for_bit(directory):
  params, opt_state = _state(4)
  with checkpoints.Checkpoints(directory) as saved:
    assert saved.latest_step() == 4
    got = saved.restore(checkpoints.abstract_like(params), checkpoints.abstract_like(opt_state))
  assert got.step == 4
  _assert_same(got.params, params)
  _assert_same(got.opt_state, opt_state)
  assert jax.tree.structure(got.opt_state) == jax.tree.structure(opt_state)


def test_parameters_come_back_alone(directory, tmp_path):
  # Whoever evaluates needs neither the optimizer's files nor to know what it was.
  copy = tmp_path / "copy"
  shutil.copytree(directory, copy)
  shutil.rmtree(copy / "4" / "opt_state")
  with checkpoints.Checkpoints(copy) as saved:
    params = saved.restore_params(state_lib.abstract_params(tiny.model(), _mesh()))
  _assert_same(params, _state(4)[0])


def test_config_and_tokenizer_are_inside(directory):
  with checkpoints.Checkpoints(directory) as saved:
    metadata = saved.metadata()
    assert saved.tokenizer() == TOKENIZER
  assert metadata["config"] == CONFIG
  assert metadata["step"] == 4


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
  params, opt_state = jax.tree.map(jnp.copy, _state(1))
  with checkpoints.Checkpoints(tmp_path / "c") as saved:
    _save(saved, 1, params, opt_state)
    for leaf in jax.tree.leaves((params, opt_state)):
      leaf.delete()
    saved.wait()
    expected = _state(1)
    got = saved.restore(*map(checkpoints.abstract_like, expected))
  _assert_same((got.params, got.opt_state), expected)


def test_a_step_that_is_there_is_not_saved_again(tmp_path):
  """Orbax says no more than False; sealed anew, what is there would count as what was given."""
  with checkpoints.Checkpoints(tmp_path) as saved:
    _save(saved, 3, {"a": jnp.ones(3)}, {"b": jnp.zeros(1)})
    with pytest.raises(ValueError, match="found a checkpoint of step 3 or later"):
      _save(saved, 3, {"a": jnp.zeros(3)}, {"b": jnp.zeros(1)})


def test_a_save_that_fails_in_the_background_is_raised_by_the_next(tmp_path, monkeypatch):
  """And not waited for: its seal would never come."""

  def full():
    raise OSError("No space left on device")

  with checkpoints.Checkpoints(tmp_path) as saved, monkeypatch.context() as patch:
    patch.setattr(saved._manager, "save", lambda *unused, **args: True)
    _save(saved, 1, {"a": jnp.ones(3)}, {"b": jnp.zeros(1)})
    patch.setattr(saved._manager, "wait_until_finished", full)
    with pytest.raises(OSError, match="No space left"):
      _save(saved, 2, {"a": jnp.ones(3)}, {"b": jnp.zeros(1)})


def test_saving_does_not_ask_whether_the_run_is_preempted(tmp_path, monkeypatch):
  """JAX would take its step for the number of a question of `preemption.Watch`."""
  asked = []
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
  with checkpoints.Checkpoints(tmp_path / "c") as saved:
    _save(saved, 7, {"a": jnp.ones(3)}, {"b": jnp.zeros(1)})
    saved.wait()
    assert saved.latest_step() == 7
  assert not asked


def test_only_the_last_few_are_kept(tmp_path):
  with checkpoints.Checkpoints(tmp_path / "c", keep=2) as saved:
    for at in (1, 2, 3, 4):
      _save(saved, at, {"a": jnp.full(3, at)}, {"b": jnp.zeros(1)})
    saved.wait()
    found = sorted(p.name for p in (tmp_path / "c").iterdir() if p.is_dir())
    got = saved.restore_params({"a": jax.ShapeDtypeStruct((3,), jnp.int32)})
  assert found == ["3", "4"]
  np.testing.assert_array_equal(got["a"], [4, 4, 4])


def test_a_save_cut_short_does_not_count(directory, tmp_path):
  # A save is written beside its place and renamed when it is whole.
  copy = tmp_path / "copy"
  shutil.copytree(directory, copy)
  half = copy / "6.orbax-checkpoint-tmp"
  shutil.copytree(copy / "4", half)
  shutil.rmtree(half / "params" / "d")
  with checkpoints.Checkpoints(copy) as saved:
    assert saved.latest_step() == 4
    params, opt_state = _state(4)
    got = saved.restore(checkpoints.abstract_like(params), checkpoints.abstract_like(opt_state))
    assert got.step == 4
    _assert_same(got.params, params)
    # And the step can be saved again.
    _save(saved, 6, *_state(6))
    saved.wait()
    assert saved.latest_step() == 6
    _assert_same(saved.restore_params(checkpoints.abstract_like(params)), _state(6)[0])


def test_without_a_checkpoint_the_message_says_where_and_what_was_expected(tmp_path):
  with checkpoints.Checkpoints(tmp_path / "none") as saved:
    assert saved.latest_step() is None
    for read in (saved.metadata, saved.tokenizer, lambda: saved.restore_params({})):
      with pytest.raises(FileNotFoundError) as caught:
        read()
      assert (
        str(caught.value) == f"{tmp_path / 'none'}: no checkpoint; expected <step>/params in it"
      )


def main(source, target, facts):
  """Restores `source` onto eight devices, saves from there to `target`, and tells the facts."""
  mesh = sharding.make_mesh(2, 2, 2)
  abstract = state_lib.abstract_params(tiny.model(), mesh)
  params = jax.tree.map(lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding), abstract)
  opt_state = state_lib.init_state(params, RULE, mesh).opt_state
  with checkpoints.Checkpoints(source) as saved:
    got = saved.restore(abstract, checkpoints.abstract_like(opt_state))
    alone = saved.restore_params(abstract)
  arrays = tiny.flat({"params": got.params, "opt_state": got.opt_state, "alone": alone})
  wanted = tiny.flat({"params": params, "opt_state": opt_state, "alone": params})
  assert all(arrays[name].sharding == wanted[name].sharding for name in wanted)
  with checkpoints.Checkpoints(target) as saved:
    saved.save(5, got.params, got.opt_state, CONFIG, TOKENIZER)
  places = {
    n: [len(x.sharding.device_set), x.addressable_shards[0].data.shape] for n, x in arrays.items()
  }
  pathlib.Path(facts).write_text(json.dumps(places))


def test_onto_eight_devices_and_back_to_one(directory, tmp_path):
  target, facts = tmp_path / "target", tmp_path / "facts.json"
  tiny.run("test_checkpoints", directory, target, facts, devices=8)
  places = json.loads(facts.read_text())
  # [layers, 16 in, 32 out] over fsdp x tensor = 2 x 2, and Adam's moments with it.
  for name in ("['params']", "['alone']", "['opt_state'][0].mu", "['opt_state'][0].nu"):
    assert places[f"{name}['blocks']['q']['kernel']"] == [8, [2, 8, 16]]
  params, opt_state = _state(4)
  with checkpoints.Checkpoints(target) as saved:
    got = saved.restore(checkpoints.abstract_like(params), checkpoints.abstract_like(opt_state))
  assert got.step == 5
  _assert_same(got.params, params)
  _assert_same(got.opt_state, opt_state)
  assert {len(x.sharding.device_set) for x in jax.tree.leaves(got.params)} == {1}


if __name__ == "__main__":
  main(*sys.argv[1:])
