# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the Writer."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import checkpoints
from fspo_jax import config as config_lib
from fspo_jax.episodes import templates, trees
from fspo_jax.episodes.templates import Context, Layout
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import transformer
from tests import tiny

GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=6)
RANDOM = Decoding(temperature=1.0, top_p=1.0, max_tokens=6)
SIZES = {
  "width": 16,
  "layers": 2,
  "heads": 4,
  "kv_heads": 2,
  "head_dim": 8,
  "mlp": 24,
  "tied": False,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  """A stage's checkpoints, as a run leaves them, of a model whose answers differ."""
  config = config_lib.default()
  config.model.update(SIZES)
  config.template = "headings"
  model = transformer.Transformer(config_lib.transformer(config, tiny.tokenizer().vocab_size))
  path = tmp_path_factory.mktemp("run") / "checkpoints" / "preference"
  with checkpoints.Checkpoints(path) as saved:
    as_json = json.loads(config.to_json_best_effort())
    opt_state = {"count": jnp.zeros(())}
    saved.save(1, tiny.params(model), opt_state, as_json, tiny.tokenizer().model)
  return path


@pytest.fixture(scope="module")
def writer(directory):
  return Writer.load(directory)


@pytest.fixture(scope="module")
def episodes():
  source = tiny.rows(shots=2, queries=2).episode
  return [source(i) for i in range(3)]


def test_the_path_of_the_checkpoints_is_all_it_takes(directory, writer):
  config = writer.model.config
  assert {name: getattr(config, name) for name in SIZES} == SIZES
  assert config.vocab_size == tiny.tokenizer().vocab_size
  assert writer.formatter.template == templates.HEADINGS
  assert writer.formatter.tokenizer.model == tiny.tokenizer().model
  expected = tiny.flat(tiny.params(writer.model))
  for name, leaf in tiny.flat(writer.params).items():
    np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
  assert Writer.load(str(directory)).model == writer.model


def test_a_path_without_checkpoints_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="no checkpoint"):
    Writer.load(tmp_path / "nothing")


def _path(writer, episode, layout, shots, context):
  """Tokens and roles from the root of the training tree to where the query's answers begin."""
  built = templates.build(episode, writer.formatter, layout)
  pair = [p for p in built.pairs if (p.shots, p.context) == (shots, context)][0]
  start = int(np.flatnonzero(built.tree.segments == pair.chosen)[0])
  path = trees.path_to(built.tree, int(built.tree.parents[start]))
  return tuple(built.tree.tokens[path].tolist()), tuple(built.tree.roles[path].tolist())


@pytest.mark.parametrize("template", [templates.MARKERS, templates.HEADINGS])
@pytest.mark.parametrize("shots", [0, 1, 2])
def test_a_context_is_the_path_of_the_tree_that_the_model_was_trained_on(
  writer, episodes, template, shots
):
  formatter = templates.Formatter(tiny.tokenizer(), template)
  writer = dataclasses.replace(writer, formatter=formatter)
  layout = Layout(query_shots=(shots,), description_shots=(shots,), description_queries=(shots,))
  for episode in episodes:
    question = templates.Role.QUESTION
    asked = writer.formatter.question(episode.queries[0].prompt)
    for description, context in (
      (None, Context.SHOTS),
      (episode.description, Context.DESCRIPTION),
    ):
      run = writer.context(episode.shots[:shots], description)
      tokens, roles = _path(writer, episode, layout, shots, context)
      assert run.tokens + asked == tokens
      assert run.roles + (question,) * len(asked) == roles


def _users(episodes):
  return [e.shots for e in episodes], [[q.prompt for q in e.queries] for e in episodes]


def _greedy(writer, tokens, roles, role, count):
  """The text that full forward passes over a plain sequence lead to, without any cache."""
  model, tokenizer = writer.model, writer.formatter.tokenizer
  out = []
  for _ in range(count):
    ids, kinds = np.zeros((2, 1, 320), np.int32)
    ids[0, : len(tokens)], kinds[0, : len(tokens)] = tokens, roles
    logits = _logits(model, writer.params, ids, kinds)[len(tokens) - 1]
    token = int(np.argmax(logits))
    if token == writer.formatter.stop_id:
      return Written(tokenizer.decode(out).strip(), True)
    out.append(token)
    tokens, roles = (*tokens, token), (*roles, role)
  return Written(tokenizer.decode(out).strip(), False)


def _forward(model, params, tokens, roles):
  positions = jnp.arange(320)[None, :]
  hidden, _ = model.apply({"params": params}, tokens, positions, roles, jnp.full((1, 320), 320))
  return hidden[0] @ transformer.head(params, model.config)


_logits = jax.jit(_forward, static_argnums=0)


def test_responses_and_descriptions_are_those_of_the_plain_model(writer, episodes):
  users, prompts = _users(episodes)
  answers = writer.respond(users, prompts, GREEDY, seed=0)
  assert [len(a) for a in answers] == [2, 2, 2]
  layout = Layout(query_shots=(2,), description_shots=(2,), description_queries=(2,))
  for episode, (first, second) in zip(episodes, answers, strict=True):
    tokens, roles = _path(writer, episode, layout, 2, Context.SHOTS)
    assert first == _greedy(writer, tokens, roles, templates.Role.PREFERRED, 6)
    turned = dataclasses.replace(episode, queries=episode.queries[::-1])
    tokens, roles = _path(writer, turned, layout, 2, Context.SHOTS)
    assert second == _greedy(writer, tokens, roles, templates.Role.PREFERRED, 6)
  assert len({a.text for pair in answers for a in pair}) > 3  # they depend on user and prompt

  descriptions = writer.describe(users, GREEDY, seed=0)
  for shots, written in zip(users, descriptions, strict=True):
    run = writer.context(shots)
    opening = writer.formatter.description()
    role = templates.Role.DESCRIPTION
    tokens, roles = run.tokens + opening, run.roles + (role,) * len(opening)
    assert written == _greedy(writer, tokens, roles, role, 6)

  gold = [e.description for e in episodes]
  described = writer.respond(users, prompts, GREEDY, seed=0, descriptions=gold)
  tokens, roles = _path(writer, episodes[0], layout, 2, Context.DESCRIPTION)
  assert described[0][0] == _greedy(writer, tokens, roles, templates.Role.PREFERRED, 6)


def test_answers_do_not_depend_on_who_is_in_the_batch(writer, episodes):
  users, prompts = _users(episodes)
  together = writer.respond(users, prompts, RANDOM, seed=5)
  one_by_one = dataclasses.replace(writer, batch=1)
  assert one_by_one.respond(users, prompts, RANDOM, seed=5) == together
  assert one_by_one.describe(users, RANDOM, seed=5) == writer.describe(users, RANDOM, seed=5)
  assert writer.respond(users, prompts, RANDOM, seed=6) != together
  # Users without any shots get different answers to one prompt only by chance: by their seeds.
  same = writer.respond([()] * 3, [["Is it good?"] * 2] * 3, RANDOM, seed=5)
  assert len({a.text for pair in same for a in pair}) > 3


def test_users_need_equally_many_prompts(writer, episodes):
  users, prompts = _users(episodes)
  with pytest.raises(ValueError, match=r"3 users need equally many prompts each; found \[1, 2\]"):
    writer.respond(users, [prompts[0][:1], *prompts[1:]], GREEDY, seed=0)
  with pytest.raises(ValueError, match="for 2 users"):
    writer.respond(users, prompts[:2], GREEDY, seed=0)
