# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A token tree as a picture: its nodes by position, and who attends to whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import patches
import matplotlib.axes
import matplotlib.colors
import matplotlib.figure
import numpy as np

from fspo_jax.episodes import trees
from fspo_jax.episodes.templates import EpisodeTree, Role

_COLORS = {
  Role.CONTROL: "#8C8C8C",
  Role.QUESTION: "#4C72B0",
  Role.PREFERRED: "#55A868",
  Role.DISPREFERRED: "#C44E52",
  Role.DESCRIPTION: "#B8860B",
}
_ROW = 0.28  # inches of a node
_TEXT = 7  # points


def node_spans(tree: trees.TokenTree) -> list[tuple[int, int]]:
  """The runs of tokens that belong together, as (start, stop): what the picture's rows are.

  They are the nodes that the tree was made of, but for a node that is its parent's only child and
  continues it in the same role and segment.
  """
  index = np.arange(1, len(tree))
  fresh = tree.parents[1:] != index - 1
  for values in (tree.subtree_end, tree.roles, tree.segments):
    fresh |= values[1:] != values[:-1]
  starts = [0, *(index[fresh]).tolist()]
  return list(zip(starts, [*starts[1:], len(tree)], strict=True))


def draw(
  built: EpisodeTree, decode: Callable[[Sequence[int]], str], *, mask: bool = True
) -> matplotlib.figure.Figure:
  """Draws an episode's tree.

  On the left a row for each node, in the order of the row of tokens, from its first position on the
  path from the root to its last; a line leads to the node that it continues, and what is scored has
  a thick edge. On the right the mask: token i (down) attends to j (across) where there is color,
  which is that of j's role.

  Args:
    built: the tree; `templates.build` makes it.
    decode: token ids to text, as `Tokenizer.decode`.
    mask: whether the right half is drawn.

  Returns:
    The figure, which a notebook shows; `savefig` writes it.
  """
  tree, spans = built.tree, node_spans(built.tree)
  height = max(3.0, _ROW * len(spans) + 0.8)
  figure = matplotlib.figure.Figure(figsize=(12 if mask else 8, height), layout="constrained")
  panels = figure.subplots(1, 1 + mask, squeeze=False, width_ratios=[3, 2] if mask else [1])[0]
  _draw_nodes(panels[0], tree, spans, decode)
  if mask:
    _draw_mask(panels[1], tree)
  return figure


def _draw_nodes(
  ax: matplotlib.axes.Axes,
  tree: trees.TokenTree,
  spans: list[tuple[int, int]],
  decode: Callable[[Sequence[int]], str],
) -> None:
  row_of = np.repeat(np.arange(len(spans)), [stop - start for start, stop in spans])
  for row, (start, stop) in enumerate(spans):
    left, width = int(tree.positions[start]), stop - start
    scored = tree.segments[start] != trees.NO_SEGMENT
    color = _COLORS[Role(int(tree.roles[start]))]
    box = patches.Rectangle(
      (left, row - 0.4), width, 0.8, facecolor=color, alpha=0.85, edgecolor="#222222"
    )
    box.set_linewidth(1.6 if scored else 0.0)
    ax.add_patch(box)
    ax.text(left + width + 0.3, row, _shown(decode(tree.tokens[start:stop].tolist())),
      va="center", fontsize=_TEXT, color="#222222")  # fmt: skip
    parent = int(tree.parents[start])
    if parent != trees.NO_PARENT:
      ax.plot([left, left], [row_of[parent] + 0.4, row - 0.4], color="#999999", linewidth=0.8)
  ax.set_xlim(-1, int(tree.positions.max()) * 1.55 + 12)
  ax.set_ylim(len(spans) - 0.4, -0.6)
  ax.set_yticks([])
  ax.set_xlabel("position on the path from the root")
  ax.set_title("nodes", loc="left")
  present = sorted({int(role) for role in tree.roles})
  handles = [patches.Patch(color=_COLORS[Role(r)], label=Role(r).name.lower()) for r in present]
  ax.legend(handles=handles, fontsize=_TEXT, loc="upper right", frameon=False)


def _draw_mask(ax: matplotlib.axes.Axes, tree: trees.TokenTree) -> None:
  roles = list(_COLORS)
  shown = np.where(trees.attention_mask(tree.subtree_end), tree.roles[None, :] + 1, 0)
  colors = matplotlib.colors.ListedColormap(["#FFFFFF", *(_COLORS[role] for role in roles)])
  ax.imshow(shown, cmap=colors, vmin=0, vmax=len(roles), interpolation="nearest")
  ax.set_xlabel("token j, seen")
  ax.set_ylabel("token i, seeing")
  ax.set_title(f"mask, {len(tree)} tokens", loc="left")


def _shown(text: str) -> str:
  """A text short enough to stand beside its node."""
  text = " ".join(text.split())
  # A dollar sign would begin a formula.
  return (text if len(text) <= 40 else text[:37] + "...").replace("$", r"\$")
