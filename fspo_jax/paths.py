# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Paths of runs: of the file system, or of a Cloud Storage bucket (gs://BUCKET/FOLDER).

A bucket's objects appear whole and are not appended to; what is written in pieces, or by libraries
that know files alone, is made in a folder of this machine and copied (`local_copy`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
import contextlib
import importlib.util
import os
import pathlib
import tempfile
import uuid

from etils import epath

Path = pathlib.Path | epath.Path

# What says that a folder is a model, or adapters: without it one cut short is neither.
_LAST = ("config.json", "adapter_config.json")


def path(name: str | os.PathLike[str]) -> Path:
  """The path of a name: absolute in the file system, or in a bucket.

  Raises:
    ValueError: it is of another kind of store.
    ImportError: it is of a bucket, and the extra `gcs` is not installed.
  """
  text = os.fspath(name)
  if "://" not in text:
    return pathlib.Path(text).absolute()
  if not text.startswith("gs://"):
    raise ValueError(f"{text}: expected a folder of the file system, or gs://BUCKET/FOLDER")
  if importlib.util.find_spec("gcsfs") is None:
    raise ImportError(f"{text}: needs gcsfs: pip install 'fspo_jax[gcs]'")
  import fsspec.config

  # Other processes write there too: what was listed before is not what is there.
  fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
  return epath.Path(text)


def in_bucket(where: str | os.PathLike[str]) -> bool:
  """Whether a path is of a bucket."""
  return os.fspath(where).startswith("gs://")


def write_atomic(where: Path, data: bytes) -> None:
  """Writes a file that is there whole, or not at all, whenever the machine stops."""
  if in_bucket(where):
    with where.open("wb") as file:
      file.write(data)  # it appears when it is closed
    return
  where.parent.mkdir(parents=True, exist_ok=True)
  # A name of its own: several processes may make parts of one run.
  temporary = where.with_name(f".{where.name}.{uuid.uuid4().hex}.tmp")
  with temporary.open("wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, where)


def checksums(directory: Path) -> dict[str, str]:
  """What a bucket says of each object under a folder, by its path there: its MD5.

  Of what was put together from parts it knows the CRC32C alone; that of a file which ends with its
  own, as many of a checkpoint do, is the same for all such files.
  """
  import fsspec

  store, root = fsspec.url_to_fs(os.fspath(directory))
  found = store.find(root, detail=True)
  return {
    name.removeprefix(f"{root}/"): about.get("md5Hash") or about["crc32c"]
    for name, about in found.items()
  }


def copy_into(source: pathlib.Path, target: Path) -> None:
  """Copies the files under a folder of this machine to a bucket.

  They replace objects of the same names there. Each appears whole or not at all, and what says that
  a folder is a model comes last.
  """
  import fsspec

  store, root = fsspec.url_to_fs(os.fspath(target))
  found = [file for file in source.rglob("*") if file.is_file()]
  for file in sorted(found, key=lambda file: (file.name in _LAST, file)):
    # Not by a file that is open for writing: closed by an error, that keeps what was sent so far.
    store.put_file(str(file), f"{root}/{file.relative_to(source).as_posix()}")


@contextlib.contextmanager
def local_copy(directory: Path) -> Iterator[pathlib.Path]:
  """A folder to write files into that are in `directory` at the end: itself, if it is a file's."""
  if not in_bucket(directory):
    directory.mkdir(parents=True, exist_ok=True)
    yield directory
    return
  with tempfile.TemporaryDirectory() as made:
    yield pathlib.Path(made)
    copy_into(pathlib.Path(made), directory)


@contextlib.contextmanager
def local_files(directory: Path, suffixes: Container[str]) -> Iterator[pathlib.Path]:
  """A folder with the files (not the folders) in `directory`, to read: itself, if it is a file's.

  Of a bucket it is a copy, which lasts as long as this, of the files with some suffixes.
  """
  if not in_bucket(directory):
    yield directory
    return
  import fsspec

  store, root = fsspec.url_to_fs(os.fspath(directory))
  with tempfile.TemporaryDirectory() as made:
    for file in directory.iterdir():
      if file.suffix in suffixes and file.is_file():
        store.get_file(f"{root}/{file.name}", str(pathlib.Path(made) / file.name))
    yield pathlib.Path(made)
