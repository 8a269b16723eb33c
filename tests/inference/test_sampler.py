# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the sampler, against full forward passes without a cache."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fspo_jax.inference import sampler
from fspo_jax.inference.sampler import Decoding, Run
from fspo_jax.models import transformer
from tests import tiny

MODEL = tiny.model(tied=False)
ROLE = 2
LENGTHS = (5, 31, 18)
NEVER = tiny.VOCAB  # an EOS that is no token


@pytest.fixture(scope="module")
def prompts():
  """Three runs of different lengths, every token with a role."""
  rng = np.random.default_rng(0)
  return [
    Run(tuple(rng.integers(0, tiny.VOCAB, n).tolist()), tuple(rng.integers(0, 5, n).tolist()))
    for n in LENGTHS
  ]


@jax.jit
def _hidden_and_logits(params, tokens, roles):
  positions = jnp.arange(64)[None, :]
  arguments = (tokens[None, :], positions, roles[None, :], jnp.full((1, 64), 64))
  hidden, _ = MODEL.apply({"params": params}, *arguments)
  return hidden[0], hidden[0] @ transformer.head(params, MODEL.config)


def _forward(run):
  """Hidden states and logits of one sequence, padded to 64, from nothing and without a cache."""
  return _hidden_and_logits(tiny.params(MODEL), *_padded(run))


def _padded(run):
  fill = (0,) * (64 - len(run.tokens))
  return jnp.asarray(run.tokens + fill), jnp.asarray(run.roles + fill)


def _greedy(run, count):
  """The most probable next token, `count` times, each from a full forward pass."""
  out = []
  for _ in range(count):
    _, logits = _forward(run)
    last = np.asarray(logits[len(run.tokens) - 1])
    token = int(last.argmax())
    assert last[token] - np.delete(last, token).max() > 1e-4  # no tie that rounding decides
    out.append(token)
    run += Run.of((token,), ROLE)
  return out


def _context(runs, capacity=64):
  context = sampler.empty(MODEL.config, len(runs), capacity)
  return sampler.extend(MODEL, tiny.params(MODEL), context, runs)


def _sample(context, decoding, *, eos_id=NEVER, seeds=((0,), (1,), (2,))):
  return sampler.sample(
    MODEL,
    tiny.params(MODEL),
    context,
    role=ROLE,
    eos_id=eos_id,
    decoding=decoding,
    seeds=seeds,
  )


GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=9)
RANDOM = Decoding(temperature=1.0, top_p=1.0, max_tokens=9)


def test_greedy_decoding_is_the_argmax_of_full_forward_passes(prompts):
  expected = [_greedy(run, 9) for run in prompts]
  found = _sample(_context(prompts), GREEDY)
  assert found == [(tokens, False) for tokens in expected]
  assert all(len(set(tokens)) > 3 for tokens in expected)  # what was said changes what is said


def test_a_sequence_ends_at_its_eos_and_the_others_go_on(prompts):
  full = [_greedy(run, 9) for run in prompts]
  for row, at in ((1, 8), (2, 0)):  # as the very last token, and at once
    eos = full[row][at]
    ends = [tokens.index(eos) if eos in tokens else None for tokens in full]
    assert ends[row] is not None
    expected = [
      (tokens, False) if end is None else (tokens[:end], True)
      for tokens, end in zip(full, ends, strict=True)
    ]
    assert _sample(_context(prompts), GREEDY, eos_id=eos) == expected


def test_a_context_in_two_parts_is_the_context_in_one(prompts):
  whole = _context(prompts)
  parts = sampler.empty(MODEL.config, 3, 64)
  # Cut anywhere, even before or behind everything; what is padding in one part is overwritten.
  for cuts in ((0, 0, 0), (2, 31, 7), (5, 31, 7), (5, 31, 18)):
    start = np.asarray(parts.lengths).tolist()
    runs = [
      Run(run.tokens[a:b], run.roles[a:b]) for run, a, b in zip(prompts, start, cuts, strict=True)
    ]
    parts = sampler.extend(MODEL, tiny.params(MODEL), parts, runs)
  assert parts.lengths.tolist() == whole.lengths.tolist() == list(LENGTHS)
  np.testing.assert_allclose(parts.hidden, whole.hidden, atol=2e-5)
  for row, run in enumerate(prompts):
    hidden, _ = _forward(run)
    np.testing.assert_allclose(whole.hidden[row], hidden[LENGTHS[row] - 1], atol=2e-5)
    used = slice(0, LENGTHS[row])
    for ours, theirs in zip(parts.cache, whole.cache, strict=True):
      np.testing.assert_allclose(ours[:, row, used], theirs[:, row, used], atol=2e-5)
  assert _sample(parts, GREEDY) == _sample(whole, GREEDY)


def test_a_context_that_is_fanned_out_continues_each_copy_on_its_own(prompts):
  first, _, second = prompts
  questions = [Run.of(range(i, 2 * i + 3), 1) for i in range(6)]
  shared = sampler.fan_out(_context([first, second]), 3)
  assert shared.lengths.tolist() == [5, 5, 5, 18, 18, 18]
  shared = sampler.extend(MODEL, tiny.params(MODEL), shared, questions)
  alone = _context([run + q for run, q in zip([first] * 3 + [second] * 3, questions, strict=True)])
  np.testing.assert_allclose(shared.hidden, alone.hidden, atol=2e-5)
  for row, length in enumerate(shared.lengths.tolist()):
    before = len((first, second)[row // 3].tokens)
    for kept, own, theirs in zip(shared.shared[:2], shared.cache, alone.cache, strict=True):
      ours = jnp.concatenate(
        (kept[:, row // 3, :, :before].swapaxes(1, 2), own[:, row, : length - before]), axis=1
      )
      np.testing.assert_allclose(ours, theirs[:, row, :length], atol=2e-5)


def test_a_context_is_kept_once_and_survives_its_copies(prompts):
  known = _context(prompts[:2])
  more = [Run.of((3, 1, 4), 1), Run.of((), 1)]
  alone = _context([run + q for run, q in zip(prompts, more, strict=False)])
  first, second = _sample(alone, RANDOM, seeds=((0,), (1,)))
  for _ in range(2):
    context = sampler.fan_out(known, 3, 12)
    assert context.shared.k.shape[:2] == known.cache.k.shape[:2]  # layers, contexts
    assert context.cache.k.shape[1:3] == (6, 64)
    runs = [more[0]] * 3 + [more[1]] * 3
    context = sampler.extend(MODEL, tiny.params(MODEL), context, runs)
    found = _sample(context, RANDOM, seeds=[(row // 3,) for row in range(6)])
    assert found == [first] * 3 + [second] * 3


def test_a_stream_after_a_fanned_out_context_is_its_sample(prompts):
  known = _context(prompts[:1])
  options = {"role": ROLE, "eos_id": NEVER, "decoding": RANDOM, "seed": (5,)}
  fanned = sampler.fan_out(known, 1, 9)
  streamed = list(sampler.stream(MODEL, tiny.params(MODEL), fanned, **options))
  (sampled,) = _sample(known, RANDOM, seeds=[(5,)])
  assert streamed == sampled.tokens


def test_what_was_fanned_out_has_its_room_and_is_not_fanned_out_again(prompts):
  fanned = sampler.fan_out(_context(prompts), 2, 1)
  with pytest.raises(ValueError, match="a context of 65 tokens does not fit a cache of 64"):
    runs = [Run.of((1,) * n, 0) for n in (3, 2, 65, 1, 0, 2)]
    sampler.extend(MODEL, tiny.params(MODEL), fanned, runs)
  with pytest.raises(ValueError, match="found contexts that were fanned out"):
    sampler.fan_out(fanned, 2)


def test_randomness_depends_on_a_sequences_own_seed_and_not_on_the_batch(prompts):
  seeds = [(7, 0), (7, 1), (7, 2)]
  together = _sample(_context(prompts), RANDOM, seeds=seeds)
  order = (2, 0, 1)
  permuted = _sample(_context([prompts[i] for i in order]), RANDOM, seeds=[seeds[i] for i in order])
  assert permuted == [together[i] for i in order]
  (alone,) = _sample(_context([prompts[1]]), RANDOM, seeds=[seeds[1]])
  assert alone == together[1]
  # The same context three times: only the seeds differ.
  same = _sample(_context([prompts[1]] * 3), RANDOM, seeds=[(7, 1), (7, 3), (8, 1)])
  assert same[0] == together[1]
  assert len({tuple(s.tokens) for s in same}) == 3


# A model whose first logits are known: the head reads them off the hidden state.
LOGITS = np.asarray([2.0, -1.0, 0.5, 1.5, -2.0, 0.0, 1.0, -0.5])
SMALL = tiny.model(
  vocab_size=8, tied=False, layers=1, heads=1, kv_heads=1, head_dim=2, mlp=4, roles=0
)


def _frequencies(decoding, count=4000):
  """How often each token is sampled first, given LOGITS."""
  params = {**tiny.params(SMALL), "head": jnp.eye(16, 8)}
  context = sampler.empty(SMALL.config, count, 2)
  hidden = jnp.zeros((count, 16)).at[:, :8].set(jnp.asarray(LOGITS, jnp.float32)[None, :])
  context = context._replace(hidden=hidden)
  found = sampler.sample(
    SMALL,
    params,
    context,
    role=0,
    eos_id=8,
    decoding=decoding,
    seeds=[(3, i) for i in range(count)],
  )
  counts = collections.Counter(s.tokens[0] for s in found)
  return np.asarray([counts[i] for i in range(8)])


@pytest.mark.parametrize(
  "temperature, top_p, kept",
  [
    (1.0, 1.0, range(8)),
    # softmax(LOGITS) is 0.403 of token 0, 0.244 of 3, 0.148 of 6, 0.090 of 2 ...: 0, 3 and 6 are
    # the first to hold 0.7: 0.795, and 0.647 without the last.
    (1.0, 0.7, (0, 3, 6)),
    (0.5, 0.7, (0, 3)),  # the temperature comes first: 0.633 of token 0, 0.233 of 3
    (1.0, 1e-6, (0,)),
  ],
)
def test_sampling_frequencies_are_the_softmax_of_the_smallest_set(temperature, top_p, kept):
  observed = _frequencies(Decoding(temperature, top_p, 1))
  kept = list(kept)
  assert observed[kept].sum() == observed.sum() == 4000  # nothing outside of the set
  weights = np.exp(LOGITS[kept] / temperature)
  expected = 4000 * weights / weights.sum()
  # The seeds are fixed: either it holds or it does not. One right sampler in 10^5 would not.
  if len(kept) > 1:
    assert stats.chisquare(observed[kept], expected).pvalue > 1e-5


def test_a_cache_has_its_capacity_and_no_more(prompts):
  # A capacity is rounded up to 64.
  context = _context([Run.of((1,) * 40, 0)], capacity=3)
  with pytest.raises(ValueError, match="a context of 65 tokens does not fit a cache of 64"):
    sampler.extend(MODEL, tiny.params(MODEL), context, [Run.of((1,) * 25, 0)])
  decoding = Decoding(0.0, 1.0, 25)
  with pytest.raises(ValueError) as caught:
    _sample(context, decoding, seeds=((0,),))
  assert str(caught.value) == (
    "a context of 65 tokens, those to sample included, does not fit a cache of 64"
  )


def test_a_cache_can_be_filled_to_the_last_slot():
  runs = [Run.of(tuple(i % 50 for i in range(n)), 1) for n in (55, 3, 9)]
  found = _sample(_context(runs), GREEDY)  # 55 + 9 = 64
  assert found == [(_greedy(run, 9), False) for run in runs]
  # By an extension whose padding, to 16 tokens, does not fit any more.
  whole = Run.of(tuple(i % 50 for i in range(64)), 1)
  context = _context([Run(whole.tokens[:61], whole.roles[:61])])
  context = sampler.extend(
    MODEL, tiny.params(MODEL), context, [Run(whole.tokens[61:], whole.roles[61:])]
  )
  np.testing.assert_allclose(context.hidden[0], _forward(whole)[0][63], atol=2e-5)


@pytest.mark.parametrize("arguments", [(-0.1, 1.0, 5), (1.0, 0.0, 5), (1.0, 1.1, 5), (1.0, 1.0, 0)])
def test_impossible_decoding_is_refused(arguments):
  with pytest.raises(ValueError, match="temperature >= 0, 0 < top_p <= 1 and max_tokens >= 1"):
    Decoding(*arguments)


def test_runs_add_up():
  assert Run.of((4, 5), 1) + Run.of((6,), 2) == Run((4, 5, 6), (1, 1, 2))
