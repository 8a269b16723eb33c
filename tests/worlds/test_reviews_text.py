# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the language of the reviews world: what is written is read back."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.worlds import reviews, reviews_descriptions, reviews_text
from fspo_jax.worlds.reviews_text import ATTRIBUTES, COMBINATIONS, NAMES

WORLD = reviews.ReviewsWorld()
NOTHING = (None,) * len(ATTRIBUTES)


@pytest.mark.parametrize("seed", range(20))
def test_parse_is_the_inverse_of_respond(seed):
  rng = np.random.default_rng(seed)
  for combination in COMBINATIONS:
    text = WORLD.respond(rng, combination)
    assert reviews_text.parse(text) == combination, text


def test_parse_ignores_case_white_space_and_punctuation():
  rng = np.random.default_rng(0)
  for combination in COMBINATIONS:
    text = WORLD.respond(rng, combination)
    mangled = "\n  " + text.upper().replace(" ", " \t ").replace(".", " ...").replace(",", "")
    assert reviews_text.parse(mangled) == combination


def test_every_marker_is_read_alone_and_contains_no_other():
  markers = [
    (attribute, value, phrase)
    for attribute, values in reviews_text._MARKERS.items()
    for value, phrases in enumerate(values)
    for phrase in phrases
  ]
  assert len(markers) == len({phrase for _, _, phrase in markers}) == 11 * reviews_text.PHRASINGS
  length = NAMES.index("length")
  for attribute, value, phrase in markers:
    expected = list(NOTHING)
    expected[attribute] = value
    expected[length] = 0
    assert reviews_text.parse(phrase) == tuple(expected), phrase


def test_fillers_and_questions_express_nothing_but_length():
  texts = list(reviews_text.FILLERS)
  texts += map(reviews_text.question, range(reviews_text.QUESTION_COUNT))
  assert len(set(texts)) == len(texts)
  for text in texts:
    assert reviews_text.parse(text) == (None, 0, None, None, None, None), text


def test_short_and_long_responses_are_apart():
  words = {"short": set(), "long": set()}
  phrases = [
    [{len(p.split()) for p in values} for values in rows] for rows in reviews_text._MARKERS.values()
  ]
  shortest = sum(min(min(value) for value in slot) for slot in phrases)
  longest = sum(max(max(value) for value in slot) for slot in phrases)
  fillers = {len(filler.split()) for filler in reviews_text.FILLERS}
  assert longest < reviews_text._MIN_WORDS_OF_LONG <= shortest + min(fillers)
  rng = np.random.default_rng(0)
  for combination in COMBINATIONS * 20:
    name = ATTRIBUTES["length"][combination[1]]
    words[name].add(len(WORLD.respond(rng, combination).split()))
  assert max(words["short"]) <= longest <= 16
  assert 19 <= min(words["long"]) and max(words["long"]) <= 27


def test_parse_of_missing_and_contradictory_markers():
  assert reviews_text.parse("") == reviews_text.parse(" \n.") == NOTHING
  # No marker of humour; both values of sentiment; both values of spoilers.
  text = "Honestly, the plot dazzled but fell flat. The hero dies. No spoilers here."
  assert reviews_text.parse(text) == (None, 0, 1, None, None, 1)
  # The same value twice is no contradiction, and a part of a word is no marker.
  assert reviews_text.parse("the plot and the script")[5] == 1
  assert reviews_text.parse("the plots") == (None, 0, None, None, None, None)
  assert reviews_text.parse("so " * 17)[1] == 0
  assert reviews_text.parse("so " * 18)[1] == 1


@hypothesis.given(st.text())
def test_any_text_is_read(text):
  assert len(reviews_text.parse(text)) == len(ATTRIBUTES)
  reviews_descriptions.description_tastes(text)
  reviews_descriptions.parse_description(text)
