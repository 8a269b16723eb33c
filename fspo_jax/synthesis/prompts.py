# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the factory's stages ask of a language model, and how its answers are read.

The user's message is markdown: one second-level heading for each thing that is given, `## Task`
last. A line of a given text that begins with `#` is escaped with a backslash, as markdown has it,
so that no text can pass for a heading and `sections` reads exactly what was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import re
from typing import Any

from fspo_jax.synthesis.domains import Domain
from fspo_jax.synthesis.llm import Request
from fspo_jax.synthesis.settings import Model, Settings

# The headings, by which a stand-in for a language model finds what it is given.
DESCRIPTION = "User Description"
NUMBER = "Number"
PERSON = "Person"
TOPIC = "Topic"
QUESTION = "Question"
COUNT = "Count"
VIEW = "Viewpoint"
VIEWS = "Viewpoints"
GUIDELINES = "Scoring Guidelines"
RESPONSE_A = "Response A"
RESPONSE_B = "Response B"
PREFERENCES = "Preferences of the User"
PREFERRED = "Preferred Response"
TASK = "Task"

IGNORE_LENGTH = (
  "Ignore how long the responses are: a longer response is not a better one for being longer. "
  "Length counts only where the description itself says what length this user wants."
)


@dataclasses.dataclass(frozen=True)
class _Kind:
  """The one key of a kind of answer, and the schema of its value in OpenAI's strict subset."""

  key: str
  value: Mapping[str, Any]
  may_be_empty: bool = False

  @property
  def schema(self) -> str:
    """The schema of the answer, as JSON."""
    schema = {"type": "object", "properties": {self.key: self.value}, "required": [self.key]}
    return json.dumps(schema | {"additionalProperties": False})


_TEXT = {"type": "string"}
_KINDS = {
  "persona": _Kind("description", _TEXT),
  "question": _Kind("question", _TEXT),
  "views": _Kind("views", {"type": "array", "items": _TEXT}),
  "response": _Kind("response", _TEXT),
  "pick": _Kind("viewpoint", _TEXT),
  "label": _Kind("preferred", {"type": "string", "enum": ["A", "B"]}),
  # Of a judge of responses, `evaluation/judges.py`.
  "verdict": _Kind("preferred", {"type": "string", "enum": ["A", "B", "tie"]}),
  "refine": _Kind("addition", _TEXT, may_be_empty=True),
}
SCHEMAS = {name: kind.schema for name, kind in _KINDS.items()}

_HEADING = re.compile(r"^(\\*#)", re.MULTILINE)
_ESCAPED = re.compile(r"^\\(\\*#)", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")  # Half a character, which UTF-8 cannot write.


def persona(
  domain: Domain, settings: Settings, model: Model, seed: int, number: int, person: str
) -> Request:
  """Asks for the description of user `number`, a `person` of given demographics."""
  system = (
    "You invent realistic people for a study of how preferences differ from person to person. "
    "The people differ widely, contradict stereotypes now and then, and are described concretely."
  )
  task = (
    f"Describe this person in three to six sentences, in the third person. {domain.persona} "
    "Stay consistent with the line above, add what makes the person an individual, and state "
    "preferences so clearly that somebody who knows nothing else could tell which of two "
    "responses the person would prefer. Do not give the person a name."
  )
  given = {NUMBER: str(number), PERSON: person, TASK: task}
  return _request("persona", settings, model, seed, system, given)


def question(
  domain: Domain, settings: Settings, model: Model, seed: int, topic: str, number: int
) -> Request:
  """Asks for question `number` about a topic."""
  system = "You write the questions that people put to an assistant, the way people put them."
  task = (
    f"Write one question about this topic. {domain.question} Many questions are asked about the "
    "topic, of which the number above says which one this is: let it take you away from the most "
    "obvious question. Write the question only, in one or two sentences."
  )
  given = {TOPIC: topic, NUMBER: str(number), TASK: task}
  return _request("question", settings, model, seed, system, given)


def views(
  domain: Domain, settings: Settings, model: Model, seed: int, prompt: str, count: int
) -> Request:
  """Asks for up to `count` different viewpoints on a question."""
  system = "You see a question from many sides and name the viewpoints it can be answered from."
  task = (
    f"List as many different viewpoints on the question as the count above says, or all if there "
    f"are fewer. {domain.view} Name each in a few words. No two of them may lead to the same "
    "answer, and between them they should please very different people."
  )
  given = {QUESTION: prompt, COUNT: str(count), TASK: task}
  return _request("views", settings, model, seed, system, given)


def response(
  domain: Domain,
  settings: Settings,
  model: Model,
  seed: int,
  prompt: str,
  *,
  description: str = "",
  view: str = "",
) -> Request:
  """Asks for a response: for the user of a description, from a viewpoint, or plain."""
  system = f"You are an assistant that answers questions. {domain.response}"
  given = {DESCRIPTION: description, VIEW: view, QUESTION: prompt}
  given = {heading: text for heading, text in given.items() if text}
  if description:
    task = (
      "Answer the question for the user described above, in the way that this user would like "
      "best. Do not mention the description, nor that there is one."
    )
  elif view:
    task = (
      "Answer the question from the viewpoint above, wholeheartedly and from no other. Do not "
      "mention that it is one viewpoint of several."
    )
  else:
    task = "Answer the question."
  return _request("response", settings, model, seed, system, given | {TASK: task})


def pick(
  domain: Domain,
  settings: Settings,
  seed: int,
  description: str,
  prompt: str,
  viewpoints: Sequence[str],
) -> Request:
  """Asks from which of some viewpoints the user of a description would like an answer best."""
  system = (
    "You know what a certain user would like from the description of the user alone: your own "
    "taste and the order in which the viewpoints are listed do not count."
  )
  given = {
    DESCRIPTION: description,
    GUIDELINES: domain.guidelines,
    QUESTION: prompt,
    VIEWS: "\n".join(f"- {' '.join(view.split())}" for view in viewpoints),
    TASK: (
      "From which of the viewpoints above would this user like the question to be answered? "
      "Repeat that viewpoint, word for word. If the description leaves it open, pick any."
    ),
  }
  return _request("pick", settings, settings.judge, seed, system, given)


def label(
  domain: Domain, settings: Settings, seed: int, description: str, prompt: str, a: str, b: str
) -> Request:
  """Asks which of two responses the user of a description prefers."""
  system = (
    "You judge which of two responses to a question a certain user prefers. Judge from the "
    "description of the user alone: your own taste, general quality and the order in which the "
    "responses are shown do not count. If the description leaves it open, choose either."
  )
  if settings.ignore_length:
    system = f"{system} {IGNORE_LENGTH}"
  given = {
    DESCRIPTION: description,
    GUIDELINES: domain.guidelines,
    QUESTION: prompt,
    RESPONSE_A: a,
    RESPONSE_B: b,
    TASK: "Which response does this user prefer? Answer A or B.",
  }
  return _request("label", settings, settings.judge, seed, system, given)


def refine(
  domain: Domain,
  settings: Settings,
  seed: int,
  description: str,
  prompt: str,
  a: str,
  b: str,
  preferred: str,
) -> Request:
  """Asks for a sentence that, appended to a description, makes its user prefer 'A' or 'B'."""
  system = (
    "You complete descriptions of users. A description leaves open which of two responses the "
    "user prefers, and you add what decides it."
  )
  task = (
    "This user prefers the response named above, and the description does not say why. Write one "
    "sentence to append to the description, from which the preference follows. It states a lasting "
    "taste, trait or piece of knowledge in general terms, mentions neither the question nor the "
    "responses, and neither repeats nor contradicts the description. "
    "If there is no such sentence, because the responses do not differ in what could matter to "
    "anybody or because the description already decides, answer with an empty string. For "
    f"reference, the description was asked for in these words: {domain.persona}"
  )
  given = {
    DESCRIPTION: description,
    QUESTION: prompt,
    RESPONSE_A: a,
    RESPONSE_B: b,
    PREFERRED: preferred,
    TASK: task,
  }
  return _request("refine", settings, settings.judge, seed, system, given)


def message(given: Mapping[str, str]) -> str:
  """The user's message: what is given, by heading."""
  return "\n\n".join([f"## {heading}\n{_escaped(text)}" for heading, text in given.items()])


def sections(prompt: str) -> dict[str, str]:
  """The texts that a request's prompt gives, by heading; exactly as they were given."""
  found = {}
  for part in prompt.removeprefix("## ").split("\n\n## "):
    heading, _, text = part.partition("\n")
    found[heading] = _ESCAPED.sub(r"\1", text) if "#" in text else text
  return found


def texts_of(schema_name: str, answer: Mapping[str, Any]) -> tuple[str, ...]:
  """The texts of an answer, stripped: those of 'views', and one of every other kind.

  Raises ValueError, as `validate`.
  """
  validate(schema_name, answer)
  value = answer[_KINDS[schema_name].key]
  return tuple(map(str.strip, value)) if schema_name == "views" else (value.strip(),)


def validate(schema_name: str, answer: object) -> None:
  """Checks an answer against its schema, and that its texts say something.

  Raises:
    ValueError: names the key, what was found, and what was expected.
  """
  kind = _KINDS[schema_name]
  if not isinstance(answer, dict):
    raise _wrong(schema_name, answer, "an object")
  if answer.keys() != {kind.key}:
    raise _wrong(f"{schema_name}: keys", sorted(map(str, answer)), f"only {kind.key!r}")
  place, value = f"{schema_name}: {kind.key}", answer[kind.key]
  if schema_name == "views":
    if not isinstance(value, list) or not value:
      raise _wrong(place, value, "a list of one or more texts")
    for i, view in enumerate(value):
      _check_text(f"{place}[{i}]", view, may_be_empty=False)
      if view.strip() in (other.strip() for other in value[:i]):
        raise _wrong(f"{place}[{i}]", view, "texts that differ from each other")
  elif "enum" in kind.value:
    if value not in kind.value["enum"]:
      raise _wrong(place, value, " or ".join(map(repr, kind.value["enum"])))
  else:
    _check_text(place, value, may_be_empty=kind.may_be_empty)


def _check_text(place: str, value: object, *, may_be_empty: bool) -> None:
  if not isinstance(value, str) or not (may_be_empty or value.strip()):
    raise _wrong(place, value, "a text" if may_be_empty else "a text that is not empty")
  if _SURROGATE.search(value):
    raise _wrong(place, value, "valid Unicode, without half a surrogate pair")


def _wrong(place: str, found: object, expected: str) -> ValueError:
  shown = ascii(found)
  shown = shown if len(shown) <= 80 else shown[:77] + "..."
  return ValueError(f"{place}: found {shown}, expected {expected}")


def _escaped(text: str) -> str:
  return _HEADING.sub(r"\\\1", text) if "#" in text else text


def _request(
  kind: str, settings: Settings, model: Model, seed: int, system: str, given: Mapping[str, str]
) -> Request:
  return Request(
    stage=kind,
    model=model.name,
    system=system,
    prompt=message(given),
    schema_name=kind,
    schema=SCHEMAS[kind],
    temperature=model.temperature,
    seed=seed,
    max_tokens=settings.max_tokens,
  )
