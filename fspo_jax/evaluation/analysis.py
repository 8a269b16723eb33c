# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What else the outcomes of a split say: what chance explains, and where a method is right.

Each function gives a part of results.json, as JSON has it; `results.py` says what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax.evaluation import calibration, statistics
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.win_rate import Match
from fspo_jax.preferences import Preference
from fspo_jax.worlds.world import World

# Of fewer pairs a share says little.
_FEWEST_PAIRS = 20


def binomial(match: Match, users: Sequence[str]) -> dict[str, Any]:
  """For each method, whether it wins more often than it loses against the base.

  Args:
    match: what was played.
    users: the user id of each row of it.
  """
  return {
    name: dataclasses.asdict(statistics.binomial_test(outcomes.ravel(), _of_items(outcomes, users)))
    for name, outcomes in match.outcomes.items()
    if name != "base"
  }


def paired(match: Match, users: Sequence[str], resamples: int) -> dict[str, Any]:
  """Each variant of FSPO against each other method, on the same prompts.

  Args:
    match: what was played.
    users: the user id of each row of it.
    resamples: of users.

  Returns:
    {ours: {other: ...}}: the difference of their win rates against the base with its interval, two
    p values, and how often ours is preferred to the other's (ties half).
  """
  found: dict[str, dict[str, Any]] = {}
  names = [name for name in METHODS if name in match.outcomes]
  ours = [name for name in names if name.startswith("fspo")]
  for one, other in itertools.product(ours, names):
    if one == other or (other in ours and names.index(other) > names.index(one)):
      continue
    items = _of_items(match.outcomes[one], users)
    compared = statistics.paired(
      match.outcomes[one].ravel(), match.outcomes[other].ravel(), items, resamples=resamples
    )
    found.setdefault(one, {})[other] = {
      "difference": compared.difference.mean,
      "ci95": compared.difference.ci,
      "wilcoxon_p": compared.wilcoxon_p,
      "permutation_p": compared.permutation_p,
      "preferred": float(statistics.win_rate(match.rewards[one], match.rewards[other]).mean()),
      "users": compared.difference.clusters,
    }
  return found


def _of_items(outcomes: Float[np.ndarray, "users prompts"], users: Sequence[str]) -> np.ndarray:
  return np.repeat(np.asarray(users), outcomes.shape[1])


def calibrated(
  margins: Mapping[str, Sequence[Float[np.ndarray, " episodes"]]], link: calibration.Link
) -> dict[str, Any]:
  """How far implicit rewards are calibrated, after all shots, of the trained methods.

  Args:
    margins: of each method, by the number of shots, in nats; nan where not measured.
    link: what makes probabilities of them.
  """
  found = {}
  for name, by_k in margins.items():
    method = METHODS[name]
    values = by_k[-1][~np.isnan(by_k[-1])]
    if method.trained and method.prompted and values.size:
      found[name] = calibration.reliability(link.probability(values))
  return found


def by_attribute(
  world: World[Any],
  queries: Sequence[Preference],
  margins: Mapping[str, Sequence[Float[np.ndarray, " episodes"]]],
) -> dict[str, Any]:
  """Preference accuracy after all shots, by the words in which the two responses differ.

  Where all readings have as many words, each is of an attribute, and what differs is "concise /
  verbose"; else they are the words that apply, and what differs is "outgoing". A pair that differs
  in several counts in each of them. What a response is like is read off it by the world; texts that
  it cannot read are left out.

  Args:
    world: that the queries are of.
    queries: one of each episode.
    margins: of each method, by the number of shots; nan where not measured.

  Returns:
    {"concise / verbose": {"pairs": n, METHOD: accuracy}}, of words with enough pairs. A method
    that was asked about fewer episodes has its accuracy on those.
  """
  readings = [_readings(world, query) for query in queries]
  attributes = len({len(words) for pair in readings for words in pair}) == 1
  episodes: dict[str, list[int]] = {}
  for i, pair in enumerate(readings):
    for name in _differences(pair, attributes):
      episodes.setdefault(name, []).append(i)
  found = {}
  for name, own in sorted(episodes.items()):
    if len(own) < _FEWEST_PAIRS:
      continue
    found[name] = {"pairs": len(own)}
    for method, by_k in margins.items():
      values = by_k[-1][[i for i in own if i < len(by_k[-1])]]
      values = values[~np.isnan(values)]
      if values.size:
        found[name][method] = float(statistics.preference_accuracy(values).mean())
  return found


def _readings(world: World[Any], query: Preference) -> list[list[str]]:
  """What each response of a pair is like; nothing where the world cannot read one."""
  kinds = [world.kind(query.prompt, text) for text in (query.chosen, query.rejected)]
  return [] if None in kinds else [world.reading(query.prompt, k).split(", ") for k in kinds]


def _differences(readings: list[list[str]], attributes: bool) -> list[str]:
  """The words that tell two responses apart: in pairs of an attribute each, or one by one."""
  if not readings:
    return []
  one, other = readings
  if not attributes:
    return sorted({*one} ^ {*other})
  return [" / ".join(sorted(pair)) for pair in zip(one, other, strict=True) if len({*pair}) > 1]
