# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers that come as `tokenizer.json`: those of Llama 3, Qwen, Gemma, Mistral, and the rest.

Needs `pip install fspo_jax[hf]`.
"""

from __future__ import annotations

from collections.abc import Iterable
import functools
import itertools
import json
from typing import TYPE_CHECKING, Any

from fspo_jax.episodes.spelling import spell
from fspo_jax.episodes.tokenizer_files import TOKENIZER_JSON, TokenizerError, TokenizerFiles

if TYPE_CHECKING:
  import tokenizers as library


class TokenizerJson:
  """A `tokenizers.Tokenizer`: the library's, with special tokens apart from text."""

  def __init__(self, model: bytes) -> None:
    self.model = model
    self._files = TokenizerFiles.from_bytes(model)
    text = self._files.contents[TOKENIZER_JSON]
    parsed = _parsed(text)
    # Of texts that users write, none becomes a special token; of a template's, those it spells out.
    self._plain = _library(text)
    self._plain.encode_special_tokens = True
    self._continued, without = self._plain, _without_first_spaces(parsed)
    if without != parsed:
      self._continued = _library(json.dumps(without).encode())
      self._continued.encode_special_tokens = True
    self._unknown = parsed.get("model", {}).get("unk_token")
    self._vocab_size = 1 + max(self._plain.get_vocab(with_added_tokens=True).values(), default=-1)
    self._check_declared()
    self.special_tokens = self._files.special_tokens()
    self.chat_template = self._files.chat_template()
    # An episode's shots are those of others, too. Real responses are long: not too many of them.
    self._encode = functools.lru_cache(maxsize=1 << 12)(self._encode_anew)

  def __reduce__(self) -> tuple[type[TokenizerJson], tuple[bytes]]:
    return TokenizerJson, (self.model,)

  @property
  def files(self) -> dict[str, bytes]:
    """The files that load the same tokenizer elsewhere, by their names."""
    return dict(self._files.contents)

  @property
  def vocab_size(self) -> int:
    """One more than the highest id."""
    return self._vocab_size

  @property
  def pad_id(self) -> int:
    """The padding id; 0 where there is none, for padding is never attended to."""
    return self._named("pad_token") or 0

  @property
  def bos_id(self) -> int | None:
    """The id that begins a text; None where there is none."""
    return self._named("bos_token")

  @property
  def eos_id(self) -> int | None:
    """The id that ends a text; None where there is none."""
    return self._named("eos_token")

  def token_id(self, text: str) -> int | None:
    """The id of the token that is written so; None if there is no such token."""
    return self._plain.token_to_id(text)

  def encode(self, text: str, *, continued: bool = False) -> tuple[int, ...]:
    """Token ids of `text`; see `tokenizers.Tokenizer`."""
    return self._encode(text, continued)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; special ids give nothing."""
    return self._plain.decode([int(i) for i in ids], skip_special_tokens=True)

  def split(self, text: str) -> list[int | str]:
    """Trusted text as special tokens and what lies between."""
    found = self._parsing.encode(text, add_special_tokens=False)
    parts: list[int | str] = []
    end = 0
    for i, (start, stop) in zip(found.ids, found.offsets, strict=True):
      if i in self._special_ids:
        parts += [text[end:start], i] if start > end else [i]
        end = stop
    return [*parts, text[end:]] if end < len(text) else parts

  @functools.cached_property
  def _parsing(self) -> library.Tokenizer:
    return _library(self._files.contents[TOKENIZER_JSON])

  @functools.cached_property
  def _special_ids(self) -> frozenset[int]:
    added = self._plain.get_added_tokens_decoder()
    return frozenset(i for i, token in added.items() if token.special)

  @functools.cached_property
  def _forbidden_ids(self) -> frozenset[int]:
    """Those that no text may become: all special ones but what stands for unknown letters."""
    return frozenset(i for i in self._special_ids if self._plain.id_to_token(i) != self._unknown)

  def _encode_anew(self, text: str, continued: bool) -> tuple[int, ...]:
    chosen = self._continued if continued else self._plain
    ids = chosen.encode(text, add_special_tokens=False).ids
    if self._forbidden_ids.isdisjoint(ids):
      return tuple(ids)
    # The merges of some converted tokenizers lead to a special token where a text spells it out.
    parts = (
      spell(self._plain.id_to_token(i), self.token_id) if i in self._forbidden_ids else (i,)
      for i in ids
    )
    return tuple(itertools.chain.from_iterable(parts))

  def _named(self, name: str) -> int | None:
    return self.token_id(self.special_tokens[name]) if name in self.special_tokens else None

  def _check_declared(self) -> None:
    """Refuses configs that name tokens which the tokenizer has not."""
    declared = self._files.declared_tokens()
    for i, (text, _) in declared.items():
      if self.token_id(text) != i:
        raise TokenizerError(
          f"tokenizer_config.json: found the token {text!r} with the id {i}, and in "
          f"{TOKENIZER_JSON} the id {self.token_id(text)}; expected the same"
        )
    for name, text in self._files.special_tokens().items():
      if self.token_id(text) is None:
        raise TokenizerError(
          f"tokenizer_config.json: {name}: found {text!r}, which is no token of {TOKENIZER_JSON}"
        )


def _library(content: bytes) -> library.Tokenizer:
  """The library's tokenizer, without the padding and truncation that a file may ask for."""
  try:
    import tokenizers as library
  except ImportError as error:
    raise ImportError(
      f"{TOKENIZER_JSON}: the package 'tokenizers' is missing: pip install 'fspo_jax[hf]'"
    ) from error
  try:
    found = library.Tokenizer.from_str(content.decode("utf-8"))
  except Exception as error:  # the library raises nothing more special
    raise TokenizerError(f"{TOKENIZER_JSON}: found no tokenizer ({error})") from error
  found.no_padding()
  found.no_truncation()
  return found


def _parsed(content: bytes) -> dict[str, Any]:
  try:
    found = json.loads(content)
  except ValueError as error:
    raise TokenizerError(f"{TOKENIZER_JSON}: found no JSON ({error})") from error
  if not isinstance(found, dict):
    raise TokenizerError(f"{TOKENIZER_JSON}: found {type(found).__name__}, expected an object")
  return found


def _without_first_spaces(node: Any) -> Any:
  """The same tokenizer for text that others stand before.

  Some put SentencePiece's space before the very first text of a sequence alone, and not before one
  that follows a special token.
  """
  if isinstance(node, list):
    return [_without_first_spaces(child) for child in node]
  if not isinstance(node, dict):
    return node
  # A vocabulary has pieces of any name, and is large.
  found = {k: v if k == "model" else _without_first_spaces(v) for k, v in node.items()}
  if found.get("type") == "Metaspace" and found.get("prepend_scheme") == "first":
    found["prepend_scheme"] = "never"
  return found
