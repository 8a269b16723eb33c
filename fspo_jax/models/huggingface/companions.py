# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What lies beside the weights of a checkpoint and goes with them when it is written again."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from fspo_jax import paths
from fspo_jax.models.huggingface import files
from fspo_jax.models.huggingface.errors import HuggingFaceError, read_json

GENERATION = "generation_config.json"
TOKENIZER_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "chat_template.json",
)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclasses.dataclass(frozen=True)
class Companions:
  """What an exported folder says beside the decoder.

  Attributes:
    max_length: tokens of the longest sequence that the model is for.
    token_ids: `bos_token_id`, `eos_token_id` and `pad_token_id`, those that there are.
    generation: `generation_config.json`; None for `token_ids` alone.
    tokenizer: the tokenizer's files, byte for byte, by their names.
    model_type: the family to write it as; None for the first that has such models.
  """

  max_length: int
  token_ids: dict[str, int | list[int]] = dataclasses.field(default_factory=dict)
  generation: dict[str, Any] | None = None
  tokenizer: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
  model_type: str | None = None

  def __post_init__(self) -> None:
    if self.max_length < 1:
      raise HuggingFaceError(f"max_length={self.max_length} must be at least 1")
    unknown = [name for name in self.token_ids if name not in _TOKEN_IDS]
    if unknown:
      raise HuggingFaceError(f"token_ids: found {unknown}, expected some of {_TOKEN_IDS}")
    foreign = [name for name in self.tokenizer if name not in TOKENIZER_FILES]
    if foreign:
      raise HuggingFaceError(f"tokenizer: found {foreign}, expected some of {TOKENIZER_FILES}")


def load_companions(directory: str | os.PathLike[str]) -> Companions:
  """What lies beside the weights in a folder.

  Raises:
    HuggingFaceError: there is no `config.json`, or it does not say how long a sequence may be.
  """
  path = paths.path(directory)
  config = read_json(path / files.CONFIG)
  length = config.get("max_position_embeddings")
  if type(length) is not int:
    raise HuggingFaceError(
      f"{path / files.CONFIG}: max_position_embeddings: found {length!r}, expected a number"
    )
  generation = path / GENERATION
  return Companions(
    max_length=length,
    token_ids={name: config[name] for name in _TOKEN_IDS if config.get(name) is not None},
    generation=read_json(generation) if generation.exists() else None,
    tokenizer={n: (path / n).read_bytes() for n in TOKENIZER_FILES if (path / n).is_file()},
    model_type=config.get("model_type"),
  )
