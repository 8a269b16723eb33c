# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the decoder, against one written in plain numpy and float64."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax.episodes import batching, trees
from fspo_jax.models import scoring, transformer
from tests import tiny


def _rms_norm(x, scale, eps):
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * scale


def _rope(x, positions, theta):
  """Rotates pairs (d, d + D/2) of every head by position * theta^(-2 d / D)."""
  half = x.shape[-1] // 2
  out = np.empty_like(x)
  for d in range(half):
    angle = positions * theta ** (-2 * d / (2 * half))
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    out[..., d] = x[..., d] * cos - x[..., d + half] * sin
    out[..., d + half] = x[..., d + half] * cos + x[..., d] * sin
  return out


def _reference_logits(config, params, tokens, roles, positions, mask):
  """Logits [L, V] of one row; `params` in float64, matrices [in, out]."""
  x = params["embedding"][tokens]
  if config.roles:
    x = x + params["role_embedding"][roles]
  blocks = params["blocks"]
  length, group = len(tokens), config.heads // config.kv_heads
  for layer in range(config.layers):
    weight = {k: blocks[k]["kernel"][layer] for k in ("q", "k", "v", "o", "gate", "up", "down")}
    h = _rms_norm(x, blocks["attention_norm"]["scale"][layer], config.norm_eps)
    q = _rope((h @ weight["q"]).reshape(length, config.heads, -1), positions, config.rope_theta)
    k = _rope((h @ weight["k"]).reshape(length, config.kv_heads, -1), positions, config.rope_theta)
    v = (h @ weight["v"]).reshape(length, config.kv_heads, -1)
    attended = []
    for head in range(config.heads):
      scores = q[:, head] @ k[:, head // group].T / np.sqrt(config.head_dim)
      scores = np.where(mask, scores, -np.inf)
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      attended.append(weights / weights.sum(-1, keepdims=True) @ v[:, head // group])
    x = x + np.concatenate(attended, -1) @ weight["o"]
    h = _rms_norm(x, blocks["mlp_norm"]["scale"][layer], config.norm_eps)
    gate = h @ weight["gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ weight["up"])) @ weight["down"]
  x = _rms_norm(x, params["final_norm"]["scale"], config.norm_eps)
  return x @ (params["embedding"].T if config.tied else params["head"])


@pytest.mark.parametrize(
  "changes",
  [
    {"tied": True},
    {"tied": False, "roles": 0, "kv_heads": 4, "rope_theta": 500.0, "norm_eps": 0.1},
    {"tied": False, "kv_heads": 1, "layers": 3},
  ],
  ids=["tied", "untied plain Llama", "one kv head"],
)
def test_the_decoder_is_the_one_of_the_textbook(changes):
  decoder = tiny.model(**changes)
  params = tiny.params(decoder)
  row = tiny.small_row()
  tokens, roles, positions, ends = row.tokens, row.roles, row.positions, row.subtree_end
  mask = trees.attention_mask(ends)
  assert not np.array_equal(mask, np.tri(len(tokens), dtype=bool))  # trees, not a sequence
  one = lambda x: x[None]  # noqa: E731
  hidden, _ = jax.jit(decoder.apply)(
    {"params": params}, *map(one, (tokens, positions, roles, ends))
  )
  found = hidden[0] @ transformer.head(params, decoder.config)
  exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  expected = _reference_logits(decoder.config, exact, tokens, roles, positions, mask)
  assert np.std(expected) > 0.5  # logits that say something
  np.testing.assert_allclose(found, expected, atol=2e-5)


@functools.partial(jax.jit, static_argnums=0)
def _segment_gradients(decoder, params, batch):
  """d(log-probability of each segment of row 0) / d(embedding table): [G, V, D]."""

  def logprobs(table):
    return scoring.segment_scores(decoder, {**params, "embedding": table}, batch, chunk=64).logprob

  return jax.jacrev(logprobs)(params["embedding"])[0]


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.lists(tiny.nodes(max_nodes=6), min_size=1, max_size=3))
def test_only_the_path_to_a_segment_has_a_gradient(roots):
  # Every token of the row has an id of its own, and the head is not the embedding table, so row i
  # of the table's gradient is the gradient at token i.
  decoder = tiny.model(tied=False, roles=0)
  built = [tiny.episode_tree(root) for root in roots]
  packing = batching.Packing(3, tiny.VOCAB, 48, 15, 1)
  row = batching.pack(built, packing)
  forest = trees.concatenate([t.tree for t in built], [len(t.segments) for t in built])
  row = row._replace(tokens=np.arange(tiny.VOCAB, dtype=np.int32))
  gradients = _segment_gradients(decoder, tiny.params(decoder), batching.stack([row]))
  size = np.abs(np.asarray(gradients)).max(-1)
  for segment in range(15):
    expected = np.zeros(tiny.VOCAB, bool)
    if segment <= forest.segments.max():
      last = np.flatnonzero(forest.segments == segment)[-1]
      # The last token is predicted, and predicts nothing of the segment itself.
      expected[trees.path_to(forest, int(last))[:-1]] = True
    np.testing.assert_array_equal(size[segment] != 0.0, expected)


def _loss_and_gradient(decoder, params, batch):
  def loss(p):
    return scoring.segment_scores(decoder, p, batch, chunk=40).logprob.sum()

  return jax.jit(jax.value_and_grad(loss))(params)


def test_remat_policies_and_block_sizes_change_memory_and_nothing_else():
  batch = batching.stack([tiny.small_row()])
  plain = tiny.model(attention_block=48)
  params = tiny.params(plain)
  loss, gradient = _loss_and_gradient(plain, params, batch)
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
  for changes in ({"remat": "dots"}, {"remat": "full", "attention_block": 20}):
    decoder = transformer.Transformer(dataclasses.replace(plain.config, **changes))
    other_loss, other = _loss_and_gradient(decoder, params, batch)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    for (name, ours), theirs in zip(
      tiny.flat(other).items(), jax.tree.leaves(gradient), strict=True
    ):
      np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest, err_msg=f"{changes} {name}")


def test_remat_recomputes():
  tokens = np.zeros((1, 8), np.int32)

  def recomputed(remat):
    decoder = tiny.model(remat=remat)
    apply = lambda p: decoder.apply({"params": p}, *[tokens] * 3, tokens + 8)[0].sum()  # noqa: E731
    return str(jax.make_jaxpr(jax.grad(apply))(tiny.params(decoder))).count("dot_general")

  # Matrix products of the program: the forward ones alone, or again in the backward pass.
  assert recomputed("none") < recomputed("full")
  assert recomputed("dots") < recomputed("full")


def test_the_program_does_not_grow_with_depth():
  tokens = np.zeros((1, 8), np.int32)

  def program(layers):
    decoder = tiny.model(layers=layers)
    params = tiny.params(decoder)
    assert params["blocks"]["q"]["kernel"].shape == (layers, 16, 32)
    return str(
      jax.make_jaxpr(lambda p: decoder.apply({"params": p}, *[tokens] * 3, tokens + 8)[0])(params)
    )

  assert program(2).count("=") == program(7).count("=")


def test_layers_start_with_parameters_of_their_own():
  decoder = tiny.model()
  ints = jnp.zeros((1, 2), jnp.int32)
  init = jax.jit(lambda: transformer.nn.meta.unbox(decoder.init(jax.random.key(0), *[ints] * 4)))
  blocks = init()["params"]["blocks"]
  for name in ("q", "k", "v", "gate", "up"):
    kernel = blocks[name]["kernel"]
    assert kernel.shape[0] == 2 and not np.array_equal(kernel[0], kernel[1])


def test_half_precision_computes_in_half_and_keeps_its_parameters():
  decoder = tiny.model(dtype="bfloat16")
  params = tiny.params(decoder)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
  row = batching.stack([tiny.small_row()])
  arguments = (row.tokens, row.positions, row.roles, row.subtree_end)
  half, _ = jax.jit(decoder.apply)({"params": params}, *arguments)
  whole, _ = jax.jit(tiny.model().apply)({"params": params}, *arguments)
  assert half.dtype == jnp.bfloat16 and whole.dtype == jnp.float32
  # bfloat16 has 8 bits: a few of its steps at values around 1.
  np.testing.assert_allclose(half.astype(np.float32), whole, atol=0.1)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"heads": 6, "kv_heads": 4}, "model.kv_heads=4 does not divide model.heads=6"),
    ({"head_dim": 7}, "model.head_dim=7 is odd"),
    ({"layers": 0}, "model.layers=0 must be at least 1"),
    ({"param_dtype": "int8"}, "'int8' is not a float type"),
    ({"remat": "some"}, r"model.remat='some' is not one of \['dots', 'full', 'none'\]"),
  ],
)
def test_impossible_shapes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny.config(**changes)


def test_a_tree_or_a_cache_but_not_both_and_not_neither():
  decoder = tiny.model()
  ints = jnp.zeros((1, 4), jnp.int32)
  cache = transformer.init_cache(decoder.config, 1, 8)
  for options in ({}, {"subtree_end": ints, "cache": cache}):
    with pytest.raises(ValueError, match="either subtree_end"):
      decoder.apply({"params": tiny.params(decoder)}, ints, ints, ints, **options)
