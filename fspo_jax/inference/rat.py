# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""RAT at work: a description of a user from their shots, then responses under it.

User description rationalization (FSPO, arXiv 2502.19312) writes one description, greedy or sampled.
Ours may also write several and keep the one that explains the shots best: their labels are a check
of a description that costs no answer of the user.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from jaxtyping import Float
import numpy as np

from fspo_jax.episodes import batching
from fspo_jax.episodes.sampling import Episode
from fspo_jax.episodes.templates import Layout, Role
from fspo_jax.inference import log_odds, sampler
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.preferences import Preference

# A description, and the shots' pairs under it as queries; no shots in the context.
_LAYOUT = Layout(description_shots=(0,), description_queries=(0,))


@dataclasses.dataclass(frozen=True)
class Description:
  """A description of a user.

  Attributes:
    text: what was written.
    finished: whether it came to its own end.
    fit: how well it explains the labels of the shots; see `Judge.fits`. None where only one was
      written, for there was nothing to choose.
  """

  text: str
  finished: bool
  fit: float | None = None


@dataclasses.dataclass(frozen=True)
class Judge:
  """Who says how well descriptions explain labels.

  Attributes:
    writer: whose log-probabilities say it.
    beta: how sure of a label a nat makes; more than 0.
    rows: users that are scored together, a multiple of the parts that the writer's mesh splits rows
      into; it changes the speed and the memory, and the results by rounding alone.
    vocab_chunk: vocabulary entries per chunk of the projection.
  """

  writer: Writer
  beta: float
  rows: int = 8
  vocab_chunk: int = 2048

  def fits(
    self, users: Sequence[Sequence[Preference]], descriptions: Sequence[str]
  ) -> Float[np.ndarray, " users"]:
    """The log-likelihood of each user's labels under a description z of them.

    The sum over the shots (q, y_w, y_l) of log sigmoid(beta log(pi(y_w | z, q) / pi(y_l | z, q))),
    the Bradley-Terry model (as DPO, arXiv 2305.18290 eq. 1) with beta times the writer's own
    log-probability for a reward. Log-probabilities of whole texts differ by ten nats and more, so
    that with a beta of 1 one label that is wrong would outvote all others. There are no shots in
    the context: a description that helps has to say it itself.

    Rows are as long as the longest user of so many shots needs, whatever
    `evaluation.max_row_tokens` is: they hold a description and the shots under it, and a shot that
    was left out would be a label that nobody checks.

    Args:
      users: the shots of each user; none at all give 0.
      descriptions: one of each user.
    """
    episodes = [
      Episode("", (), tuple(shots), text) for shots, text in zip(users, descriptions, strict=True)
    ]
    fits = np.zeros(len(users), np.float32)
    for shots in {len(e.queries) for e in episodes} - {0}:
      here = [i for i, e in enumerate(episodes) if len(e.queries) == shots]
      h = self._margins([episodes[i] for i in here], shots)
      fits[here] = -np.logaddexp(0.0, -self.beta * h).sum(axis=1)
    return fits

  def _margins(self, episodes: Sequence[Episode], shots: int) -> Float[np.ndarray, "users shots"]:
    """The log-odds log pi(y_w | z, q) - log pi(y_l | z, q) of each shot, of users of so many."""
    writer, rows, form = self.writer, self.rows, self.writer.formatter
    packing = batching.fit_packing(episodes, form, _LAYOUT, 0, queries=shots, multiple=64)
    row = batching.Rows(lambda i: episodes[i % len(episodes)], form, _LAYOUT, packing)
    found = []
    for first in range(0, len(episodes), rows):
      # Rows past the last one fill the last batch up, and are cut off below.
      batch = batching.stack([row(i) for i in range(first, first + rows)])
      h = log_odds.of_pairs(
        writer.model, writer.params, batch, mesh=writer.mesh, vocab_chunk=self.vocab_chunk
      )
      found.append(np.asarray(h)[:, :shots])
    return np.concatenate(found)[: len(episodes)]


def sample(
  writer: Writer,
  users: Sequence[Sequence[Preference]],
  decoding: sampler.Decoding,
  *,
  n: int,
  seeds: Sequence[Sequence[int]],
) -> list[list[Written]]:
  """Writes n descriptions of each user; the shots are read once.

  Args:
    writer: the policy.
    users: the shots of each user.
    decoding: how tokens are chosen.
    n: descriptions of each user.
    seeds: of each user: with the number of the description, all that it depends on.

  Returns:
    The n descriptions of each user.
  """
  group = max(writer.batch // n, 1)
  found: list[list[Written]] = []
  for first in range(0, len(users), group):
    chosen = users[first : first + group]
    runs = [writer.context(shots) + writer.asked_to_describe(shots) for shots in chosen]
    context = sampler.fan_out(writer.prefill(runs), n, decoding.max_tokens)
    own = [(*seed, j) for seed in seeds[first : first + group] for j in range(n)]
    texts = writer.sample(context, Role.DESCRIPTION, decoding, own)
    found += [texts[i : i + n] for i in range(0, len(texts), n)]
  return found


def describe(
  writer: Writer,
  users: Sequence[Sequence[Preference]],
  decoding: sampler.Decoding,
  *,
  n: int = 1,
  judge: Judge | None = None,
  seed: int,
) -> list[Description]:
  """Describes each user from their shots, for `Writer.respond` to answer under.

  Args:
    writer: the policy.
    users: the shots of each user.
    decoding: how tokens are chosen.
    n: 1 for the description that RAT writes; more to write the greedy one and n - 1 by `decoding`,
      and keep the one that the judge says fits best, the first of equals. Those that were cut are
      kept only if all of them were.
    judge: of several; the reference, at work.
    seed: with the indices of user and description, all that the randomness depends on.

  Returns:
    A description of each user.

  Raises:
    ValueError: n is less than 1; several greedy descriptions are asked for, which are all one; or
      there is no judge of several.
  """
  if n < 1 or (n > 1 and decoding.temperature == 0.0):
    raise ValueError(
      f"n: found {n} descriptions at temperature {decoding.temperature}, expected 1 or more, and 1 "
      "at temperature 0, where all of them are the same"
    )
  seeds = [(seed, u) for u in range(len(users))]
  if n == 1:
    return [
      Description(only.text, only.finished)
      for (only,) in sample(writer, users, decoding, n=1, seeds=seeds)
    ]
  if judge is None:
    raise ValueError(f"judge: found None and n={n}, expected one of several")
  greedy = dataclasses.replace(decoding, temperature=0.0)
  written = [
    first + more
    for first, more in zip(
      sample(writer, users, greedy, n=1, seeds=seeds),
      sample(writer, users, decoding, n=n - 1, seeds=seeds),
      strict=True,
    )
  ]
  candidates = []
  for texts in written:
    finished = [w for w in texts if w.finished] or texts
    candidates.append(list(dict.fromkeys(finished)))  # each text once, in order
  owners = [u for u, own in enumerate(candidates) for _ in own]
  fits = judge.fits([users[u] for u in owners], [w.text for own in candidates for w in own])
  chosen, first = [], 0
  for own in candidates:
    values = fits[first : first + len(own)]
    first += len(own)
    best = int(np.argmax(values))
    chosen.append(Description(own[best].text, own[best].finished, float(values[best])))
  return chosen
