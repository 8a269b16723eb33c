# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a study has found: how often people prefer the personalized response to each arm's.

python -m fspo_jax.study.analysis DIR [--override "why before the planned sample"]

The answers of one participant are not independent. Intervals resample participants, and the test
that counts gives each participant one vote: who preferred ours more often than not, against those
who did not (exact binomial, one-sided; arXiv 2502.19312 tests all comparisons as if independent,
which is reported too). Writes analysis.json and analysis.md.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Sequence
import json
import pathlib
import statistics as stats
import sys
import time
from typing import Any

import numpy as np
import scipy.stats

from fspo_jax.evaluation import statistics
from fspo_jax.evaluation.formatting import p_value
from fspo_jax.pages import markdown as markdown_lib
from fspo_jax.paths import write_atomic
from fspo_jax.study import opening, records
from fspo_jax.study.records import Comparison, Participant
from fspo_jax.study.settings import Settings
from fspo_jax.study.store import Store

_HEADER = (
  "against",
  "win rate",
  "for / against (participants)",
  "p",
  "comparisons",
  "ties",
  "skipped",
)


class TooEarlyError(RuntimeError):
  """The planned sample is not reached, and estimates are not to be looked at."""


def analyze(store: Store, settings: Settings) -> dict[str, Any]:
  """All figures of a study; of whoever has finished and passed the attention checks.

  Args:
    store: of the study.
    settings: of the study.

  Returns:
    What analysis.json holds: `arms` (of those in the analysis), `arms_everybody` (of all
    answers, whoever gave them), `participants` (how many, and why others are left out),
    `seconds` (medians), `events` (such as estimates that were looked at early).
  """
  people, found = records.participants(store), records.comparisons(store)
  excluded = {p.user_id: why for p in people if (why := _why_not(p, settings))}
  kept = [c for c in found if c.user_id not in excluded]
  names = [arm.name for arm in settings.others]
  return {
    "planned_participants": settings.participants,
    "participants": {
      "consented": len(people),
      "finished": sum(p.outcome == "finished" for p in people),
      "analyzed": len(people) - len(excluded),
      "left_out": dict(sorted(collections.Counter(excluded.values()).items())),
    },
    "arms": {name: arm([c for c in kept if c.arm == name]) for name in names},
    "arms_everybody": {name: arm([c for c in found if c.arm == name]) for name in names},
    "seconds": {
      "label": _median([s for p in people for s in p.label_seconds]),
      "comparison": _median([c.seconds for c in kept if c.seconds is not None]),
    },
    "events": [dict(event) for event in store.events()],
  }


def _why_not(person: Participant, settings: Settings) -> str | None:
  if person.outcome != "finished":
    return person.outcome or "not finished"
  if person.failed > settings.attention.allowed_failures:
    return "failed attention checks"
  return None


def arm(comparisons: Sequence[Comparison]) -> dict[str, Any]:
  """How an arm fares: win rate of ours against it, with interval, tests, and by question.

  Ties and identical responses count a half; skipped comparisons do not count.
  """
  told = [c for c in comparisons if c.value is not None]
  counts = collections.Counter(c.choice for c in comparisons)
  result: dict[str, Any] = {
    "comparisons": len(told),
    **{key: counts[key] for key in ("ours", "theirs", "tie", "identical", "skip")},
  }
  if not told:
    return result
  values = np.array([c.value for c in told])
  who = np.array([c.user_id for c in told])
  interval = statistics.cluster_bootstrap(values, who, resamples=10_000)
  test = statistics.binomial_test(values, who)
  first = [c.ours_first == (c.choice == "ours") for c in told if c.choice in ("ours", "theirs")]
  return result | {
    "win_rate": interval.mean,
    "ci95": interval.ci,
    "participants": interval.clusters,
    "participants_for": test.users_for,
    "participants_against": test.users_against,
    "p_participants": test.p_by_user,
    "p_comparisons": test.p,
    "first_chosen": float(np.mean(first)) if first else None,
    "questions": _by_question(told),
  }


def _by_question(told: Sequence[Comparison]) -> list[dict[str, Any]]:
  """Win rate on each prompt. A participant answers it once, so that its answers are independent.

  The interval is Wilson's, a tie being half a win.
  """
  by_prompt: dict[str, list[float]] = collections.defaultdict(list)
  for comparison in told:
    by_prompt[comparison.prompt].append(comparison.value or 0.0)
  found = []
  for prompt, values in sorted(by_prompt.items()):
    low, high = wilson(sum(values), len(values))
    rate = sum(values) / len(values)
    found.append({"prompt": prompt, "n": len(values), "win_rate": rate, "ci95": [low, high]})
  return found


def wilson(wins: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
  """Wilson's interval of a proportion (JASA 22, 1927); `wins` may have halves, of ties."""
  z2 = scipy.stats.norm.ppf((1 + confidence) / 2) ** 2
  middle = (wins + z2 / 2) / (n + z2)
  half = np.sqrt(z2 * (wins * (n - wins) / n + z2 / 4)) / (n + z2)
  return float(middle - half), float(middle + half)


def _median(values: Sequence[float]) -> float | None:
  return stats.median(values) if values else None


def reached(store: Store, settings: Settings) -> bool:
  """Whether the planned sample has finished."""
  return _finished(store) >= settings.participants


def _finished(store: Store) -> int:
  with store.read() as db:
    return db.execute("SELECT count(*) FROM participants WHERE outcome = 'finished'").fetchone()[0]


def allow(store: Store, settings: Settings, override: str, now: float, who: str) -> None:
  """Lets estimates be looked at; what is looked at early is on the record.

  Raises:
    TooEarlyError: before the planned sample, without a reason to override it.
  """
  finished = _finished(store)
  if finished >= settings.participants:
    return
  if not override.strip():
    raise TooEarlyError(
      f"fewer than the planned {settings.participants} participants have finished: looking at "
      "estimates before tempts one to stop when they please. --override=REASON does so all the "
      "same, and is recorded"
    )
  detail = f"{who}, with {finished} of {settings.participants} finished: {override.strip()}"
  store.note("estimates looked at early", detail, now)


def markdown(found: dict[str, Any]) -> str:
  """The analysis, to be read."""
  people = found["participants"]
  lines = [
    "# The human study",
    "",
    f"{people['analyzed']} participants are analyzed, of {people['finished']} who finished and "
    f"{people['consented']} who consented; {found['planned_participants']} were planned.",
    *(f"Left out: {count} ({why})." for why, count in people["left_out"].items()),
    "",
    "How often the personalized response was preferred, ties half. Intervals: 95 %, resampling "
    "participants. p: exact binomial, one-sided; each participant one vote, and in brackets all "
    "comparisons as if independent.",
    "",
    markdown_lib.table(
      _HEADER,
      [
        [name + title, *_row(x)]
        for title, arms in (("", found["arms"]), (", everybody", found["arms_everybody"]))
        for name, x in arms.items()
      ],
    ),
  ]
  for name, x in found["arms"].items():
    if x["comparisons"]:
      rows = [[q["prompt"], str(q["n"]), _rate(q["win_rate"], q["ci95"])] for q in x["questions"]]
      lines += ["", f"## By question, against {markdown_lib.line(name)}", ""]
      lines.append(markdown_lib.table(("question", "n", "win rate"), rows))
  if found["events"]:
    lines += ["", "## On the record", ""]
    for event in found["events"]:
      day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(event["at"]))
      what, detail = (markdown_lib.line(event[key]) for key in ("what", "detail"))
      lines.append(f"- {day}: {what}: {detail}")
  return "\n".join([*lines, ""])


def _row(x: dict[str, Any]) -> list[str]:
  """An arm's cells below `_HEADER`, after its name."""
  if not x["comparisons"]:
    return ["-", "-", "-", "0", "0", str(x["skip"])]
  p, naive = (p_value(x[key]) for key in ("p_participants", "p_comparisons"))
  return [
    _rate(x["win_rate"], x["ci95"]),
    f"{x['participants_for']} / {x['participants_against']} of {x['participants']}",
    f"{p} ({naive})",
    str(x["comparisons"]),
    str(x["tie"] + x["identical"]),
    str(x["skip"]),
  ]


def _rate(rate: float, ci: list[float] | None) -> str:
  return f"{rate:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes the analysis of a study, and prints it."""
  parser = argparse.ArgumentParser(
    prog="python -m fspo_jax.study.analysis", description="Analyzes a human study."
  )
  parser.add_argument("workdir", type=pathlib.Path, help="of the study")
  parser.add_argument("--override", default="", help="why, before the planned sample; recorded")
  flags = parser.parse_args(arguments)
  try:
    study = opening.reopen(flags.workdir)
    allow(study.store, study.settings, flags.override, time.time(), "the command line")
  except (TooEarlyError, ValueError, OSError) as error:
    sys.exit(f"fspo_jax.study: {error}")
  found = analyze(study.store, study.settings)
  text = markdown(found)
  write_atomic(flags.workdir / "analysis.json", (json.dumps(found, indent=2) + "\n").encode())
  write_atomic(flags.workdir / "analysis.md", text.encode())
  print(text)


if __name__ == "__main__":
  main()
