# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The quality tables of the FSPO paper (arXiv 2502.19312), in kind, on an embedded world.

Every remedy against a flaw of language models, without it and with it, one flaw at a time:
similarity of responses, entropy of labels, position bias, length bias. The language model is the
world's stand-in, whose flaws are settings, so that it is known which labels are right.

python experiments/synthesis/quality_tables.py [--domain=roleplay] [--questions=60] [--users=60]

The last line is JSON with all numbers.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fspo_jax.synthesis import domains, quality, stages
from fspo_jax.synthesis.embedders import CharacterNgrams
from fspo_jax.synthesis.measures import Interval
from fspo_jax.synthesis.records import Item, SyntheticUser, preferences_of
from fspo_jax.synthesis.settings import Model, Settings
from fspo_jax.synthesis.world_llm import Flaws, WorldLLM
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld
from fspo_jax.worlds.world import World

_WORLDS = {"reviews": ReviewsWorld, "elix": ElixWorld, "roleplay": RoleplayWorld}
_ENSEMBLE = ("writer-a", "writer-b", "writer-c")

# What each step changes, after all the steps before it, and what the paper measured (BGE-M3).
_DIVERSITY: Mapping[str, tuple[Mapping[str, Any], float]] = {
  "low temperature (0.3)": ({"models": (Model(_ENSEMBLE[0], 0.3),)}, 0.96),
  "high temperature (1.0)": ({"models": (Model(_ENSEMBLE[0], 1.0),)}, 0.94),
  "persona steering": ({"steering": "personas"}, 0.81),
  "view-conditioning": ({"steering": "views"}, 0.78),
  "ensemble + views": ({"models": tuple(Model(name, 1.0) for name in _ENSEMBLE)}, 0.71),
}


@dataclasses.dataclass(frozen=True)
class _Lab:
  """Makes sets in a world and measures them."""

  world: World[Any]
  population: Sequence[Any]
  domain: domains.Domain
  settings: Settings
  seed: int

  def bank(self, settings: Settings) -> dict[int, Item]:
    """The questions with their responses."""
    llm = WorldLLM(self.world, Flaws(), self.population)

    async def make() -> list[Item]:
      indices = range(settings.questions)
      items = (stages.make_item(llm, self.domain, settings, self.seed, i) for i in indices)
      return await asyncio.gather(*items)

    return {item.index: item for item in asyncio.run(make())}

  def users(
    self, bank: Mapping[int, Item], flaws: Flaws, **changes: object
  ) -> tuple[quality.QualityCard, list[SyntheticUser]]:
    """Users who judge pairs of the bank, by a judge of such flaws, and the set's card."""
    settings = dataclasses.replace(self.settings, **changes)
    llm = WorldLLM(self.world, flaws, self.population)

    async def make() -> list[SyntheticUser]:
      return [
        await stages.make_user(llm, self.domain, settings, self.seed, bank, index)
        for index in range(settings.users)
      ]

    users = asyncio.run(make())
    card = quality.measure(list(bank.values()), users, CharacterNgrams(), seed=self.seed)
    return card, users

  def right(self, bank: Mapping[int, Item], users: Sequence[SyntheticUser]) -> float:
    """The share of preferences that are the true user's, of those to whom it makes a difference."""
    differences = []
    for user in users:
      person = self.population[user.index % len(self.population)]
      for p in preferences_of(user, bank):
        rewards = (self.world.reward(person, p.prompt, text) for text in (p.chosen, p.rejected))
        differences.append(float(np.subtract(*rewards)))
    differences = np.array(differences)
    return float((differences[differences != 0] > 0).mean())


def _lab(flags: argparse.Namespace) -> _Lab:
  world = _WORLDS[flags.domain](seed=flags.seed)
  people = world.users("train")
  chosen = np.random.default_rng(flags.seed).permutation(len(people))[: flags.users].tolist()
  settings = Settings(
    users=flags.users,
    unseen_users=0.1,
    questions=flags.questions,
    unseen_topics=0.2,
    responses=flags.responses,
    steering="none",
    models=(Model(_ENSEMBLE[0], 1.0),),
    judge=Model("judge", 0.7),
    pairs=min(flags.pairs, flags.questions * 3 // 4),
    anchors=0,
    picked=0.0,
    repeats=flags.repeats,
    both_orders=True,
    ignore_length=True,
    refine=False,
    measure_every=1,
    max_tokens=512,
  )
  domain = domains.make_domain(world.name, world.topics("train"), world.topics("unseen"))
  return _Lab(world, [people[i] for i in chosen], domain, settings, flags.seed)


def _diversity(lab: _Lab, console: Console) -> tuple[dict[str, float], dict[int, Item]]:
  table = Table("responses", "mean cosine", "median", "near-duplicates", "paper", title="Diversity")
  settings, out, bank = lab.settings, {}, {}
  for name, (changes, paper) in _DIVERSITY.items():
    settings = dataclasses.replace(settings, **changes)
    bank = lab.bank(settings)
    found = quality.diversity(list(bank.values()), CharacterNgrams(), seed=lab.seed)
    out[name] = found.mean.mean
    shown = f"{found.median:.3f}", f"{found.near_duplicates:.1%}", f"{paper:.2f}"
    table.add_row(name, _show(found.mean), *shown)
  console.print(table)
  return out, bank


def _coherence(lab: _Lab, bank: Mapping[int, Item], console: Console) -> dict[str, float]:
  flaws = Flaws(undetermined=0.9)
  card, _ = lab.users(bank, flaws, refine=True)
  found = card.coherence
  table = Table("judged by", "entropy (nats)", "paper", title="Coherence")
  table.add_row("first description", _show(found.before), "0.64")
  table.add_row("refined description", _show(found.after), "0.13")
  table.add_row("fall", f"{found.fall:.1f}x", "4.9x")
  console.print(table)
  return {"before": found.before.mean, "after": found.after.mean, "fall": found.fall}


def _position(lab: _Lab, bank: Mapping[int, Item], console: Console) -> dict[str, float]:
  table = Table(
    "judged", "order decides", "first preferred", "of kept", "labels right", title="Position bias"
  )
  out = {}
  flaws = Flaws(position_bias=0.3)
  for name, both in (("one order", False), ("both orders, filtered", True)):
    card, users = lab.users(bank, flaws, both_orders=both, repeats=1)
    order, right = card.order, lab.right(bank, users)
    flips, first, kept = order.flip_rate, order.first_preferred, order.first_preferred_kept
    table.add_row(name, _show(flips), _show(first), _show(kept), f"{right:.1%}")
    out |= {f"{name}: first preferred, kept": kept.mean, f"{name}: right": right}
  console.print(table)
  return out


def _length(lab: _Lab, bank: Mapping[int, Item], console: Console) -> dict[str, float]:
  table = Table("judge", "longer chosen", "area under curve", "labels right", title="Length bias")
  out = {}
  for name, bias, told in (
    ("without the flaw", 0.0, False),
    ("not told", 0.5, False),
    ("told to ignore length", 0.5, True),
  ):
    card, users = lab.users(bank, Flaws(length_bias=bias), ignore_length=told)
    right = lab.right(bank, users)
    longer, curve = card.length.longer_chosen, card.length.area_under_curve
    table.add_row(name, _show(longer), f"{curve:.3f}", f"{right:.1%}")
    out |= {f"{name}: longer chosen": longer.mean, f"{name}: right": right}
  console.print(table)
  return out


def _show(found: Interval | None) -> str:
  return "" if found is None else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
  """Prints the tables."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("--domain", choices=sorted(_WORLDS), default="roleplay")
  parser.add_argument("--questions", type=int, default=60)
  parser.add_argument("--responses", type=int, default=12, help="to each question")
  parser.add_argument("--users", type=int, default=60)
  parser.add_argument("--pairs", type=int, default=40, help="judged by each user")
  parser.add_argument("--repeats", type=int, default=4, help="of a judgement, in each order")
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()

  lab, console = _lab(flags), Console(width=100)
  diversity, bank = _diversity(lab, console)
  found = {
    "domain": flags.domain,
    "similarity": diversity,
    "entropy": _coherence(lab, bank, console),
    "position": _position(lab, bank, console),
    "length": _length(lab, bank, console),
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main()
