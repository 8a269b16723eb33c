# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Any users from a JSONL file, as a TFDS set that trains like the file itself."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from fspo_jax import jsonl as jsonl_lib
from fspo_jax import preferences
from fspo_jax.datasets import user_set_builder


class Builder(user_set_builder.UserSetBuilder):
  """A set made of a JSONL file: see `fspo_jax.jsonl.read_jsonl` for its lines."""

  def __init__(
    self,
    *,
    jsonl: str | os.PathLike[str] | None = None,
    unseen_users: float = 0.1,
    unseen_prompts: float = 0.1,
    seed: int = 0,
    set_bad_lines_aside: bool = False,
    **kwargs: Any,
  ) -> None:
    """Makes a builder; nothing is read yet.

    Args:
      jsonl: the file, plain or gzip; None to open a set that is there.
      unseen_users: the share of users never trained on.
      unseen_prompts: the share of prompts never trained on.
      seed: of who and what is held out; with these shares, splits are those of
        `preferences.split`.
      set_bad_lines_aside: set lines that cannot be used aside, and count them, instead of refusing
        the file.
      **kwargs: of `tfds.core.DatasetBuilder`: `data_dir`.
    """
    self._jsonl = jsonl
    self._shares = {"unseen_users": unseen_users, "unseen_prompts": unseen_prompts}
    self._seed = seed
    self._set_bad_lines_aside = set_bad_lines_aside
    super().__init__(**kwargs)

  def made_of(self) -> dict[str, Any]:
    """All that the set depends on; reads the file. ValueError without one."""
    if self._jsonl is None:
      raise ValueError("own_users: found jsonl=None, expected the JSONL file to make the set of")
    with open(self._jsonl, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
      "sha256": digest,
      "seed": self._seed,
      **self._shares,
      "set_bad_lines_aside": self._set_bad_lines_aside,
    }

  def _contents(self, dl_manager: tfds.download.DownloadManager) -> user_set_builder.Contents:
    del dl_manager  # Nothing is downloaded.
    made_of = self.made_of()
    if self._set_bad_lines_aside:
      read = jsonl_lib.read_jsonl_leniently(self._jsonl, min_prompts=preferences.MIN_PROMPTS)
      users, set_aside = read.users, read.set_aside
    else:
      users, set_aside = jsonl_lib.read_jsonl(self._jsonl, min_prompts=preferences.MIN_PROMPTS), {}
    splits = preferences.split(users, **self._shares, seed=self._seed)
    splits = dataclasses.replace(splits, set_aside=splits.set_aside | dict(set_aside))
    return user_set_builder.Contents(splits, made_of)


def build(
  jsonl: str | os.PathLike[str], data_dir: str | os.PathLike[str], **settings: Any
) -> pathlib.Path:
  """Stores the users of a JSONL file as a set, unless it is there already.

  Args:
    jsonl: the file.
    data_dir: the set goes to its `own_users/1.0.0`.
    **settings: the other arguments of `Builder`.

  Returns:
    The set's folder, for `user_sets.load`.

  Raises:
    PreferenceError: naming file and line of what is wrong, as `read_jsonl`; or if a set is there
      that is made of another file or with other settings.
    OSError: if the file cannot be read.
  """
  builder = Builder(jsonl=jsonl, data_dir=data_dir, **settings)
  return user_set_builder.prepare(builder, builder.made_of())
