# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of fine-tuning on each user's own shots."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax.episodes.sampling import Episode, Page
from fspo_jax.episodes.templates import Role
from fspo_jax.evaluation.user_finetuning import Settings, UserFinetuning
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer
from fspo_jax.models import lora
from fspo_jax.preferences import Preference
from tests import tiny

SHOTS, USERS = 3, 5
ADAPTERS = lora.LoraConfig(rank=2, alpha=4.0, projections=("q", "v", "up", "down"))
SETTINGS = Settings(
  steps=3,
  learning_rate=3e-3,
  objective="dpo",
  beta=0.1,
  lora=ADAPTERS,
  ks=(0, 1, 3),
  episodes=100,
  users_at_once=2,
)
RANDOM = Decoding(temperature=1.0, top_p=1.0, max_tokens=6)


def _contender(**changes):
  model = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)
  settings = dataclasses.replace(SETTINGS, **changes)
  return UserFinetuning(model, tiny.params(model), tiny.formatter(), settings, 0, 512)


@pytest.fixture(scope="module")
def episodes():
  source = tiny.rows(shots=SHOTS, queries=1).episode
  # From the third on, who has a long pair: the first of them alone have the shapes of all, and
  # what was compiled for all serves them.
  return [source(2 + i) for i in range(USERS)]


@pytest.fixture(scope="module")
def margins(episodes):
  return _contender().margins(episodes)


def _sequence(formatter, prompt, response):
  """A response after its question alone: ids, roles, and which ids are the response's."""
  asked, answer = formatter.question(prompt), formatter.answer(response)
  ids = (formatter.tokenizer.bos_id, *asked, *answer)
  roles = (Role.CONTROL, *[Role.QUESTION] * len(asked), *[Role.PREFERRED] * len(answer))
  padding = (0,) * (160 - len(ids))
  scored = np.arange(160) >= len(ids) - len(answer)
  scored[len(ids) :] = False
  return (*ids, *padding), (*roles, *padding), scored


def _responses(contender, pairs):
  """The chosen ones and then the rejected ones, as plain sequences."""
  texts = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
  ids, roles, scored = zip(*(_sequence(contender.formatter, *t) for t in texts), strict=True)
  return np.asarray(ids, np.int32), np.asarray(roles, np.int32), np.asarray(scored)


@functools.partial(jax.jit, static_argnums=0)
def _sequence_logprobs(model, params, responses):
  ids, roles, scored = responses
  return (tiny.causal_logprobs(model, params, ids, roles) * scored[:, 1:]).sum(1)


def _logprobs(contender, params, responses):
  return _sequence_logprobs(contender.model, params, responses)


def _margin(contender, params, pairs):
  """Of each pair, without trees: plain sequences alone."""
  responses = _responses(contender, pairs)
  log_ratio = _logprobs(contender, params, responses) - _logprobs(
    contender, contender.params, responses
  )
  return np.asarray(log_ratio[: len(pairs)] - log_ratio[len(pairs) :])


def _merged(settings, base, trained):
  return trained if settings.lora is None else lora.merge(base, trained, settings.lora)


# All that it reads is an argument: it is compiled once for each number of shots, not for each user.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(model, settings, base, trained, responses):
  k = responses[0].shape[0] // 2
  tokens = responses[2][:k].sum()
  reference = _sequence_logprobs(model, base, responses)

  def loss(trained):
    logprobs = _sequence_logprobs(model, _merged(settings, base, trained), responses)
    if settings.objective == "sft":
      return -logprobs[:k].sum() / tokens
    h = (logprobs - reference)[:k] - (logprobs - reference)[k:]
    return -jax.nn.log_sigmoid(settings.beta * h).mean()

  return jax.grad(loss)(trained)


def _plain_parameters(contender, shots):
  """The same fine-tuning written out: plain sequences, and Adam by its paper (1412.6980)."""
  s = contender.settings
  responses = _responses(contender, shots)
  x = contender.params
  if s.lora is not None:
    x = lora.init(jax.random.key(contender.seed), x, s.lora)
  first = second = jax.tree.map(jnp.zeros_like, x)
  for t in range(1, s.steps + 1):
    g = _gradient(contender.model, s, contender.params, x, responses)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, g)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, g)

    def moved(x, m, v, t=t):
      return x - s.learning_rate * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)

    x = jax.tree.map(moved, x, first, second)
  return _merged(s, contender.params, x)


@pytest.mark.parametrize(
  "changes", [{}, {"objective": "sft", "beta": 0.0}, {"lora": None, "learning_rate": 1e-3}]
)
def test_margins_are_those_of_plain_fine_tuning_on_plain_sequences(episodes, changes):
  contender = _contender(**changes)
  found = contender.margins(episodes[:2])
  for k in (1, 3):
    expected = [
      _margin(contender, _plain_parameters(contender, e.shots[:k]), e.queries)[0]
      for e in episodes[:2]
    ]
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(found[k], expected, rtol=2e-2, atol=2e-3)


def test_without_shots_it_is_the_base_and_what_is_not_asked_for_is_not_measured(episodes, margins):
  assert len(margins) == SHOTS + 1
  assert all(values.shape == (USERS,) for values in margins)
  assert (margins[0] == 0.0).all()
  assert np.isnan(margins[2]).all()
  assert (margins[1] != 0).all() and (margins[3] != margins[1]).all()
  few = _contender(ks=(1,), episodes=2).margins(episodes)
  assert all(np.isnan(values).all() for k, values in enumerate(few) if k != 1)
  np.testing.assert_allclose(few[1][:2], margins[1][:2], rtol=1e-3, atol=1e-4)
  assert np.isnan(few[1][2:]).all()
  (nothing,) = _contender(ks=(0,)).margins([dataclasses.replace(episodes[0], shots=())])
  assert nothing.tolist() == [0.0]


@pytest.mark.parametrize("users_at_once", [1, USERS])
def test_a_margin_does_not_depend_on_who_is_trained_at_once(episodes, margins, users_at_once):
  found = _contender(users_at_once=users_at_once).margins(episodes)
  for k in (1, 3):
    np.testing.assert_allclose(found[k], margins[k], rtol=1e-3, atol=1e-4)


def test_only_the_chosen_matrices_are_trained_and_the_base_stays(episodes):
  contender = _contender()
  before = {path: np.array(leaf) for path, leaf in tiny.flat(contender.params).items()}
  trained = [tiny.flat(params) for params in contender.parameters(episodes[:2])]
  adapted = {f"['blocks']['{name}']['kernel']" for name in ADAPTERS.projections}
  for path, leaf in before.items():
    np.testing.assert_array_equal(tiny.flat(contender.params)[path], leaf, err_msg=path)
    for own in trained:
      assert np.array_equal(own[path], leaf) == (path not in adapted), path
  everything = tiny.flat(next(_contender(lora=None).parameters(episodes[:1])))
  assert not any(np.array_equal(everything[path], leaf) for path, leaf in before.items())


def test_the_margin_of_a_pair_rises_by_training_on_it_and_is_opposite_for_opposite_labels(episodes):
  # The same pair with both labels: more steps, because DPO has to agree with a whole response.
  contender = _contender(steps=15)
  pair = episodes[0].shots[0]
  turned = Preference(pair.prompt, pair.rejected, pair.chosen)
  users = [Episode("likes", (pair,), ()), Episode("dislikes", (turned,), ())]
  rise, fall = (_margin(contender, own, [pair])[0] for own in contender.parameters(users))
  assert rise > 1.0
  assert fall < -1.0
  # SFT raises the chosen response itself; about the other one it says nothing.
  sft = _contender(objective="sft", beta=0.0, steps=15)
  (own,) = sft.parameters(users[:1])
  responses = _responses(sft, [pair])
  gain = _logprobs(sft, own, responses) - _logprobs(sft, sft.params, responses)
  assert gain[0] > 1.0


def test_a_longer_pair_of_another_user_changes_nothing(episodes, margins):
  long = Preference("Is it good?", "Yes, and it is. " * 12, "No.")
  other = dataclasses.replace(episodes[0], shots=(long,) * SHOTS)
  found = _contender().margins([*episodes, other])
  for k in (1, 3):
    np.testing.assert_allclose(found[k][:USERS], margins[k], rtol=1e-3, atol=1e-4)


def _prompts(episodes):
  return [[e.queries[0].prompt, "Is it good?"] for e in episodes]


def test_responses_are_those_of_each_users_own_parameters(episodes):
  contender = _contender(learning_rate=3e-2)
  greedy = Decoding(temperature=0.0, top_p=1.0, max_tokens=6)
  prompts = _prompts(episodes)
  found = contender.respond(episodes, prompts, greedy, seed=0)
  for own, asked, answers in zip(contender.parameters(episodes), prompts, found, strict=True):
    alone = Writer(contender.model, own, contender.formatter)
    assert alone.respond([()], [asked], greedy, seed=1) == [answers]
  base = Writer(contender.model, contender.params, contender.formatter)
  assert found != base.respond([()] * USERS, prompts, greedy, seed=0)
  bare = [dataclasses.replace(e, shots=()) for e in episodes]
  assert contender.respond(bare, prompts, greedy, seed=0) == base.respond(
    [()] * USERS, prompts, greedy, seed=0
  )


def test_responses_depend_on_the_seed_and_the_user_and_not_on_who_is_trained_at_once(episodes):
  prompts = _prompts(episodes)
  together = _contender().respond(episodes, prompts, RANDOM, seed=5)
  assert [len(own) for own in together] == [2] * USERS
  assert _contender().respond(episodes, prompts, RANDOM, seed=5) == together
  assert _contender(users_at_once=USERS).respond(episodes, prompts, RANDOM, seed=5) == together
  assert _contender().respond(episodes, prompts, RANDOM, seed=6) != together
  # The same user twice draws other random numbers.
  same = _contender().respond([episodes[0]] * 3, [["Is it good?"]] * 3, RANDOM, seed=5)
  assert len({own[0].text for own in same}) > 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"steps": 0}, "user_finetuning.steps=0 must be at least 1"),
    ({"episodes": 0}, "user_finetuning.episodes=0 must be at least 1"),
    ({"users_at_once": 0}, "user_finetuning.users_at_once=0 must be at least 1"),
    ({"learning_rate": 0.0}, "user_finetuning.learning_rate=0.0 must be positive"),
    ({"objective": "ppo"}, "user_finetuning.objective='ppo' is not one of"),
    ({"beta": 0.0}, "user_finetuning.beta=0.0 must be positive for DPO"),
    ({"objective": "sft"}, "user_finetuning.beta=0.1: expected 0 for SFT"),
    ({"ks": ()}, "user_finetuning.ks="),
    ({"ks": (-1, 2)}, "user_finetuning.ks="),
    ({"ks": (2, 1)}, "expected increasing numbers"),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SETTINGS, **changes)


def test_episodes_that_it_cannot_measure_are_refused(episodes):
  contender = _contender()
  with pytest.raises(ValueError, match=r"ks=\(0, 1, 3\), but the episodes have 2 shots"):
    contender.margins([dataclasses.replace(e, shots=e.shots[:2]) for e in episodes])
  shorter = dataclasses.replace(episodes[1], shots=episodes[1].shots[:2])
  with pytest.raises(ValueError, match=r"equally many shots; found \[2, 3\]"):
    contender.margins([episodes[0], shorter])
  with pytest.raises(ValueError, match=r"one query each; found \[0, 1\]"):
    contender.margins([episodes[0], dataclasses.replace(episodes[1], queries=())])
  pages = dataclasses.replace(episodes[0], shots=(Page("Why?", "So."),) * 3)
  with pytest.raises(ValueError, match="pages"):
    contender.respond([pages], [["Is it good?"]], RANDOM, seed=0)
  with pytest.raises(ValueError, match="5 users, but prompts for 1"):
    contender.respond(episodes, [["Is it good?"]], RANDOM, seed=0)


def test_training_that_diverges_is_an_error_and_not_a_missing_margin(episodes):
  contender = _contender(learning_rate=1e30, users_at_once=1)
  with pytest.raises(ValueError, match=r"diverged: lower user_finetuning.learning_rate=1e\+30"):
    contender.margins(episodes[:1])
  with pytest.raises(ValueError, match=f"user {episodes[0].user_id!r} diverged"):
    contender.respond(episodes[:1], [["Is it good?"]], RANDOM, seed=0)
