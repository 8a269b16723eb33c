# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The config of a study: every key, its default, its unit; and what is impossible.

An experiment (`experiments/study.py`) starts from `default()` and changes what it is about. The
config is read here, and for the questions in `questions` and `opening`: the rest of the study sees
`Settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import math
import pathlib
from typing import Any
import urllib.parse

import ml_collections

CONTEXTS = ("none", "shots", "shots_and_description")
CHOOSING = ("random", "uncertainty", "information")
WORLDS = ("reviews", "elix", "roleplay")
# `fspo_jax.base.PUBLISHED`, of a module that needs jax; the server does without.
PUBLISHED = pathlib.Path(__file__).parents[1] / "worlds" / "base"
OURS = "personalized"  # the arm that the others are compared with
# Keys in which a study may differ from the one it goes on with. All others say what participants
# were asked and promised, or when the estimates may be looked at.
FREE_KEYS = ("server.", "limits.", "contact")

CONSENT = "\n\n".join(
  (
    "You are asked to take part in a research study on language models that adapt to people. You "
    "will read pairs of answers and say which one you like better. There are no right or wrong "
    "opinions.",
    "We keep your choices, the reasons that you may give, and how long you took; no name, address "
    "or device. What we publish cannot be traced to you.",
    "You have to be of age. Taking part is voluntary. You can stop at any time, come back later by "
    "the same link, and delete all of your answers yourself.",
  )
)

# An instruction, the answer that follows it, and one that does not.
CHECKS = (
  (
    "To show that you are reading, please choose the answer that names a colour.",
    "The door of the little house was painted green.",
    "The door of the little house was left open.",
  ),
  (
    "This one has a right answer: please choose the text about the sea.",
    "Waves rolled in, and the boats came back to the harbour.",
    "Wheat grew tall, and the farmers were pleased with the rain.",
  ),
  (
    "Please choose the answer with a number in it, whichever you like better.",
    "We walked for 7 hours and then had a rest.",
    "We walked the whole day and then had a rest.",
  ),
  (
    "A check that we ask everyone: choose the text in which somebody eats.",
    "She sat down at the table and had an apple.",
    "She sat down at the table and read a letter.",
  ),
)


def default() -> ml_collections.ConfigDict:
  """Every key of a study with its default."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # with a participant's number, of all orders, sides and samples
  c.title = "Which answer do you like better?"
  c.consent = CONSENT  # paragraphs, with an empty line between them
  c.contact = ""  # whom participants can ask: a name and an address
  c.thanks = "Thank you for taking part."  # the last page; a completion code goes here
  c.participants = 30  # planned sample: estimates are hidden until so many have finished
  c.retention_days = 180.0  # days after a participant's last answer, then all of it is deleted

  c.pairs = ml_collections.ConfigDict()  # what is labelled
  c.pairs.path = ""  # JSONL of {"prompt": text, "responses": [text, text]}
  c.pairs.world = ""  # or made by a world: 'reviews', 'elix' or 'roleplay'
  c.pairs.count = 64  # of a world
  c.prompts = ml_collections.ConfigDict()  # what is answered, then compared
  c.prompts.path = ""  # text, one a line; with pairs.path
  c.prompts.count = 16  # of a world

  c.labels = ml_collections.ConfigDict()
  c.labels.number = 8  # pairs that each participant labels
  c.labels.spares = 4  # further pairs for those who skip some
  c.labels.minimum = 2  # with fewer labels there is nothing to personalize from
  c.labels.choose = "random"  # which pair is next: or 'uncertainty' or 'information' (the model's)
  c.labels.candidates = 8  # unless random: pairs that each is chosen from
  c.labels.targets = 4  # information: pairs whose answers it is to tell
  c.labels.scale = 1.0  # unless random: P(first) = sigmoid(scale x difference of implicit rewards)

  # Which model answers, and what it sees of the participant: one of CONTEXTS.
  c.personalized = ml_collections.ConfigDict()
  c.personalized.path = ""  # of anything that fspo_jax.load opens; 'published' is the base
  c.personalized.context = "shots"
  c.arms = (("without_shots", "", "none"),)  # name, path ('': that of personalized), context

  c.comparisons = ml_collections.ConfigDict()
  c.comparisons.prompts = 4  # each is compared once with every arm
  c.comparisons.ties = True  # whether "about the same" can be said
  c.comparisons.reasons = True  # whether there is a field for an optional reason

  c.attention = ml_collections.ConfigDict()
  c.attention.labels = 1  # checks among the pairs that are labelled
  c.attention.comparisons = 1  # checks among the comparisons
  c.attention.allowed_failures = 0  # who fails more is not in the analysis
  c.attention.checks = CHECKS  # (instruction, right answer, wrong answer), each asked once at most

  c.generation = ml_collections.ConfigDict()
  c.generation.max_tokens = 256  # of a response
  c.generation.description_tokens = 64  # of a description
  c.generation.temperature = 0.0  # 0 is greedy
  c.generation.top_p = 1.0
  c.generation.attempts = 3  # of a job, before it waits for the researcher
  c.generation.nice = 19  # priority of the process, 0 to 19: the least

  c.server = ml_collections.ConfigDict()
  c.server.url = "http://localhost:8000"  # what links begin with; https, or this machine alone
  c.server.host = "127.0.0.1"  # address to listen at
  c.server.port = 8000
  c.server.proxy = ""  # address of a reverse proxy, whose X-Forwarded-For is then believed

  c.limits = ml_collections.ConfigDict()
  c.limits.body_bytes = 32_768  # of a request
  c.limits.reason_characters = 2000
  c.limits.requests_per_minute = 240  # of a participant
  c.limits.strangers_per_minute = 60  # of an address, without a valid link or session
  c.limits.logins_per_minute = 5  # of an address
  return c


@dataclasses.dataclass(frozen=True)
class Arm:
  """What answers: a model, and what it sees of the participant."""

  name: str
  path: str
  context: str


@dataclasses.dataclass(frozen=True)
class Labels:
  """How pairs are labelled; see `default` for the units, as for all that follows."""

  number: int
  spares: int
  minimum: int
  choose: str
  candidates: int
  targets: int
  scale: float


@dataclasses.dataclass(frozen=True)
class Comparisons:
  """How responses are compared."""

  prompts: int
  ties: bool
  reasons: bool


@dataclasses.dataclass(frozen=True)
class Attention:
  """Items with a right answer, which tell who reads."""

  labels: int
  comparisons: int
  allowed_failures: int
  checks: tuple[tuple[str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class Generation:
  """How the arms answer."""

  max_tokens: int
  description_tokens: int
  temperature: float
  top_p: float
  attempts: int
  nice: int


@dataclasses.dataclass(frozen=True)
class Server:
  """Where the study is served."""

  url: str
  host: str
  port: int
  proxy: str

  @property
  def secure(self) -> bool:
    """Whether it is reached by https."""
    return self.url.startswith("https://")

  @property
  def hostname(self) -> str:
    """The name that browsers ask for."""
    return urllib.parse.urlsplit(self.url).hostname or ""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What may be asked of the server."""

  body_bytes: int
  reason_characters: int
  requests_per_minute: int
  strangers_per_minute: int
  logins_per_minute: int


@dataclasses.dataclass(frozen=True)
class Settings:
  """A study."""

  seed: int
  title: str
  consent: str
  contact: str
  thanks: str
  participants: int
  retention_days: float
  labels: Labels
  arms: tuple[Arm, ...]  # the personalized one first
  comparisons: Comparisons
  attention: Attention
  generation: Generation
  server: Server
  limits: Limits

  @property
  def consent_hash(self) -> str:
    """Of the text that a participant has agreed to."""
    return hashlib.sha256(self.consent.encode()).hexdigest()

  @property
  def others(self) -> tuple[Arm, ...]:
    """The arms that the personalized one is compared with."""
    return self.arms[1:]


def read(c: Mapping[str, Any]) -> Settings:
  """The settings of a config, or of the JSON that was kept of one.

  Raises:
    ValueError: an impossible value, naming its key.
  """
  ours = Arm(OURS, c["personalized"]["path"], c["personalized"]["context"])
  arms = [ours]
  for entry in c["arms"]:
    if len(entry) != 3:
      raise ValueError(f"arms: found {tuple(entry)}, expected (name, path, context)")
    name, path, context = entry
    arms.append(Arm(name, path or ours.path, context))
  attention = dict(c["attention"])
  attention["checks"] = tuple(tuple(check) for check in attention["checks"])
  settings = Settings(
    **{key: c[key] for key in ("seed", "title", "consent", "contact", "thanks", "participants")},
    retention_days=c["retention_days"],
    labels=Labels(**c["labels"]),
    arms=tuple(dataclasses.replace(arm, path=_folder(arm.path)) for arm in arms),
    comparisons=Comparisons(**c["comparisons"]),
    attention=Attention(**attention),
    generation=Generation(**c["generation"]),
    server=Server(**c["server"]),
    limits=Limits(**c["limits"]),
  )
  _check(settings)
  return settings


def _folder(path: str) -> str:
  return str(PUBLISHED) if path == "published" else path


def _check(s: Settings) -> None:
  """Refuses impossible settings."""
  if not s.arms[0].path:
    raise ValueError(
      "personalized.path is empty: say which model, --config.personalized.path=RUN ('published' is "
      "the base that comes with the package, to try the study out)"
    )
  _check_numbers(s)
  for key, text in (("title", s.title), ("consent", s.consent)):
    if not text.strip():
      raise ValueError(f"{key}: found no text, which every participant is shown")
  names = [arm.name for arm in s.arms]
  if len(s.arms) < 2 or len(set(names)) < len(names) or not all(names):
    raise ValueError(f"arms: found {names[1:]}, expected one or more, by names other than {OURS!r}")
  for arm in s.arms:
    if arm.context not in CONTEXTS:
      raise ValueError(f"{arm.name}: found context {arm.context!r}, expected one of {CONTEXTS}")
  for arm in s.others:
    if (arm.path, arm.context) == (s.arms[0].path, s.arms[0].context):
      raise ValueError(f"arms: {arm.name!r} is the personalized one itself")
  if s.labels.choose not in CHOOSING:
    raise ValueError(f"labels.choose={s.labels.choose!r} is not one of {CHOOSING}")
  checks = s.attention.checks
  wanted = s.attention.labels + s.attention.comparisons
  if wanted > len(checks):
    raise ValueError(f"attention: found {len(checks)} checks, expected the {wanted} that are asked")
  for check in checks:
    if len(check) != 3 or not all(isinstance(text, str) and text.strip() for text in check):
      raise ValueError(f"attention.checks: found {check}, expected (instruction, right, wrong)")
  _check_server(s.server)


def _check_numbers(s: Settings) -> None:
  least = {
    "seed": (s.seed, 0),
    "participants": (s.participants, 2),
    "labels.number": (s.labels.number, 1),
    "labels.spares": (s.labels.spares, 0),
    "labels.candidates": (s.labels.candidates, 2),
    "labels.targets": (s.labels.targets, 1),
    "comparisons.prompts": (s.comparisons.prompts, 1),
    "attention.labels": (s.attention.labels, 0),
    "attention.comparisons": (s.attention.comparisons, 0),
    "attention.allowed_failures": (s.attention.allowed_failures, 0),
    "generation.max_tokens": (s.generation.max_tokens, 1),
    "generation.description_tokens": (s.generation.description_tokens, 1),
    "generation.attempts": (s.generation.attempts, 1),
    # A character of four bytes is twelve in a form ("%F0%9F%98%80"); then there are other fields.
    "limits.body_bytes": (s.limits.body_bytes, 12 * s.limits.reason_characters + 1024),
    "limits.reason_characters": (s.limits.reason_characters, 1),
    "limits.requests_per_minute": (s.limits.requests_per_minute, 1),
    "limits.strangers_per_minute": (s.limits.strangers_per_minute, 1),
    "limits.logins_per_minute": (s.limits.logins_per_minute, 1),
  }
  for key, (value, lowest) in least.items():
    if value < lowest:
      raise ValueError(f"{key}={value}: expected {lowest} or more")
  if not 1 <= s.labels.minimum <= s.labels.number:
    raise ValueError(f"labels.minimum={s.labels.minimum}: expected 1 to {s.labels.number}")
  if not (math.isfinite(s.labels.scale) and s.labels.scale > 0):
    raise ValueError(f"labels.scale={s.labels.scale}: expected a number above 0")
  if not (math.isfinite(s.retention_days) and s.retention_days > 0):
    raise ValueError(f"retention_days={s.retention_days}: expected a number above 0")
  if not 0 <= s.generation.nice <= 19:
    raise ValueError(f"generation.nice={s.generation.nice}: expected 0 to 19")


def _check_server(s: Server) -> None:
  url = urllib.parse.urlsplit(s.url)
  if url.scheme not in ("http", "https") or not url.hostname or url.path or url.query:
    raise ValueError(f"server.url={s.url!r}: expected like 'https://study.example.org', no path")
  if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1"):
    raise ValueError(
      f"server.url={s.url!r}: over http everyone on the way can read the links; expected https, by "
      "a reverse proxy in front of this server"
    )
  if url.scheme == "http" and s.host not in ("localhost", "127.0.0.1", "::1"):
    raise ValueError(
      f"server.host={s.host!r}: with {s.url!r} other machines would be served over http; expected "
      "127.0.0.1, or https"
    )
