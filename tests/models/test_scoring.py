# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of scoring; above all that a tree scores what its root-to-leaf sequences do.

`main`, in a process of its own, scores on eight devices.
"""

import functools
import json
import pathlib
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import hlo, sharding
from fspo_jax.episodes import batching, templates, trees
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import Layout
from fspo_jax.models import scoring
from fspo_jax.planning import collectives
from fspo_jax.preferences import Preference
from tests import tiny

VOCAB = 23
# float32: a token's log-probability of size 10 has steps of 1e-6, and it takes a few of them.
PER_TOKEN = 1e-5

_scores = jax.jit(scoring.segment_scores, static_argnums=0, static_argnames="chunk")


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 7, 16, VOCAB, 64])
def test_any_chunk_of_the_vocabulary_gives_log_softmax_and_its_gradient(chunk, softcap):
  rng = np.random.default_rng(0)
  hidden = rng.standard_normal((2, 5, 6)).astype(np.float32)
  head = 2 * rng.standard_normal((6, VOCAB)).astype(np.float32)
  targets = rng.integers(0, VOCAB, (2, 5))
  targets[0, :2] = [0, VOCAB - 1]
  weights = rng.standard_normal((2, 5)).astype(np.float32)

  def ours(targets, hidden, head):
    return scoring.token_logprobs(hidden, head, targets, chunk=chunk, softcap=softcap)

  @jax.jit
  def chunked(hidden, head):
    return jax.vjp(functools.partial(ours, jnp.asarray(targets)), hidden, head)[0], jax.grad(
      lambda h, w: (ours(jnp.asarray(targets), h, w) * weights).sum(), (0, 1)
    )(hidden, head)

  values, (hidden_gradient, head_gradient) = chunked(hidden, head)
  logits = hidden.astype(np.float64) @ head.astype(np.float64)
  slope = 1.0
  if softcap:
    assert (np.abs(logits) > softcap).any()
    slope = 1 / np.cosh(logits / softcap) ** 2
    logits = softcap * np.tanh(logits / softcap)
  logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  chosen = np.eye(VOCAB)[targets]
  np.testing.assert_allclose(values, (logprobs * chosen).sum(-1), atol=PER_TOKEN)
  # d log softmax(z)[t] / dz = onehot(t) - softmax(z).
  by_logit = slope * weights[..., None] * (chosen - np.exp(logprobs))
  np.testing.assert_allclose(hidden_gradient, by_logit @ head.T, atol=1e-5)
  expected = np.einsum("bsd,bsv->dv", hidden.astype(np.float64), by_logit)
  np.testing.assert_allclose(head_gradient, expected, atol=1e-5)


def test_probabilities_add_up_to_1_in_half_precision():
  # The head's parameters are float32, and the model computes with them in bfloat16: the target's
  # logit and the normalizer must both be of the rounded ones.
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.standard_normal((1, 64)), jnp.bfloat16)
  head = jnp.asarray(0.3 * rng.standard_normal((64, 512)), jnp.float32)
  every = jnp.repeat(hidden, 512, axis=0)
  found = scoring.token_logprobs(every, head, jnp.arange(512), chunk=100)
  assert float(jnp.exp(found).sum()) == pytest.approx(1.0, abs=1e-5)
  rounded = np.asarray(head.astype(jnp.bfloat16), np.float64)
  logits = np.asarray(hidden, np.float64) @ rounded
  np.testing.assert_allclose(found, logits[0] - np.log(np.exp(logits).sum()), atol=PER_TOKEN)


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_in_half_precision_only_products_are_rounded(softcap):
  # Against log softmax in float64 of the rounded numbers. Sums over the vocabulary are in float32;
  # the gradient of a logit is rounded to bfloat16, 2^-8 of itself, before it is multiplied on.
  rng = np.random.default_rng(1)
  hidden = jnp.asarray(rng.standard_normal((40, 16)), jnp.bfloat16)
  head = jnp.asarray(rng.standard_normal((16, VOCAB)), jnp.float32)
  targets, weights = rng.integers(0, VOCAB, 40), rng.standard_normal(40)

  def ours(hidden, head):
    found = scoring.token_logprobs(hidden, head, jnp.asarray(targets), chunk=7, softcap=softcap)
    assert found.dtype == jnp.float32
    return (found * weights.astype(np.float32)).sum(), found

  gradients, found = jax.grad(ours, (0, 1), has_aux=True)(hidden, head)
  assert [x.dtype for x in gradients] == [jnp.bfloat16, jnp.float32]
  x, w = (np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (hidden, head))
  logits, slope = x @ w, 1.0
  if softcap:
    slope = 1 / np.cosh(logits / softcap) ** 2
    logits = softcap * np.tanh(logits / softcap)
  logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(found, logprobs[np.arange(40), targets], atol=PER_TOKEN)
  by_logit = slope * weights[:, None] * (np.eye(VOCAB)[targets] - np.exp(logprobs))
  for got, expected, of in (
    (gradients[0], by_logit @ w.T, np.abs(by_logit) @ np.abs(w).T),
    (gradients[1], x.T @ by_logit, np.abs(x).T @ np.abs(by_logit)),
  ):
    error = np.abs(np.asarray(got, np.float64) - expected)
    assert (error <= 2.0**-8 * (of + np.abs(expected)) + 1e-5).all()


@pytest.mark.usefixtures("optimized")
def test_the_memory_of_scoring_knows_neither_the_vocabulary_nor_how_it_is_cut():
  tokens, width, chunk = 8192, 128, 2048

  def temporaries(score, vocab):
    def loss(hidden, table, targets):
      return score(hidden, table.T, targets).sum()

    shapes = [(tokens, width), (vocab, width)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    given.append(jax.ShapeDtypeStruct((tokens,), jnp.int32))
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*given).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def naive(hidden, head, targets):
    logprobs = jax.nn.log_softmax(hidden @ head)
    return jnp.take_along_axis(logprobs, targets[:, None], axis=1)[:, 0]

  ours = functools.partial(scoring.token_logprobs, chunk=chunk)
  large = temporaries(ours, 128_256)  # which is no multiple of the chunk
  # A chunk's logits and their gradient; the chunk itself and the gradient of hidden states, twice
  # each; of every token the largest logit, the sum, the target's, the weight.
  logits = 4 * tokens * chunk
  assert large <= 2 * logits + 2 * 4 * width * (tokens + chunk) + 8 * 4 * tokens
  assert large == pytest.approx(temporaries(ours, 4096), rel=0.01)
  assert temporaries(naive, 128_256) >= 4 * tokens * 128_256 > 25 * large


def test_extreme_logits_neither_overflow_nor_vanish():
  head = jnp.asarray([[1e4, -1e4, 0.0, 1e4]])
  found = scoring.token_logprobs(jnp.ones((4, 1)), head, jnp.arange(4), chunk=3)
  np.testing.assert_allclose(found, np.asarray([0, -2e4, -1e4, 0]) - np.log(2), rtol=1e-6)
  gradient = jax.grad(
    lambda w: scoring.token_logprobs(jnp.ones((1, 1)), w, jnp.ones(1, int), chunk=3)[0]
  )
  np.testing.assert_allclose(gradient(head), [[-0.5, 1.0, 0.0, -0.5]], atol=1e-6)


def _check_against_sequences(decoder, params, built, scores, rows, length):
  """Every segment of row 0 of `scores` against the plain forward pass of its own sequence."""
  forest = trees.concatenate([t.tree for t in built], [len(t.segments) for t in built])
  count = sum(len(t.segments) for t in built)
  if count:
    each = tiny.segments_by_sequence(decoder, params, forest, rows=rows, length=length)
    for segment, logprobs in enumerate(each):
      assert scores.length[0, segment] == len(logprobs)
      found = float(scores.logprob[0, segment])
      assert found == pytest.approx(float(logprobs.sum()), abs=PER_TOKEN * len(logprobs))
  assert not np.any(scores.logprob[0, count:]) and not np.any(scores.length[0, count:])


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.lists(tiny.nodes(), min_size=1, max_size=3))
def test_a_tree_scores_what_its_sequences_do(roots):
  decoder = tiny.model()
  built = [tiny.episode_tree(root) for root in roots]
  row = batching.pack(built, batching.Packing(3, 84, 80, 24, 1))
  params = tiny.params(decoder)
  scores = _scores(decoder, params, batching.stack([row]), chunk=24)
  _check_against_sequences(decoder, params, built, scores, rows=24, length=30)


_WORDS = st.lists(st.sampled_from(["good", "a film", "No!", "ünï", "plot.", "7"]), max_size=2)


@st.composite
def _episodes(draw):
  """Episodes of any number of shots and queries, with any texts; even empty ones."""
  shots, queries = draw(st.integers(0, 2)), draw(st.integers(1, 2))
  text = lambda: " ".join(draw(_WORDS))  # noqa: E731
  made = [Preference(f"{i} {text()}", text(), text()) for i in range(shots + queries)]
  return Episode("u", tuple(made[:shots]), tuple(made[shots:]), text())


@st.composite
def _layouts(draw):
  ks = lambda source: tuple(sorted(draw(st.sets(source, max_size=2))))  # noqa: E731
  described = ks(st.integers(0, 2))
  queried = ks(st.sampled_from(described)) if described else ()
  return Layout(draw(st.booleans()), draw(st.booleans()), ks(st.integers(0, 2)), described, queried)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.lists(_episodes(), min_size=1, max_size=2), _layouts())
def test_any_layout_of_any_episode_scores_what_its_sequences_do(episodes, layout):
  decoder = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=128)
  params = tiny.params(decoder)
  packing = batching.Packing(2, 384, 320, 48, 24)
  built, _ = batching.fit(episodes, tiny.formatter(), layout, packing)
  row = batching.pack(built, packing)
  scores = _scores(decoder, params, batching.stack([row]), chunk=512)
  _check_against_sequences(decoder, params, built, scores, rows=48, length=128)


def test_one_pass_gives_the_preference_term_for_every_number_of_shots():
  # The same query after k = 0, 1, 2 shots, against episodes that have only those shots.
  decoder = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=128)
  params = tiny.params(decoder)
  source = tiny.rows(Layout(query_shots=(0, 1, 2)))
  episode = source.episode(5)
  score = lambda row: _scores(decoder, params, batching.stack([row]), chunk=512)  # noqa: E731
  built = templates.build(episode, source.formatter, source.layout)
  row = batching.pack([built], source.packing)
  whole = score(row)
  margins = set()
  for pair in built.pairs:
    fewer = Episode("u", episode.shots[: pair.shots], episode.queries)
    alone = templates.build(fewer, source.formatter, Layout(query_shots=(pair.shots,)))
    scores = score(batching.pack([alone], source.packing))
    for of_whole, of_alone in ((pair.chosen, 0), (pair.rejected, 1)):
      length = float(scores.length[0, of_alone])
      assert float(whole.length[0, of_whole]) == length
      found = pytest.approx(float(scores.logprob[0, of_alone]), abs=PER_TOKEN * length)
      assert float(whole.logprob[0, of_whole]) == found
    margins.add(round(float(whole.logprob[0, pair.chosen] - whole.logprob[0, pair.rejected]), 3))
  assert sorted(p.shots for p in built.pairs) == [0, 1, 2]
  assert len(margins) == 3  # what comes before matters


def test_padding_leaks_into_nothing():
  decoder = tiny.model()
  row = tiny.small_row()
  scored = int((row.segment < 9).sum())
  assert scored < len(row.segment)
  dirty = row._replace(
    tokens=np.where(row.positions + row.roles == 0, 63, row.tokens),
    source=np.where(row.segment == 9, 5, row.source),
    target=np.where(row.segment == 9, 17, row.target),
  )
  dirty.tokens[0] = row.tokens[0]
  assert (dirty.tokens != row.tokens).sum() >= 8

  def total(params, batch):
    scores = scoring.segment_scores(decoder, params, batch, chunk=24)
    return scores.logprob.sum(), scores

  both = jax.jit(jax.grad(total, has_aux=True))
  (gradient, clean), (other_gradient, other) = (
    both(tiny.params(decoder), batching.stack([r])) for r in (row, dirty)
  )
  np.testing.assert_array_equal(other.length, clean.length)
  np.testing.assert_allclose(other.logprob, clean.logprob, rtol=1e-6)
  assert float(clean.length.sum()) == scored
  theirs = tiny.flat(other_gradient)
  for name, values in tiny.flat(gradient).items():
    np.testing.assert_allclose(theirs[name], values, atol=1e-6 * np.abs(values).max(), err_msg=name)


def test_segments_are_added_up_by_hand():
  batch = tiny.small_row()._replace(
    segment=np.asarray([1, 1, 0, 3, 2]), segment_kind=np.asarray([1, 1, 0])
  )
  one = batching.stack([batch])
  scores = scoring.sum_segments(jnp.asarray([[-1.0, -2.0, -4.0, -8.0, -16.0]]), one)
  # Segment 3 is one past the last: padding.
  np.testing.assert_array_equal(scores.logprob, [[-4.0, -3.0, -16.0]])
  np.testing.assert_array_equal(scores.length, [[1.0, 2.0, 1.0]])


# Eight devices.

# Devices along data, fsdp, tensor and context.
MESHES = ((1, 1, 1, 1), (1, 1, 8, 1), (2, 2, 2, 1), (1, 8, 1, 1), (1, 2, 2, 2))
ROWS, SCORED, WIDTH, ENTRIES = 8, 12, 16, 208


def main(directory):
  """Scores on every mesh: writes values, gradients, and what is sent."""
  rng = np.random.default_rng(0)
  hidden = rng.standard_normal((ROWS, SCORED, WIDTH)).astype(np.float32)
  embedding = rng.standard_normal((ENTRIES, WIDTH)).astype(np.float32)
  targets = rng.integers(0, ENTRIES, (ROWS, SCORED)).astype(np.int32)
  # The first and the last of the parts of two and of eight.
  targets[:, :6] = [0, 25, 26, 103, 104, ENTRIES - 1]
  weights = rng.standard_normal((ROWS, SCORED)).astype(np.float32)

  def loss(hidden, embedding, targets, weights):
    hidden = sharding.split_tokens(hidden)
    found = scoring.token_logprobs(hidden, embedding.T, targets, chunk=7)
    return (found * weights).sum(), found

  for shape in MESHES:
    count = int(np.prod(shape))
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[:count])
    rows, table = sharding.batch_sharding(mesh), jax.sharding.PartitionSpec("tensor", "fsdp")
    table = rows if count == 1 else jax.sharding.NamedSharding(mesh, table)
    function = jax.jit(jax.grad(loss, (0, 1), has_aux=True), in_shardings=(rows, table, rows, rows))
    with sharding.use(mesh):
      compiled = function.lower(hidden, embedding, targets, weights).compile()
    given = jax.device_put((hidden, embedding, targets, weights), (rows, table, rows, rows))
    (d_hidden, d_table), values = compiled(*given)
    name = "x".join(map(str, shape))
    np.savez(
      pathlib.Path(directory) / f"{name}.npz", values=values, d_hidden=d_hidden, d_table=d_table
    )
    sent = collectives.traffic(hlo.parse(compiled.as_text()), dict(mesh.shape))
    facts = {
      "sent": [[one.kind, one.axes, one.wire_bytes, one.times] for one in sent.collectives],
      "table": d_table.sharding.shard_shape(d_table.shape),
    }
    (pathlib.Path(directory) / f"{name}.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
  directory = tmp_path_factory.mktemp("eight")
  tiny.run("models.test_scoring", directory, devices=8)

  def read(shape):
    name = "x".join(map(str, shape))
    return dict(np.load(directory / f"{name}.npz")), json.loads(
      (directory / f"{name}.json").read_text()
    )

  return {shape: read(shape) for shape in MESHES}


@pytest.mark.parametrize("shape", MESHES[1:])
def test_a_split_vocabulary_scores_as_a_whole_one_does(eight_devices, shape):
  one, _ = eight_devices[MESHES[0]]
  eight, facts = eight_devices[shape]
  for name, values in one.items():
    np.testing.assert_allclose(eight[name], values, atol=1e-5, err_msg=name)
  _, fsdp, tensor, _ = shape
  assert facts["table"] == [ENTRIES // tensor, WIDTH // fsdp]


@pytest.mark.parametrize("shape", MESHES[1:])
def test_the_table_stays_where_it_lies(eight_devices, shape):
  _, facts = eight_devices[shape]
  data, fsdp, tensor, context = shape
  tokens = ROWS * SCORED // (data * fsdp * context)
  along_tensor = [one for one in facts["sent"] if "tensor" in one[1]]
  assert {kind for kind, *_ in along_tensor} <= {"all-reduce"}
  # Of every token the largest logit, the sum and the target's; and the gradient of its state.
  most = 2 * (tensor - 1) / tensor * 4 * tokens * (3 + WIDTH)
  assert sum(size * times for _, _, size, times in along_tensor) <= most
  # What fsdp has split is brought together a chunk at a time, once forwards and once backwards.
  gathers = [one for one in facts["sent"] if one[0] == "all-gather" and "fsdp" in one[1]]
  assert {size for _, _, size, _ in gathers} <= {(fsdp - 1) / fsdp * 4 * 7 * WIDTH}
  chunks = -(-ENTRIES // tensor // 7)
  assert sum(times for *_, times in gathers) == (2 * chunks if fsdp > 1 else 0)


if __name__ == "__main__":
  main(*sys.argv[1:])
