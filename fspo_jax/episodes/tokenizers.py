# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: what all of them do, and where they come from: trained here, a file, a folder."""

from __future__ import annotations

from collections.abc import Iterable
import io
import os
from typing import Protocol

import sentencepiece

from fspo_jax import paths
from fspo_jax.episodes.sentencepieces import MARKER_SYMBOLS, SentencePiece
from fspo_jax.episodes.tokenizer_files import (
  MAGIC,
  TOKENIZER_JSON,
  TokenizerError,
  TokenizerFiles,
)
from fspo_jax.episodes.tokenizer_json import TokenizerJson

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3


class Tokenizer(Protocol):
  """Text to ids and back; special ids come from no text.

  Attributes:
    model: all of it: `from_bytes` makes the same one, and a checkpoint carries it.
  """

  model: bytes

  @property
  def files(self) -> dict[str, bytes]:
    """The files that load the same tokenizer elsewhere, by their names."""

  @property
  def vocab_size(self) -> int:
    """One more than the highest id, special ones and bytes included."""

  @property
  def pad_id(self) -> int:
    """The padding id; 0 where there is none, for padding is never attended to."""

  @property
  def bos_id(self) -> int | None:
    """What begins a text; None where there is none, as in Qwen."""

  @property
  def eos_id(self) -> int | None:
    """What ends a text; None where there is none."""

  @property
  def special_tokens(self) -> dict[str, str]:
    """The named special tokens that a chat template may write, like `bos_token`."""

  @property
  def chat_template(self) -> str | None:
    """The Jinja source of the chat template; None for none."""

  def token_id(self, text: str) -> int | None:
    """The id of the token that is written so; None if there is no such token."""

  def encode(self, text: str, *, continued: bool = False) -> tuple[int, ...]:
    """Token ids of `text`, without BOS or EOS; special tokens that it spells out are but letters.

    Args:
      text: what is encoded.
      continued: whether it stands after special tokens. Some tokenizers put a space in front of
        the very first text of a sequence alone.
    """

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; special ids, and those that there are not, give nothing."""

  def split(self, text: str) -> list[int | str]:
    """Trusted text, as a template has it: the special tokens that it spells out, and the rest."""


def from_bytes(model: bytes) -> Tokenizer:
  """The tokenizer whose `model` this is.

  Raises:
    TokenizerError: there is none in it.
  """
  if not model.startswith(MAGIC):
    return SentencePiece(model)
  is_json = TOKENIZER_JSON in TokenizerFiles.from_bytes(model).contents
  return TokenizerJson(model) if is_json else SentencePiece(model)


def load(path: str | os.PathLike[str]) -> Tokenizer:
  """Reads a tokenizer: a file that holds its `model`, or a folder in the Hugging Face layout.

  Raises:
    FileNotFoundError: there is no such file or folder.
    TokenizerError: there is no tokenizer in it, or files contradict each other.
    ImportError: a `tokenizer.json` without the extra 'hf'.
  """
  path = paths.path(path)
  try:
    if not path.is_dir():
      return from_bytes(path.read_bytes())
    files = TokenizerFiles.read(path)
    # A model without anything beside it is what we write ourselves.
    alone = len(files.contents) == 1 and TOKENIZER_JSON not in files.contents
    return from_bytes(*files.contents.values()) if alone else from_bytes(files.to_bytes())
  except TokenizerError as error:
    raise TokenizerError(f"{path}: {error}") from error


def train(
  corpus: Iterable[str], *, vocab_size: int, model_type: str, split_by_whitespace: bool = True
) -> SentencePiece:
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
  return SentencePiece(model.getvalue())
