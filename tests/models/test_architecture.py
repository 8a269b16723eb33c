# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what Llama's relatives do otherwise, on trees and in the cache.

What a model of each family computes on plain sequences is tested in test_huggingface.
"""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from fspo_jax import config as config_lib
from fspo_jax.episodes import batching, trees
from fspo_jax.inference import sampler
from fspo_jax.models import architecture, rotary, scoring, transformer, tree_attention
from tests import tiny

PER_TOKEN = 1e-5
# Everything at once; windows and the original length bite on paths of a dozen tokens.
EVERYTHING = {
  "layers": 3,
  "activation": "gelu",
  "qkv_bias": True,
  "qk_norm": True,
  "post_norms": True,
  "zero_centered_norms": True,
  "scaled_embeddings": True,
  "query_scalar": 5.0,
  "attention_softcap": 2.0,
  "logit_softcap": 3.0,
  "windows": (4, 0, 2),
  "rope_scaling": "llama3",
  "rope_factor": 4.0,
  "rope_original_length": 8,
  "rope_theta": 50.0,
  "rope_local_theta": 10.0,
}
MISTRAL = {"layers": 2, "windows": (3,)}

_scores = jax.jit(scoring.segment_scores, static_argnums=0, static_argnames="chunk")


@pytest.mark.parametrize("changes", [EVERYTHING, MISTRAL], ids=["everything", "windows alone"])
@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(tiny.nodes(), min_size=1, max_size=3))
def test_a_tree_scores_what_its_sequences_do(changes, roots):
  decoder = tiny.model(**changes)
  params = tiny.params(decoder)
  built = [tiny.episode_tree(root) for root in roots]
  row = batching.pack(built, batching.Packing(3, 84, 80, 24, 1))
  scores = _scores(decoder, params, batching.stack([row]), chunk=24)
  forest = trees.concatenate([t.tree for t in built], [len(t.segments) for t in built])
  if forest.segments.max() < 0:
    return
  each = tiny.segments_by_sequence(decoder, params, forest, rows=24, length=30)
  for segment, logprobs in enumerate(each):
    found = float(scores.logprob[0, segment])
    assert found == pytest.approx(float(logprobs.sum()), abs=PER_TOKEN * len(logprobs))


def test_a_window_counts_along_the_path_and_not_along_the_row():
  # After three tokens hang a branch of five and one of two: five of the row lie in between.
  root = trees.Node((0,) * 3, 0, children=(trees.Node((0,) * 5, 0), trees.Node((0,) * 2, 0)))
  tree = trees.flatten(root)
  ends, positions = tree.subtree_end[None], tree.positions[None]
  rng = np.random.default_rng(0)
  q, k, v = (rng.standard_normal((1, 10, 2, 4)).astype(np.float32) for _ in range(3))

  def attended(k, v):
    return tree_attention.attention(q, k, v, ends, positions, block=4, window=3)[0, 9]

  gradients = jax.jit(jax.grad(lambda *kv: attended(*kv).sum(), (0, 1)))(k, v)
  seen = np.flatnonzero(np.abs(gradients[1]).max((0, 2, 3)))
  assert seen.tolist() == [2, 8, 9]  # itself, its parent, and the trunk's last token
  with pytest.raises(ValueError, match="a window counts along positions: found none"):
    tree_attention.attention(q, k, v, ends, block=4, window=3)


@pytest.mark.parametrize("changes", [EVERYTHING, MISTRAL], ids=["everything", "windows alone"])
def test_the_cache_gives_what_the_whole_sequence_does(changes):
  decoder = tiny.model(roles=0, **changes)
  params = tiny.params(decoder)
  ids = np.random.default_rng(0).integers(0, tiny.VOCAB, 22).tolist()

  @jax.jit
  def whole(tokens):
    positions = jnp.arange(64)[None, :]
    hidden, _ = decoder.apply(
      {"params": params}, tokens[None], positions, positions, jnp.full((1, 64), 64)
    )
    return hidden[0], transformer.logits(params, decoder.config, hidden[0])

  context = sampler.empty(decoder.config, 1, 64)
  for part in (ids[:9], ids[9:10], ids[10:]):
    context = sampler.extend(decoder, params, context, [sampler.Run.of(part, 0)])

  def padded(tokens):
    return jnp.asarray(tokens + [0] * (64 - len(tokens)))

  hidden, _ = whole(padded(ids))
  np.testing.assert_allclose(context.hidden[0], hidden[21], atol=2e-5)
  decoding = sampler.Decoding(temperature=0.0, top_p=1.0, max_tokens=9)
  found = sampler.sample(
    decoder, params, context, role=0, eos_id=tiny.VOCAB, decoding=decoding, seeds=[(0,)]
  )
  for _ in range(9):
    _, logits = whole(padded(ids))
    ids.append(int(logits[len(ids) - 1].argmax()))
  assert found[0].tokens == ids[22:]


@pytest.mark.parametrize("changes", [EVERYTHING, MISTRAL], ids=["everything", "windows alone"])
def test_a_fanned_out_context_gives_what_its_tree_does(changes):
  decoder = tiny.model(**changes)
  params = tiny.params(decoder)
  rng = np.random.default_rng(1)

  def run(count, role):
    return sampler.Run.of(rng.integers(0, tiny.VOCAB, count).tolist(), role)

  # Windows of 2 to 4 reach from the first tokens of a question into the context, or past it.
  users = [run(n, 1) for n in (1, 13, 7)]
  asked = [[run(n, 2) for n in counts] for counts in ((4, 1, 9), (1, 17, 2), (3, 3, 6))]

  def context_of(runs):
    context = sampler.empty(decoder.config, len(runs), 64)
    return sampler.extend(decoder, params, context, runs)

  fanned = sampler.fan_out(context_of(users), 3, 32)
  alone = context_of([user + q for user, own in zip(users, asked, strict=True) for q in own])
  for cut in (slice(0, 2), slice(2, None)):  # a second part goes on from the first
    runs = [sampler.Run(q.tokens[cut], q.roles[cut]) for own in asked for q in own]
    fanned = sampler.extend(decoder, params, fanned, runs)
  assert fanned.lengths.tolist() == alone.lengths.tolist()
  np.testing.assert_allclose(fanned.hidden, alone.hidden, atol=1e-5)
  # And what the forward pass of the whole tree of a user finds, at the end of each question.
  whole = jax.jit(functools.partial(decoder.apply, {"params": params}))
  for row, (user, own) in enumerate(zip(users, asked, strict=True)):
    leaves = tuple(trees.Node(q.tokens, 2) for q in own)
    tree = trees.flatten(trees.Node(user.tokens, 1, children=leaves))
    arrays = (tree.tokens, tree.positions, tree.roles, tree.subtree_end)
    hidden, _ = whole(*(np.pad(x, (0, 64 - len(x)))[None] for x in arrays))
    ends = len(user.tokens) + np.cumsum([len(q.tokens) for q in own]) - 1
    np.testing.assert_allclose(fanned.hidden[3 * row : 3 * row + 3], hidden[0, ends], atol=1e-5)
  decoding = sampler.Decoding(temperature=1.0, top_p=0.9, max_tokens=9)
  options = {
    "role": 2,
    "eos_id": tiny.VOCAB,
    "decoding": decoding,
    "seeds": [(i,) for i in range(9)],
  }
  found = [sampler.sample(decoder, params, context, **options) for context in (fanned, alone)]
  assert found[0] == found[1]


@pytest.mark.slow
def test_recomputation_changes_nothing():
  row = batching.stack([tiny.small_row()])
  params = tiny.params(tiny.model(**EVERYTHING))

  def loss_and_gradient(remat):
    decoder = tiny.model(remat=remat, attention_block=48, **EVERYTHING)

    def loss(p):
      return scoring.segment_scores(decoder, p, row, chunk=40).logprob.sum()

    return jax.jit(jax.value_and_grad(loss))(params)

  loss, gradient = loss_and_gradient("none")
  other_loss, other = loss_and_gradient("full")
  np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
  theirs = tiny.flat(other)
  for name, ours in tiny.flat(gradient).items():
    assert np.any(ours), name  # every parameter takes part
    np.testing.assert_allclose(theirs[name], ours, atol=1e-5 * largest, err_msg=name)


def test_only_what_is_asked_for_has_parameters():
  blocks = tiny.params(tiny.model(**EVERYTHING))["blocks"]
  assert {name for name in blocks if "bias" in blocks[name]} == {"q", "k", "v"}
  more = {"q_norm", "k_norm", "attention_post_norm", "mlp_post_norm"}
  assert blocks.keys() - tiny.params(tiny.model())["blocks"].keys() == more


def test_frequencies_of_llama_3_1():
  """Slow ones are divided by 8, fast ones left, those in between blended (Llama 3.1's own code)."""
  config = tiny.config(head_dim=128, rope_theta=500_000.0, rope_scaling="llama3", rope_factor=8.0)
  positions = jnp.ones((1, 1), jnp.int32)
  angles = np.arcsin(np.asarray(rotary.rotation(config, positions).sin[0, 0], np.float64))
  plain = 500_000.0 ** (-np.arange(64) / 64)
  wavelength = 2 * np.pi / plain
  smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
  expected = np.where(
    wavelength < 8192 / 4,
    plain,
    np.where(wavelength > 8192 / 1, plain / 8, (1 - smooth) * plain / 8 + smooth * plain),
  )
  assert (wavelength < 2048).sum() > 10 and (wavelength > 8192).sum() > 10
  np.testing.assert_allclose(angles, expected, rtol=2e-5)


def test_configs_have_every_field_with_the_same_default():
  keys = config_lib.default().model
  fields = dataclasses.fields(architecture.TransformerConfig)
  assert {field.name for field in fields} == {"vocab_size", *keys}
  for field in fields:
    if field.default is not dataclasses.MISSING:
      assert keys[field.name] == field.default, field.name
  # As a config comes back from JSON.
  c = ml_collections.ConfigDict({"model": {**keys, "windows": [4, 0]}})
  assert hash(config_lib.transformer(c, 9)) and config_lib.transformer(c, 9).windows == (4, 0)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"activation": "relu"}, r"model.activation='relu' is not one of \('silu', 'gelu'\)"),
    ({"rope_scaling": "yarn"}, r"model.rope_scaling='yarn' is not one of"),
    ({"rope_factor": 2.0}, "model.rope_factor=2.0, but model.rope_scaling='none'"),
    ({"rope_scaling": "linear", "rope_factor": 0.5}, "model.rope_factor=0.5 must be at least 1"),
    ({"rope_high_freq_factor": 1.0}, "expected 0 < low < high"),
    ({"rope_theta": 0.0}, "model.rope_theta=0.0 must be positive"),
    ({"rope_local_theta": 10.0}, r"model.windows=\(\) has none"),
    ({"windows": (1, 2, 3)}, "expected at most model.layers=2 numbers of tokens"),
    ({"windows": (-1,)}, "expected at most"),
    ({"logit_softcap": -1.0}, "model.logit_softcap=-1.0 must be positive, or 0 for none"),
    ({"query_scalar": -1.0}, "model.query_scalar=-1.0 must be positive, or 0 for none"),
  ],
)
def test_impossible_shapes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny.config(**changes)
