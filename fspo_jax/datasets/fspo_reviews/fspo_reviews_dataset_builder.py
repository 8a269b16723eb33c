# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds the Reviews set of the paper, which `released` reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fspo_jax.datasets import released
from fspo_jax.preferences import User


class Builder(released.ReleasedSetBuilder):
  """Reviews as a TFDS data set."""

  SCHEMA = released.REVIEWS
  MANUAL_DOWNLOAD_INSTRUCTIONS = SCHEMA.how_to_get

  def __init__(self, *, unseen_users: float | None = None, **kwargs: Any) -> None:
    """As `SourceSetBuilder`; by default, the paper's interpolated users are never trained on."""
    super().__init__(unseen_users=unseen_users, **kwargs)

  def _unseen(self, users: Sequence[User]) -> set[str]:
    if self._shares["unseen_users"] is not None:
      return super()._unseen(users)
    # Those who join two of the trained users' tastes, as 'positive+concise'.
    return {user.user_id for user in users if "+" in user.user_id}
