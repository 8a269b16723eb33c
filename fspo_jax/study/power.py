# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How many participants a study needs.

python -m fspo_jax.study.power --win_rate=0.7 --comparisons=4 --icc=0.2 --power=0.9

Exact, of the analysis' own test (one vote a participant, binomial, one-sided). A participant's wins
in m comparisons are beta-binomial, with the mean `win_rate` and `icc` the correlation between two
comparisons of one participant: 0 if people only differ by chance, 1 if each always says the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

import numpy as np
import scipy.stats

_MOST = 5_000  # participants


def votes(win_rate: float, comparisons: int, icc: float) -> tuple[float, float]:
  """The probabilities that a participant prefers ours more often than not, and less often.

  Args:
    win_rate: how often ours is preferred.
    comparisons: of a participant with one arm.
    icc: the correlation of two comparisons of one participant, in [0, 1].

  Raises:
    ValueError: a value out of its range.
  """
  if not 0 < win_rate < 1 or not 0 <= icc <= 1 or comparisons < 1:
    raise ValueError(
      f"win_rate={win_rate}, icc={icc}, comparisons={comparisons}: expected a rate in (0, 1), a "
      "correlation in [0, 1], and 1 or more"
    )
  if icc == 1:
    return win_rate, 1 - win_rate
  if icc == 0:
    wins = scipy.stats.binom(comparisons, win_rate)
  else:
    strength = (1 - icc) / icc  # alpha + beta, as icc = 1 / (alpha + beta + 1)
    wins = scipy.stats.betabinom(comparisons, win_rate * strength, (1 - win_rate) * strength)
  more = float(wins.sf(comparisons // 2))
  less = float(wins.cdf((comparisons + 1) // 2 - 1))
  return more, less


def power(
  participants: int, *, win_rate: float, comparisons: int, icc: float, alpha: float = 0.05
) -> float:
  """The probability that so many participants give p <= alpha.

  Args:
    participants: who finish.
    win_rate: how often ours is truly preferred.
    comparisons: of each with an arm.
    icc: see `votes`.
    alpha: the level of the one-sided test.
  """
  more, less = votes(win_rate, comparisons, icc)
  decided = np.arange(participants + 1)  # the others have as many wins as losses, and no vote
  chance = scipy.stats.binom.pmf(decided, participants, more + less)
  # The fewest votes of n that are enough: p = P(Binomial(n, 1/2) >= votes) <= alpha.
  enough = scipy.stats.binom.isf(alpha, decided, 0.5) + 1
  return float(chance @ scipy.stats.binom.sf(enough - 1, decided, more / (more + less)))


def participants_needed(
  *, win_rate: float, comparisons: int, icc: float, target: float = 0.9, alpha: float = 0.05
) -> int:
  """The fewest participants from which on the power is never below the target again.

  The power of an exact test goes up and down a little as participants are added.

  Raises:
    ValueError: a win rate of one half or less, which no sample shows to be more; or more than
      5,000 participants.
  """
  if not 0 < target < 1 or not 0 < alpha < 1:
    raise ValueError(f"power={target}, alpha={alpha}: expected numbers in (0, 1)")
  more, less = votes(win_rate, comparisons, icc)
  if more <= less:
    raise ValueError(f"win_rate={win_rate}: expected more than 0.5, the rate without any effect")
  high = 2
  keys = {"win_rate": win_rate, "comparisons": comparisons, "icc": icc, "alpha": alpha}
  too_many = ValueError(f"win_rate={win_rate}: it takes more than {_MOST} participants")
  while power(high, **keys) < target:
    if high > _MOST:
      raise too_many
    high *= 2
  # Half of it was too few, unless it is where the search began.
  short = [n for n in range(max(1, high // 2), 2 * high) if power(n, **keys) < target]
  needed = short[-1] + 1 if short else 1
  if needed > _MOST:
    raise too_many
  return needed


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints how many participants are needed, and what others would reach."""
  parser = argparse.ArgumentParser(
    prog="python -m fspo_jax.study.power",
    description="How many participants a study needs.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--win_rate", type=float, default=0.7, help="that is to be found")
  parser.add_argument("--comparisons", type=int, default=4, help="of a participant with an arm")
  parser.add_argument("--icc", type=float, default=0.2, help="correlation within a participant")
  parser.add_argument("--power", type=float, default=0.9, help="probability to find it")
  parser.add_argument("--alpha", type=float, default=0.05, help="level of the one-sided test")
  flags = parser.parse_args(arguments)
  keys = {name: getattr(flags, name) for name in ("win_rate", "comparisons", "icc", "alpha")}
  try:
    needed = participants_needed(target=flags.power, **keys)
  except ValueError as error:
    sys.exit(f"fspo_jax.study: {error}")
  print(f"{needed} participants who finish give a power of {power(needed, **keys):.3f}")
  for count in sorted({needed // 2, needed * 3 // 4, needed * 3 // 2} - {0, needed}):
    print(f"{count}: {power(count, **keys):.3f}")


if __name__ == "__main__":
  main()
