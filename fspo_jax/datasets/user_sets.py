# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads sets of users (see `user_set_builder`) from ArrayRecord: any user, in constant memory.

A user's preferences are decoded when they are looked at: an episode of nine out of two hundred
costs nine. The sets are plain TFDS sets too: `tfds.builder_from_directory(path).as_data_source()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
import operator
import os
import pathlib
from typing import Any, overload

from array_record.python.array_record_data_source import ArrayRecordDataSource
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from fspo_jax.preferences import Preference, PreferenceError, Splits, User

TRAIN = "train"
_METADATA_FILE = "metadata.json"


def features() -> tfds.features.FeaturesDict:
  """The features of a record, which is a user: those of `preferences.User`, and `query`.

  `description` is empty where it is unknown; `query` marks preferences on prompts that evaluation
  queries may be about, which are never trained on.
  """
  preference = {name: tfds.features.Text() for name in ("prompt", "chosen", "rejected")}
  return tfds.features.FeaturesDict(
    {
      "user_id": tfds.features.Text(),
      "description": tfds.features.Text(),
      "preferences": tfds.features.Sequence(preference | {"query": np.bool_}),
    }
  )


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of a set beside its users.

  Attributes:
    made_of: what it was made of: settings, seed, SHA-256 of the source.
    users_of: the number of users, by split.
    preferences_of: the number of their preferences, by split.
    set_aside: what is in none of the splits, by reason.
  """

  made_of: dict[str, Any]
  users_of: dict[str, int]
  preferences_of: dict[str, int]
  set_aside: dict[str, int]

  @property
  def users(self) -> int:
    """The number of users in all splits."""
    return sum(self.users_of.values())

  @property
  def preferences(self) -> int:
    """The number of preferences in all splits."""
    return sum(self.preferences_of.values())


class UserSet(Sequence[User]):
  """One split of a set: reads user i from the disk whenever it is asked for.

  Equal to the users that were written. May be pickled (the path is) and read by several threads.
  """

  def __init__(self, path: str | os.PathLike[str], split: str) -> None:
    """Opens a split.

    Args:
      path: the set's folder, with its version: `.../own_users/1.0.0`.
      split: 'train' or the name of an evaluation group.

    Raises:
      PreferenceError: if there is no such set, or no such split in it.
    """
    self.path, self.split = pathlib.Path(path), split
    splits = _info(self.path).splits
    if split not in splits:
      raise PreferenceError(f"{path}: found the splits {', '.join(splits)}, expected {split!r}")
    self._records = ArrayRecordDataSource(splits[split].file_instructions)

  def __len__(self) -> int:
    return len(self._records)

  @overload
  def __getitem__(self, index: int) -> User: ...
  @overload
  def __getitem__(self, index: slice) -> Sequence[User]: ...
  def __getitem__(self, index: int | slice) -> User | Sequence[User]:
    # A range knows about slices, negative indices and the end.
    found = range(len(self))[index]
    return [self._read(i) for i in found] if isinstance(found, range) else self._read(found)

  def __iter__(self) -> Iterator[User]:
    return map(self._read, range(len(self)))

  def __repr__(self) -> str:
    return f"UserSet({os.fspath(self.path)!r}, {self.split!r})"

  def _read(self, index: int) -> User:
    return _user(self._columns(index))

  def _columns(self, index: int) -> Any:
    """The columns of a record: name to `tf.train.Feature`."""
    try:
      record = self._records[index]
      columns = tf_example_pb2.Example.FromString(record).features.feature
    except Exception as error:  # ArrayRecord and protobuf have no common base of their errors.
      raise self._broken(index, repr(error)) from error
    # Past the end of a file that is cut off, ArrayRecord gives records of no bytes.
    if not record:
      raise self._broken(index, "no record")
    return columns

  def _broken(self, index: int, found: str) -> PreferenceError:
    return PreferenceError(
      f"{self.path}, split {self.split!r}, user {index}: found {found}, expected a record; a file "
      "of the set is missing or damaged: make or copy the set again"
    )

  def query_prompts(self) -> set[str]:
    """The prompts of the split that queries may be about."""
    found = set()
    for index in range(len(self)):
      columns = self._columns(index)
      queries = columns["preferences/query"].int64_list.value
      marked = zip(columns["preferences/prompt"].bytes_list.value, queries, strict=True)
      found.update(prompt for prompt, query in marked if query)
    return {prompt.decode() for prompt in found}


def load(path: str | os.PathLike[str]) -> Splits:
  """Opens a prepared set.

  Args:
    path: the set's folder, with its version: `.../own_users/1.0.0`.

  Returns:
    The splits that were written. The groups are `UserSet`s; `query_prompts` has those that some
    evaluation user has a preference on.

  Raises:
    PreferenceError: if there is no such set, it has other features, or its users break what
      `Splits` promises.
  """
  groups = {name: UserSet(path, name) for name in _info(pathlib.Path(path)).splits}
  train = groups.pop(TRAIN, None)
  if train is None:
    raise PreferenceError(f"{path}: found the splits {', '.join(groups)}, expected {TRAIN!r} too")
  query_prompts = frozenset().union(*(users.query_prompts() for users in groups.values()))
  return Splits(train, groups, query_prompts, facts(path).set_aside)


def facts(path: str | os.PathLike[str]) -> Facts:
  """What is known of a prepared set.

  Raises:
    PreferenceError: if there is no such set.
  """
  file = pathlib.Path(path) / _METADATA_FILE
  try:
    return Facts(**json.loads(file.read_text(encoding="utf-8")))
  except (OSError, ValueError, TypeError) as error:
    raise PreferenceError(f"{file}: found {error}, expected the metadata of a set") from error


class _Preferences(Sequence[Preference]):
  """A user's preferences as they are stored, in columns; made into `Preference` when touched."""

  __slots__ = ("_columns",)

  def __init__(self, columns: Any) -> None:
    self._columns = tuple(
      columns[f"preferences/{name}"].bytes_list.value for name in ("prompt", "chosen", "rejected")
    )

  def __len__(self) -> int:
    return len(self._columns[0])

  @overload
  def __getitem__(self, index: int) -> Preference: ...
  @overload
  def __getitem__(self, index: slice) -> Sequence[Preference]: ...
  def __getitem__(self, index: int | slice) -> Preference | Sequence[Preference]:
    if isinstance(index, slice):
      return tuple(self)[index]
    index = operator.index(index)
    prompts, chosen, rejected = self._columns
    return Preference(prompts[index].decode(), chosen[index].decode(), rejected[index].decode())

  def __iter__(self) -> Iterator[Preference]:
    for texts in zip(*self._columns, strict=True):
      yield Preference(*map(bytes.decode, texts))

  def __eq__(self, other: object) -> bool:
    return isinstance(other, tuple | _Preferences) and tuple(self) == tuple(other)

  def __hash__(self) -> int:
    return hash(tuple(self))

  def __repr__(self) -> str:
    return repr(tuple(self))

  def __reduce__(self) -> tuple[type[tuple], tuple[tuple[Preference, ...]]]:
    return tuple, (tuple(self),)


def _info(path: pathlib.Path) -> tfds.core.DatasetInfo:
  """What TFDS knows of a set; PreferenceError if it is none of ours."""
  try:
    info = tfds.builder_from_directory(path).info
  except Exception as error:  # TFDS has no common base of its errors.
    raise PreferenceError(
      f"{path}: found no TFDS set ({error}), expected its folder with the version, "
      "like DIR/own_users/1.0.0"
    ) from error
  if info.features.get_serialized_info() != features().get_serialized_info():
    raise PreferenceError(f"{path}: found {info.features}, expected {features()}")
  return info


def _user(columns: Any) -> User:
  user_id, description = (
    columns[name].bytes_list.value[0].decode() for name in ("user_id", "description")
  )
  return User(user_id, _Preferences(columns), description or None)
