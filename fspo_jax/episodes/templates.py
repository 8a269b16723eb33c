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
from fspo_jax.episodes.layouts import Layout
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
# The section headings of the paper's public code, for models that know Markdown. It also numbers
# the shots (`# Example i`) and begins the query with `# Task` and an instruction: a question would
# then be another text as a shot than as the query, and the trunk could not train every k at once.
HEADINGS = Template(
  question="\n## Question\n",
  preferred="\n## Preferred Response\n",
  dispreferred="\n## Dispreferred Response\n",
  description="\n## User Description\n",
)


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


class After(enum.Enum):
  """What a question, or what opens a description, stands after: a chat begins turns there."""

  START = 0  # what begins an episode
  SHOT = 1  # the other response of a shot
  ANSWER = 2  # a response or a description

  @classmethod
  def of(cls, shots: Sequence[Preference | Page], *, described: bool = False) -> After:
    """What follows these shots, and a description if there is one, stands after."""
    if described or (shots and isinstance(shots[-1], Page)):
      return cls.ANSWER
    return cls.SHOT if shots else cls.START


@dataclasses.dataclass(frozen=True)
class Formatter:
  """Text of one kind to token ids: what training, evaluation and the sampler all share."""

  tokenizer: tokenizers.Tokenizer
  template: Template = MARKERS

  def __post_init__(self) -> None:
    if self.tokenizer.eos_id is None:
      raise ValueError("template: found a tokenizer without EOS, expected one: it ends responses")
    for name, text in vars(self.template).items():
      if text in tokenizers.MARKER_SYMBOLS and self.tokenizer.token_id(text) is None:
        raise ValueError(
          f"template.{name}: found no token {text!r} in the tokenizer, expected one that was made "
          "here; 'headings' and 'chat' are for those of other models"
        )

  @property
  def start(self) -> tuple[int, ...]:
    """What begins an episode: BOS, or nothing where there is none."""
    bos = self.tokenizer.bos_id
    return () if bos is None else (bos,)

  @property
  def stop_id(self) -> int:
    """What ends a response or a description, and with it the sampling."""
    return self.tokenizer.eos_id

  def asked(self, prompt: str, after: After = After.START) -> tuple[int, ...]:
    """A question, up to what opens a response; the same `after` anything."""
    del after
    return (*self._opening(self.template.question), *self.tokenizer.encode(prompt))

  def question(self, prompt: str, after: After = After.START) -> tuple[int, ...]:
    """A question up to the point where a response that the user prefers begins."""
    return (*self.asked(prompt, after), *self.opening(preferred=True))

  def opening(self, *, preferred: bool) -> tuple[int, ...]:
    """What opens a response that the user prefers, or the other one."""
    return self._opening(self.template.preferred if preferred else self.template.dispreferred)

  def answer(self, text: str) -> tuple[int, ...]:
    """A response or description, with its end; the part that is scored."""
    return (*self.tokenizer.encode(text), self.stop_id)

  def dispreferred(self, text: str) -> tuple[int, ...]:
    """The other response of a shot, with what opens it and its end."""
    return (*self.opening(preferred=False), *self.answer(text))

  def description(self, after: After = After.START) -> tuple[int, ...]:
    """What opens a description; the same `after` anything."""
    del after
    return self._opening(self.template.description)

  def _opening(self, text: str) -> tuple[int, ...]:
    marker = self.tokenizer.token_id(text) if text in tokenizers.MARKER_SYMBOLS else None
    return self.tokenizer.encode(text) if marker is None else (marker,)


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
    self, preference: Preference, shots: int, after: After, rest: Sequence[trees.Node] = ()
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
    asked = self.format.asked(preference.prompt, after)
    return trees.Node(asked, Role.QUESTION, children=children)

  def scored(
    self,
    preference: Preference,
    shots: int,
    context: Context,
    layout: Layout,
    after: After,
    rest: Sequence[trees.Node] = (),
  ) -> trees.Node:
    """A question with its scored responses; `rest` is what follows the chosen one."""
    if layout.rewards:
      return self.rewarded(preference, shots, after, rest)
    children = self.responses(
      preference.chosen, preference.rejected, shots, context, layout.rejected, rest
    )
    question = self.format.question(preference.prompt, after)
    return trees.Node(question, Role.QUESTION, children=tuple(children))

  def under(self, queries: Sequence[Preference], layout: Layout, shots: int) -> list[trees.Node]:
    """Queries that hang under a description."""
    return [self.scored(q, shots, Context.DESCRIPTION, layout, After.ANSWER) for q in queries]

  def description_pair(
    self,
    pair: DescriptionPair,
    queries: Sequence[Preference],
    layout: Layout,
    shots: int,
    after: After,
  ) -> trees.Node:
    """Both sampled descriptions, and the queries, if any are asked, under the kept one."""
    better, worse = (self.segment(Kind.SAMPLED_DESCRIPTION, shots) for _ in range(2))
    self.pairs.append(Pair(better, worse, shots, Context.DESCRIPTION_PAIR))
    asked = queries if layout.description_pair_queries else ()
    scored = {pair.worse: worse, pair.better: better}
    if asked:
      scored.setdefault(pair.kept, trees.NO_SEGMENT)  # it may be one of the two
    children = tuple(
      self.answer(
        text,
        segment,
        Role.DESCRIPTION,
        self.under(asked if text == pair.kept else (), layout, shots),
      )
      for text, segment in scored.items()
    )
    return trees.Node(self.format.description(after), Role.DESCRIPTION, children=children)

  def branches(self, episode: Episode, layout: Layout, shots: int) -> list[trees.Node]:
    """What hangs off the trunk after `shots` shots."""
    nodes, after = [], After.of(episode.shots[:shots])
    if shots in layout.query_shots:
      nodes += [self.scored(q, shots, Context.SHOTS, layout, after) for q in episode.queries]
    description = episode.description_after(shots)
    if shots in layout.description_shots and description is not None:
      segment = self.segment(Kind.DESCRIPTION, shots)
      queries = episode.queries if shots in layout.description_queries else ()
      under = self.under(queries, layout, shots)
      described = self.answer(description, segment, Role.DESCRIPTION, under)
      opening = self.format.description(after)
      nodes.append(trees.Node(opening, Role.DESCRIPTION, children=(described,)))
    pair = episode.described
    if layout.description_pairs and pair and min(pair.shots, len(episode.shots)) == shots:
      nodes.append(self.description_pair(pair, episode.queries, layout, shots, after))
    return nodes

  def shot(
    self, shots: Sequence[Preference | Page], layout: Layout, rest: list[trees.Node]
  ) -> trees.Node:
    """The last of these shots, on the trunk; `rest` is what follows it."""
    *earlier, shot = shots
    before, after = len(earlier), After.of(earlier)
    if isinstance(shot, Page):
      segment = self.segment(Kind.CHOSEN, before) if layout.shot_pairs else trees.NO_SEGMENT
      response = self.answer(shot.response, segment, children=rest)
      return trees.Node(
        self.format.question(shot.prompt, after), Role.QUESTION, children=(response,)
      )
    dispreferred = trees.Node(
      self.format.dispreferred(shot.rejected), Role.DISPREFERRED, children=tuple(rest)
    )
    if layout.shot_pairs:
      return self.scored(shot, before, Context.SHOTS, layout, after, (dispreferred,))
    chosen = self.answer(shot.chosen, trees.NO_SEGMENT, children=(dispreferred,))
    return trees.Node(self.format.question(shot.prompt, after), Role.QUESTION, children=(chosen,))


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
    node = builder.shot(episode.shots[: k + 1], layout, rest)
    return [*builder.branches(episode, layout, k), node]

  tail = builder.branches(episode, layout, count)
  children = functools.reduce(continuation, reversed(range(count)), tail)
  root = trees.Node(formatter.start, Role.CONTROL, children=tuple(children))
  return EpisodeTree(trees.flatten(root), tuple(builder.segments), tuple(builder.pairs))
