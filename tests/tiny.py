# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models, tokenizers, worlds, trees and rows that the tests share."""

import contextlib
import functools
import os
import pathlib
import runpy
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
from flax import linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from fspo_jax.episodes import batching, sampling, templates, tokenizers, trees
from fspo_jax.models import transformer
from fspo_jax.training import step
from fspo_jax.worlds.reviews import ReviewsWorld

REPO = pathlib.Path(__file__).resolve().parents[1]

VOCAB = 64
# Every kind of branch: shots' pairs, queries at both ends, a description with queries under it.
LAYOUT = templates.Layout(
  shot_pairs=True, query_shots=(0, 2), description_shots=(2,), description_queries=(2,)
)
OBJECTIVE = step.Objective(
  name="ipo",
  beta=0.1,
  label_smoothing=0.0,
  length_normalize=False,
  preference_weight=0.04,
  chosen_weight=1.0,
  description_weight=1.0,
)


@contextlib.contextmanager
def script(path, *arguments):
  """A script's functions, under its flags, which are gone afterwards: another may have the same."""
  before = {*flags.FLAGS}
  try:
    module = runpy.run_path(str(REPO / path))
    with flagsaver.flagsaver():
      if arguments:
        flags.FLAGS([path, *arguments])
      yield module
  finally:
    for flag in {*flags.FLAGS} - before:
      delattr(flags.FLAGS, flag)


def config(**changes):
  """A decoder small enough for any test, with grouped queries and role embeddings."""
  sizes = {
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "mlp": 24,
    "roles": 5,
  }
  other = {
    "tied": True,
    "rope_theta": 10_000.0,
    "norm_eps": 1e-5,
    "attention_block": 16,
    "remat": "none",
  }
  dtypes = {"dtype": "float32", "param_dtype": "float32"}
  return transformer.TransformerConfig(
    **{"vocab_size": VOCAB, **sizes, **other, **dtypes, **changes}
  )


def model(**changes):
  return transformer.Transformer(config(**changes))


@functools.cache
def params(decoder, seed=0):
  """Parameters at which every part of the model matters: a fresh model's logits are all near 0."""
  ints = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(
    lambda: nn.meta.unbox(decoder.init(jax.random.key(0), ints, ints, ints, ints)["params"])
  )
  rng = np.random.default_rng(seed)

  def fill(path, shape):
    values = rng.standard_normal(shape.shape)
    name = path[-1].key
    if name == "scale":
      values = 1 + 0.3 * values
    elif name in ("kernel", "head"):
      values /= np.sqrt(shape.shape[-2])
    else:
      values *= 0.5
    return jnp.asarray(values, shape.dtype)

  with jax.ensure_compile_time_eval():  # no tracers in the cache, whoever asks first
    return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.partial(jax.jit, static_argnums=0)
def causal_logprobs(decoder, variables, tokens, roles):
  """Log-probability of tokens[:, 1:], each row an ordinary sequence: the plain forward pass."""
  rows, length = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(length)[None, :], (rows, length))
  everything = jnp.full((rows, length), length)
  hidden, _ = decoder.apply({"params": variables}, tokens, positions, roles, everything)
  logits = transformer.logits(variables, decoder.config, hidden[:, :-1])
  logprobs = jax.nn.log_softmax(logits)
  return jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1)[..., 0]


def segments_by_sequence(decoder, variables, tree, *, rows, length):
  """Log-probability of every token of every segment, each from its own root-to-leaf sequence.

  Args:
    decoder: the model.
    variables: its parameters.
    tree: a TokenTree, of any number of episodes.
    rows: sequences of the forward pass, at least the number of segments (a static shape).
    length: of the sequences, at least the deepest (a static shape).

  Returns:
    For each segment, the log-probabilities of its tokens in order.
  """
  count = int(tree.segments.max()) + 1
  tokens, roles = np.zeros((2, rows, length), np.int32)
  spans = []
  for segment in range(count):
    indices = np.flatnonzero(tree.segments == segment)
    path = trees.path_to(tree, int(indices[-1]))
    assert path[-len(indices) :] == indices.tolist()
    tokens[segment, : len(path)] = tree.tokens[path]
    roles[segment, : len(path)] = tree.roles[path]
    spans.append((len(path) - len(indices) - 1, len(path) - 1))
  logprobs = np.asarray(causal_logprobs(decoder, variables, tokens, roles))
  return [logprobs[segment, start:stop] for segment, (start, stop) in enumerate(spans)]


@st.composite
def nodes(draw, max_nodes=9, max_length=3, vocab=VOCAB):
  """A random tree of nodes; some of them, never the root, are scored segments."""
  count = draw(st.integers(1, max_nodes))
  parents = [draw(st.integers(0, i - 1)) for i in range(1, count)]
  runs = st.lists(st.integers(0, vocab - 1), min_size=1, max_size=max_length)
  tokens = [tuple(draw(runs)) for _ in range(count)]
  roles = [draw(st.integers(0, 4)) for _ in range(count)]
  scored = [i for i in range(1, count) if draw(st.booleans())]
  order = draw(st.permutations(scored))
  segments = {node: segment for segment, node in enumerate(order)}

  def build(i):
    children = tuple(build(j + 1) for j, parent in enumerate(parents) if parent == i)
    return trees.Node(tokens[i], roles[i], segments.get(i, trees.NO_SEGMENT), children)

  return build(0)


def episode_tree(root):
  """A random tree as an episode without pairs."""
  tree = trees.flatten(root)
  segment = templates.Segment(templates.Kind.CHOSEN, 0)
  return templates.EpisodeTree(tree, (segment,) * (int(tree.segments.max()) + 1), ())


@functools.cache
def small_row(length=48, scored=40):
  """A row of two random trees with branches on branches, 40 tokens, and padding."""
  rng = np.random.default_rng(0)
  segments = iter(range(9))

  def node(tokens, *children, scored=True):
    segment = next(segments) if scored else trees.NO_SEGMENT
    ids = tuple(rng.integers(0, VOCAB, tokens).tolist())
    return trees.Node(ids, int(rng.integers(5)), segment, children)

  def root(*children):
    return node(3, *children, scored=False)

  first = root(node(4), node(2, node(3), node(1, node(5), node(4), scored=False)))
  built = [episode_tree(first)]
  segments = iter(range(9))
  built.append(episode_tree(root(node(6), node(2), node(7))))
  packing = batching.Packing(2, length, scored, 9, 1)
  return batching.pack(built, packing)


class CharTokenizer:
  """A stand-in whose tokens can be read: one per character, `^` is BOS and `$` is EOS."""

  bos_id, eos_id = ord("^"), ord("$")
  _MARKERS = dict(zip(tokenizers.MARKER_SYMBOLS, "?!~@", strict=True))

  def token_id(self, text):
    return ord(self._MARKERS[text])

  def encode(self, text):
    return tuple(map(ord, text))

  def decode(self, ids):
    return "".join(map(chr, ids))


@functools.cache
def world():
  return ReviewsWorld(unseen_users=60)


@functools.cache
def tokenizer():
  corpus = world().corpus(np.random.default_rng(0), 1500)
  return tokenizers.train(corpus, vocab_size=900, model_type="bpe", split_by_whitespace=False)


def formatter(template=templates.MARKERS):
  return templates.Formatter(tokenizer(), template)


def rows(layout=LAYOUT, *, shots=2, queries=1, episodes=1, tokens=512, scored_tokens=384, seed=0):
  """Rows of the reviews world."""
  packing = batching.Packing.of(
    layout,
    shots=shots,
    queries=queries,
    episodes=episodes,
    tokens=tokens,
    scored_tokens=scored_tokens,
  )
  source = sampling.WorldEpisodes(world(), "train", shots, queries, seed)
  return batching.Rows(source, formatter(), layout, packing)


def batch(source, count, first=0):
  return batching.stack([source(first + i) for i in range(count)])


def flat(tree):
  """The leaves of a tree of arrays by their path."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def command(module, *arguments, devices=1):
  """The command line and environment of `python -m tests.<module>` on so many CPU devices."""
  environment = {
    **os.environ,
    "PYTHONPATH": str(REPO),
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
  return [sys.executable, "-m", f"tests.{module}", *map(str, arguments)], environment


def run(module, *arguments, devices=1):
  """Runs the `main` of a test module in a process of its own; see `command`."""
  line, environment = command(module, *arguments, devices=devices)
  done = subprocess.run(
    line, env=environment, cwd=REPO, capture_output=True, text=True, timeout=600, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr
