# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Templates: from an episode to the nodes of its token tree.

The trunk is `q1 c1 r1 q2 c2 r2 ...`. At a scored shot the rejected response also hangs off the
question as an alternative *preferred* response; the chosen one is read off the trunk itself.
Every branch is laid out exactly as the trunk is, so that a shot's pair and a query's are one task.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import enum
import functools

from fspo_jax.episodes import tokenizers, trees
from fspo_jax.episodes.sampling import Episode, Page
from fspo_jax.preferences import Preference


class Role(enum.IntEnum):
  """What a token is, for models with role embeddings."""

  CONTROL = 0
  QUESTION = 1
  PREFERRED = 2
  DISPREFERRED = 3
  DESCRIPTION = 4


class Kind(enum.IntEnum):
  """What a scored segment is."""

  PADDING = 0
  CHOSEN = 1
  REJECTED = 2
  DESCRIPTION = 3


class Context(enum.IntEnum):
  """What a pair was conditioned on."""

  SHOTS = 0  # any number of shots, k = 0 included
  DESCRIPTION = 1  # the shots and then a description


@dataclasses.dataclass(frozen=True)
class Template:
  """The text that opens each part of an episode; each part ends with EOS where it is written.

  Attributes:
    question: opens a question.
    preferred: opens the response that the user prefers, and every response that is scored.
    dispreferred: opens the other response of a shot.
    description: opens the user's description.
  """

  question: str
  preferred: str
  dispreferred: str
  description: str


# One token each with the tokenizers that `tokenizers.train` makes.
MARKERS = Template(*tokenizers.MARKER_SYMBOLS)
# The section headings of the paper's public code, for models that know Markdown.
HEADINGS = Template(
  question="\n## Question\n",
  preferred="\n## Preferred Response\n",
  dispreferred="\n## Dispreferred Response\n",
  description="\n## User Description\n",
)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which branches an episode's tree carries: a method is a layout and a loss.

  Attributes:
    shot_pairs: score every shot's pair, given the shots before it.
    rejected: whether rejected responses are scored too; False for likelihood objectives, which
      read the chosen ones alone (a shot's rejected response stays on the trunk in any case).
    query_shots: the numbers of shots k after which the queries hang.
    description_shots: the numbers of shots k after which the description hangs.
    description_queries: after which of these numbers the queries hang under the description too.
  """

  shot_pairs: bool = False
  rejected: bool = True
  query_shots: tuple[int, ...] = ()
  description_shots: tuple[int, ...] = ()
  description_queries: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    extra = set(self.description_queries) - set(self.description_shots)
    if extra:
      raise ValueError(
        f"description_queries has {sorted(extra)}, which description_shots="
        f"{self.description_shots} has not: there is no description to ask under"
      )

  def max_segments(self, shots: int, queries: int) -> int:
    """How many scored segments an episode of this layout has at most."""
    responses = 2 if self.rejected else 1
    queried = len(self.query_shots) + len(self.description_queries)
    return responses * (shots * self.shot_pairs + queries * queried) + len(self.description_shots)

  def max_pairs(self, shots: int, queries: int) -> int:
    """How many pairs an episode of this layout has at most."""
    if not self.rejected:
      return 0
    queried = len(self.query_shots) + len(self.description_queries)
    return shots * self.shot_pairs + queries * queried


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
  """A scored run of tokens: what it is, and after how many shots it stands."""

  kind: Kind
  shots: int


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
  """Two segments that a preference loss compares."""

  chosen: int
  rejected: int
  shots: int
  context: Context


@dataclasses.dataclass(frozen=True)
class EpisodeTree:
  """An episode's token tree with what is scored on it."""

  tree: trees.TokenTree
  segments: tuple[Segment, ...]
  pairs: tuple[Pair, ...]


@dataclasses.dataclass(frozen=True)
class Formatter:
  """Text of one kind to token ids: what training, evaluation and the sampler all share."""

  tokenizer: tokenizers.Tokenizer
  template: Template = MARKERS

  def question(self, prompt: str) -> tuple[int, ...]:
    """A question up to the point where a response that the user prefers begins."""
    encode = self.tokenizer.encode
    return (
      *self._opening(self.template.question),
      *encode(prompt),
      *self._opening(self.template.preferred),
    )

  def answer(self, text: str) -> tuple[int, ...]:
    """A response or description, with its end; the part that is scored."""
    return (*self.tokenizer.encode(text), self.tokenizer.eos_id)

  def dispreferred(self, text: str) -> tuple[int, ...]:
    """The other response of a shot, with what opens it and its end."""
    return (*self._opening(self.template.dispreferred), *self.answer(text))

  def description(self) -> tuple[int, ...]:
    """What opens a description."""
    return self._opening(self.template.description)

  def _opening(self, text: str) -> tuple[int, ...]:
    ids = self.tokenizer.encode(text)
    # SentencePiece puts its dummy space before a marker; the marker says it all.
    return ids[-1:] if text in tokenizers.MARKER_SYMBOLS else ids


class _Builder:
  """Collects segments and pairs while the nodes are made."""

  def __init__(self, formatter: Formatter) -> None:
    self.format = formatter
    self.segments: list[Segment] = []
    self.pairs: list[Pair] = []

  def segment(self, kind: Kind, shots: int) -> int:
    self.segments.append(Segment(kind, shots))
    return len(self.segments) - 1

  def answer(
    self,
    text: str,
    segment: int,
    role: Role = Role.PREFERRED,
    children: Sequence[trees.Node] = (),
  ) -> trees.Node:
    return trees.Node(self.format.answer(text), role, segment, tuple(children))

  def responses(
    self,
    chosen: str,
    rejected: str,
    shots: int,
    context: Context,
    rejected_scored: bool,
    rest: Sequence[trees.Node] = (),
  ) -> list[trees.Node]:
    """The scored responses to a question, rejected first: the chosen one carries the trunk on."""
    segment = self.segment(Kind.CHOSEN, shots)
    nodes = [self.answer(chosen, segment, children=rest)]
    if rejected_scored:
      other = self.segment(Kind.REJECTED, shots)
      nodes.insert(0, self.answer(rejected, other))
      self.pairs.append(Pair(segment, other, shots, context))
    return nodes

  def query(self, query: Preference, shots: int, context: Context, rejected: bool) -> trees.Node:
    children = self.responses(query.chosen, query.rejected, shots, context, rejected)
    return trees.Node(self.format.question(query.prompt), Role.QUESTION, children=tuple(children))

  def branches(self, episode: Episode, layout: Layout, shots: int) -> list[trees.Node]:
    """What hangs off the trunk after `shots` shots."""
    nodes = []
    if shots in layout.query_shots:
      nodes += [self.query(q, shots, Context.SHOTS, layout.rejected) for q in episode.queries]
    description = episode.description_after(shots)
    if shots in layout.description_shots and description is not None:
      segment = self.segment(Kind.DESCRIPTION, shots)
      queries = episode.queries if shots in layout.description_queries else ()
      under = [self.query(q, shots, Context.DESCRIPTION, layout.rejected) for q in queries]
      described = self.answer(description, segment, Role.DESCRIPTION, under)
      nodes.append(trees.Node(self.format.description(), Role.DESCRIPTION, children=(described,)))
    return nodes

  def shot(
    self, shot: Preference | Page, before: int, layout: Layout, rest: list[trees.Node]
  ) -> trees.Node:
    """A shot on the trunk; `rest` is what follows it."""
    if isinstance(shot, Page):
      segment = self.segment(Kind.CHOSEN, before) if layout.shot_pairs else trees.NO_SEGMENT
      response = self.answer(shot.response, segment, children=rest)
      return trees.Node(self.format.question(shot.prompt), Role.QUESTION, children=(response,))
    dispreferred = trees.Node(
      self.format.dispreferred(shot.rejected), Role.DISPREFERRED, children=tuple(rest)
    )
    if layout.shot_pairs:
      children = self.responses(
        shot.chosen, shot.rejected, before, Context.SHOTS, layout.rejected, (dispreferred,)
      )
    else:
      children = [self.answer(shot.chosen, trees.NO_SEGMENT, children=(dispreferred,))]
    return trees.Node(self.format.question(shot.prompt), Role.QUESTION, children=tuple(children))


def build(episode: Episode, formatter: Formatter, layout: Layout) -> EpisodeTree:
  """Lays an episode out as a token tree.

  Args:
    episode: the shots, the queries and, for description branches, the description.
    formatter: text to token ids.
    layout: which branches to make; numbers of shots beyond the episode's are clipped to it.

  Returns:
    The tree, its scored segments and its pairs.
  """
  count = len(episode.shots)

  def clip(ks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({min(k, count) for k in ks}))

  layout = dataclasses.replace(
    layout,
    query_shots=clip(layout.query_shots),
    description_shots=clip(layout.description_shots),
    description_queries=clip(layout.description_queries),
  )
  builder = _Builder(formatter)

  def continuation(rest: list[trees.Node], k: int) -> list[trees.Node]:
    """The trunk from shot k on, built from the end: nodes are immutable."""
    node = builder.shot(episode.shots[k], k, layout, rest)
    return [*builder.branches(episode, layout, k), node]

  tail = builder.branches(episode, layout, count)
  children = functools.reduce(continuation, reversed(range(count)), tail)
  root = trees.Node((formatter.tokenizer.bos_id,), Role.CONTROL, children=tuple(children))
  return EpisodeTree(trees.flatten(root), tuple(builder.segments), tuple(builder.pairs))
