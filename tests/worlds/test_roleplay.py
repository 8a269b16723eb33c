# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the roleplay world and its language."""

import collections
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.worlds import reviews_text, roleplay, roleplay_text, roleplay_topics
from fspo_jax.worlds.roleplay import Persona
from fspo_jax.worlds.roleplay_text import DIMENSIONS, KINDS, TRAITS, VIEWS
from fspo_jax.worlds.roleplay_topics import GOALS

WORLD = roleplay.RoleplayWorld()
ALL_PROMPTS = [roleplay_topics.question(i, goal) for goal in GOALS for i in range(8)]
PROMPT = "How can I learn to cook?"
PERSONAS = roleplay.population()


def _first(_):
  return 0


def _uniform(rng):
  return lambda n: int(rng.integers(n))


def _words(text):
  return f" {reviews_text.normalise(text)} "


def _texts_that_tell_no_view():
  clauses = [clause for table in roleplay_text._CLAUSES.values() for clause in table]
  frames = [*roleplay_text._OPENINGS, *roleplay_text._LEADS, *roleplay_text._CLOSINGS]
  return [*ALL_PROMPTS, *clauses, *frames]


# The language.


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(st.data())
def test_kind_is_the_inverse_of_write_response(data):
  topic = data.draw(st.sampled_from(GOALS))
  prompt = WORLD.write_question(lambda n: data.draw(st.integers(0, n - 1)), topic)
  kind = data.draw(st.integers(0, WORLD.kinds(prompt) - 1))
  text = WORLD.write_response(lambda n: data.draw(st.integers(0, n - 1)), prompt, kind)
  assert WORLD.kind(prompt, text) == kind
  mangled = "\n  " + text.upper().replace(" ", " \t ").replace(".", " ...").replace(",", "")
  assert WORLD.kind(prompt, mangled) == kind
  assert topic in prompt and topic in text
  assert 20 <= len(text.split()) <= 50
  assert 2 <= sum(text.count(mark) for mark in ".?!") <= 3


@hypothesis.given(st.text())
def test_any_text_is_read(text):
  assert WORLD.kind(PROMPT, text) is None
  assert WORLD.read(text).weights == (0,) * 6


def test_kind_of_no_view_of_several_and_of_another_prompts():
  offered = roleplay_text.offer(PROMPT).views
  assert WORLD.kind(PROMPT, "To learn to cook, I would wait. That way you meet people.") is None
  both = f"You could {offered[0].wordings[3]}, or {offered[4].wordings[5]}."
  assert WORLD.kind(PROMPT, both) is None
  other = next(view for view in VIEWS if view not in offered)
  assert WORLD.kind(PROMPT, f"You could {other.wordings[0]}.") is None
  assert WORLD.kind(PROMPT, f"{offered[2].wordings[0]}! {offered[2].wordings[5]}!") == 2
  assert WORLD.kind(PROMPT, f"Your {offered[2].things[1]} is waiting.") == 2


def test_every_wording_tells_its_view_and_nothing_else_does():
  wordings = [(i, wording) for i, view in enumerate(VIEWS) for wording in view.wordings]
  assert len({wording for _, wording in wordings}) == len(wordings) == 24 * 12
  for prompt, kind in itertools.product(ALL_PROMPTS[::8], range(KINDS)):
    assert WORLD.read_view(prompt, WORLD.view(prompt, kind)) == kind
    for wording in roleplay_text.offer(prompt).views[kind].wordings:
      assert WORLD.read_view(prompt, f"I'd {wording.upper()}, of course") == kind
  texts = [(None, _words(text)) for text in _texts_that_tell_no_view()]
  texts += [(i, _words(wording)) for i, wording in wordings]
  for i, view in enumerate(VIEWS):
    for thing in map(_words, view.things):
      assert {j for j, text in texts if thing in text} == {i}, thing


def test_views_differ_and_every_dimension_has_both_sides():
  features = np.asarray([view.features for view in VIEWS])
  assert features.shape == (24, len(DIMENSIONS)) and len(set(map(tuple, features))) == 24
  assert set(np.abs(features).sum(1)) == {3, 4}
  assert (features > 0).sum(0).min() >= 5 and (features < 0).sum(0).min() >= 5


def test_what_is_said_of_a_view_is_true_of_it():
  clauses = {c: feature for feature, table in roleplay_text._CLAUSES.items() for c in table}
  assert len(clauses) == 12 * 8
  for view in VIEWS:
    signs = zip(DIMENSIONS.values(), view.features, strict=True)
    own = {names[sign > 0] for names, sign in signs if sign}
    assert {clauses[remark] for remarks in view.remarks for remark in remarks} == own


def test_a_response_says_three_features_of_its_view():
  rng = np.random.default_rng(0)
  clauses = {c: feature for feature, table in roleplay_text._CLAUSES.items() for c in table}
  for kind, view in enumerate(roleplay_text.offer(PROMPT).views):
    own = {clauses[remark] for remarks in view.remarks for remark in remarks}
    for _ in range(50):
      text = WORLD.write_response(_uniform(rng), PROMPT, kind)
      said = [feature for clause, feature in clauses.items() if clause in text]
      assert len(said) == len(set(said)) == 3 and set(said) <= own


def test_prompts_and_their_goals():
  assert len(set(ALL_PROMPTS)) == len(ALL_PROMPTS) == 8 * len(GOALS) and len(GOALS) >= 120
  for prompt in ALL_PROMPTS:
    assert roleplay_topics.goal_of(prompt) in prompt
    assert roleplay_topics.goal_of(prompt.upper().replace(" ", "\n")) in prompt


def test_an_offer_depends_on_the_goal_alone_and_differs_on_every_dimension():
  other_world = roleplay.RoleplayWorld(seed=7)
  counts = collections.Counter()
  for goal in GOALS:
    prompts = [roleplay_topics.question(i, goal) for i in range(8)]
    offers = {tuple(WORLD.view(p, k) for k in range(WORLD.kinds(p))) for p in prompts}
    assert len(offers) == 1
    views = offers.pop()
    assert views == tuple(other_world.view(prompts[0], k) for k in range(KINDS))
    assert len(set(views)) == KINDS == 6
    for values in roleplay_text.offer(prompts[0]).features:
      assert len(set(values)) > 1
    counts.update(views)
  assert len(counts) == 24 and min(counts.values()) >= 15
  # Pinned, because data sets on disk rely on it.
  names = [WORLD.view(PROMPT, k) for k in range(2)]
  assert names == ["enter a local contest", "follow a phone app"]


def test_length_does_not_depend_on_the_kind():
  rng = np.random.default_rng(0)
  lengths = collections.defaultdict(list)
  for prompt in ALL_PROMPTS[::4]:
    for kind in range(KINDS):
      lengths[WORLD.view(prompt, kind)] += [
        len(WORLD.write_response(_uniform(rng), prompt, kind).split())
        - len(roleplay_topics.goal_of(prompt).split())
        for _ in range(20)
      ]
  means = np.asarray([np.mean(words) for words in lengths.values()])
  assert len(means) == 24
  assert np.abs(means / means.mean() - 1).max() < 0.05
  assert np.std(sum(lengths.values(), [])) > 4


def test_no_two_responses_read_the_same():
  rng = np.random.default_rng(0)
  for kind in range(KINDS):
    texts = {WORLD.write_response(_uniform(rng), PROMPT, kind) for _ in range(3000)}
    # Of 4.5 million pairs; 100,000 equally likely texts would give 45 repeats.
    assert len(texts) > 3000 - 25


def test_the_most_ordinary_wording_comes_first():
  plain = WORLD.write_response(_first, PROMPT, 0)
  assert plain == (
    "To learn to cook, I would enter a local contest. "
    "That way you will meet people, it keeps you moving and it is something new."
  )
  assert WORLD.write_question(_first, "learn to cook") == PROMPT


def test_the_words_are_few():
  texts = [*_texts_that_tell_no_view(), *(w for view in VIEWS for w in view.wordings)]
  texts += [WORLD.describe(user) for user in PERSONAS]
  words = {word for text in texts for word in reviews_text.normalise(text).split()}
  assert len({word for word in words if not word.isdigit()}) < 700


# Users.


def test_population():
  assert len(PERSONAS) == len({user.weights for user in PERSONAS}) == 1500
  assert len({user.about for user in PERSONAS}) > 1400
  for user in PERSONAS:
    absolute = sorted(map(abs, user.weights), reverse=True)
    assert absolute[:2] == [2, 1] and 2 <= np.count_nonzero(absolute) <= 4
    assert 20 <= user.age <= 65
  assert len({WORLD.user_id(user) for user in PERSONAS}) == 1500


def test_splits_partition_the_population():
  train, unseen = WORLD.users("train"), WORLD.users("unseen")
  assert (len(train), len(unseen)) == (1200, 300)
  assert set(train) | set(unseen) == set(PERSONAS)
  assert roleplay.RoleplayWorld(seed=0).users("unseen") == unseen
  assert roleplay.RoleplayWorld(seed=1).users("unseen") != unseen


def test_topics_are_held_out():
  train, unseen = WORLD.topics("train"), WORLD.topics("unseen")
  assert sorted(train + unseen) == sorted(GOALS)
  assert len(unseen) == round(0.2 * len(GOALS))
  assert roleplay.RoleplayWorld(seed=0).topics("unseen") == unseen
  assert roleplay.RoleplayWorld(seed=1).topics("unseen") != unseen
  assert roleplay.RoleplayWorld(unseen_topics=0.0).topics("unseen") == ()
  texts = list(WORLD.corpus(np.random.default_rng(0), 600))
  assert not any(_words(goal) in _words(text) for text in texts for goal in unseen)
  rng = np.random.default_rng(0)
  asked = {roleplay_topics.goal_of(WORLD.question(rng)) for _ in range(1000)}
  assert asked & set(train) and asked & set(unseen)


def test_description_wording():
  user = Persona((2, 1, 0, 1, 0, 0), "Ines", 34, "a nurse", "in a small town", "gardening")
  about = "Ines, 34, a nurse in a small town who likes gardening."
  assert WORLD.describe(user) == f"{about} Above all outgoing; also thrifty, handy."
  assert WORLD.user_id(user) == "outgoing2-thrifty-handy"
  assert WORLD.describe(WORLD.vague(np.random.default_rng(0), user, 1.0)) == about
  assert WORLD.describe(Persona((0, 0, -1, 0, 0, 1))) == "Somebody. Also easygoing, organised."
  assert WORLD.describe(Persona((0,) * 6)) == "Somebody."
  assert WORLD.user_id(Persona((0,) * 6)) == "indifferent"


def test_descriptions_round_trip():
  for user in PERSONAS:
    text = WORLD.describe(user)
    assert WORLD.read(text).weights == user.weights
    assert WORLD.read(text.upper().replace(" ", "\n ")) == user
    assert WORLD.read(user.about).weights == (0,) * 6
    assert WORLD.describe(WORLD.read(text)) == text.replace(user.about, "Somebody.")


@pytest.mark.parametrize(
  "text, weights",
  [
    ("", (0, 0, 0, 0, 0, 0)),
    ("She is thrifty, and above all she is rather solitary. Digital.", (-2, 1, 0, -1, 0, 0)),
    ("Outgoing but solitary; spontaneous", (0, 0, 0, 0, 0, -1)),
    ("Above all outgoing; also solitary.", (0, 0, 0, 0, 0, 0)),
    ("Above all handy. They are also handy.", (0, 0, 0, 2, 0, 0)),
    ("Above all. They are also ADVENTUROUS!", (0, 0, 0, 0, 2, 0)),
    ("Spendthrifty and unorganised", (0, 0, 0, 0, 0, 0)),
  ],
)
def test_read_of_any_text(text, weights):
  assert WORLD.read(text).weights == weights


def test_description_f1():
  user = Persona((2, 1, 0, 1, 0, 0))
  assert WORLD.description_f1(user, WORLD.describe(user)) == 1.0
  assert WORLD.description_f1(user, "Outgoing, thrifty and handy.") == 1.0
  assert WORLD.description_f1(user, "Outgoing and lavish.") == 2 * 1 / 5
  assert WORLD.description_f1(user, "Outgoing, solitary, thrifty.") == 2 * 1 / 4
  assert WORLD.description_f1(user, "A nurse.") == 0.0
  assert WORLD.description_f1(Persona((0,) * 6), "A nurse.") == 1.0


def test_vague_leaves_out_a_share_of_the_tastes():
  rng = np.random.default_rng(0)
  users = [WORLD.vague(rng, user, 0.3) for user in PERSONAS]
  assert [user.about for user in users] == [user.about for user in PERSONAS]
  before, after = WORLD.tastes(PERSONAS), WORLD.tastes(users)
  assert np.all((after == before) | (after == 0))
  assert abs(np.count_nonzero(after) / np.count_nonzero(before) - 0.7) < 0.03
  assert WORLD.vague(rng, PERSONAS[0], 0.0) == PERSONAS[0]


# Additions.


def test_additions_decide_every_pair_that_they_can_as_asked():
  rng = np.random.default_rng(0)
  decided = total = 0
  for user in PERSONAS[::25]:
    description = WORLD.describe(WORLD.vague(rng, user, 0.7))
    for p in WORLD.preferences(rng, user, 12, label_noise=0.0):
      before = WORLD.read(description)
      rewards = [WORLD.reward(before, p.prompt, text) for text in (p.chosen, p.rejected)]
      margin = rewards[0] - rewards[1]
      added = WORLD.addition(_uniform(rng), description, p.prompt, p.chosen, p.rejected)
      description += f" {added}" if added else ""
      after = WORLD.read(description)
      new = np.flatnonzero(np.asarray(after.weights) != before.weights)
      if added:
        assert margin == 0
        assert WORLD.reward(after, p.prompt, p.chosen) > WORLD.reward(after, p.prompt, p.rejected)
        assert len(new) == 1 and before.weights[new[0]] == 0
      else:
        # Already decided, or every dimension that tells the two apart is named.
        kinds = [WORLD.kind(p.prompt, text) for text in (p.chosen, p.rejected)]
        apart = np.diff(roleplay_text.offer(p.prompt).features[:, kinds])[:, 0] != 0
        assert margin or np.all(np.asarray(before.weights)[apart])
      decided, total = decided + bool(margin or added), total + 1
  assert decided > 0.9 * total


def test_every_pair_can_be_decided_either_way():
  rng = np.random.default_rng(0)
  for prompt in ALL_PROMPTS[::40]:
    for a, b in itertools.permutations(range(KINDS), 2):
      chosen, rejected = (WORLD.write_response(_uniform(rng), prompt, k) for k in (a, b))
      added = WORLD.addition(_uniform(rng), "A nurse.", prompt, chosen, rejected)
      user = WORLD.read("A nurse. " + added)
      assert WORLD.reward(user, prompt, chosen) > WORLD.reward(user, prompt, rejected)


def test_no_addition():
  view = roleplay_text.offer(PROMPT).views
  chosen, rejected = view[0].wordings[0], view[1].wordings[0]
  trait = WORLD.addition(_first, "", PROMPT, chosen, rejected)
  assert trait.startswith("They are also ") and trait.endswith(".")
  for a, b in ((chosen, chosen), (chosen, "nothing"), ("nothing", rejected)):
    assert WORLD.addition(_first, "", PROMPT, a, b) is None
  assert WORLD.addition(_first, trait, PROMPT, chosen, rejected) is None
  assert WORLD.addition(_first, trait, PROMPT, rejected, chosen) is None
  # What is named both ways stays undecided: one more word would not help.
  both = " ".join(itertools.chain(*TRAITS))
  assert WORLD.addition(_first, both, PROMPT, chosen, rejected) is None


# Rewards and preferences.


def test_rewards_and_the_best_response():
  user = Persona((2, 1, 0, -1, 0, 0))
  rewards = WORLD.kind_rewards(WORLD.tastes([user, user]), PROMPT)
  assert rewards.shape == (2, KINDS) and WORLD.tastes([]).shape == (0, 6)
  for kind, view in enumerate(roleplay_text.offer(PROMPT).views):
    text = WORLD.write_response(_first, PROMPT, kind)
    expected = 2 * view.features[0] + view.features[1] - view.features[3]
    assert WORLD.reward(user, PROMPT, text) == expected == rewards[1, kind]
  of_all = [2 * v.features[0] + v.features[1] - v.features[3] for v in roleplay_text.VIEWS]
  assert WORLD.reward(user, PROMPT, "I do not know.") == min(of_all) - 1
  rng = np.random.default_rng(0)
  for user in WORLD.users("unseen")[::3]:
    prompt = WORLD.question(rng)
    text = WORLD.best_response(rng, user, prompt)
    best = WORLD.reward(user, prompt, text)
    assert best == max(np.dot(user.weights, view.features) for view in roleplay_text.VIEWS)
    assert best >= WORLD.kind_rewards(WORLD.tastes([user])[0], prompt).max()
    assert roleplay_text.offer(prompt).goal in text


def test_a_view_that_is_not_offered_is_an_answer_too_but_of_no_kind():
  user = Persona((2, 1, 0, -1, 0, 0))
  offered = roleplay_text.offer(PROMPT).views
  for view in roleplay_text.VIEWS:
    text = f"Why not {view.wordings[0]}?"
    assert roleplay_text.read(text) is view
    assert WORLD.reward(user, PROMPT, text) == np.dot(user.weights, view.features)
    assert (WORLD.kind(PROMPT, text) is not None) == (view in offered)
  two = f"{offered[0].wordings[0]}, or {roleplay_text.VIEWS[-1].wordings[0]}"
  assert roleplay_text.read(two) is None and WORLD.kind(PROMPT, two) is None


def test_preferences_are_pure_clean_and_have_distinct_questions():
  draws = [WORLD.preferences(np.random.default_rng([3, i]), PERSONAS[7], 9) for i in (0, 0, 1)]
  assert draws[0] == draws[1] != draws[2]
  rng = np.random.default_rng(0)
  for user in PERSONAS[::50]:
    preferences = WORLD.preferences(rng, user, 30, label_noise=0.0)
    assert len({p.prompt for p in preferences}) == len(preferences) == 30
    for p in preferences:
      assert WORLD.reward(user, p.prompt, p.chosen) > WORLD.reward(user, p.prompt, p.rejected)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_label_noise_rate(noise):
  rng = np.random.default_rng(0)
  user, swapped, count = PERSONAS[0], 0, 0
  for _ in range(10):
    for p in WORLD.preferences(rng, user, 300, label_noise=noise):
      count += 1
      swapped += WORLD.reward(user, p.prompt, p.chosen) < WORLD.reward(user, p.prompt, p.rejected)
  assert abs(swapped / count - noise) <= 4 * np.sqrt(noise * (1 - noise) / count)


# Errors.


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"candidates": 1}, "candidates: found 1"),
    ({"label_noise": 0.5}, "label_noise: found 0.5"),
    ({"unseen_users": -1}, "unseen_users: found -1"),
    ({"unseen_users": 1500}, "unseen_users: found 1500"),
    ({"unseen_topics": -0.1}, "unseen_topics: found -0.1"),
    ({"unseen_topics": 0.999}, "unseen_topics: found 0.999"),
  ],
)
def test_world_refuses(arguments, message):
  with pytest.raises(ValueError, match=message):
    roleplay.RoleplayWorld(**arguments)


def test_other_errors():
  with pytest.raises(ValueError, match="split: found 'curriculum', expected .*train.*unseen"):
    WORLD.users("curriculum")
  with pytest.raises(ValueError, match="split: found 'all', expected .*train.*unseen"):
    WORLD.topics("all")
  with pytest.raises(ValueError, match="prompt 'How are you.': found no goal"):
    WORLD.kinds("How are you?")
  with pytest.raises(ValueError, match="found .*'get fit', 'learn to cook'.*, expected one"):
    WORLD.kind("How can I learn to cook and get fit?", "Cook.")
  with pytest.raises(ValueError, match="not 3 questions that matter"):
    WORLD.preferences(np.random.default_rng(0), Persona((0,) * 6), 3)
  for weights in ((0,) * 5, (3, 0, 0, 0, 0, 0)):
    with pytest.raises(ValueError, match="weights: found"):
      Persona(weights)
