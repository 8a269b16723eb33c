# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import dataclasses
import itertools

import pytest

from fspo_jax.synthesis import domains, prompts
from fspo_jax.synthesis.settings import Model
from fspo_jax.synthesis.world_llm import Flaws, WorldLLM
from tests.synthesis import tiny_world
from tests.synthesis.tiny_world import TinyWorld

WORLD = TinyWorld()
USERS = WORLD.users("train")
DOMAIN = domains.make_domain("roleplay", WORLD.topics("train"), WORLD.topics("unseen"))
SETTINGS = dataclasses.replace(
  tiny_world.SETTINGS,
  models=(Model("writer", 1.0),),
  judge=Model("judge", 0.5),
  max_tokens=99,
  ignore_length=False,
)
WRITER = SETTINGS.models[0]
PROMPT = "Tell me about tea?"


def _answer(request, **flaws):
  (text, *_) = answers = prompts.texts_of(
    request.schema_name, asyncio.run(WorldLLM(WORLD, Flaws(**flaws), USERS).answer(request))
  )
  return answers if request.schema_name == "views" else text


def _written(kind, picks=lambda n: 0):
  return WORLD.write_response(picks, PROMPT, kind)


def _labels(description, a, b, *, ignore_length=False, count=400, **flaws):
  """The share of 'A' among repeated judgements."""
  settings = dataclasses.replace(SETTINGS, ignore_length=ignore_length)
  llm = WorldLLM(WORLD, Flaws(**flaws), USERS)

  async def ask():
    return [
      await llm.answer(prompts.label(DOMAIN, settings, seed, description, PROMPT, a, b))
      for seed in range(count)
    ]

  return sum(answer["preferred"] == "A" for answer in asyncio.run(ask())) / count


def _best_and_worst(user):
  rewards = WORLD.kind_rewards(WORLD.tastes([user])[0], PROMPT)
  return int(rewards.argmax()), int(rewards.argmin())


def test_personas_are_of_the_population_and_leave_out_what_is_undetermined():
  for number in (0, 5, len(USERS) + 5):
    request = prompts.persona(DOMAIN, SETTINGS, WRITER, 1, number, "30 years old")
    user = USERS[number % len(USERS)]
    assert WORLD.read(_answer(request)) == user
    vague = WORLD.read(_answer(request, undetermined=0.5))
    assert [v for v in vague if v is not None] and vague.count(None) == 3
    assert all(v in (None, own) for v, own in zip(vague, user, strict=True))


def test_questions_are_about_their_topic_and_differ_by_number():
  asked = [
    _answer(prompts.question(DOMAIN, SETTINGS, Model("m", 0.0), 1, "tea", number))
    for number in range(20)
  ]
  assert all("tea" in question for question in asked) and len(set(asked)) > 8


def test_views_are_distinct_kinds_in_an_order_by_seed():
  def kinds(count, seed):
    found = _answer(prompts.views(DOMAIN, SETTINGS, WRITER, seed, PROMPT, count))
    return [WORLD.read_view(PROMPT, view) for view in found]

  assert sorted(kinds(9, 1)) == [0, 1, 2, 3]
  assert len(set(kinds(2, 1))) == 2
  assert len({tuple(kinds(3, seed)) for seed in range(20)}) > 5


def test_a_steered_response_is_of_the_kind_it_is_written_for():
  for seed, user in enumerate(USERS[:20]):
    best, _ = _best_and_worst(user)
    request = prompts.response(
      DOMAIN, SETTINGS, WRITER, seed, PROMPT, description=WORLD.describe(user)
    )
    assert WORLD.kind(PROMPT, _answer(request)) == best
  for kind in range(4):
    view = WORLD.view(PROMPT, kind)
    request = prompts.response(DOMAIN, SETTINGS, WRITER, 1, PROMPT, view=view)
    assert WORLD.kind(PROMPT, _answer(request)) == kind


def _texts(model, temperature, count=60, **steer):
  by = Model(model, temperature)
  return [
    _answer(prompts.response(DOMAIN, SETTINGS, by, seed, PROMPT, **steer)) for seed in range(count)
  ]


def test_texts_vary_with_temperature_and_models_have_their_own_wordings():
  view = WORLD.view(PROMPT, 0)
  cold, cool, warm = (len(set(_texts("m", t, view=view))) for t in (0.0, 0.3, 1.0))
  assert cold == 1 < cool < warm / 2
  assert len({_texts(name, 0.0, 1, view=view)[0] for name in "abcdefgh"}) > 4


def test_an_unsteered_model_mostly_gives_its_ordinary_answer():
  def common(temperature):
    kinds = [WORLD.kind(PROMPT, text) for text in _texts("m", temperature)]
    return max(map(kinds.count, kinds)) / len(kinds)

  assert common(0.3) > 0.95
  assert 0.8 < common(1.0) < 1


def test_a_flawless_judge_follows_the_description_in_any_order():
  for user in USERS[:30]:
    best, worst = map(_written, _best_and_worst(user))
    description = WORLD.describe(user)
    assert _labels(description, best, worst, count=3) == 1
    assert _labels(description, worst, best, count=3) == 0
    assert _labels(description, "What?", worst, count=3) == 0  # Of no kind.


def test_what_a_description_leaves_open_is_answered_at_random():
  assert 0.4 < _labels("Somebody.", _written(0), _written(1)) < 0.6


def test_flaws_are_as_frequent_as_they_are_set():
  user = USERS[7]
  best, worst = _best_and_worst(user)
  description = WORLD.describe(user)
  better, long = _written(best), _written(worst, lambda n: n - 1)
  assert len(long) > len(better)
  assert _labels(description, better, long) == 1
  assert 0.25 < _labels(description, long, better, position_bias=0.3) < 0.35
  assert 0.25 < _labels(description, long, better, length_bias=0.3) < 0.35
  assert 0.03 < _labels(description, long, better, length_bias=0.3, ignore_length=True) < 0.09
  assert 0.25 < _labels(description, long, better, label_noise=0.3) < 0.35


@pytest.mark.parametrize("preferred", ["A", "B"])
def test_an_addition_determines_what_was_open(preferred):
  a, b = _written(0), _written(1)
  for seed in range(10):
    request = prompts.refine(DOMAIN, SETTINGS, seed, "Somebody.", PROMPT, a, b, preferred)
    description = f"Somebody. {_answer(request)}"
    assert _labels(description, a, b, count=4) == (preferred == "A")
    again = prompts.refine(DOMAIN, SETTINGS, seed, description, PROMPT, a, b, preferred)
    assert not _answer(again)


def test_answers_are_a_function_of_the_request_alone():
  requests = [
    prompts.response(DOMAIN, SETTINGS, WRITER, seed, PROMPT, view="x") for seed in range(5)
  ] + [prompts.persona(DOMAIN, SETTINGS, WRITER, seed, 3, "x") for seed in range(5)]
  requests += [
    prompts.label(DOMAIN, SETTINGS, seed, "Somebody.", PROMPT, _written(0), _written(1))
    for seed in range(5)
  ]
  flaws = {"undetermined": 0.5, "position_bias": 0.2}
  alone = [_answer(request, **flaws) for request in requests]
  llm = WorldLLM(WORLD, Flaws(**flaws), USERS)

  async def backwards():
    return [await llm.answer(request) for request in reversed(requests)]

  together = [
    prompts.texts_of(request.schema_name, answer)[0]
    for request, answer in zip(reversed(requests), asyncio.run(backwards()), strict=True)
  ]
  assert together[::-1] == alone


def test_what_cannot_be_is_refused():
  for field, bad in itertools.product((f.name for f in dataclasses.fields(Flaws)), (-0.1, 1.1)):
    with pytest.raises(ValueError, match=f"{field}: found {bad}, expected 0 to 1"):
      Flaws(**{field: bad})
  with pytest.raises(ValueError, match="population: found no users"):
    WorldLLM(WORLD, Flaws(), ())
  request = dataclasses.replace(
    prompts.persona(DOMAIN, SETTINGS, WRITER, 1, 1, "x"), schema_name="poem"
  )
  with pytest.raises(ValueError, match="schema_name: found 'poem', expected one of persona"):
    asyncio.run(WorldLLM(WORLD, Flaws(), USERS).answer(request))
