# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Judges the responses of a finished run: `python -m fspo_jax.evaluation.judge RUN --model=...`.

python -m fspo_jax.evaluation.judge runs/quickstart --model=Qwen/Qwen3-32B \
  --base_url=http://localhost:8000/v1 --api_key_env=''
python -m fspo_jax.evaluation.judge runs/quickstart --model=world      # by the true reward

RUN is a run's folder, or its `responses.jsonl`. Everything goes to RUN/judge (or `--out`):
`NAME.json` with the win rates, `ledger-*.jsonl` with every answer of a server that was paid for,
filed by the hash of what was asked, and `verdicts-*.jsonl`, one of each method and split.
Killed or cut off, the same command goes on. Of a run in a bucket (gs://) `NAME.json` goes there;
the others are written line by line, which a bucket does not let, and go to a folder of this
machine, `--journals`. `NAME.json` holds:

  judge      the model's name, its settings, the hash of its prompt, and the server
  win_rate   {METHOD: {SPLIT: ...}}: mean, ci95 by bootstrap over users, users, the counts of
             comparisons, `set_aside` by reason, `identical` (ties that nobody was asked about),
             `order_flip_rate`, one-sided binomial tests, the length-controlled rate
  agreement  {METHOD: {SPLIT: {"kappa", "comparisons"}}} with the true reward, of users of a world
  requests   what became of the requests of all runs of this command on this folder
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import sys
from typing import Any
import urllib.parse

import numpy as np

from fspo_jax import paths
from fspo_jax.evaluation import judges, length_controlled, responses, statistics
from fspo_jax.evaluation.judges import Comparison, Judge, TrueReward, Verdict
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.results import SPLITS
from fspo_jax.synthesis import jobs, openai_llm
from fspo_jax.synthesis.journal import Journal, Ledger
from fspo_jax.synthesis.llm import LLM, Note

WORLD = "world"
_RESAMPLES = 2000

# Makes the judge of some comparisons.
MakeJudge = Callable[[Sequence[Comparison]], contextlib.AbstractContextManager[Judge]]


def judge_all(
  answered: Sequence[responses.Answered], methods: Sequence[str], make_judge: MakeJudge
) -> dict[str, Any]:
  """Has the responses of some methods judged, against the base's.

  Args:
    answered: of one temperature.
    methods: those to judge.
    make_judge: of the comparisons of one method and split.

  Returns:
    `win_rate` and `agreement`; see the module's docstring.
  """
  rates: dict[str, dict[str, Any]] = {}
  agreement: dict[str, dict[str, Any]] = {}
  for method in methods:
    for split in SPLITS:
      own = [one for one in answered if one.split == split]
      if not own:
        continue
      comparisons = judges.comparisons_of(own, method)
      with make_judge(comparisons) as judge:
        verdicts = judge.judge(comparisons)
      rates.setdefault(method, {})[split] = summarize(comparisons, verdicts)
      if not isinstance(judge, TrueReward) and all(c.rewards for c in comparisons):
        truth = TrueReward().judge(comparisons)
        agreement.setdefault(method, {})[split] = _agreement(verdicts, truth)
  return {"win_rate": rates, "agreement": agreement}


def summarize(comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> dict[str, Any]:
  """What some verdicts say: the mean win, its interval, what was set aside, how orders matter."""
  pairs = list(zip(comparisons, verdicts, strict=True))
  judged = [(c, v.win) for c, v in pairs if v.win is not None]
  counts: dict[str, int] = {}
  for v in verdicts:
    if v.set_aside:
      counts[v.set_aside] = counts.get(v.set_aside, 0) + 1
  found: dict[str, Any] = {
    "comparisons": len(pairs),
    "judged": len(judged),
    "set_aside": counts,
    "identical": sum(c.ours == c.baseline for c in comparisons),
  }
  if not judged:
    return found
  wins = np.array([win for _, win in judged])
  users = np.array([c.user_id for c, _ in judged])
  interval = statistics.cluster_bootstrap(wins, users, resamples=_RESAMPLES)
  orders = [v.orders for v in verdicts if v.orders is not None]
  found |= {
    "mean": interval.mean,
    "ci95": interval.ci,
    "users": interval.clusters,
    "binomial": dataclasses.asdict(statistics.binomial_test(wins, users)),
    "order_flip_rate": statistics.order_flip_rate(np.array(orders)) if orders else None,
    "length_controlled": _length_controlled([c for c, _ in judged], wins),
  }
  return found


def _length_controlled(
  comparisons: Sequence[Comparison], wins: np.ndarray
) -> dict[str, Any] | None:
  """The length-controlled rate; None where there is too little to fit, or lengths say nothing."""
  lengths = np.array([(len(c.baseline), len(c.ours)) for c in comparisons])
  try:
    fit = length_controlled.length_controlled(wins, *lengths.T)
  except ValueError:
    return None
  return {"win_rate": fit.win_rate, "variant": fit.variant, "coefficients": fit.coefficients}


def _agreement(verdicts: Sequence[Verdict], truth: Sequence[Verdict]) -> dict[str, Any]:
  both = [(v.win, t.win) for v, t in zip(verdicts, truth, strict=True) if v.win is not None]
  if not both:
    return {"kappa": None, "comparisons": 0}
  return {"kappa": statistics.kappa(*np.array(both, float).T), "comparisons": len(both)}


def choose(
  answered: Sequence[responses.Answered],
  *,
  methods: Sequence[str],
  temperature: float | None,
  users: int | None,
) -> tuple[list[responses.Answered], list[str]]:
  """What is to be judged: at one temperature, of so many users of each split.

  Args:
    answered: all that there is.
    methods: to judge; none for all that have responses.
    temperature: of the responses; None for that of the first.
    users: lines of each split, at most; None for all.

  Raises:
    ValueError: there is nothing like that.
  """
  if not answered:
    raise ValueError("found no responses, expected some")
  wanted = answered[0].temperature if temperature is None else temperature
  found = []
  for split in SPLITS:
    own = [one for one in answered if one.split == split and one.temperature == wanted]
    found += own[:users]
  if not found:
    there = sorted({one.temperature for one in answered})
    raise ValueError(f"temperature: found {wanted}, expected one of {there}")
  there = [name for name in METHODS if all(name in one.responses for one in found)]
  if "base" not in there:
    raise ValueError(f"methods: found {there}, expected 'base' among them, to compare with")
  unknown = sorted(set(methods) - set(there))
  if unknown:
    raise ValueError(f"methods: found {unknown}, expected some of {there}")
  if not methods:
    methods = [m for m in there if m != "base" or all(one.again is not None for one in found)]
  return found, list(methods)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="python -m fspo_jax.evaluation.judge")
  parser.add_argument("run", help="a finished run, or its responses.jsonl; may be in a bucket")
  parser.add_argument("--model", required=True, help=f"the judge; '{WORLD}' for the true reward")
  parser.add_argument("--out", help="folder to write; default RUN/judge")
  parser.add_argument("--name", help="of the result; default: the model's")
  parser.add_argument("--methods", default="", help="comma-separated; default: all")
  parser.add_argument("--response_temperature", type=float, help="default: the run's first")
  parser.add_argument("--users", type=int, help="judge so many of each split; default: all")
  asked = parser.add_argument_group("the language model")
  asked.add_argument("--base_url", help="of the API, as http://localhost:8000/v1")
  asked.add_argument(
    "--api_key_env", default="OPENAI_API_KEY", help="variable with the key; '' for none"
  )
  asked.add_argument(
    "--journals", help="folder of this machine for the ledger and the verdicts; default: --out"
  )
  asked.add_argument("--show", default="description", help="'description', 'preferences', 'both'")
  asked.add_argument("--temperature", type=float, default=0.0)
  asked.add_argument("--seed", type=int, default=0)
  asked.add_argument("--max_tokens", type=int, default=256)
  asked.add_argument("--ignore_length", action=argparse.BooleanOptionalAction, default=True)
  asked.add_argument("--timeout_s", type=float, default=120.0)
  asked.add_argument("--max_attempts", type=int, default=8)
  asked.add_argument("--concurrency", type=int, default=16)
  asked.add_argument("--structured", default="json_schema", help="or 'json_object'")
  return parser


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  args = _parser().parse_args(argv)
  try:
    if args.model != WORLD and not args.base_url:
      raise ValueError("--base_url is missing: say where the endpoint is")
    if args.model == WORLD and args.journals:
      raise ValueError(
        f"--journals={args.journals}: found --model={WORLD}, expected none: it writes nothing there"
      )
    parts = urllib.parse.urlsplit(args.base_url or "")
    if parts.username or parts.password or parts.query:
      raise ValueError(
        "--base_url: found a user, a password or a query in it, expected none: it is written down, "
        "and a key belongs in the variable of --api_key_env"
      )
    answered, methods = choose(
      responses.read(args.run),
      methods=[name for name in args.methods.split(",") if name],
      temperature=args.response_temperature,
      users=args.users,
    )
    run = paths.path(args.run)
    folder = run if run.is_dir() else run.parent
    out = paths.path(args.out) if args.out else folder / "judge"
    if args.model == WORLD:
      world = TrueReward()
      found = judge_all(answered, methods, lambda _: contextlib.nullcontext(world))
      facts: Mapping[str, Any] = world.facts
    else:
      found, facts = _by_llm(answered, methods, args, _journals(args, out))
  except (OSError, ImportError, ValueError, jobs.JobError, openai_llm.AuthError) as error:
    sys.exit(f"judge: {error}")
  record = {"judge": dict(facts), "responses": _about(args, answered), **found}
  name = args.name or re.sub(r"[^A-Za-z0-9.]+", "-", args.model).strip("-")
  path = out / f"{name}.json"
  paths.write_atomic(path, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
  print(table(record))
  print(f"judge:   {path}")


def _about(args: argparse.Namespace, answered: Sequence[responses.Answered]) -> dict[str, Any]:
  return {"file": str(args.run), "temperature": answered[0].temperature, "lines": len(answered)}


def _journals(args: argparse.Namespace, out: paths.Path) -> pathlib.Path:
  """Where what is written line by line goes."""
  folder = paths.path(args.journals) if args.journals else out
  if paths.in_bucket(folder):
    raise ValueError(
      f"--journals: found {folder}, expected a folder of this machine: the ledger and the verdicts "
      "are written line by line, which a bucket does not let; name the same one to go on"
    )
  return pathlib.Path(folder)


def _by_llm(
  answered: Sequence[responses.Answered],
  methods: Sequence[str],
  args: argparse.Namespace,
  journals: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a language model says, and what it is."""
  settings = judges.LLMSettings(
    args.model, args.show, args.temperature, args.seed, args.max_tokens, args.ignore_length
  )
  facts = settings.facts | {"base_url": args.base_url}
  keys = ("base_url", "api_key_env", "timeout_s", "max_attempts", "concurrency", "structured")

  # Answers of another server are others, though it calls its model the same.
  server = hashlib.sha256(args.base_url.encode()).hexdigest()[:8]
  clients: list[openai_llm.OpenAILLM] = []

  def backend(note: Note) -> LLM:
    clients.append(openai_llm.make({key: getattr(args, key) for key in keys}, note))
    return clients[0]

  with asyncio.Runner() as runner, Ledger(journals / f"ledger-{server}.jsonl", backend) as ledger:

    @contextlib.contextmanager
    def make_judge(comparisons: Sequence[Comparison]) -> Iterator[Judge]:
      path = judges.journal_path(journals, facts, comparisons)
      # What a power cut takes of it costs nothing: the ledger has the answers.
      with Journal(path, sync_every=100) as journal:
        yield judges.LLMJudge(
          ledger, settings, journal, concurrency=args.concurrency, run=runner.run
        )

    try:
      found = judge_all(answered, methods, make_judge)
    finally:
      runner.run(clients[0].close())
    counts = {stage: dataclasses.asdict(c) for stage, c in ledger.report().items()}
  return found | {"requests": counts}, facts


def table(record: Mapping[str, Any]) -> str:
  """The win rates, for a terminal."""
  lines = [f"{record['judge']['name']}: win rate against the base's responses"]
  for method, by in record["win_rate"].items():
    for split, found in by.items():
      label = f"{METHODS[method].label}, {SPLITS[split].lower()}"
      if "mean" not in found:
        lines.append(f"  {label}: nothing judged; set aside: {found['set_aside']}")
        continue
      low, high = found["ci95"] or (float("nan"),) * 2
      flips = found["order_flip_rate"]
      lines.append(
        f"  {label}: {100 * found['mean']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"{found['users']} users, {found['judged']} of {found['comparisons']} judged"
        + (f", order decides {100 * flips:.0f} %" if flips is not None else "")
      )
      if found["set_aside"]:
        lines.append(f"    set aside: {found['set_aside']}")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
