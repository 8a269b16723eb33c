# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Any server that speaks OpenAI's chat completions: OpenAI, vLLM, TGI, Gemini.

Needs `pip install fspo_jax[llm]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
import dataclasses
import datetime
import email.utils
import json
import math
import os
import random
from typing import Any, Literal

from fspo_jax.synthesis import prompts
from fspo_jax.synthesis.llm import Note, Request, RequestError

# No money, no such model or address: true of every other request, too.
_ENDING_STATUS = (402, 404, 405)
_RETRIED_STATUS = (408, 409, 429)
_LONGEST_BACKOFF_S = 60.0
_LONGEST_RETRY_AFTER_S = 300.0
_LONGEST_DETAIL = 300
# A shorter key is a word that texts have by chance, and could not be told from one that leaked.
_SHORTEST_KEY = 8


class AuthError(Exception):
  """The server lets us do nothing at all: a wrong key, an empty account, no such model.

  No RequestError, so that nobody sets it aside: it ends the whole job.
  """


@dataclasses.dataclass(frozen=True, slots=True)
class _Failure:
  """An attempt without an answer; `wait_s` is the server's Retry-After, 0 for none."""

  reason: str
  detail: str
  then: Literal["retry", "give up", "end the job"] = "retry"
  wait_s: float = 0.0


def make(keys: Mapping[str, Any], note: Note) -> OpenAILLM:
  """A `pipeline.Factory`'s backend; `keys` are those of `config.synthesis.llm`."""
  return OpenAILLM(**keys, validate=prompts.validate, note=note)


class OpenAILLM:
  """An `LLM` behind an OpenAI-compatible HTTP endpoint.

  Retried, after an exponential back-off with jitter or what Retry-After asks for: 408, 409, 429,
  5xx, time-outs, cut connections, truncated answers, malformed JSON, answers off the schema. All
  else is not: no second try would help.

  The API key goes into the Authorization header and nowhere else: what a server says of an error
  is cleared of it, and an answer that contains it is refused.
  """

  def __init__(
    self,
    base_url: str,
    api_key_env: str,
    timeout_s: float,
    max_attempts: int,
    concurrency: int,
    validate: Callable[[str, object], None],
    structured: Literal["json_schema", "json_object"],
    *,
    backoff_s: float = 0.5,
    note: Note = lambda request, event, reason: None,
  ) -> None:
    """Makes the client; connects to nothing yet.

    Args:
      base_url: of the API, as 'http://localhost:8000/v1'.
      api_key_env: the environment variable with the API key; '' for a server that needs none.
      timeout_s: how long one attempt may take, from the connection to the last byte.
      max_attempts: how often a request is sent at most.
      concurrency: how many requests are in flight at most.
      validate: raises ValueError for (schema name, answer) if the answer is off the schema.
      structured: how the schema is enforced: 'json_schema' by the server; 'json_object' for
        servers that can only promise JSON: the schema is put in the system message.
      backoff_s: the wait before the first retry, doubled for each further one.
      note: told of every attempt.

    Raises:
      ImportError: the SDK is not installed.
      ValueError: the environment variable is not set, or another argument cannot be.
    """
    try:
      import openai
    except ImportError as error:
      raise ImportError("the OpenAI SDK is missing: pip install fspo_jax[llm]") from error
    if max_attempts < 1 or concurrency < 1 or timeout_s <= 0 or backoff_s < 0:
      raise ValueError(
        f"found max_attempts={max_attempts}, concurrency={concurrency}, timeout_s={timeout_s}, "
        f"backoff_s={backoff_s}, expected 1 or more, 1 or more, more than 0, 0 or more"
      )
    if structured not in ("json_schema", "json_object"):
      raise ValueError(f"structured: found {structured!r}, expected 'json_schema' or 'json_object'")
    self._secret = _read_key(api_key_env)
    # Neither the SDK's retries nor its time-outs: every attempt is noted, and the time-out is of
    # a whole attempt. Without a key of ours the SDK would look for one in the environment itself.
    self._client = openai.AsyncOpenAI(
      base_url=base_url, api_key=self._secret or "none", max_retries=0, timeout=None
    )
    self._timeout_s, self._max_attempts, self._backoff_s = timeout_s, max_attempts, backoff_s
    self._slots = asyncio.Semaphore(concurrency)
    self._validate, self._structured, self._note = validate, structured, note

  async def close(self) -> None:
    """Closes the connections."""
    await self._client.close()

  async def answer(self, request: Request) -> dict[str, Any]:
    """The answer, validated.

    Raises:
      RequestError: there is none, after all attempts or because no retry can help.
      AuthError: the server refuses the key.
    """
    attempt = 0
    while True:
      async with self._slots:
        self._note(request, "sent", "")
        found = await self._attempt(request)
      if not isinstance(found, _Failure):
        return found
      attempt += 1
      if found.then == "end the job":
        raise AuthError(f"{self._client.base_url}: {found.reason}: {found.detail}")
      if found.then == "give up" or attempt == self._max_attempts:
        raise RequestError(request, found.reason, f"{found.detail} (attempt {attempt})")
      self._note(request, "retry", found.reason)
      await asyncio.sleep(found.wait_s + self._backoff(request, attempt))

  async def _attempt(self, request: Request) -> dict[str, Any] | _Failure:
    """One attempt. Failures are returned: an exception would drag along the server's own words."""
    import openai

    try:
      async with asyncio.timeout(self._timeout_s):
        response = await self._client.chat.completions.with_raw_response.create(
          **self._body(request)
        )
    except (TimeoutError, openai.APITimeoutError):
      return _Failure("timeout", f"found no answer in {self._timeout_s:g} s")
    except openai.APIStatusError as error:
      return self._refusal(error.status_code, str(error.code), str(error), error.response.headers)
    except openai.APIConnectionError as error:
      return _Failure("connection", self._clear(f"{error} {error.__cause__!r}"))
    return self._read(request, response.text)

  def _body(self, request: Request) -> dict[str, Any]:
    system = request.system
    response_format: dict[str, Any] = {"type": "json_object"}
    if self._structured == "json_schema":
      schema = json.loads(request.schema)
      named = {"name": request.schema_name, "schema": schema, "strict": True}
      response_format = {"type": "json_schema", "json_schema": named}
    else:
      system += f"\n\nAnswer in JSON, by the schema {request.schema_name}:\n{request.schema}"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": request.prompt}]
    return {
      "model": request.model,
      "messages": [message for message in messages if message["content"]],
      "temperature": request.temperature,
      "seed": request.seed,
      "max_tokens": request.max_tokens,
      "response_format": response_format,
    }

  def _refusal(self, status: int, code: str, detail: str, headers: Any) -> _Failure:
    """What an HTTP error means."""
    if status in (401, 403):
      # Who refuses a key may quote it, in part or masked.
      return _Failure(f"http {status}", "the server refuses the API key", "end the job")
    detail = self._clear(detail)
    # OpenAI says 429 for an empty account, too, which no waiting fills.
    if status in _ENDING_STATUS or code == "insufficient_quota":
      return _Failure(f"http {status}", detail, "end the job")
    if code == "content_filter":
      return _Failure("content filter", detail, "give up")
    if status in _RETRIED_STATUS or status >= 500:
      wait_s = _retry_after(headers.get("retry-after"))
      return _Failure(f"http {status}", detail, wait_s=wait_s)
    return _Failure(f"http {status}", detail, "give up")

  def _read(self, request: Request, body: str) -> dict[str, Any] | _Failure:
    """The answer in the body of a response."""
    try:
      choice = json.loads(body)["choices"][0]
      reason, message = choice["finish_reason"], choice["message"]
      content, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError):
      return _Failure("json", self._clear(f"found no chat completion, but {body!r}"))
    if reason == "length":
      return _Failure("truncated", f"found an answer of more than {request.max_tokens} tokens")
    if reason == "content_filter":
      return _Failure("content filter", "found a filtered answer", "give up")
    if refusal:
      return _Failure("refusal", self._clear(str(refusal)), "give up")
    try:
      answer = json.loads(content)
      text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
      text.encode()  # Half a character passes JSON, but no file.
    except (ValueError, TypeError, RecursionError) as error:
      return _Failure("json", self._clear(f"{error} in the answer {content!r}"))
    if self._secret and self._secret in text:
      return _Failure("api key", "found our API key in the answer", "give up")
    try:
      self._validate(request.schema_name, answer)
    except ValueError as error:
      return _Failure("schema", self._clear(str(error)))
    return answer

  def _backoff(self, request: Request, attempt: int) -> float:
    """Seconds to wait after so many attempts; jitter keeps requests from coming back at once."""
    wait_s = min(self._backoff_s * 2.0 ** min(attempt - 1, 30), _LONGEST_BACKOFF_S)
    return wait_s * random.Random(f"{request.key} {attempt}").uniform(0.5, 1.0)

  def _clear(self, text: str) -> str:
    """What a server said, without our key, and short; in this order, or half a key could stay."""
    if self._secret:
      text = text.replace(self._secret, "[API key]")
    return text if len(text) <= _LONGEST_DETAIL else text[:_LONGEST_DETAIL] + "..."


def _read_key(name: str) -> str:
  """The API key of the environment variable `name`; '' if the name is ''."""
  if not name:
    return ""
  if not name.isidentifier():
    # It may be the key itself, which must not be repeated.
    raise ValueError("api_key_env: found no name, expected the name of an environment variable")
  key = os.environ.get(name, "").strip()
  if not key:
    raise ValueError(
      f"environment variable {name}: found nothing, expected the API key (for a server that needs "
      "none, set api_key_env to '')"
    )
  if len(key) < _SHORTEST_KEY:
    raise ValueError(
      f"environment variable {name}: found {len(key)} characters, expected an API key of at least "
      f"{_SHORTEST_KEY}"
    )
  return key


def _retry_after(header: str | None) -> float:
  """The seconds that a Retry-After header asks for, within reason; 0 if it asks for nothing.

  It is a number of seconds or an HTTP date (RFC 9110, section 10.2.3).
  """
  if not header:
    return 0.0
  try:
    wait_s = float(header)
  except ValueError:
    try:
      date = email.utils.parsedate_to_datetime(header)
    except ValueError:
      return 0.0
    if date.tzinfo is None:
      date = date.replace(tzinfo=datetime.UTC)
    wait_s = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
  return min(max(wait_s, 0.0), _LONGEST_RETRY_AFTER_S) if math.isfinite(wait_s) else 0.0
