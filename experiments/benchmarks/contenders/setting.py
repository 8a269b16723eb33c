# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all contenders share: the model's shape, and the episodes as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import functools
import json
import os
import pathlib

from jaxtyping import Int
import numpy as np

from fspo_jax.episodes import batching, templates, tokenizers
from fspo_jax.episodes.layouts import Layout
from fspo_jax.episodes.sampling import Episode, WorldEpisodes
from fspo_jax.models import shapes
from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.worlds import elix, reviews, roleplay
from fspo_jax.worlds.world import World

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Plain Llamas: role embeddings are ours alone. Tunix 0.1.7's Llama rotates with this base whatever
# its config says, so all do; the time of a step does not depend on it.
_ROPE = {"rope_theta": 1_000_000.0, "rope_scaling": "none"}
_SMALL = {"norm_eps": 1e-5, "tied": True, "roles": 0, "attention_block": 128, "remat": "none"}
MODELS: Mapping[str, dict[str, int]] = {
  "tiny": {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64},
  "quickstart": {"width": 96, "layers": 3, "heads": 3, "kv_heads": 3, "head_dim": 32, "mlp": 288},
  "small": {"width": 256, "layers": 4, "heads": 8, "kv_heads": 4, "head_dim": 32, "mlp": 768},
}
WORLDS = ("reviews", "elix", "roleplay")
DTYPES = ("float32", "bfloat16")
BETA = 0.1  # of IPO, and of the DPO of who has no IPO
LEARNING_RATE = 1e-6
B1, B2, EPS, CLIP = 0.9, 0.999, 1e-8, 1.0  # of AdamW, without weight decay; of the gradient's norm


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is run, by all contenders alike.

  Attributes:
    model: one of `MODELS`, or of `fspo_jax.models.shapes.NAMES`.
    dtype: of parameters, computation and the optimizer's moments.
    world: whose episodes.
    shots: N, preferences in the context.
    episodes: of a step.
    batches: distinct steps, gone through again and again.
    tokens: of the largest episode tree, to which texts are stretched; 0: texts as they are.
    seed: of weights and episodes.
    kernel_block: tokens of a block of attention by kernels, of who has them.
  """

  model: str
  dtype: str
  world: str
  shots: int
  episodes: int
  batches: int
  tokens: int
  seed: int
  kernel_block: int = 64

  def __post_init__(self) -> None:
    for key, known in (
      ("model", (*MODELS, *shapes.NAMES)),
      ("dtype", DTYPES),
      ("world", WORLDS),
    ):
      if getattr(self, key) not in known:
        raise ValueError(f"{key}={getattr(self, key)!r}: expected one of {known}")
    for key, least in (("shots", 0), ("episodes", 1), ("batches", 1), ("tokens", 0), ("seed", 0)):
      if getattr(self, key) < least:
        raise ValueError(f"{key}={getattr(self, key)}: expected {least} or more")

  @classmethod
  def read(cls, workdir: str | os.PathLike[str]) -> Setting:
    """The setting of a folder."""
    return cls(**json.loads((pathlib.Path(workdir) / "setting.json").read_text()))

  def write(self, workdir: str | os.PathLike[str]) -> None:
    """Keeps it for those who read it in processes of their own."""
    path = pathlib.Path(workdir) / "setting.json"
    path.write_text(json.dumps(dataclasses.asdict(self)))

  @property
  def config(self) -> TransformerConfig:
    """The decoder, the same for all."""
    types = {"dtype": self.dtype, "param_dtype": self.dtype}
    if self.model in MODELS:
      keys = {"vocab_size": tokenizer().vocab_size, **MODELS[self.model], **_SMALL}
      return TransformerConfig(**keys, **_ROPE, **types)
    public = shapes.shape(self.model, attention_block=512, remat="none", **types)
    return dataclasses.replace(public, **_ROPE)


@dataclasses.dataclass(frozen=True)
class Sequences:
  """An episode in the paper's layout: one prompt with all shots, and the query's two responses."""

  prompt: tuple[int, ...]
  chosen: tuple[int, ...]
  rejected: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Task:
  """The episodes of a setting, in both layouts.

  Attributes:
    trees: of all k = 0 .. N, one term each.
    paper: the prefix tree of the paper's two sequences: what is distinct in them, one term.
    sequences: the same, written out.
  """

  trees: list[templates.EpisodeTree]
  paper: list[templates.EpisodeTree]
  sequences: list[Sequences]


@dataclasses.dataclass(frozen=True)
class _Stretched:
  """A tokenizer whose texts are longer by a factor: their ids, again and again."""

  tokenizer: tokenizers.Tokenizer
  factor: float

  @property
  def bos_id(self) -> int | None:
    return self.tokenizer.bos_id

  @property
  def eos_id(self) -> int | None:
    return self.tokenizer.eos_id

  def token_id(self, text: str) -> int | None:
    return self.tokenizer.token_id(text)

  def encode(self, text: str, *, continued: bool = False) -> tuple[int, ...]:
    ids = self.tokenizer.encode(text, continued=continued)
    return tuple(np.resize(np.asarray(ids), max(round(len(ids) * self.factor), 1)).tolist())


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
  """That of the base that comes with the package: nothing has to be trained."""
  return tokenizers.load(ROOT / "fspo_jax" / "worlds" / "base" / "tokenizer.model")


def _world(name: str) -> World:
  worlds = {
    "reviews": reviews.ReviewsWorld,
    "elix": elix.ElixWorld,
    "roleplay": roleplay.RoleplayWorld,
  }
  return worlds[name]()


def layouts(shots: int) -> tuple[Layout, Layout]:
  """Ours, with the pair of every shot, and the paper's, with the query's alone."""
  return Layout(shot_pairs=True, query_shots=(shots,)), Layout(query_shots=(shots,))


def draw(setting: Setting) -> WorldEpisodes:
  """Episode e of a setting."""
  return WorldEpisodes(_world(setting.world), "train", setting.shots, 1, setting.seed)


def task(setting: Setting) -> Task:
  """The episodes of a setting; a pure function of it."""
  return lay_out(setting, map(draw(setting), range(setting.episodes * setting.batches)))


def _stretched(tokens: int, episodes: list[Episode], layout: Layout) -> templates.Formatter:
  """Text to ids so that the largest tree has about so many tokens."""

  def formatter(factor: float) -> templates.Formatter:
    return templates.Formatter(_Stretched(tokenizer(), factor))  # type: ignore[arg-type]

  # Openings and ends do not grow: what one factor more adds is text.
  once, twice = (
    batching.fit_packing(episodes, formatter(factor), layout, 0, multiple=1).tokens
    for factor in (1, 2)
  )
  factor = 1 + (tokens - once) / (twice - once)
  if factor <= 0:
    raise ValueError(f"tokens={tokens}: found {2 * once - twice} that are no text, expected more")
  return formatter(factor)


def lay_out(setting: Setting, episodes: Iterable[Episode]) -> Task:
  """Episodes in both layouts."""
  episodes = list(episodes)
  formatter = templates.Formatter(tokenizer())
  every, paper = layouts(setting.shots)
  if setting.tokens:
    formatter = _stretched(setting.tokens, episodes, every)
  of_paper = [templates.build(episode, formatter, paper) for episode in episodes]
  return Task(
    trees=[templates.build(episode, formatter, every) for episode in episodes],
    paper=of_paper,
    sequences=[_sequences(built) for built in of_paper],
  )


def _sequences(built: templates.EpisodeTree) -> Sequences:
  (pair,) = built.pairs
  tree = built.tree

  def of(segment: int) -> Int[np.ndarray, " n"]:
    return tree.tokens[tree.segments == segment]

  prompt, chosen, rejected = (of(s).tolist() for s in (-1, pair.chosen, pair.rejected))
  return Sequences(tuple(prompt), tuple(chosen), tuple(rejected))


def steps_of(setting: Setting, values: list) -> list[list]:
  """Values of all episodes, by step."""
  n = setting.episodes
  return [values[i * n : (i + 1) * n] for i in range(setting.batches)]
