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
from fspo_jax.episodes.sampling import DescriptionPair, Episode, Page
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
  SAMPLED_DESCRIPTION = 4  # of a pair, which alone compares it: not a text to imitate


class Context(enum.IntEnum):
  """What a pair is of, and what it was conditioned on."""

  SHOTS = 0  # two responses, after any number of shots, k = 0 included
  DESCRIPTION = 1  # two responses, after the shots and then a description
  DESCRIPTION_PAIR = 2  # two descriptions, after the shots


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
    description_pairs: compare two sampled descriptions, after the shots that they were sampled
      after, as RAT trains its descriptions (arXiv 2502.19312); episodes need a `described` pair.
    description_pair_queries: the queries hang under the better of these two as well: descriptions
      as the policy writes them, not as they should be.
    rewards: score each response under what opens its own reward, for Rewards-in-Context: see
      `_Builder.rewarded`. Both are texts to imitate, and there are no pairs of them.
  """

  shot_pairs: bool = False
  rejected: bool = True
  query_shots: tuple[int, ...] = ()
  description_shots: tuple[int, ...] = ()
  description_queries: tuple[int, ...] = ()
  description_pairs: bool = False
  description_pair_queries: bool = False
  rewards: bool = False

  def __post_init__(self) -> None:
    extra = set(self.description_queries) - set(self.description_shots)
    if extra:
      raise ValueError(
        f"description_queries has {sorted(extra)}, which description_shots="
        f"{self.description_shots} has not: there is no description to ask under"
      )
    if self.description_pair_queries and not self.description_pairs:
      raise ValueError(
        "description_pair_queries=True with description_pairs=False: there is no pair to ask "
        "under; expected description_pairs=True"
      )
    if self.rewards and not self.rejected:
      raise ValueError(
        "rewards=True with rejected=False: found rejected responses left out, expected "
        "rejected=True, for each response is learned under its own reward"
      )

  def max_segments(self, shots: int, queries: int) -> int:
    """How many scored segments an episode of this layout has at most."""
    responses = 2 if self.rejected else 1
    described = len(self.description_shots) + 2 * self.description_pairs
    return responses * self._questions(shots, queries) + described

  def max_pairs(self, shots: int, queries: int) -> int:
    """How many pairs an episode of this layout has at most."""
    compared = self.rejected and not self.rewards
    return compared * self._questions(shots, queries) + self.description_pairs

  def _questions(self, shots: int, queries: int) -> int:
    """How many questions have scored responses."""
    queried = len(self.query_shots) + len(self.description_queries) + self.description_pair_queries
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

  def asked(self, prompt: str) -> tuple[int, ...]:
    """A question, up to what opens a response."""
    return (*self._opening(self.template.question), *self.tokenizer.encode(prompt))

  def question(self, prompt: str) -> tuple[int, ...]:
    """A question up to the point where a response that the user prefers begins."""
    return (*self.asked(prompt), *self.opening(preferred=True))

  def opening(self, *, preferred: bool) -> tuple[int, ...]:
    """What opens a response that the user prefers, or the other one."""
    return self._opening(self.template.preferred if preferred else self.template.dispreferred)

  def answer(self, text: str) -> tuple[int, ...]:
    """A response or description, with its end; the part that is scored."""
    return (*self.tokenizer.encode(text), self.tokenizer.eos_id)

  def dispreferred(self, text: str) -> tuple[int, ...]:
    """The other response of a shot, with what opens it and its end."""
    return (*self.opening(preferred=False), *self.answer(text))

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

  def rewarded(
    self, preference: Preference, shots: int, rest: Sequence[trees.Node] = ()
  ) -> trees.Node:
    """A question whose responses hang each under what opens its own reward.

    Rewards-in-Context (RiC, arXiv 2402.10207): each response gets a score from each of several
    reward models, normalized to mean 0 and variance 1 over the data; the scores are written into
    the prompt, after the question; the model is fine-tuned by SFT on all responses, good and bad,
    each given its own scores; and at test time the prompt has the scores that are asked for.

    Preferences hold one reward of a response for its user, their label. Over a set of pairs it is
    1 for every chosen and -1 for every rejected response once normalized: two values, which the
    openings of preferred and dispreferred responses name, and the preferred one asks for the
    highest. More objectives would need scores that no data set of people has, or, in a world, the
    attributes that descriptions name: asking for those is what RAT does. RiC's stage of online
    samples needs reward models too and is left out.

    Both responses are of the kind CHOSEN, the texts that SFT imitates.
    """
    high, low = self.segment(Kind.CHOSEN, shots), self.segment(Kind.CHOSEN, shots)
    chosen = self.answer(preference.chosen, high, children=rest)
    rejected = self.answer(preference.rejected, low, Role.DISPREFERRED)
    children = (
      trees.Node(self.format.opening(preferred=False), Role.DISPREFERRED, children=(rejected,)),
      # The role that it has in `Formatter.question`, which is what a sampler asks with.
      trees.Node(self.format.opening(preferred=True), Role.QUESTION, children=(chosen,)),
    )
    return trees.Node(self.format.asked(preference.prompt), Role.QUESTION, children=children)

  def scored(
    self,
    preference: Preference,
    shots: int,
    context: Context,
    layout: Layout,
    rest: Sequence[trees.Node] = (),
  ) -> trees.Node:
    """A question with its scored responses; `rest` is what follows the chosen one."""
    if layout.rewards:
      return self.rewarded(preference, shots, rest)
    children = self.responses(
      preference.chosen, preference.rejected, shots, context, layout.rejected, rest
    )
    question = self.format.question(preference.prompt)
    return trees.Node(question, Role.QUESTION, children=tuple(children))

  def description_pair(
    self, pair: DescriptionPair, queries: Sequence[Preference], layout: Layout, shots: int
  ) -> trees.Node:
    """Both sampled descriptions, the better one with the queries under it, if any are asked."""
    better, worse = (self.segment(Kind.SAMPLED_DESCRIPTION, shots) for _ in range(2))
    self.pairs.append(Pair(better, worse, shots, Context.DESCRIPTION_PAIR))
    asked = queries if layout.description_pair_queries else ()
    under = [self.scored(q, shots, Context.DESCRIPTION, layout) for q in asked]
    children = (
      self.answer(pair.worse, worse, Role.DESCRIPTION),
      self.answer(pair.better, better, Role.DESCRIPTION, under),
    )
    return trees.Node(self.format.description(), Role.DESCRIPTION, children=children)

  def branches(self, episode: Episode, layout: Layout, shots: int) -> list[trees.Node]:
    """What hangs off the trunk after `shots` shots."""
    nodes = []
    if shots in layout.query_shots:
      nodes += [self.scored(q, shots, Context.SHOTS, layout) for q in episode.queries]
    description = episode.description_after(shots)
    if shots in layout.description_shots and description is not None:
      segment = self.segment(Kind.DESCRIPTION, shots)
      queries = episode.queries if shots in layout.description_queries else ()
      under = [self.scored(q, shots, Context.DESCRIPTION, layout) for q in queries]
      described = self.answer(description, segment, Role.DESCRIPTION, under)
      nodes.append(trees.Node(self.format.description(), Role.DESCRIPTION, children=(described,)))
    pair = episode.described
    if layout.description_pairs and pair and min(pair.shots, len(episode.shots)) == shots:
      nodes.append(self.description_pair(pair, episode.queries, layout, shots))
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
      return self.scored(shot, before, Context.SHOTS, layout, (dispreferred,))
    chosen = self.answer(shot.chosen, trees.NO_SEGMENT, children=(dispreferred,))
    return trees.Node(self.format.question(shot.prompt), Role.QUESTION, children=(chosen,))


def build(episode: Episode, formatter: Formatter, layout: Layout) -> EpisodeTree:
  """Lays an episode out as a token tree.

  Args:
    episode: the shots, the queries and, for description branches, the description.
    formatter: text to token ids.
    layout: which branches to make; numbers of shots beyond the episode's are clipped to it.

  Returns:
    The tree, its scored segments and its pairs.

  Raises:
    ValueError: the layout compares descriptions, and the episode has none to compare.
  """
  if layout.description_pairs and episode.described is None:
    raise ValueError(
      f"layout.description_pairs=True: found an episode of user {episode.user_id!r} without a "
      "description pair, expected one that has it (see episodes/on_policy.py)"
    )
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
