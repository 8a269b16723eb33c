# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""AlpacaEval's files: our outputs for its judges, its annotations scored as its leaderboard does.

python -m fspo_jax.evaluation.alpaca_eval score annotations.json [--gamed=df_gamed.csv]
python -m fspo_jax.evaluation.alpaca_eval export RUN --method=fspo --out=model_outputs.json
python -m fspo_jax.evaluation.alpaca_eval answer MODEL --instructions=FILE --out=model_outputs.json

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
  Over the 56 models that it was reconstructed from it is 0.35 points from the leaderboard in the
  mean, and at most 1.3 (Claude 2), where `length_controlled_minimal` is 6.6 and at most 27; for
  other models it was not measured.
- else `length_controlled_minimal`, which knows nothing of the instructions.

`export` writes the responses of a run's win rates, `answer` what a model answers to AlpacaEval's
own instructions (a JSON list of {"instruction", ...}), or to others'.

As in the official tool the difficulty of a row is that of its position in the file: where rows are
missing those after them have another instruction's, as on the leaderboard; `misplaced` counts them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import sys
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax import jsonl
from fspo_jax.evaluation import alpaca_files, length_controlled, responses
from fspo_jax.evaluation.alpaca_files import Annotation, Knowledge
from fspo_jax.evaluation.length_controlled import LengthControlled
from fspo_jax.preferences import Preference

_AT_ONCE = 32  # instructions that are answered together


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
  if knowledge is None and baseline == alpaca_files.BASELINE:
    known = alpaca_files.known()
    knowledge = None if known is None else _if_of_these(known, annotations)
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


def _if_of_these(found: Knowledge, annotations: Sequence[Annotation]) -> Knowledge | None:
  """The knowledge, if it is of these instructions, in whatever order."""
  ours = set(found.digests)
  return found if all(alpaca_files.digest(a.instruction) in ours for a in annotations) else None


def _misplaced(knowledge: Knowledge, annotations: Sequence[Annotation]) -> int:
  return sum(
    alpaca_files.digest(a.instruction) != expected
    for a, expected in zip(annotations, knowledge.digests, strict=False)
  )


def _one(annotations: Sequence[Annotation], name: str) -> str:
  found = sorted({getattr(a, name) for a in annotations})
  if len(found) != 1:
    raise ValueError(f"{name}: expected one in all annotations, found {found}")
  return found[0]


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
  asked = commands.add_parser("answer", help="have a model answer a list of instructions")
  asked.add_argument("model", help="whatever fspo_jax.load opens")
  asked.add_argument("--instructions", required=True, help="JSON list of {'instruction', ...}")
  asked.add_argument("--out", required=True, help="the file to write")
  asked.add_argument("--generator", required=True, help="name of the outputs")
  asked.add_argument("--preferences", help="JSONL of the one user who asks; default: nobody known")
  asked.add_argument("--temperature", type=float, default=0.0)
  asked.add_argument("--max_new_tokens", type=int, default=512)
  asked.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv)
  try:
    if args.command == "export":
      _export(args)
    elif args.command == "answer":
      _answer(args)
    else:
      _score(args)
  except (OSError, ImportError, ValueError, KeyError) as error:
    sys.exit(f"alpaca_eval: {error}")


def _export(args: argparse.Namespace) -> None:
  answered = [one for one in responses.read(args.run) if one.split == args.split]
  if not answered:
    raise ValueError(f"--split={args.split}: found no responses in {args.run}")
  temperature = answered[0].temperature if args.temperature is None else args.temperature
  answered = [one for one in answered if one.temperature == temperature]
  outputs, left_out = alpaca_files.outputs_of(
    answered, args.method, generator=args.generator or args.method, about=args.about
  )
  if not outputs:
    raise ValueError(f"--temperature={temperature}: found no responses in {args.run}")
  alpaca_files.write_outputs(args.out, outputs)
  print(f"outputs: {args.out}: {len(outputs)} at temperature {temperature:g}", end="")
  print(f"; {left_out} left out, whose instruction another has" if left_out else "")


def _answer(args: argparse.Namespace) -> None:
  from fspo_jax.inference import loading  # JAX, which the other commands do without

  instructions = alpaca_files.read_instructions(args.instructions)
  shots: Sequence[Preference] = ()
  if args.preferences:
    users = jsonl.read_jsonl(args.preferences)
    if len(users) > 1:
      names = [user.user_id for user in users[:5]]
      raise ValueError(f"{args.preferences}: expected one user, found {len(users)}: {names} ...")
    shots = users[0].preferences
  model = loading.load(args.model)
  outputs = []
  for first in range(0, len(instructions), _AT_ONCE):
    batch = instructions[first : first + _AT_ONCE]
    (texts,) = model.respond_many(
      [shots],
      [batch],
      max_new_tokens=args.max_new_tokens,
      temperature=args.temperature,
      seed=args.seed + first,
    )
    for instruction, output in zip(batch, texts, strict=True):
      outputs.append({"instruction": instruction, "output": output, "generator": args.generator})
  alpaca_files.write_outputs(args.out, outputs)
  print(f"outputs: {args.out}: {len(outputs)}")


def _score(args: argparse.Namespace) -> None:
  knowledge = None
  if args.gamed:
    knowledge = alpaca_files.read_gamed(args.gamed)
  elif args.difficulty:
    knowledge = alpaca_files.read_difficulty(args.difficulty)
  results = [
    {"file": path} | score(alpaca_files.read_annotations(path), knowledge)
    for path in args.annotations
  ]
  json.dump(results[0] if len(results) == 1 else results, sys.stdout, indent=2)
  print()


if __name__ == "__main__":
  main()
