# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The language of the reviews world: how responses and questions are written, and read back.

A response is short English with six known attributes, 96 combinations in all. Every attribute but
the length is spoken out by a marker, a short phrase that no other value shares:

  opener (tone), focus + sentiment. humour. spoilers. [a filler sentence, if long]
  "Honestly, the plot won me over. No joke. The hero dies. I saw it on a rainy Sunday with two old
  friends."

So `parse` is the exact inverse of `render`, and the attributes of any text, a model's too, are
known. The words are few, so that a language model of a quarter of a million parameters learns to
read and write them within a minute on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import itertools
import re

ATTRIBUTES: dict[str, tuple[str, ...]] = {
  "sentiment": ("positive", "negative"),
  "length": ("short", "long"),
  "tone": ("formal", "casual"),
  "humour": ("joking", "serious"),
  "spoilers": ("spoiling", "discreet"),
  "focus": ("acting", "plot", "visuals"),
}
NAMES = tuple(ATTRIBUTES)
_SENTIMENT, _LENGTH, _TONE, _HUMOUR, _SPOILERS, _FOCUS = range(6)
_LONG = ATTRIBUTES["length"].index("long")

# One value index per attribute; as it is read from a text, None where it cannot be told.
Combination = tuple[int, ...]
Traits = tuple[int | None, ...]

COMBINATIONS: tuple[Combination, ...] = tuple(
  itertools.product(*(range(len(values)) for values in ATTRIBUTES.values()))
)

# The markers, for every value of an attribute equally many. All verbs of the main clause are in the
# past tense, so that number never matters; markers of humour and spoilers are neutral in sentiment.
_MARKER_TABLE: dict[int, tuple[str, ...]] = {
  _TONE: (
    """In my view | On reflection | To my mind | In retrospect | Upon consideration | In summary
    | By any measure | On balance""",
    """Honestly | Gotta say | Okay so | Not gonna lie | Real talk | Yeah well | Oh man
    | Listen folks""",
  ),
  _FOCUS: (
    """the acting | the cast | the performances | the actors | the ensemble | the star
    | the leads | the actresses""",
    """the plot | the script | the story | the storyline | the writing | the narrative
    | the premise | the screenplay""",
    """the visuals | the camerawork | the effects | the imagery | the scenery | the lighting
    | the cinematography | the sets""",
  ),
  _SENTIMENT: (
    """dazzled | shone | won me over | delighted me | impressed me | charmed me | excelled
    | thrilled me""",
    """fell flat | disappointed | bored me | let me down | dragged | flopped | annoyed me
    | felt awful""",
  ),
  _HUMOUR: (
    """My sofa blushed | Even my goldfish blinked | My cat demanded royalties
    | My popcorn took notes | My socks hired lawyers | My houseplant asked questions
    | My toaster wants autographs | Ask my hamster""",
    """No joke | I say this gravely | I mean this earnestly | All kidding aside | I weigh my words
    | In all seriousness | I speak sincerely | I kid you not""",
  ),
  _SPOILERS: (
    """The butler did it | The hero dies | Everyone was dreaming | The twins swap places
    | The captain is guilty | The treasure is fake | The villain escapes
    | The wedding is cancelled""",
    """No spoilers here | The ending stays secret | My lips are sealed | I reveal nothing
    | The twist stays hidden | Find out yourself | I give nothing away | The finale stays sealed""",
  ),
}
_MARKERS: dict[int, tuple[tuple[str, ...], ...]] = {
  attribute: tuple(tuple(" ".join(row.split()).split(" | ")) for row in rows)
  for attribute, rows in _MARKER_TABLE.items()
}
SLOTS = len(_MARKERS)
PHRASINGS = 8

# By the tables, a short response has at most 16 words, and a long one at least 9 + 10.
_MIN_WORDS_OF_LONG = 18

# Filler sentences: one choice of every column of a grammar.
_FILLER_GRAMMARS: tuple[tuple[str, ...], ...] = (
  (
    "I watched it | I saw it | We caught it",
    """on a rainy Sunday | late one Friday evening | after a busy week | during a winter storm
    | at a crowded matinee | in a tiny cinema | on a night train | in an old theatre""",
    """with two old friends | with my younger sister | beside my sleepy uncle | with some neighbours
    | next to a stranger | with half my office | over a warm supper | with tea and biscuits""",
  ),
  (
    "Afterwards we walked | Later we drove | Then we wandered",
    """home along the river | back through the park | across the sleeping town
    | past the old station | down to the harbour | home over the bridge""",
    """and talked until midnight | and shared cold pizza | in the pouring rain
    | and counted the buses | under a full moon""",
  ),
)
FILLERS: tuple[str, ...] = tuple(
  " ".join(words) + "."
  for grammar in _FILLER_GRAMMARS
  for words in itertools.product(*(" ".join(column.split()).split(" | ") for column in grammar))
)

_ADJECTIVES = """
  Silent Crimson Golden Broken Hidden Frozen Distant Velvet Hollow Scarlet Burning Emerald Wandering
  Forgotten Iron Paper Midnight Northern Electric Lonely Savage Gentle Crooked Amber Drowning
  Painted Restless Silver Stolen Twisted Vanishing Winter Marble Copper Thirsty Foggy Endless
  Borrowed Sunken Violet"""
_NOUNS = """
  Harbor Garden Mirror Kingdom River Lantern Empire Orchard Compass Bridge Tower Valley Engine
  Island Forest Meridian Palace Voyage Crown Desert Meadow Clock Carnival Lighthouse Canyon Letter
  Sparrow Wolf Falcon Tiger Orchid Comet Glacier Station Violin Anchor Temple Labyrinth Prairie
  Monsoon"""
TITLES = tuple(f"The {a} {n}" for a, n in itertools.product(_ADJECTIVES.split(), _NOUNS.split()))
TEMPLATES = (
  "What did you think of {}?",
  "How was {}?",
  "Is {} worth seeing?",
  "Please review {} for me.",
  "Would you recommend {}?",
  "Any thoughts on {}?",
  "Did you enjoy {}?",
  "Tell me about {}.",
)
QUESTION_COUNT = len(TITLES) * len(TEMPLATES)


def markers() -> Iterator[tuple[int, int, str]]:
  """The (attribute, value, phrase) of every marker."""
  for attribute, values in _MARKERS.items():
    for value, phrases in enumerate(values):
      for phrase in phrases:
        yield attribute, value, phrase


def question(index: int) -> str:
  """One of the `QUESTION_COUNT` distinct questions about an invented movie."""
  title, template = divmod(index, len(TEMPLATES))
  return TEMPLATES[template].format(TITLES[title])


def render(combination: Combination, phrasings: Sequence[int], filler: int) -> str:
  """Writes a response.

  Args:
    combination: Its attributes.
    phrasings: Which of the `PHRASINGS` markers to use, for each of the `SLOTS` slots.
    filler: Which of `FILLERS` makes the response long, if it is to be.

  Returns:
    The response; `parse` reads `combination` back from it.
  """
  sentiment, _, tone, humour, spoilers, focus = combination
  text = (
    f"{_MARKERS[_TONE][tone][phrasings[0]]}, {_MARKERS[_FOCUS][focus][phrasings[1]]}"
    f" {_MARKERS[_SENTIMENT][sentiment][phrasings[2]]}."
    f" {_MARKERS[_HUMOUR][humour][phrasings[3]]}."
    f" {_MARKERS[_SPOILERS][spoilers][phrasings[4]]}."
  )
  return f"{text} {FILLERS[filler]}" if is_long(combination) else text


def is_long(combination: Combination) -> bool:
  """Whether `render` makes use of a filler."""
  return combination[_LENGTH] == _LONG


def normalise(text: str) -> str:
  """The words of `text` in lower case, with single spaces and no punctuation."""
  return " ".join(re.findall(r"\w+(?:'\w+)*", text.lower()))


class PhraseReader:
  """Finds known phrases, each of which names a value of an attribute, in any text."""

  def __init__(self, phrases: dict[int, tuple[tuple[str, ...], ...]]) -> None:
    """`phrases[attribute][value]` are the phrases that name this value."""
    self._traits = {
      normalise(phrase): (attribute, value)
      for attribute, values in phrases.items()
      for value, alternatives in enumerate(values)
      for phrase in alternatives
    }
    # Longest first: an alternation takes its first match, not its longest.
    ordered = sorted(self._traits, key=len, reverse=True)
    self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, ordered))})\b")

  def find(self, text: str) -> list[tuple[int, int]]:
    """The (attribute, value) of every phrase in a normalised text, in order."""
    return [self._traits[match] for match in self._pattern.findall(text)]

  def unambiguous(self, text: str) -> dict[int, int]:
    """The value of every attribute of which a normalised text names exactly one value."""
    found = set(self.find(text))
    attributes = [attribute for attribute, _ in found]
    return {a: value for a, value in found if attributes.count(a) == 1}


_READER = PhraseReader(_MARKERS)


def parse(text: str) -> Traits:
  """Reads the attributes of any text: the inverse of `render`.

  Case, punctuation and white space do not matter. A text of 18 words or more is long, whatever the
  words are; a shorter one is short; an empty one has no length.

  Args:
    text: Any text.

  Returns:
    One value index per attribute, in the order of `ATTRIBUTES`; None where the text has no marker
    of the attribute, or markers of several of its values.
  """
  words = normalise(text)
  values = _READER.unambiguous(words)
  if words:
    values[_LENGTH] = int(words.count(" ") + 1 >= _MIN_WORDS_OF_LONG)
  return tuple(values.get(attribute) for attribute in range(len(ATTRIBUTES)))
