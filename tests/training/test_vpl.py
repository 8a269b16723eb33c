# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of VPL: its encoder, its step and its contender."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import losses, sharding
from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode, ShotsAsked
from fspo_jax.episodes.templates import Kind, Layout
from fspo_jax.evaluation.contenders import Models
from fspo_jax.evaluation.variational import Variational
from fspo_jax.inference.sampler import Decoding
from fspo_jax.models import scoring, vpl
from fspo_jax.preferences import Preference
from fspo_jax.training import optimizer
from fspo_jax.training import state as state_lib
from fspo_jax.training import vpl as training
from tests import tiny

CONFIG = vpl.VplConfig(latent=4, hidden=32, kl_weight=0.01, kl_anneal=0.5)
LAYOUT = Layout(query_shots=(0,))
SHOTS = 3
DPO = dataclasses.replace(
  tiny.OBJECTIVE, name="dpo", beta=0.5, preference_weight=1.0, chosen_weight=0.1
)


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def model():
  return tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)


def _params(model, mesh, *, offset=0.0):
  """A policy with its encoder, whose latents move the embeddings if `offset` is not 0."""
  params = vpl.add_encoder(tiny.params(model), CONFIG, mesh, seed=1)
  kernel = params[vpl.NAME]["offset"]["kernel"]
  moved = offset * jax.random.normal(jax.random.key(2), kernel.shape)
  return {**params, vpl.NAME: {**params[vpl.NAME], "offset": {"kernel": moved}}}


def _features(seed, pairs=5, width=16):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((2, 3, pairs, width)).astype(np.float32)


class TestEncoder:
  def test_nothing_known_is_the_prior(self, model, mesh):
    """q(z | nothing) = N(0, I), whose KL against itself is 0."""
    params = _params(model, mesh, offset=1.0)
    known = jnp.zeros((3, 5), bool)
    offset, posterior = vpl.encode(CONFIG, params, *_features(0), known)
    np.testing.assert_array_equal(offset, 0)
    np.testing.assert_array_equal(posterior.mean, 0)
    np.testing.assert_array_equal(posterior.log_variance, 0)
    np.testing.assert_array_equal(vpl.kl(posterior), 0)

  def test_reads_known_pairs_as_a_set(self, model, mesh):
    """Neither their order nor what is not known changes anything; which is chosen does."""
    params = _params(model, mesh, offset=1.0)
    chosen, rejected = _features(0)
    known = jnp.broadcast_to(jnp.arange(5) < 3, (3, 5))
    expected = np.asarray(vpl.encode(CONFIG, params, chosen, rejected, known)[0])

    def offset(order, other=0.0):
      c, r = chosen[:, order].copy(), rejected[:, order].copy()
      c[:, 3:] += other
      return np.asarray(vpl.encode(CONFIG, params, c, r, known)[0])

    np.testing.assert_allclose(offset([2, 0, 1, 3, 4]), expected, atol=1e-5)
    np.testing.assert_allclose(offset([0, 1, 2, 4, 3], other=9.0), expected, atol=1e-5)
    swapped = np.asarray(vpl.encode(CONFIG, params, rejected, chosen, known)[0])
    assert np.abs(swapped - expected).max() > 0.1

  def test_kl_is_the_integral(self):
    """Against E_q[log q - log p], by 64-bit quadrature in one dimension."""
    mean, log_variance = 0.7, -1.3
    z = np.linspace(-12, 12, 200_001)
    log_q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance + np.log(2 * np.pi))
    log_p = -0.5 * (z**2 + np.log(2 * np.pi))
    expected = np.trapezoid(np.exp(log_q) * (log_q - log_p), z)
    found = vpl.kl(vpl.Posterior(jnp.full((1, 1), mean), jnp.full((1, 1), log_variance)))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)

  @pytest.mark.parametrize(
    "changes", [{"latent": 0}, {"hidden": 40}, {"kl_weight": -1.0}, {"kl_anneal": 1.5}]
  )
  def test_refuses(self, changes):
    with pytest.raises(ValueError, match=f"vpl.{next(iter(changes))}"):
      dataclasses.replace(CONFIG, **changes)


def _rows(episode, pairs, tokens=640, scored=480):
  packing = batching.Packing.of(
    LAYOUT, shots=0, queries=pairs, episodes=1, tokens=tokens, scored_tokens=scored
  )
  return batching.Rows(episode, tiny.formatter(), LAYOUT, packing)


def _source():
  """Episodes of the tiny world, shots first among the queries."""
  return ShotsAsked(tiny.rows(shots=SHOTS, queries=1).episode)


class TestStep:
  def test_unknown_only_keeps_what_was_not_read(self):
    rows = _rows(_source(), SHOTS + 2)  # one padding pair
    batch = batching.stack([rows(0), rows(1)])
    known = np.zeros((2, SHOTS + 2), bool)
    known[0, :2], known[1, :3] = True, True
    asked = jax.tree.map(np.asarray, training.unknown_only(batch, jnp.asarray(known)))
    np.testing.assert_array_equal(asked.pair_weight, [[0, 0, 1, 1, 0], [0, 0, 0, 1, 0]])
    for row in range(2):
      for pair in range(SHOTS + 1):
        kinds = [
          int(asked.segment_kind[row, s[row, pair]])
          for s in (batch.pair_chosen, batch.pair_rejected)
        ]
        expected = [Kind.PADDING] * 2 if known[row, pair] else [Kind.CHOSEN, Kind.REJECTED]
        assert kinds == expected

  def test_starts_at_the_reference(self, model, mesh):
    """Invariant 2: margin 0 and DPO's loss log 2, whatever latent is drawn."""
    params = vpl.add_encoder(tiny.params(model), CONFIG, mesh, seed=1)
    update, rule = _step(model, mesh, steps=10)
    rows = _rows(_source(), SHOTS + 1)
    state = _state(params, rule, mesh)
    _, metrics = update(state, tiny.params(model), batching.stack([rows(0), rows(1)]))
    assert float(metrics["logps/abs_margins"]) == 0.0
    np.testing.assert_allclose(float(metrics["preference/loss"]), np.log(2), rtol=1e-6)
    assert float(metrics["vpl/kl_weight"]) == 0.0
    assert float(metrics["grad_norm"]) > 0

  def test_kl_weight_grows_to_its_own(self, model, mesh):
    """Linearly over `kl_anneal` of the run's 4 steps, then constant."""
    update, rule = _step(model, mesh, steps=4)
    state = _state(vpl.add_encoder(tiny.params(model), CONFIG, mesh, seed=1), rule, mesh)
    rows = _rows(_source(), SHOTS + 1)
    weights = []
    for _ in range(4):
      state, metrics = update(state, tiny.params(model), batching.stack([rows(0), rows(1)]))
      weights.append(float(metrics["vpl/kl_weight"]))
    np.testing.assert_allclose(weights, [0, 0.005, 0.01, 0.01], rtol=1e-5)

  def test_learns_who_asks(self, model, mesh):
    """Two kinds of user who like opposite things: told apart by their shots, and only by them."""
    update, rule = _step(model, mesh, steps=120, rate=1e-2)
    reference = state_lib.init_params(model, mesh, 0)
    state = _state(vpl.add_encoder(reference, CONFIG, mesh, seed=1), rule, mesh)
    rows = _rows(ShotsAsked(_opposites), SHOTS + 1, tokens=112, scored=80)
    for i in range(120):
      batch = batching.stack([rows(8 * i + j) for j in range(8)])
      state, _ = update(state, reference, batch)
    models = Models(model, reference, state.params, tiny.formatter(), mesh, 512)
    contender = Variational(models, CONFIG, rows=8, max_row_tokens=512)
    margins = contender.margins([_opposites(10_000 + i) for i in range(40)])
    accuracy = [float((m > 0).mean()) for m in margins]
    assert accuracy[SHOTS] >= 0.95
    assert 0.25 <= accuracy[0] <= 0.75  # the same answer for both kinds


def _state(params, rule, mesh):
  """A fresh state of copies: a step consumes it, and the reference stays."""
  return state_lib.init_state(jax.tree.map(lambda x: x.copy(), params), rule, mesh)


def _step(model, mesh, *, steps, rate=1e-3):
  rule = optimizer.make_optimizer(
    optimizer.OptimizerConfig(
      name="adamw",
      learning_rate=rate,
      adam_learning_rate=0.0,
      warmup_steps=1,
      decay_fraction=0.2,
      clip_norm=1.0,
      weight_decay=0.0,
      b2=0.98,
    ),
    steps,
  )
  update = training.make_step(
    model,
    DPO,
    rule,
    mesh,
    vocab_chunk=512,
    config=CONFIG,
    shots=SHOTS,
    steps=steps,
    seed=0,
  )
  return update, rule


def _opposites(index):
  """Users of two kinds, each of whom always prefers the one or the other response."""
  rng = np.random.default_rng([7, index])
  likes = int(rng.integers(2))
  names = rng.permutation(12)[: SHOTS + 1]
  texts = ("It was good.", "It was bad.")
  pairs = tuple(
    Preference(f"How was film {n}?", texts[likes], texts[1 - likes]) for n in names.tolist()
  )
  return Episode(f"user {index}", pairs[:SHOTS], pairs[SHOTS:])


@pytest.fixture(scope="module")
def contender(model, mesh):
  base = tiny.params(model)
  policy = _params(model, mesh, offset=0.5)
  models = Models(model, base, policy, tiny.formatter(), mesh, 512)
  return Variational(models, CONFIG, rows=2, max_row_tokens=2048)


@pytest.fixture(scope="module")
def episodes():
  source = tiny.rows(shots=SHOTS, queries=1).episode
  return [source(i) for i in range(3)]


class TestContender:
  def test_margins_are_those_of_plain_sequences(self, contender, episodes):
    """Each k by its own: the query's pair under the offset that the first k shots give."""
    found = contender.margins(episodes)
    assert [m.shape for m in found] == [(3,)] * (SHOTS + 1)
    for k in range(SHOTS + 1):
      known = [dataclasses.replace(e, shots=e.shots[:k]) for e in episodes]
      offsets = contender.offsets(known)
      np.testing.assert_allclose(found[k], _margins(contender, episodes, offsets), atol=2e-4)
    np.testing.assert_allclose(found[0], 0, atol=1e-5)  # the base's own parameters, no offset
    assert np.abs(found[SHOTS]).max() > 1e-2

  def test_responds_under_the_latent(self, contender, episodes):
    """As the policy does under the same offset, and not as it does without."""
    prompts = [[e.queries[0].prompt] * 4 for e in episodes]
    decoding = Decoding(1.0, 1.0, 12)
    found = contender.respond(episodes, prompts, decoding, seed=3)
    writer = contender.models.writer(trained=True)
    nobody = [()] * len(episodes)
    same = writer.respond(nobody, prompts, decoding, seed=3, offsets=contender.offsets(episodes))
    plain = writer.respond(nobody, prompts, decoding, seed=3)
    assert found == same
    assert found != plain

  def test_refuses_unequal_shots(self, contender, episodes):
    short = dataclasses.replace(episodes[0], shots=())
    with pytest.raises(ValueError, match="equally many shots"):
      contender.margins([*episodes, short])
    two = dataclasses.replace(episodes[0], queries=(*episodes[0].queries,) * 2)
    with pytest.raises(ValueError, match="one query each"):
      contender.margins([two])


def _margins(contender, episodes, offsets):
  """Of each query, alone in its row: losses.margin of log-ratios to the base."""
  models = contender.models
  rows = _rows(lambda i: dataclasses.replace(episodes[i], shots=()), 1)
  batch = batching.stack([rows(i) for i in range(len(episodes))])
  policy = scoring.segment_scores(
    models.model, models.policy, batch, chunk=512, offset=jnp.asarray(offsets)
  )
  base = scoring.segment_scores(models.model, models.base, batch, chunk=512)
  ratio = np.asarray(policy.logprob - base.logprob)
  return losses.margin(ratio[:, 0], ratio[:, 1])
