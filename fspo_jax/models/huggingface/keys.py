# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The keys of a `config.json`, taken one by one, so that none is overlooked."""

from __future__ import annotations

from typing import Any

from fspo_jax.models.huggingface.errors import HuggingFaceError

REQUIRED = object()
_HUGE = 1e300

# They change no logit of the model.
_HARMLESS = frozenset(
  (
    "_attn_implementation_autoset",
    "_name_or_path",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
  )
)


class Keys:
  """The keys that are left of a JSON object."""

  def __init__(self, where: str, keys: dict[str, Any]) -> None:
    self.where = where
    self._left = dict(keys)

  def take(self, name: str, kind: type, default: Any = REQUIRED, null: Any = None) -> Any:
    """The value of a key, which is then done with.

    Args:
      name: of the key.
      kind: type of the value; a float may be written as an integer, but a number never as a bool.
      default: where there is no such key; without one, the key must be there.
      null: what `null` says; None for the same as no key.

    Raises:
      HuggingFaceError: no value, or one of another type.
    """
    missing = name not in self._left
    value = self._left.pop(name, None)
    if value is None and not missing and null is not None:
      return null
    if value is None and default is not REQUIRED:
      return default
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
      found = "no such key" if missing else repr(value)
      raise HuggingFaceError(
        f"{self.where}: {name}: found {found}, expected a value of type {kind.__name__}"
      )
    # JSON as Python reads it has NaN, Infinity, and integers that no float can be.
    if kind is float and not -_HUGE < value < _HUGE:
      raise HuggingFaceError(f"{self.where}: {name}: found {value}, expected a finite number")
    return value

  def expect(self, name: str, *values: Any) -> None:
    """Refuses a key that has none of these values; where there is no key, it is the first.

    Raises:
      HuggingFaceError: it has another.
    """
    found = self._left.pop(name, None)
    found = values[0] if found is None else found
    if not any(type(found) is type(value) and found == value for value in values):
      expected = " or ".join(map(repr, values))
      raise HuggingFaceError(
        f"{self.where}: {name}={found!r} is not supported, expected {expected}"
      )

  def finish(self) -> None:
    """Refuses what is left and might change the model.

    Raises:
      HuggingFaceError: naming these keys.
    """
    left = {k: v for k, v in self._left.items() if k not in _HARMLESS and v is not None}
    if left:
      raise HuggingFaceError(
        f"{self.where}: found {left}, which this family is not known to have; expected no such "
        "keys (take them out if they do not change the model)"
      )
