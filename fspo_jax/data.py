# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a config to the data that it asks for: a world, or a set of users with its splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import logging
import pathlib
from typing import Any
import urllib.parse

import ml_collections
import numpy as np

from fspo_jax import config as config_lib
from fspo_jax.datasets import alpaca_styles, ukp, user_sets
from fspo_jax.episodes import sources
from fspo_jax.episodes.sampling import UserEpisodes, WorldEpisodes
from fspo_jax.evaluation import evaluate
from fspo_jax.evaluation import truth as truth_lib
from fspo_jax.jsonl import read_jsonl, read_jsonl_leniently
from fspo_jax.preferences import MIN_PROMPTS, Preference, Splits, split
from fspo_jax.synthesis import card, domains, embedders, openai_llm, pipeline, world_llm
from fspo_jax.synthesis.llm import LLM, Note
from fspo_jax.worlds.elix import ElixWorld
from fspo_jax.worlds.reviews import ReviewsWorld
from fspo_jax.worlds.roleplay import RoleplayWorld
from fspo_jax.worlds.world import World

_LOG = logging.getLogger(__name__)

WORLDS = ("reviews", "elix", "roleplay")


@dataclasses.dataclass(frozen=True)
class Data:
  """What a run trains and is evaluated on.

  Attributes:
    source: where episodes come from.
    world: the world behind the users, where there is one.
    baselines: what rules reach that know nothing of the user, where the data has some.
    picked: of a world's set, the share of pairs with a response that the user would pick.
  """

  source: sources.WorldSource | sources.UserSource | sources.PretrainingSource
  world: World[Any] | None
  baselines: evaluate.BaselineFn | None = None
  picked: float = 0.0

  def truth(self, episodes: WorldEpisodes | UserEpisodes) -> truth_lib.Truth | None:
    """What is known of the users of a split's episodes; None without a world."""
    if self.world is None:
      return None
    if isinstance(self.source, sources.WorldSource):
      return truth_lib.of_world(self.world, episodes)
    return truth_lib.of_set(self.world, self.source.splits, episodes, self.picked)


def make_world(c: ml_collections.ConfigDict, name: str) -> World[Any]:
  """The world of a domain, as the config has it; ValueError if there is none of that name."""
  if name == "reviews":
    return ReviewsWorld(seed=c.world_seed, **c.world)
  if name == "elix":
    return ElixWorld(seed=c.world_seed, variant=c.elix_variant)
  if name == "roleplay":
    return RoleplayWorld(seed=c.world_seed)
  raise ValueError(f"found {name!r}, expected a world: 'reviews', 'elix' or 'roleplay'")


def load(c: ml_collections.ConfigDict, made: pathlib.Path | None = None) -> Data:
  """The data that a config asks for.

  Args:
    c: the config.
    made: where the synthesis stage has put the set, for `data.name='synthetic'`.

  Raises:
    ValueError: an impossible combination, bad records, or a set below the gate.
    OSError: the data is not where the config says.
  """
  data = c.data
  if data.name not in config_lib.DATA_NAMES:
    raise ValueError(f"data.name={data.name!r} is not one of {config_lib.DATA_NAMES}")
  if data.name == "reviews":
    if c.evaluation.known_prompts:
      raise ValueError(
        "evaluation.known_prompts=True: data.name='reviews' makes fresh episodes, which have no "
        "prompts of the training users; set it to False, or make a set"
      )
    world = make_world(c, "reviews")
    return Data(sources.WorldSource(world), world)
  if data.name == "pretraining":
    worlds = tuple(make_world(c, name) for name in WORLDS)
    return Data(sources.PretrainingSource(worlds, config_lib.mixture(c)), None)
  if data.name == "synthetic":
    splits = _user_set(c, made)
    if c.synthesis.backend != "world":
      return Data(_source(c, splits), None)
    return _of_world(c, splits, made, c.synthesis.domain)
  if not data.path:
    raise ValueError(
      f"data.path is empty: say where the data is, --config.data.path=PATH ({data.name})"
    )
  if data.name == "user_set":
    path = pathlib.Path(data.path)
    splits = _user_set(c, path)
    if not data.world:
      return Data(_source(c, splits), None)
    return _of_world(c, splits, path, data.world)
  if data.name == "jsonl":
    return Data(_source(c, _jsonl(c)), None)
  if data.name == "alpaca_styles":
    splits = alpaca_styles.load(
      data.path,
      users=data.users,
      unseen_users=data.evaluation_users,
      preferences_per_user=data.preferences_per_user,
      seed=c.seed,
      max_words=data.max_words,
      unseen_instructions=data.unseen_prompts,
    )
    return Data(_source(c, splits), None)
  return _ukp(c)


def make_factory(c: ml_collections.ConfigDict) -> pipeline.Factory:
  """The factory that a config asks for.

  Raises:
    ValueError: an impossible combination, or an endpoint's key that is not set.
    OSError: the file of topics cannot be read.
  """
  keys, settings = c.synthesis, config_lib.synthesis_settings(c)
  if keys.processes < 1 or keys.concurrency < 1:
    raise ValueError(
      f"synthesis.processes={keys.processes} and synthesis.concurrency={keys.concurrency} are 1 or "
      "more"
    )
  world = make_world(c, keys.domain)
  if keys.topics and keys.backend == "world":
    raise ValueError(f"synthesis.topics={keys.topics!r}: a world knows only its own topics")
  if keys.topics:
    lines = pathlib.Path(keys.topics).read_text(encoding="utf-8").splitlines()
    topics = domains.split_topics(
      [line.strip() for line in lines if line.strip()],
      unseen_topics=settings.unseen_topics,
      seed=c.seed,
    )
  else:
    topics = tuple(world.topics("train")), tuple(world.topics("unseen"))
  return pipeline.Factory(
    domain=domains.make_domain(keys.domain, *topics),
    settings=settings,
    seed=c.seed,
    backend=_backend(c, world),
    paid=keys.backend == "openai",
    concurrency=keys.concurrency if keys.backend == "openai" else 1,
    processes=keys.processes if keys.backend == "world" else 1,
    embedder=_embedder(c),
    gate=config_lib.gate(c),
    facts=_facts(c),
  )


def _backend(c: ml_collections.ConfigDict, world: World[Any]) -> Callable[[Note], LLM]:
  """What makes the language model; it may be sent to another process."""
  keys = c.synthesis
  if keys.backend == "world":
    everybody = [*world.users("train"), *world.users("unseen")]
    if keys.set.users > len(everybody):
      raise ValueError(
        f"synthesis.set.users={keys.set.users}: the world has {len(everybody)} people, and one who "
        "is two users might be trained on and evaluated"
      )
    # A world's users come in the order of their tastes; the first of them are to be as varied.
    order = np.random.default_rng([c.seed, 0]).permutation(len(everybody))
    population = tuple(everybody[i] for i in order)
    return functools.partial(world_llm.make, world, config_lib.flaws(c), population)
  if keys.backend != "openai":
    raise ValueError(f"synthesis.backend={keys.backend!r} is not 'world' or 'openai'")
  if not keys.llm.base_url:
    raise ValueError("synthesis.llm.base_url is empty: say where the endpoint is")
  parts = urllib.parse.urlsplit(keys.llm.base_url)
  if parts.username or parts.password or parts.query:
    raise ValueError(
      "synthesis.llm.base_url: found a user, a password or a query in it, expected none: it is "
      "written down, and a key belongs in synthesis.llm.api_key_env"
    )
  backend = functools.partial(openai_llm.make, dict(keys.llm))
  backend(lambda *unused: None)  # What is missing is said now.
  return backend


def _embedder(c: ml_collections.ConfigDict) -> Callable[[], embedders.Embedder]:
  """What makes the embedder of the quality card."""
  name, model = c.synthesis.embedder.name, c.synthesis.embedder.model
  if name == "characters":
    return embedders.CharacterNgrams
  if name not in ("sentence_transformers", "endpoint") or not model:
    raise ValueError(
      f"synthesis.embedder.name={name!r}, synthesis.embedder.model={model!r}: expected "
      "'characters', or 'sentence_transformers' or 'endpoint' and a model"
    )
  if name == "sentence_transformers":
    return functools.partial(embedders.SentenceTransformerEmbedder, model)
  llm = c.synthesis.llm
  return functools.partial(embedders.EndpointEmbedder, llm.base_url, model, llm.api_key_env)


def _facts(c: ml_collections.ConfigDict) -> dict[str, Any]:
  """How a set is made, but for what makes no difference to it."""
  facts = json.loads(c.synthesis.to_json_best_effort())
  for key in ("processes", "concurrency", "gate", "llm", "flaws", "embedder"):
    del facts[key]
  if c.synthesis.backend == "world":
    facts["flaws"] = dict(c.synthesis.flaws)
  else:
    facts["base_url"] = c.synthesis.llm.base_url
  seeds = {"seed": c.seed, "world_seed": c.world_seed}
  return seeds | {"variant": c.elix_variant, "world": dict(c.world)} | facts


def _source(
  c: ml_collections.ConfigDict, splits: Splits, topics: Sequence[str] = ()
) -> sources.UserSource:
  return sources.UserSource(
    c.data.name,
    splits,
    set_aside_small=c.data.small_users == "set_aside",
    known_prompts=c.evaluation.known_prompts,
    topics=tuple(topics),
  )


def _of_world(c: ml_collections.ConfigDict, splits: Splits, path: pathlib.Path, name: str) -> Data:
  """A set of a world's users; ValueError if it was made of another world than the config's."""
  made_of = user_sets.facts(path).made_of
  ours = {"backend": "world", "domain": name}
  ours |= {"world_seed": c.world_seed, "variant": c.elix_variant}
  for key, found in ours.items():
    if made_of.get(key) != found:
      raise ValueError(
        f"data.world={name!r}: {path} was made with {key}={made_of.get(key)!r}, found "
        f"{found!r} here, whose unseen topics or users are others"
      )
  world = make_world(c, name)
  return Data(_source(c, splits, world.topics("train")), world, picked=_picked(path))


def _picked(path: pathlib.Path) -> float:
  """The share of a world's set's pairs with a response that the user would pick."""
  made_of = user_sets.facts(path).made_of
  keys = made_of["set"]
  share = keys["picked"] * (1 - keys["anchors"] / keys["pairs"])
  # The judge errs in picking as in labelling; and who picks always may still be wrong.
  return min(0.99, share * (1 - made_of["flaws"]["label_noise"]))


def _user_set(c: ml_collections.ConfigDict, path: pathlib.Path) -> Splits:
  """A prepared set; refused if it carries a quality card that is below the gate."""
  file = path / card.CARD_FILE
  if c.data.below_gate == "refuse" and file.exists():
    card.check_gate(file, config_lib.gate(c), how_to_go_on="--config.data.below_gate=accept")
  return user_sets.load(path)


def _jsonl(c: ml_collections.ConfigDict) -> Splits:
  keys = c.data
  shares = {"unseen_users": keys.unseen_users, "unseen_prompts": keys.unseen_prompts}
  if keys.bad_lines == "refuse":
    return split(read_jsonl(keys.path, min_prompts=MIN_PROMPTS), **shares, seed=c.seed)
  found = read_jsonl_leniently(keys.path, min_prompts=MIN_PROMPTS)
  if found.report:
    _LOG.warning("set aside:\n%s", found.report)
  splits = split(found.users, **shares, seed=c.seed)
  return dataclasses.replace(splits, set_aside=splits.set_aside | found.set_aside)


def _ukp(c: ml_collections.ConfigDict) -> Data:
  keys = c.data
  splits = ukp.load(
    keys.path,
    min_preferences=keys.min_preferences,
    max_words=keys.max_words,
    workers=keys.workers,
  )
  votes = ukp.majorities(keys.path)

  def rules(queries: Sequence[tuple[str, Preference]]) -> dict[str, Sequence[float]]:
    return {name: found.scores for name, found in ukp.baselines(queries, votes).items()}

  return Data(_source(c, splits), None, rules)
