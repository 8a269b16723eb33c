# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A finished run's FSPO under descriptions that it is told: what each of them is worth."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from fspo_jax import recipe
from fspo_jax.evaluation import evaluate, win_rate
from fspo_jax.inference.sampler import Decoding


class Told:
  """Some unseen users of a world, to be described in this way and that.

  Attributes:
    world: theirs.
    users: who they are.
    episodes: of each the first one.
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
      ValueError: the run's users are of no world, so that nobody knows what descriptions say.
    """
    plan = run.plan
    self.settings = dataclasses.replace(
      plan.settings,
      methods=("base", "fspo", "fspo_gold"),
      episodes=users,
      rat_episodes=users,
      win_rate_users=users,
    )
    self.seed, self.models, source = (
      plan.seed("evaluation"),
      run.models(),
      plan.evaluation["unseen"],
    )
    truth = plan.data.truth(source)
    if truth is None:
      raise ValueError(f"{run.workdir.path}: no world knows what its descriptions say")
    self.world = truth.world
    self.episodes = [source(i) for i in range(users)]
    self.users = [truth.user(i) for i in range(users)]
    self._prompts = win_rate.draw_prompts(truth.question, self.episodes, prompts, self.seed)

  def measure(self, texts: Sequence[str] | None) -> dict[str, Any]:
    """Accuracy after all shots, and win rate, each with its 95 % interval by user.

    Args:
      texts: the description of each user that follows the shots; None for none.

    Returns:
      Both, and how many shots rows had no room for; an episode that lost one has no accuracy.
    """
    method = "fspo" if texts is None else "fspo_gold"
    texts = [e.description for e in self.episodes] if texts is None else texts
    told = [
      dataclasses.replace(e, description=text) for e, text in zip(self.episodes, texts, strict=True)
    ]
    s = self.settings
    evaluation = evaluate.SplitEvaluation(
      "unseen", told.__getitem__, self.models, s, seed=self.seed
    )
    players = {name: evaluation.contenders[name] for name in ("base", method)}
    accuracy, ci = evaluation.intervals({method: players[method].margins(told)})
    k = str(s.shots)
    answers = Decoding(s.temperatures[0], s.top_p, s.max_response_tokens)
    match = win_rate.play(
      self.world, self.users, told, self._prompts, players, answers, seed=self.seed
    )
    return {
      "accuracy": {"mean": accuracy[method].get(k), "ci95": ci[method].get(k)},
      "dropped_shots": evaluation.scorer.facts["dropped_shots"],
      "win_rate": match.interval(method, evaluation.user_ids, s.bootstrap),
    }

  def f1(self, texts: Sequence[str]) -> float:
    """The mean F1 of descriptions' tastes with those of the users."""
    found = [self.world.description_f1(u, t) for u, t in zip(self.users, texts, strict=True)]
    return float(np.mean(found))
