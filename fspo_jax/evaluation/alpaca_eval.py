# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""AlpacaEval's files: our outputs for its judges, its annotations scored as its leaderboard does.

python -m fspo_jax.evaluation.alpaca_eval score annotations.json [--gamed=df_gamed.csv]
python -m fspo_jax.evaluation.alpaca_eval export RUN --method=fspo --out=model_outputs.json

`model_outputs.json` is a list of {"instruction", "output", "generator"}. `annotations.json` is a
list of {"instruction", "output_1", "generator_1", "output_2", "generator_2", "preference", ...}:
output_1 is the baseline's, output_2 the model's, `preference` from 1 (the baseline's is better) to
2 (the model's), 1.5 (in old files 0) for a tie, null where the judge gave no answer.

`score` prints the leaderboard's columns, in %: of `win_rate`, `standard_error`, `n_wins`,
`n_wins_base`, `n_draws`, `n_total` and `discrete_win_rate` all digits are those of the official
tool. `length_controlled_winrate` and `lc_standard_error` are by the best variant of
`length_controlled.py` that there is knowledge for, which `variant` and `knowledge` name:

- with `--gamed`, the official `df_gamed.csv`: the leaderboard's own, to all digits.
- with `--difficulty`, the official `instruction_difficulty.csv`: `length_controlled_noreg`.
- else, for the 805 instructions against gpt4_1106_preview: the leaderboard's variant with what
  of that file follows from published results (`experiments/alpaca_eval/reconstruct.py`).
  Over the 56 models whose annotations were at hand it
  is 0.35 points from the leaderboard in the mean, and at most 1.3 (Claude 2), where
  `length_controlled_minimal` is 6.6 in the mean and at most 27.
- else `length_controlled_minimal`, which knows nothing of the instructions.

As in the official tool the difficulty of a row is that of its position in the file: where rows are
missing those after them have another instruction's, as on the leaderboard; `misplaced` counts them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import csv
import dataclasses
import gzip
import hashlib
import json
import math
import os
import pathlib
import sys
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax.evaluation import length_controlled, responses
from fspo_jax.evaluation.length_controlled import BaselineRows, LengthControlled
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
  pathlib.Path(path).write_text(text + "\n", encoding="utf-8")


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


def known() -> Knowledge:
  """What the package knows of the 805 instructions; see `reconstruct.py` for how."""
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


def score(annotations: Sequence[Annotation], knowledge: Knowledge | None = None) -> dict[str, Any]:
  """What the leaderboard says of a model, in %; see the module's docstring.

  Args:
    annotations: of one model against one baseline.
    knowledge: of the instructions; None for what the package knows, where they are its own.

  Returns:
    The leaderboard's columns, `generator`, `baseline`, `variant`, `knowledge`, and
    `length_controlled`: what each variant says that can be computed. Where none can, the
    length-controlled columns are None, and `variant` says why.

  Raises:
    ValueError: several models or baselines, nothing judged, or more rows than the knowledge is of.
  """
  model, baseline = (_one(annotations, name) for name in ("generator_2", "generator_1"))
  wins = np.array([a.win for a in annotations])
  result = {"generator": model, "baseline": baseline, **win_rates(wins)}
  result["avg_length"] = int(np.mean([len(a.output_2) for a in annotations]))
  if model == baseline:
    # By construction, and there would be nothing to fit.
    own = {"length_controlled_winrate": 50.0, "lc_standard_error": 0.0}
    return result | own | {"variant": "the baseline", "knowledge": "none"}
  if knowledge is None and baseline == BASELINE:
    knowledge = _if_of_these(known(), annotations)
  if knowledge is not None and len(wins) > len(knowledge.difficulty):
    raise ValueError(
      f"{knowledge.source}: knows {len(knowledge.difficulty)} instructions, found {len(wins)}"
    )
  try:
    fits = _fits(annotations, wins, knowledge)
  except ValueError as error:  # too few, or nothing that lengths could explain
    none = {"length_controlled_winrate": None, "lc_standard_error": None}
    return result | none | {"variant": f"none: {error}", "knowledge": "none"}
  best = fits[-1]
  result |= _percent(best)
  result |= {"variant": best.variant, "knowledge": knowledge.source if knowledge else "none"}
  if knowledge is not None and knowledge.digests:
    result["misplaced"] = _misplaced(knowledge, annotations)
  result["length_controlled"] = {
    fit.variant: {
      **_percent(fit),
      "coefficients": fit.coefficients,
      "inverse_penalty": fit.inverse_penalty,
    }
    for fit in fits
  }
  return result


def win_rates(wins: Float[np.ndarray, " n"]) -> dict[str, Any]:
  """The leaderboard's columns of win rates, in %, from wins in [0, 1]; nan is left out.

  Raises:
    ValueError: nothing was judged.
  """
  judged = wins[~np.isnan(wins)]
  if not judged.size:
    raise ValueError(f"expected preferences, found none in {wins.size} annotations")
  # A tie is a tie only if it is one exactly: most weighted preferences near it are not.
  discrete = np.where(judged == 0.5, 0.5, np.round(judged + 1) - 1)
  n = judged.size
  return {
    "win_rate": float(judged.mean() * 100),
    "standard_error": float(judged.std(ddof=1) / np.sqrt(n) * 100) if n > 1 else None,
    "n_wins": int((judged > 0.5).sum()),
    "n_wins_base": int((judged < 0.5).sum()),
    "n_draws": int((judged == 0.5).sum()),
    "n_total": n,
    "n_unjudged": int(wins.size - n),
    "discrete_win_rate": float(discrete.mean() * 100),
  }


def _fits(
  annotations: Sequence[Annotation], wins: Float[np.ndarray, " n"], knowledge: Knowledge | None
) -> list[LengthControlled]:
  """By every variant that can be computed, the best one last."""
  lengths = [
    np.array([len(a.output_1) for a in annotations]),
    np.array([len(a.output_2) for a in annotations]),
  ]
  found = [length_controlled.length_controlled(wins, *lengths)]
  if knowledge is None:
    return found
  difficulty = knowledge.difficulty[: len(wins)]
  found.append(length_controlled.length_controlled(wins, *lengths, difficulty=difficulty))
  if knowledge.baseline_rows is not None:
    found.append(
      length_controlled.length_controlled(
        wins, *lengths, difficulty=difficulty, baseline_rows=knowledge.baseline_rows
      )
    )
  return found


def _percent(fit: LengthControlled) -> dict[str, float]:
  return {
    "length_controlled_winrate": 100 * fit.win_rate,
    "lc_standard_error": 100 * fit.standard_error,
  }


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


def _if_of_these(found: Knowledge, annotations: Sequence[Annotation]) -> Knowledge | None:
  """The knowledge, if it is of these instructions, in whatever order."""
  ours = set(found.digests)
  return found if all(digest(a.instruction) in ours for a in annotations) else None


def _misplaced(knowledge: Knowledge, annotations: Sequence[Annotation]) -> int:
  return sum(
    digest(a.instruction) != expected
    for a, expected in zip(annotations, knowledge.digests, strict=False)
  )


def _one(annotations: Sequence[Annotation], name: str) -> str:
  found = sorted({getattr(a, name) for a in annotations})
  if len(found) != 1:
    raise ValueError(f"{name}: expected one in all annotations, found {found}")
  return found[0]


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


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(prog="python -m fspo_jax.evaluation.alpaca_eval")
  commands = parser.add_subparsers(dest="command", required=True)
  own = commands.add_parser("score", help="score annotations.json as the leaderboard does")
  own.add_argument("annotations", nargs="+", help="annotations.json, one or more")
  source = own.add_mutually_exclusive_group()
  source.add_argument("--gamed", help="the official df_gamed.csv: the leaderboard's own variant")
  source.add_argument("--difficulty", help="the official instruction_difficulty.csv")
  given = commands.add_parser("export", help="write a run's responses as model_outputs.json")
  given.add_argument("run", help="a finished run, or its responses.jsonl")
  given.add_argument("--method", required=True, help="whose responses; 'base' to compare with")
  given.add_argument("--out", required=True, help="the file to write")
  given.add_argument("--generator", help="name of the outputs; default: the method")
  given.add_argument("--split", default="unseen")
  given.add_argument("--temperature", type=float, help="default: the run's first")
  given.add_argument(
    "--about", default="nothing", help="'description' to tell of the user in the instruction"
  )
  args = parser.parse_args(argv)
  try:
    if args.command == "export":
      _export(args)
    else:
      _score(args)
  except (OSError, ValueError) as error:
    sys.exit(f"alpaca_eval: {error}")


def _export(args: argparse.Namespace) -> None:
  answered = [one for one in responses.read(args.run) if one.split == args.split]
  if not answered:
    raise ValueError(f"--split={args.split}: found no responses in {args.run}")
  temperature = answered[0].temperature if args.temperature is None else args.temperature
  answered = [one for one in answered if one.temperature == temperature]
  outputs, left_out = outputs_of(
    answered, args.method, generator=args.generator or args.method, about=args.about
  )
  if not outputs:
    raise ValueError(f"--temperature={temperature}: found no responses in {args.run}")
  write_outputs(args.out, outputs)
  print(f"outputs: {args.out}: {len(outputs)} at temperature {temperature:g}", end="")
  print(f"; {left_out} left out, whose instruction another has" if left_out else "")


def _score(args: argparse.Namespace) -> None:
  knowledge = None
  if args.gamed:
    knowledge = read_gamed(args.gamed)
  elif args.difficulty:
    knowledge = read_difficulty(args.difficulty)
  results = [{"file": path} | score(read_annotations(path), knowledge) for path in args.annotations]
  json.dump(results[0] if len(results) == 1 else results, sys.stdout, indent=2)
  print()


if __name__ == "__main__":
  main()
