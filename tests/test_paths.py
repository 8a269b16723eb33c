# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs in a bucket: their directory, metrics and checkpoints, in a stand-in for Cloud Storage."""

import io
import json
import shutil

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import checkpoints, paths, seals
from fspo_jax.training import metrics, reference_cache
from fspo_jax.workdir import Workdir, WorkdirError


def test_a_name_is_of_the_file_system_or_of_a_bucket(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert paths.path("run") == tmp_path / "run" and not paths.in_bucket(tmp_path)
  with pytest.raises(ValueError, match="s3://bucket/run: expected a folder of the file system, or"):
    paths.path("s3://bucket/run")


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(WorkdirError, match=r"--workdir=gs://bucket/run: .* 'fspo_jax\[gcs\]'"):
    Workdir("gs://bucket/run", {})
  assert not list(tmp_path.iterdir())  # no folder gs:


def test_a_runs_directory_is_one_in_a_bucket(bucket, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  name, config = f"{bucket}/directory", {"seed": 0}
  run = Workdir(name, config)
  assert str(run.path) == name and json.loads((run.path / "config.json").read_text()) == config
  with pytest.raises(KeyError), run.running("sft"):
    raise KeyError
  with run.running("sft"):
    run.write("tokenizer.model", b"abc")
  again = Workdir(name, config, writes=False)
  assert again.finished("sft") and not again.finished("preference")
  assert again.seconds().keys() == {"sft"}
  assert not (run.path / "stages" / "sft.partial.json").exists()
  with paths.local_copy(run.path / "report") as folder:
    (folder / "figures").mkdir()
    (folder / "figures" / "a.png").write_bytes(b"png")
  assert (run.path / "report" / "figures" / "a.png").read_bytes() == b"png"
  with pytest.raises(WorkdirError, match="was made by another config .seed: 0 there, 1 here"):
    Workdir(name, {"seed": 1})
  with pytest.raises(WorkdirError, match="is not empty, and not a run of fspo_jax"):
    Workdir(f"{name}/report", config)
  with pytest.raises(WorkdirError, match="--workdir=gs://nobody-has-this/run: cannot be written"):
    Workdir("gs://nobody-has-this/run", config)
  assert not list(tmp_path.iterdir())


def test_metrics_are_in_the_bucket_when_a_checkpoint_is(bucket):
  directory = paths.path(f"{bucket}/metrics")
  writer = metrics.MetricWriter(directory, "sft", 0)
  writer.write(1, {"loss": 1.0})
  assert metrics.read_jsonl(writer.path) == []
  writer.keep()
  writer.write(2, {"loss": 0.5})
  assert metrics.read_jsonl(writer.path) == [{"step": 1, "loss": 1.0}]
  writer.close()
  again = metrics.MetricWriter(directory, "sft", 1)
  again.write(2, {"loss": 0.25})
  again.close()
  assert metrics.read_jsonl(writer.path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.25}]
  assert list((directory / "tensorboard" / "sft").iterdir())


def _save(saved, at):
  saved.save(at, {"a": jnp.full(3, at)}, {"b": jnp.zeros(1)}, {"seed": 3}, b"tokenizer")


def _opened(directory):
  with checkpoints.Checkpoints(directory) as saved:
    params = saved.restore_params({"a": jax.ShapeDtypeStruct((3,), jnp.int32)})
    return saved.latest_step(), np.asarray(params["a"]).tolist()


def test_checkpoints_in_a_bucket_are_sealed_by_what_it_says_of_their_objects(bucket, caplog):
  directory = paths.path(f"{bucket}/checkpoints")
  with checkpoints.Checkpoints(directory, keep=3) as saved:
    for at in (1, 2, 3):
      _save(saved, at)
  seal = json.loads((directory / "3.seal").read_text())
  assert seal == paths.checksums(directory / "3") and len({*seal.values()}) > len(seal) / 2
  # A save cut short lacks its mark.
  (directory / "3" / "commit_success.txt").unlink()
  # One that is not what was written.
  broken = next(iter((directory / "2" / "params" / "d").iterdir()))
  content = bytearray(broken.read_bytes())
  content[len(content) // 2] ^= 1
  broken.write_bytes(content)
  assert _opened(directory) == (1, [1, 1, 1])
  assert f"params/d/{broken.name}: not what was written" in caplog.text
  with checkpoints.Checkpoints(directory, keep=3) as saved:
    _save(saved, 3)
  assert _opened(directory) == (3, [3, 3, 3])


def test_a_checkpoint_that_was_copied_out_of_a_bucket_is_held_against_its_seal(
  bucket, tmp_path, caplog
):
  directory, here = paths.path(f"{bucket}/copied"), tmp_path / "copied"
  with checkpoints.Checkpoints(directory, keep=2) as saved:
    for at in (1, 2):
      _save(saved, at)
  store, root = fsspec.url_to_fs(str(directory))
  store.get(root, str(here), recursive=True)  # as `gcloud storage cp -r` does
  seal = json.loads((here / "2.seal").read_text())
  name = next(name for name, digest in seal.items() if len(digest) == 24 and "params/d" in name)
  content = bytearray((here / "2" / name).read_bytes())
  content[len(content) // 2] ^= 1
  shutil.copytree(here, tmp_path / "whole")
  (here / "2" / name).write_bytes(content)
  assert _opened(tmp_path / "whole") == (2, [2, 2, 2])
  assert "is broken" not in caplog.text
  assert _opened(here) == (1, [1, 1, 1])
  assert f"{name}: not what was written" in caplog.text


@pytest.mark.parametrize("kind", ["md5", "crc32c"])
def test_a_checkpoint_that_was_copied_into_a_bucket_is_held_against_its_seal(
  bucket, tmp_path, caplog, monkeypatch, kind
):
  """Its seal has what the bucket does not know, whichever that is: the objects are read."""
  here, directory = tmp_path / "copied", paths.path(f"{bucket}/copied_{kind}")
  with checkpoints.Checkpoints(here, keep=2) as saved:
    for at in (1, 2):
      _save(saved, at)
  checksums = paths.checksums
  if kind == "crc32c":
    monkeypatch.setattr(paths, "checksums", lambda at: dict.fromkeys(checksums(at), "AAAAAA=="))
  store, root = fsspec.url_to_fs(str(directory))
  store.put(f"{here}/", root, recursive=True)  # as `gcloud storage cp -r` does
  assert _opened(directory) == (2, [2, 2, 2])
  assert "is broken" not in caplog.text
  seals._compare.cache_clear()
  name = next(name for name in json.loads((here / "2.seal").read_text()) if "params/d/" in name)
  content = bytearray((here / "2" / name).read_bytes())
  content[len(content) // 2] ^= 1
  (directory / "2" / name).write_bytes(bytes(content))
  assert _opened(directory) == (1, [1, 1, 1])
  assert f"{name}: not what was written" in caplog.text


def test_what_a_bucket_has_no_checksum_of_the_seals_kind_of_is_read_or_not_checked(
  bucket, monkeypatch
):
  """Copied there from another: an MD5 is computed, a CRC32C not."""
  directory = paths.path(f"{bucket}/parts")
  with checkpoints.Checkpoints(directory, keep=2) as saved:
    _save(saved, 1)
  checksums = paths.checksums
  monkeypatch.setattr(paths, "checksums", lambda at: dict.fromkeys(checksums(at), "AAAAAA=="))
  assert seals.problem(directory, 1, optional="opt_state") is None
  seal = json.loads((directory / "1.seal").read_text())
  first, second = sorted(seal)[:2]
  monkeypatch.setattr(paths, "checksums", checksums)
  (directory / "1.seal").write_text(json.dumps(seal | {first: "AAAAAA=="}))
  assert seals.problem(directory, 1, optional="opt_state") is None
  (directory / "1.seal").write_text(json.dumps(seal | {second: "0" * 64}))
  found = seals.problem(directory, 1, optional="opt_state")
  assert found == f"{second}: not what was written"


def test_what_is_cut_short_on_its_way_to_a_bucket_is_not_there(bucket, tmp_path, monkeypatch):
  """A file that cannot be read on after its first piece; and without config.json it is no model."""

  class Broken(io.FileIO):
    pieces = 0

    def read(self, size=-1):
      self.pieces += 1
      if self.pieces > 1:
        raise OSError("the disk is gone")
      return super().read(2**20)

  def opened(name, *args, **kwargs):
    return Broken(name) if str(name).endswith("weights") else whole(name, *args, **kwargs)

  whole = io.open

  made, target = tmp_path / "made", paths.path(f"{bucket}/cut")
  made.mkdir()
  for name, content in (("a", b"a"), ("config.json", b"{}"), ("weights", bytes(6 * 2**20))):
    (made / name).write_bytes(content)
  with monkeypatch.context() as patch:
    patch.setattr("io.open", opened)
    patch.setattr("builtins.open", opened)
    with pytest.raises(OSError, match="the disk is gone"):
      paths.copy_into(made, target)
  assert [path.name for path in target.iterdir()] == ["a"]
  paths.copy_into(made, target)
  assert (target / "weights").read_bytes() == bytes(6 * 2**20)
  with paths.local_files(target, (".json",)) as folder:
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_reference_cache_in_a_bucket(bucket):
  directory, facts = f"{bucket}/cache", {"reference": "a"}
  cache = reference_cache.Cache(directory, facts, 2)
  assert cache.missing(1) == [0]
  values = np.arange(2.0 * reference_cache.BLOCK, dtype=np.float32).reshape(-1, 2)
  cache.write(0, values, np.zeros((reference_cache.BLOCK, 16), np.uint8))
  again = reference_cache.Cache(directory, facts, 2)
  assert again.missing(2) == [1]
  with pytest.raises(reference_cache.ReferenceCacheError, match="reference: found 'a', expected"):
    reference_cache.Cache(directory, {"reference": "b"}, 2)
