# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""PRISM: scores that real people from 75 countries gave to the responses of 21 models.

Kirk et al. 2024 (arXiv 2404.16019). A participant writes an opening prompt and scores up to four
models' responses to it from 1 to 100; the conversation goes on with the best one's model, two
responses a turn. Scores of one turn become pairs here, and participants become users.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
import dataclasses
import itertools
import os
import pathlib
from typing import Any, Literal

from fspo_jax import jsonl
from fspo_jax.datasets import source_set_builder
from fspo_jax.preferences import Preference, User

UTTERANCES_FILE = "utterances.jsonl"
SURVEY_FILE = "survey.jsonl"
HOW_TO_GET = (
  f"download {UTTERANCES_FILE} and {SURVEY_FILE} of "
  "huggingface.co/datasets/HannahRoseKirk/prism-alignment into the folder (human-written texts are "
  "CC BY 4.0, model responses CC BY-NC 4.0 and under their models' own terms)"
)

_EMPTY = "EMPTY STRING"  # What the data set has in place of an empty response.
_TEXTS = ("user_id", "conversation_id", "user_prompt", "model_response")
_DESCRIPTIONS = ("self_description", "system_string")

Pairs = Literal["best_worst", "all"]
Turns = Literal["opening", "all"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Utterance:
  """A response to a prompt, and its score."""

  line: int
  user_id: str
  prompt: str
  response: str
  score: float
  went_on: bool


class Builder(source_set_builder.SourceSetBuilder):
  """PRISM as a TFDS data set."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = HOW_TO_GET

  def __init__(
    self,
    *,
    margin: float = 10,
    pairs: Pairs = "best_worst",
    turns: Turns = "opening",
    unseen_prompts: float | None = None,
    **kwargs: Any,
  ) -> None:
    """See `read` for the first three; the other arguments are those of `SourceSetBuilder`."""
    super().__init__(unseen_prompts=unseen_prompts, **kwargs)
    self._options = {"margin": margin, "pairs": pairs, "turns": turns}

  def _files(self, folder: pathlib.Path) -> list[pathlib.Path]:
    return _files(folder)

  def _read(self, folder: pathlib.Path) -> tuple[list[User], collections.Counter[str]]:
    return read(folder, **self._options)

  def made_of(self, folder: pathlib.Path) -> dict[str, Any]:
    """As of `SourceSetBuilder`, with how pairs are made."""
    return super().made_of(folder) | self._options


_Conversations = dict[str, dict[int, list[_Utterance]]]  # By conversation, by turn.


def read(
  folder: str | os.PathLike[str],
  *,
  margin: float = 10,
  pairs: Pairs = "best_worst",
  turns: Turns = "opening",
) -> tuple[list[User], collections.Counter[str]]:
  """Reads the participants and makes pairs of their scores.

  The description is what participants wrote of themselves and, in a second paragraph, of how an
  AI should behave, where the survey has them. `conversations.jsonl` holds nothing more and is not
  read.

  Args:
    folder: with the two files.
    margin: the least difference of the scores of a pair, more than 0 and less than 100.
    pairs: 'best_worst', one pair a turn; or 'all' pairs of a turn's responses.
    turns: 'opening', where the prompt is the opening one; or 'all' turns, where the prompt is the
      conversation so far.

  Returns:
    The users with at least two prompts, in order of first appearance; and what was set aside, by
    reason.

  Raises:
    FileNotFoundError: if a file is absent, saying where to get it.
    ValueError: if an argument is out of range.
    PreferenceError: naming file, line and field of up to 20 problems.
  """
  if not 0 < margin < 100:
    raise ValueError(f"margin: found {margin}, expected more than 0 and less than 100")
  for name, value, known in (
    ("pairs", pairs, ("best_worst", "all")),
    ("turns", turns, ("opening", "all")),
  ):
    if value not in known:
      raise ValueError(f"{name}: found {value!r}, expected one of {known}")
  utterances_file, survey_file = _files(pathlib.Path(folder))
  conversations = _read_utterances(utterances_file)
  descriptions = _read_survey(survey_file)
  set_aside: collections.Counter[str] = collections.Counter()
  found: dict[str, dict[Preference, None]] = {}
  for conversation in conversations.values():
    for turn, scored in sorted(conversation.items()):
      usable = found.setdefault(scored[0].user_id, {})
      if turn and turns == "opening":
        set_aside["turns: after the opening one"] += 1
        continue
      prompt = _prompt(conversation, turn)
      if prompt is None:
        set_aside["turns: without all that was said before"] += 1
        continue
      for chosen, rejected in _pairs(scored, pairs, margin, set_aside):
        preference = Preference(prompt, chosen, rejected)
        set_aside["pairs: repeated"] += preference in usable
        usable[preference] = None
  users = (
    source_set_builder.user_of(user_id, usable, descriptions.get(user_id), set_aside)
    for user_id, usable in found.items()
  )
  return [user for user in users if user is not None], +set_aside


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  files = [folder / UTTERANCES_FILE, folder / SURVEY_FILE]
  if absent := [file.name for file in files if not file.is_file()]:
    raise FileNotFoundError(f"{folder}: found no {', '.join(absent)}; {HOW_TO_GET}")
  return files


def _pairs(
  scored: list[_Utterance], which: Pairs, margin: float, set_aside: collections.Counter[str]
) -> Iterator[tuple[str, str]]:
  """(chosen, rejected) of one turn's responses; counts what makes no pair."""
  written = [u for u in scored if u.response not in ("", _EMPTY)]
  set_aside["responses: empty"] += len(scored) - len(written)
  if len(written) < 2:
    set_aside["turns: fewer than two responses"] += 1
    return
  ranked = sorted(written, key=lambda u: -u.score)  # Of equal scores, in order of the file.
  candidates = itertools.combinations(ranked, 2) if which == "all" else [(ranked[0], ranked[-1])]
  for best, worst in candidates:
    if best.score == worst.score:
      set_aside["pairs: a tie"] += 1
    elif best.score - worst.score < margin:
      set_aside[f"pairs: scores less than {margin:g} apart"] += 1
    elif best.response == worst.response:
      set_aside["pairs: equal responses"] += 1
    else:
      yield best.response, worst.response


def _prompt(conversation: dict[int, list[_Utterance]], turn: int) -> str | None:
  """The prompt of a turn: the conversation so far, if there is any; None if it is not complete."""
  said = []
  for earlier in range(turn):
    scored = conversation.get(earlier, [])
    response = next((u.response for u in scored if u.went_on), None)
    if response is None:
      return None
    said.append(f"User: {scored[0].prompt}\n\nAssistant: {response}\n\n")
  prompt = conversation[turn][0].prompt
  return f"{''.join(said)}User: {prompt}" if said else prompt


def _read_utterances(file: pathlib.Path) -> _Conversations:
  problems = jsonl.Problems(file)
  conversations: _Conversations = {}
  owners: dict[str, tuple[str, int]] = {}  # A conversation's user, with the line it began on.
  with jsonl.open_lines(file) as lines:
    for line, record in jsonl.json_objects(lines, problems):
      wrong = list(_what_is_wrong(record))
      for found, expected in wrong:
        problems.add(line, found, expected)
      if wrong:
        continue
      user_id, conversation_id, prompt, response = (record[key].strip() for key in _TEXTS)
      owner, first = owners.setdefault(conversation_id, (user_id, line))
      if owner != user_id:
        was = f"user_id {jsonl.show(user_id)} in conversation {jsonl.show(conversation_id)}"
        problems.add(line, was, f"{jsonl.show(owner)} as on line {first}")
      scored = conversations.setdefault(conversation_id, {}).setdefault(record["turn"], [])
      if scored and scored[0].prompt != prompt:
        was = f"user_prompt {jsonl.show(prompt)} in a turn with another one"
        problems.add(line, was, f"{jsonl.show(scored[0].prompt)} as on line {scored[0].line}")
      scored.append(
        _Utterance(line, user_id, prompt, response, record["score"], record["if_chosen"])
      )
  problems.check()
  return conversations


def _what_is_wrong(record: dict) -> Iterator[tuple[str, str]]:
  """All that is wrong with a line of utterances, as (found, expected)."""
  names = (*_TEXTS, "turn", "score", "if_chosen")
  if missing := [name for name in names if name not in record]:
    yield f"no {', '.join(missing)}", "all of " + ", ".join(names)
    return
  for name in _TEXTS:
    wrong = jsonl.not_usable(record[name])
    # An empty response is counted later, with those that the data set marks as such.
    if wrong and not (name == "model_response" and record[name] == ""):
      yield f"{name} {wrong[0]}", wrong[1]
  turn, score, chosen = record["turn"], record["score"], record["if_chosen"]
  if type(turn) is not int or turn < 0:
    yield f"turn that is {jsonl.kind_of(turn)}", "the number of the turn, from 0"
  if type(score) not in (int, float) or not 1 <= score <= 100:
    yield f"score that is {jsonl.kind_of(score)}", "a number from 1 to 100"
  if not isinstance(chosen, bool):
    yield f"if_chosen that is {jsonl.kind_of(chosen)}", "true or false"


def _read_survey(file: pathlib.Path) -> dict[str, str | None]:
  """The descriptions by user_id, None for those who wrote nothing."""
  problems = jsonl.Problems(file)
  descriptions: dict[str, str | None] = {}
  with jsonl.open_lines(file) as lines:
    for line, record in jsonl.json_objects(lines, problems):
      user_id = record.get("user_id")
      if wrong := jsonl.not_usable(user_id):
        problems.add(line, f"user_id {wrong[0]}", wrong[1])
        continue
      if user_id in descriptions:
        problems.add(line, f"user_id {jsonl.show(user_id)} again", "it once")
      texts = []
      for name in _DESCRIPTIONS:
        value = record.get(name)
        if value is None or value == "":
          continue
        if wrong := jsonl.not_usable(value):
          problems.add(line, f"{name} {wrong[0]}", wrong[1])
        else:
          texts.append(value.strip())
      descriptions[user_id] = "\n\n".join(texts) or None
  problems.check()
  return descriptions
