# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Generated users as a TFDS set, a config for each domain, the quality card beside the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import hashlib
import json
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from fspo_jax import preferences
from fspo_jax.datasets import user_set_builder


class Builder(user_set_builder.UserSetBuilder):
  """A set of generated users; `build` makes one."""

  def __init__(self, *, contents: user_set_builder.Contents | None = None, **kwargs: Any) -> None:
    """Makes a builder.

    Args:
      contents: what the set is to hold; None to open a set that is there.
      **kwargs: of `tfds.core.DatasetBuilder`: `data_dir` and `config`, the domain.
    """
    self._given = contents
    super().__init__(**kwargs)

  def _contents(self, dl_manager: tfds.download.DownloadManager) -> user_set_builder.Contents:
    del dl_manager  # Nothing is downloaded.
    if self._given is None:
      raise ValueError("synthetic: found contents=None, expected what the set is to hold")
    return self._given


def set_path(data_dir: str | os.PathLike[str], name: str) -> pathlib.Path:
  """Where `build` puts the set of a domain."""
  return pathlib.Path(data_dir) / Builder.name / name / str(Builder.VERSION)


def build(
  data_dir: str | os.PathLike[str],
  name: str,
  users: Iterable[tuple[str, preferences.User]],
  *,
  query_prompts: Iterable[str],
  set_aside: Mapping[str, int],
  made_of: Mapping[str, Any],
  files: Mapping[str, bytes],
) -> pathlib.Path:
  """Stores generated users as a set, unless it is there already.

  All users are in memory at once: where they share the strings of a bank of questions and
  responses, a million preferences take some 0.1 GB.

  Args:
    data_dir: the set goes to `set_path(data_dir, name)`.
    name: of the domain, the set's TFDS config.
    users: ('train' or 'unseen', user), in order.
    query_prompts: the prompts never to train on; see `preferences.assemble`.
    set_aside: what was set aside before, by reason.
    made_of: settings and seed, as JSON has them; kept in the set's metadata.
    files: to be kept beside the data, by name: the quality card.

  Returns:
    The set's folder, for `user_sets.load`.

  Raises:
    PreferenceError: if nobody is left on one of the sides, or a set is there that is made of
      something else.
    ValueError: if a user is of another split.
  """
  groups: dict[str, list[preferences.User]] = {"train": [], "unseen": []}
  for split, user in users:
    if split not in groups:
      raise ValueError(f"user {user.user_id!r}: found split {split!r}, expected one of {[*groups]}")
    groups[split].append(user)
  splits = preferences.assemble(**groups, query_prompts=query_prompts, set_aside=dict(set_aside))
  made_of = {**made_of, "sha256": _sha256(splits)}
  builder = Builder(
    contents=user_set_builder.Contents(splits, made_of, files),
    data_dir=data_dir,
    config=tfds.core.BuilderConfig(name=name, description=f"Synthetic users: {name}."),
  )
  return user_set_builder.prepare(builder, made_of)


def _sha256(splits: preferences.Splits) -> str:
  """Of all that is stored."""
  digest = hashlib.sha256(json.dumps(sorted(splits.query_prompts)).encode())
  for group in (splits.train, *splits.evaluation.values()):
    for user in group:
      texts = [[p.prompt, p.chosen, p.rejected] for p in user.preferences]
      digest.update(json.dumps([user.user_id, user.description, texts]).encode())
    digest.update(b"\n")
  return digest.hexdigest()
