# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preferences and users, the records that everything else is made of, and how they are split."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json

# An episode needs a query and at least one shot whose prompt is not the query's.
MIN_PROMPTS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Preference:
  """One labelled pair: of two responses to `prompt`, the user prefers `chosen`."""

  prompt: str
  chosen: str
  rejected: str

  def swapped(self) -> Preference:
    """The pair, labelled the other way."""
    return Preference(self.prompt, self.rejected, self.chosen)


@dataclasses.dataclass(frozen=True, slots=True)
class User:
  """A user: their preferences and, where it is known, the gold description.

  The preferences are a tuple, or where they are read from a disk, what is equal to one.
  """

  user_id: str
  preferences: Sequence[Preference]
  description: str | None = None


class PreferenceError(ValueError):
  """Preferences that cannot be used: where, what was found, what was expected."""


@dataclasses.dataclass(frozen=True)
class Splits:
  """Users to train on and users to evaluate on, split by user *and* by prompt.

  Attributes:
    train: the training users, with none but their preferences on training prompts.
    evaluation: users to evaluate on, by the name of the group, with all their preferences. The
      group 'unseen' holds users never trained on.
    query_prompts: the prompts that evaluation queries may be about; training has none of them.
      Shots may come from any other prompt than the query's.
    set_aside: what is in none of the groups and why: reason ('preferences: ...', 'users: ...')
      to count. Nothing is dropped in silence.

  Raises:
    PreferenceError: if any of this does not hold, a group has two users with one id, or an
      evaluation user has no episode (a query on a query prompt, and a shot on another prompt).
  """

  train: Sequence[User]
  evaluation: Mapping[str, Sequence[User]]
  query_prompts: frozenset[str]
  set_aside: dict[str, int]

  def __post_init__(self) -> None:
    # One pass over each group, and no user kept: they may be read from a disk as they are needed.
    trained: set[str] = set()
    for user in _each_once(self.train, trained):
      if asked := _prompts(user) & self.query_prompts:
        raise PreferenceError(
          f"train, user {_show(user.user_id)}: found a preference on the query prompt "
          f"{_show(min(asked))}, expected training prompts only"
        )
    for name, users in self.evaluation.items():
      for user in _each_once(users, set()):
        place = f"evaluation {name!r}, user {_show(user.user_id)}"
        if name == "unseen" and user.user_id in trained:
          raise PreferenceError(f"{place}: found in train too, expected users never trained on")
        if not _has_episode(user, self.query_prompts):
          raise PreferenceError(
            f"{place}: found no query prompt with another prompt beside it, expected a query and "
            "a shot"
          )

  def queries(self, group: str) -> list[tuple[str, Preference]]:
    """All (user_id, preference) of an evaluation group that may be asked as queries, in order."""
    return [
      (user.user_id, preference)
      for user in self.evaluation[group]
      for preference in user.preferences
      if preference.prompt in self.query_prompts
    ]


def split(
  users: Iterable[User], *, unseen_users: float, unseen_prompts: float, seed: int
) -> Splits:
  """Splits users by user and by prompt: train x train, and unseen users' queries on unseen prompts.

  Which side a user or a prompt falls on depends on (seed, user_id) or (seed, prompt) alone, so
  more users never move the others.

  Args:
    users: the users, one an id.
    unseen_users: the share of users never trained on, in (0, 1); a probability, not a quota.
    unseen_prompts: the share of prompts never trained on, in (0, 1).
    seed: any integer.

  Returns:
    The splits, with one evaluation group: 'unseen'.

  Raises:
    ValueError: if a share is not in (0, 1).
    PreferenceError: if nobody is left on one of the sides, or two users have one id.
  """
  for name, share in (("unseen_users", unseen_users), ("unseen_prompts", unseen_prompts)):
    if not 0 < share < 1:
      raise ValueError(f"{name}: found {share}, expected a share between 0 and 1")
  users = list(users)
  prompts = set().union(*map(_prompts, users))
  unseen = {u.user_id for u in users if held_out("user", u.user_id, share=unseen_users, seed=seed)}
  return assemble(
    [user for user in users if user.user_id not in unseen],
    [user for user in users if user.user_id in unseen],
    query_prompts={p for p in prompts if held_out("prompt", p, share=unseen_prompts, seed=seed)},
    set_aside={},
  )


def assemble(
  train: Iterable[User],
  unseen: Iterable[User],
  *,
  query_prompts: Iterable[str],
  set_aside: dict[str, int],
) -> Splits:
  """Makes Splits of a given split: sets aside, and counts, what must not or cannot be used.

  Args:
    train: the users to train on; their preferences on query prompts are set aside.
    unseen: the users never to train on.
    query_prompts: the prompts never to train on.
    set_aside: what the caller has set aside, by reason; added to, in the result only.

  Returns:
    The splits, with the one evaluation group 'unseen'.

  Raises:
    PreferenceError: if nobody is left on one of the sides, or two users have one id.
  """
  query_prompts = frozenset(query_prompts)
  counts = collections.Counter(set_aside)
  training: list[User] = []
  for user in train:
    kept = tuple(p for p in user.preferences if p.prompt not in query_prompts)
    counts["preferences: of training users on unseen prompts"] += len(user.preferences) - len(kept)
    user = dataclasses.replace(user, preferences=kept)
    if len(_prompts(user)) >= MIN_PROMPTS:
      training.append(user)
    else:
      counts["users: training users with fewer than two training prompts"] += 1
      counts["preferences: of training users with fewer than two training prompts"] += len(kept)
  evaluated: list[User] = []
  for user in unseen:
    if _has_episode(user, query_prompts):
      evaluated.append(user)
    else:
      counts["users: unseen users without a query and a shot"] += 1
      counts["preferences: of unseen users without a query and a shot"] += len(user.preferences)
  set_aside = {reason: count for reason, count in counts.items() if count}
  for side, found in (("training", training), ("unseen", evaluated)):
    if not found:
      raise PreferenceError(
        f"found no {side} user left, expected one or more; set aside: {set_aside}"
      )
  return Splits(tuple(training), {"unseen": tuple(evaluated)}, query_prompts, set_aside)


def held_out(kind: str, name: str, *, share: float, seed: int) -> bool:
  """Whether `name` is among the held-out `share` of its `kind`; a pure function of all four.

  The same on every machine (see `position`); a larger share holds out a superset.
  """
  return position(kind, name, seed=seed) < share


def position(kind: str, name: str, *, seed: int) -> float:
  """A number in [0, 1), uniform over the names of a `kind`; a pure function of all three.

  The same on every machine: SHA-256, not Python's salted hash.
  """
  digest = hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).digest()
  return int.from_bytes(digest[:6]) / 2**48


def _each_once(users: Iterable[User], seen: set[str]) -> Iterator[User]:
  """Yields the users, adding their ids to `seen`; PreferenceError at the second of an id."""
  for user in users:
    if user.user_id in seen:
      raise PreferenceError(f"found several users {_show(user.user_id)}, expected one an id")
    seen.add(user.user_id)
    yield user


def _prompts(user: User) -> set[str]:
  return {preference.prompt for preference in user.preferences}


def _has_episode(user: User, query_prompts: frozenset[str]) -> bool:
  prompts = _prompts(user)
  return len(prompts) >= MIN_PROMPTS and not prompts.isdisjoint(query_prompts)


def _show(value: object) -> str:
  text = json.dumps(value, ensure_ascii=True)
  return text if len(text) <= 60 else text[:57] + "..."
