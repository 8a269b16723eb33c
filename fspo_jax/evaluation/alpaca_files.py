# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AlpacaEval's files: annotations, outputs, and what there is to know of its instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import gzip
import hashlib
import json
import math
import os
import pathlib
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax import paths
from fspo_jax.evaluation.length_controlled import BaselineRows
from fspo_jax.evaluation.responses import Answered

BASELINE = "gpt4_1106_preview"
KNOWN_COLUMNS = (
  "sha256",
  "difficulty",
  "verbose_length",
  "concise_length",
  "verbose_preference",
  "concise_preference",
)
_KNOWN = pathlib.Path(__file__).with_name("alpaca_eval_805.csv")
_TEXTS = ("instruction", "output_1", "output_2", "generator_1", "generator_2")
_GAMED = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


@dataclasses.dataclass(frozen=True, slots=True)
class Annotation:
  """A judged comparison; `win` is in [0, 1], 1 for output_2, nan where nothing was said."""

  instruction: str
  output_1: str
  output_2: str
  generator_1: str
  generator_2: str
  win: float


@dataclasses.dataclass(frozen=True)
class Knowledge:
  """What is known of the instructions, by their position in a file of annotations.

  Attributes:
    difficulty: of each position.
    baseline_rows: the baseline asked to be verbose and concise; None for not regularizing.
    source: in words, where that is from.
    digests: the start of the SHA-256 of each position's instruction, where it is known.
  """

  difficulty: Float[np.ndarray, " positions"]
  baseline_rows: BaselineRows | None
  source: str
  digests: tuple[str, ...] = ()


def read_annotations(path: str | os.PathLike[str]) -> list[Annotation]:
  """Reads `annotations.json`, plain or gzip.

  A preference that is neither null nor a number from 1 to 2, or 0, is no preference, as in the
  official tool: nan.

  Raises:
    ValueError: not such a file; names the entry and the key.
  """
  return [_annotation(entry, f"{path}[{i}]") for i, entry in enumerate(_read_list(path))]


def _annotation(entry: Any, place: str) -> Annotation:
  texts = _texts(entry, _TEXTS, place)
  value = entry.get("preference", "missing")
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if value is not None and not number:
    raise ValueError(f"{place}.preference: found {value!r}, expected a number or null")
  win = math.nan if value is None else (0.5 if value == 0 else value - 1.0)
  return Annotation(*texts, win if 0 <= win <= 1 else math.nan)


def read_instructions(path: str | os.PathLike[str]) -> list[str]:
  """Reads the instructions of a list of objects that have one.

  Raises:
    ValueError: not such a file; names the entry and the key.
  """
  return [
    _texts(entry, ("instruction",), f"{path}[{i}]")[0] for i, entry in enumerate(_read_list(path))
  ]


def read_outputs(path: str | os.PathLike[str]) -> list[dict[str, str]]:
  """Reads `model_outputs.json`, plain or gzip: its `instruction`, `output` and `generator`.

  Raises:
    ValueError: not such a file; names the entry and the key.
  """
  keys = ("instruction", "output", "generator")
  return [
    dict(zip(keys, _texts(entry, keys, f"{path}[{i}]"), strict=True))
    for i, entry in enumerate(_read_list(path))
  ]


def write_outputs(path: str | os.PathLike[str], outputs: Sequence[Mapping[str, str]]) -> None:
  """Writes `model_outputs.json`: of each output `instruction`, `output` and `generator`.

  Raises:
    ValueError: an instruction is there twice; the official tool joins by it.
  """
  seen: set[str] = set()
  for output in outputs:
    if output["instruction"] in seen:
      raise ValueError(f"found the instruction {output['instruction']!r} twice, expected it once")
    seen.add(output["instruction"])
  keys = ("instruction", "output", "generator")
  text = json.dumps([{k: o[k] for k in keys} for o in outputs], indent=2, ensure_ascii=False)
  paths.write_atomic(paths.path(path), (text + "\n").encode())


def read_gamed(path: str | os.PathLike[str]) -> Knowledge:
  """Reads the official `df_gamed.csv`.

  Raises:
    ValueError: it lacks a column, or has what is no number.
  """
  with open(path, encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  if not rows or not set(_GAMED) <= set(rows[0]):
    found = sorted(rows[0]) if rows else "an empty file"
    raise ValueError(f"{path}: expected the columns {_GAMED}, found {found}")
  try:
    index = [int(float(row["index"])) for row in rows]
    preference, length, difficulty = (
      np.array([float(row[name] or "nan") for row in rows]) for name in _GAMED[1:4]
    )
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  if any(row["not_gamed_baseline"].strip().lower() not in ("false", "0") for row in rows):
    raise ValueError(f"{path}: expected rows of the gamed baseline alone, not_gamed_baseline=False")
  by_position = dict(zip(reversed(index), reversed(difficulty.tolist()), strict=True))
  judged = ~np.isnan(preference)
  asked = BaselineRows(preference[judged], length[judged], difficulty[judged])
  return Knowledge(_by_position(by_position, path), asked, f"{pathlib.Path(path).name}")


def read_difficulty(path: str | os.PathLike[str]) -> Knowledge:
  """Reads the official `instruction_difficulty.csv`: a column of positions, and one of numbers.

  Raises:
    ValueError: another number of columns, or what is no number.
  """
  with open(path, encoding="utf-8", newline="") as file:
    rows = list(csv.reader(file))[1:]
  try:
    by_position = {int(position): float(value) for position, value in rows}
  except ValueError as error:
    raise ValueError(f"{path}: expected a position and a number per line: {error}") from error
  return Knowledge(_by_position(by_position, path), None, f"{pathlib.Path(path).name}")


def known() -> Knowledge | None:
  """What the package knows of the 805 instructions; None where its file has been removed.

  The numbers were estimated from what alpaca_eval publishes of its fits (`reconstruct.py` says
  how), whose data is under CC BY-NC 4.0. They hold no text; who wants none of them removes the
  file, and has `length_controlled_minimal`.
  """
  if not _KNOWN.is_file():
    return None
  with open(_KNOWN, encoding="utf-8", newline="") as file:
    header, *rows = csv.reader(file)
  if tuple(header) != KNOWN_COLUMNS:
    raise ValueError(f"{_KNOWN}: expected the columns {KNOWN_COLUMNS}, found {header}")
  difficulty, *columns = np.array([row[1:] for row in rows], float).T
  asked = BaselineRows(
    np.concatenate(columns[2:]), np.concatenate(columns[:2]), np.tile(difficulty, 2)
  )
  digests = tuple(row[0] for row in rows)
  return Knowledge(difficulty, asked, "reconstructed from published results", digests)


def outputs_of(
  answered: Sequence[Answered], method: str, *, generator: str, about: str = "nothing"
) -> tuple[list[dict[str, str]], int]:
  """A method's responses as the official tool takes them.

  Args:
    answered: of one split and temperature.
    method: whose; 'base' for the outputs to compare with.
    generator: what the outputs are said to be by.
    about: what the instruction says of the user before the prompt, so that who judges it knows:
      'description', or 'nothing'.

  Returns:
    The outputs, and how many were left out because another has their instruction: the official
    tool knows a comparison by it.

  Raises:
    ValueError: there are no such responses, or a user has no description to tell.
  """
  if about not in ("nothing", "description"):
    raise ValueError(f"about: found {about!r}, expected 'nothing' or 'description'")
  found: dict[str, str] = {}
  left_out = 0
  for one in answered:
    if method not in one.responses:
      raise ValueError(f"method: found {method!r}, expected one of {sorted(one.responses)}")
    told = ""
    if about == "description":
      if one.description is None:
        raise ValueError(f"user {one.user_id!r} has no description: about='nothing' needs none")
      told = f"About me: {one.description}\n\n"
    for prompt, response in zip(one.prompts, one.responses[method], strict=True):
      left_out += told + prompt in found
      found.setdefault(told + prompt, response)
  keys = ("instruction", "output", "generator")
  return [dict(zip(keys, (*pair, generator), strict=True)) for pair in found.items()], left_out


def digest(instruction: str) -> str:
  """How the package knows an instruction."""
  return hashlib.sha256(instruction.encode()).hexdigest()[:12]


def _by_position(
  values: Mapping[int, float], path: str | os.PathLike[str]
) -> Float[np.ndarray, " positions"]:
  if set(values) != set(range(len(values))):
    raise ValueError(f"{path}: expected the positions 0, 1, ..., found {len(values)} others")
  return np.array([values[i] for i in range(len(values))])


def _read_list(path: str | os.PathLike[str]) -> list[Any]:
  data = pathlib.Path(path).read_bytes()
  try:
    found = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
  except ValueError as error:
    raise ValueError(f"{path}: expected a JSON list: {error}") from error
  if not isinstance(found, list) or not found:
    raise ValueError(f"{path}: expected a JSON list with entries, found {str(found)[:60]}")
  return found


def _texts(entry: Any, keys: Sequence[str], place: str) -> list[str]:
  if not isinstance(entry, dict):
    raise ValueError(f"{place}: expected an object, found {str(entry)[:60]}")
  for key in keys:
    if not isinstance(entry.get(key), str):
      raise ValueError(f"{place}.{key}: expected a text, found {entry.get(key, 'nothing')!r}")
  return [entry[key] for key in keys]
