# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a run: every method, every number of shots, every split, on unseen users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import logging
from typing import Any

import jax
from jaxtyping import Float
import numpy as np

from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode, EpisodeFn
from fspo_jax.episodes.templates import Context, Formatter, Layout
from fspo_jax.evaluation import preference_accuracy, statistics, win_rate
from fspo_jax.evaluation.preference_accuracy import PairScores
from fspo_jax.evaluation.report import UserSample
from fspo_jax.evaluation.truth import Truth
from fspo_jax.inference.personalizer import Personalizer
from fspo_jax.inference.sampler import Decoding
from fspo_jax.models import transformer

_LOG = logging.getLogger(__name__)

Margins = Float[np.ndarray, " episodes"]
# Whether rules that know nothing of the user are right (1, or 0.5 where they cannot tell):
# (user_id, query) pairs -> {rule: one number per query}.
BaselineFn = Callable[[Sequence[tuple[str, Any]]], Mapping[str, Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How much is evaluated, and how. The fields are the keys of `config.evaluation`."""

  shots: int
  episodes: int
  rows: int
  max_row_tokens: int
  rat_episodes: int
  win_rate_users: int
  win_rate_prompts: int
  sample_users: int
  temperatures: tuple[float, ...]
  top_p: float
  description_temperature: float
  max_response_tokens: int
  max_description_tokens: int
  bootstrap: int

  def __post_init__(self) -> None:
    if self.shots < 0 or self.episodes < 1 or self.rows < 1:
      raise ValueError(
        f"evaluation.shots={self.shots} must be 0 or more, evaluation.episodes={self.episodes} and "
        f"evaluation.rows={self.rows} 1 or more"
      )
    for temperature in (*self.temperatures, self.description_temperature):
      Decoding(temperature, self.top_p, self.max_response_tokens)
    Decoding(0.0, 1.0, self.max_description_tokens)
    if not self.temperatures or self.win_rate_prompts < 1 or self.bootstrap < 1:
      raise ValueError(
        "evaluation.temperatures needs one or more, evaluation.win_rate_prompts and "
        f"evaluation.bootstrap are 1 or more: found {self.temperatures}, {self.win_rate_prompts}, "
        f"{self.bootstrap}"
      )
    if self.rat_episodes > self.episodes or self.win_rate_users > self.episodes:
      raise ValueError(
        f"evaluation.rat_episodes={self.rat_episodes} and evaluation.win_rate_users="
        f"{self.win_rate_users} are the first of evaluation.episodes={self.episodes} episodes and "
        "cannot be more"
      )


@dataclasses.dataclass(frozen=True)
class Models:
  """The frozen reference (the SFT model) and the policy trained from it."""

  model: transformer.Transformer
  reference: dict
  policy: dict
  formatter: Formatter
  mesh: jax.sharding.Mesh
  vocab_chunk: int

  def personalizer(self, params: dict) -> Personalizer:
    """A Personalizer with the given parameters: the reference's or the policy's."""
    return Personalizer(self.model, params, self.formatter)


@dataclasses.dataclass(frozen=True)
class SplitResult:
  """All that is measured on one split; see `results.py` for the keys."""

  accuracy: dict[str, dict[str, float]]
  intervals: dict[str, dict[str, list[float] | None]]
  bayes: dict[str, float]
  win_rates: dict[float, dict[str, dict[str, Any]]]
  descriptions: dict[str, Any]
  baselines: dict[str, statistics.Interval]
  facts: dict[str, float]
  samples: list[UserSample]


def _fit_packing(
  fn: EpisodeFn,
  count: int,
  formatter: Formatter,
  layout: Layout,
  shots: int,
  limit: int,
) -> batching.Packing:
  """The smallest row that holds each of the episodes, at most `limit` tokens."""
  tokens, scored = batching.largest(fn, count, formatter, layout)

  def up(n: int) -> int:
    return min(-(-n // 32) * 32, limit)

  return batching.Packing.of(
    layout, shots=shots, queries=1, episodes=1, tokens=up(tokens), scored_tokens=up(scored)
  )


class SplitEvaluation:
  """One split's episodes, and what each method makes of them."""

  def __init__(
    self,
    split: str,
    episode_fn: EpisodeFn,
    models: Models,
    settings: Settings,
    *,
    seed: int,
  ) -> None:
    self.split, self.models, self.settings = split, models, settings
    self.shots, self.seed = settings.shots, seed
    self.episodes = [episode_fn(i) for i in range(settings.episodes)]
    self.user_ids = [episode.user_id for episode in self.episodes]
    self.described = all(episode.description for episode in self.episodes)

  def _stream(self, *names: object) -> int:
    """The seed of one use of randomness, which no other use, split or seed shares."""
    text = repr((self.seed, self.split, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])

  def _score(
    self, params: dict, episodes: Sequence[Episode], layout: Layout, label: str
  ) -> PairScores:
    s, m = self.settings, self.models
    packing = _fit_packing(
      episodes.__getitem__,
      len(episodes),
      m.formatter,
      layout,
      self.shots,
      s.max_row_tokens,
    )
    # Rows past the last episode fill the last batch up; they are not counted.
    rows = batching.Rows(lambda i: episodes[i % len(episodes)], m.formatter, layout, packing)
    return preference_accuracy.score_pairs(
      m.model,
      params,
      rows,
      len(episodes),
      rows_per_batch=s.rows,
      mesh=m.mesh,
      vocab_chunk=m.vocab_chunk,
      label=f"{self.split}: {label}",
    )

  def margins(self) -> tuple[dict[str, list[Margins]], dict[str, Any]]:
    """The margin of each method's episodes for k = 0, 1, ...; and facts about the run.

    Every margin is a log-probability ratio to a frozen reference that knows nothing of the user
    (base alone, which is that reference, is scored by its raw margin): the reference sees the same
    shots for FSPO, as in training, and the question alone for few-shot prompting. It never sees a
    description.
    """
    ks = range(self.shots + 1)
    layout = Layout(query_shots=tuple(ks))
    policy = self._score(self.models.policy, self.episodes, layout, "policy")
    reference = self._score(self.models.reference, self.episodes, layout, "reference")
    count = len(self.episodes)
    ref = [reference.at(k, Context.SHOTS, count) for k in ks]
    pol = [policy.at(k, Context.SHOTS, count) for k in ks]
    margins = {
      "base": [ref[0]] * len(ks),
      "fewshot_prompted": [r - ref[0] for r in ref],
      "fspo": [p - r for p, r in zip(pol, ref, strict=True)],
    }
    facts = {
      "padding_fraction": policy.padding_fraction,
      "dropped_shots": policy.dropped_shots,
    }
    return margins, facts | {"reference": ref}

  def described_margins(
    self, ref: list[Margins]
  ) -> tuple[dict[str, list[Margins]], list[list[str]]]:
    """The same for descriptions, written and gold, on the first `rat_episodes` episodes.

    Returns:
      The margins, and the description written for each episode after 0, 1, ... shots.
    """
    ks = tuple(range(self.shots + 1))
    layout = Layout(description_shots=ks, description_queries=ks)
    episodes = self.episodes[: self.settings.rat_episodes]
    written = self.write_descriptions(episodes)
    told = [
      dataclasses.replace(e, written=tuple(w)) for e, w in zip(episodes, written, strict=True)
    ]
    margins = {}
    for method, given in (("fspo_rat", told), ("oracle", episodes)):
      scores = self._score(self.models.policy, given, layout, method)
      margins[method] = [
        scores.at(k, Context.DESCRIPTION, len(episodes)) - ref[k][: len(episodes)] for k in ks
      ]
    return margins, written

  def write_descriptions(self, episodes: Sequence[Episode]) -> list[list[str]]:
    """A description of each user after each number of shots, sampled from the policy."""
    s = self.settings
    decoding = Decoding(s.description_temperature, 1.0, s.max_description_tokens)
    personalizer = self.models.personalizer(self.models.policy)
    contexts = [e.shots[:k] for e in episodes for k in range(self.shots + 1)]
    flat = personalizer.describe(contexts, decoding, seed=self._stream("descriptions"))
    step = self.shots + 1
    return [[w.text for w in flat[i : i + step]] for i in range(0, len(flat), step)]

  def win_rates(
    self, truth: Truth, written: list[list[str]]
  ) -> tuple[dict[float, dict[str, dict[str, Any]]], list[UserSample]]:
    """Win rates at each temperature, and three users' responses at the first."""
    s = self.settings
    episodes = self.episodes[: s.win_rate_users]
    users = [truth.user(i) for i in range(len(episodes))]
    prompts = win_rate.draw_prompts(
      truth.question, episodes, s.win_rate_prompts, self._stream("prompts")
    )
    if len(written) < len(episodes):
      written = written + self.write_descriptions(episodes[len(written) :])
    players = self._players(episodes, written)
    rates, samples = {}, []
    for temperature in s.temperatures:
      decoding = Decoding(temperature, s.top_p, s.max_response_tokens)
      match = win_rate.play(
        truth.world, users, prompts, players, decoding, seed=self._stream("responses", temperature)
      )
      ids = self.user_ids[: len(episodes)]
      rates[temperature] = {name: match.interval(name, ids, s.bootstrap) for name in players}
      _LOG.info("%s: responses cut at the limit: %s", self.split, match.unfinished)
      samples = samples or self._samples(match, prompts, written)
    return rates, samples

  def _players(
    self, episodes: Sequence[Episode], written: list[list[str]]
  ) -> dict[str, win_rate.Player]:
    sft = self.models.personalizer(self.models.reference)
    fspo = self.models.personalizer(self.models.policy)
    shots = [e.shots for e in episodes]
    nothing = [()] * len(episodes)
    return {
      "base": win_rate.Player(sft, nothing, None),
      "fewshot_prompted": win_rate.Player(sft, shots, None),
      "fspo": win_rate.Player(fspo, shots, None),
      "fspo_rat": win_rate.Player(fspo, shots, [w[-1] for w in written[: len(episodes)]]),
      "oracle": win_rate.Player(fspo, shots, [e.description for e in episodes]),
    }

  def samples(self) -> list[UserSample]:
    """What each method answers to some users' own queries, where nobody judges it."""
    s = self.settings
    episodes = self.episodes[: s.sample_users]
    decoding = Decoding(s.temperatures[0], s.top_p, s.max_response_tokens)
    sft = self.models.personalizer(self.models.reference)
    fspo = self.models.personalizer(self.models.policy)
    shots, prompts = [e.shots for e in episodes], [[e.queries[0].prompt] for e in episodes]
    seed = self._stream("samples")
    answers = {
      "base": sft.respond([()] * len(episodes), prompts, decoding, seed=seed),
      "fewshot_prompted": sft.respond(shots, prompts, decoding, seed=seed),
      "fspo": fspo.respond(shots, prompts, decoding, seed=seed),
    }
    return [
      UserSample(
        user_id=episode.user_id,
        description=episode.description,
        shots=episode.shots,
        prompt=episode.queries[0].prompt,
        responses={name: written[i][0].text for name, written in answers.items()},
      )
      for i, episode in enumerate(episodes)
    ]

  def _samples(
    self, match: win_rate.Match, prompts: list[list[str]], written: list[list[str]]
  ) -> list[UserSample]:
    return [
      UserSample(
        user_id=self.user_ids[i],
        description=self.episodes[i].description,
        shots=self.episodes[i].shots,
        prompt=prompts[i][0],
        responses={name: answers[i][0] for name, answers in match.responses.items()},
        rewards={name: float(values[i][0]) for name, values in match.rewards.items()},
        written_description=written[i][-1],
      )
      for i in range(min(self.settings.sample_users, len(prompts)))
    ]

  def ceiling(self, truth: Truth) -> dict[str, float]:
    """The best any method could reach on these very episodes; see `truth` for its prior."""
    preferred = truth.ceiling(self.episodes, range(self.shots + 1))
    # Rounded: with no shots the two probabilities are equal, but for the order of their sums.
    right = statistics.preference_accuracy(np.round(preferred - 0.5, 9)).mean(0)
    return {str(k): float(x) for k, x in enumerate(right)}

  def intervals(
    self, margins: dict[str, list[Margins]]
  ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, list[float] | None]]]:
    """Accuracy and 95 % interval by bootstrap over users, of each method and k."""
    accuracy: dict[str, dict[str, float]] = {}
    ci: dict[str, dict[str, list[float] | None]] = {}
    for method, by_k in margins.items():
      accuracy[method], ci[method] = {}, {}
      for k, values in enumerate(by_k):
        scored = ~np.isnan(values)  # rows with dropped shots have no pair at the largest k
        users = np.asarray(self.user_ids[: len(values)])[scored]
        found = statistics.cluster_bootstrap(
          statistics.preference_accuracy(values[scored]), users, resamples=self.settings.bootstrap
        )
        accuracy[method][str(k)] = found.mean
        ci[method][str(k)] = found.ci
    return accuracy, ci


def evaluate_split(
  evaluation: SplitEvaluation,
  *,
  truth: Truth | None,
  baselines: BaselineFn | None,
) -> SplitResult:
  """Measures everything that can be measured on a split.

  Args:
    evaluation: the split's episodes and the models.
    truth: the world behind the users, where there is one: it judges, and sets the ceiling.
    baselines: what rules that know nothing of the user reach.
  """
  margins, facts = evaluation.margins()
  reference = facts.pop("reference")
  written: list[list[str]] = []
  if evaluation.described and evaluation.settings.rat_episodes:
    described, written = evaluation.described_margins(reference)
    margins |= described
  accuracy, intervals = evaluation.intervals(margins)
  ceiling, rates, samples, descriptions = {}, {}, [], {}
  if truth is not None:
    ceiling = evaluation.ceiling(truth)
    if evaluation.settings.win_rate_users:
      rates, samples = evaluation.win_rates(truth, written)
    if written:
      f1 = [
        [truth.world.description_f1(truth.user(i), text) for text in own]
        for i, own in enumerate(written)
      ]
      descriptions = {str(k): float(x) for k, x in enumerate(np.mean(f1, axis=0))}
  if not samples and evaluation.settings.sample_users:
    samples = evaluation.samples()
  queries = [(e.user_id, query) for e in evaluation.episodes for query in e.queries]
  rules = {}
  if baselines is not None:
    users = np.asarray([user_id for user_id, _ in queries])
    rules = {
      name: statistics.cluster_bootstrap(
        np.asarray(right), users, resamples=evaluation.settings.bootstrap
      )
      for name, right in baselines(queries).items()
    }
  return SplitResult(accuracy, intervals, ceiling, rates, descriptions, rules, facts, samples)
