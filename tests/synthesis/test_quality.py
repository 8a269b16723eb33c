# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from fspo_jax.synthesis import disagreement, measures, quality, quality_schema
from fspo_jax.synthesis.embedders import CharacterNgrams
from fspo_jax.synthesis.measures import QualityError
from fspo_jax.synthesis.quality import Gate
from fspo_jax.synthesis.records import Item, Response, SyntheticUser, Votes

LN2 = math.log(2)


class Planar:
  """Texts are angles in degrees."""

  name = "angles"

  def __call__(self, texts):
    angles = np.radians([float(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def make_item(index, *texts, split="train", topic=None, prompt=None, set_aside=None):
  responses = tuple(Response(text, "m", 1.0, "") for text in texts)
  prompt = prompt or f"question {index}"
  return Item(index, split, topic or f"{split} {index}", prompt, responses, set_aside or {})


def make_user(index, after, *, before=(), kept=None, split="train", **changes):
  kept = tuple(range(len(after))) if kept is None else kept
  made = SyntheticUser(
    index, f"u{index}", split, f"p{index}", f"p{index}. d", 1, tuple(before), tuple(after), kept, {}
  )
  return dataclasses.replace(made, **changes)


def vote(item, a, b, wins=2, wins_back=2, asked=2):
  return Votes(item, a, b, (wins, asked), (wins_back, asked))


def labels(*signs):
  """A user's labels of the first questions: 1 for response 0, -1 for response 1, 0 for none."""
  return [vote(i, 0, 1, 1 + sign, 1 + sign) for i, sign in enumerate(signs) if sign]


def measure(items, users, embedder=None, **kwargs):
  return quality.measure(items, users, embedder or Planar(), seed=0, **kwargs)


ITEMS = [make_item(i, "0", "60", "90") for i in range(12)]


def test_diversity_by_hand():
  # Cosines of 0, 60, 90 degrees: 0.5, 0, 0.866; of 0, 10: 0.985, a near-duplicate.
  items = [make_item(0, "0", "60", "90"), make_item(1, "0", "10"), make_item(2, "0")]
  found = quality.diversity(items, Planar(), seed=0)
  first, second = (0.5 + 0 + math.sqrt(0.75)) / 3, math.cos(math.radians(10))
  assert found.prompts == 2
  assert found.mean.mean == pytest.approx((first + second) / 2)
  assert found.median == pytest.approx((0.5 + second) / 2)
  assert found.near_duplicates == pytest.approx(1 / 4)
  assert sum(found.cosines.counts) == 4
  assert found.mean.low == pytest.approx(first)
  assert found.mean.high == pytest.approx(second)


def test_coherence_is_of_the_same_users():
  half, sure = vote(0, 0, 1, 2, 0), vote(0, 0, 1, 2, 2)
  three_quarters = vote(0, 0, 1, 2, 1)
  users = [
    make_user(0, [sure, three_quarters], before=[half, three_quarters]),
    make_user(1, [half]),  # not measured before: must not count after
  ]
  h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
  found = measure(ITEMS, users).coherence
  assert found.users == 1
  assert found.before.mean == pytest.approx((LN2 + h) / 2)
  assert found.after.mean == pytest.approx(h / 2)
  assert found.fall == pytest.approx((LN2 + h) / h)
  assert found.everyone.mean == pytest.approx((h + LN2) / 3)
  assert found.before.low is None


def test_no_fall_to_zero_and_no_entropy_of_one_judgement():
  half, sure = vote(0, 0, 1, 2, 0), vote(0, 0, 1)
  assert measure(ITEMS, [make_user(0, [sure], before=[half])]).coherence.fall is None
  once = Votes(0, 0, 1, (1, 1), (0, 0))
  found = measure(ITEMS, [make_user(0, [once], before=[once])])
  assert found.coherence.after is None
  assert found.order.flip_rate is None
  assert any("entropy" in line for line in quality.violations(found, Gate()))


def test_order_and_position_by_hand():
  flip, sure = vote(0, 0, 1, 2, 0), vote(1, 0, 1, 2, 2)
  found = measure(ITEMS, [make_user(0, [flip, sure], kept=(1,))]).order
  assert found.flip_rate.mean == 0.5
  # The first shown: 2 of 2 and 2 of 2 in the pair that flips; 2 of 2 and 0 of 2 in the other.
  assert found.first_preferred.mean == 6 / 8
  assert found.first_preferred_kept.mean == 0.5


votes_of = st.builds(
  lambda wins, asked, back, asked_back: Votes(
    0, 1, 0, (min(wins, asked), asked), (min(back, asked_back), asked_back)
  ),
  *[st.integers(0, 3)] * 4,
)


@given(st.lists(votes_of, min_size=1, max_size=8))
def test_columns_are_the_votes(votes):
  people, before, after = measures.read_users([make_user(0, votes, before=votes[:1])])
  assert len(people) == 1
  assert len(before) == 1
  np.testing.assert_allclose(after.share, [v.share for v in votes])
  assert after.flips.tolist() == [v.flips for v in votes]
  assert list(zip(*(x.tolist() for x in after.preferred), strict=True)) == [
    v.preferred for v in votes
  ]


def test_length_by_hand():
  items = [make_item(0, "1", "123"), make_item(1, "1", "123"), make_item(2, "1", "2")]
  users = [make_user(0, [vote(0, 0, 1), vote(1, 1, 0), vote(2, 0, 1)])]
  found = measure(items, users).length
  assert found.longer_chosen.mean == 0.5
  # Chosen 1, 3, 1 long, rejected 3, 1, 1: each 1 is worth 0 + 0.5 + 0.5, the 3 is 0.5 + 1 + 1.
  assert found.area_under_curve == pytest.approx(4.5 / 9)
  swapped = measure(items, [make_user(0, [vote(0, 1, 0), vote(1, 1, 0)])]).length
  assert swapped.longer_chosen.mean == 1
  assert swapped.area_under_curve == 1


def test_disagreement_of_three_users_by_hand():
  users = [labels(1, 1, 1, 1), labels(1, 1, -1, 0), labels(-1, -1, 0, 0)]
  # The order of a pair must not matter.
  users[1][0] = vote(0, 1, 0, 0, 0)
  _, _, after = measures.read_users(make_user(i, x) for i, x in enumerate(users))
  found = disagreement.compare(after, 3, np.arange(3))
  assert found.common.tolist() == [[0, 3, 2], [3, 0, 2], [2, 2, 0]]
  assert found.opposite.tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
  np.testing.assert_allclose(
    found.shares(3), [[np.nan, 1 / 3, np.nan], [1 / 3, np.nan, np.nan], [np.nan] * 3]
  )
  np.testing.assert_allclose(found.means, [3 / 5, 3 / 5, 1])
  assert found.labelled.tolist() == [4, 3, 2]
  some = disagreement.compare(after, 3, np.array([2]))
  assert some.opposite.tolist() == [[2], [2], [0]]


def test_pairs_of_other_responses_are_not_common():
  users = [[vote(0, 0, 1)], [vote(0, 0, 2)], [vote(1, 0, 1)], []]
  _, _, after = measures.read_users(make_user(i, x) for i, x in enumerate(users))
  found = disagreement.compare(after, 4, np.arange(4))
  assert not found.common.any()
  assert np.isnan(found.means).all()
  assert disagreement.regenerate(found) == {}


def test_the_contrarian_is_regenerated_and_nobody_else():
  rng = np.random.default_rng(0)
  taste = rng.choice([-1, 1], 60)
  signs = [taste * np.where(rng.random(60) < 0.15, -1, 1) for _ in range(30)] + [-taste]
  items = [make_item(i, "0", "60") for i in range(60)]
  users = [make_user(i, labels(*x)) for i, x in enumerate(signs)]
  found = measure(items, users).agreement
  assert list(found.regenerate) == ["u30"]
  assert "robust standard deviations" in found.regenerate["u30"]
  assert found.others == 31
  assert found.comparable == 1
  assert len(found.matrix) == 31
  # Who is like nobody comes last or first among users ordered by likeness.
  assert max(map(sum, ([x or 0 for x in row] for row in found.matrix))) == pytest.approx(
    max(sum(x or 0 for x in found.matrix[i]) for i in (0, -1))
  )


def test_who_agrees_with_nobody_is_regenerated_where_all_disagree():
  # Two camps, and one user between them: no outlier by the mean, but like nobody.
  camp = np.ones(40, int)
  between = np.array([1, -1] * 20)
  signs = [camp] * 6 + [-camp] * 6 + [between]
  _, _, after = measures.read_users(make_user(i, labels(*x)) for i, x in enumerate(signs))
  named = disagreement.regenerate(disagreement.compare(after, 13, np.arange(13)))
  assert list(named) == [12]
  assert "0 of 12 others" in named[12]


def test_few_labels_do_not_make_an_outlier():
  signs = [[1] * 12] * 12 + [[-1] + [0] * 11]
  _, _, after = measures.read_users(make_user(i, labels(*x)) for i, x in enumerate(signs))
  assert disagreement.regenerate(disagreement.compare(after, 13, np.arange(13))) == {}


def test_yield_and_leakage():
  items = [
    make_item(0, "1", "2", set_aside={"schema": 2}),
    make_item(1, "3", "2", split="unseen", topic="train 0", prompt="question 0"),
  ]
  users = [
    make_user(0, [vote(0, 0, 1), vote(1, 0, 1), vote(1, 1, 0)]),
    make_user(1, [vote(1, 0, 1)], split="unseen", user_id="u0", set_aside={"x": 3}, kept=()),
  ]
  card = measure(items, users)
  made = card.made
  assert (made.users, made.unseen_users, made.prompts, made.unseen_prompts) == (2, 1, 2, 1)
  assert (made.responses, made.judged, made.preferences) == (4, 4, 3)
  assert (made.fewest, made.median, made.most) == (0, 1.5, 3)
  assert made.set_aside_items == {"schema": 2}
  assert made.set_aside_users == {"x": 3}
  assert made.duplicates == {"prompts": 1, "responses": 1, "descriptions": 0, "preferences": 1}
  assert card.leakage == quality_schema.Leakage(2, 1, 1, 1)
  assert sum("leakage" in line for line in quality.violations(card, Gate())) == 4
  shown = {sample.user_id: sample.preferences for sample in card.samples}
  assert [(p.prompt, p.chosen, p.rejected) for p in shown["u0"]] == [
    ("question 0", "1", "2"),
    ("question 0", "3", "2"),
  ]


def _passing():
  users = [make_user(i, labels(*np.random.default_rng(i).choice([-1, 1], 12))) for i in range(8)]
  return measure(ITEMS, users)


@pytest.mark.parametrize(
  ("limit", "named"),
  [
    ({"max_similarity": 0.1}, "similarity"),
    ({"max_near_duplicates": -0.1}, "near-duplicate"),
    ({"max_entropy": -0.1}, "entropy"),
    ({"max_flip_rate": -0.1}, "order-flip"),
    ({"max_position_bias": -0.1}, "position bias"),
    ({"max_length_bias": -0.1}, "length bias"),
    ({"min_preferences": 13}, "fewest"),
    ({"max_set_aside": -0.1}, "responses set aside"),
    ({"max_regenerate": -0.1}, "regenerate"),
  ],
)
def test_every_limit_of_the_gate(limit, named):
  card = _passing()
  assert quality.violations(card, Gate()) == []
  short = quality.violations(card, Gate(**limit))
  assert named in short[0]
  assert "found" in short[0]
  assert "expected" in short[0]
  assert quality.violations(card, Gate(**dict.fromkeys(limit))) == []


def test_order_flips_are_no_loss_but_unanswered_pairs_are():
  flips = [vote(i, 0, 1, 2, 0) for i in range(2)]
  user = make_user(0, labels(*[1] * 10) + flips, kept=tuple(range(10)), set_aside={"order": 2})
  gate = Gate(max_length_bias=None)
  assert quality.violations(measure(ITEMS, [user]), gate) == []
  lossy = dataclasses.replace(user, set_aside={"order": 2, "timeout": 3})
  (short,) = quality.violations(measure(ITEMS, [lossy]), gate)
  assert short == "pairs set aside: found 0.200, expected at most 0.05"


def test_json_there_and_back():
  card = _passing()
  stored = json.loads(json.dumps(quality_schema.as_json(card), allow_nan=False))
  assert quality_schema.as_json(quality_schema.from_json(stored)) == stored
  again = _passing()
  assert quality_schema.as_json(again) == stored


@pytest.mark.parametrize(
  ("change", "named"),
  [
    ({"seed": "0"}, "card.seed: found '0', expected an integer"),
    ({"schema_version": 99}, "schema_version: found 99, expected 1"),
    ({"order": None}, "card.order: found None, expected the keys"),
    ({"more": 1}, "expected the keys"),
    ({"samples": {}}, "card.samples: found {}, expected a list"),
  ],
)
def test_a_wrong_card_is_refused(change, named):
  with pytest.raises(QualityError, match=named):
    quality_schema.from_json(quality_schema.as_json(_passing()) | change)


def test_wrong_records_are_named():
  with pytest.raises(QualityError, match="1 questions and 0 users"):
    measure(ITEMS[:1], [])
  with pytest.raises(QualityError, match="responses 0 and 7 of question 0"):
    measure(ITEMS, [make_user(0, [vote(0, 0, 7)])])
  with pytest.raises(QualityError, match="question 99"):
    measure(ITEMS, [make_user(0, [vote(99, 0, 1)])])
  with pytest.raises(QualityError, match="'u0': kept: found 3 to 3"):
    measure(ITEMS, [make_user(0, [vote(0, 0, 1)], kept=(3,))])
  with pytest.raises(QualityError, match="not a generator"):
    measure(iter(ITEMS), [make_user(0, [vote(0, 0, 1)])])
  with pytest.raises(QualityError, match="two questions of index 0"):
    measure([ITEMS[0], ITEMS[0]], [make_user(0, [vote(0, 0, 1)])])


def test_users_without_a_preference_can_be_measured():
  card = measure(ITEMS, [make_user(0, [])])
  assert card.made.preferences == 0
  assert card.length.longer_chosen is None
  assert card.agreement.mean is None
  quality_schema.from_json(quality_schema.as_json(card))
  assert any("no measurement" in line for line in quality.violations(card, Gate()))


def test_users_are_read_once_and_samples_bound_the_work():
  users = (make_user(i, labels(1, -1, 1)) for i in range(20))
  card = measure(ITEMS, users, sample_prompts=3, sample_users=4)
  assert card.diversity.prompts == 3
  assert card.agreement.others == 4
  assert card.made.users == 20


def test_real_texts():
  items = [make_item(0, "Watch a film about it.", "Take a class with a teacher.")]
  card = measure(items, [make_user(0, [vote(0, 0, 1)])], CharacterNgrams())
  assert 0 < card.diversity.mean.mean < 0.5
