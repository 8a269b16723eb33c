# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Special tokens that a text spells out, as the letters that they are there."""

from __future__ import annotations

from collections.abc import Callable


def spell(text: str, token_id: Callable[[str], int | None]) -> tuple[int, ...]:
  """Ids of a text letter by letter, or by the bytes of letters that are no tokens.

  Args:
    text: how a special token is written.
    token_id: the id of a token by how it is written; None if there is no such token.

  Raises:
    ValueError: there are tokens for neither a letter nor its bytes.
  """
  ids: list[int] = []
  for letter in text:
    found = [token_id(letter)]
    if None in found:
      found = [token_id(f"<0x{byte:02X}>") for byte in letter.encode()]
    if None in found:
      raise ValueError(
        f"tokenizer: found a text with {text!r} in it, which is a special token, and no token for "
        f"its {letter!r} or the bytes of it: it cannot be told apart"
      )
    ids += [i for i in found if i is not None]
  return tuple(ids)
