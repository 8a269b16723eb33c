# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the users of published files as a TFDS data set, split by user and by prompt."""

from __future__ import annotations

import abc
import collections
from collections.abc import Mapping, Sequence
import hashlib
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from fspo_jax import preferences
from fspo_jax.datasets import user_set_builder
from fspo_jax.preferences import MIN_PROMPTS, Preference, User, held_out


class SourceSetBuilder(user_set_builder.UserSetBuilder):
  """Base of the builders of published sets: a subclass reads users from the manual folder.

  Some users and some prompts are never trained on, whatever splits the files are named after; who
  and which is a function of (seed, names) alone.
  """

  def __init__(
    self,
    *,
    folder: str | os.PathLike[str] | None = None,
    unseen_users: float | None = 0.1,
    unseen_prompts: float | None = 0.1,
    seed: int = 0,
    **kwargs: Any,
  ) -> None:
    """Makes a builder; nothing is read yet.

    Args:
      folder: with the published files; None for the manual folder of TFDS.
      unseen_users: the share of users never trained on, at least one; None for those that the set
        itself tells apart.
      unseen_prompts: the share of prompts never trained on; None for all prompts of unseen users,
        which is for sets where people write their own.
      seed: of who and what is held out.
      **kwargs: of `tfds.core.DatasetBuilder`: `data_dir`.
    """
    super().__init__(**kwargs)
    self._folder = folder
    self._shares = {"unseen_users": unseen_users, "unseen_prompts": unseen_prompts}
    for name, share in self._shares.items():
      if share is not None and not 0 < share < 1:
        raise ValueError(f"{name}: found {share}, expected a share between 0 and 1")
    self._seed = seed

  @abc.abstractmethod
  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that are read; FileNotFoundError, saying where to get them."""

  @abc.abstractmethod
  def _read(self, folder: pathlib.Path) -> tuple[list[User], collections.Counter[str]]:
    """The users in a folder, and what was set aside, by reason."""

  def made_of(self, folder: pathlib.Path) -> dict[str, Any]:
    """All that the set depends on, the SHA-256 of every file that is read among it."""
    digests = {}
    for path in self._files(folder):
      with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
      digests[path.relative_to(folder).as_posix()] = digest
    return self._shares | {"seed": self._seed, "sha256": digests}

  def _unseen(self, users: Sequence[User]) -> set[str]:
    """The ids of the users who are never trained on: a quota, for some sets have five users."""
    share = self._shares["unseen_users"]
    if share is None:
      raise ValueError(f"unseen_users: found None, expected a share: {self.name} tells none apart")

    def position(user: User) -> float:
      return preferences.position("user", user.user_id, seed=self._seed)

    return {u.user_id for u in sorted(users, key=position)[: max(1, round(len(users) * share))]}

  def _contents(self, dl_manager: tfds.download.DownloadManager) -> user_set_builder.Contents:
    folder = pathlib.Path(self._folder or dl_manager.manual_dir)
    users, set_aside = self._read(folder)
    ids = self._unseen(users)
    unseen = [user for user in users if user.user_id in ids]
    share = self._shares["unseen_prompts"]
    prompts = {p.prompt for user in (unseen if share is None else users) for p in user.preferences}
    if share is not None:
      prompts = {p for p in prompts if held_out("prompt", p, share=share, seed=self._seed)}
    splits = preferences.assemble(
      [user for user in users if user.user_id not in ids],
      unseen,
      query_prompts=prompts,
      set_aside=dict(set_aside),
    )
    return user_set_builder.Contents(splits, self.made_of(folder))


def build(
  builder: type[SourceSetBuilder],
  folder: str | os.PathLike[str],
  data_dir: str | os.PathLike[str],
  **settings: Any,
) -> pathlib.Path:
  """Stores a published set, unless it is there already.

  Args:
    builder: of the set.
    folder: with the published files.
    data_dir: the set goes to its `<name>/1.0.0`.
    **settings: the other arguments of the builder.

  Returns:
    The set's folder, for `user_sets.load`.

  Raises:
    FileNotFoundError: if there are no such files, saying where to get them.
    PreferenceError: naming file, line or row, and column of what is wrong; or if a set is there
      that is made of other files or with other settings.
  """
  made = builder(folder=folder, data_dir=data_dir, **settings)
  return user_set_builder.prepare(made, made.made_of(pathlib.Path(folder)))


def user_of(
  user_id: str,
  usable: Mapping[Preference, None],
  description: str | None,
  set_aside: collections.Counter[str],
) -> User | None:
  """The user, or None, and counted, if an episode needs more prompts than the user has."""
  if len({preference.prompt for preference in usable}) >= MIN_PROMPTS:
    return User(user_id, tuple(usable), description)
  set_aside["users: fewer than two prompts"] += 1
  set_aside["preferences: of users with fewer than two prompts"] += len(usable)
  return None
