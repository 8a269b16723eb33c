# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe: base or tokenizer and SFT, preference, evaluate; each once, in order, resumable."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from fspo_jax import base as base_lib
from fspo_jax import (
  base_parts,
  checkpoints,
  checks,
  export,
  outcome,
  paths,
  preemption,
  processes,
  updates,
)
from fspo_jax import config as config_lib
from fspo_jax import data as data_lib
from fspo_jax import reference as reference_lib
from fspo_jax import rows as rows_lib
from fspo_jax.datasets.synthetic import synthetic_dataset_builder as builder
from fspo_jax.episodes import tokenizers
from fspo_jax.episodes.sampling import EpisodeFn
from fspo_jax.episodes.templates import Formatter
from fspo_jax.evaluation import calibration, contenders, evaluate
from fspo_jax.inference.writer import Writer
from fspo_jax.models import huggingface, transformer, vpl
from fspo_jax.training import adapters, loop, optimizer, reference_cache
from fspo_jax.training import state as state_lib
from fspo_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

# Keys that say how a set is made, or whether it is accepted, and not what it is.
FREE_KEYS = (
  "data.below_gate",
  "synthesis.processes",
  "synthesis.concurrency",
  "synthesis.llm.",
  "synthesis.gate.",
  "synthesis.embedder.",
)

# Streams of randomness, each with its own number: none shares episodes with another.
_SEEDS = {"corpus": 1, "sft": 2, "preference": 3, "evaluation": 4, "descriptions": 5}
_STREAMS = 8  # room for more, without which the others would change


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checked config: everything that can be refused before any compute has been.

  Attributes:
    config: the config.
    data: what is trained and evaluated on.
    mesh: of devices.
    settings: of the evaluation.
    training: the episodes of each training stage.
    evaluation: the episodes of each evaluation split.
  """

  config: ml_collections.ConfigDict
  data: data_lib.Data
  mesh: jax.sharding.Mesh
  settings: evaluate.Settings
  training: dict[str, EpisodeFn]
  evaluation: dict[str, EpisodeFn]

  def seed(self, stream: str) -> int:
    """The seed of a stream of randomness, one of `_SEEDS`."""
    return self.config.seed * _STREAMS + _SEEDS[stream]


def as_json(c: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as JSON has it (tuples are lists)."""
  return json.loads(c.to_json_best_effort())


def make_plan(c: ml_collections.ConfigDict, made: pathlib.Path | None = None) -> Plan:
  """Checks a config, reads its data, and says what will be done.

  Args:
    c: the config.
    made: where the synthesis stage has put the set, for `data.name='synthetic'`.

  Raises:
    ValueError: an impossible combination, naming the keys.
    FileNotFoundError: the data is not where the config says.
  """
  mesh = checks.check(c)
  data = data_lib.load(c, made)
  if c.on_policy.use:
    rows_lib.closeness(c, data.world)
  plan = Plan(c, data, mesh, checks.settings(c), {}, {})
  for name in ("sft", "preference"):
    if name not in c.stages:
      continue
    plan.training[name] = data.source.training(
      c[name].shots,
      c[name].queries,
      plan.seed(name),
      None if c[name].flip_shots < 0 else c[name].flip_shots,
      config_lib.curriculum(c[name]),
      c[name].steps * c[name].rows_per_step * c[name].row_episodes,
    )
  for name in data.source.evaluation_splits:
    plan.evaluation[name] = data.source.evaluation(
      name, plan.settings.shots, 1, plan.seed("evaluation")
    )
  return plan


def _count(params: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


class Recipe:
  """Runs the stages of a plan in a directory."""

  def __init__(
    self, plan: Plan, workdir: Workdir, profile: int = 0, base: base_lib.Base | None = None
  ) -> None:
    """A recipe that has run no stage.

    Args:
      plan: what will be done.
      workdir: where.
      profile: steps of each stage that trains that are recorded.
      base: what the stage 'base' gets; None for what the config says.
    """
    self.plan, self.workdir, self.config = plan, workdir, plan.config
    self.profile, self._base = profile, base

  def run(self) -> None:
    """Runs every stage of the config that is not finished, but for the synthesis."""
    stages = {
      "base": self.base,
      "tokenizer": self.tokenizer,
      "sft": self.sft,
      "preference": self.preference,
      "evaluate": self.evaluate,
    }
    for name, stage in stages.items():
      if name not in self.config.stages:
        continue
      processes.wait_for_all(f"stage {name}")  # all of them find the same stages finished
      if self.workdir.finished(name):
        _LOG.info("stage %s: already finished", name)
        continue
      processes.wait_for_all(f"stage {name} begins")
      _LOG.info("stage %s: starting", name)
      with self.workdir.running(name):
        stage()
      if processes.first():
        _LOG.info("stage %s: finished in %.0f s", name, self.workdir.seconds()[name])

  def tokenizer(self) -> None:
    """Trains the tokenizer on the training text, or takes the one that there is."""
    keys = self.config.tokenizer
    if keys.path:
      found = tokenizers.load(keys.path)
      config_lib.formatter(self.config, found)  # refuses now what would not fit later
      self.workdir.write("tokenizer.model", found.model)
      return
    if processes.first():
      trained = tokenizers.train(
        self.plan.data.source.corpus(self.plan.seed("corpus"), keys.corpus_lines),
        vocab_size=keys.vocab_size,
        model_type=keys.model_type,
        split_by_whitespace=keys.split_by_whitespace,
      )
      self.workdir.write("tokenizer.model", trained.model)

  def base(self) -> None:
    """Gets the pretrained base: the published one, a folder's, or one that is pretrained here."""
    c, mesh, path = self.config, self.plan.mesh, self.workdir.path
    if self._base is not None:
      base = self._base
    elif c.base == "scratch":
      base = self._pretrained()
    elif huggingface.is_checkpoint(base_lib.folder(c.base)):
      base = base_lib.load_hugging_face(c, mesh)
      self._keep_companions(base_lib.folder(c.base))
    else:
      base = base_lib.load(base_lib.folder(c.base), mesh)
    base_lib.check_fits(base.config, c)
    _LOG.info("base: %s, %s parameters", c.base, f"{_count(base.params):,}")
    self.workdir.write("tokenizer.model", base.tokenizer.model)
    with checkpoints.Checkpoints(path / "checkpoints" / "base") as saved:
      saved.set_broken_aside()
      if saved.latest_step() is None:
        saved.save(0, base.params, None, as_json(c), base.tokenizer.model)

  def _pretrained(self) -> base_lib.Base:
    """The base of the worlds, made here part by part; what is finished of it is kept."""
    c, found = self.config, None
    for i, part in enumerate(base_parts.CHAIN):
      _LOG.info("base: part %d of %d, %r", i + 1, len(base_parts.CHAIN), part)
      config = base_parts.config(part, c.seed * len(base_parts.CHAIN) + i, c.world_seed)
      if found is not None:
        config.base = c.base  # the parts before it, which it is handed
      workdir = Workdir(self.workdir.path / "base" / f"{i}_{part}", as_json(config))
      made = Recipe(make_plan(config), workdir, base=found)
      made.run()
      model, formatter = made._model()
      params = base_lib.rounded(made._params("sft", model))
      found = base_lib.Base(config, params, formatter.tokenizer)
    return found

  def _keep_companions(self, folder: pathlib.Path) -> None:
    """Keeps what else a Hugging Face folder says, so that what is trained goes back like it."""
    for name in export.COMPANIONS:
      if (folder / name).is_file():
        self.workdir.write(f"{export.FOLDER}/{name}", (folder / name).read_bytes())

  def sft(self) -> None:
    """Trains the reference from the base, or from random parameters."""
    model, formatter = self._model()
    if "base" in self.config.stages:
      initial = self._params("base", model)
    else:
      initial = state_lib.init_params(model, self.plan.mesh, self.config.seed)
    size = formatter.tokenizer.vocab_size
    _LOG.info("model: %s parameters, %d token ids", f"{_count(initial):,}", size)
    self._train(self._stage("sft", model, formatter), initial, None)

  def preference(self) -> None:
    """Trains the policy from the reference, and against it."""
    model, formatter = self._model()
    reference = self._params(reference_lib.stage(self.config), model)
    initial, encoder = reference, rows_lib.vpl(self.config)
    if encoder is not None:
      initial = vpl.add_encoder(reference, encoder, self.plan.mesh, self.config.seed)
    stage = self._stage("preference", model, formatter)
    if self.config.on_policy.use:
      rows = rows_lib.paired(
        self.config,
        stage.rows,
        Writer(model, reference, formatter, mesh=self.plan.mesh),
        self.plan.data.world,
        self.workdir.path / "description_pairs.jsonl",
        self.plan.seed("descriptions"),
      )
      stage = dataclasses.replace(stage, rows=rows)
    cached = self._cached(stage, model, reference)
    if cached is not None:
      stage = dataclasses.replace(stage, rows=cached)
    needed = cached is None and stage.objective.needs_reference
    self._train(stage, initial, reference if needed else None)

  def _cached(
    self, stage: loop.Stage, model: transformer.Transformer, reference: dict
  ) -> reference_cache.CachedRows | None:
    """The preference stage's rows with what the reference says of them; None for no cache."""
    made = None
    if "synthesis" in self.config.stages:
      made = builder.set_path(self.workdir.path / "data", self.config.synthesis.domain)
    return reference_lib.cached(
      self.config,
      stage.rows,
      self.workdir.path,
      model=model,
      params=reference,
      mesh=self.plan.mesh,
      seed=self.plan.seed("preference"),
      made=made,
    )

  def _train(self, stage: loop.Stage, params: dict, reference: dict | None) -> None:
    """Trains a stage: adapters on `params`, or all of these, which it consumes.

    Args:
      stage: what to run.
      params: where the policy starts.
      reference: the same, for a step that reads it; None for one that does not.
    """
    config = config_lib.lora(self.config[stage.name])
    if config is not None:
      stage, fresh = adapters.start(stage, params, config, self.plan.seed(stage.name))
      loop.train(stage, fresh, params)  # without its adapters the policy is the reference
    elif reference is not None:
      loop.train(stage, jax.tree.map(jnp.copy, params), reference)
    else:
      loop.train(stage, params, None)

  def evaluate(self) -> None:
    """Evaluates on every split; writes the results and the report. Of several processes, the first.

    It evaluates on a device of its own; the others have handed over their part of the parameters.
    """
    models = self.models()
    if processes.several():
      models = contenders.on_own_device(models)
    found = preemption.first_works("evaluate", lambda: self._evaluate(models))
    if found is not None:
      plan = self.plan
      outcome.write(
        self.workdir,
        found,
        config=self.config,
        data=plan.data,
        settings=plan.settings,
        mesh=models.mesh,
      )

  def _evaluate(self, models: contenders.Models) -> dict[str, evaluate.SplitResult]:
    """What is measured, by split."""
    plan = self.plan
    found, others = {}, rows_lib.others(self.config, models, plan.seed("evaluation"))
    for name, episodes in plan.evaluation.items():
      _LOG.info("evaluating on %s users", name)
      evaluation = evaluate.SplitEvaluation(
        name,
        episodes,
        models,
        plan.settings,
        seed=plan.seed("evaluation"),
        others=others,
      )
      found[name] = evaluate.evaluate_split(
        evaluation,
        truth=plan.data.truth(episodes),
        baselines=plan.data.baselines,
        link=calibration.link_of(self.config),
      )
    return found

  def models(self) -> contenders.Models:
    """The reference, and the policy if there is one, as the stages before have left them."""
    model, formatter = self._model()
    reference = self._params(reference_lib.stage(self.config), model)
    policy = reference
    if "preference" in self.config.stages:
      policy = self._params("preference", model, rows_lib.vpl(self.config))
    chunk = self.config.vocab_chunk
    return contenders.Models(model, reference, policy, formatter, self.plan.mesh, chunk)

  def _model(self) -> tuple[transformer.Transformer, Formatter]:
    tokenizer = tokenizers.load(self.workdir.path / "tokenizer.model")
    model = transformer.Transformer(config_lib.transformer(self.config, tokenizer.vocab_size))
    return model, config_lib.formatter(self.config, tokenizer)

  def _params(
    self, stage: str, model: transformer.Transformer, encoder: vpl.VplConfig | None = None
  ) -> dict:
    abstract, mesh = state_lib.abstract_params(model, self.plan.mesh), self.plan.mesh
    if encoder is not None:
      abstract |= vpl.abstract_encoder(encoder, model.config.width, mesh)
    return adapters.load(self.workdir.path / "checkpoints" / stage, abstract, mesh)

  def _stage(self, name: str, model: transformer.Transformer, formatter: Formatter) -> loop.Stage:
    keys, mesh = self.config[name], self.plan.mesh
    objective = config_lib.objective(keys)
    rule = optimizer.make_optimizer(config_lib.optimizer(keys), keys.steps)
    rows = rows_lib.of_stage(self.config, name, self.plan.training[name], formatter)
    update = updates.make(self.config, name, model, mesh, self.plan.seed(name))
    return loop.Stage(
      name=name,
      directory=self.workdir.path,
      step=update,
      objective=objective,
      optimizer=rule,
      rows=rows,
      loop=config_lib.loop(keys),
      mesh=mesh,
      config=as_json(self.config),
      tokenizer=formatter.tokenizer.model,
      profile=self.profile,
    )


def reopen(directory: str | os.PathLike[str]) -> Recipe:
  """A run that is there, by its path alone: to look at what it has made, not to go on with it.

  Raises:
    FileNotFoundError: there is no run, or its data is not where its config says.
    ValueError: its config is one of another version.
    ImportError: it is in a bucket, and the extra `gcs` is not installed.
  """
  path = paths.path(directory)
  known = json.loads((path / "config.json").read_text(encoding="utf-8"))
  fingerprints = {key: known.pop(key) for key in [*known] if key.endswith("_sha256")}
  config = config_lib.default().lock()
  try:
    with config.ignore_type():
      config.update(_as_tuples(known))
  except (AttributeError, KeyError) as error:
    raise ValueError(f"{path / 'config.json'}: {error}; it is of another version") from error
  if as_json(config) != known:
    raise ValueError(f"{path / 'config.json'}: lacks keys that this version has")
  made = None
  if "synthesis" in config.stages:
    made = builder.set_path(path / "data", config.synthesis.domain)
  plan = make_plan(config, made)
  return Recipe(plan, Workdir(path, known | fingerprints))


def _as_tuples(tree: Any) -> Any:
  """JSON's lists as the tuples that configs have."""
  if isinstance(tree, dict):
    return {key: _as_tuples(value) for key, value in tree.items()}
  return tuple(map(_as_tuples, tree)) if isinstance(tree, list) else tree
