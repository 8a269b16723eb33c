# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what users are asked, with an observer who knows exactly what can be known."""

import numpy as np
import pytest

from fspo_jax.evaluation import active_questions
from fspo_jax.evaluation.active_questions import STRATEGIES, Task, ask, information
from fspo_jax.preferences import Preference
from fspo_jax.worlds.reviews import ReviewsWorld
from tests import tiny

# Users are bits (a, b), equally likely. A pair is about one of them, or about neither: "a1" is
# liked by whoever has a = 1.
USERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
NOISE = 0.1


def _pair(about, number):
  return Preference(f"{about} {number}", f"{about}1", f"{about}0")


def _first(pair):
  """The probability that each user prefers the first response."""
  about, value = pair.chosen
  if about == "n":
    return np.full(4, 0.5)
  likes = USERS[:, "ab".index(about)] == int(value)
  return np.where(likes, 1 - NOISE, NOISE)


def _predict(contexts, pairs):
  """Bayes, over the four users."""
  found = []
  for context, asked in zip(contexts, pairs, strict=True):
    posterior = np.prod([np.ones(4), *map(_first, context)], axis=0)
    posterior /= posterior.sum()
    found.append([posterior @ _first(pair) for pair in asked])
  return np.asarray(found)


def _task(user, *, targets=("a",)):
  """What is wanted is a; the pool begins with pairs that tell nothing of it."""
  pool = (_pair("n", 0), _pair("b", 1), _pair("a", 2), _pair("n", 3))
  answers = tuple(bool(_first(p)[user] > 0.5) for p in pool)
  asked = tuple(_pair(about, 10 + i) for i, about in enumerate(targets))
  test = _pair("a", 20)
  return Task(f"user {user}", pool, answers, asked, (test if USERS[user, 0] else test.swapped(),))


def test_asks_what_tells_most():
  """Of a, the pair about a tells all there is; the first of the pool tells nothing."""
  tasks = [_task(user) for user in range(4)]
  assert ask(tasks, "information", _predict, 1).questions == [[2]] * 4
  assert ask(tasks, "random", _predict, 3).questions == [[0, 1, 2]] * 4
  right = ask(tasks, "information", _predict, 1).right
  np.testing.assert_array_equal(right[0], 0.5)
  np.testing.assert_array_equal(right[1], 1.0)


def test_asks_nothing_twice_and_keeps_what_it_was_told():
  seen = []

  def predict(contexts, pairs):
    seen.append(list(contexts))
    return _predict(contexts, pairs)

  found = ask([_task(2)], "uncertainty", predict, 4)
  assert sorted(found.questions[0]) == [0, 1, 2, 3]
  (told,) = seen[-1]  # at the last test
  pool, answers = _task(2).pool, _task(2).answers
  expected = [pool[i] if answers[i] else pool[i].swapped() for i in found.questions[0]]
  assert list(told) == expected


def test_information_is_mutual_information():
  """Against the sum over the joint distribution of both answers, p(y, t) log p(y, t)/p(y)p(t)."""
  task = _task(1, targets=("a", "b", "n"))
  context = (task.pool[1],)
  candidates = [[task.pool[0], task.pool[2]]]
  first = _predict([context], candidates)
  found = information([task], [context], candidates, first, _predict)
  posterior = _first(context[0]) / _first(context[0]).sum()
  expected = []
  for candidate in candidates[0]:
    total = 0.0
    for target in task.targets:
      y, t = _first(candidate), _first(target)
      joint = np.array([[posterior @ (u * v) for v in (t, 1 - t)] for u in (y, 1 - y)])
      apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
      total += (joint * np.log(joint / apart)).sum()
    expected.append(total)
  np.testing.assert_allclose(found[0], expected, atol=1e-12)
  assert found[0, 0] < 1e-12 < found[0, 1]


def test_summary_counts_the_questions_that_are_enough():
  tasks = [_task(user) for user in range(4)]
  found = {strategy: ask(tasks, strategy, _predict, 3) for strategy in STRATEGIES}
  summary = active_questions.summarize(found, [t.user_id for t in tasks], resamples=100)
  assert summary["random"]["needed"] == 3
  assert summary["information"]["needed"] == 1
  assert summary["information"]["accuracy"][1] == 1.0


def test_impossible_questions_are_refused():
  with pytest.raises(ValueError, match="found 'greedy'"):
    ask([_task(0)], "greedy", _predict, 1)
  with pytest.raises(ValueError, match="at most the 4 of a pool"):
    ask([_task(0)], "random", _predict, 5)


@pytest.fixture(scope="module")
def study():
  """The study's functions, with small numbers in its flags."""
  arguments = ("--workdir=none", "--pool=12", "--tests=8")
  with tiny.script("experiments/studies/questions.py", *arguments) as module:
    yield module


def test_the_ideal_observer_is_asked_better(study):
  """In the reviews world: chosen questions tell an ideal observer more than random ones."""
  world = ReviewsWorld()
  tasks = [study["make_task"](world, "unseen", 0, i) for i in range(40)]
  for task in tasks:
    prompts = [p.prompt for p in (*task.pool, *task.targets, *task.test)]
    assert len(set(prompts)) == 12 + 8
  ideal = study["IdealObserver"](world)
  right = {s: ask(tasks, s, ideal, 6).right.mean((1, 2)) for s in ("random", "information")}
  assert right["random"][6] > 0.7
  assert right["information"][4:].mean() > right["random"][4:].mean()


def test_the_ideal_observer_does_not_know_which_response_is_the_first(study):
  """In tests the first is the better one: rounding errors must not be opinions."""
  world = ReviewsWorld()
  tasks = [study["make_task"](world, "unseen", 1, i) for i in range(40)]
  ideal = study["IdealObserver"](world)
  for told in (0, 1, 4):
    contexts = [task.pool[:told] for task in tasks]
    found = ideal(contexts, [task.test for task in tasks])
    swapped = ideal(contexts, [[pair.swapped() for pair in task.test] for task in tasks])
    np.testing.assert_allclose(found + swapped, 1.0, atol=3e-9)
    assert np.abs(found - 0.5)[found != 0.5].min() > 1e-8
    if not told:
      assert (found == 0.5).any()
