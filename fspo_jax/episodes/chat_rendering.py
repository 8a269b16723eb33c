# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Renders chat templates, which are programs of strangers: sandboxed, in a process with limits.

Needs `pip install fspo_jax[hf]`. Jinja's sandbox keeps a template from the interpreter's inside; it
does not keep it from looping for ever or from asking for all memory. A process of its own does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import datetime
import json
import subprocess
import sys
from typing import Any

_SECONDS = 20  # of a rendering, the start of the process included
_CPU_SECONDS = 5
_MEMORY = 1 << 30  # bytes
_LONGEST = 1 << 20  # characters of a template, and of what it writes

Message = dict[str, str]


class ChatTemplateError(ValueError):
  """A chat template that cannot be used: what was found, what was expected."""


def render(
  source: str,
  conversations: Sequence[Sequence[Message]],
  special_tokens: Mapping[str, str],
  date: str = "",
) -> list[str]:
  """What a template writes for some conversations, each up to where the assistant would answer.

  Args:
    source: the template, Jinja as `transformers` understands it.
    conversations: messages with a `role` and a `content`.
    special_tokens: variables of the template, like `bos_token`.
    date: for templates that ask for today's, in ISO format; '' refuses those.

  Raises:
    ChatTemplateError: the template is broken, raises an error, asks for what the sandbox forbids,
      does not come to an end, or writes too much.
  """
  if len(source) > _LONGEST:
    raise ChatTemplateError(
      f"chat template: found {len(source)} characters, expected at most {_LONGEST}"
    )
  request = {
    "source": source,
    "conversations": [list(messages) for messages in conversations],
    "variables": {"tools": None, "documents": None, **special_tokens},
    "date": date,
  }
  try:
    done = subprocess.run(
      # Alone, and not as a part of the package: it needs nothing else of it.
      [sys.executable, "-P", __file__],
      input=json.dumps(request),
      capture_output=True,
      encoding="utf-8",
      timeout=_SECONDS,
      check=False,
    )
  except subprocess.TimeoutExpired as error:
    raise ChatTemplateError(
      f"chat template: found no end of it in {_SECONDS} s, expected a fraction of one"
    ) from error
  if done.returncode < 0:
    raise ChatTemplateError(
      f"chat template: it was stopped by signal {-done.returncode}, expected an end of it within "
      f"{_CPU_SECONDS} s of computing and {_MEMORY >> 20} MiB"
    )
  if done.returncode:
    raise RuntimeError(f"chat template: the process that renders it broke: {done.stderr[-2000:]}")
  answer = json.loads(done.stdout)
  if "error" in answer:
    raise ChatTemplateError(f"chat template: {answer['error']}")
  return answer["texts"]


def _environment(date: str) -> Any:
  """What `transformers` gives a template, less what it can do without."""
  from jinja2 import exceptions, ext, nodes, sandbox

  class Environment(sandbox.ImmutableSandboxedEnvironment):
    """Refuses at once what the sandbox would have a template find empty."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
      """Called for an attribute that is not safe."""
      raise exceptions.SecurityError(f"the attribute {attribute!r} of a {type(obj).__name__}")

  class Generation(ext.Extension):
    """The block that marks what the assistant says; what is in it is written as it is."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
      """Reads the block."""
      number = next(parser.stream).lineno
      body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
      return nodes.Scope(body).set_lineno(number)

  def raise_exception(message: str) -> None:
    raise ChatTemplateError(f"it refuses the conversation: {message}")

  def strftime_now(form: str) -> str:
    if not date:
      raise ChatTemplateError(
        "it asks for today's date, so that the same episode would differ from day to day; expected "
        "a date that is given: chat.date"
      )
    return datetime.datetime.fromisoformat(date).strftime(form)

  def to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})  # Jinja's own escapes HTML

  environment = Environment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
  )
  environment.filters["tojson"] = to_json
  environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
  return environment


def _answer(request: dict[str, Any]) -> dict[str, Any]:
  """The texts, or what is wrong."""
  from jinja2 import exceptions

  try:
    template = _environment(request["date"]).from_string(request["source"])
    texts = []
    for messages in request["conversations"]:
      texts.append(
        template.render(messages=messages, add_generation_prompt=True, **request["variables"])
      )
      if len(texts[-1]) > _LONGEST:
        return {"error": f"it writes {len(texts[-1])} characters, expected at most {_LONGEST}"}
  except exceptions.SecurityError as error:
    return {"error": f"it asks for what a template may not have: {error}"}
  except exceptions.TemplateSyntaxError as error:
    return {"error": f"found no Jinja: line {error.lineno}: {error.message}"}
  except ChatTemplateError as error:
    return {"error": str(error)}
  except MemoryError:
    return {"error": f"it asks for more than {_MEMORY >> 20} MiB"}
  except Exception as error:  # whatever a program of strangers may raise
    return {"error": f"it fails with {type(error).__name__}: {str(error)[:500]}"}
  return {"texts": texts}


def _main() -> None:
  import resource  # POSIX alone has it

  resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
  try:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
  except (OSError, ValueError):
    if sys.platform != "darwin":  # which has no such limit; that of time ends a template there
      raise
  resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
  json.dump(_answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
  _main()
