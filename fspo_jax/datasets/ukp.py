# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""UKPConvArg1: which of two arguments real people find more convincing.

Habernal and Gurevych, ACL 2016 (github.com/UKPLab/acl2016-convincing-arguments, CC-BY-4.0): pairs
of arguments on the same side of a debate, each judged by a few pseudonymous crowd workers. A
worker is a user, a side of a debate (a topic) is a prompt. Signal that is a worker's own is small,
so results stand beside `baselines`. Some debates are on sensitive subjects.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
from typing import Literal

from fspo_jax import jsonl, preferences

PREFERENCES_FILE = "ukp_prefs_ids.jsonl.gz"
ARGUMENTS_FILE = "ukp_args.jsonl.gz"

_ARGUMENT_KEYS = ("arg_id", "title", "stance", "text")
_VALUES = {
  "split": ("train", "val", "test"),
  "topic_split": ("train", "test"),
  "winner": ("a", "b", "tie"),
  "majority": ("a", "b", "tie", None),
}
_HOW_TO_GET = (
  "make it from the judgements of github.com/UKPLab/acl2016-convincing-arguments (CC-BY-4.0): "
  f"{PREFERENCES_FILE} with user_id, split, topic_split, winner, majority, a, b a line; "
  f"{ARGUMENTS_FILE} with {', '.join(_ARGUMENT_KEYS)}"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Majority:
  """Whether the crowd is of the user's opinion on a preference; None where it is undecided.

  Attributes:
    label: by the majority label of the data set, in which the user's own vote counts too.
    others: by a plain majority of the other workers' votes for one of the two.
  """

  label: bool | None
  others: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Baseline:
  """How often a rule that knows nothing of the user is right, an undecided case half.

  Attributes:
    accuracy: over all preferences.
    by_user: the mean of the users' accuracies: a few workers judged far more than the others.
    decided: the share of preferences on which the rule has an opinion.
    decided_accuracy: the accuracy on these.
    scores: 1, 0 or, undecided, 0.5 for each preference.
  """

  accuracy: float
  by_user: float
  decided: float
  decided_accuracy: float
  scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Judgement:
  """One line of the file; `preference` is None for a tie or two equal texts."""

  user_id: str
  worker_split: str
  topic_split: str
  prompt: str
  pair: tuple[str, str]
  winner: str
  majority: str | None
  preference: preferences.Preference | None


def load(
  path: str | os.PathLike[str],
  *,
  min_preferences: int = 20,
  max_words: int = 110,
  workers: Literal["test", "val"] = "test",
  shot_topics: Literal["any", "unseen"] = "any",
) -> preferences.Splits:
  """Reads the data set with its own split: train workers x train topics, and unseen workers.

  Queries are on test topics only, whose debates were never trained on. Shots are on any other
  topic than the query's: a worker has at most four test topics, so that shots from these alone
  leave few workers. With shots on training topics their arguments were trained on, as judged by
  other workers, and the label of this worker was not. Where a worker judged a pair twice, with
  different winners, both are kept: that is how sure they were.

  Args:
    path: the folder with the two files.
    min_preferences: workers with fewer usable preferences, over all topics, are set aside.
    max_words: preferences with a text of more words are set aside, never cut; no argument has
      more than 110.
    workers: which workers are the unseen users: 'test', or 'val' to choose settings with.
    shot_topics: 'any' topic for the shots of unseen users, or 'unseen' ones only.

  Returns:
    Splits with the evaluation group 'unseen'. The 'preferences: ...' of `set_aside`, and the
    preferences in the groups, add up to the lines of the file.

  Raises:
    FileNotFoundError: if the folder or a file is absent, saying where to get it.
    ValueError: if an argument is not one of those above.
    preferences.PreferenceError: naming file and line of what is wrong with the files; or if
      nobody is left.
  """
  for name, value, known in (
    ("workers", workers, ("test", "val")),
    ("shot_topics", shot_topics, ("any", "unseen")),
  ):
    if value not in known:
      raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(known)}")
  judgements = _read(pathlib.Path(path))
  set_aside = collections.Counter()
  found: dict[str, dict[str, dict[preferences.Preference, None]]] = {
    "train": collections.defaultdict(dict),
    workers: collections.defaultdict(dict),
  }
  for judgement in judgements:
    if judgement.worker_split not in found:
      reason = f"of {judgement.worker_split} workers"
    elif judgement.winner == "tie":
      reason = "ties"
    elif judgement.preference is None:
      reason = "two equal arguments"
    elif max(map(_words, dataclasses.astuple(judgement.preference))) > max_words:
      reason = f"a text of more than {max_words} words"
    elif judgement.preference in found[judgement.worker_split][judgement.user_id]:
      reason = "judged before by the same worker"
    else:
      found[judgement.worker_split][judgement.user_id][judgement.preference] = None
      continue
    set_aside[f"preferences: {reason}"] += 1
  query_prompts = {j.prompt for j in judgements if j.topic_split == "test"}
  groups: dict[str, list[preferences.User]] = {"train": [], workers: []}
  for split, users in found.items():
    for user_id, own in users.items():
      if len(own) < min_preferences:
        set_aside[f"users: with fewer than {min_preferences} preferences"] += 1
        set_aside[f"preferences: of users with fewer than {min_preferences}"] += len(own)
        continue
      kept = tuple(own)
      if split == workers and shot_topics == "unseen":
        kept = tuple(p for p in own if p.prompt in query_prompts)
        set_aside["preferences: of unseen users on training topics"] += len(own) - len(kept)
      groups[split].append(preferences.User(user_id, kept))
  return preferences.assemble(
    groups["train"], groups[workers], query_prompts=query_prompts, set_aside=set_aside
  )


def majorities(
  path: str | os.PathLike[str],
) -> dict[tuple[str, preferences.Preference], Majority]:
  """Whether the crowd agrees with each (user_id, preference) of the data set, ties left out.

  Raises:
    FileNotFoundError, preferences.PreferenceError: as `load`.
  """
  judgements = _read(pathlib.Path(path))
  votes: dict[frozenset[str], list[tuple[str, str]]] = collections.defaultdict(list)
  for judgement in judgements:
    if judgement.winner != "tie":
      votes[frozenset(judgement.pair)].append((judgement.user_id, _winner(judgement)))
  found: dict[tuple[str, preferences.Preference], Majority] = {}
  for judgement in judgements:
    if judgement.preference is None:
      continue
    others = [arg for user, arg in votes[frozenset(judgement.pair)] if user != judgement.user_id]
    lead = 2 * others.count(_winner(judgement)) - len(others)
    found.setdefault(
      (judgement.user_id, judgement.preference),
      Majority(
        label=judgement.majority == judgement.winner if judgement.majority in ("a", "b") else None,
        others=lead > 0 if lead else None,
      ),
    )
  return found


def baselines(
  queries: Iterable[tuple[str, preferences.Preference]],
  majority: Mapping[tuple[str, preferences.Preference], Majority],
) -> dict[str, Baseline]:
  """What rules that know nothing of the user reach on the given preferences.

  Args:
    queries: (user_id, preference), for instance `splits.queries('unseen')`; one or more.
    majority: what `majorities` gives.

  Returns:
    'longer': the argument with more words is chosen. 'majority': the one the other workers chose,
    which no model can know of an unseen topic. 'majority_label': the data set's label; it counts
    the user's own vote, so it is too good.

  Raises:
    ValueError: if there is no query.
    KeyError: if `majority` lacks one.
  """
  queries = list(queries)
  if not queries:
    raise ValueError("queries: found none, expected one or more")
  known = [majority[query] for query in queries]
  lead = [_words(p.chosen) - _words(p.rejected) for _, p in queries]
  users = [user_id for user_id, _ in queries]
  return {
    "longer": _baseline(users, [words > 0 if words else None for words in lead]),
    "majority": _baseline(users, [m.others for m in known]),
    "majority_label": _baseline(users, [m.label for m in known]),
  }


def _baseline(users: list[str], right: list[bool | None]) -> Baseline:
  scores = [0.5 if is_right is None else float(is_right) for is_right in right]
  by_user: dict[str, list[float]] = collections.defaultdict(list)
  for user_id, score in zip(users, scores, strict=True):
    by_user[user_id].append(score)
  decided = [is_right for is_right in right if is_right is not None]
  return Baseline(
    accuracy=sum(scores) / len(scores),
    by_user=sum(sum(own) / len(own) for own in by_user.values()) / len(by_user),
    decided=len(decided) / len(right),
    decided_accuracy=sum(decided) / len(decided) if decided else float("nan"),
    scores=tuple(scores),
  )


def _words(text: str) -> int:
  return len(text.split())


def _winner(judgement: _Judgement) -> str:
  """The id of the winning argument."""
  return judgement.pair["ab".index(judgement.winner)]


def _read(folder: pathlib.Path) -> list[_Judgement]:
  absent = [name for name in (PREFERENCES_FILE, ARGUMENTS_FILE) if not (folder / name).is_file()]
  if absent:
    raise FileNotFoundError(f"{folder}: no {', '.join(absent)}; {_HOW_TO_GET}")
  arguments = _read_arguments(folder / ARGUMENTS_FILE)
  file = folder / PREFERENCES_FILE
  problems = jsonl.Problems(file)
  judgements = []
  first: dict[tuple[str, str], tuple[str, int]] = {}  # A worker's or a topic's split, and line.
  with jsonl.open_lines(file) as lines:
    for line, record in jsonl.json_objects(lines, problems):
      found = _what_is_wrong(record, arguments)
      if found:
        problems.add(line, *found)
        continue
      prompt, text_a = arguments[record["a"]]
      _, text_b = arguments[record["b"]]
      for kind, name, split in (
        ("worker", record["user_id"], record["split"]),
        ("topic", prompt, record["topic_split"]),
      ):
        known, earlier = first.setdefault((kind, name), (split, line))
        if known != split:
          problems.add(line, f"split {split!r} of a {kind}", f"{known!r} as on line {earlier}")
      preference = None
      if record["winner"] != "tie" and text_a.strip() != text_b.strip():
        texts = (text_a, text_b) if record["winner"] == "a" else (text_b, text_a)
        preference = preferences.Preference(prompt, *texts)
      judgements.append(
        _Judgement(
          record["user_id"],
          record["split"],
          record["topic_split"],
          prompt,
          (record["a"], record["b"]),
          record["winner"],
          record["majority"],
          preference,
        )
      )
  problems.check()
  return judgements


def _what_is_wrong(
  record: dict, arguments: Mapping[str, tuple[str, str]]
) -> tuple[str, str] | None:
  """The first thing wrong with a line of judgements, as (found, expected)."""
  missing = [key for key in ("user_id", "a", "b", *_VALUES) if key not in record]
  if missing:
    return f"no {', '.join(missing)}", "the keys user_id, a, b, " + ", ".join(_VALUES)
  if not isinstance(record["user_id"], str) or not record["user_id"]:
    return f"user_id {record['user_id']!r}", "a string"
  for key, known in _VALUES.items():
    if record[key] not in known:
      return f"{key} {record[key]!r}", f"one of {known}"
  for key in ("a", "b"):
    if not isinstance(record[key], str) or record[key] not in arguments:
      return f"{key} {record[key]!r}", f"an arg_id of {ARGUMENTS_FILE}"
  if arguments[record["a"]][0] != arguments[record["b"]][0]:
    return "arguments on two topics", "two with the same title and stance"
  return None


def _read_arguments(file: pathlib.Path) -> dict[str, tuple[str, str]]:
  """(prompt, text) by argument id."""
  problems = jsonl.Problems(file)
  arguments: dict[str, tuple[str, str]] = {}
  with jsonl.open_lines(file) as lines:
    for line, record in jsonl.json_objects(lines, problems):
      values = [record.get(key) for key in _ARGUMENT_KEYS]
      if not all(isinstance(value, str) and value.strip() for value in values):
        problems.add(line, f"{record!r:.60}", f"text for each of {', '.join(_ARGUMENT_KEYS)}")
        continue
      arg_id, title, stance, text = values
      if arg_id in arguments:
        problems.add(line, f"arg_id {arg_id!r} again", "each once")
      # The title is the debate, the stance the side that both arguments are on.
      prompt = f'{title} Argue convincingly for: "{stance}"'
      arguments[arg_id] = (prompt, text)
  problems.check()
  return arguments
