# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes sets of users as TFDS data sets in ArrayRecord, one record a user, without TensorFlow.

A builder of a set is a subclass of `UserSetBuilder` in a folder of its own, by the conventions of
TensorFlow Datasets: `<name>/<name>_dataset_builder.py` with a class `Builder`, and README.md,
CITATIONS.bib and TAGS.txt beside it. `user_sets.load` reads the set back.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from fspo_jax.datasets import user_sets
from fspo_jax.preferences import PreferenceError, Splits, User

# TFDS holds the users of one shard in memory; a reader keeps a file open for each shard.
_USERS_PER_SHARD = 256
_MAX_SHARDS = 64


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a set is to hold.

  Attributes:
    splits: the users; the TFDS splits are 'train' and the names of the evaluation groups.
    made_of: all that these depend on, as JSON has it: settings, seed, SHA-256 of the source.
    files: to be kept beside the data, by name.
  """

  splits: Splits
  made_of: Mapping[str, Any]
  files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


class UserSetBuilder(tfds.core.ShardBasedBuilder):
  """Base of the builders: a subclass says what the set holds, with `_contents`.

  Shards are written one after another: TFDS's own way, over a shuffler, keeps a split of up to
  1 GB in memory and needs TensorFlow for a larger one. Order is kept, of users and of preferences.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Initial release."}

  def __init__(self, *, file_format: str = "array_record", **kwargs: Any) -> None:
    super().__init__(file_format=file_format, **kwargs)

  @abc.abstractmethod
  def _contents(self, dl_manager: tfds.download.DownloadManager) -> Contents:
    """What the set holds. Called when it is to be written, once."""

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=user_sets.features(), metadata=tfds.core.MetadataDict(), disable_shuffling=True
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
    contents = self._contents(dl_manager)
    splits = contents.splits
    groups = {user_sets.TRAIN: splits.train, **splits.evaluation}
    facts = user_sets.Facts(
      made_of=dict(contents.made_of),
      users_of={name: len(users) for name, users in groups.items()},
      preferences_of={
        name: sum(len(user.preferences) for user in users) for name, users in groups.items()
      },
      set_aside=dict(splits.set_aside),
    )
    self.info.metadata.update(dataclasses.asdict(facts))
    # TFDS gives the folder its name when all is written, so these come with the data or not at all.
    for name, content in contents.files.items():
      (self.data_path / name).write_bytes(content)
    return {
      name: [
        functools.partial(_examples, users, splits.query_prompts, start, stop)
        for start, stop in itertools.pairwise(_bounds(len(users)))
      ]
      for name, users in groups.items()
    }


def prepare(builder: UserSetBuilder, made_of: Mapping[str, Any]) -> pathlib.Path:
  """Writes a set, whole or not at all, unless it is there already.

  Args:
    builder: of the set.
    made_of: what the set must be made of, as in its `Contents`.

  Returns:
    The set's folder, for `user_sets.load`.

  Raises:
    PreferenceError: if a set is there that is made of something else.
  """
  path = pathlib.Path(os.fspath(builder.data_path))
  if path.exists():
    found = user_sets.facts(path).made_of
    if found != made_of:
      names = sorted(n for n in {*found, *made_of} if found.get(n) != made_of.get(n))
      raise PreferenceError(
        f"{path}: found a set with "
        + ", ".join(f"{name}={found.get(name)!r}" for name in names)
        + ", expected "
        + ", ".join(f"{name}={made_of.get(name)!r}" for name in names)
        + ": remove its folder, or give another data_dir"
      )
    return path
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  return path


def _bounds(count: int) -> list[int]:
  shards = min(max(1, math.ceil(count / _USERS_PER_SHARD)), _MAX_SHARDS)
  return [count * i // shards for i in range(shards + 1)]


def _examples(
  users: Sequence[User], query_prompts: frozenset[str], start: int, stop: int
) -> Iterator[tuple[int, dict[str, Any]]]:
  for index in range(start, stop):
    user = users[index]
    yield (
      index,
      {
        "user_id": user.user_id,
        "description": user.description or "",
        "preferences": [
          {
            "prompt": p.prompt,
            "chosen": p.chosen,
            "rejected": p.rejected,
            "query": p.prompt in query_prompts,
          }
          for p in user.preferences
        ],
      },
    )
