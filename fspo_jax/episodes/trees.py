# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Token trees: an episode laid out once, as a prefix tree, in depth-first preorder.

One integer per token says who sees whom: `subtree_end[j]`, the first index after the subtree of
j's node. Token i attends to token j iff `j <= i < subtree_end[j]`. Branches come before the
trunk's continuation, so a token is predicted from its *parent* token, not from i - 1.
Pure data: numpy in, numpy out.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from jaxtyping import Bool, Int
import numpy as np

NO_SEGMENT = -1
NO_PARENT = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
  """A run of tokens with the nodes that continue it.

  Attributes:
    tokens: the ids of this run.
    role: what the run is (question, preferred, ...; see `templates.Role`).
    segment: index of the scored segment that these tokens are, or NO_SEGMENT.
    children: the continuations: branches first, the trunk's own continuation last.
  """

  tokens: tuple[int, ...]
  role: int
  segment: int = NO_SEGMENT
  children: tuple[Node, ...] = ()


@dataclasses.dataclass(frozen=True)
class TokenTree:
  """A tree in depth-first preorder; every array has length n, the number of tokens.

  Attributes:
    tokens: token ids.
    roles: the role of each token's node.
    positions: distance from the root along the path (what RoPE sees), not the index.
    parents: index of the token that predicts this one; NO_PARENT at the root.
    subtree_end: first index after the subtree of the token's node.
    segments: the scored segment of each token, or NO_SEGMENT.
  """

  tokens: Int[np.ndarray, " n"]
  roles: Int[np.ndarray, " n"]
  positions: Int[np.ndarray, " n"]
  parents: Int[np.ndarray, " n"]
  subtree_end: Int[np.ndarray, " n"]
  segments: Int[np.ndarray, " n"]

  def __len__(self) -> int:
    return len(self.tokens)


def flatten(root: Node) -> TokenTree:
  """Lays a tree of nodes out in depth-first preorder.

  Args:
    root: the root node. Without tokens, where a tokenizer has no BOS, its children have no parent,
      and none of them may be scored.

  Returns:
    The token tree.

  Raises:
    ValueError: a node without tokens (its children would have no parent of their own), or a scored
      segment that nothing stands before.
  """
  tokens: list[int] = []
  roles: list[int] = []
  positions: list[int] = []
  parents: list[int] = []
  segments: list[int] = []
  spans: list[list[int]] = []  # [start, length, end of subtree] of each node
  # A frame is a node with its parent token, or (None, span) to close the node's subtree. A stack
  # and not recursion: the trunk is as deep as the episode has shots.
  stack: list[tuple[Node | None, int]] = [(root, NO_PARENT)]
  while stack:
    node, parent = stack.pop()
    if node is None:
      spans[parent][2] = len(tokens)
      continue
    length = len(node.tokens)
    if length == 0 and not (node is root and node.children):
      raise ValueError(f"a node without tokens (role {node.role}) cannot be laid out in a tree")
    if parent == NO_PARENT and node.segment != NO_SEGMENT:
      raise ValueError(f"segment {node.segment}: found no token before it, which would predict it")
    start = len(tokens)
    depth = positions[parent] + 1 if parent != NO_PARENT else 0
    tokens.extend(node.tokens)
    roles.extend([node.role] * length)
    positions.extend(range(depth, depth + length))
    parents.extend([parent, *range(start, start + length - 1)][:length])
    segments.extend([node.segment] * length)
    stack.append((None, len(spans)))
    spans.append([start, length, 0])
    last = start + length - 1 if length else NO_PARENT
    stack.extend((child, last) for child in reversed(node.children))
  _, lengths, ends = np.asarray(spans, np.int32).T
  return TokenTree(
    tokens=np.asarray(tokens, np.int32),
    roles=np.asarray(roles, np.int32),
    positions=np.asarray(positions, np.int32),
    parents=np.asarray(parents, np.int32),
    subtree_end=np.repeat(ends, lengths),
    segments=np.asarray(segments, np.int32),
  )


def concatenate(trees: Sequence[TokenTree], segment_counts: Sequence[int]) -> TokenTree:
  """Packs trees one after another in a row: no token of one attends to another's.

  Args:
    trees: the trees, in order.
    segment_counts: how many segments each has; segment ids are shifted by those before.

  Returns:
    One forest in the same form.
  """
  token_offsets = np.cumsum([0] + [len(tree) for tree in trees[:-1]])
  segment_offsets = np.cumsum([0, *segment_counts[:-1]])

  def shifted(name: str, offsets: np.ndarray, nothing: int | None) -> np.ndarray:
    parts = []
    for tree, offset in zip(trees, offsets, strict=True):
      values = vars(tree)[name]
      parts.append(
        values + offset
        if nothing is None
        else np.where(values == nothing, nothing, values + offset)
      )
    return np.concatenate(parts).astype(np.int32)

  return TokenTree(
    tokens=np.concatenate([tree.tokens for tree in trees]),
    roles=np.concatenate([tree.roles for tree in trees]),
    positions=np.concatenate([tree.positions for tree in trees]),
    parents=shifted("parents", token_offsets, NO_PARENT),
    subtree_end=shifted("subtree_end", token_offsets, None),
    segments=shifted("segments", segment_offsets, NO_SEGMENT),
  )


def attention_mask(subtree_end: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n n"]:
  """The mask that `subtree_end` stands for: [i, j] is True iff i attends to j."""
  index = np.arange(len(subtree_end))
  return (index[None, :] <= index[:, None]) & (index[:, None] < subtree_end[None, :])


def path_to(tree: TokenTree, index: int) -> list[int]:
  """The indices of the tokens from the root to `index`: a plain sequence."""
  path = []
  while index != NO_PARENT:
    path.append(index)
    index = int(tree.parents[index])
  return path[::-1]
