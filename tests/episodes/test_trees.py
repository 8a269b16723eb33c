# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of token trees, against a recursive layout with explicit sets of ancestors."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.episodes import trees
from fspo_jax.episodes.trees import Node
from tests import tiny


def _reference(root):
  """Every token of a tree in preorder: (token, role, segment, path of indices from the root)."""
  rows = []

  def visit(node, path):
    for token in node.tokens:
      path = (*path, len(rows))
      rows.append((token, node.role, node.segment, path))
    for child in node.children:
      visit(child, path)

  visit(root, ())
  return rows


def test_a_small_tree_by_hand():
  # a b +- c d        index     0 1 2 3 4 5 6 7
  #     |             token     a b c d e f g h
  #     +- e +- f     position  0 1 2 3 2 3 3 4
  #          +- g h   parent   -1 0 1 2 1 4 4 6
  leaf = Node((6,), 3)
  tree = trees.flatten(
    Node(
      (1, 2), 0, children=(Node((3, 4), 1, 0), Node((5,), 2, children=(leaf, Node((7, 8), 4, 1))))
    )
  )
  np.testing.assert_array_equal(tree.tokens, [1, 2, 3, 4, 5, 6, 7, 8])
  np.testing.assert_array_equal(tree.roles, [0, 0, 1, 1, 2, 3, 4, 4])
  np.testing.assert_array_equal(tree.positions, [0, 1, 2, 3, 2, 3, 3, 4])
  np.testing.assert_array_equal(tree.parents, [-1, 0, 1, 2, 1, 4, 4, 6])
  np.testing.assert_array_equal(tree.subtree_end, [8, 8, 4, 4, 8, 6, 8, 8])
  np.testing.assert_array_equal(tree.segments, [-1, -1, 0, 0, -1, -1, 1, 1])
  assert len(tree) == 8
  assert trees.path_to(tree, 7) == [0, 1, 4, 6, 7]


def test_a_root_without_tokens_leaves_its_children_apart():
  # a b +- c    index     0 1 2 3 4
  #     +- d    token     a b c d e
  # e           parent   -1 0 1 1 -1
  first = Node((1, 2), 1, children=(Node((3,), 2, 0), Node((4,), 2, 1)))
  tree = trees.flatten(Node((), 0, children=(first, Node((5,), 1))))
  np.testing.assert_array_equal(tree.tokens, [1, 2, 3, 4, 5])
  np.testing.assert_array_equal(tree.positions, [0, 1, 2, 2, 0])
  np.testing.assert_array_equal(tree.parents, [-1, 0, 1, 1, -1])
  np.testing.assert_array_equal(tree.subtree_end, [4, 4, 3, 4, 5])
  with pytest.raises(ValueError, match="segment 0: found no token before it"):
    trees.flatten(Node((), 0, children=(Node((1,), 1, 0),)))


@hypothesis.given(tiny.nodes(max_nodes=12))
def test_flatten_is_the_preorder_of_the_nodes(root):
  tree, expected = trees.flatten(root), _reference(root)
  assert len(tree) == len(expected)
  for i, (token, role, segment, path) in enumerate(expected):
    assert (tree.tokens[i], tree.roles[i], tree.segments[i]) == (token, role, segment)
    assert tree.positions[i] == len(path) - 1
    assert tree.parents[i] == (path[-2] if len(path) > 1 else trees.NO_PARENT)
    assert trees.path_to(tree, i) == list(path)
  assert all(values.dtype == np.int32 for values in vars(tree).values())


@hypothesis.given(tiny.nodes(max_nodes=12))
def test_a_token_attends_to_its_path_from_the_root_and_nothing_else(root):
  tree, expected = trees.flatten(root), _reference(root)
  on_path = np.zeros((len(expected), len(expected)), bool)
  for i, (*_, path) in enumerate(expected):
    on_path[i, list(path)] = True
  np.testing.assert_array_equal(trees.attention_mask(tree.subtree_end), on_path)


@hypothesis.given(st.lists(tiny.nodes(max_nodes=6), min_size=1, max_size=4))
def test_concatenated_trees_are_apart_and_unchanged(roots):
  parts = [trees.flatten(root) for root in roots]
  counts = [int(part.segments.max()) + 1 for part in parts]
  forest = trees.concatenate(parts, counts)
  mask = trees.attention_mask(forest.subtree_end)
  apart = np.zeros_like(mask)
  start = segments = 0
  for part, count in zip(parts, counts, strict=True):
    stop = start + len(part)
    apart[start:stop, start:stop] = trees.attention_mask(part.subtree_end)
    for name in ("tokens", "roles", "positions"):
      np.testing.assert_array_equal(vars(forest)[name][start:stop], vars(part)[name])
    for i in range(len(part)):
      assert trees.path_to(forest, start + i) == [start + j for j in trees.path_to(part, i)]
    here = forest.segments[start:stop]
    np.testing.assert_array_equal(here == trees.NO_SEGMENT, part.segments == trees.NO_SEGMENT)
    scored = part.segments != trees.NO_SEGMENT
    np.testing.assert_array_equal(here[scored], part.segments[scored] + segments)
    start, segments = stop, segments + count
  assert len(forest) == start
  np.testing.assert_array_equal(mask, apart)


@pytest.mark.parametrize("root", [Node((), 3), Node((1,), 0, children=(Node((), 3),))])
def test_a_node_without_tokens_is_refused(root):
  with pytest.raises(ValueError, match=r"without tokens \(role 3\)"):
    trees.flatten(root)


def test_a_trunk_may_be_deeper_than_python_recurses():
  node = Node((0,), 0)
  for i in range(1, 5000):
    node = Node((i,), 0, children=(node,))
  tree = trees.flatten(node)
  np.testing.assert_array_equal(tree.tokens, np.arange(5000)[::-1])
  np.testing.assert_array_equal(tree.positions, np.arange(5000))
  np.testing.assert_array_equal(tree.subtree_end, np.full(5000, 5000))
