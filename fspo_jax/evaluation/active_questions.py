# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which pair to ask a new user about: the one whose answer tells most of what else they prefer.

FSPO (arXiv 2502.19312) takes the shots that it is given. Here they are chosen, one after another,
from a pool of pairs that the user has not seen, by one of

- random: the next one of the pool
- uncertainty: the one whose answer is predicted least surely
- information: the one whose answer y has the most mutual information with the answers t to some
  other pairs, the targets: the sum over targets of I(y; t | shots). It is what asking is expected
  to take off the entropy of the predictions, all of it under the model itself.

A predictor gives probabilities, and both answers to a candidate are tried in the context: nothing
here knows what a model, or a user, is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

from jaxtyping import Float
import numpy as np
import scipy.special

from fspo_jax.evaluation import statistics
from fspo_jax.preferences import Preference

STRATEGIES = ("random", "uncertainty", "information")


class Predictor(Protocol):
  """What is thought of users who are known by some preferences."""

  def __call__(
    self, contexts: Sequence[Sequence[Preference]], pairs: Sequence[Sequence[Preference]]
  ) -> Float[np.ndarray, "contexts pairs"]:
    """The probability that each context's user prefers the first response of each of its pairs.

    Args:
      contexts: shots of each user, labelled.
      pairs: of each, equally many; `chosen` is the first response, whoever likes it.
    """


@dataclasses.dataclass(frozen=True)
class Task:
  """A user to be asked.

  Attributes:
    user_id: who.
    pool: pairs that can be asked about, in a random order; `chosen` is the first response.
    answers: whether the user would prefer the first response, of each.
    targets: pairs whose answers are to be known; nobody answers them.
    test: pairs with true labels.
  """

  user_id: str
  pool: tuple[Preference, ...]
  answers: tuple[bool, ...]
  targets: tuple[Preference, ...]
  test: tuple[Preference, ...]


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a strategy asked, and what was then known.

  Attributes:
    questions: of each task, the indices into its pool, in order.
    right: whether each test pair is predicted right (0.5 where it is not known), after 0, 1, ...
      questions.
  """

  questions: list[list[int]]
  right: Float[np.ndarray, "questions tasks tests"]


def ask(tasks: Sequence[Task], strategy: str, predict: Predictor, questions: int) -> Asked:
  """Asks every user some questions, one after another.

  Args:
    tasks: the users, with pools, targets and tests of equal sizes.
    strategy: one of `STRATEGIES`.
    predict: what is thought of them, for choosing and for the test.
    questions: how many are asked.

  Raises:
    ValueError: an unknown strategy, or more questions than a pool has.
  """
  if strategy not in STRATEGIES:
    raise ValueError(f"strategy: found {strategy!r}, expected one of {STRATEGIES}")
  smallest = min(len(task.pool) for task in tasks)
  if questions > smallest:
    raise ValueError(f"questions: found {questions}, expected at most the {smallest} of a pool")
  contexts: list[tuple[Preference, ...]] = [() for _ in tasks]
  asked: list[list[int]] = [[] for _ in tasks]
  right = []
  for number in range(questions + 1):
    found = predict(contexts, [task.test for task in tasks])
    right.append(statistics.preference_accuracy(found - 0.5))
    if number == questions:
      break
    for i, choice in enumerate(choices(tasks, contexts, asked, strategy, predict)):
      task = tasks[i]
      pair = task.pool[choice]
      contexts[i] = (*contexts[i], pair if task.answers[choice] else pair.swapped())
      asked[i].append(choice)
  return Asked(asked, np.asarray(right))


def choices(
  tasks: Sequence[Task],
  contexts: Sequence[tuple[Preference, ...]],
  asked: Sequence[Sequence[int]],
  strategy: str,
  predict: Predictor,
) -> list[int]:
  """The index of the pair that each user is asked about next.

  Args:
    tasks: the users, with pools and targets of equal sizes; answers and tests are not looked at.
    contexts: what is known of each.
    asked: the indices into each one's pool that are not to be asked again, equally many.
    strategy: one of `STRATEGIES`.
    predict: what is thought of them.
  """
  left = [[i for i in range(len(t.pool)) if i not in a] for t, a in zip(tasks, asked, strict=True)]
  if strategy == "random":
    return [own[0] for own in left]
  candidates = [[t.pool[i] for i in own] for t, own in zip(tasks, left, strict=True)]
  first = predict(contexts, candidates)
  if strategy == "uncertainty":
    gain = _entropy(first)
  else:
    gain = information(tasks, contexts, candidates, first, predict)
  return [own[best] for own, best in zip(left, gain.argmax(1).tolist(), strict=True)]


def information(
  tasks: Sequence[Task],
  contexts: Sequence[tuple[Preference, ...]],
  candidates: Sequence[Sequence[Preference]],
  first: Float[np.ndarray, "tasks candidates"],
  predict: Predictor,
) -> Float[np.ndarray, "tasks candidates"]:
  """The sum over targets of the mutual information with each candidate's answer, in nats.

  With p the probability of the first answer and a, b those of a target's after either, it is
  H(p a + (1 - p) b) - p H(a) - (1 - p) H(b), H the binary entropy: never less than 0.

  Args:
    tasks: the users, with their targets.
    contexts: what they were asked already.
    candidates: pairs, of each equally many.
    first: the probability of each candidate's first answer.
    predict: what is thought after either answer.
  """
  told, targets = [], []
  for task, context, own in zip(tasks, contexts, candidates, strict=True):
    for pair in own:
      told += [(*context, pair), (*context, pair.swapped())]
      targets += [task.targets] * 2
  after = predict(told, targets).reshape(*first.shape, 2, -1)
  p = first[..., None]
  a, b = after[:, :, 0], after[:, :, 1]
  both = _entropy(p * a + (1 - p) * b) - p * _entropy(a) - (1 - p) * _entropy(b)
  return both.sum(-1)


def _entropy(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
  return scipy.special.entr(p) + scipy.special.entr(1 - p)


def summarize(
  found: Mapping[str, Asked], user_ids: Sequence[str], *, resamples: int
) -> dict[str, Any]:
  """Of each strategy: accuracy by the number of questions, and how many it saves.

  Args:
    found: by strategy, with 'random' among them.
    user_ids: of the tasks.
    resamples: of users, for 95 % intervals.

  Returns:
    {strategy: {"accuracy": [...], "ci95": [...], "needed": n}}: `needed` is the least number of
    questions after which it is as often right as random ones are after all; None if it never is.
  """
  random = found["random"].right.mean((1, 2))
  result = {}
  for name, asked in found.items():
    clusters = np.repeat(np.asarray(user_ids), asked.right.shape[2])
    by_k = [
      statistics.cluster_bootstrap(right.ravel(), clusters, resamples=resamples)
      for right in asked.right
    ]
    means = asked.right.mean((1, 2))
    enough = np.flatnonzero(means >= random[-1])
    result[name] = {
      "accuracy": [x.mean for x in by_k],
      "ci95": [x.ci for x in by_k],
      "needed": int(enough[0]) if len(enough) else None,
    }
  return result
