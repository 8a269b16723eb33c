# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The error of a checkpoint that cannot be read or written, and JSON files read with it."""

from __future__ import annotations

import json
from typing import Any

from fspo_jax import paths


class HuggingFaceError(ValueError):
  """A checkpoint that cannot be used: which file, what was found, what was expected."""


def read_json(path: paths.Path) -> dict[str, Any]:
  """The object in a JSON file.

  Raises:
    HuggingFaceError: there is no file, or something else in it.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise HuggingFaceError(f"{path}: found no such file, expected a Hugging Face model") from None
  except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
    raise HuggingFaceError(f"{path}: expected JSON: {error}") from error
  if not isinstance(found, dict):
    raise HuggingFaceError(f"{path}: found a {type(found).__name__}, expected a JSON object")
  return found
