# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Contenders: what the evaluation asks of a method, and how prompts to a model answer it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import copy
import dataclasses
from typing import Protocol

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float
import numpy as np

from fspo_jax import sharding
from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import Context, Formatter, Layout
from fspo_jax.evaluation import preference_accuracy
from fspo_jax.evaluation.methods import Method
from fspo_jax.evaluation.preference_accuracy import PairScores
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import transformer

Margins = Float[np.ndarray, " episodes"]
# Descriptions of each episode's user, after 0, 1, ... of the shots: nothing given, all of it made.
Describe = Callable[[Sequence[Episode]], list[list[str]]]


class Player(Protocol):
  """Who answers prompts, in a match against others."""

  def respond(
    self,
    episodes: Sequence[Episode],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    seed: int,
  ) -> list[list[Written]]:
    """A response to each prompt of each episode's user, of whom all shots are known."""


class Contender(Player, Protocol):
  """A method in the evaluation."""

  def margins(self, episodes: Sequence[Episode]) -> list[Margins]:
    """The margin of each episode's query after 0, 1, ... of its shots; nan where not measured."""


@dataclasses.dataclass(frozen=True)
class Models:
  """The frozen base, which is the reference, and the policy trained from it."""

  model: transformer.Transformer
  base: dict
  policy: dict
  formatter: Formatter
  mesh: jax.sharding.Mesh
  vocab_chunk: int

  def writer(self, *, trained: bool) -> Writer:
    """The policy at work, or the base."""
    params = self.policy if trained else self.base
    return Writer(self.model, params, self.formatter, mesh=self.mesh)

  def judge(self, beta: float, *, rows: int) -> rat.Judge:
    """The reference as the judge of descriptions.

    It follows them as instructions; the policy has learned from shots, whose labels these are.
    """
    return rat.Judge(self.writer(trained=False), beta, rows, self.vocab_chunk)


def on_own_device(models: Models) -> Models:
  """The same models on the first device of this process, wherever their parameters were."""
  mesh = sharding.one_device()

  def bring(params: dict) -> dict:
    # All processes take part, and all have all of it then.
    return jax.device_put(
      multihost_utils.process_allgather(params, tiled=True), sharding.replicated(mesh)
    )

  base = bring(models.base)
  policy = base if models.policy is models.base else bring(models.policy)
  return dataclasses.replace(models, base=base, policy=policy, mesh=mesh)


class Scorer:
  """Log-odds of the queries' pairs under the models, each forward pass done once.

  Args:
    models: the base and the policy.
    shots: of an episode.
    rows: scored together.
    max_row_tokens: longer episodes lose whole shots, oldest first, counted.
    name: what progress bars say first.
  """

  def __init__(
    self, models: Models, *, shots: int, rows: int, max_row_tokens: int, name: str
  ) -> None:
    self.models, self.shots = models, shots
    self._rows, self._limit, self._name = rows, max_row_tokens, name
    self._found: dict[tuple[bool, bool, str], tuple[list[Margins], PairScores]] = {}

  def differences(
    self,
    episodes: Sequence[Episode],
    *,
    trained: bool,
    shots: bool,
    described: str = "",
  ) -> list[Margins]:
    """Log-odds, log p(chosen) - log p(rejected), of each query after 0, 1, ... shots.

    Args:
      episodes: the first of the split's; what is found of more of them is kept.
      trained: of the policy, or of the base.
      shots: whether they are in the context; without them the result is the same for every k.
      described: what the descriptions of the episodes are, where they follow the shots; '' for
        none.
    """
    key, count = (trained, shots, described), len(episodes)
    if not shots and not described and (trained, True, "") in self._found:
      # The same number, from the pass that it is compared in: before any shot nothing differs.
      shown = self.differences(episodes, trained=trained, shots=True)
      return [shown[0]] * (self.shots + 1)
    if key not in self._found or len(self._found[key][0][0]) < count:
      self._found[key] = self._score(episodes, *key)
    return [values[:count] for values in self._found[key][0]]

  def without_descriptions(self) -> Scorer:
    """A scorer of the same episodes under other descriptions: it keeps what has none."""
    other = copy.copy(self)
    other._found = {key: found for key, found in self._found.items() if not key[2]}
    return other

  @property
  def facts(self) -> dict[str, float]:
    """How much of the rows was padding, and how many shots they had no room for."""
    scored = [scores for _, scores in self._found.values()]
    return {
      "padding_fraction": float(np.mean([s.padding_fraction for s in scored])),
      "dropped_shots": max(s.dropped_shots for s in scored),
    }

  def _score(
    self, episodes: Sequence[Episode], trained: bool, shots: bool, described: str
  ) -> tuple[list[Margins], PairScores]:
    ks = tuple(range(self.shots + 1)) if shots else (0,)
    if described:
      layout, context = Layout(description_shots=ks, description_queries=ks), Context.DESCRIPTION
    else:
      layout, context = Layout(query_shots=ks), Context.SHOTS
    if not shots:
      episodes = [dataclasses.replace(e, shots=()) for e in episodes]
    models = self.models
    packing = batching.fit_packing(
      episodes, models.formatter, layout, self.shots, limit=self._limit
    )
    # Rows past the last episode fill the last batch up; they are not counted.
    rows = batching.Rows(lambda i: episodes[i % len(episodes)], models.formatter, layout, packing)
    scores = preference_accuracy.score_pairs(
      models.model,
      models.policy if trained else models.base,
      rows,
      len(episodes),
      rows_per_batch=self._rows,
      mesh=models.mesh,
      vocab_chunk=models.vocab_chunk,
      label=f"{self._name}: {'policy' if trained else 'base'}"
      f"{', shots' * shots}{', description' * bool(described)}",
    )
    found = [scores.at(k, context, len(episodes)) for k in ks]
    return found if shots else found * (self.shots + 1), scores


def shots_of(episodes: Sequence[Episode]) -> int:
  """The number of shots of each of some episodes; ValueError if they have different ones."""
  counts = {len(e.shots) for e in episodes}
  if len(counts) != 1:
    raise ValueError(f"expected episodes with equally many shots; found {sorted(counts)}")
  return counts.pop()


def check_one_query(episodes: Sequence[Episode]) -> None:
  """Refuses, with a ValueError, episodes of more or fewer queries than one."""
  queries = {len(e.queries) for e in episodes}
  if queries != {1}:
    raise ValueError(f"expected episodes of one query each; found {sorted(queries)} queries")


@dataclasses.dataclass(frozen=True)
class Prompted:
  """A method that is a prompt to the base or to the policy.

  Attributes:
    method: which one.
    scorer: of the split's episodes.
    describe: writes the descriptions, for a method that uses written ones.
    described_episodes: descriptions after every number of shots cost much: with them the margins
      are of so many of the first episodes.
  """

  method: Method
  scorer: Scorer
  describe: Describe
  described_episodes: int

  def margins(self, episodes: Sequence[Episode]) -> list[Margins]:
    """The log-odds of each query's pair, against those that the method is compared with."""
    m = self.method
    if m.shots and m.description:
      episodes = episodes[: self.described_episodes]
    if m.description == "written":
      told = [
        dataclasses.replace(episode, written=tuple(written))
        for episode, written in zip(episodes, self.describe(episodes), strict=True)
      ]
    else:
      told = episodes
    own = self.scorer.differences(told, trained=m.trained, shots=m.shots, described=m.description)
    if not m.against:
      return own
    base = self.scorer.differences(episodes, trained=False, shots=m.against == "shots")
    return [a - b for a, b in zip(own, base, strict=True)]

  def respond(
    self,
    episodes: Sequence[Episode],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    seed: int,
  ) -> list[list[Written]]:
    """Responses of the model under the method's prompt."""
    m = self.method
    descriptions: list[str | None] | None = None
    if m.description == "written":
      descriptions = [written[-1] for written in self.describe(episodes)]
    elif m.description:
      descriptions = [episode.description for episode in episodes]
    return self.scorer.models.writer(trained=m.trained).respond(
      [episode.shots if m.shots else () for episode in episodes],
      prompts,
      decoding,
      seed=seed,
      descriptions=descriptions,
    )
