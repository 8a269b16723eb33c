# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A finished run's FSPO under descriptions that it is told: what each of them is worth."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import app
import numpy as np

from fspo_jax import recipe
from fspo_jax.episodes.sampling import Episode
from fspo_jax.evaluation import evaluate, win_rate
from fspo_jax.evaluation.contenders import Player, Prompted
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Written


class DescribedUsers:
  """Some unseen users of a world, to be described in this way and that.

  Attributes:
    world: theirs.
    users: who they are.
    episodes: of each the first one.
    gold: the description of each that is true.
    models: the base and the policy.
    settings: how the run is evaluated, with these users.
    seed: of all that is sampled.
  """

  def __init__(self, run: recipe.Recipe, *, users: int, prompts: int) -> None:
    """Draws the users, and prompts for each.

    Args:
      run: a finished run.
      users: how many.
      prompts: answered for each.

    Raises:
      UsageError: the run's users are of no world, so that nobody knows what descriptions say.
    """
    plan = run.plan
    source = plan.evaluation["unseen"]
    truth = plan.data.truth(source)
    if truth is None:
      raise app.UsageError(f"--workdir={run.workdir.path}: no world knows what descriptions say")
    self.settings = dataclasses.replace(
      plan.settings,
      methods=("base", "fspo", "fspo_gold"),
      episodes=users,
      rat_episodes=users,
      win_rate_users=users,
      descriptions=1,
    )
    self.seed, self.world, self.models = plan.seed("evaluation"), truth.world, run.models()
    self.episodes = [source(i) for i in range(users)]
    self.users = [truth.user(i) for i in range(users)]
    self.gold = [episode.description for episode in self.episodes]
    self._prompts = win_rate.draw_prompts(truth.question, self.episodes, prompts, self.seed)
    self._evaluation = evaluate.SplitEvaluation(
      "unseen", self.episodes.__getitem__, self.models, self.settings, seed=self.seed
    )
    self._base = _Kept(self._evaluation.contenders["base"])

  def write(self, *, n: int, temperature: float) -> list[str]:
    """A description of each user after all shots, by the policy; see `rat.describe`.

    Args:
      n: written of each, the greedy one among several; the best is kept.
      temperature: of those that are sampled.
    """
    judge = self.models.judge(self.settings.description_beta, rows=self.settings.rows)
    found = rat.describe(
      self.models.writer(trained=True),
      [episode.shots for episode in self.episodes],
      Decoding(temperature, 1.0, self.settings.max_description_tokens),
      n=n,
      judge=judge,
      seed=self.seed,
    )
    return [description.text for description in found]

  def measure(self, texts: Sequence[str] | None) -> dict[str, Any]:
    """Accuracy after all shots, and win rate, each with its 95 % interval by user.

    Args:
      texts: the description of each user that follows the shots; None for none.

    Returns:
      Both, and how many shots rows had no room for; an episode that lost one has no accuracy.
    """
    method = "fspo" if texts is None else "fspo_gold"
    texts = self.gold if texts is None else texts
    told = [
      dataclasses.replace(e, description=text) for e, text in zip(self.episodes, texts, strict=True)
    ]
    s, evaluation = self.settings, self._evaluation
    # What is compared with is no other under another description.
    evaluation.scorer.differences(self.episodes, trained=False, shots=True)
    scorer = evaluation.scorer.without_descriptions()
    player = Prompted(METHODS[method], scorer, evaluation.write_descriptions, s.rat_episodes)
    accuracy, ci = evaluation.intervals({method: player.margins(told)})
    k = str(s.shots)
    return {
      "accuracy": {"mean": accuracy[method].get(k), "ci95": ci[method].get(k)},
      "dropped_shots": scorer.facts["dropped_shots"],
      "win_rate": self.play(method, player, told),
    }

  def play(
    self, method: str, player: Player, episodes: Sequence[Episode] | None = None
  ) -> dict[str, Any]:
    """The win rate of a player against the base's responses, with its interval by user.

    Args:
      method: what it plays as; its randomness depends on that.
      player: who answers.
      episodes: what it is told of the users; None for what is known of them.
    """
    s = self.settings
    match = win_rate.play(
      self.world,
      self.users,
      self.episodes if episodes is None else episodes,
      self._prompts,
      {"base": self._base, method: player},
      Decoding(s.temperatures[0], s.top_p, s.max_response_tokens),
      seed=self.seed,
    )
    return match.interval(method, self._evaluation.user_ids, s.bootstrap)

  def f1(self, texts: Sequence[str]) -> float:
    """The mean F1 of descriptions' tastes with those of the users."""
    found = [self.world.description_f1(u, t) for u, t in zip(self.users, texts, strict=True)]
    return float(np.mean(found))


class _Kept:
  """A player that is always asked the same, and answers once for each seed."""

  def __init__(self, player: Player) -> None:
    self._player = player
    self._answers: dict[int, list[list[Written]]] = {}

  def respond(
    self,
    episodes: Sequence[Episode],
    prompts: Sequence[Sequence[str]],
    decoding: Decoding,
    *,
    seed: int,
  ) -> list[list[Written]]:
    if seed not in self._answers:
      self._answers[seed] = self._player.respond(episodes, prompts, decoding, seed=seed)
    return self._answers[seed]
