# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Active questions: how many shots are saved by choosing what a user is asked about?

python experiments/studies/questions.py --workdir=RUN [--users=100] [--out=DIR]

Pairs to ask about are other people's, whose labels nobody knows; information is about the pairs
that are to be predicted, without their labels. Unseen users answer by their true reward, by chance
where they like both equally, and wrong as often as the world's labels are. Probabilities are the
sigmoid of FSPO's margin times a scale, fitted on training users. In the reviews world the same is
done by the ideal observer. Writes questions.json and questions.png.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import pathlib
import sys
from typing import Any

from absl import app, flags
from jaxtyping import Float
import numpy as np
import scipy.optimize
import scipy.special

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.studies.common import record  # noqa: E402
from fspo_jax import logs, recipe  # noqa: E402
from fspo_jax.episodes import batching  # noqa: E402
from fspo_jax.episodes.sampling import Episode  # noqa: E402
from fspo_jax.episodes.templates import Layout  # noqa: E402
from fspo_jax.evaluation import active_questions, plots  # noqa: E402
from fspo_jax.evaluation.active_questions import Predictor, Task  # noqa: E402
from fspo_jax.evaluation.contenders import Models  # noqa: E402
from fspo_jax.evaluation.methods import METHODS  # noqa: E402
from fspo_jax.inference import log_odds  # noqa: E402
from fspo_jax.preferences import Preference  # noqa: E402
from fspo_jax.worlds.reviews import COMBINATION_INDEX, ReviewsWorld, combination_rewards  # noqa: E402
from fspo_jax.worlds.reviews_text import parse  # noqa: E402
from fspo_jax.worlds.world import World  # noqa: E402

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "A finished run of FSPO, of a world.", required=True
)
_USERS = flags.DEFINE_integer("users", 100, "Unseen users who are asked.")
_QUESTIONS = flags.DEFINE_integer("questions", 8, "Questions to each.")
_POOL = flags.DEFINE_integer("pool", 16, "Pairs to choose from, for each user.")
_TESTS = flags.DEFINE_integer("tests", 6, "Pairs of each user that are predicted.")
_OUT = flags.DEFINE_string("out", None, "Folder to write (default: the run's folder 'studies').")


def make_task(world: World[Any], split: str, seed: int, index: int) -> Task:
  """Task `index`: a user of a split, and other people's pairs; a pure function of its numbers."""
  rng = np.random.default_rng([seed, index])
  users, others = world.users(split), world.users("train")
  user = users[rng.integers(len(users))]
  count = _POOL.value + _TESTS.value
  pairs: dict[str, Preference] = {}
  while len(pairs) < count:
    stranger = others[rng.integers(len(others))]
    (pair,) = world.preferences(rng, stranger, 1)
    tested = len(pairs) >= count - _TESTS.value
    lead = _lead(world, user, pair)
    if pair.prompt in pairs or (tested and not lead):
      continue  # whoever likes both equally has no true label
    first = rng.random() < 0.5
    if tested:
      first = lead > 0
    pairs[pair.prompt] = pair if first else pair.swapped()
  found = tuple(pairs.values())
  pool = found[: _POOL.value]
  return Task(
    world.user_id(user),
    pool,
    tuple(_answer(world, user, pair, rng) for pair in pool),
    found[_POOL.value :],  # mutual information does not depend on which response is the first
    found[_POOL.value :],
  )


def _lead(world: World[Any], user: Any, pair: Preference) -> float:
  return world.reward(user, pair.prompt, pair.chosen) - world.reward(
    user, pair.prompt, pair.rejected
  )


def _answer(world: World[Any], user: Any, pair: Preference, rng: np.random.Generator) -> bool:
  """Whether the user says that the first response is better."""
  lead = _lead(world, user, pair)
  if not lead:
    return bool(rng.random() < 0.5)
  return bool((lead > 0) != (rng.random() < world.label_noise))


class ModelPredictor:
  """FSPO's own probabilities: of the margin after the shots, against the base's without any."""

  def __init__(self, models: Models, *, shots: int, rows: int, scale: float = 1.0) -> None:
    self._models, self._shots, self._rows, self.scale = models, shots, rows, scale

  def margins(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """The margin of each pair, its first response against the second, in nats."""
    models = self._models
    told = self._pass(models.policy, contexts, pairs)
    # The reference knows the format and not what labels mean: the shots hardly move it.
    return told - self._pass(models.base, [()] * len(pairs), pairs)

  def __call__(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """See `active_questions.Predictor`."""
    return scipy.special.expit(self.scale * self.margins(contexts, pairs))

  def _pass(
    self,
    params: dict,
    contexts: Sequence[Sequence[Preference]],
    pairs: Sequence[Sequence[Preference]],
  ) -> Float[np.ndarray, "contexts pairs"]:
    episodes = [
      Episode("", tuple(shots), tuple(asked)) for shots, asked in zip(contexts, pairs, strict=True)
    ]
    # Numbers of shots beyond an episode's are those that it has.
    layout = Layout(query_shots=(self._shots,))
    models, count = self._models, len(pairs[0])
    packing = batching.fit_packing(
      episodes, models.formatter, layout, self._shots, queries=count, limit=8192
    )
    # Few shapes, or every question compiles anew.
    packing = dataclasses.replace(
      packing,
      tokens=-(-packing.tokens // 256) * 256,
      scored_tokens=-(-packing.scored_tokens // 256) * 256,
    )
    rows = batching.Rows(lambda i: episodes[i % len(episodes)], models.formatter, layout, packing)
    found = []
    for first in range(0, len(episodes), self._rows):
      batch = batching.stack([rows(i) for i in range(first, first + self._rows)])
      odds = log_odds.of_pairs(
        models.model, params, batch, mesh=models.mesh, vocab_chunk=models.vocab_chunk
      )
      found.append(np.asarray(odds))
    return np.concatenate(found)[: len(episodes), :count]


def fit_scale(predictor: ModelPredictor, tasks: Sequence[Task]) -> float:
  """The scale of margins that makes their sigmoids most likely, after 0 .. all shots of a pool."""
  contexts, tests = [], []
  for i, task in enumerate(tasks):
    told = i % (_QUESTIONS.value + 1)
    answered = zip(task.pool[:told], task.answers[:told], strict=True)
    contexts.append([p if first else p.swapped() for p, first in answered])
    tests.append(task.test)
  h = predictor.margins(contexts, tests)  # the first response is the better one

  def loss(log_scale: float) -> float:
    return float(np.logaddexp(0, -np.exp(log_scale) * h).mean())

  return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-6, 4), method="bounded").x))


class IdealObserver:
  """The reviews world's users, each as likely as any other, and what they have answered."""

  def __init__(self, world: ReviewsWorld) -> None:
    people = [*world.users("train"), *world.users("unseen")]
    self._rewards = np.stack([combination_rewards(tastes) for tastes in people])
    self._noise = world.label_noise

  def __call__(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """See `active_questions.Predictor`."""
    found = []
    for context, asked in zip(contexts, pairs, strict=True):
      posterior = np.ones(len(self._rewards))
      for shot in context:
        posterior *= self._first(shot, self._noise)
      posterior /= posterior.sum()
      found.append([posterior @ self._first(pair, self._noise) for pair in asked])
    # Those whom nothing tells apart are at 0.5 but for the rounding of the sums, which knows which
    # response is the first: in tests, the better one.
    return np.round(found, 9)

  def _first(self, pair: Preference, noise: float) -> Float[np.ndarray, " users"]:
    """The probability that each user prefers the first response."""
    first, second = (COMBINATION_INDEX[parse(text)] for text in (pair.chosen, pair.rejected))
    lead = self._rewards[:, first] - self._rewards[:, second]
    return np.where(lead > 0, 1 - noise, np.where(lead < 0, noise, 0.5))


def main(argv: list[str]) -> None:
  """Asks, summarizes and draws."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  run = recipe.reopen(_WORKDIR.value)
  world = run.plan.data.world
  if world is None:
    raise app.UsageError(f"--workdir={_WORKDIR.value}: nobody could answer; expected a world's run")
  seed = run.plan.seed("evaluation")
  rows = run.plan.settings.rows
  model = ModelPredictor(run.models(), shots=_QUESTIONS.value + 1, rows=rows)
  model.scale = fit_scale(model, [make_task(world, "train", seed + 1, i) for i in range(100)])
  tasks = [make_task(world, "unseen", seed, i) for i in range(_USERS.value)]
  predictors: dict[str, Predictor] = {"model": model}
  if isinstance(world, ReviewsWorld):
    predictors["ideal observer"] = IdealObserver(world)
  ids = [task.user_id for task in tasks]
  entries: dict[str, Any] = {"scale": model.scale}
  for name, predict in predictors.items():
    found = {
      strategy: active_questions.ask(tasks, strategy, predict, _QUESTIONS.value)
      for strategy in active_questions.STRATEGIES
    }
    entries[name] = active_questions.summarize(found, ids, resamples=1000)
    for strategy, summary in entries[name].items():
      curve = " ".join(f"{x:.3f}" for x in summary["accuracy"])
      print(f"{name}, {strategy}: {curve}; needed: {summary['needed']}", flush=True)
  drawn = {name: entries[name] for name in predictors}
  record.write(run, "questions", entries, lambda path: draw(drawn, path), out=_OUT.value)


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
  """Accuracy by the number of questions, a panel for who chooses and predicts."""
  colors = dict(
    zip(
      active_questions.STRATEGIES,
      (METHODS["plain"].color, METHODS["fewshot_prompted"].color, METHODS["fspo"].color),
      strict=True,
    )
  )
  panels = [
    plots.Panel(
      f"preference accuracy, {name}",
      [
        plots.Line(strategy, colors[strategy], range(len(s["accuracy"])), s["accuracy"], s["ci95"])
        for strategy, s in summary.items()
      ],
      percent=True,
    )
    for name, summary in found.items()
  ]
  plots.panels(panels, path, xlabel="questions that the user has answered")


if __name__ == "__main__":
  logs.run(main)
