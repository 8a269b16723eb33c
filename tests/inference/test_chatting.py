# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of sampling with another model's tokenizer, in its chat template or under headings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
pytest.importorskip("jinja2", reason="the extra 'hf' is not installed")

from fspo_jax.episodes import chat, templates, tokenizers, trees
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import After, Context, Kind, Layout, Role
from fspo_jax.inference import rat, sampler
from fspo_jax.inference.personalizer import Personalizer
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import transformer
from fspo_jax.preferences import Preference
from tests import tiny

GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=6)
RANDOM = Decoding(temperature=1.0, top_p=1.0, max_tokens=6)
SHOTS = (Preference("Why?", "So.", "No..."), Preference("How?", "Thus.\n", "\nNot"))
PROMPT, RESPONSE, DESCRIPTION = "And then?", "Just so.", "Likes it short."
LENGTH = 192


@pytest.fixture(scope="module")
def chatting():
  """A plain model that chats as Qwen 3 does."""
  folder = tiny.REPO / "tests" / "fixtures" / "tokenizers" / "qwen_3"
  formatter = chat.formatter(tokenizers.load(folder))
  model = tiny.model(vocab_size=formatter.tokenizer.vocab_size, tied=False, roles=0)
  return Writer(model, tiny.params(model), formatter, batch=4)


def _headed(writer):
  """The same, under headings: there is no BOS, and without shots a context is empty."""
  formatter = templates.Formatter(writer.formatter.tokenizer, templates.HEADINGS)
  return dataclasses.replace(writer, formatter=formatter)


def test_what_is_sampled_stands_where_it_trains(chatting, monkeypatch):
  """What the sampler is told and what it then says are a path of the tree of that episode."""
  told, form = [], chatting.formatter
  said = {Role.PREFERRED: RESPONSE, Role.DESCRIPTION: DESCRIPTION}

  def extend(model, params, context, runs):
    del model, params, context
    told.extend(runs[0].tokens)

  def sample(model, params, context, *, role, eos_id, decoding, seeds):
    del model, params, context, decoding
    (*ids, stop) = form.answer(said[role])
    assert stop == eos_id
    told.extend((*ids, stop))
    return [sampler.Sampled(ids, True)] * len(seeds)

  def stream(model, params, context, *, role, eos_id, decoding, seed):
    del seed
    (sampled,) = sample(
      model, params, context, role=role, eos_id=eos_id, decoding=decoding, seeds=[()]
    )
    yield from sampled.tokens

  monkeypatch.setattr(sampler, "extend", extend)
  monkeypatch.setattr(sampler, "sample", sample)
  monkeypatch.setattr(sampler, "stream", stream)
  monkeypatch.setattr(sampler, "fan_out", lambda context, copies, room=0: context)
  episode = Episode("u", SHOTS, (Preference(PROMPT, RESPONSE, "Hm."),), DESCRIPTION)
  layout = Layout(query_shots=(2,), description_shots=(2,), description_queries=(2,))
  built = templates.build(episode, form, layout)

  def path(segment):
    """And with it, what has been told since the last one."""
    last = int(np.flatnonzero(built.tree.segments == segment)[-1])
    since = [int(i) for i in told]
    told.clear()
    return built.tree.tokens[trees.path_to(built.tree, last)].tolist(), since

  (described,) = [i for i, s in enumerate(built.segments) if s.kind == Kind.DESCRIPTION]
  assert chatting.describe([SHOTS], GREEDY, seed=0) == [Written(DESCRIPTION, True)]
  expected, found = path(described)
  assert found == expected
  # A personalizer anew: it would not be told again what it knows.
  assert Personalizer(chatting).describe(SHOTS) == DESCRIPTION
  assert path(described)[1] == expected
  assert rat.describe(chatting, [SHOTS], GREEDY, seed=0) == [rat.Description(DESCRIPTION, True)]
  assert path(described)[1] == expected
  for description, context in ((None, Context.SHOTS), (DESCRIPTION, Context.DESCRIPTION)):
    (pair,) = [p for p in built.pairs if p.context == context]
    answers = chatting.respond([SHOTS], [[PROMPT]], GREEDY, seed=0, descriptions=[description])
    assert answers == [[Written(RESPONSE, True)]]
    expected, found = path(pair.chosen)
    assert found == expected
    assert Personalizer(chatting).respond(SHOTS, PROMPT, description=description) == RESPONSE
    assert path(pair.chosen)[1] == expected


@pytest.mark.parametrize("template", ["chat", "headings"])
def test_the_sampler_says_what_the_plain_model_does(chatting, template):
  writer = chatting if template == "chat" else _headed(chatting)
  assert bool(writer.context(()).tokens) == (template == "chat")
  known = [(), SHOTS[:1]]
  answers = writer.respond(known, [[PROMPT]] * 2, GREEDY, seed=0)
  personalizer = Personalizer(writer)
  for shots, (answer,) in zip(known, answers, strict=True):
    asked = writer.formatter.question(PROMPT, After.of(shots))
    assert answer == _greedy(writer, (*writer.context(shots).tokens, *asked))
    assert personalizer.respond(shots, PROMPT, max_new_tokens=6) == answer.text
  judge = rat.Judge(writer, 0.1)
  written = rat.describe(writer, [SHOTS[:1], ()], RANDOM, n=2, judge=judge, seed=3)
  assert all(np.isfinite(w.fit) for w in written) and len(written) == 2


def test_plain_text_without_bos_needs_a_beginning(chatting):
  personalizer = Personalizer(chatting)
  with pytest.raises(ValueError, match="prompt='': found a tokenizer without BOS"):
    personalizer.generate()
  found = personalizer.generate("Tiny currents", max_new_tokens=6)
  assert (
    found.strip() == _greedy(chatting, chatting.formatter.tokenizer.encode("Tiny currents")).text
  )


def _greedy(writer, tokens):
  """What full forward passes over a plain sequence lead to, without any cache."""
  form, out = writer.formatter, []
  for _ in range(GREEDY.max_tokens):
    ids = np.zeros((1, LENGTH), np.int32)
    ids[0, : len(tokens)] = tokens
    token = int(np.argmax(_logits(writer.model, writer.params, ids)[len(tokens) - 1]))
    if token == form.stop_id:
      return Written(form.tokenizer.decode(out).strip(), True)
    out.append(token)
    tokens = (*tokens, token)
  return Written(form.tokenizer.decode(out).strip(), False)


def _forward(model, params, tokens):
  positions, nothing = jnp.arange(LENGTH)[None, :], jnp.zeros((1, LENGTH), jnp.int32)
  everything = jnp.full((1, LENGTH), LENGTH)
  hidden, _ = model.apply({"params": params}, tokens, positions, nothing, everything)
  return hidden[0] @ transformer.head(params, model.config)


_logits = jax.jit(_forward, static_argnums=0)
