# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the factory as a job: the same set however it is split, interrupted or shared."""

import dataclasses
import functools
import hashlib
import json
import threading

import pytest

from fspo_jax.datasets import user_sets
from fspo_jax.synthesis import (
  card,
  domains,
  embedders,
  jobs,
  pipeline,
  quality,
  settings,
  world_llm,
)
from fspo_jax.synthesis.llm import RequestError
from fspo_jax.worlds.roleplay import RoleplayWorld

USERS, QUESTIONS = 24, 30
SETTINGS = settings.Settings(
  users=USERS,
  unseen_users=0.25,
  questions=QUESTIONS,
  unseen_topics=0.3,
  responses=6,
  steering="views",
  models=(settings.Model("a", 1.0), settings.Model("b", 1.0)),
  judge=settings.Model("judge", 0.7),
  pairs=12,
  anchors=2,
  picked=0.5,
  repeats=1,
  both_orders=True,
  ignore_length=True,
  refine=True,
  measure_every=4,
  max_tokens=200,
)
FLAWS = world_llm.Flaws(position_bias=0.1, undetermined=0.5)


def _stand_in(note):
  world = RoleplayWorld()
  return world_llm.WorldLLM(world, FLAWS, (*world.users("train"), *world.users("unseen")))


class _Paid:
  """The stand-in, noted attempt by attempt as an endpoint is; it fails for some requests."""

  def __init__(self, asked, refused, note):
    self._llm, self._asked, self._refused, self._note = _stand_in(None), asked, refused, note

  async def answer(self, request):
    self._note(request, "sent", "")
    self._asked.append(request.key)
    if request.stage in self._refused:
      raise RequestError(request, "http 500", "out of order")
    return await self._llm.answer(request)


def _factory(**changes):
  world = RoleplayWorld()
  domain = domains.make_domain("roleplay", world.topics("train"), world.topics("unseen"))
  made = pipeline.Factory(
    domain=domain,
    settings=SETTINGS,
    seed=3,
    backend=_stand_in,
    paid=False,
    concurrency=1,
    processes=1,
    embedder=embedders.CharacterNgrams,
    gate=quality.Gate(),
    facts={"seed": 3},
  )
  return dataclasses.replace(made, **changes)


def _digest(path):
  """Of every user of a set, and of its card."""
  splits = user_sets.load(path)
  users = [tuple(splits.train), tuple(splits.evaluation["unseen"])]
  found = repr(users) + (path / card.CARD_FILE).read_text()
  return hashlib.sha256(found.encode()).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A set made by one process in one go."""
  return pipeline.run(_factory(), tmp_path_factory.mktemp("whole"))


def test_the_set_has_its_users_their_preferences_and_its_card(whole):
  assert whole.parts[-3:] == ("synthetic", "roleplay", "1.0.0")
  splits = user_sets.load(whole)
  everybody = [*splits.train, *splits.evaluation["unseen"]]
  assert len({user.user_id for user in everybody}) == USERS
  assert all(len(user.preferences) > 3 and user.description for user in everybody)
  trained = {p.prompt for user in splits.train for p in user.preferences}
  assert not trained & splits.query_prompts
  assert splits.query_prompts and len(splits.evaluation["unseen"]) > 1
  facts = user_sets.facts(whole)
  assert facts.preferences == sum(len(user.preferences) for user in everybody)
  # Whatever was judged is a preference or is counted.
  aside = facts.set_aside["preferences: label: the order decides"]
  assert facts.preferences + aside == USERS * SETTINGS.pairs
  measured = card.read(whole / card.CARD_FILE)
  assert measured.made.preferences == facts.preferences
  assert (whole / "card.md").exists()


def test_the_reward_of_a_users_final_description_is_what_the_labels_follow(whole):
  world, agree, total = RoleplayWorld(), 0, 0
  for user in user_sets.load(whole).train:
    tastes = world.read(user.description)
    for p in user.preferences:
      gain = world.reward(tastes, p.prompt, p.chosen) - world.reward(tastes, p.prompt, p.rejected)
      agree += gain > 0
      total += gain != 0
  assert agree / total > 0.95


def test_parts_made_by_hand_give_the_same_set(whole, tmp_path):
  journals = tmp_path / "synthesis"
  # Each waits for the other's questions.
  parts = [
    threading.Thread(target=pipeline.run_part, args=(_factory(), journals, i, 2)) for i in (0, 1)
  ]
  for part in parts:
    part.start()
  for part in parts:
    part.join()
  assert jobs.parts(journals, "users") == 2
  assert _digest(pipeline.run(_factory(), tmp_path)) == _digest(whole)


def test_processes_give_the_same_set(whole, tmp_path):
  made = pipeline.run(_factory(processes=2), tmp_path)
  assert jobs.parts(tmp_path / "synthesis", "users") == 2
  assert _digest(made) == _digest(whole)


def test_incomplete_parts_are_refused_naming_what_is_missing(tmp_path):
  journals = tmp_path / "synthesis"
  small = _factory(settings=dataclasses.replace(SETTINGS, questions=12, users=4))
  thread = threading.Thread(target=pipeline.run_part, args=(small, journals, 0, 2), daemon=True)
  thread.start()
  while not (journals / "personas-00000-of-00002.jsonl").exists():
    thread.join(0.05)
  with pytest.raises(jobs.JobError, match=r"shard 1/2"):
    pipeline.run(small, tmp_path)
  pipeline.run_part(small, journals, 1, 2)
  thread.join()
  with pytest.raises(jobs.JobError, match=r"found personas in 2 parts, expected 3"):
    pipeline.run_part(small, journals, 0, 3)


def test_answers_that_cost_something_are_asked_for_once(whole, tmp_path):
  asked = []
  broken = functools.partial(_Paid, asked, ("label",))
  journals = tmp_path / "synthesis"
  # An outage fails the users, and running again tries them again.
  with pytest.raises(jobs.JobError, match="24 of 24 units failed(.|\n)*24 x label: http 500"):
    pipeline.run(_factory(backend=broken, paid=True, concurrency=4), tmp_path / "broken")
  first = functools.partial(_Paid, asked := [], ())
  made = pipeline.run(_factory(backend=first, paid=True, concurrency=4), tmp_path)
  assert len(asked) == len(set(asked)) > 0
  assert _digest(made) == _digest(whole)
  report = json.loads((journals / "requests-00000-of-00001.json").read_text())
  assert sum(stage["sent"] for stage in report.values()) == len(asked)
  # All users again, as after a kill at the very end: nothing is asked for a second time.
  (journals / "users-00000-of-00001.jsonl").unlink()
  again = functools.partial(_Paid, more := [], ())
  pipeline.run_part(_factory(backend=again, paid=True, concurrency=4), journals, 0, 1)
  assert not more


class _Censor:
  """The stand-in, but it will not write one of the questions, nor describe two of the users."""

  def __init__(self, note):
    del note
    self._llm = _stand_in(None)

  async def answer(self, request):
    persona = request.schema_name == "persona" and "## Number\n3\n" in request.prompt
    question = request.schema_name == "question" and "learn to juggle" in request.prompt
    if persona or question:
      raise RequestError(request, "content filter", "no")
    return await self._llm.answer(request)


def test_what_cannot_be_made_is_counted_and_does_not_block_the_rest(tmp_path):
  made = pipeline.run(_factory(backend=_Censor), tmp_path)
  facts = user_sets.facts(made)
  assert facts.users == USERS - 1
  assert facts.set_aside["users: persona: content filter"] == 1


def test_a_set_of_other_settings_is_not_mistaken_for_this_one(whole):
  with pytest.raises(jobs.JobError, match="records made with other seed"):
    pipeline.run(_factory(facts={"seed": 4}), whole.parents[3])


def test_beam_makes_the_same_set(whole, tmp_path):
  pytest.importorskip("apache_beam")
  journals = tmp_path / "synthesis"
  pipeline.run_beam(_factory(), journals, ["--runner=FnApiRunner"])
  assert _digest(pipeline.run(_factory(), tmp_path)) == _digest(whole)
  with pytest.raises(jobs.JobError, match="found records"):
    pipeline.run_beam(_factory(), journals, ["--runner=FnApiRunner"])
