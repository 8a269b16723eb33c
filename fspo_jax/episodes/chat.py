# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Episodes as chats: the turns of a model's own chat template, cut where a token tree branches.

A question is a user's turn and a preferred response the assistant's; the other response of a shot
begins the user's next turn, under the paper's heading, and what is asked then follows it there.
Who is asked for a description of the user writes it as the assistant, too:

  user       ## Question / q1
  assistant  c1
  user       ## Dispreferred Response / r1 // ## Question / q2
  assistant  c2
  user       ## Dispreferred Response / r2 // ## User Description
  assistant  d
  user       ## Question / q

So turns alternate, as most templates demand, and the trunk `q1 c1 r1 q2 ...` is shared by all that
is scored: a response reads the same whether it is the last one or on the trunk. That is what
`learn` makes sure of, from what the template writes and not from what it is: it renders some
conversations, takes the text between the contents, and refuses a template of which the parts do not
make up the whole. Needs `pip install fspo_jax[hf]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import re

from fspo_jax.episodes import chat_rendering
from fspo_jax.episodes.chat_rendering import ChatTemplateError, Message
from fspo_jax.episodes.templates import After, Formatter
from fspo_jax.episodes.tokenizers import Tokenizer

_QUESTION = "## Question\n"
_DISPREFERRED = "## Dispreferred Response\n"
_DESCRIPTION = "## User Description"
_GAP = "\n\n"  # between two parts of a turn

# Contents that no template has a reason to contain, or to change.
_PLAIN = tuple(f"content{i}of{i}" for i in "56789")
# What we say as the user begins with a heading. Some templates trim only what a system message does
# not stand before.
_PADDED = tuple(f"{text}\n " if i % 2 == 0 else f" \n{text}\n " for i, text in enumerate(_PLAIN))
_REAL = (
  "## Question\nWhy is the sky <b>blue</b>, {{ 7 * 7 }} {% if %}?",
  "It's \"air\":\n\n- one\n- two\n\n\tand & three 'quoted' \\n.",
  "日本 🎬 Été?\n\n## Question\n[INST] <|user|> </s>",
  "```python\nprint(1)\n```",
  "Thanks!",
)


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """What a chat template writes around the contents of alternating turns.

  Attributes:
    start: before the user's first content: BOS, a system's turn, the opening of the user's.
    reply: from the end of a user's content to where the assistant's is sampled.
    lead: from there to the assistant's content: a space in Llama 2 and Mistral, or nothing.
    turn: from the end of an assistant's content to the user's next one.
    trims_user: whether a user's content loses the white space that it ends with.
    trims_assistant: whether an assistant's loses what is around it.
  """

  start: str
  reply: str
  lead: str
  turn: str
  trims_user: bool = False
  trims_assistant: bool = False

  def text(self, contents: Sequence[str]) -> str:
    """What it writes for these contents, the user's first and last."""
    parts = [self.start]
    for i, content in enumerate(contents):
      if i % 2:
        parts += [self.lead, content.strip() if self.trims_assistant else content, self.turn]
      else:
        parts += [content.rstrip() if self.trims_user else content, self.reply]
    return "".join(parts)


def learn(
  source: str, special_tokens: Mapping[str, str], *, system: str = "", date: str = ""
) -> ChatTemplate:
  """Learns what a template writes between contents, from what it writes for some conversations.

  Args:
    source: the template.
    special_tokens: its variables, like `bos_token`.
    system: a system message to begin with; '' for none.
    date: what it is told today is; '' refuses templates that ask.

  Raises:
    ChatTemplateError: it cannot be rendered (see `chat_rendering.render`), or what it writes is not
      the same text around any contents of any number of turns.
  """
  lengths = (1, 3, 5)
  texts = iter(
    chat_rendering.render(
      source,
      [_conversation(c[:n], system) for c in (_PLAIN, _PADDED, _REAL) for n in lengths],
      special_tokens,
      date,
    )
  )
  learned = _between([next(texts) for _ in lengths])
  padded = [next(texts) for _ in lengths]
  for user, assistant in ((False, False), (True, True), (True, False), (False, True)):
    found = dataclasses.replace(learned, trims_user=user, trims_assistant=assistant)
    if all(found.text(_PADDED[:n]) == text for n, text in zip(lengths, padded, strict=True)):
      break
  else:
    raise _differs(padded[-1], learned.text(_PADDED))
  for n in lengths:
    text = next(texts)
    if text != found.text(_REAL[:n]):
      raise _differs(text, found.text(_REAL[:n]))
  return found


def _conversation(contents: Sequence[str], system: str) -> list[Message]:
  first = [{"role": "system", "content": system}] if system else []
  roles = ("user", "assistant")
  return first + [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]


def _between(texts: Sequence[str]) -> ChatTemplate:
  """The text around the contents of `_PLAIN`, from conversations of 1, 3 and 5 of them."""
  starts, replies, answered, turns = set(), set(), set(), set()
  for text in texts:
    found = re.split("|".join(_PLAIN), text)
    count = len(found) - 1
    if re.findall("|".join(_PLAIN), text) != [*_PLAIN[:count]] or count % 2 == 0:
      raise ChatTemplateError(
        f"chat template: found {text[:1000]!r}, expected each message's content once, and in order"
      )
    starts.add(found[0])
    replies.add(found[-1])
    answered |= {*found[1:-1:2]}
    turns |= {*found[2:-1:2]}
  what = (
    "before the first message",
    "where an answer is asked for",
    "before an answer",
    "after it",
  )
  for name, found in zip(what, (starts, replies, answered, turns), strict=True):
    if len(found) > 1:
      raise ChatTemplateError(
        f"chat template: found {sorted(t[-500:] for t in found)} {name}, expected the same text "
        "however many turns there are: it cannot be shared by what a token tree scores"
      )
  (start,), (reply,), (before,), (turn,) = starts, replies, answered, turns
  lead = before.removeprefix(reply)
  if not before.startswith(reply) or lead.strip():
    raise ChatTemplateError(
      f"chat template: found {before!r} before an answer of earlier turns, expected {reply!r}, "
      "which is where an answer is asked for: what trains would not be what samples"
    )
  return ChatTemplate(start, reply, lead, turn)


def _differs(found: str, expected: str) -> ChatTemplateError:
  at = next(
    (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
    min(len(found), len(expected)),
  )
  nearby = slice(max(at - 40, 0), at + 40)
  return ChatTemplateError(
    f"chat template: found {found[nearby]!r}, expected {expected[nearby]!r}: it changes contents, "
    "so that it cannot be taken apart"
  )


@dataclasses.dataclass(frozen=True)
class _Pieces:
  """A `ChatTemplate` in tokens, cut after special tokens, where no text can run into another.

  Attributes:
    start: the first tokens; `start_text` is what follows them in the turn of the first content.
    reply_text: what stands before the first of `reply`, the tokens up to where an answer begins;
      `reply_end` is the text that they end with, which the first word of an answer may depend on.
    tail: what stands between an answer and `stop`, the token that ends it.
    turn: the tokens from there on; `turn_text` is what follows them in the user's next turn.
  """

  start: tuple[int, ...]
  start_text: str
  reply_text: str
  reply: tuple[int, ...]
  reply_end: str
  tail: str
  stop: int
  turn: tuple[int, ...]
  turn_text: str


def _pieces(tokenizer: Tokenizer, template: ChatTemplate) -> _Pieces:
  def encode(parts: Sequence[int | str], after: bool) -> tuple[int, ...]:
    ids: list[int] = []
    for part in parts:
      continued = after or bool(ids)
      ids += [part] if isinstance(part, int) else tokenizer.encode(part, continued=continued)
    return tuple(ids)

  def text_first(parts: list[int | str]) -> tuple[str, list[int | str]]:
    return (parts[0], parts[1:]) if parts and isinstance(parts[0], str) else ("", parts)

  def text_last(parts: list[int | str]) -> tuple[list[int | str], str]:
    return (parts[:-1], parts[-1]) if parts and isinstance(parts[-1], str) else (parts, "")

  start, start_text = text_last(tokenizer.split(template.start))
  reply_text, reply = text_first(tokenizer.split(template.reply))
  tail, turn = text_first(tokenizer.split(template.turn))
  if not turn or tail.strip():
    raise ChatTemplateError(
      f"chat template: found {template.turn!r} after an answer, expected it to begin with a "
      "special token of the tokenizer, at which sampling stops"
    )
  stop, *turn = turn
  turn, turn_text = text_last(turn)
  return _Pieces(
    encode(start, False),
    start_text,
    reply_text,
    encode(reply, True),
    text_last(reply)[1] if reply else reply_text,
    tail,
    stop,
    encode(turn, True),
    turn_text,
  )


@dataclasses.dataclass(frozen=True)
class ChatFormatter(Formatter):
  """A `Formatter` whose template is a chat template; `chat.formatter` makes one."""

  template: ChatTemplate

  def __post_init__(self) -> None:
    _ = self._pieces  # refuses what cannot be cut

  @property
  def start(self) -> tuple[int, ...]:
    """What begins an episode, up to the last special token before the first content."""
    return self._pieces.start

  @property
  def stop_id(self) -> int:
    """What ends an assistant's turn, and with it the sampling."""
    return self._pieces.stop

  def asked(self, prompt: str, after: After = After.START) -> tuple[int, ...]:
    """A question, up to what opens a response."""
    return self._said(_QUESTION + prompt, after)

  def opening(self, *, preferred: bool) -> tuple[int, ...]:
    """From the end of a question to where a response begins; another one is asked for as such."""
    asked = "" if preferred else _GAP + _DISPREFERRED.rstrip()
    return (*self._continued("a", asked + self._pieces.reply_text), *self._pieces.reply)

  def answer(self, text: str) -> tuple[int, ...]:
    """A response or description, with its end; the part that is scored."""
    text = text.strip() if self.template.trims_assistant else text
    written = self.template.lead + text + self._pieces.tail
    return (*self._continued(self._pieces.reply_end, written), self.stop_id)

  def dispreferred(self, text: str) -> tuple[int, ...]:
    """The other response of a shot, at the beginning of the user's turn, which goes on after it."""
    return self._said(_DISPREFERRED + text, After.ANSWER, _GAP)

  def description(self, after: After = After.START) -> tuple[int, ...]:
    """What asks for a description, up to where it begins."""
    return (*self._said(_DESCRIPTION, after), *self.opening(preferred=True))

  @functools.cached_property
  def _pieces(self) -> _Pieces:
    return _pieces(self.tokenizer, self.template)

  def _said(self, text: str, after: After, gap: str = "") -> tuple[int, ...]:
    """A part of a user's turn, with what opens the turn if it is the first."""
    pieces, encode = self._pieces, self.tokenizer.encode
    # What a turn ends with is trimmed; what it goes on after is in the middle of it.
    text = text.rstrip() if self.template.trims_user and not gap else text + gap
    if after is After.START:
      return encode(pieces.start_text + text, continued=bool(pieces.start))
    if after is After.SHOT:
      return self._continued(_GAP, text)
    return (*pieces.turn, *encode(pieces.turn_text + text, continued=True))

  def _continued(self, before: str, text: str) -> tuple[int, ...]:
    """Tokens of text that stands right after other text, as they are in both together."""
    first = self.tokenizer.encode(before, continued=True)
    both = self.tokenizer.encode(before + text, continued=True)
    if both[: len(first)] == first:
      return both[len(first) :]
    # They run into each other (a line's end and the empty line after it): each stands for itself.
    return self.tokenizer.encode(text, continued=True)


def formatter(tokenizer: Tokenizer, *, system: str = "", date: str = "") -> ChatFormatter:
  """The formatter of a tokenizer's own chat template.

  Args:
    tokenizer: one that has a chat template.
    system: a system message that begins every episode; '' for none.
    date: what the template is told today is, in ISO format; '' refuses templates that ask.

  Raises:
    ChatTemplateError: it has none, or one that cannot be used: see `learn`; or it lacks tokens that
      the template writes.
    ImportError: the extra 'hf' is missing.
  """
  if tokenizer.chat_template is None:
    raise ChatTemplateError(
      "template='chat': found a tokenizer without a chat template, expected one in "
      "tokenizer_config.json or chat_template.jinja; 'headings' needs none"
    )
  template = learn(tokenizer.chat_template, tokenizer.special_tokens, system=system, date=date)
  fixed = (template.start + template.reply + template.turn).replace(system, "")
  tokens = {*re.findall(r"<\|[^\s<>|]+\|>", fixed)}
  missing = sorted(token for token in tokens if tokenizer.token_id(token) is None)
  # If it has none of them they are but text, as in some older models.
  if missing and len(missing) < len(tokens):
    raise ChatTemplateError(
      f"chat template: found {missing}, which are no tokens of the tokenizer; expected tokens, as "
      f"{sorted(tokens - {*missing})} are"
    )
  return ChatFormatter(tokenizer, template)
