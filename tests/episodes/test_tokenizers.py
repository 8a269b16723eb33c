# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the tokenizers."""

import pickle

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fspo_jax.episodes import tokenizers
from tests import tiny

# SentencePiece writes spaces as this character, so that it reads it back as one.
SPACE_SYMBOL = "\u2581"
# Half a surrogate pair is not Unicode text; everything else is.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE_SYMBOL))


@hypothesis.given(TEXT)
def test_any_text_comes_back(text):
  tokenizer = tiny.tokenizer()
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize(
  "text", ["", " ", "  two  spaces ", "\n\n", "\x00", "a<question>b", "日本 🎬"]
)
def test_awkward_text_comes_back(text):
  assert tiny.tokenizer().decode(tiny.tokenizer().encode(text)) == text


def test_the_one_character_that_does_not_come_back():
  assert tiny.tokenizer().decode(tiny.tokenizer().encode(f"a{SPACE_SYMBOL}b")) == "a b"


def _marker_ids(tokenizer):
  return [tokenizer.token_id(marker) for marker in tokenizers.MARKER_SYMBOLS]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_markers_are_single_tokens_and_ids_are_where_they_should_be(model_type):
  corpus = list(tiny.world().corpus(np.random.default_rng(0), 300))
  tokenizer = tokenizers.train(corpus, vocab_size=400, model_type=model_type)
  # Four special ids, the four markers, the 256 bytes, then what was learned.
  assert _marker_ids(tokenizer) == [4, 5, 6, 7]
  assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
  assert 264 < tokenizer.vocab_size <= 400
  for marker, i in zip(tokenizers.MARKER_SYMBOLS, range(4, 8), strict=True):
    assert tokenizer.decode([i]) == marker
    spelled_out = tokenizer.encode(f"one{marker}two")
    assert i not in spelled_out
    assert tokenizer.decode(spelled_out) == f"one{marker}two"
  assert tokenizer.decode([0, 1, 2]) == ""
  assert tokenizer.decode(tokenizer.encode(corpus[0])) == corpus[0]


@hypothesis.given(st.lists(TEXT | st.sampled_from([*tokenizers.MARKER_SYMBOLS, "<s>"])).map("".join))
def test_no_text_has_a_special_token(text):
  # 0 .. 3 are padding, BOS, EOS and unknown, 4 .. 7 the markers.
  assert all(i >= 8 for i in tiny.tokenizer().encode(text))


def test_the_same_text_gives_the_same_model():
  corpus = lambda: tiny.world().corpus(np.random.default_rng(3), 300)  # noqa: E731
  options = {"vocab_size": 400, "model_type": "bpe", "split_by_whitespace": False}
  first, second = (tokenizers.train(corpus(), **options) for _ in range(2))
  assert first.model == second.model
  assert tokenizers.train(corpus(), **{**options, "vocab_size": 390}).model != first.model


def test_phrases_become_pieces_only_where_they_may():
  corpus = ["over and over"] * 50  # a piece has at most 16 characters
  spaced = tokenizers.train(corpus, vocab_size=400, model_type="bpe", split_by_whitespace=True)
  whole = tokenizers.train(corpus, vocab_size=400, model_type="bpe", split_by_whitespace=False)
  assert len(spaced.encode(corpus[0])) >= 3
  assert len(whole.encode(corpus[0])) == 1


def test_pickle_and_file_give_the_same_tokenizer(tmp_path):
  tokenizer = tiny.tokenizer()
  (tmp_path / "t.model").write_bytes(tokenizer.model)
  text = "Was the new one with dragons worth it? – Nöö."
  for copy in (pickle.loads(pickle.dumps(tokenizer)), tokenizers.load(tmp_path / "t.model")):
    assert copy.model == tokenizer.model
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.vocab_size == tokenizer.vocab_size
