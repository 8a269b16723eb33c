# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the documents that a base is pretrained on."""

import collections
import dataclasses

import numpy as np
import pytest

from fspo_jax.episodes import batching, sampling, templates, tokenizers
from fspo_jax.episodes.pretraining import (
  Mixture,
  Phase,
  PretrainingEpisodes,
  layout,
  reading_question,
)
from fspo_jax.episodes.sampling import Page
from fspo_jax.preferences import Preference
from fspo_jax.worlds import elix_text, roleplay_text
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.elix_topics import SUBJECTS
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld

WORLDS = ReviewsWorld(), ElixWorld(), RoleplayWorld()
PAIRS = 13, 8, 9
ANSWERS = 19, 12, 13
WISHES = 20
ITEMS = 20
PHASE = Phase(
  start=0,
  answers=0.36,
  labels=0.22,
  readings=0.17,
  pages=0.25,
  knowledge=0.1,
  wishes=0.0,
  worlds=(1, 1, 1),
  best=False,
)
MIXTURE = Mixture((PHASE,), PAIRS, ANSWERS, WISHES, rationality=2.2)
KINDS = ("answers", "labels", "readings", "pages", "knowledge", "wishes")


def _only(kind, worlds=WORLDS, rationality=2.2, *, best=False):
  # A weight of next to nothing: knowledge alone is refused, since some worlds have none.
  weights = {k: 1.0 if k == kind else 1e-12 for k in KINDS}
  phase = Phase(start=0, **weights, worlds=(1,) * len(worlds), best=best)
  mixture = Mixture((phase,), *_numbers(worlds), WISHES, rationality)
  return PretrainingEpisodes(worlds, mixture, ITEMS, seed=3)


def _numbers(worlds):
  """Pairs and answers of a document of each of some worlds."""
  found = [(PAIRS[i], ANSWERS[i]) for i in map(WORLDS.index, worlds)]
  return tuple(zip(*found, strict=True))


def _of(world, seed=0):
  phase = dataclasses.replace(PHASE, worlds=(1,))
  mixture = Mixture((phase,), *_numbers((world,)), WISHES, rationality=2.2)
  return PretrainingEpisodes((world,), mixture, ITEMS, seed)


def _kind_of(episode):
  if not episode.shots:
    return "answers"
  if isinstance(episode.shots[0], Page):
    return "knowledge" if episode.description is None else "pages"
  return "readings" if isinstance(episode.shots[-1], Page) else "labels"


def test_documents_are_a_function_of_seed_and_index_in_the_mixtures_proportions():
  episodes = PretrainingEpisodes(WORLDS, MIXTURE, ITEMS, seed=0)
  found = [episodes(i) for i in range(1200)]
  assert found[7] == episodes(7) != PretrainingEpisodes(WORLDS, MIXTURE, ITEMS, seed=1)(7)
  counts = collections.Counter(map(_kind_of, found))
  for kind, weight in zip(KINDS, PHASE.weights, strict=True):
    assert counts[kind] / 1200 == pytest.approx(weight / sum(PHASE.weights), abs=0.05)
  for kind in ("labels", "pages"):
    assert {len(e.shots) for e in found if _kind_of(e) == kind} == set(PAIRS)
  assert {len(e.shots) for e in found if _kind_of(e) == "readings"} == {5 + 10}


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_nothing_is_about_evaluation_users_or_unseen_topics(world):
  people = {world.user_id(user) for user in world.users("train")}
  for episode in map(_of(world), range(150)):
    assert episode.user_id in people
    if _kind_of(episode) == "knowledge":
      known = dict(world.knowledge())
      for page in episode.shots:
        assert known[page.prompt] == page.response
      continue
    prompts = [item.prompt for item in (*episode.shots, *episode.queries)]
    for prompt in prompts:
      assert not any(topic in prompt for topic in world.topics("unseen")) or any(
        topic in prompt for topic in world.topics("train")
      )


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_answers_are_to_the_taste_that_is_described(world):
  episodes = _only("answers", (world,))
  best = []
  for episode in map(episodes, range(100)):
    user = world.read(episode.description)
    for query in episode.queries:
      rewards = world.kind_rewards(world.tastes([user])[0], query.prompt)
      best.append(rewards[world.kind(query.prompt, query.chosen)] == rewards.max())
  # Reviews have up to four tastes, met in 90 % each (the one above all in 99 %).
  assert 0.6 < np.mean(best) < 0.97


def test_a_rational_author_is_always_to_the_taste():
  world = WORLDS[1]
  for episode in map(_only("pages", (world,), rationality=100.0), range(50)):
    user = world.read(episode.description)
    for page in episode.shots:
      rewards = world.kind_rewards(world.tastes([user])[0], page.prompt)
      assert rewards[world.kind(page.prompt, page.response)] == rewards.max()


def test_labels_say_nothing_of_the_user():
  world = WORLDS[2]
  right = []
  for episode in map(_only("labels", (world,)), range(300)):
    user = next(u for u in world.users("train") if world.user_id(u) == episode.user_id)
    for shot in episode.shots:
      lead = np.subtract(
        *(world.reward(user, shot.prompt, t) for t in (shot.chosen, shot.rejected))
      )
      right += [lead > 0] if lead else []
  assert np.mean(right) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_a_reading_describes_whoever_likes_its_response_best(world):
  for episode in map(_only("readings", (world,)), range(60)):
    assert len(episode.shots) == 3 * 5
    for first in range(0, 15, 3):  # a pair, then what its responses are like, in either order
      pair, *pages = episode.shots[first : first + 3]
      assert isinstance(pair, Preference)
      read = {page.prompt: page.response for page in pages}
      words = [read[reading_question(side)] for side in (0, 1)]
      assert words[0] != words[1]
      for text, said in zip((pair.chosen, pair.rejected), words, strict=True):
        kind = world.kind(pair.prompt, text)
        assert said == world.reading(pair.prompt, kind)
        rewards = world.kind_rewards(world.tastes([world.read(said)])[0], pair.prompt)
        assert rewards[kind] == rewards.max()


def test_a_document_grows_the_branches_that_it_has():
  pieces = tokenizers.train(
    (t for w in WORLDS for t in w.corpus(np.random.default_rng(0), 400)),
    vocab_size=600,
    model_type="bpe",
  )
  formatter = templates.Formatter(pieces)
  kind = templates.Kind

  def scored(name):
    episode = _only(name, WORLDS[1:])(0)
    built = templates.build(episode, formatter, layout(ITEMS))
    return episode, collections.Counter((s.kind, s.shots) for s in built.segments)

  episode, found = scored("answers")
  assert found == {(kind.CHOSEN, 0): len(episode.queries), (kind.DESCRIPTION, 0): 1}
  for name in ("labels", "readings", "knowledge"):
    episode, found = scored(name)
    assert found == {(kind.CHOSEN, k): 1 for k in range(len(episode.shots))}
  episode, found = scored("pages")
  count = len(episode.shots)
  assert found == {(kind.CHOSEN, k): 1 for k in range(count)} | {
    (kind.DESCRIPTION, k): 1 for k in range(count + 1)
  }


def test_a_page_is_a_question_and_a_response_and_the_rest_follows():
  pieces = tokenizers.train(["one two three four five"] * 50, vocab_size=300, model_type="bpe")
  formatter = templates.Formatter(pieces)
  episode = sampling.Episode("u", (Page("one", "two"),), (Preference("three", "four", "five"),))
  built = templates.build(episode, formatter, templates.Layout(query_shots=(1,), rejected=False))
  tokens = [
    formatter.tokenizer.bos_id,
    *formatter.question("one"),
    *formatter.answer("two"),
    *formatter.question("three"),
    *formatter.answer("four"),
  ]
  assert built.tree.tokens.tolist() == tokens
  # One path: every token sees all before it.
  assert set(built.tree.subtree_end.tolist()) == {len(tokens)}
  assert templates.Role.DISPREFERRED not in built.tree.roles.tolist()


def test_each_phase_has_its_own_documents():
  later = dataclasses.replace(_only("readings").mixture.phases[0], start=50, worlds=(0, 1, 3))
  episodes = PretrainingEpisodes(
    WORLDS, dataclasses.replace(MIXTURE, phases=(PHASE, later)), ITEMS, 0
  )
  before = PretrainingEpisodes(WORLDS, MIXTURE, ITEMS, 0)
  assert [episodes(i) for i in range(50)] == [before(i) for i in range(50)]
  found = [episodes(i) for i in range(50, 250)]
  assert {*map(_kind_of, found)} == {"readings"}
  # Drawn as often as the phase says: never a review, and elix in one of four.
  counts = collections.Counter(":" in e.shots[1].response for e in found)
  assert not any("spoilers" in e.shots[1].response for e in found)
  assert counts[True] / 200 == pytest.approx(0.25, abs=0.08)


def test_what_a_world_has_not_it_gives_to_the_other_kinds():
  """Reviews have no wishes."""
  weights = dict.fromkeys(KINDS, 0.0) | {"answers": 0.25, "labels": 0.25, "wishes": 0.5}
  phase = Phase(start=0, **weights, worlds=(1,), best=False)
  mixture = Mixture((phase,), *_numbers(WORLDS[:1]), WISHES, 2.2)
  episodes = PretrainingEpisodes(WORLDS[:1], mixture, ITEMS, seed=0)
  counts = collections.Counter(_kind_of(episodes(i)) for i in range(400))
  assert counts["answers"] / 400 == pytest.approx(0.5, abs=0.07)
  assert counts["answers"] + counts["labels"] == 400


def test_learners_wishes_are_their_levels_however_seldom():
  """Two subjects of eleven have levels of their own, and are asked about in half of the wishes."""
  world = WORLDS[1]
  lone = []
  for episode in map(_only("wishes", (world,)), range(30)):
    user = world.read(episode.description)
    for query in episode.queries:
      subject = elix_text.topic(query.prompt)[1]
      assert SUBJECTS[subject] in query.prompt
      assert query.chosen == elix_text.LEVELS[user.levels[subject]]
      lone.append(subject in user.exceptions)
  # Of the levels that a learner has, two of three or one of two are those of single subjects.
  assert np.mean(lone) == pytest.approx((330 * 2 / 3 + 220 / 2) / 550, abs=0.08)


def test_the_best_answers_are_to_seldom_tastes_as_often():
  lone = []
  for episode in map(_only("answers", WORLDS[1:2], best=True), range(60)):
    user = WORLDS[1].read(episode.description)
    assert len({query.prompt for query in episode.queries}) == len(episode.queries) == 12
    lone += [elix_text.topic(query.prompt)[1] in user.exceptions for query in episode.queries]
  # At random it would be 2 / 11.
  assert 0.45 < np.mean(lone) < 0.65


def test_wishes_are_what_nothing_is_better_than():
  """What is said of a persona is enough to know what they like best."""
  world = WORLDS[2]
  episode = _only("wishes", (world,))(0)
  assert len(episode.queries) == WISHES and not episode.shots
  user = world.read(episode.description)
  rewards = {v.wordings: np.dot(user.weights, v.features) for v in roleplay_text.VIEWS}
  liked = [ways for ways, reward in rewards.items() if reward == max(rewards.values())]
  for query in episode.queries:
    assert query.chosen in {way for ways in liked for way in ways}


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_the_best_answers_are_as_good_as_any_that_is_offered(world):
  for episode in map(_only("answers", (world,), best=True), range(20)):
    user = world.read(episode.description)
    for query in episode.queries:
      most = world.kind_rewards(world.tastes([user])[0], query.prompt).max()
      assert world.reward(user, query.prompt, query.chosen) >= most


def test_impossible_mixtures_are_refused():
  with pytest.raises(ValueError, match="not all 0 but for knowledge and wishes"):
    Phase(0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, (1,), best=False)
  with pytest.raises(ValueError, match="rationality=-1"):
    Mixture((PHASE,), PAIRS, ANSWERS, WISHES, -1.0)
  with pytest.raises(ValueError, match=r"pairs=\(4,\), expected 5"):
    Mixture((dataclasses.replace(PHASE, worlds=(1,)),), (4,), (4,), WISHES, 1.0)
  with pytest.raises(ValueError, match=r"answers=\(19, 12\), expected one number for each world"):
    Mixture((PHASE,), PAIRS, ANSWERS[:2], WISHES, 1.0)
  with pytest.raises(ValueError, match="wishes=0, expected 1"):
    Mixture((PHASE,), PAIRS, ANSWERS, 0, 1.0)
  with pytest.raises(ValueError, match=r"phases that start at \[3\]"):
    Mixture((dataclasses.replace(PHASE, start=3),), PAIRS, ANSWERS, WISHES, 1.0)
  with pytest.raises(ValueError, match=r"phases that start at \[0, 0\]"):
    Mixture((PHASE, PHASE), PAIRS, ANSWERS, WISHES, 1.0)
  with pytest.raises(ValueError, match="found 0 worlds"):
    PretrainingEpisodes((), MIXTURE, ITEMS, 0)
  with pytest.raises(ValueError, match="found 2 worlds"):
    PretrainingEpisodes(WORLDS[:2], MIXTURE, ITEMS, 0)
  with pytest.raises(ValueError, match="items=18, expected 20"):
    PretrainingEpisodes(WORLDS, MIXTURE, 18, 0)


def test_documents_fit_rows_of_the_layouts_packing():
  pieces = tokenizers.train(
    (t for w in WORLDS for t in w.corpus(np.random.default_rng(0), 400)),
    vocab_size=600,
    model_type="bpe",
  )
  branches = layout(ITEMS)
  packing = batching.Packing.of(
    branches, shots=ITEMS, queries=ITEMS, episodes=1, tokens=4096, scored_tokens=3072
  )
  episodes = PretrainingEpisodes(WORLDS, MIXTURE, ITEMS, 0)
  rows = batching.Rows(episodes, templates.Formatter(pieces), branches, packing)
  for i in range(20):
    assert rows(i).dropped_shots == 0
