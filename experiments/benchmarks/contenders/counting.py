# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Conventions: what counts as a token, a term and a FLOP.

A *term* is one preference loss term: a pair of responses after k shots.

A token is *distinct* by all that stands before it: two sequences share the tokens of their common
prefix, which are one token each. Distinct tokens are those of a contender's prefix tree; of the
paper's layout that is the shots, the query's question and its two responses.

*Useful FLOPs* are what a step needs if every distinct token is gone through once and nothing is
computed twice: a multiplication and an addition (2) for each weight of the blocks' matrices and
each token; 4 x heads x head_dim for each token of its path that a token attends to, in each layer;
and 2 x width x vocabulary for each scored token, as others need no logits. Once forwards and twice
backwards, and once forwards for the reference unless its scores are precomputed. Norms, softmax,
embeddings and the optimizer are not counted. MFU is useful FLOPs a second over the FLOPs a second
of a large matrix product, the best of those that the contenders' own libraries reach.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Int
import numpy as np

from experiments.benchmarks.contenders.setting import Setting, Task
from fspo_jax.episodes.templates import EpisodeTree
from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.planning import estimate


@dataclasses.dataclass(frozen=True)
class Work:
  """What an average step is.

  Attributes:
    terms: preference loss terms.
    tokens: that are run, without padding.
    padded_tokens: that are run.
    unique_tokens: distinct tokens.
    useful_flops: see above.
    flops: the same of all tokens that are run, without padding, in place of distinct ones.
  """

  terms: float
  tokens: float
  padded_tokens: float
  unique_tokens: float
  useful_flops: float
  flops: float

  @property
  def padding_fraction(self) -> float:
    """The part of the tokens that are run which are padding."""
    return 1.0 - self.tokens / self.padded_tokens


def forward_flops(config: TransformerConfig, seen: Int[np.ndarray, " n"], scored: int) -> float:
  """Of a forward pass over tokens that attend to so many, themselves included."""
  per_token = 2 * estimate.layer_params(config)
  attention = 4 * config.heads * config.head_dim * int(np.sum(seen, dtype=np.int64))
  blocks = config.layers * (per_token * len(seen) + attention)
  return float(blocks + 2 * config.width * config.vocab_size * scored)


def work(setting: Setting, task: Task, *, paper: bool, cached: bool, padded: int) -> Work:
  """The work of an average step.

  Args:
    setting: what is run.
    task: its episodes.
    paper: whether in the paper's layout.
    cached: whether the reference's scores are precomputed.
    padded: tokens that are run in all steps together, padding included.
  """
  passes, config = 3 + (not cached), setting.config
  built = task.paper if paper else task.trees
  useful = sum(_of_tree(config, tree) for tree in built)
  tokens, flops = sum(len(t.tree) for t in built), useful
  if paper:
    tokens = flops = 0
    for s in task.sequences:
      for answer in (s.chosen, s.rejected):
        length = len(s.prompt) + len(answer)
        tokens += length
        flops += forward_flops(config, 1 + np.arange(length), len(answer))
  n = setting.batches
  return Work(
    terms=sum(len(t.pairs) for t in built) / n,
    tokens=tokens / n,
    padded_tokens=padded / n,
    unique_tokens=sum(len(t.tree) for t in built) / n,
    useful_flops=passes * useful / n,
    flops=passes * flops / n,
  )


def _of_tree(config: TransformerConfig, built: EpisodeTree) -> float:
  scored = int(np.count_nonzero(built.tree.segments >= 0))
  return forward_flops(config, built.tree.positions + 1, scored)


def predicted(ours: Work, other: Work) -> dict[str, float]:
  """How much faster terms should come: by tokens that are run, and by the FLOPs of all of them."""
  return {
    "by_tokens": (ours.terms / ours.tokens) / (other.terms / other.tokens),
    "by_flops": (ours.terms / ours.flops) / (other.terms / other.flops),
  }
