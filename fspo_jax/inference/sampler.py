# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sampler: prefill a context once, continue it many times, with a KV cache.

Shapes are static: token counts are rounded up to buckets, so that a handful of compiled programs
serve every request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped
import numpy as np

from fspo_jax.models import attention, transformer

_BUCKET = 64


class Run(NamedTuple):
  """Tokens to append to a context, all of one role or with a role each."""

  tokens: tuple[int, ...]
  roles: tuple[int, ...]

  @classmethod
  def of(cls, tokens: Sequence[int], role: int) -> Run:
    """Tokens of one role."""
    return cls(tuple(tokens), (int(role),) * len(tokens))

  def __add__(self, other: Run) -> Run:  # type: ignore[override]
    return Run(self.tokens + other.tokens, self.roles + other.roles)


class Context(NamedTuple):
  """What a batch of sequences has been told so far.

  Attributes:
    cache: keys and values, of what comes after the shared ones.
    lengths: tokens of each sequence, shared ones included.
    hidden: hidden state of each sequence's last token, which predicts the next one.
    offset: added to the embedding of every token of a sequence, those sampled included; None for
      nothing. See `models.vpl`.
    shared: of sequences that were fanned out, what they have in common, kept once and only read.
  """

  cache: transformer.Cache
  lengths: Int[Array, " B"]
  hidden: Float[Array, "B D"]
  offset: Float[Array, "B D"] | None = None
  shared: attention.Shared | None = None


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How the next token is chosen.

  Attributes:
    temperature: 0 is greedy.
    top_p: the smallest set of tokens that holds this much probability is sampled from; 1 is all.
    max_tokens: a response is cut there, and is then not `finished`.
  """

  temperature: float
  top_p: float
  max_tokens: int

  def __post_init__(self) -> None:
    if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
      raise ValueError(f"temperature >= 0, 0 < top_p <= 1 and max_tokens >= 1: found {self}")


class Sampled(NamedTuple):
  """Sampled ids without EOS, and whether EOS came before the limit."""

  tokens: list[int]
  finished: bool


def empty(
  config: transformer.TransformerConfig,
  batch: int,
  capacity: int,
  offset: Float[Array, "B D"] | None = None,
) -> Context:
  """Contexts that have been told nothing; `capacity` tokens fit, rounded up."""
  return Context(
    transformer.init_cache(config, batch, _rounded(capacity)),
    jnp.zeros(batch, jnp.int32),
    jnp.zeros((batch, config.width), config.dtype),
    # A copy: the context is consumed by whoever extends it.
    None if offset is None else jnp.array(offset),
  )


def _rounded(tokens: int) -> int:
  return max(-(-tokens // _BUCKET), 1) * _BUCKET


def fan_out(context: Context, copies: int, room: int | None = None) -> Context:
  """Every context `copies` times, next to each other: one user's shots, many prompts.

  What is known is kept once, whatever the copies. The given context is not consumed.

  Args:
    context: what is known.
    copies: of each.
    room: tokens that must fit after each context, rounded up; None for as many as fit after the
      longest one in the given cache.

  Raises:
    ValueError: the contexts were fanned out already.
  """
  if context.shared is not None:
    raise ValueError("found contexts that were fanned out, expected some that share nothing yet")
  longest = int(np.asarray(context.lengths).max())
  if room is None:
    room = context.cache.k.shape[2] - longest
  return _fan_out(context, copies, _rounded(longest), _rounded(room))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _fan_out(context: Context, copies: int, longest: int, room: int) -> Context:
  k, v = (x[:, :, :longest].swapaxes(2, 3) for x in context.cache)
  layers, batch, _, kv_heads, depth = context.cache.k.shape
  shape = (layers, batch * copies, room, kv_heads, depth)

  def repeat(x: Shaped[Array, "U ..."]) -> Shaped[Array, "B ..."]:
    return jnp.repeat(x, copies, axis=0)

  return Context(
    transformer.Cache(jnp.zeros(shape, k.dtype), jnp.zeros(shape, v.dtype)),
    repeat(context.lengths),
    repeat(context.hidden),
    None if context.offset is None else repeat(context.offset),
    # A copy: what is fanned out is consumed by whoever extends it.
    attention.Shared(k, v, jnp.copy(context.lengths)),
  )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _extend(
  model: transformer.Transformer,
  params: dict,
  context: Context,
  tokens: Int[Array, "B T"],
  roles: Int[Array, "B T"],
  counts: Int[Array, " B"],
) -> Context:
  # Padding is written past each sequence's end, where nothing looks before it is overwritten; past
  # the cache's end it is dropped.
  positions = context.lengths[:, None] + jnp.arange(tokens.shape[1])[None, :]
  hidden, cache = model.apply(
    {"params": params},
    tokens,
    positions,
    roles,
    cache=context.cache,
    shared=context.shared,
    offset=context.offset,
  )
  last = jnp.take_along_axis(hidden, jnp.maximum(counts - 1, 0)[:, None, None], axis=1)[:, 0]
  last = jnp.where((counts > 0)[:, None], last, context.hidden)
  return context._replace(cache=cache, lengths=context.lengths + counts, hidden=last)


def extend(
  model: transformer.Transformer, params: dict, context: Context, runs: Sequence[Run]
) -> Context:
  """Appends a run to each context; the given context is consumed.

  Raises:
    ValueError: a context would outgrow its cache.
  """
  counts = np.asarray([len(run.tokens) for run in runs], np.int32)
  longest = int((_own_lengths(context) + counts).max())
  capacity = context.cache.k.shape[2]
  if longest > capacity:
    raise ValueError(f"a context of {longest} tokens does not fit a cache of {capacity}")
  width = max(-(-int(counts.max()) // 16) * 16, 16)
  tokens = np.zeros((len(runs), width), np.int32)
  roles = np.zeros((len(runs), width), np.int32)
  for row, run in enumerate(runs):
    tokens[row, : counts[row]] = run.tokens
    roles[row, : counts[row]] = run.roles
  return _extend(model, params, context, tokens, roles, counts)


def _choose(
  logits: Float[Array, "B V"], keys: Key[Array, " B"], temperature: float, top_p: float
) -> Int[Array, " B"]:
  """The next token of each sequence."""
  if temperature == 0.0:
    return jnp.argmax(logits, axis=-1)
  logits = logits / temperature
  if top_p < 1.0:
    order = jnp.argsort(-logits, axis=-1)
    ranked = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    # A token stays if what comes before it is short of top_p; the first always does.
    kept_ranked = jnp.cumsum(ranked, axis=-1) - ranked < top_p
    rows = jnp.arange(logits.shape[0])[:, None]
    kept = jnp.zeros_like(kept_ranked).at[rows, order].set(kept_ranked)
    logits = jnp.where(kept, logits, -jnp.inf)
  return jax.vmap(jax.random.categorical)(keys, logits)


def _token(
  model: transformer.Transformer,
  params: dict,
  context: Context,
  keys: Key[Array, " B"],
  index: Int[Array, ""],
  decoding: Decoding,
) -> Int[Array, " B"]:
  """The token `index` of each continuation: a pure function of its key and the index."""
  logits = transformer.logits(params, model.config, context.hidden)
  own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
  return _choose(logits, own, decoding.temperature, decoding.top_p).astype(jnp.int32)


# While decoding: index, context, tokens so far, which sequences came to EOS.
_State = tuple[Int[Array, ""], Context, Int[Array, "B T"], Bool[Array, " B"]]


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _decode(
  model: transformer.Transformer,
  params: dict,
  context: Context,
  keys: Key[Array, " B"],
  role: int,
  eos_id: int,
  decoding: Decoding,
) -> tuple[Int[Array, "B T"], Bool[Array, " B"]]:
  batch = context.lengths.shape[0]

  def going(state: _State) -> Bool[Array, ""]:
    index, _, _, done = state
    return (index < decoding.max_tokens) & ~done.all()

  def step(state: _State) -> _State:
    index, context, out, done = state
    token = _token(model, params, context, keys, index, decoding)
    ended = ~done & (token == eos_id)
    out = out.at[:, index].set(jnp.where(done | ended, eos_id, token))
    counts = jnp.where(done | ended, 0, 1).astype(jnp.int32)
    roles = jnp.full((batch, 1), role, jnp.int32)
    context = _extend(model, params, context, token[:, None], roles, counts)
    return index + 1, context, out, done | ended

  out = jnp.full((batch, decoding.max_tokens), eos_id, jnp.int32)
  state = (0, context, out, jnp.zeros(batch, bool))
  _, _, out, finished = jax.lax.while_loop(going, step, state)
  return out, finished


def sample(
  model: transformer.Transformer,
  params: dict,
  context: Context,
  *,
  role: int,
  eos_id: int,
  decoding: Decoding,
  seeds: Sequence[Sequence[int]],
) -> list[Sampled]:
  """Continues each context until EOS; the given context is consumed.

  Args:
    model: the decoder.
    params: its parameters.
    context: what comes before; there must be room for `decoding.max_tokens` more.
    role: of the sampled tokens.
    eos_id: ends a sequence.
    decoding: how tokens are chosen.
    seeds: for each sequence, the integers its randomness depends on: what else is in the batch
      changes nothing.

  Returns:
    The sampled ids of each sequence.

  Raises:
    ValueError: the cache has no room.
  """
  _check_room(context, decoding)
  keys = _keys(seeds)
  out, finished = jax.device_get(
    _decode(model, params, context, keys, int(role), int(eos_id), decoding)
  )
  sampled = []
  for row, done in zip(out.tolist(), finished.tolist(), strict=True):
    end = row.index(eos_id) if done else len(row)
    sampled.append(Sampled(row[:end], done))
  return sampled


@functools.partial(jax.jit, static_argnums=(0, 5, 6), donate_argnums=2)
def _next(
  model: transformer.Transformer,
  params: dict,
  context: Context,
  keys: Key[Array, " 1"],
  index: Int[Array, ""],
  role: int,
  decoding: Decoding,
) -> tuple[Int[Array, " 1"], Context]:
  token = _token(model, params, context, keys, index, decoding)
  ones = jnp.ones(1, jnp.int32)
  roles = jnp.full((1, 1), role, jnp.int32)
  return token, _extend(model, params, context, token[:, None], roles, ones)


def stream(
  model: transformer.Transformer,
  params: dict,
  context: Context,
  *,
  role: int,
  eos_id: int,
  decoding: Decoding,
  seed: Sequence[int],
) -> Iterator[int]:
  """Continues one context, token by token as they are sampled; the given context is consumed.

  Args:
    model: the decoder.
    params: its parameters.
    context: of one sequence, with room for `decoding.max_tokens` more.
    role: of the sampled tokens.
    eos_id: ends the sequence.
    decoding: how tokens are chosen.
    seed: the integers that the randomness depends on; the same as in `sample` give the same ids.

  Yields:
    The ids that `sample` returns.

  Raises:
    ValueError: the cache has no room.
  """
  _check_room(context, decoding)
  keys = _keys([seed])
  for index in range(decoding.max_tokens):
    token, context = _next(model, params, context, keys, jnp.int32(index), int(role), decoding)
    if (found := int(token[0])) == eos_id:
      return
    yield found


def _own_lengths(context: Context) -> Int[np.ndarray, " B"]:
  """Tokens of each sequence that are in its own cache."""
  lengths, shared = context.lengths, context.shared
  return np.asarray(lengths if shared is None else shared.slots_after(lengths[:, None])[:, 0])


def _check_room(context: Context, decoding: Decoding) -> None:
  longest = int(_own_lengths(context).max()) + decoding.max_tokens
  if longest > context.cache.k.shape[2]:
    raise ValueError(
      f"a context of {longest} tokens, those to sample included, does not fit a cache of "
      f"{context.cache.k.shape[2]}"
    )


def _keys(seeds: Sequence[Sequence[int]]) -> Key[Array, " B"]:
  words = np.asarray(
    [np.random.SeedSequence(list(seed)).generate_state(2, np.uint32) for seed in seeds]
  )
  return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
