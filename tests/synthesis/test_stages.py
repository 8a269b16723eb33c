# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import collections
import dataclasses
import json

import numpy as np
import pytest

from fspo_jax.synthesis import domains, prompts, records, stages
from fspo_jax.synthesis.llm import RequestError
from fspo_jax.synthesis.settings import Model
from fspo_jax.synthesis.world_llm import Flaws, WorldLLM
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld
from tests.synthesis.tiny_world import DOMAIN, SETTINGS, Asked, TinyWorld

WORLD = TinyWorld()


def _settings(**changes):
  return dataclasses.replace(SETTINGS, **changes)


def _llm(**flaws):
  return WorldLLM(WORLD, Flaws(**flaws), WORLD.users("train"))


def _bank(llm, settings, indices=None, seed=0):
  async def make():
    return {
      i: await stages.make_item(llm, DOMAIN, settings, seed, i)
      for i in (range(settings.questions) if indices is None else indices)
    }

  return asyncio.run(make())


def _users(llm, settings, bank, indices=range(20), seed=0):
  async def make():
    return [await stages.make_user(llm, DOMAIN, settings, seed, bank, i) for i in indices]

  return asyncio.run(make())


@pytest.fixture(scope="module")
def bank():
  return _bank(_llm(), SETTINGS)


# Items.


def test_topics_are_taken_in_turns_and_unseen_ones_have_their_share():
  found = [stages.item_topic(DOMAIN, SETTINGS, i) for i in range(400)]
  topics = collections.Counter((split, topic) for split, topic, _ in found)
  assert sum(n for (split, _), n in topics.items() if split == "unseen") == 80
  for split in ("train", "unseen"):
    counts = [topics[split, topic] for topic in WORLD.topics(split)]
    assert sum(counts) == sum(s == split for s, _, _ in found) and max(counts) - min(counts) <= 1
  assert len(set(found)) == 400
  nothing_unseen = domains.make_domain("roleplay", ["tea"], [])
  assert stages.item_topic(nothing_unseen, _settings(unseen_topics=0.0), 5) == ("train", "tea", 5)
  with pytest.raises(ValueError, match="unseen_topics: found 0.2, expected 0"):
    stages.item_topic(nothing_unseen, SETTINGS, 4)


def test_an_item_has_distinct_responses_by_the_ensemble_from_every_view(bank):
  for index, item in bank.items():
    texts = [response.text for response in item.responses]
    assert item.index == index and item.topic in item.prompt
    assert len(set(texts)) == len(texts) == 6 - item.set_aside.get("response: equal", 0)
    assert len({response.steer for response in item.responses}) == 4
    assert {(r.model, r.temperature) for r in item.responses} == {("a", 1.0), ("b", 0.8)}
    for response in item.responses:
      kind = WORLD.read_view(item.prompt, response.steer)
      assert WORLD.kind(item.prompt, response.text) == kind


def test_items_and_users_do_not_depend_on_what_is_made_beside_them(bank):
  slow = Asked(_llm(position_bias=0.2, undetermined=0.5), slow=True)
  settings = _settings(pairs=6)

  async def beside():
    items = await asyncio.gather(
      *(stages.make_item(slow, DOMAIN, settings, 0, i) for i in (9, 4, 30))
    )
    return items, await asyncio.gather(
      *(stages.make_user(slow, DOMAIN, settings, 0, bank, i) for i in (8, 1, 3))
    )

  items, users = asyncio.run(beside())
  assert items == [bank[9], bank[4], bank[30]]
  assert users == _users(slow.llm, settings, bank, (8, 1, 3))
  assert users != _users(slow.llm, settings, bank, (8, 1, 3), seed=1)


def test_records_survive_json(bank):
  (user,) = _users(_llm(undetermined=0.5), SETTINGS, bank, [4])
  assert user.before
  written = json.loads(json.dumps(records.as_json(user)))
  assert records.user_from_json(written) == user
  assert records.item_from_json(json.loads(json.dumps(records.as_json(bank[3])))) == bank[3]


def test_personas_that_steer_are_those_of_training_users():
  asked = Asked(_llm())
  settings = _settings(steering="personas")
  _bank(asked, settings, range(10))
  numbers = [
    int(prompts.sections(request.prompt)["Number"])
    for request in asked.requests
    if request.stage == "persona"
  ]
  assert len(numbers) == 60 and len(set(numbers[:6])) == 6
  assert {stages.user_split(settings, 0, number) for number in numbers} == {"train"}
  # The same request as the user's own, so that whoever keeps answers pays once.
  asked_for = {request.key for request in asked.requests}
  own = Asked(_llm())
  _users(own, settings, {}, numbers[:1])
  assert own.requests[0].key in asked_for


def _similarity(bank):
  """The mean cosine of the counts of words of the responses to a question."""
  means = []
  for item in bank.values():
    words = [collections.Counter(response.text.lower().split()) for response in item.responses]
    if len(words) > 1:
      names = sorted(set().union(*words))
      counts = np.array([[own[name] for name in names] for own in words], float)
      counts /= np.linalg.norm(counts, axis=1, keepdims=True)
      pairs = np.triu_indices(len(words), 1)
      means.append((counts @ counts.T)[pairs].mean())
  return np.mean(means)


def test_similarity_falls_with_every_remedy():
  one = (Model("a", 1.0),)
  ladder = [
    _settings(steering="none", models=(Model("a", 0.3),)),
    _settings(steering="none", models=one),
    _settings(steering="personas", models=one),
    _settings(steering="views", models=one),
    _settings(steering="views", models=(*one, Model("b", 1.0), Model("c", 1.0))),
  ]
  banks = [_bank(_llm(), settings) for settings in ladder]
  similarity = [_similarity(bank) for bank in banks]
  assert np.all(np.diff(similarity) < -0.005), similarity

  def equal(bank):
    return sum(item.set_aside.get("response: equal", 0) for item in bank.values())

  assert equal(banks[0]) > 20 > equal(banks[1]) + equal(banks[3])


def test_a_response_that_fails_is_set_aside_and_counted():
  def fails(request):
    return "refusal" if request.stage == "response" and request.model == "b" else None

  item = _bank(Asked(_llm(), fails), SETTINGS, [5])[5]
  assert {response.model for response in item.responses} == {"a"}
  assert item.set_aside["response: refusal"] == 3
  with pytest.raises(RequestError, match="views .* truncated"):
    _bank(Asked(_llm(), lambda r: "truncated" if r.stage == "views" else None), SETTINGS, [5])
  personas = _settings(steering="personas")
  item = _bank(
    Asked(_llm(), lambda r: "truncated" if r.stage == "persona" and "from L" in r.prompt else None),
    _settings(steering="personas", responses=30, users=90),
    [5],
  )[5]
  assert item.set_aside["persona: truncated"] > 0 and len(item.responses) > 2
  with pytest.raises(RequestError, match="question .* truncated"):
    _bank(Asked(_llm(), lambda r: "truncated" if r.stage == "question" else None), personas, [5])


def test_an_answer_that_breaks_the_schema_is_a_request_error():
  class Rude:
    async def answer(self, request):
      return {"question": 7}

  with pytest.raises(RequestError, match="schema: question: question: found 7, expected a text"):
    _bank(Rude(), SETTINGS, [0])


# Users.


def test_users_judge_distinct_questions_and_training_users_no_unseen_topic(bank):
  users = _users(_llm(), SETTINGS, bank, range(40))
  splits = collections.Counter(user.split for user in users)
  assert splits["unseen"] >= 6 and splits["train"] >= 20
  for user in users:
    asked = [bank[votes.item] for votes in user.after]
    unseen = sum(item.split == "unseen" for item in asked)
    assert user.user_id == f"roleplay-{user.index:06d}"
    assert len({item.prompt for item in asked}) == SETTINGS.pairs == len(asked)
    if user.split == "train":
      assert not unseen
    else:
      assert SETTINGS.pairs / 4 <= unseen < SETTINGS.pairs
    for votes in user.after:
      responses = bank[votes.item].responses
      assert responses[votes.a].steer != responses[votes.b].steer
    found = records.preferences_of(user, bank)
    assert len(found) == len(user.kept)
    tastes = WORLD.read(user.description)
    assert all(WORLD.reward(tastes, p.prompt, p.chosen) > WORLD.reward(tastes, p.prompt, p.rejected)
               for p in found)  # fmt: skip


def test_a_small_bank_leaves_pairs_out_and_says_so(bank):
  few = {i: bank[i] for i in range(10)} | {
    10: dataclasses.replace(bank[10], responses=bank[10].responses[:1]),
    11: dataclasses.replace(bank[0], index=11),
  }
  usable = {bank[i].prompt for i in range(10) if bank[i].split == "train"}
  train = next(i for i in range(60) if stages.user_split(SETTINGS, 0, i) == "train")
  (user,) = _users(_llm(), SETTINGS, few, [train])
  assert len(user.after) == len(usable)
  assert user.set_aside["pair: no question left"] == SETTINGS.pairs - len(usable)


def _entropy(users, which):
  """The mean binary entropy of the repeated labels, in nats."""
  shares = np.array([votes.share for user in users for votes in getattr(user, which)])
  shares = shares.clip(1e-9, 1 - 1e-9)
  return float(np.mean(-shares * np.log(shares) - (1 - shares) * np.log(1 - shares)))


def test_refinement_cuts_the_entropy_of_labels(bank):
  flaws = {"undetermined": 0.7, "label_noise": 0.005}
  settings = _settings(repeats=4, measure_every=1)
  users = _users(_llm(**flaws), settings, bank, range(12))
  before, after = _entropy(users, "before"), _entropy(users, "after")
  assert before > 0.15 and after < before / 4, (before, after)
  for user in users:
    assert user.additions >= 1 and user.description.startswith(f"{user.persona} The person")
    assert len(user.before) == len(user.after)
  plain = _users(_llm(**flaws), dataclasses.replace(settings, refine=False), bank, range(12))
  assert all(user.description == user.persona and user.after == user.before for user in plain)
  assert [user.before for user in plain] == [user.before for user in users]


def test_some_users_are_measured_before_refinement(bank):
  users = _users(_llm(undetermined=0.5), SETTINGS, bank, range(9))
  assert [user.index for user in users if user.before] == [0, 4, 8]
  assert all(len(user.before) in (0, len(user.after)) for user in users)


def _correct(users, bank):
  """How often a kept label is what the description says, and how often a first response wins."""
  right, first = [], []
  for user in users:
    tastes = WORLD.read(user.description)
    for votes in map(user.after.__getitem__, user.kept):
      item = bank[votes.item]
      chosen, rejected = (item.responses[i].text for i in votes.preferred)
      right.append(WORLD.reward(tastes, item.prompt, chosen)
                   > WORLD.reward(tastes, item.prompt, rejected))  # fmt: skip
      first.append(votes.preferred[0] == votes.a)
  return np.mean(right), np.mean(first)


def test_both_orders_remove_the_position_bias(bank):
  llm = _llm(position_bias=0.4)
  settings = _settings(repeats=1)
  users = _users(llm, settings, bank)
  dropped = sum(user.set_aside.get("label: the order decides", 0) for user in users)
  assert 0.3 < dropped / (len(users) * settings.pairs) < 0.5
  assert all(not user.after[i].flips for user in users for i in user.kept)
  right, first = _correct(users, bank)
  assert right == 1 and abs(first - 0.5) < 0.08
  one_order = _users(llm, dataclasses.replace(settings, both_orders=False), bank)
  assert all(len(user.kept) == settings.pairs and not user.set_aside for user in one_order)
  assert all(votes.backward == (0, 0) for user in one_order for votes in user.after)
  right, first = _correct(one_order, bank)
  assert right < 0.9 and first > 0.65


def test_ignoring_length_removes_the_length_bias(bank):
  def right(ignore_length):
    settings = _settings(ignore_length=ignore_length, repeats=1, both_orders=False)
    return _correct(_users(_llm(length_bias=0.6), settings, bank), bank)[0]

  told, silent = right(True), right(False)
  assert told > 0.9 and silent < 0.8 and 1 - told < (1 - silent) / 3


def test_pairs_are_judged_once_by_each_description(bank):
  asked = Asked(_llm())
  settings = _settings(repeats=1, measure_every=1)
  (user,) = _users(asked, settings, bank, [0])  # Fully described: nothing to append.
  assert user.additions == 0 and user.before == user.after
  assert asked.count("label") == 2 * settings.pairs and asked.count("refine") == 0
  assert len({request.key for request in asked.requests}) == len(asked.requests)


def test_pairs_whose_requests_fail_are_set_aside_by_stage_and_reason(bank):
  flaws = {"undetermined": 0.5}

  def fails(request):
    lucky = int(request.key[:4], 16) % 100
    if request.stage == "label" and lucky < 4:
      return "refusal"
    return "truncated" if request.stage == "refine" and lucky < 30 else None

  settings = _settings(repeats=1, measure_every=2)
  users = _users(Asked(_llm(**flaws), fails), settings, bank)
  counts = sum((collections.Counter(user.set_aside) for user in users), collections.Counter())
  assert counts["label: refusal"] > 10 and counts["refine: truncated"] > 2
  for user in users:
    lost = sum(n for reason, n in user.set_aside.items() if reason != "label: the order decides")
    assert len(user.after) == settings.pairs - lost
    assert len(user.before) == (0 if user.index % 2 else len(user.after))
    assert len(user.kept) == len(user.after) - user.set_aside.get("label: the order decides", 0)
  with pytest.raises(RequestError, match="persona .* http 429"):
    _users(Asked(_llm(), lambda r: "http 429" if r.stage == "persona" else None), settings, bank)


def test_errors_that_are_no_request_errors_are_raised(bank):
  class Broken(Asked):
    async def answer(self, request):
      if request.stage == "label":
        raise OSError("the disk is full")
      return await self.llm.answer(request)

  with pytest.raises(OSError, match="the disk is full"):
    _users(Broken(_llm()), SETTINGS, bank, [1])


def test_judgements_of_a_pass_are_asked_at_once(bank):
  class Slow:
    """Answers take a moment; counts how many are under way at most."""

    def __init__(self):
      self.llm, self.under_way, self.most = _llm(), 0, 0

    async def answer(self, request):
      self.under_way += 1
      self.most = max(self.most, self.under_way)
      await asyncio.sleep(0.001)
      self.under_way -= 1
      return await self.llm.answer(request)

  slow = Slow()
  _users(slow, _settings(refine=False), bank, [1])
  assert slow.most == 4 * SETTINGS.pairs


def test_unseen_users_need_no_unseen_topics(bank):
  trained = {i: item for i, item in bank.items() if item.split == "train"}
  unseen = next(i for i in range(60) if stages.user_split(SETTINGS, 0, i) == "unseen")
  (user,) = _users(_llm(), SETTINGS, trained, [unseen])
  assert len(user.after) == SETTINGS.pairs


@pytest.mark.parametrize(
  "world", [ReviewsWorld(), ElixWorld(), RoleplayWorld()], ids=lambda w: w.name
)
def test_every_world_goes_through_the_factory(world):
  domain = domains.make_domain(world.name, world.topics("train"), world.topics("unseen"))
  llm = WorldLLM(world, Flaws(undetermined=0.8), world.users("train")[::100])
  settings = _settings(pairs=32, repeats=4, measure_every=1)

  async def make():
    bank = {i: await stages.make_item(llm, domain, settings, 0, i) for i in range(80)}
    return bank, [await stages.make_user(llm, domain, settings, 0, bank, i) for i in range(4)]

  bank, users = asyncio.run(make())
  before, after = _entropy(users, "before"), _entropy(users, "after")
  # Some pairs are equal to whoever is fully known. These nothing can determine, and few are kept.
  assert before > 0.2 and after < before / 2, (before, after)
  kept = [dataclasses.replace(u, after=tuple(u.after[i] for i in u.kept)) for u in users]
  assert _entropy(kept, "after") < before / 4
  right = [
    world.reward(world.read(user.description), p.prompt, p.chosen)
    > world.reward(world.read(user.description), p.prompt, p.rejected)
    for user in users
    for p in records.preferences_of(user, bank)
  ]
  assert np.mean(right) > 0.9 and len(right) > 90


def test_picked_pairs_have_a_response_from_the_users_own_viewpoint():
  def best(settings):
    """How often one response of a pair is of the kind that the user likes best of the item's."""
    bank = _bank(_llm(), settings)
    hits = []
    for user in _users(_llm(), settings, bank):
      tastes = WORLD.tastes([WORLD.read(user.description)])[0]
      for votes in user.after:
        item = bank[votes.item]
        rewards = WORLD.kind_rewards(tastes, item.prompt)
        kinds = [WORLD.kind(item.prompt, r.text) for r in item.responses]
        most = max(rewards[kind] for kind in kinds)
        hits.append(most in (rewards[kinds[votes.a]], rewards[kinds[votes.b]]))
        assert item.responses[votes.a].steer != item.responses[votes.b].steer
    return np.mean(hits)

  settings = _settings(questions=40, pairs=20, steering="views", refine=False)
  assert best(dataclasses.replace(settings, picked=1.0)) == 1.0
  assert best(settings) < 0.8


class _Stranger:
  """Picks a viewpoint of its own."""

  async def answer(self, request):
    if request.schema_name == "pick":
      return {"viewpoint": "from the moon"}
    return await _llm().answer(request)


def test_a_viewpoint_that_is_not_on_the_list_sets_the_pair_aside():
  settings = _settings(questions=40, pairs=20, steering="views", picked=0.5)
  (user,) = _users(_Stranger(), settings, _bank(_llm(), settings), indices=[0])
  aside = user.set_aside["pick: no pair of viewpoints"]
  assert 0 < aside < 20 and len(user.after) == 20 - aside


def test_picking_needs_viewpoints():
  with pytest.raises(ValueError, match=r"picked: found 0\.5 with steering='personas'"):
    _settings(steering="personas", picked=0.5)


def test_anchors_are_the_same_pairs_for_all_users_and_never_picked():
  settings = _settings(questions=40, pairs=20, steering="views", anchors=6, picked=1.0)
  bank = _bank(_llm(), settings)
  users = _users(_llm(), settings, bank)
  common = set.intersection(*({(v.item, v.a, v.b) for v in user.after} for user in users))
  assert len(common) == 6 and {bank[item].split for item, _, _ in common} == {"train"}
  with pytest.raises(ValueError, match="anchors: found 21"):
    _settings(pairs=20, anchors=21)


class _Down:
  """Labels nothing, for the given reason."""

  def __init__(self, reason):
    self._reason = reason

  async def answer(self, request):
    if request.schema_name == "label":
      raise RequestError(request, self._reason, "no answer")
    return await _llm().answer(request)


@pytest.mark.parametrize("reason", ["timeout", "connection", "http 503", "http 429"])
def test_an_outage_fails_the_user_and_thins_out_no_set(bank, reason):
  with pytest.raises(RequestError, match=reason):
    _users(_Down(reason), SETTINGS, bank, indices=[0])


def test_a_request_that_cannot_be_answered_sets_its_pair_aside(bank):
  (user,) = _users(_Down("content filter"), SETTINGS, bank, indices=[0])
  assert not user.after and user.set_aside["label: content filter"] == SETTINGS.pairs
