# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Win rates: sampled responses, judged by the world's true reward against the base model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from jaxtyping import Float
import numpy as np

from fspo_jax.episodes.sampling import Episode
from fspo_jax.evaluation import statistics
from fspo_jax.evaluation.contenders import Player
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.inference.sampler import Decoding
from fspo_jax.worlds.world import World


@dataclasses.dataclass(frozen=True)
class Match:
  """What every method answered, and how the world's users like it.

  Attributes:
    responses: of each method, for each user, to each prompt.
    rewards: the true reward of each.
    unfinished: fraction of responses cut at the token limit, of each method.
    outcomes: for each method and user, 1 where its response beats the base model's, ties half.
    again: the base's second draw, which the base itself plays against.
    rewards_again: the true reward of each.
  """

  responses: Mapping[str, list[list[str]]]
  rewards: Mapping[str, Float[np.ndarray, "users prompts"]]
  unfinished: Mapping[str, float]
  outcomes: Mapping[str, Float[np.ndarray, "users prompts"]]
  again: list[list[str]]
  rewards_again: Float[np.ndarray, "users prompts"]

  def interval(self, method: str, users: Sequence[str], resamples: int) -> dict[str, Any]:
    """Mean, 95 % interval by bootstrap over users, and number of users."""
    outcomes = self.outcomes[method]
    clusters = np.repeat(np.asarray(users), outcomes.shape[1])
    found = statistics.cluster_bootstrap(outcomes.ravel(), clusters, resamples=resamples)
    return {"mean": found.mean, "ci95": found.ci, "users": found.clusters}


def draw_prompts(
  question: Callable[[np.random.Generator], str],
  episodes: Sequence[Episode],
  count: int,
  seed: int,
) -> list[list[str]]:
  """For each episode, `count` distinct prompts that are not among its shots'."""
  prompts = []
  for index, episode in enumerate(episodes):
    rng = np.random.default_rng([seed, index])
    taken = {shot.prompt for shot in episode.shots}
    own: list[str] = []
    while len(own) < count:
      prompt = question(rng)
      if prompt not in taken:
        own.append(prompt)
        taken.add(prompt)
    prompts.append(own)
  return prompts


def play(
  world: World[Any],
  users: Sequence[Any],
  episodes: Sequence[Episode],
  prompts: Sequence[Sequence[str]],
  players: Mapping[str, Player],
  decoding: Decoding,
  *,
  seed: int,
) -> Match:
  """Every method answers every prompt; the first is the base that the others are judged against.

  The base plays against itself with other random numbers, so that its own rate shows the noise.

  Args:
    world: whose true reward judges.
    users: the world's users.
    episodes: what is known of them.
    prompts: of each user, equally many.
    players: the methods; the first one is the base.
    decoding: how responses are sampled.
    seed: of the sampling.

  Returns:
    Responses, rewards and outcomes.
  """
  base_name = next(iter(players))
  responses, rewards, unfinished = {}, {}, {}

  def answer(
    player: Player, player_seed: int
  ) -> tuple[list[list[str]], Float[np.ndarray, "users prompts"], float]:
    written = player.respond(episodes, prompts, decoding, seed=player_seed)
    texts = [[w.text for w in own] for own in written]
    judged = [
      [world.reward(user, prompt, text) for prompt, text in zip(asked, own, strict=True)]
      for user, asked, own in zip(users, prompts, texts, strict=True)
    ]
    cut = float(np.mean([not w.finished for own in written for w in own]))
    return texts, np.asarray(judged, float), cut

  # A method's randomness does not depend on what else plays.
  order = list(METHODS)
  for name, player in players.items():
    responses[name], rewards[name], unfinished[name] = answer(player, seed + order.index(name))
  again, opponent, _ = answer(players[base_name], seed + len(order))
  outcomes = {
    name: statistics.win_rate(own, opponent if name == base_name else rewards[base_name])
    for name, own in rewards.items()
  }
  return Match(responses, rewards, unfinished, outcomes, again, opponent)
