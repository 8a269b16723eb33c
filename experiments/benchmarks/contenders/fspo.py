# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ours: `training.step` on token trees, and the same model on the paper's two sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import optax

from experiments.benchmarks.contenders import setting as setting_lib
from experiments.benchmarks.contenders.contract import AbsentError, Rounds
from experiments.benchmarks.contenders.setting import Setting
from fspo_jax import sharding
from fspo_jax.episodes import batching, templates, trees
from fspo_jax.models import huggingface, scoring, transformer, tree_flash
from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.models.huggingface import tensors
from fspo_jax.models.tree_flash.gpu import limits
from fspo_jax.training import optimizer as optimizer_lib
from fspo_jax.training import state as state_lib
from fspo_jax.training import step as step_lib

_CHUNK = 2048  # of the vocabulary
_MULTIPLE = 8  # that rows are padded to
# IPO of summed log-probabilities, as the paper has it, and nothing beside it.
_OBJECTIVE = step_lib.Objective("ipo", setting_lib.BETA, 0.0, False, 1.0, 0.0, 0.0)
# The loss of a batch: (parameters, the reference's, batch) -> (loss, metrics).
_LossFn = Callable[[Any, Any, batching.TreeBatch], tuple[Float[Array, ""], step_lib.Metrics]]


def _optimizer() -> optax.GradientTransformation:
  config = optimizer_lib.OptimizerConfig(
    name="adamw",
    learning_rate=setting_lib.LEARNING_RATE,
    adam_learning_rate=setting_lib.LEARNING_RATE,
    warmup_steps=0,
    decay_fraction=0.0,
    clip_norm=setting_lib.CLIP,
    weight_decay=0.0,
    b2=setting_lib.B2,
  )
  return optimizer_lib.make_optimizer(config, steps=1_000_000)


def _load(model: transformer.Transformer, folder: pathlib.Path) -> Any:
  abstract = state_lib.abstract_params(model, sharding.one_device())
  return huggingface.load_params(folder, model.config, abstract)


class FSPO:
  """Our model and our step, on trees or on sequences."""

  def __init__(
    self,
    setting: Setting,
    config: TransformerConfig,
    workdir: pathlib.Path,
    rows: Sequence[Sequence[batching.TreeBatch]],
  ) -> None:
    """Loads the weights into the setting's model; `rows` are those of each batch."""
    self.shots = setting.shots
    self.model = transformer.Transformer(config)
    self.params = _load(self.model, workdir / "policy")
    self.frozen = _load(self.model, workdir / "reference")
    self.batches = [batching.stack(list(batch)) for batch in rows]
    self.padded_tokens = sum(batch.tokens.size for batch in self.batches)
    self.score = jax.jit(functools.partial(scoring.segment_scores, self.model, chunk=_CHUNK))
    self._metrics: step_lib.Metrics = {}

  def step(self, optimizer: optax.GradientTransformation) -> step_lib.MeshStep:
    """The step that is timed."""
    raise NotImplementedError

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """See `contract.Contender`."""
    raise NotImplementedError

  def train(self, rounds: Rounds) -> None:
    """The loop of `training.loop`, but for what that writes."""
    mesh, optimizer = sharding.one_device(), _optimizer()
    step, state = self.step(optimizer), state_lib.init_state(self.params, optimizer, mesh)
    self.params = None  # a step donates them
    rounds.begin(self.wait)
    while True:
      for batch in self.batches:
        state, self._metrics = step(state, self.frozen, sharding.to_global(mesh, batch))
        rounds.done()

  def wait(self) -> None:
    """Waits for the last step, whose metrics are there when it is done."""
    jax.block_until_ready(self._metrics)
    if not np.isfinite(float(self._metrics["grad_norm"])):
      raise FloatingPointError("the gradient is not finite")

  def multiply(self) -> tuple[int, Callable[[], None]]:
    """By `jnp.dot`."""
    return product(self.model.config.dtype)

  def device_peak_bytes(self) -> int | None:
    """As JAX's allocator knows it."""
    return device_peak_bytes()


class Trees(FSPO):
  """An episode is a token tree, with a term for every k: what fspo_jax does."""

  def __init__(
    self, setting: Setting, workdir: pathlib.Path, *, cached: bool, by_kernels: bool = False
  ) -> None:
    """Makes the batches.

    With `cached` they bring the reference's scores, as `training.reference_cache` has them on disk,
    and the reference is not there. With `by_kernels` attention is that of 'pallas_gpu'.

    Raises:
      AbsentError: the kernels are asked for, and this is no GPU that has them.
      ValueError: they cannot be of such blocks, or such a model.
    """
    config = setting.config
    if by_kernels:
      device = sharding.one_device().devices.flat[0]
      if device.platform != "gpu" or device.compute_capability not in limits.CAPABILITIES:
        expected = f"a GPU of compute capability {' or '.join(limits.CAPABILITIES)}"
        raise AbsentError(f"found {device.device_kind!r}, expected {expected}")
      how = {"attention": "pallas_gpu", "attention_block": setting.kernel_block}
      config = dataclasses.replace(config, **how)
      tree_flash.check(config, sharding.one_device())
    n, task = setting.shots + 1, setting_lib.task(setting)
    rows = pack_each(task.trees, segments=2 * n, pairs=n)
    super().__init__(setting, config, workdir, setting_lib.steps_of(setting, rows))
    self._reference = self.score(self.frozen, self.batches[0])
    if cached:
      scored = [np.asarray(self.score(self.frozen, batch).logprob) for batch in self.batches]
      pairs = zip(self.batches, scored, strict=True)
      self.batches = [batch._replace(reference=logprob) for batch, logprob in pairs]
      self.frozen = None

  def step(self, optimizer: optax.GradientTransformation) -> step_lib.MeshStep:
    """`step.make_step`, as a recipe has it."""
    return step_lib.make_step(
      self.model,
      _OBJECTIVE,
      optimizer,
      sharding.one_device(),
      vocab_chunk=_CHUNK,
      accumulate=1,
    )

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """Log-probabilities of the query's pair, after all shots."""
    batch = self.batches[0]
    last = (batch.pair_weight > 0) & (batch.pair_shots == self.shots)

    def pick(scores: scoring.SegmentScores, segments: np.ndarray) -> Float[np.ndarray, " episodes"]:
      return np.take_along_axis(np.asarray(scores.logprob), segments, axis=1)[last]

    policy = self.score(self.params, batch)
    return {
      "chosen": pick(policy, batch.pair_chosen),
      "rejected": pick(policy, batch.pair_rejected),
      "ref_chosen": pick(self._reference, batch.pair_chosen),
      "ref_rejected": pick(self._reference, batch.pair_rejected),
    }


class TwoSequences(FSPO):
  """An episode is two rows, prompt + chosen and prompt + rejected, with the term of k = N."""

  def __init__(self, setting: Setting, workdir: pathlib.Path) -> None:
    """Makes the batches."""
    paper = setting_lib.steps_of(setting, two_sequences(setting_lib.task(setting).paper))
    # All chosen rows of a batch come first, as in the paper's code.
    rows = [[*c, *r] for c, r in (zip(*s, strict=True) for s in paper)]
    super().__init__(setting, setting.config, workdir, rows)
    self._loss = two_sequences_loss(self.model, _OBJECTIVE)

  def step(self, optimizer: optax.GradientTransformation) -> step_lib.MeshStep:
    """As ours, but for the rows and the loss."""
    return two_sequences_step(self.model, _OBJECTIVE, optimizer)

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """Log-probabilities, and the gradient."""
    batch, found = self.batches[0], {}
    for prefix, params in (("", self.params), ("ref_", self.frozen)):
      chosen, rejected = np.asarray(self.score(params, batch).logprob).reshape(2, -1)
      found |= {f"{prefix}chosen": chosen, f"{prefix}rejected": rejected}
    gradient, _ = jax.jit(jax.grad(self._loss, has_aux=True))(self.params, self.frozen, batch)
    return found | _named(self.model, gradient)


def two_sequences(
  built: Sequence[templates.EpisodeTree],
) -> list[tuple[batching.TreeBatch, batching.TreeBatch]]:
  """Of each episode of one pair: a row of the path to its chosen response, and to the other."""
  ends = [(t.pairs[0].chosen, t.pairs[0].rejected) for t in built]
  paths = [_path(t, segment) for t, both in zip(built, ends, strict=True) for segment in both]
  rows = pack_each(paths, segments=1, pairs=1)
  return list(zip(rows[::2], rows[1::2], strict=True))


def two_sequences_loss(model: transformer.Transformer, objective: step_lib.Objective) -> _LossFn:
  """The paper's loss: chosen rows come first; the objective's terms of each pair of rows."""

  def scores(params: Any, batch: batching.TreeBatch) -> tuple[Array, Array]:
    found = scoring.segment_scores(model, params, batch, chunk=_CHUNK)
    return found.logprob.reshape(2, -1), found.length.reshape(2, -1)

  def loss(
    params: Any, frozen: Any, batch: batching.TreeBatch
  ) -> tuple[Float[Array, ""], step_lib.Metrics]:
    reference = jax.lax.stop_gradient(scores(frozen, batch)[0])
    policy, lengths = scores(params, batch)
    preference = objective.preference_loss(*(policy - reference), None).mean()
    likelihood = -policy[0].sum() / lengths[0].sum()
    value = objective.preference_weight * preference + objective.chosen_weight * likelihood
    return value, {"loss": value}

  return loss


def two_sequences_step(
  model: transformer.Transformer,
  objective: step_lib.Objective,
  optimizer: optax.GradientTransformation,
) -> step_lib.MeshStep:
  """A step in the paper's layout: as `step.make_step` makes ours, but for the loss."""
  loss = two_sequences_loss(model, objective)

  def step(
    state: state_lib.TrainState, frozen: Any, batch: batching.TreeBatch
  ) -> tuple[state_lib.TrainState, step_lib.Metrics]:
    grads, metrics = jax.grad(loss, has_aux=True)(state.params, frozen, batch)
    return step_lib.updated(state, grads, metrics, optimizer)

  return step_lib.on_mesh(step, sharding.one_device())


def _path(built: templates.EpisodeTree, segment: int) -> templates.EpisodeTree:
  """The plain sequence from the root to the end of a segment, which alone is scored."""
  tree = built.tree
  path = trees.path_to(tree, int(np.flatnonzero(tree.segments == segment)[-1]))
  index = np.arange(len(path), dtype=np.int32)
  plain = trees.TokenTree(
    tokens=tree.tokens[path],
    roles=tree.roles[path],
    positions=index,
    parents=index - 1,
    subtree_end=np.full(len(path), len(path), np.int32),
    segments=np.where(tree.segments[path] == segment, 0, trees.NO_SEGMENT).astype(np.int32),
  )
  return templates.EpisodeTree(plain, (templates.Segment(templates.Kind.CHOSEN, 0),), ())


def pack_each(
  built: Sequence[templates.EpisodeTree], *, segments: int, pairs: int
) -> list[batching.TreeBatch]:
  """A row for each tree, as short as the longest allows."""

  def up(sizes: list[int]) -> int:
    return -(-max(sizes) // _MULTIPLE) * _MULTIPLE

  packing = batching.Packing(
    episodes=1,
    tokens=up([len(t.tree) for t in built]),
    scored_tokens=up([int((t.tree.segments >= 0).sum()) for t in built]),
    segments=segments,
    pairs=pairs,
  )
  return [batching.pack([tree], packing) for tree in built]


def _named(model: transformer.Transformer, gradient: Any) -> dict[str, Float[np.ndarray, "..."]]:
  """A gradient by the names and in the shapes of the checkpoint's tensors."""
  named = {}
  for place in tensors.places(model.config):
    leaf = functools.reduce(lambda node, key: node[key], place.path, gradient)
    values = np.asarray(leaf if place.layer is None else leaf[place.layer], np.float32)
    named[f"gradient/{place.name}"] = values.T if place.transposed else values
  return named


def product(dtype: str) -> tuple[int, Callable[[], None]]:
  """A large matrix product in JAX; see `contract.Contender`."""
  n = 2048 if jax.default_backend() == "cpu" else 8192
  x, dot = jnp.ones((n, n), dtype), jax.jit(jnp.dot)
  return n, lambda: dot(x, x).block_until_ready()


def device_peak_bytes() -> int | None:
  """The most memory of the accelerator that was in use; None on a CPU."""
  stats = None if jax.default_backend() == "cpu" else jax.devices()[0].memory_stats()
  return None if stats is None else stats["peak_bytes_in_use"]
