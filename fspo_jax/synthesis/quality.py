# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The quality of a synthetic set, as numbers (a card) and as a gate.

To transfer from synthetic users to real ones, data must be diverse (responses to one prompt differ)
and coherent (a user's description determines what they prefer). The measures are those of the FSPO
paper (arXiv 2502.19312): similarity of responses, entropy of repeated labels, order flips, and
disagreement between users.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence, Set
import dataclasses
import math

from jaxtyping import Bool, Float, Int
import numpy as np

from fspo_jax.preferences import Preference
from fspo_jax.synthesis import disagreement, measures
from fspo_jax.synthesis.disagreement import Disagreement
from fspo_jax.synthesis.embedders import Embedder, cosines
from fspo_jax.synthesis.measures import Bank, Interval, Judgements, QualityError
from fspo_jax.synthesis.quality_schema import (
  SCHEMA_VERSION,
  Agreement,
  Coherence,
  Diversity,
  Leakage,
  Length,
  Order,
  QualityCard,
  Sample,
  Yield,
)
from fspo_jax.synthesis.records import Item, SyntheticUser

# Two users are compared on their own if they have so many pairs in common.
MIN_COMMON = 5

_NEAR_DUPLICATE = 0.95
_MATRIX_USERS = 60
_SHOWN_USERS = 5
_SHOWN_PREFERENCES = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
  """What a set must reach before anything is trained on it. None asks nothing of that measure.

  Attributes:
    max_similarity: of responses to one prompt, the mean pairwise cosine. It depends on the
      embedder; the default is for the built-in one.
    max_near_duplicates: the share of pairs of responses above a cosine of 0.95.
    max_entropy: the mean entropy of repeated labels, in nats.
    max_flip_rate: the share of judged pairs whose order decides.
    max_position_bias: how far the share of judgements for the response shown first may be from
      0.5, among the pairs kept.
    max_length_bias: how far the share of preferences for the longer response may be from 0.5.
    min_preferences: of every user; an episode of eight shots needs nine.
    max_set_aside: the share of responses that could not be written, and of pairs not judged.
    max_regenerate: the share of users that the regenerate rule names.
  """

  max_similarity: float | None = 0.7
  max_near_duplicates: float | None = 0.05
  max_entropy: float | None = 0.35
  max_flip_rate: float | None = 0.4
  max_position_bias: float | None = 0.05
  max_length_bias: float | None = 0.15
  min_preferences: int | None = 9
  max_set_aside: float | None = 0.05
  max_regenerate: float | None = 0.02


def violations(card: QualityCard, gate: Gate) -> list[str]:
  """What of a card falls short of a gate, a sentence each; none if the set passes.

  A measure that the gate asks for and the card lacks falls short: nobody can vouch for it. Leakage
  between the splits always does.
  """
  made, agreement = card.made, card.agreement
  unwritten = sum(made.set_aside_items.values())
  # The filters' share is no loss: the flip rate has it.
  unjudged = sum(made.set_aside_users.values()) - (made.judged - made.preferences)
  limits = [
    ("mean similarity of responses to a prompt", _mean(card.diversity.mean), gate.max_similarity),
    ("near-duplicate responses", card.diversity.near_duplicates, gate.max_near_duplicates),
    ("mean entropy of labels in nats", _mean(card.coherence.everyone), gate.max_entropy),
    ("order-flip rate before the filter", _mean(card.order.flip_rate), gate.max_flip_rate),
    (
      "position bias of preferences (from 0.5)",
      _bias(card.order.first_preferred_kept),
      gate.max_position_bias,
    ),
    (
      "length bias of preferences (from 0.5)",
      _bias(card.length.longer_chosen),
      gate.max_length_bias,
    ),
    ("responses set aside", unwritten / max(1, unwritten + made.responses), gate.max_set_aside),
    ("pairs set aside", unjudged / max(1, unjudged + made.judged), gate.max_set_aside),
    ("users to regenerate", len(agreement.regenerate) / made.users, gate.max_regenerate),
  ]
  out = []
  for name, found, most in limits:
    if most is not None and (found is None or found > most):
      shown = "no measurement" if found is None else f"{found:.3f}"
      out.append(f"{name}: found {shown}, expected at most {most:g}")
  if gate.min_preferences is not None and made.fewest < gate.min_preferences:
    out.append(
      f"preferences of the user with the fewest: found {made.fewest}, expected at least "
      f"{gate.min_preferences}"
    )
  for field in dataclasses.fields(card.leakage):
    if count := getattr(card.leakage, field.name):
      out.append(f"leakage, {field.name.replace('_', ' ')}: found {count}, expected 0")
  return out


def measure(
  items: Iterable[Item],
  users: Iterable[SyntheticUser],
  embedder: Embedder,
  *,
  seed: int,
  sample_prompts: int = 200,
  sample_users: int = 500,
) -> QualityCard:
  """Measures a set.

  Args:
    items: the questions; read twice, so not a generator.
    users: the users; read once, one at a time.
    embedder: says how alike responses are.
    seed: of the samples and the intervals.
    sample_prompts: of so many prompts at most, the similarity of responses is measured.
    sample_users: with so many users at most, every user's labels are compared.

  Returns:
    The card; a pure function of the arguments.

  Raises:
    QualityError: there is no user or question, or a user judges a response that there is not.
  """
  bank = Bank.read(items)
  people, before, after = measures.read_users(users)
  if not bank.index.size or not people:
    raise QualityError(
      f"found {bank.index.size} questions and {len(people)} users, expected one or more of each"
    )
  kept = after.where(after.kept)
  rows = bank.rows(kept)
  found = disagreement.compare(kept, len(people), sampled(len(people), sample_users, seed))
  paired = bank.index[np.diff(bank.first) >= 2]
  compared = paired[sampled(len(paired), sample_prompts, seed)].tolist()
  shown = _shown(kept, len(people), seed)
  texts = _texts(items, {*compared, *kept.item[shown].tolist()})
  return QualityCard(
    schema_version=SCHEMA_VERSION,
    seed=seed,
    diversity=diversity([texts[index] for index in compared], embedder, seed=seed),
    coherence=_coherence(before, after, seed),
    order=_order(after, kept, seed),
    length=_length(bank, rows, kept, seed),
    made=_made(bank, people, after, kept),
    agreement=_agreement(found, people),
    leakage=_leakage(bank, rows, people, kept),
    samples=_samples(texts, people, kept.where(shown)),
  )


def diversity(items: Sequence[Item], embedder: Embedder, *, seed: int) -> Diversity:
  """How alike the responses to each of these questions are; questions of one are left out."""
  items = [item for item in items if len(item.responses) > 1]
  ends = np.cumsum([len(item.responses) for item in items])
  texts = [response.text for item in items for response in item.responses]
  vectors = embedder(texts) if texts else np.zeros((0, 1))
  pairs: list[Float[np.ndarray, " pairs"]] = []
  for item, end in zip(items, ends, strict=True):
    of_prompt = cosines(vectors[end - len(item.responses) : end])
    pairs.append(of_prompt[np.triu_indices(len(item.responses), k=1)])
  every = np.concatenate([np.zeros(0), *pairs])
  return Diversity(
    embedder=embedder.name,
    prompts=len(items),
    mean=measures.interval(
      np.array([found.mean() for found in pairs]), np.ones(len(pairs)), seed=seed
    ),
    median=float(np.mean([np.median(found) for found in pairs])) if pairs else None,
    near_duplicates=float((every > _NEAR_DUPLICATE).mean()) if pairs else None,
    cosines=measures.histogram(every, np.linspace(0, 1, 41)),
  )


def sampled(population: int, count: int, seed: int) -> Int[np.ndarray, " sampled"]:
  """The positions, in order, of `count` of a population, or of all if there are not more."""
  chosen = np.random.default_rng(seed).permutation(population)[:count]
  return np.sort(chosen)


def _shown(kept: Judgements, users: int, seed: int) -> Bool[np.ndarray, " pairs"]:
  """Which preferences to show: the first few of some users."""
  place = np.arange(len(kept)) - np.searchsorted(kept.user, kept.user)  # users are in order
  return np.isin(kept.user, sampled(users, _SHOWN_USERS, seed)) & (place < _SHOWN_PREFERENCES)


def _texts(items: Iterable[Item], wanted: Set[int]) -> dict[int, Item]:
  found = {item.index: item for item in items if item.index in wanted}
  if len(found) != len(wanted):
    raise QualityError(
      f"items: found {len(found)} of {len(wanted)} sampled questions when read for the second "
      "time, expected something that can be read twice, not a generator"
    )
  return found


def _coherence(before: Judgements, after: Judgements, seed: int) -> Coherence:
  users = np.unique(before.user)
  # Of a single judgement the entropy is 0 whatever the description.
  before = before.where(before.asked + before.asked_back > 1)
  after = after.where(after.asked + after.asked_back > 1)
  same = after.where(np.isin(after.user, users))
  first, final, everyone = (
    measures.interval_by_user(part.entropy, part.user, seed=seed) for part in (before, same, after)
  )
  edges = np.linspace(0, math.log(2), 15)
  return Coherence(
    users=len(users),
    before=first,
    after=final,
    fall=first.mean / final.mean if first and final and final.mean > 0 else None,
    everyone=everyone,
    pairs_before=measures.histogram(before.entropy, edges),
    pairs_after=measures.histogram(same.entropy, edges),
  )


def _order(after: Judgements, kept: Judgements, seed: int) -> Order:
  both = after.where((after.asked > 0) & (after.asked_back > 0))
  return Order(
    flip_rate=measures.interval_by_user(both.flips, both.user, seed=seed),
    first_preferred=measures.first_preferred(after, seed=seed),
    first_preferred_kept=measures.first_preferred(kept, seed=seed),
  )


def _length(bank: Bank, rows: Int[np.ndarray, " pairs"], kept: Judgements, seed: int) -> Length:
  first = bank.first[rows]
  chosen, rejected = (bank.length[first + number] for number in kept.preferred)
  longest = np.quantile(np.concatenate([chosen, rejected]), 0.99) if len(kept) else 1.0
  edges = np.linspace(0, math.ceil(longest), 31)
  return Length(
    longer_chosen=measures.interval_by_user(
      (1 + np.sign(chosen - rejected)) / 2, kept.user, seed=seed
    ),
    area_under_curve=measures.area_under_curve(chosen, rejected),
    chosen=measures.histogram(chosen, edges),
    rejected=measures.histogram(rejected, edges),
  )


def _made(
  bank: Bank, people: Sequence[SyntheticUser], after: Judgements, kept: Judgements
) -> Yield:
  counts = np.bincount(kept.user, minlength=len(people))
  repeated = len(kept) - len(np.unique(kept.pair * len(people) + kept.user))
  additions = [user.additions for user in people]
  aside = collections.Counter[str]()
  for user in people:
    aside.update(user.set_aside)
  descriptions = len({user.description for user in people})
  step = math.ceil((counts.max() + 1) / 20)
  return Yield(
    users=len(people),
    unseen_users=sum(user.split == "unseen" for user in people),
    prompts=len(bank.index),
    unseen_prompts=int(bank.unseen.sum()),
    responses=len(bank.length),
    judged=len(after),
    preferences=len(kept),
    fewest=int(counts.min()),
    median=float(np.median(counts)),
    most=int(counts.max()),
    per_user=measures.histogram(counts, np.arange(0, counts.max() + 1 + step, step)),
    additions=float(np.mean(additions)),
    most_additions=max(additions),
    set_aside_items=bank.set_aside,
    set_aside_users=dict(sorted(aside.items())),
    duplicates=bank.duplicates
    | {"descriptions": len(people) - descriptions, "preferences": repeated},
  )


def _agreement(found: Disagreement, people: Sequence[SyntheticUser]) -> Agreement:
  common = int(found.common.sum())
  pairs = found.common.size - len(found.others)  # without oneself
  named = disagreement.regenerate(found, min_common=MIN_COMMON)
  return Agreement(
    others=len(found.others),
    mean=int(found.opposite.sum()) / common if common else None,
    comparable=int((found.common >= MIN_COMMON).sum()) / pairs if pairs else 0.0,
    regenerate={people[position].user_id: why for position, why in named.items()},
    matrix=disagreement.ordered(
      found.shares(MIN_COMMON)[found.others][:_MATRIX_USERS, :_MATRIX_USERS]
    ),
  )


def _leakage(
  bank: Bank,
  rows: Int[np.ndarray, " pairs"],
  people: Sequence[SyntheticUser],
  kept: Judgements,
) -> Leakage:
  trained = np.array([user.split == "train" for user in people])
  return Leakage(
    unseen_preferences_of_train_users=int((bank.unseen[rows] & trained[kept.user]).sum()),
    topics_in_both_splits=len(set.intersection(*bank.topics)),
    prompts_in_both_splits=len(set.intersection(*bank.prompts)),
    repeated_user_ids=len(people) - len({user.user_id for user in people}),
  )


def _samples(
  texts: Mapping[int, Item], people: Sequence[SyntheticUser], shown: Judgements
) -> tuple[Sample, ...]:
  found: dict[int, list[Preference]] = {}
  numbers = np.stack([shown.user, shown.item, *shown.preferred], axis=1).tolist()
  for user, item, *pair in numbers:
    chosen, rejected = (texts[item].responses[number].text for number in pair)
    found.setdefault(user, []).append(Preference(texts[item].prompt, chosen, rejected))
  return tuple(
    Sample(people[u].user_id, people[u].persona, people[u].description, tuple(preferences))
    for u, preferences in found.items()
  )


def _mean(found: Interval | None) -> float | None:
  return None if found is None else found.mean


def _bias(found: Interval | None) -> float | None:
  return None if found is None else abs(found.mean - 0.5)
