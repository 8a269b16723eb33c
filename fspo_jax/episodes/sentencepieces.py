# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models: our own, and those that come with Llama 2 and its like."""

from __future__ import annotations

from collections.abc import Iterable
import functools
import itertools
import re

import sentencepiece

from fspo_jax.episodes.spelling import spell
from fspo_jax.episodes.tokenizer_files import MAGIC, SENTENCEPIECE, TokenizerError, TokenizerFiles

# The markers of `templates.MARKERS`, one token each.
MARKER_SYMBOLS = ("<question>", "<preferred>", "<dispreferred>", "<description>")


class SentencePiece:
  """A `tokenizers.Tokenizer`: a bare model, or one in a folder with configs beside it."""

  def __init__(self, model: bytes) -> None:
    self.model = model
    self._files = TokenizerFiles.from_bytes(model) if model.startswith(MAGIC) else None
    own = self._files.contents[SENTENCEPIECE] if self._files else model
    if not own:
      raise TokenizerError(f"{SENTENCEPIECE}: found nothing in it, expected a SentencePiece model")
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=own)
    except RuntimeError as error:
      raise TokenizerError(f"{SENTENCEPIECE}: found no SentencePiece model ({error})") from error
    self._specials = self._find_specials()
    self._special_ids = frozenset(self._specials.values())
    # Worlds repeat their phrases; looking them up is 20x faster than encoding them again.
    self._encode = functools.lru_cache(maxsize=1 << 16)(self._encode_anew)

  def __reduce__(self) -> tuple[type[SentencePiece], tuple[bytes]]:
    return SentencePiece, (self.model,)

  @property
  def files(self) -> dict[str, bytes]:
    """The files that load the same tokenizer elsewhere, by their names."""
    return dict(self._files.contents) if self._files else {SENTENCEPIECE: self.model}

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
  def bos_id(self) -> int | None:
    """The id that begins a text; None where the model has none."""
    found = self._processor.bos_id()
    return None if found < 0 else found

  @property
  def eos_id(self) -> int | None:
    """The id that ends a text; None where the model has none."""
    found = self._processor.eos_id()
    return None if found < 0 else found

  @property
  def special_tokens(self) -> dict[str, str]:
    """The named special tokens that a chat template may write, like `bos_token`."""
    if self._files and self._files.special_tokens():
      return self._files.special_tokens()
    named = {"bos_token": self.bos_id, "eos_token": self.eos_id}
    return {n: self._processor.IdToPiece(i) for n, i in named.items() if i is not None}

  @property
  def chat_template(self) -> str | None:
    """The Jinja source of the chat template; None for none."""
    return self._files.chat_template() if self._files else None

  def token_id(self, text: str) -> int | None:
    """The id of the token that is written so; None if there is no such token."""
    found = self._processor.PieceToId(text)
    return found if self._processor.IdToPiece(found) == text else None

  def encode(self, text: str, *, continued: bool = False) -> tuple[int, ...]:
    """Token ids of `text`; see `tokenizers.Tokenizer`."""
    # The models of Llama 2 and its like put a space in front of every text, wherever it stands.
    del continued
    return self._encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; control ids, and those that only a model's embeddings have, give none."""
    return self._processor.DecodeIds([int(i) for i in ids if i < self.vocab_size])

  def split(self, text: str) -> list[int | str]:
    """Trusted text as special tokens and what lies between."""
    if not self._specials:
      return [text] if text else []
    longest_first = sorted(self._specials, key=len, reverse=True)
    pattern = "(" + "|".join(map(re.escape, longest_first)) + ")"
    return [self._specials.get(part, part) for part in re.split(pattern, text) if part]

  def _encode_anew(self, text: str) -> tuple[int, ...]:
    ids = self._processor.EncodeAsIds(text)
    if self._special_ids.isdisjoint(ids):
      return tuple(ids)
    # SentencePiece takes what the user defined for a token wherever a text spells it out.
    pieces = self._processor
    parts = (
      spell(pieces.IdToPiece(i), self.token_id) if i in self._special_ids else (i,) for i in ids
    )
    return tuple(itertools.chain.from_iterable(parts))

  def _find_specials(self) -> dict[str, int]:
    """The tokens that no text may become, by how they are written."""
    pieces = self._processor
    found = {
      pieces.IdToPiece(i): i
      for i in range(pieces.GetPieceSize())
      if pieces.IsControl(i) or pieces.IdToPiece(i) in MARKER_SYMBOLS
    }
    for i, (text, special) in (self._files.declared_tokens() if self._files else {}).items():
      if i >= self.vocab_size or pieces.IdToPiece(i) != text:
        raise TokenizerError(
          f"tokenizer_config.json: found the token {text!r} with the id {i}, which {SENTENCEPIECE} "
          f"({self.vocab_size} pieces) has not; expected a tokenizer.json that has it"
        )
      if special and not pieces.IsUnknown(i):
        found[text] = i
    return found
