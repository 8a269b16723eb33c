# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Who says which of two responses a user likes better: the true reward, or a language model.

A judge is asked about comparisons and gives a verdict on each: how much of a win our response is,
1, 0, or half for a tie. The language model is told of the user (by the gold description, by the
user's preferences, or both) and asked in both orders; its verdict is the mean of the two, so that
one that follows the order counts half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any, Literal, Protocol

from fspo_jax.evaluation import statistics
from fspo_jax.evaluation.responses import Answered
from fspo_jax.preferences import Preference
from fspo_jax.synthesis import jobs, prompts
from fspo_jax.synthesis.journal import Journal
from fspo_jax.synthesis.llm import LLM, Request

# The stages of the requests, by which they are counted.
FIRST, SECOND = "ours first", "ours second"
_SCORES = {"A": 1.0, "B": 0.0, "tie": 0.5}
_SYSTEM = (
  "You judge which of two responses to a question a certain user prefers. Judge from what is told "
  "of the user alone: your own taste, general quality and the order in which the responses are "
  "shown do not count."
)
_TASK = (
  "Which response does this user prefer? Answer A or B; answer tie only if nothing that is told of "
  "the user speaks for either."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two responses to one user's prompt.

  Attributes:
    user_id: who asked.
    description: the gold description of the user, where there is one.
    shots: preferences of the user.
    prompt: what was asked.
    ours: the response that wins or loses.
    baseline: what it is compared with.
    rewards: the true rewards of the two, where they are known.
  """

  user_id: str
  description: str | None
  shots: Sequence[Preference]
  prompt: str
  ours: str
  baseline: str
  rewards: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a judge says of a comparison.

  Attributes:
    win: 1 for our response, 0 for the baseline's, between them for a tie or a doubt; None where
      there is no verdict.
    orders: the same, of each order of showing them, for judges that are shown them in an order.
    set_aside: why there is no verdict; '' where there is one.
  """

  win: float | None
  orders: tuple[float, float] | None = None
  set_aside: str = ""


class Judge(Protocol):
  """Whoever says which of two responses a user likes better."""

  @property
  def facts(self) -> Mapping[str, Any]:
    """All that verdicts depend on but the comparisons, as JSON has it; with the judge's `name`."""

  def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
    """A verdict on each comparison."""


class TrueReward:
  """The world's true reward, as it was measured when the responses were made."""

  facts: Mapping[str, Any] = {"name": "true reward"}

  def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
    """A verdict on each comparison.

    Raises:
      ValueError: the rewards of one are not known, as where users have no world.
    """
    for i, comparison in enumerate(comparisons):
      if comparison.rewards is None:
        raise ValueError(
          f"comparison {i}, of user {comparison.user_id!r}: expected true rewards, found none: its "
          "user is of no world"
        )
    if not comparisons:
      return []
    ours, baseline = zip(*(c.rewards for c in comparisons if c.rewards), strict=True)
    return [Verdict(float(win)) for win in statistics.win_rate(ours, baseline)]


@dataclasses.dataclass(frozen=True)
class LLMSettings:
  """How a language model is asked.

  Attributes:
    model: its name.
    show: what it is told of the user: the gold 'description', their 'preferences', or 'both'.
    temperature: of its answers.
    seed: of its answers.
    max_tokens: of an answer, at most.
    ignore_length: whether it is told that longer is not better.
  """

  model: str
  show: Literal["description", "preferences", "both"] = "description"
  temperature: float = 0.0
  seed: int = 0
  max_tokens: int = 256
  ignore_length: bool = True

  def __post_init__(self) -> None:
    if not self.model or self.temperature < 0 or self.max_tokens < 1:
      raise ValueError(
        f"judge: found {self}, expected a model's name, a temperature of 0 or more and max_tokens "
        "of 1 or more"
      )
    if self.show not in ("description", "preferences", "both"):
      raise ValueError(
        f"show: found {self.show!r}, expected 'description', 'preferences' or 'both'"
      )

  @property
  def facts(self) -> dict[str, Any]:
    """All of it, and the hash of the prompt: of a request about nothing."""
    nothing = Comparison("", "", (Preference("", "0", "1"),), "", "", "")
    template = request(self, nothing, swapped=False)
    text = json.dumps([template.system, template.prompt, template.schema])
    prompt = hashlib.sha256(text.encode()).hexdigest()
    return {"name": self.model, **dataclasses.asdict(self), "prompt_sha256": prompt}


def request(settings: LLMSettings, comparison: Comparison, *, swapped: bool) -> Request:
  """What a judge is asked.

  Args:
    settings: how.
    comparison: about what.
    swapped: whether the baseline's response is shown first.

  Raises:
    ValueError: of the user there is not what is to be shown.
  """
  given = {}
  if settings.show != "preferences":
    if comparison.description is None:
      raise ValueError(
        f"user {comparison.user_id!r} has no description: show='preferences' needs none"
      )
    given[prompts.DESCRIPTION] = comparison.description
  if settings.show != "description":
    if not comparison.shots:
      raise ValueError(f"user {comparison.user_id!r} has no preferences: show='description'")
    # JSON, in which no text can pass for another's.
    given[prompts.PREFERENCES] = "\n".join(
      json.dumps(
        {"question": s.prompt, "preferred": s.chosen, "not preferred": s.rejected},
        ensure_ascii=False,
      )
      for s in comparison.shots
    )
  a, b = comparison.ours, comparison.baseline
  if swapped:
    a, b = b, a
  given |= {
    prompts.QUESTION: comparison.prompt,
    prompts.RESPONSE_A: a,
    prompts.RESPONSE_B: b,
    prompts.TASK: _TASK,
  }
  return Request(
    stage=SECOND if swapped else FIRST,
    model=settings.model,
    system=f"{_SYSTEM} {prompts.IGNORE_LENGTH}" if settings.ignore_length else _SYSTEM,
    prompt=prompts.message(given),
    schema_name="verdict",
    schema=prompts.SCHEMAS["verdict"],
    temperature=settings.temperature,
    seed=settings.seed,
    max_tokens=settings.max_tokens,
  )


class LLMJudge:
  """A language model that is told of the user, and asked in both orders.

  Two responses that are the same are a tie, of which it is not asked. What has a verdict is in a
  journal, so that a judgement that is killed goes on; a comparison that the model refuses is set
  aside in it, with the reason. To pay for no answer twice, let the model be a `journal.Ledger`.
  """

  def __init__(
    self,
    llm: LLM,
    settings: LLMSettings,
    journal: Journal,
    *,
    concurrency: int,
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
  ) -> None:
    """Wraps a model.

    Args:
      llm: is asked.
      settings: how.
      journal: of the verdicts on these comparisons.
      concurrency: comparisons at once.
      run: runs a coroutine; a client that serves several judges needs one loop for all of them.
    """
    self._llm, self._settings, self._journal = llm, settings, journal
    self._concurrency, self._run = concurrency, run

  @property
  def facts(self) -> Mapping[str, Any]:
    """Model, settings and the hash of the prompt."""
    return self._settings.facts

  def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
    """A verdict on each comparison.

    Raises:
      JobError: the server was down for some; all others are done, and asking again tries those.
      AuthError: the server refuses the key, or does not have the model.
    """
    pairs = [
      [request(self._settings, comparison, swapped=swapped) for swapped in (False, True)]
      for comparison in comparisons
    ]

    async def work(index: int) -> Mapping[str, Any]:
      if comparisons[index].ours == comparisons[index].baseline:
        return {"index": index, "orders": None}
      first, second = await asyncio.gather(*map(self._llm.answer, pairs[index]))
      orders = [_SCORES[first["preferred"]], 1 - _SCORES[second["preferred"]]]
      return {"index": index, "orders": orders}

    self._run(
      jobs.run(
        range(len(comparisons)),
        work,
        self._journal,
        concurrency=self._concurrency,
        label="comparisons",
      )
    )
    found: dict[int, Verdict] = {record["index"]: _verdict(record) for record in self._journal}
    return [found[index] for index in range(len(comparisons))]


def _verdict(record: Mapping[str, Any]) -> Verdict:
  if failed := record.get("failed"):
    return Verdict(None, set_aside=failed["reason"])
  if record["orders"] is None:
    return Verdict(0.5)
  first, second = record["orders"]
  return Verdict((first + second) / 2, (first, second))


def comparisons_of(answered: Iterable[Answered], method: str) -> list[Comparison]:
  """A method's responses against the base's; the base's own against its second draw.

  Raises:
    ValueError: the base is to play, and it has no second draw.
  """
  found = []
  for one in answered:
    against = one.responses["base"]
    rewards = one.rewards.get("base")
    if method == "base":
      if one.again is None:
        raise ValueError("base: found no second draw of its responses to compare it with")
      against, rewards = one.again, one.rewards_again
    for i, prompt in enumerate(one.prompts):
      known = None
      if rewards is not None and method in one.rewards:
        known = (one.rewards[method][i], rewards[i])
      found.append(
        Comparison(
          one.user_id,
          one.description,
          one.shots,
          prompt,
          one.responses[method][i],
          against[i],
          known,
        )
      )
  return found


def content_hash(facts: Mapping[str, Any], comparisons: Iterable[Comparison]) -> str:
  """What a journal of verdicts is of: the SHA-256 of the judge and all that it is asked."""
  digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
  for c in comparisons:
    shots = [[s.prompt, s.chosen, s.rejected] for s in c.shots]
    record = [c.user_id, c.description, shots, c.prompt, c.ours, c.baseline]
    digest.update(json.dumps(record).encode())
  return digest.hexdigest()


def journal_path(
  directory: pathlib.Path, facts: Mapping[str, Any], comparisons: Iterable[Comparison]
) -> pathlib.Path:
  """Where the verdicts on some comparisons lie; others lie elsewhere."""
  return directory / f"verdicts-{content_hash(facts, comparisons)[:16]}.jsonl"
