# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the factory asks of a language model: a request, and whatever can answer it."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import json
from typing import Any, Literal, Protocol

# What HTTP says of a server that is down or busy; see `RequestError.reason`.
_BUSY = ("http 5", "http 408", "http 409", "http 429")


@dataclasses.dataclass(frozen=True)
class Request:
  """One question to a language model. Two requests that are equal have the same answer.

  Attributes:
    stage: which stage asks; for reports alone, no part of what is asked.
    model: the model's name.
    system: the system message.
    prompt: the user's message.
    schema_name: the name of the JSON schema that the answer keeps.
    schema: that schema, as JSON text.
    temperature: of the sampling.
    seed: of the sampling; the same prompt with another seed is another request.
    max_tokens: the longest answer.
  """

  stage: str
  model: str
  system: str
  prompt: str
  schema_name: str
  schema: str
  temperature: float
  seed: int
  max_tokens: int

  @functools.cached_property
  def key(self) -> str:
    """The SHA-256 of all that is asked: what an answer is filed under."""
    asked = [
      self.model,
      self.system,
      self.prompt,
      self.schema_name,
      self.schema,
      self.temperature,
      self.seed,
      self.max_tokens,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


class RequestError(Exception):
  """A request that got no usable answer, for good: after retries, or because none can help.

  Attributes:
    request: which one.
    reason: a short word to count by, as 'http 500', 'timeout', 'schema', 'truncated'.
  """

  def __init__(self, request: Request, reason: str, detail: str) -> None:
    super().__init__(f"{request.stage} (request {request.key[:12]}): {reason}: {detail}")
    self.request, self.reason = request, reason

  @property
  def is_outage(self) -> bool:
    """Whether it says nothing about the request: the server was down or busy, for all of them."""
    return self.reason in ("timeout", "connection") or self.reason.startswith(_BUSY)


class LLM(Protocol):
  """A language model, or a stand-in for one."""

  async def answer(self, request: Request) -> dict[str, Any]:
    """The answer, a JSON object that keeps the request's schema.

    Raises:
      RequestError: there is none, for good. The caller sets aside what needed it, and counts it,
      unless it is an outage.
    """


# Told of every attempt: 'sent' before it is sent, 'retry' with the reason when another follows.
# The last attempt of a request ends in the answer or in the exception.
Note = Callable[[Request, Literal["sent", "retry"], str], None]
