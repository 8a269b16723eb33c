# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the elix world and its language."""

import collections
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.worlds import elix, elix_text
from fspo_jax.worlds import world as world_lib
from fspo_jax.worlds.elix_text import LEVELS, MARKERS
from fspo_jax.worlds.elix_topics import CONCEPTS, SUBJECTS
from fspo_jax.worlds.reviews_text import normalise

HARD = elix.ElixWorld()
EASY = elix.ElixWorld(variant="easy")
WORLDS = {"easy": EASY, "hard": HARD}
EVERYONE = [(world, user) for world in WORLDS.values() for user in elix.population(world.variant)]
ALL_CONCEPTS = [concept for concepts in CONCEPTS.values() for concept in concepts]

levels = st.integers(0, len(LEVELS) - 1)
concepts = st.sampled_from(ALL_CONCEPTS)
learners = st.builds(elix.Learner, st.tuples(*[st.none() | levels] * len(SUBJECTS)))


def _uniform(rng):
  return lambda n: int(rng.integers(n))


def _picks(data):
  return lambda n: data.draw(st.integers(0, n - 1))


def _learner(base=None, **exceptions):
  return elix.Learner(tuple(exceptions.get(subject, base) for subject in SUBJECTS))


def _gain(world, user, pair):
  """How much more the user likes the chosen response."""
  chosen, rejected = (world.reward(user, pair.prompt, r) for r in (pair.chosen, pair.rejected))
  return chosen - rejected


# Topics and questions.


def test_concepts_are_unambiguous():
  assert len(SUBJECTS) == 11 and all(len(found) == 20 for found in CONCEPTS.values())
  assert len(set(ALL_CONCEPTS)) == 220
  for one, other in itertools.permutations(map(normalise, ALL_CONCEPTS + list(SUBJECTS)), 2):
    assert f" {one} " not in f" {other} "


def test_every_question_says_its_concept_and_is_distinct():
  prompts = set()
  for subject, found in enumerate(CONCEPTS.values()):
    for concept in found:
      for template in range(elix_text.QUESTION_TEMPLATES):
        prompt = HARD.write_question(lambda n, template=template: template, concept)
        assert concept in prompt
        assert elix_text.topic(prompt.upper()) == (concept, subject)
        prompts.add(prompt)
  assert len(prompts) == 220 * 8


def test_a_prompt_without_a_concept_is_refused_and_of_several_the_first_counts():
  with pytest.raises(ValueError, match="Explain nothing"):
    HARD.reward(_learner(2), "Explain nothing.", "")
  with pytest.raises(ValueError, match="expected one that names a concept"):
    HARD.write_question(lambda n: 0, "sandwiches")
  assert elix_text.topic("Is bail like gravity?") == ("bail", SUBJECTS.index("law"))


def test_topics_are_held_out_in_every_subject():
  world = elix.ElixWorld(seed=7)
  train, unseen = world.topics("train"), world.topics("unseen")
  assert set(train) | set(unseen) == set(ALL_CONCEPTS) and not set(train) & set(unseen)
  counts = collections.Counter(elix_text.topic(concept)[1] for concept in unseen)
  assert counts == dict.fromkeys(range(11), 4)
  assert unseen == elix.ElixWorld(seed=7, variant="easy").topics("unseen")
  assert unseen != HARD.topics("unseen")
  assert elix.ElixWorld(unseen_topics=0).topics("unseen") == ()
  with pytest.raises(ValueError, match="'test'.*train.*unseen"):
    world.topics("test")


# Responses.


@hypothesis.given(st.data(), concepts, levels)
def test_kind_is_the_inverse_of_write_response(data, concept, level):
  prompt = HARD.write_question(_picks(data), concept)
  text = HARD.write_response(_picks(data), prompt, level)
  assert concept in text
  assert HARD.kind(prompt, text) == level
  mangled = "\n " + text.upper().replace(" ", " \t").replace(",", "").replace(".", " ...")
  assert HARD.kind(prompt, mangled) == level


def test_every_marker_tells_its_level_alone_and_holds_no_other():
  markers = [(k, phrase) for slot in MARKERS for k, row in enumerate(slot) for phrase in row]
  assert len({normalise(wording) for _, wording in markers}) == 3 * 5 * 10
  for level, wording in markers:
    assert HARD.kind("", wording) == level
  for (_, one), (_, other) in itertools.permutations(markers, 2):
    assert f" {normalise(one)} " not in f" {normalise(other)} "


@hypothesis.given(st.data(), concepts, levels, levels)
def test_texts_of_no_level_or_several_have_no_kind(data, concept, one, other):
  prompt = HARD.write_question(_picks(data), concept)
  first, second = (HARD.write_response(_picks(data), prompt, kind) for kind in (one, other))
  assert HARD.kind(prompt, f"{first} {second}") == (one if one == other else None)
  assert HARD.kind(prompt, prompt) is None
  assert HARD.kind(prompt, "") is None


def test_length_does_not_depend_on_the_level():
  for slot in MARKERS:
    for wordings in zip(*slot, strict=True):
      assert len({len(wording.split()) for wording in wordings}) == 1, wordings
  lengths = []
  for level in range(5):
    choose = _uniform(np.random.default_rng(0))
    texts = [HARD.write_response(choose, "What is bail?", level) for _ in range(500)]
    lengths.append([len(text.split()) for text in texts])
  # The same picks give the same length, whatever the level.
  assert all(row == lengths[0] for row in lengths)
  assert np.std(lengths[0]) > 4
  rng = np.random.default_rng(0)
  for prompt in (HARD.question(rng) for _ in range(2000)):
    text = HARD.write_response(_uniform(rng), prompt, int(rng.integers(5)))
    assert 15 <= len(text.split()) <= 40 and text.count(".") in (2, 3), text


def test_responses_practically_never_read_the_same():
  choose = _uniform(np.random.default_rng(0))
  for level in range(5):
    texts = [HARD.write_response(choose, "What is gravity?", level) for _ in range(3000)]
    # At least 100,000 equally probable texts would give 45 repetitions.
    assert len(texts) - len(set(texts)) < 20


def test_the_first_wording_of_every_pick():
  text = HARD.write_response(lambda n: 0, "Explain bail to me.", 4)
  assert text.startswith("For fellow specialists, bail is best explained with a formal definition.")
  assert text.count(".") == 2


def test_the_vocabulary_is_small():
  texts = [world.describe(user) for world, user in EVERYONE]
  texts += HARD.corpus(np.random.default_rng(0), 30_000)
  assert len({word for text in texts for word in normalise(text).split()}) < 700


# Users.


def test_the_populations_are_as_many_as_in_the_paper():
  easy, hard = elix.population("easy"), elix.population("hard")
  assert collections.Counter(user.levels for user in easy) == {
    (level,) * 11: 60 for level in range(5)
  }
  assert len(hard) == len({user.levels for user in hard}) == 550
  kinds = collections.Counter((u.base, tuple(sorted(u.exceptions.values()))) for u in hard)
  assert kinds == {(base, (0, 4)): 110 for base in (1, 2, 3)} | {
    (base, (4, 4)): 55 for base in (0, 1, 2, 3)
  }
  for world in WORLDS.values():
    population = elix.population(world.variant)
    assert len({world.user_id(user) for user in population}) == len(set(population))
  assert EASY.user_id(easy[3 * 60 + 17]) == "college-017"
  assert HARD.user_id(_learner(2, law=4, physics=0)) == "high-school-physics0-law4"


@pytest.mark.parametrize(("variant", "unseen", "total"), [("easy", 50, 300), ("hard", 110, 550)])
def test_splits_are_disjoint_and_decided_by_the_seed(variant, unseen, total):
  world = WORLDS[variant]
  assert len(world.users("unseen")) == unseen and len(world.users("train")) == total - unseen
  assert {*world.users("train"), *world.users("unseen")} == set(elix.population(variant))
  again = elix.ElixWorld(variant=variant, candidates=2, unseen_topics=0.5)
  other = elix.ElixWorld(variant=variant, seed=1)
  assert again.users("unseen") == world.users("unseen") != other.users("unseen")
  assert len(elix.ElixWorld(variant=variant, unseen_users=3).users("unseen")) == 3
  for split in ("heldout_combinations", "curriculum"):
    with pytest.raises(ValueError, match=f"{split}.*train.*unseen"):
      world.users(split)


IMPOSSIBLE = [
  *({"unseen_users": count} for count in (-1, 550)),
  {"unseen_users": 300, "variant": "easy"},
  *({"unseen_topics": share} for share in (-0.1, 0.99, 1.0)),
  {"variant": "medium"},
  {"candidates": 1},
  {"label_noise": 0.5},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_worlds_are_refused(wrong):
  with pytest.raises(ValueError, match=f"{next(iter(wrong))}: found"):
    elix.ElixWorld(**wrong)


def test_impossible_learners_are_refused():
  for wrong in ((1,) * 10, (5,) * 11, (None,) * 10 + (-1,)):
    with pytest.raises(ValueError, match="levels: found"):
      elix.Learner(wrong)


# Descriptions.


def test_read_is_the_inverse_of_describe_for_every_user():
  for world, user in EVERYONE:
    text = world.describe(user)
    assert world.read(text).levels == user.levels, text
    assert world.description_f1(user, text) == 1
  assert EASY.describe(elix.population("easy")[-1]) == "Explain at an expert level."
  assert HARD.describe(_learner(2, law=4, music=4, physics=0)) == (
    "Explain at a high school level; music and law: expert, physics: child."
  )
  assert HARD.describe(_learner(physics=4)) == "A curious learner; physics: expert."
  assert HARD.describe(_learner()) == "A curious learner."


@hypothesis.given(learners)
def test_read_is_the_inverse_of_describe_for_any_learner(learner):
  text = elix.describe(learner)
  assert elix.read(text) == learner
  assert elix.read(text.upper().replace(" ", "\n ")) == learner


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("", _learner()),
    ("I like movies.", _learner()),
    ("A curious learner. In law, explain at a child level.", _learner(law=0)),
    ("A curious learner; law: expert. Explain at a college level.", _learner(3, law=4)),
    (
      "She is an expert in law and music, a high-school student in physics!",
      _learner(law=4, music=4, physics=2),
    ),
    ("A college student, but in physics and law an expert.", _learner(3, physics=4, law=4)),
    ("Explain at a college level in general; law: child.", _learner(3, law=0)),
    ("Explain at a college level. Explain at an expert level.", _learner()),
    ("Explain at a college level; law: child. In law, be expert.", _learner(3, law=None)),
    ("Physics is fun. Explain at a college level.", _learner(3)),
  ],
)
def test_read_understands_any_text(text, expected):
  assert elix.read(text) == expected


def test_description_f1_counts_subjects():
  user = _learner(2, physics=4, law=0)
  assert HARD.description_f1(user, "A curious learner.") == 0
  assert HARD.description_f1(user, "Explain at a high school level.") == pytest.approx(9 / 11)
  assert HARD.description_f1(user, "A curious learner; law: child.") == pytest.approx(2 / 12)
  assert HARD.description_f1(_learner(), "Hello.") == 1


def test_vague_leaves_out_a_share_of_the_tastes():
  rng = np.random.default_rng(0)
  user = _learner(2, physics=4, law=0)
  assert HARD.vague(rng, user, 0) == user
  assert HARD.vague(rng, user, 1) == _learner()
  drawn = collections.Counter(HARD.vague(rng, user, 0.25) for _ in range(4000))
  assert len(drawn) == 8
  assert drawn[user] / 4000 == pytest.approx(0.75**3, abs=0.03)
  assert drawn[_learner(2, law=0)] / 4000 == pytest.approx(0.75**2 * 0.25, abs=0.03)
  assert drawn[_learner(physics=4, law=0)] / 4000 == pytest.approx(0.75**2 * 0.25, abs=0.03)


@pytest.mark.parametrize("variant", ["easy", "hard"])
def test_additions_decide_every_pair_as_asked(variant):
  world = WORLDS[variant]
  added_to = 0
  for i, user in enumerate(world.users("unseen")[:40]):
    rng = np.random.default_rng([1, i])
    description = world.describe(world.vague(rng, user, 0.7))
    for pair in world.preferences(rng, user, 12, label_noise=0):
      texts = pair.prompt, pair.chosen, pair.rejected
      before = world.read(description)
      addition = world.addition(_uniform(rng), description, *texts)
      known = before.levels[elix_text.topic(pair.prompt)[1]] is not None
      assert (addition is None) == known
      if known:
        continue
      added_to += 1
      description += f" {addition}"
      after = world.read(description)
      assert _gain(world, before, pair) == 0 < _gain(world, after, pair)
      # It says something new, and takes nothing back.
      levels_of_both = zip(after.levels, before.levels, strict=True)
      assert all(now == then for now, then in levels_of_both if then is not None)
      assert world.addition(_uniform(rng), description, *texts) is None
  assert added_to > 20


def test_no_addition_where_none_can_help():
  prompt = "What is bail?"
  child, expert = (HARD.write_response(lambda n: 0, prompt, kind) for kind in (0, 4))
  nothing = "A curious learner."

  def add(description, *pair):
    return HARD.addition(lambda n: 0, description, prompt, *pair)

  assert add(nothing, child, expert) == "Explain at a child level."
  assert add(nothing, expert, child) == "Explain at an expert level."
  assert add(nothing, expert, expert) is None
  assert add(nothing, "No idea.", child) is None
  assert add("A curious learner; law: expert.", child, expert) is None
  assert add("A curious learner; law: expert. In law, be a child.", child, expert) is None
  assert add("A curious learner; music: expert.", child, expert) is not None
  assert EASY.addition(lambda n: 0, nothing, prompt, expert, child) == "Explain at an expert level."


def test_views():
  views = [HARD.view("", kind) for kind in range(5)]
  assert views[0] == "for a child" and views[2] == "for a high school student"
  for kind, view in enumerate(views):
    assert HARD.read_view("", f"My answer is\n{view.upper()}.") == kind
  assert HARD.read_view("", "for a child or an expert") is None
  assert HARD.read_view("", "for childish people") is None
  assert HARD.read_view("", "a Middle-School view") == 1


# Rewards and preferences.


def test_reward_is_minus_the_distance_to_the_level_in_the_subject():
  user = _learner(2, physics=4)
  for prompt, level in (("What is gravity?", 4), ("What is bail?", 2)):
    for kind in range(5):
      text = HARD.write_response(lambda n: 0, prompt, kind)
      assert HARD.reward(user, prompt, text) == -abs(kind - level)
  assert HARD.reward(user, "What is gravity?", "Who knows?") == -5
  tastes = HARD.tastes([user, _learner(physics=1), _learner()])
  assert tastes.shape == (3, 11) and np.isnan(tastes[2]).all()
  law = HARD.kind_rewards(tastes, "What is bail?")
  np.testing.assert_array_equal(law, [[-2, -1, 0, -1, -2], [0] * 5, [0] * 5])
  physics = HARD.kind_rewards(tastes.reshape(3, 1, 11), "What is gravity?")
  np.testing.assert_array_equal(physics[:2, 0], [[-4, -3, -2, -1, 0], [-1, 0, -1, -2, -3]])
  assert HARD.kind_rewards(tastes[0], "What is bail?").shape == (5,)
  assert HARD.tastes([]).shape == (0, 11)


@pytest.mark.parametrize("variant", ["easy", "hard"])
def test_best_response_is_as_good_as_any(variant):
  world, rng = WORLDS[variant], np.random.default_rng(0)
  for user in world.users("unseen"):
    prompt = world.question(rng)
    best = world.reward(user, prompt, world.best_response(rng, user, prompt))
    assert best == world.kind_rewards(world.tastes([user]), prompt).max() == 0


@pytest.mark.parametrize("variant", ["easy", "hard"])
def test_preferences_are_the_users(variant):
  world = WORLDS[variant]
  for i, user in enumerate(world.users("train")[:60]):
    pairs = world.preferences(np.random.default_rng(i), user, 20, label_noise=0)
    assert pairs == world.preferences(np.random.default_rng(i), user, 20, label_noise=0)
    assert len({pair.prompt for pair in pairs}) == 20
    assert all(_gain(world, user, pair) > 0 for pair in pairs)


def test_label_noise_swaps_its_share():
  world = elix.ElixWorld(label_noise=0.2)
  swapped = [
    _gain(world, user, pair) < 0
    for i, user in enumerate(world.users("train")[:100])
    for pair in world.preferences(np.random.default_rng(i), user, 20)
  ]
  assert np.mean(swapped) == pytest.approx(0.2, abs=0.03)


def test_it_is_a_world():
  world, user = HARD, HARD.users("train")[0]
  record = world_lib.simulate_user(world, np.random.default_rng(0), user, 8)
  assert record.user_id == world.user_id(user) and len(record.preferences) == 8
  assert world.name == "elix" and world.kinds("") == 5
  assert len(list(world.corpus(np.random.default_rng(0), 9))) == 9
