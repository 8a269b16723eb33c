# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a run: every method, every number of shots, every split, on unseen users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import logging
from typing import Any

import numpy as np

from fspo_jax.episodes.sampling import Episode, EpisodeFn
from fspo_jax.evaluation import analysis, calibration, statistics, win_rate
from fspo_jax.evaluation import methods as methods_lib
from fspo_jax.evaluation.contenders import Contender, Margins, Models, Prompted, Scorer
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.evaluation.report_samples import UserSample
from fspo_jax.evaluation.responses import Answered
from fspo_jax.evaluation.truth import Truth
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding

_LOG = logging.getLogger(__name__)

# Whether rules that know nothing of the user are right (1, or 0.5 where they cannot tell):
# (user_id, query) pairs -> {rule: one number per query}.
BaselineFn = Callable[[Sequence[tuple[str, Any]]], Mapping[str, Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Settings:
  """How much is evaluated, and how. The fields are the keys of `config.evaluation`."""

  methods: tuple[str, ...]
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
  descriptions: int
  description_temperature: float
  description_beta: float
  max_response_tokens: int
  max_description_tokens: int
  bootstrap: int

  def __post_init__(self) -> None:
    methods_lib.check(self.methods)
    if self.shots < 0 or self.episodes < 1 or self.rows < 1:
      raise ValueError(
        f"evaluation.shots={self.shots} must be 0 or more, evaluation.episodes={self.episodes} and "
        f"evaluation.rows={self.rows} 1 or more"
      )
    for temperature in (*self.temperatures, self.description_temperature):
      Decoding(temperature, self.top_p, self.max_response_tokens)
    Decoding(0.0, 1.0, self.max_description_tokens)
    if self.descriptions < 1 or (self.descriptions > 1 and not self.description_temperature):
      raise ValueError(
        f"evaluation.descriptions={self.descriptions} and evaluation.description_temperature="
        f"{self.description_temperature}: expected 1 or more, and 1 at temperature 0, where all of "
        "them are the same"
      )
    if self.description_beta <= 0:
      raise ValueError(f"evaluation.description_beta={self.description_beta}: expected more than 0")
    if self.descriptions > 1 and not ("fspo_rat" in self.methods and self.rat_episodes):
      raise ValueError(
        f"evaluation.descriptions={self.descriptions}: found evaluation.methods={self.methods} and "
        f"evaluation.rat_episodes={self.rat_episodes}, expected 'fspo_rat', which writes them, and "
        "1 or more"
      )
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
  answered: list[Answered]
  analysis: dict[str, Any]


class SplitEvaluation:
  """One split's episodes, and what each method makes of them.

  Args:
    split: its name.
    episode_fn: its episodes.
    models: the base and the policy.
    settings: what is evaluated, and how.
    seed: of all that is sampled.
    others: the contenders of the methods that are not a prompt, by method.
  """

  def __init__(
    self,
    split: str,
    episode_fn: EpisodeFn,
    models: Models,
    settings: Settings,
    *,
    seed: int,
    others: Mapping[str, Contender] | None = None,
  ) -> None:
    self.split, self.models, self.settings = split, models, settings
    self.shots, self.seed = settings.shots, seed
    self.episodes = [episode_fn(i) for i in range(settings.episodes)]
    self.user_ids = [episode.user_id for episode in self.episodes]
    self.described = all(episode.description is not None for episode in self.episodes)
    self.scorer = Scorer(
      models,
      shots=settings.shots,
      rows=settings.rows,
      max_row_tokens=settings.max_row_tokens,
      name=split,
    )
    self.contenders = self._contenders(others or {})
    self._written: list[list[str]] = []

  def _contenders(self, others: Mapping[str, Contender]) -> dict[str, Contender]:
    """Of every method that the split's episodes have what it needs for."""
    found: dict[str, Contender] = {}
    for name in self.settings.methods:
      method = METHODS[name]
      after_shots = method.shots and not self.settings.rat_episodes
      if method.description and (after_shots or not self.described):
        continue
      if method.prompted:
        found[name] = Prompted(
          method, self.scorer, self.write_descriptions, self.settings.rat_episodes
        )
      elif name in others:
        found[name] = others[name]
      else:
        raise ValueError(f"evaluation.methods: {name!r} is no prompt, and this run has not made it")
    return found

  def _stream(self, *names: object) -> int:
    """The seed of one use of randomness, which no other use, split or seed shares."""
    text = repr((self.seed, self.split, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])

  def margins(self) -> dict[str, list[Margins]]:
    """The margin of each method's episodes for k = 0, 1, ... shots."""
    return {name: found.margins(self.episodes) for name, found in self.contenders.items()}

  def write_descriptions(self, episodes: Sequence[Episode]) -> list[list[str]]:
    """A description of each user after each number of shots, by the policy; each is made once."""
    done = len(self._written)
    if len(episodes) > done:
      s = self.settings
      decoding = Decoding(s.description_temperature, 1.0, s.max_description_tokens)
      contexts = [e.shots[:k] for e in episodes[done:] for k in range(self.shots + 1)]
      flat = rat.describe(
        self.models.writer(trained=True),
        contexts,
        decoding,
        n=s.descriptions,
        judge=self.models.judge(s.description_beta, rows=s.rows),
        seed=self._stream("descriptions", done),
      )
      step = self.shots + 1
      self._written += [[w.text for w in flat[i : i + step]] for i in range(0, len(flat), step)]
    return self._written[: len(episodes)]

  def matches(self, truth: Truth) -> tuple[dict[float, win_rate.Match], list[list[str]]]:
    """What every method answers at each temperature, and to which prompts of each user."""
    s = self.settings
    episodes = self.episodes[: s.win_rate_users]
    users = [truth.user(i) for i in range(len(episodes))]
    prompts = win_rate.draw_prompts(
      truth.question, episodes, s.win_rate_prompts, self._stream("prompts")
    )
    matches = {}
    for temperature in s.temperatures:
      decoding = Decoding(temperature, s.top_p, s.max_response_tokens)
      matches[temperature] = match = win_rate.play(
        truth.world,
        users,
        episodes,
        prompts,
        self.contenders,
        decoding,
        seed=self._stream("responses", temperature),
      )
      _LOG.info("%s: responses cut at the limit: %s", self.split, match.unfinished)
    return matches, prompts

  def win_rates(self, match: win_rate.Match, users: int) -> dict[str, dict[str, Any]]:
    """The win rate of each method against the base's responses, of so many users."""
    ids = self.user_ids[:users]
    return {n: match.interval(n, ids, self.settings.bootstrap) for n in self.contenders}

  def answered(
    self, matches: Mapping[float, win_rate.Match], prompts: Sequence[Sequence[str]]
  ) -> list[Answered]:
    """All of it as it is stored, for any judge."""
    return [
      Answered(
        split=self.split,
        temperature=temperature,
        user_id=self.user_ids[i],
        description=self.episodes[i].description,
        shots=self.episodes[i].shots,
        prompts=prompts[i],
        responses={name: texts[i] for name, texts in match.responses.items()},
        again=match.again[i],
        rewards={name: values[i].tolist() for name, values in match.rewards.items()},
        rewards_again=match.rewards_again[i].tolist(),
      )
      for temperature, match in matches.items()
      for i in range(len(prompts))
    ]

  def answered_samples(self, samples: Sequence[UserSample]) -> list[Answered]:
    """The samples as they are stored: of users whom nothing judges here."""
    return [
      Answered(
        split=self.split,
        temperature=self.settings.temperatures[0],
        user_id=sample.user_id,
        description=sample.description,
        shots=sample.shots,
        prompts=[sample.prompt],
        responses={name: [text] for name, text in sample.responses.items()},
      )
      for sample in samples
    ]

  def samples(self) -> list[UserSample]:
    """What each method answers to some users' own queries, where nobody judges it."""
    s = self.settings
    episodes = self.episodes[: s.sample_users]
    decoding = Decoding(s.temperatures[0], s.top_p, s.max_response_tokens)
    prompts, seed = [[e.queries[0].prompt] for e in episodes], self._stream("samples")
    answers = {
      name: found.respond(episodes, prompts, decoding, seed=seed)
      for name, found in self.contenders.items()
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

  def samples_of(self, match: win_rate.Match, prompts: list[list[str]]) -> list[UserSample]:
    """Some users' responses to their first prompt."""
    return [
      UserSample(
        user_id=self.user_ids[i],
        description=self.episodes[i].description,
        shots=self.episodes[i].shots,
        prompt=prompts[i][0],
        responses={name: answers[i][0] for name, answers in match.responses.items()},
        rewards={name: float(values[i][0]) for name, values in match.rewards.items()},
        written_description=self._written[i][-1] if i < len(self._written) else None,
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
        # Rows with dropped shots have no pair at the largest k, and some methods skip some ks.
        scored = ~np.isnan(values)
        if not scored.any():
          continue
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
  link: calibration.Link | None = None,
) -> SplitResult:
  """Measures everything that can be measured on a split.

  Args:
    evaluation: the split's episodes and the models.
    truth: the world behind the users, where there is one: it judges, and sets the ceiling.
    baselines: what rules that know nothing of the user reach.
    link: what makes probabilities of log-odds; None where they are none.
  """
  margins = evaluation.margins()
  accuracy, intervals = evaluation.intervals(margins)
  ceiling, rates, samples, descriptions = {}, {}, [], {}
  answered: list[Answered] = []
  more = {"calibration": {} if link is None else analysis.calibrated(margins, link)}
  if truth is not None:
    ceiling = evaluation.ceiling(truth)
    first_queries = [episode.queries[0] for episode in evaluation.episodes]
    more["accuracy_by_attribute"] = analysis.by_attribute(truth.world, first_queries, margins)
    if evaluation.settings.win_rate_users:
      matches, prompts = evaluation.matches(truth)
      rates = {t: evaluation.win_rates(match, len(prompts)) for t, match in matches.items()}
      first, ids = next(iter(matches.values())), evaluation.user_ids[: len(prompts)]
      samples = evaluation.samples_of(first, prompts)
      more["binomial"] = analysis.binomial(first, ids)
      more["paired"] = analysis.paired(first, ids, evaluation.settings.bootstrap)
      answered = evaluation.answered(matches, prompts)
    if "fspo_rat" in evaluation.contenders:
      first = evaluation.episodes[: evaluation.settings.rat_episodes]
      f1 = [
        [truth.world.description_f1(truth.user(i), text) for text in own]
        for i, own in enumerate(evaluation.write_descriptions(first))
      ]
      descriptions = {str(k): float(x) for k, x in enumerate(np.mean(f1, axis=0))}
  if not samples and evaluation.settings.sample_users:
    samples = evaluation.samples()
    answered = evaluation.answered_samples(samples)
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
  facts = evaluation.scorer.facts
  return SplitResult(
    accuracy, intervals, ceiling, rates, descriptions, rules, facts, samples, answered, more
  )
