# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the ceilings of any world, against brute force on a tiny one and by simulation."""

import functools
import itertools

import numpy as np
import pytest

from fspo_jax.preferences import Preference
from fspo_jax.worlds import ceiling, elix, kinds, reviews

TOPICS = {"train": ("sun", "moon"), "unseen": ("star",)}
# Each user's reward of four kinds, by topic: ties at all places, and a topic that does not matter.
REWARDS = {
  "sun": [[0.3, 0.7, 0.1, 0.5], [0.3, 0.3, 0.3, 1.5], [2, 2, 1, 1], [0, 0.5, 0, 1], [0] * 4],
  "moon": [[1, 0, 0, 0], [0.2, 0.4, 0.6, 0.8], [5, 5, 5, 5], [0.1, 0.1, 0.3, 0.2], [1, 2, 3, 4]],
  "star": [[0, 0, 0, 1], [1, 2, 2, 2], [3, 1, 2, 0], [0.5] * 4, [4, 3, 2, 2.5]],
}
USERS = tuple(range(5))
PROMPTS = tuple(f"{topic} {i}" for topic in REWARDS for i in range(2))


class _Tiny(kinds.KindsWorld[int]):
  """Three topics, each with two questions; a response is its kind and a word."""

  name, seed = "tiny", 0
  # What ceilings do not ask for.
  describe = read = vague = addition = description_f1 = None
  view = read_view = reading = knowledge = None

  def __init__(self, candidates=3, label_noise=0.1, templates=2):
    self.candidates, self.label_noise, self.templates = candidates, label_noise, templates

  def users(self, split):
    return USERS

  def user_id(self, user):
    return str(user)

  def topics(self, split):
    return TOPICS[split]

  def write_question(self, choose, topic):
    return f"{topic} {choose(self.templates)}"

  def kinds(self, prompt):
    return 4

  def write_response(self, choose, prompt, kind):
    return f"{kind} {'ab'[choose(2)]}"

  def kind(self, prompt, response):
    return int(response[0]) if response[:1].isdigit() else None

  def tastes(self, users):
    return np.eye(len(USERS))[list(users)]

  def kind_rewards(self, tastes, prompt):
    return tastes @ np.asarray(REWARDS[prompt.split()[0]], np.float64)


def _rewards(user, prompt):
  return np.asarray(REWARDS[prompt.split()[0]][user], np.float64)


def _preference(prompt, chosen, rejected):
  return Preference(prompt, f"{chosen} a", f"{rejected} b")


def _random_episodes(rng, count, shots):
  """Distinct prompts and random pairs."""
  episodes = []
  for _ in range(count):
    asked = [PROMPTS[i] for i in rng.permutation(len(PROMPTS))[: shots + 1]]
    pairs = [rng.choice(4, 2, replace=False) for _ in asked]
    episodes.append([_preference(p, a, b) for p, (a, b) in zip(asked, pairs, strict=True)])
  return episodes


def _pair(preference):
  return int(preference.chosen[0]), int(preference.rejected[0])


# Pairs chosen without looking at the user.


def _label_probability(user, preference, noise):
  rewards, (a, b) = _rewards(user, preference.prompt), _pair(preference)
  return 0.5 if rewards[a] == rewards[b] else 1 - noise if rewards[a] > rewards[b] else noise


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_label_ceiling_matches_brute_force(noise):
  episodes = _random_episodes(np.random.default_rng(0), 60, 4)
  ks = (4, 0, 2)
  predictor = ceiling.LabelCeiling(_Tiny(), USERS, noise)
  found = predictor.predict_by_k([e[:-1] for e in episodes], [e[-1] for e in episodes], ks)
  expected = np.empty((len(episodes), len(ks)))
  for row, episode in enumerate(episodes):
    for column, k in enumerate(ks):
      joint = [np.prod([_label_probability(u, p, noise) for p in episode[:k]]) for u in USERS]
      preferred = [_label_probability(u, episode[-1], 0) for u in USERS]
      expected[row, column] = np.dot(joint, preferred) / np.sum(joint)
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_label_ceiling_of_reviews_is_the_rule_of_bayes():
  world = reviews.ReviewsWorld()
  population = reviews.population()[::7]
  rng = np.random.default_rng(0)

  def choose(alternatives):
    return int(rng.integers(alternatives))

  episodes = []
  for _ in range(3):
    texts = [world.write_response(choose, "", int(k)) for k in rng.integers(96, size=10)]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    episodes.append([Preference(world.question(rng), *pair) for pair in pairs])
  predictor = ceiling.LabelCeiling(world, population, 0.05)
  found = predictor.predict_by_k([e[:4] for e in episodes], [e[4] for e in episodes], (0, 4))
  for row, episode in enumerate(episodes):
    margins = np.array(
      [
        [world.reward(u, "", p.chosen) - world.reward(u, "", p.rejected) for p in episode]
        for u in population
      ]
    )
    likelihood = 0.5 + 0.45 * np.sign(margins[:, :4])
    right = 0.5 + 0.5 * np.sign(margins[:, 4])
    posterior = likelihood.prod(1) / likelihood.prod(1).sum()
    np.testing.assert_allclose(found[row], [right.mean(), posterior @ right], rtol=1e-9)


def test_label_ceiling_sees_through_noise_after_many_shots():
  world = _Tiny()
  rng = np.random.default_rng(0)
  pairs = [(p, a, b) for p in PROMPTS for a, b in itertools.combinations(range(4), 2)] * 10
  for user in USERS:
    shots = []
    for prompt, a, b in pairs:
      margin = _rewards(user, prompt)[a] - _rewards(user, prompt)[b]
      prefers = rng.random() < 0.5 + 0.4 * np.sign(margin)
      shots.append(_preference(prompt, *((a, b) if prefers else (b, a))))
    queries = [_preference(*pair) for pair in pairs[:36]]
    predictor = ceiling.LabelCeiling(world, USERS, 0.1)
    found = predictor.predict_by_k([shots] * len(queries), queries, [len(shots)])[:, 0]
    expected = [_label_probability(user, query, 0) for query in queries]
    np.testing.assert_allclose(found, expected, atol=1e-3)


# Fresh preferences.


@functools.cache
def _pair_table(user, topic, candidates):
  """P(best, worst), by enumerating every draw and every permutation of it; None if all tie."""
  rewards = _rewards(user, topic).tolist()
  if min(rewards) == max(rewards):
    return None
  table = np.zeros((4, 4))
  for drawn in itertools.product(range(4), repeat=candidates):
    for order in itertools.permutations(drawn):
      own = [rewards[kind] for kind in order]
      best, worst = order[own.index(max(own))], order[own.index(min(own))]
      table[best, worst] += rewards[best] > rewards[worst]
  return table / table.sum()


def _pair_probability(user, preference, world, noise):
  table = _pair_table(user, preference.prompt.split()[0], world.candidates)
  if table is None:
    return 0.0
  a, b = _pair(preference)
  return (1 - noise) * table[a, b] + noise * table[b, a]


def _prompts_probability(user, known, unknown, query):
  """Of the sequence of `known` prompts, so many `unknown` ones, and the query's."""
  matter = [p for p in PROMPTS if len(set(_rewards(user, p))) > 1]
  total = 0.0
  for between in itertools.permutations([p for p in PROMPTS if p not in (*known, query)], unknown):
    asked = (*known, *between, query)
    left, probability = set(matter), 1.0
    for prompt in asked:
      probability *= (prompt in left) / max(len(left), 1)
      left.discard(prompt)
    total += probability
  return total


def _fresh_episodes(world, count, shots, seed):
  """As the world's episodes are: noisy shots and clean queries from one draw."""
  episodes = []
  for episode in range(count):
    rng = np.random.default_rng([seed, episode])
    drawn = world.preferences(rng, int(rng.integers(len(USERS))), shots + 1, label_noise=0.0)
    flips = rng.random(shots) < world.label_noise
    noisy = [
      Preference(p.prompt, p.rejected, p.chosen) if flip else p
      for p, flip in zip(drawn, flips, strict=False)
    ]
    episodes.append((noisy, drawn[-1]))
  return [noisy for noisy, _ in episodes], [query for _, query in episodes]


@pytest.mark.parametrize("candidates", [2, 3, 4])
def test_kinds_ceiling_matches_brute_force(candidates):
  world = _Tiny(candidates=candidates)
  ks = (0, 1, 3)
  shots, queries = _fresh_episodes(world, 60, 3, seed=candidates)
  found = ceiling.KindsCeiling(world, USERS).predict_by_k(shots, queries, ks)
  expected = np.empty_like(found)
  for row, (own, query) in enumerate(zip(shots, queries, strict=True)):
    flipped = Preference(query.prompt, query.rejected, query.chosen)
    for column, k in enumerate(ks):
      joint = np.array(
        [
          np.prod([_pair_probability(u, p, world, world.label_noise) for p in own[:k]])
          * _prompts_probability(u, tuple(p.prompt for p in own[:k]), 3 - k, query.prompt)
          for u in USERS
        ]
      )
      one, other = (
        joint @ [_pair_probability(u, q, world, 0) for u in USERS] for q in (query, flipped)
      )
      expected[row, column] = one / (one + other)
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_kinds_ceiling_is_calibrated_and_knows_more_than_the_labels():
  world, count, ks = _Tiny(), 1200, (0, 1, 3)
  shots, queries = _fresh_episodes(world, count, 3, seed=0)
  right = ceiling.KindsCeiling(world, USERS).predict_by_k(shots, queries, ks)
  labels = ceiling.LabelCeiling(world, USERS, world.label_noise).predict_by_k(shots, queries, ks)
  accuracy = []
  for column in range(len(ks)):
    sure = np.maximum(right[:, column], 1 - right[:, column])
    tied = np.isclose(right[:, column], 0.5)
    correct = np.where(tied, 0.5, right[:, column] > 0.5)
    error = np.sqrt((sure * (1 - sure)).mean() / count)
    assert abs(correct.mean() - sure.mean()) <= 4 * error
    # The probability given to the truth, which the true model makes largest on the average.
    assert np.log(right[:, column]).mean() > np.log(np.maximum(labels[:, column], 1e-9)).mean()
    accuracy.append(correct.mean())
  assert accuracy[0] + 0.03 < accuracy[1] < accuracy[2] - 0.03


# Both.


def _ceilings():
  world = _Tiny()
  return ceiling.LabelCeiling(world, USERS, 0.1), ceiling.KindsCeiling(world, USERS)


@pytest.mark.parametrize("predictor", _ceilings())
def test_the_order_of_shots_users_and_episodes_does_not_matter(predictor):
  shots, queries = _fresh_episodes(_Tiny(), 40, 3, seed=1)
  found = predictor.predict_by_k(shots, queries, [3, 0])
  reordered = predictor.predict_by_k([own[::-1] for own in shots], queries, [3, 0])
  np.testing.assert_allclose(reordered, found, rtol=1e-12)
  np.testing.assert_allclose(
    predictor.predict_by_k(shots[::-1], queries[::-1], [0, 3]), found[::-1, ::-1], rtol=1e-12
  )
  one = [predictor.predict_by_k([s], [q], [3, 0])[0] for s, q in zip(shots, queries, strict=True)]
  np.testing.assert_allclose(one, found, rtol=1e-12)
  flipped = [Preference(q.prompt, q.rejected, q.chosen) for q in queries]
  np.testing.assert_allclose(
    predictor.predict_by_k(shots, flipped, [3, 0]), 1 - found, rtol=1e-9, atol=1e-12
  )


def test_rewards_that_differ_by_rounding_alone_are_equal(monkeypatch):
  shots, queries = _fresh_episodes(_Tiny(), 40, 3, seed=3)
  found = [predictor.predict_by_k(shots, queries, [0, 3]) for predictor in _ceilings()]
  assert REWARDS["sun"][1] == [0.3, 0.3, 0.3, 1.5] and 0.1 + 0.2 != 0.3
  first, _, *others = REWARDS["sun"]
  monkeypatch.setitem(REWARDS, "sun", [first, [0.1 + 0.2, 0.3, 0.3, 1.5], *others])
  again = [predictor.predict_by_k(shots, queries, [0, 3]) for predictor in _ceilings()]
  np.testing.assert_allclose(again, found, rtol=1e-12)


def test_chunks_do_not_matter(monkeypatch):
  shots, queries = _fresh_episodes(_Tiny(), 25, 3, seed=2)
  for predictor in _ceilings():
    whole = predictor.predict_by_k(shots, queries, [1, 3])
    with monkeypatch.context() as patch:
      patch.setattr(ceiling, "_CHUNK_BYTES", 2 * 4 * 5 * 8 * 7)
      np.testing.assert_array_equal(predictor.predict_by_k(shots, queries, [1, 3]), whole)
    assert predictor.predict_by_k([], [], [1, 3]).shape == (0, 2)
    assert predictor.predict_by_k(shots, queries, []).shape == (25, 0)


def test_every_text_is_found_with_its_probability():
  def write(choose):
    first = choose(3)
    return f"{first}{choose(2)}{choose(2)}" if first == 1 else f"{first}"

  found = dict(ceiling._texts(write))
  tails = {f"1{i}{j}": 1 / 12 for i in range(2) for j in range(2)}
  assert found == {"0": 1 / 3, "2": 1 / 3, **tails}
  assert list(ceiling._texts(lambda choose: "fixed")) == [("fixed", 1.0)]


def test_errors():
  world = _Tiny()
  label, fresh = _ceilings()
  good = [_preference("sun 0", 1, 2), _preference("moon 0", 3, 0)]
  query = _preference("star 0", 3, 0)
  unknown = [good[0], Preference("moon 0", "3 a", "nothing")]
  with pytest.raises(ValueError, match="episode 1: found the response 'nothing' to 'moon 0'"):
    label.predict_by_k([good, unknown], [query, query], [2])
  # A shot that is not read cannot be wrong.
  label.predict_by_k([good, unknown], [query, query], [1])
  with pytest.raises(ValueError, match="episode 0: found 2 shots, expected at least 3"):
    label.predict_by_k([good], [query], [3])
  with pytest.raises(ValueError, match="ks: found -1"):
    label.predict_by_k([good], [query], [-1, 1])
  with pytest.raises(ValueError, match="episode 0: found 'sun 0' twice"):
    fresh.predict_by_k([good], [good[0]], [2])
  nobody_likes = [_preference("moon 0", 0, 3), _preference("star 0", 0, 3)]
  both_ways = [nobody_likes[0], _preference("moon 0", 3, 0), *nobody_likes]
  with pytest.raises(ValueError, match="episode 0: found shots that no user could have made"):
    ceiling.LabelCeiling(world, (1,), 0.0).predict_by_k([both_ways], [query], [4])
  with pytest.raises(ValueError, match="population: found nobody"):
    ceiling.LabelCeiling(world, (), 0.1)
  with pytest.raises(ValueError, match="label_noise: found 0.6"):
    ceiling.LabelCeiling(world, USERS, 0.6)


@pytest.mark.parametrize("picked", [0.0, 0.7])
def test_the_ways_to_draw_and_label_a_pair_have_probability_one(picked):
  """By hand, of five kinds of which a user likes one best."""
  world = elix.ElixWorld(variant="easy")
  users, prompt = world.users("train"), "Explain bail to me."
  rewards = world.kind_rewards(world.tastes(users), prompt)
  pairs = list(itertools.combinations(range(5), 2))
  found = ceiling.LabelCeiling(world, users, 0.1, picked)._likelihoods(rewards, pairs)
  np.testing.assert_allclose(found.sum((0, 1)), 1.0, atol=1e-12)
  # Four of the ten pairs have the best kind: each by picking with 1/4, at random with 1/10.
  own = world.tastes(users)[:, 0]
  for pair, drawn in zip(pairs, found.sum(1), strict=True):
    expected = picked * np.isin(own, pair) / 4 + (1 - picked) / 10
    np.testing.assert_allclose(drawn, expected, atol=1e-12)
