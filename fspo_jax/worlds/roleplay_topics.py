# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the roleplay world's questions are about, and what colours its personas: no tastes here."""

from __future__ import annotations

import re

from fspo_jax.worlds import reviews_text


def phrases(table: str) -> tuple[str, ...]:
  """The phrases of a table: separated by bars, over any number of lines."""
  return tuple(" ".join(table.split()).split(" | "))


# Everyday goals. None is a part of another, and none has a word of whose it is ('my desk'), so that
# questions and responses can name it alike.
GOALS: tuple[str, ...] = phrases("""
  learn to cook | learn to bake bread | learn to draw | learn to paint | learn to sing
  | learn to dance | learn to swim | learn to sew | learn to knit | learn to juggle
  | learn to code | learn to skate | learn to sail | learn to drive | learn Spanish
  | learn French | learn Japanese | learn Italian | learn Arabic | learn sign language
  | learn card tricks | learn first aid | learn some history | learn some maths
  | learn about birds | learn about wine | learn about the stars | learn about wild plants
  | play the guitar | play the piano | play the drums | play better chess | play better tennis
  | get fit | get up early | get out more | get over a breakup | explore a new city
  | get through the winter | get ready for exams | sleep better | eat better | think clearly
  | walk more | worry less | waste less food | spend less money | use less energy
  | drink less coffee | eat less sugar | save more money | stop smoking | stop biting nails
  | stop being late | make new friends | make better coffee | make cheap meals
  | make fresh pasta | make a short film | make good soup | start a garden | start a blog
  | start a small business | start a band | start a family tradition | grow tomatoes
  | grow herbs indoors | grow roses | spend a free Saturday | spend a rainy day
  | spend a week off | write a novel | write a poem | write a song | write better letters
  | fix a bicycle | fix a leaking tap | fix old clothes | prepare for a wedding
  | prepare for an interview | prepare for a marathon | prepare for a flight
  | train a puppy | look after a cat | look after houseplants | lose some weight
  | build more muscle | build a bookshelf | build a kite | improve a bad posture
  | improve a slow memory | calm down after work | beat stress | overcome shyness
  | overcome stage fright | speak in public | find a new job | find a new hobby | find love
  | find some peace | tidy the house | decorate a small flat | celebrate a birthday
  | celebrate a promotion | enjoy the summer | enjoy retirement | enjoy being outdoors
  | understand modern art | understand the news | understand teenagers | remember names
  | remember more words | read faster | read music | meditate daily | cycle to work
  | become more confident | become a good listener | become a better parent
  | become more creative | be more patient | be more grateful | be a good host""")

_QUESTIONS: tuple[str, ...] = phrases("""
  How can I {}? | What is a good way to {}? | I want to {}. Any ideas? | How should I {}?
  | What would help me {}? | Please help me {}. | Any advice on how to {}?
  | I hope to {}. What do you suggest?""")
TEMPLATES = len(_QUESTIONS)

NAMES: tuple[str, ...] = phrases("""
  Ines | Omar | Mei | Jonas | Priya | Carlos | Anna | Kofi | Yuki | Liam | Fatima | Pavel | Rosa
  | Amir | Greta | Tomas | Leila | Hugo | Nadia | Sam""")
JOBS: tuple[str, ...] = phrases("""
  a nurse | a teacher | an engineer | a farmer | a chef | a lawyer | a driver | a student
  | a plumber | an actor | a clerk | a baker | a dentist | a gardener | a pilot | a writer
  | a carpenter | a manager | a waiter | a painter""")
HOMES: tuple[str, ...] = phrases("""
  in a small town | in a big city | by the sea | on a farm | in the mountains | near a lake
  | in a quiet village | in the suburbs""")
INTERESTS: tuple[str, ...] = phrases("""
  gardening | chess | cooking | birds | old films | football | music | history | dogs | poems
  | bicycles | cats | wine | tennis | trains | modern art | stars | roses | card tricks
  | sailing""")

_GOALS = {reviews_text.normalise(goal): goal for goal in GOALS}
_GOAL = re.compile(rf"\b(?:{'|'.join(_GOALS)})\b")


def question(template: int, goal: str) -> str:
  """One of the `TEMPLATES` questions about a goal; it has the goal in it, word for word."""
  return _QUESTIONS[template].format(goal)


def goal_of(prompt: str) -> str:
  """The one of `GOALS` that a prompt names; case, punctuation and white space do not matter.

  Raises:
    ValueError: If it names none, or several.
  """
  found = {_GOALS[match] for match in _GOAL.findall(reviews_text.normalise(prompt))}
  if len(found) != 1:
    raise ValueError(
      f"prompt {prompt!r}: found {sorted(found) or 'no goal'}, expected one of the"
      f" {len(GOALS)} goals of the roleplay world, as {GOALS[0]!r}."
    )
  return found.pop()
