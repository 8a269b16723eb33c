# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layouts: which branches the token tree of an episode has."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which branches an episode's tree carries: a method is a layout and a loss.

  Attributes:
    shot_pairs: score every shot's pair, given the shots before it.
    rejected: whether rejected responses are scored too; False for likelihood objectives, which
      read the chosen ones alone (a shot's rejected response stays on the trunk in any case).
    query_shots: the numbers of shots k after which the queries hang.
    description_shots: the numbers of shots k after which the description hangs.
    description_queries: after which of these numbers the queries hang under the description too.
    description_pairs: compare two sampled descriptions, after the shots that they were sampled
      after, as RAT trains its descriptions (arXiv 2502.19312); episodes need a `described` pair.
    description_pair_queries: the queries hang under the one that the policy would keep as well (see
      `DescriptionPair`), so that it learns how far such are to be trusted beside the shots.
    rewards: score each response under what opens its own reward, for Rewards-in-Context: see
      `_Builder.rewarded`. Both are texts to imitate, and there are no pairs of them.
  """

  shot_pairs: bool = False
  rejected: bool = True
  query_shots: tuple[int, ...] = ()
  description_shots: tuple[int, ...] = ()
  description_queries: tuple[int, ...] = ()
  description_pairs: bool = False
  description_pair_queries: bool = False
  rewards: bool = False

  def __post_init__(self) -> None:
    extra = set(self.description_queries) - set(self.description_shots)
    if extra:
      raise ValueError(
        f"description_queries has {sorted(extra)}, which description_shots="
        f"{self.description_shots} has not: there is no description to ask under"
      )
    if self.description_pair_queries and not self.description_pairs:
      raise ValueError(
        "description_pair_queries=True with description_pairs=False: there is no pair to ask "
        "under; expected description_pairs=True"
      )
    if self.rewards and not self.rejected:
      raise ValueError(
        "rewards=True with rejected=False: found rejected responses left out, expected "
        "rejected=True, for each response is learned under its own reward"
      )

  def max_segments(self, shots: int, queries: int) -> int:
    """How many scored segments an episode of this layout has at most."""
    responses = 2 if self.rejected else 1
    described = len(self.description_shots) + 2 * self.description_pairs
    return responses * self._questions(shots, queries) + described

  def max_pairs(self, shots: int, queries: int) -> int:
    """How many pairs an episode of this layout has at most."""
    compared = self.rejected and not self.rewards
    return compared * self._questions(shots, queries) + self.description_pairs

  def _questions(self, shots: int, queries: int) -> int:
    """How many questions have scored responses."""
    queried = len(self.query_shots) + len(self.description_queries) + self.description_pair_queries
    return shots * self.shot_pairs + queries * queried
