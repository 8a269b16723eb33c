# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The quality card that a set carries: card.json for programs, card.md with plots for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import functools
import json
import os
import pathlib
from typing import Any

from fspo_jax.pages import markdown
from fspo_jax.pages.document import (
  Block,
  Bullets,
  Document,
  Figure,
  Pairs,
  Paragraph,
  Section,
  Span,
  Table,
)
from fspo_jax.paths import write_atomic
from fspo_jax.synthesis import card_plots, quality_schema
from fspo_jax.synthesis.measures import Interval
from fspo_jax.synthesis.quality import Gate, violations
from fspo_jax.synthesis.quality_schema import QualityCard, QualityError

# The name of the file in the folder of a set.
CARD_FILE = "card.json"

_REASONS_SHOWN = 20


def write(
  directory: str | os.PathLike[str], card: QualityCard, gate: Gate, facts: Mapping[str, Any]
) -> pathlib.Path:
  """Writes card.json, card.md and its plots, replacing those that are there.

  Equal arguments give equal bytes (of the plots, for one version of matplotlib).

  Args:
    directory: where to; made where it is missing.
    card: what was measured.
    gate: what the page compares it with. It is not stored: whoever trains has their own.
    facts: how the set was made (settings, seed, command), as JSON; nothing secret.

  Returns:
    The path of card.json.

  Raises:
    TypeError, ValueError: `facts` is not JSON.
  """
  directory = pathlib.Path(directory)
  stored = {"quality": quality_schema.as_json(card), "facts": dict(facts)}
  text = json.dumps(stored, ensure_ascii=False, allow_nan=False) + "\n"
  # What the page shows is what is stored, to the last digit.
  card = quality_schema.from_json(stored["quality"])
  directory.mkdir(parents=True, exist_ok=True)
  (directory / "disagreement.png").unlink(missing_ok=True)  # of an earlier card
  markdown.write(directory / "card.md", Document("Quality card", _page(card, gate, facts)))
  write_atomic(directory / CARD_FILE, text.encode())
  return directory / CARD_FILE


def section(path: str | os.PathLike[str], gate: Gate) -> Section:
  """The page of card.json, for the report of who has trained on the set; raises as `read` does."""
  card, facts = _read(path)
  return Section("Quality card of the data", _page(card, gate, facts))


def read(path: str | os.PathLike[str]) -> QualityCard:
  """Reads card.json.

  Raises:
    QualityError: there is none, or it is not a card of this version; naming file and key.
  """
  return _read(path)[0]


def check_gate(path: str | os.PathLike[str], gate: Gate, *, how_to_go_on: str) -> None:
  """Refuses a set whose card falls short of a gate.

  Args:
    path: of card.json.
    gate: what to compare it with.
    how_to_go_on: the flag that lets a run go on regardless, for the error.

  Raises:
    QualityError: listing what falls short and how to go on; or the card cannot be read.
  """
  if short := violations(read(path), gate):
    listed = "\n".join(f"  {line}" for line in short)
    raise QualityError(
      f"{path}: the set falls short of the quality gate:\n{listed}\nMend the set (card.md beside "
      f"it says what each number means), or go on regardless with {how_to_go_on}"
    )


def _read(path: str | os.PathLike[str]) -> tuple[QualityCard, dict[str, Any]]:
  """The card, and how the set was made."""
  try:
    stored = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return quality_schema.from_json(stored["quality"]), dict(stored["facts"])
  except FileNotFoundError as error:
    raise QualityError(f"{path}: found no quality card, expected one beside the set") from error
  except QualityError as error:
    raise QualityError(f"{path}: {error}") from error
  except (ValueError, KeyError, TypeError) as error:
    raise QualityError(f"{path}: found {error!r}, expected a quality card as JSON") from error


def _page(card: QualityCard, gate: Gate, facts: Mapping[str, Any]) -> list[Block]:
  made = card.made
  rows = [*_flat(facts), ("seed of the samples and intervals", str(card.seed))]
  return [
    Paragraph(
      f"{made.preferences:,} preferences of {made.users:,} users ({made.unseen_users:,} of them "
      f"never trained on) about {made.prompts:,} prompts ({made.unseen_prompts:,} of them about "
      "topics never trained on)."
    ),
    Paragraph(
      (
        "Synthetic preferences transfer to real people only if they are ",
        Span("diverse", "emphasis"),
        " (the responses to one prompt differ) and ",
        Span("coherent", "emphasis"),
        " (a user's description determines what they prefer). This page says how far both hold "
        "here, and what else to beware of.",
      )
    ),
    *_verdict(card, gate),
    Section("The numbers", _numbers(card, gate)),
    Section("Diversity: do the responses to a prompt differ?", _diversity(card)),
    Section("Coherence: does the description determine the preference?", _coherence(card)),
    Section("Biases of the judge: order and length", _biases(card)),
    Section("Yield", [*_made(card)]),
    Section("Disagreement between users", [*_agreement(card)]),
    *_samples(card),
    Section("How it was made", [Table(("", ""), rows)]),
  ]


def _verdict(card: QualityCard, gate: Gate) -> list[Block]:
  short = violations(card, gate)
  if not short:
    return [Paragraph(Span("The set passes the gate."))]
  return [Paragraph(Span("The set falls short of the gate:")), Bullets(short)]


def _numbers(card: QualityCard, gate: Gate) -> list[Block]:
  """All that the gate looks at, in one table."""
  made = card.made
  rows = [
    ("similarity of responses", _mean(card.diversity.mean), "less", _most(gate.max_similarity)),
    (
      "near-duplicate responses",
      _number(card.diversity.near_duplicates),
      "less",
      _most(gate.max_near_duplicates),
    ),
    ("entropy of labels (nats)", _mean(card.coherence.everyone), "less", _most(gate.max_entropy)),
    ("order-flip rate", _mean(card.order.flip_rate), "less", _most(gate.max_flip_rate)),
    (
      "first preferred, kept pairs",
      _mean(card.order.first_preferred_kept),
      "0.5",
      _around(gate.max_position_bias),
    ),
    ("longer one chosen", _mean(card.length.longer_chosen), "0.5", _around(gate.max_length_bias)),
    ("fewest preferences of a user", f"{made.fewest}", "more", _least(gate.min_preferences)),
    (
      "users to regenerate",
      _number(len(card.agreement.regenerate) / made.users),
      "less",
      _most(gate.max_regenerate),
    ),
  ]
  return [
    Table(("measure", "found", "better", "gate"), rows),
    Paragraph("In brackets: 95 % intervals from resampling users (for similarity: prompts)."),
  ]


def _diversity(card: QualityCard) -> list[Block]:
  found = card.diversity
  return [
    Paragraph(
      f"The cosine of every two responses to one prompt, over {found.prompts} sampled prompts, by "
      f"{found.embedder}. 1 is the same text; two responses are near-duplicates above 0.95. "
      f"Mean {_mean(found.mean)}, median {_number(found.median)}, near-duplicates "
      f"{_percent(found.near_duplicates)}. Cosines of two embedders cannot be compared: with "
      "BGE-M3 the FSPO paper has 0.96 at temperature 0.3 and 0.71 with an ensemble and views."
    ),
    _figure("Similarity of responses", card, card_plots.similarity),
  ]


def _coherence(card: QualityCard) -> list[Block]:
  found = card.coherence
  rows = [
    (f"first description ({found.users} users judged by both)", _mean(found.before)),
    ("final description, the same users", _mean(found.after)),
    ("final description, all users", _mean(found.everyone)),
    ("fall with refinement", "" if found.fall is None else f"{found.fall:.1f}x"),
  ]
  return [
    Paragraph(
      "Every pair is judged several times. The binary entropy of the share of judgements for one "
      "of the two responses is 0 if all agree and 0.69 nats (ln 2) if they are split in half."
    ),
    Table(("judged by", "mean entropy (nats)"), rows),
    Paragraph("In the FSPO paper refinement takes it from 0.64 to 0.13 nats, a fall of 4.9x."),
    _figure("Entropy before and after refinement", card, card_plots.entropy),
  ]


def _biases(card: QualityCard) -> list[Block]:
  order, length = card.order, card.length
  rows = [
    ("pairs whose order decides, before the filter", _mean(order.flip_rate)),
    ("first one shown preferred, before the filter", _mean(order.first_preferred)),
    ("first one shown preferred, kept pairs", _mean(order.first_preferred_kept)),
    ("longer one chosen, kept pairs", _mean(length.longer_chosen)),
    ("any chosen one longer than any rejected one", _number(length.area_under_curve)),
  ]
  return [
    Table(("", "found"), rows),
    Paragraph(
      "Pairs whose order decides should be dropped. The other four are 0.5 without bias; length "
      "may be off where users have tastes about it. The last is what length alone would tell of a "
      "label."
    ),
    _figure("Lengths of chosen and rejected responses", card, card_plots.lengths),
  ]


def _made(card: QualityCard) -> Iterator[Block]:
  made = card.made
  share = made.preferences / made.judged if made.judged else None
  yield Table(
    ("", ""),
    [
      ("responses", f"{made.responses:,}"),
      ("judged pairs", f"{made.judged:,}"),
      ("preferences (pairs kept)", f"{made.preferences:,} ({_percent(share)})"),
      ("preferences per user", f"{made.fewest} to {made.most}, median {made.median:g}"),
      (
        "sentences appended to a description",
        f"{made.additions:.1f}, at most {made.most_additions}",
      ),
      *((f"duplicate {name}", f"{count:,}") for name, count in made.duplicates.items()),
    ],
  )
  yield _figure("Preferences per user", card, card_plots.preferences)
  aside = (("questions", made.set_aside_items), ("users", made.set_aside_users))
  rows = [(of, why, f"{n:,}") for of, counts in aside for why, n in counts.items()]
  yield Paragraph("Set aside, and why:" if rows else "Nothing was set aside.")
  if rows:
    yield Table(("of", "reason", "count"), rows)


def _agreement(card: QualityCard) -> Iterator[Block]:
  found = card.agreement
  yield Paragraph(
    f"Every user's labels are compared with those of {found.others} sampled users, on the pairs "
    f"that both have labelled; opposite are {_percent(found.mean)} of these. Near 0 users "
    "are the same person, near 50 % they have nothing in common. Two users can be compared by "
    f"themselves where enough pairs are common: {_percent(found.comparable)} of all couples."
  )
  if any(share is not None for row in found.matrix for share in row):
    yield _figure("Disagreement matrix", card, card_plots.disagreement)
  named = list(found.regenerate.items())
  if not named:
    yield Paragraph("Nobody disagrees with the rest so much that they should be regenerated.")
    return
  yield Paragraph(f"{len(named)} to regenerate, for disagreeing with the rest too much:")
  yield Table(("user", "why"), named[:_REASONS_SHOWN])
  if len(named) > _REASONS_SHOWN:
    yield Paragraph(f"... and {len(named) - _REASONS_SHOWN} more in card.json.")


def _samples(card: QualityCard) -> list[Block]:
  shown = []
  for sample in card.samples:
    # Refinement appends; another way of making descriptions may rewrite.
    appended = sample.description.startswith(sample.persona)
    final = sample.description.removeprefix(sample.persona).strip() or "nothing"
    how = "Appended by refinement:" if appended else "Final description:"
    about = [
      (Span("First description:"), f" {sample.persona.strip()}"),
      (Span(how), f" {final}"),
    ]
    blocks = [Bullets(about), Pairs("prompt", sample.preferences)]
    shown.append(Section(sample.user_id, blocks, fold="closed"))
  return [Section("Some users", shown)] if shown else []


def _figure(
  alt: str, card: QualityCard, draw: Callable[[QualityCard, pathlib.Path], None]
) -> Figure:
  return Figure(draw.__name__, alt, functools.partial(draw, card))


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
  for key, value in facts.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{prefix}{key}.")
    else:
      text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
      yield f"{prefix}{key}", text


def _number(found: float | None) -> str:
  return "not measured" if found is None else f"{found:.3f}"


def _percent(found: float | None) -> str:
  return "not measured" if found is None else f"{100 * found:.1f} %"


def _mean(found: Interval | None) -> str:
  if found is None or found.low is None:
    return _number(found and found.mean)
  return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _most(limit: float | None) -> str:
  return "" if limit is None else f"at most {limit:g}"


def _least(limit: float | None) -> str:
  return "" if limit is None else f"at least {limit:g}"


def _around(bias: float | None) -> str:
  return "" if bias is None else f"{0.5 - bias:g} to {0.5 + bias:g}"
