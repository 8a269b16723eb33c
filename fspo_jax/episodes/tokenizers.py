# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: SentencePiece, trained on a world's or a data set's own text, held as bytes."""

from __future__ import annotations

from collections.abc import Iterable
import functools
import io
import pathlib

import sentencepiece

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

# The markers of `templates.MARKERS`: one token each, never produced by encoding ordinary text
# that does not spell them out.
MARKER_SYMBOLS = ("<question>", "<preferred>", "<dispreferred>", "<description>")


class Tokenizer:
  """A SentencePiece model: text to ids and back, without special ids unless asked by id."""

  def __init__(self, model: bytes) -> None:
    self.model = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    # Worlds repeat their phrases; looking them up is 20x faster than encoding them again.
    self._encode = functools.lru_cache(maxsize=1 << 16)(
      lambda text: tuple(self._processor.EncodeAsIds(text))
    )

  def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes]]:
    return Tokenizer, (self.model,)

  @property
  def vocab_size(self) -> int:
    """Number of ids, special ones and bytes included."""
    return self._processor.GetPieceSize()

  @property
  def pad_id(self) -> int:
    """The padding id; 0 where the model has none."""
    # A model from elsewhere may have no padding id; padding is never attended to, so any id does.
    return max(self._processor.pad_id(), 0)

  @property
  def bos_id(self) -> int:
    """The id that begins an episode."""
    return self._processor.bos_id()

  @property
  def eos_id(self) -> int:
    """The id that ends a response or a description."""
    return self._processor.eos_id()

  def encode(self, text: str) -> tuple[int, ...]:
    """Token ids of `text`, without BOS or EOS."""
    return self._encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; control ids give nothing."""
    return self._processor.DecodeIds([int(i) for i in ids])


def train(
  corpus: Iterable[str], *, vocab_size: int, model_type: str, split_by_whitespace: bool = True
) -> Tokenizer:
  """Trains a SentencePiece model on `corpus`; the same text gives the same model.

  Args:
    corpus: sentences, an iterable of text.
    vocab_size: upper bound of the number of pieces, of which 256 are bytes (any text can be
      encoded) and 8 are special.
    model_type: 'bpe' or 'unigram'.
    split_by_whitespace: whether a piece ends where a word ends. False lets frequent phrases
      become one piece.

  Returns:
    The tokenizer.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(corpus),
    model_writer=model,
    vocab_size=vocab_size,
    hard_vocab_limit=False,
    model_type=model_type,
    split_by_whitespace=split_by_whitespace,
    character_coverage=1.0,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    # Responses are encoded one by one; a dummy space in front makes a first word the same piece.
    add_dummy_prefix=True,
    user_defined_symbols=list(MARKER_SYMBOLS),
    pad_id=PAD_ID,
    bos_id=BOS_ID,
    eos_id=EOS_ID,
    unk_id=UNK_ID,
    max_sentence_length=1 << 16,
    num_threads=1,
    minloglevel=2,
  )
  return Tokenizer(model.getvalue())


def load(path: str | pathlib.Path) -> Tokenizer:
  """Reads a SentencePiece model file."""
  return Tokenizer(pathlib.Path(path).read_bytes())
