# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of a tokenizer in the Hugging Face layout, as one blob that a checkpoint carries."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import io
import json
import pathlib
from typing import Any
import zipfile

# What begins a blob. SentencePiece's models are protocol buffers, which begin with another byte.
MAGIC = b"PK\x03\x04"

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
_CONFIG = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_CHAT = "chat_template.jinja"
_NAMES = (TOKENIZER_JSON, SENTENCEPIECE, _CONFIG, _SPECIAL, _CHAT)
_LARGEST = 1 << 28  # bytes of a blob


class TokenizerError(ValueError):
  """A tokenizer that cannot be used: which file, what was found, what was expected."""


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
  """The files by their names, byte for byte: what loads them elsewhere loads them here.

  Attributes:
    contents: `tokenizer.json` or `tokenizer.model`, and what else there is of
      `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`.
  """

  contents: Mapping[str, bytes]

  @classmethod
  def read(cls, directory: pathlib.Path) -> TokenizerFiles:
    """The files of a folder.

    Raises:
      TokenizerError: there is no tokenizer among them.
    """
    found = {n: (directory / n).read_bytes() for n in _NAMES if (directory / n).is_file()}
    if TOKENIZER_JSON in found:
      found.pop(SENTENCEPIECE, None)  # the same tokenizer in its older form
    elif SENTENCEPIECE not in found:
      raise TokenizerError(
        f"{directory}: found neither {TOKENIZER_JSON} nor {SENTENCEPIECE}, expected a folder with "
        "a tokenizer"
      )
    return cls(found)

  @classmethod
  def from_bytes(cls, blob: bytes) -> TokenizerFiles:
    """The files of a blob.

    Raises:
      TokenizerError: it is broken, or none that `to_bytes` has made.
    """
    try:
      with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        entries = archive.infolist()
        if len(blob) > _LARGEST or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
          raise TokenizerError(
            f"tokenizer: found {len(blob)} bytes or compressed files, expected at most {_LARGEST} "
            "bytes, stored as they are"
          )
        found = {e.filename: archive.read(e) for e in entries}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
      raise TokenizerError(f"tokenizer: found a broken archive ({error})") from error
    if not found.keys() <= {*_NAMES} or not found.keys() & {TOKENIZER_JSON, SENTENCEPIECE}:
      raise TokenizerError(f"tokenizer: found the files {sorted(found)}, expected some of {_NAMES}")
    return cls(found)

  def to_bytes(self) -> bytes:
    """One blob with all files; the same files give the same bytes."""
    out = io.BytesIO()
    # Stored and not compressed, dated 1980: the bytes depend on no version of a library, no clock.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
      for name in sorted(self.contents):
        archive.writestr(zipfile.ZipInfo(name), self.contents[name])
    return out.getvalue()

  def config(self) -> dict[str, Any]:
    """What `tokenizer_config.json` says; nothing where there is none."""
    return self._json(_CONFIG)

  def special_tokens(self) -> dict[str, str]:
    """The named special tokens that there are, like `bos_token`, by their names.

    `special_tokens_map.json` is what older tokenizers have; `tokenizer_config.json` overrules it.
    """
    merged = self._json(_SPECIAL) | {k: v for k, v in self.config().items() if v is not None}
    found = {}
    for name, value in merged.items():
      if not name.endswith("_token") or value is None or isinstance(value, bool):
        continue
      text = value.get("content") if isinstance(value, dict) else value
      if not isinstance(text, str):
        raise TokenizerError(f"{_CONFIG}: {name}: found {value!r}, expected a token's text")
      found[name] = text
    return found

  def declared_tokens(self) -> dict[int, tuple[str, bool]]:
    """The tokens that `tokenizer_config.json` lists by id: their text, whether they are special."""
    listed = self.config().get("added_tokens_decoder", {})
    try:
      return {int(i): (t["content"], bool(t.get("special"))) for i, t in listed.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise TokenizerError(
        f"{_CONFIG}: added_tokens_decoder: found {error!r}, expected tokens by their ids"
      ) from error

  def chat_template(self) -> str | None:
    """The Jinja source of the chat template, the one called 'default' of several; None for none."""
    if _CHAT in self.contents:
      return _text(_CHAT, self.contents[_CHAT])
    found = self.config().get("chat_template")
    if isinstance(found, list):
      by_name = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
      if "default" not in by_name:
        raise TokenizerError(
          f"{_CONFIG}: found chat templates called {sorted(map(str, by_name))}, expected 'default'"
        )
      found = by_name["default"]
    if found is not None and not isinstance(found, str):
      raise TokenizerError(f"{_CONFIG}: chat_template: found {found!r}, expected Jinja")
    return found

  def _json(self, name: str) -> dict[str, Any]:
    if name not in self.contents:
      return {}
    try:
      found = json.loads(_text(name, self.contents[name]))
    except ValueError as error:
      raise TokenizerError(f"{name}: found no JSON ({error})") from error
    if not isinstance(found, dict):
      raise TokenizerError(f"{name}: found {type(found).__name__}, expected a JSON object")
    return found


def _text(name: str, content: bytes) -> str:
  try:
    return content.decode("utf-8")
  except UnicodeDecodeError as error:
    raise TokenizerError(f"{name}: found bytes that are not UTF-8 ({error})") from error
