# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The language of the elix world: how questions and explanations are written, and read back.

An explanation is pitched at one of five levels, which three of its phrases tell (here the first
of each), each shared by no other level; everything else in it is the same for all levels:

  opener, concept means. Then, task. [a friendly sentence, or none]
  "For fellow specialists, photosynthesis is best explained with a formal definition. After that,
  scrutinise the remaining open problems. Take your time, and ask again if anything is unclear."

It says how to go about the concept, not what is true of it, so it is never wrong. Every wording has
as many words as the one in its place at any other level: length says nothing about the level,
whoever picks the wordings. The words are few, so that a small language model learns them quickly.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
import functools
import itertools

from fspo_jax.worlds.elix_topics import CONCEPTS, SUBJECTS
from fspo_jax.worlds.reviews_text import normalise
from fspo_jax.worlds.world import Choose

LEVELS = ("child", "middle school", "high school", "college", "expert")


def _phrases(row: str) -> tuple[str, ...]:
  return tuple(" ".join(row.split()).split(" | "))


# The phrases that tell the level: one row per level.
_OPENERS = (
  """Okay little one | Hey kiddo | In tiny words | For a little explorer | Listen up sweetie
  | Dear dreamer | On your play mat | In nursery talk | For tiny curious ears
  | Young explorer""",
  """For sixth graders | Hello class | In classroom words | For your homework tonight
  | After school today | Dear pupils | In your school notebook | In seventh grade
  | For your class project | During homeroom""",
  """For tenth graders | Before exams | In textbook words | For your final exam
  | Before graduation day | As teenagers | In your revision notes | In eleventh grade
  | For the admission test | During revision""",
  """For undergraduate readers | Dear undergraduates | In lecture terms | For your term paper
  | Here on campus | In lectures | In your degree course | In second semester
  | For the problem set | As sophomores""",
  """For fellow specialists | Dear colleague | In technical terms | For the research literature
  | Among working researchers | Formally speaking | In the specialist journals
  | In rigorous language | For a peer reviewer | Strictly speaking""",
)
_MEANS = (
  """a puppet show | a box of toys | a bedtime story | colourful crayons
  | teddy bears having tea | a picture book | a game of pretend | finger paint
  | a nursery rhyme | cookies on a plate""",
  """a class poster | a diagram with labels | a school project | everyday examples
  | a quiz with hints | a comic strip | a field trip story | classroom demonstrations
  | a school play | a list of keywords""",
  """a textbook chapter | a set of flashcards | a worked example | past papers
  | a chart and definitions | an exam question | cause and effect arrows | revision cards
  | a study guide | a debate in pairs""",
  """a lecture outline | a model with assumptions | a case study | seminar readings
  | a critique of sources | a problem sheet | a chapter of theory | first principles
  | a reading list | a comparison of models""",
  """a formal definition | a survey of preprints | the primary literature
  | competing formalisms | a catalogue of anomalies | the open controversies
  | the caveats specialists debate | boundary conditions | the methodological disputes
  | a rigorous technical survey""",
)
_TASKS = (
  """draw it for your grandma | act it out with your dolls | ask a grown up
  | sing a silly song together | build it with blocks and crayons | clap and say hooray
  | show your stuffed animals too | we will count on our fingers | tell it to your teddy
  | take a little nap""",
  """write it on the whiteboard | discuss it with your table group | ask your teacher tomorrow
  | try the worksheet by yourself | learn the new words by heart | answer two quiz questions
  | make a poster for class | look it up in the encyclopedia | present it to your classmates
  | finish the homework sheet""",
  """memorise the definition for Monday | answer one question under exam conditions
  | revise the key definitions | summarise the chapter in bullets
  | explain each term in a paragraph | underline the main causes
  | compare it with chapter five | write a short essay with evidence
  | check the glossary for terms | take the practice test""",
  """derive it from the assumptions | compare the models covered in lecture
  | cite two scholarly sources | read the assigned journal article
  | discuss its limits in your seminar | critique the underlying theory
  | bring questions to office hours | apply the theory to new cases
  | draft a literature review tonight | weigh the rival theories""",
  """scrutinise the remaining open problems | mind where the standard formalism breaks
  | consult the latest preprints | replicate the most contested findings
  | note how far the result generalises | challenge the prevailing consensus
  | refine the existing technical definitions | quantify the uncertainty in those findings
  | audit the methodology for anomalies | publish the anomalous cases""",
)
# By slot, by level: the wordings.
MARKERS: tuple[tuple[tuple[str, ...], ...], ...] = tuple(
  tuple(map(_phrases, rows)) for rows in (_OPENERS, _MEANS, _TASKS)
)
_LEVEL_OF = {
  normalise(wording): level
  for slot in MARKERS
  for level, wordings in enumerate(slot)
  for wording in wordings
}

# The phrases that every level shares. Imperatives and "we" both go on from a lead.
_VERBS = _phrases(
  """is best explained with | makes most sense with | can be explained with
  | becomes quite clear with | is easiest to grasp with | is best approached with
  | is nicely shown with | really comes alive with"""
)
_TAILS = (
  "",
  *(f", {t}" for t in _phrases("I think | in my view | at first | I promise | to begin with")),
)
_LEADS = _phrases(
  """After that | From there | Once that is clear | With that in mind | As a next step
  | To go further | A bit later | When you are ready"""
)
_FRIENDLY = tuple(
  f"{first}, {second} {third}."
  for first, second, third in itertools.product(
    _phrases(
      "Take your time | Go slowly | Please be patient | Do not worry | Keep going | Enjoy it"
    ),
    _phrases("and ask again | and tell me | and come back | and write again | and stop me"),
    _phrases(
      """if anything is unclear | if you get lost | whenever you want more
      | when something feels odd | if one part puzzles you | if you feel curious"""
    ),
  )
)

# Every question names the subject, which is how a reader knows it of a concept never met. Where
# half did, a small model took several times as many to learn to look up a learner's level.
_QUESTIONS = (
  "What is {concept} in {subject}?",
  "In {subject}, what is {concept}?",
  "Tell me about {concept} in {subject}.",
  "Help me understand {concept} in {subject}.",
  "Can you explain {concept}? It is for {subject}.",
  "Please explain {concept}, the one in {subject}.",
  "My question is about {subject}: what is {concept}?",
  "I am curious about {subject}. Please explain {concept}.",
)
QUESTION_TEMPLATES = len(_QUESTIONS)


class _PhraseFinder:
  """Finds which of many known phrases a normalised text has.

  Each is looked for only where the text has the phrase's rarest word: one look-up per word, however
  many phrases there are, where an alternation of them would be tried at every word.
  """

  def __init__(self, phrases: Iterable[str]) -> None:
    phrases = tuple(phrases)
    counts = collections.Counter(word for phrase in phrases for word in set(phrase.split()))
    self._by_word: dict[str, list[str]] = collections.defaultdict(list)
    for phrase in phrases:
      self._by_word[min(phrase.split(), key=counts.__getitem__)].append(phrase)

  def find(self, text: str) -> list[str]:
    """The phrases in a normalised text, in no particular order."""
    padded = f" {text} "
    words = self._by_word.keys() & text.split()
    return [p for word in words for p in self._by_word[word] if f" {p} " in padded]


_MARKER_FINDER = _PhraseFinder(_LEVEL_OF)
_TOPIC_OF: dict[str, tuple[str, int]] = {
  normalise(concept): (concept, subject)
  for subject, concepts in enumerate(CONCEPTS.values())
  for concept in concepts
}
_TOPIC_FINDER = _PhraseFinder(_TOPIC_OF)


@functools.lru_cache(maxsize=4096)
def topic(prompt: str) -> tuple[str, int]:
  """The concept that a prompt is about, and the index of its subject in `SUBJECTS`.

  Of several concepts, the first. Raises ValueError if the prompt names none of the world's.
  """
  text = normalise(prompt)
  found = _TOPIC_FINDER.find(text)
  if not found:
    raise ValueError(f"prompt: found {prompt!r}, expected one that names a concept of the world.")
  return _TOPIC_OF[min(found, key=text.find)]


def write_question(choose: Choose, concept: str) -> str:
  """One of the `QUESTION_TEMPLATES` questions about a concept; ValueError if it is none."""
  concept, subject = topic(concept)
  template = _QUESTIONS[choose(len(_QUESTIONS))]
  return template.format(concept=concept, subject=SUBJECTS[subject])


def write_response(choose: Choose, concept: str, level: int) -> str:
  """An explanation of a concept at a level; `read_level` reads the level back."""
  openers, means, tasks = (slot[level] for slot in MARKERS)
  text = (
    f"{openers[choose(len(openers))]}, {concept} {_VERBS[choose(len(_VERBS))]}"
    f" {means[choose(len(means))]}{_TAILS[choose(len(_TAILS))]}."
    f" {_LEADS[choose(len(_LEADS))]}, {tasks[choose(len(tasks))]}."
  )
  return f"{text} {_FRIENDLY[choose(len(_FRIENDLY))]}" if choose(2) else text


def read_level(text: str) -> int | None:
  """The level of any text: that of its telling phrases; None if it has none, or they disagree.

  Case, punctuation and white space do not matter.
  """
  levels = {_LEVEL_OF[phrase] for phrase in _MARKER_FINDER.find(normalise(text))}
  return levels.pop() if len(levels) == 1 else None
