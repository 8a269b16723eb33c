# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""On-policy descriptions: what RAT is trained on.

User description rationalization (FSPO, arXiv 2502.19312): the policy samples descriptions of a user
from their shots; of two of them, the one that is semantically closer to the gold description is
preferred, and the preference loss that compares responses compares them too. Responses are trained
under the one that the labels of the shots speak for, as of several descriptions one is kept at work
(`inference/rat.py`), without a look at the gold one: a policy that was trained under better ones
than it will be told would trust them too much. `templates.Layout` says where they hang in an
episode's tree.

Pairs are made once, of the policy that a stage starts from. They lie in a file, one a line and in
order, so that who stops half-way goes on there and ends with the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import logging
import os
import pathlib
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from fspo_jax.episodes.sampling import DescriptionPair, Episode, EpisodeFn
from fspo_jax.preferences import Preference
from fspo_jax.worlds.world import World

_LOG = logging.getLogger(__name__)

_TOLD = ("shots", "better", "worse", "kept")  # what a line says of a pair

# How close each of some texts is to a gold description: higher is closer.
Closeness = Callable[[str, Sequence[str]], Sequence[float]]

# How well each description explains the labels of its user's shots: higher is better.
Fits = Callable[[Sequence[Sequence[Preference]], Sequence[str]], Sequence[float]]


class Sample(Protocol):
  """A sampled text, as `inference.writer.Written`."""

  @property
  def text(self) -> str:
    """What was written."""

  @property
  def finished(self) -> bool:
    """Whether it came to its own end, or was cut."""


class Describe(Protocol):
  """Samples descriptions, as `inference.rat.sample` does."""

  def __call__(
    self,
    users: Sequence[Sequence[Preference]],
    *,
    n: int,
    seeds: Sequence[Sequence[int]],
  ) -> Sequence[Sequence[Sample]]:
    """N descriptions of each user from their shots, by each one's seeds alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which pairs are made.

  Attributes:
    episodes: so many of the first episodes get a pair, unless theirs is skipped.
    shots: the numbers of shots k that descriptions are sampled after; each episode draws one.
    samples: descriptions of an episode's user, of which the closest and the furthest are the pair,
      and one is kept.
    seed: with an episode's index, all that its pair depends on; but for the rounding of fits, which
      are computed for a chunk at once.
    gap: a pair whose closeness differs by no more is a tie, and skipped.
    chunk: episodes that are described together.
  """

  episodes: int
  shots: tuple[int, ...]
  samples: int
  seed: int
  gap: float = 0.0
  chunk: int = 64

  def __post_init__(self) -> None:
    for name, found, least in (
      ("episodes", self.episodes, 1),
      ("samples", self.samples, 2),
      ("gap", self.gap, 0),
      ("chunk", self.chunk, 1),
    ):
      if found < least:
        raise ValueError(f"{name}: found {found}, expected {least} or more")
    if not self.shots or min(self.shots) < 0:
      raise ValueError(f"shots: found {self.shots}, expected one number or more, 0 or more each")


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
  """An episode's pair, and whose it is."""

  index: int
  user_id: str
  described: DescriptionPair


@dataclasses.dataclass(frozen=True)
class Pairs:
  """What a file holds.

  Attributes:
    pairs: in the order of their episodes.
    skipped: how many episodes have none, by reason: 'tie' where the descriptions are equally
      close, 'unfinished' where fewer than two came to their end.
  """

  pairs: tuple[Paired, ...]
  skipped: Mapping[str, int]


def trait_closeness(world: World[Any]) -> Closeness:
  """F1 of the tastes that a description names, against those that the gold one names."""

  def closeness(gold: str, texts: Sequence[str]) -> list[float]:
    user = world.read(gold)
    return [world.description_f1(user, text) for text in texts]

  return closeness


def embedding_closeness(
  embedder: Callable[[Sequence[str]], np.ndarray | scipy.sparse.csr_matrix],
) -> Closeness:
  """The cosine of a description and the gold one; `synthesis.embedders` has embedders."""

  def closeness(gold: str, texts: Sequence[str]) -> list[float]:
    # Each text once, or the rounding of one embedder's batches would part what is equal.
    distinct = list(dict.fromkeys(texts))
    vectors = embedder([gold, *distinct])
    products = vectors[1:] @ vectors[:1].T
    dense = products.toarray() if scipy.sparse.issparse(products) else np.asarray(products)
    found = dict(zip(distinct, dense[:, 0].tolist(), strict=True))
    return [found[text] for text in texts]

  return closeness


def make(
  path: str | os.PathLike[str],
  episode: EpisodeFn,
  describe: Describe,
  closeness: Closeness,
  fits: Fits,
  settings: Settings,
  facts: Mapping[str, Any],
) -> Pairs:
  """Makes the pairs of the first episodes, or those that an earlier call has left to make.

  One process makes them; others read the file when it is done.

  Args:
    path: of the file, JSONL: a line of settings and facts, then a line for each episode.
    episode: the episodes, each with a gold description.
    describe: samples from the policy; a description depends on its shots and seeds alone.
    closeness: to the gold description.
    fits: to the shots, as `inference.rat.Judge.fits` of the model that samples.
    settings: which pairs.
    facts: what else they depend on, as JSON has it: the temperature, the closeness, the fits' beta.

  Returns:
    What the file holds in the end.

  Raises:
    ValueError: the file is of other settings or facts, or broken but for its last line; an episode
      has no gold description, or fewer shots than are asked for.
  """
  path = pathlib.Path(path)
  header = json.loads(_line(dict(**dataclasses.asdict(settings), **facts)))
  lines, end = _whole_lines(path) if path.exists() else ([], 0)
  for key in sorted(header.keys() | lines[0].keys()) if lines else ():
    if lines[0].get(key) != header.get(key):
      raise ValueError(
        f"{path}: found pairs of {key}={lines[0].get(key)!r}, expected {header.get(key)!r}: remove "
        "the file to make other pairs"
      )
  with open(path, "ab") as file:
    file.truncate(end)  # what a kill has torn
    if not lines:
      _append(file, [header])
    done = max(len(lines) - 1, 0)
    # From the start of its chunk, so that who goes on computes just what an unstopped run does.
    start = done // settings.chunk * settings.chunk if done < settings.episodes else done
    for first in range(start, settings.episodes, settings.chunk):
      indices = range(first, min(first + settings.chunk, settings.episodes))
      records = _records(indices, episode, describe, closeness, fits, settings)
      _append(file, records[max(done - first, 0) :])
  pairs = read(path)
  _LOG.info("%d description pairs of %d episodes", len(pairs.pairs), settings.episodes)
  return pairs


def read(path: str | os.PathLike[str]) -> Pairs:
  """The pairs of a file that `make` has made, in part or whole."""
  pairs: list[Paired] = []
  skipped: dict[str, int] = {}
  for record in _whole_lines(pathlib.Path(path))[0][1:]:
    if "skipped" in record:
      skipped[record["skipped"]] = skipped.get(record["skipped"], 0) + 1
    elif missing := [key for key in _TOLD if key not in record]:
      raise ValueError(
        f"{path}: found no {missing} in the pair of episode {record['index']}, expected {_TOLD}: "
        "the file is of another version"
      )
    else:
      described = DescriptionPair(**{key: record[key] for key in _TOLD})
      pairs.append(Paired(record["index"], record["user_id"], described))
  return Pairs(tuple(pairs), skipped)


@dataclasses.dataclass(frozen=True)
class PairedEpisodes:
  """The episodes that have a pair, round and round: episode e has pair e modulo their number.

  Attributes:
    episode: those that the pairs were made of.
    found: their pairs.
  """

  episode: EpisodeFn
  found: Pairs

  def __post_init__(self) -> None:
    if not self.found.pairs:
      raise ValueError(
        f"found no description pair (skipped: {dict(self.found.skipped)}), expected one or more: "
        "sample more descriptions, or at a higher temperature"
      )

  def __call__(self, index: int) -> Episode:
    """Episode `index`."""
    pair = self.found.pairs[index % len(self.found.pairs)]
    episode = self.episode(pair.index)
    if episode.user_id != pair.user_id:
      raise ValueError(
        f"episode {pair.index}: found one of user {episode.user_id!r}, expected user "
        f"{pair.user_id!r}, whose pair it is: the pairs are of other episodes"
      )
    return dataclasses.replace(episode, described=pair.described)


def _records(
  indices: Sequence[int],
  episode: EpisodeFn,
  describe: Describe,
  closeness: Closeness,
  fits: Fits,
  settings: Settings,
) -> list[dict[str, Any]]:
  """The lines of some episodes, whose users are described together."""
  episodes = [episode(i) for i in indices]
  ks = [_shots(i, settings) for i in indices]
  for index, found, k in zip(indices, episodes, ks, strict=True):
    if found.description is None or len(found.shots) < k:
      raise ValueError(
        f"episode {index} of user {found.user_id!r}: found {len(found.shots)} shots and "
        f"description={found.description!r}, expected {k} shots or more and a gold description"
      )
  shots = [e.shots[:k] for e, k in zip(episodes, ks, strict=True)]
  described = describe(shots, n=settings.samples, seeds=[(settings.seed, i) for i in indices])
  finished = [[sample.text for sample in own if sample.finished] for own in described]
  records = [
    {"index": i, "user_id": e.user_id, "shots": k}
    | _compared(e.description, texts, closeness, settings.gap)
    for i, e, k, texts in zip(indices, episodes, ks, finished, strict=True)
  ]
  # Each text once, of those alone that are not skipped: to fit them takes the most time.
  candidates = [
    [] if "skipped" in record else list(dict.fromkeys(texts))
    for record, texts in zip(records, finished, strict=True)
  ]
  owners = [own for own, texts in zip(shots, candidates, strict=True) for _ in texts]
  values = iter(fits(owners, [text for texts in candidates for text in texts]))
  for record, texts in zip(records, candidates, strict=True):
    if texts:
      record["kept"] = texts[int(np.argmax([next(values) for _ in texts]))]
  return records


def _shots(index: int, settings: Settings) -> int:
  """The number of shots that an episode draws."""
  # A stream of its own: `sampling` draws episodes by (seed, index).
  rng = np.random.default_rng([settings.seed, index, 1])
  return settings.shots[int(rng.integers(len(settings.shots)))]


def _compared(gold: str, texts: Sequence[str], closeness: Closeness, gap: float) -> dict[str, Any]:
  """The closest and the furthest text, the first of equals; or why there are none."""
  if len(texts) < 2:
    return {"skipped": "unfinished"}
  values = [float(value) for value in closeness(gold, texts)]
  best, worst = int(np.argmax(values)), int(np.argmin(values))
  if not values[best] - values[worst] > gap:
    return {"skipped": "tie"}
  closest = [values[best], values[worst]]
  return {"better": texts[best], "worse": texts[worst], "closeness": closest}


def _line(record: Mapping[str, Any]) -> str:
  return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _append(file: Any, records: Sequence[Mapping[str, Any]]) -> None:
  """Writes whole lines, and waits until they are on the disk."""
  file.write("".join(map(_line, records)).encode())
  file.flush()
  os.fsync(file.fileno())


def _whole_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
  """The records of a file but for a torn last line, and the byte where they end.

  Raises:
    ValueError: any other line is not the next episode's.
  """
  content = path.read_bytes()
  end = content.rfind(b"\n") + 1
  records = []
  for number, line in enumerate(content[:end].splitlines(), start=1):
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    # The first line has the settings.
    if not isinstance(record, dict) or (number > 1 and record.get("index") != number - 2):
      raise ValueError(
        f"{path}:{number}: found {line[:60]!r}, expected "
        + ("the settings" if number == 1 else f"the pair of episode {number - 2}")
      )
    records.append(record)
  return records, end
