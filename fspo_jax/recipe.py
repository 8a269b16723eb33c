# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe: tokenizer, SFT, preference, evaluate; each stage once, in order, resumable."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import logging
import pathlib
import statistics
from typing import Any

import jax
import ml_collections
import optax

from fspo_jax import checkpoints, sharding
from fspo_jax import config as config_lib
from fspo_jax import data as data_lib
from fspo_jax.episodes import batching, sources, tokenizers
from fspo_jax.episodes.sampling import EpisodeFn
from fspo_jax.episodes.templates import Formatter, Role
from fspo_jax.evaluation import evaluate, plots, report
from fspo_jax.evaluation import results as results_lib
from fspo_jax.models import transformer
from fspo_jax.training import loop, metrics, optimizer, step
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
_SEEDS = {"corpus": 1, "sft": 2, "preference": 3, "evaluation": 4}


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
    return self.config.seed * len(_SEEDS) * 2 + _SEEDS[stream]


def as_json(c: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as JSON has it (tuples are lists)."""
  return json.loads(c.to_json_best_effort())


def _check_stage(stage: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
  """Refuses what a stage cannot do, and why."""
  layout, rows = config_lib.layout(stage), config_lib.loop(stage)
  config_lib.objective(stage)
  optimizer.make_optimizer(config_lib.optimizer(stage), stage.steps)
  asked = (*layout.query_shots, *layout.description_shots)
  if asked and max(asked) > stage.shots:
    raise ValueError(
      f"layout scores something after {max(asked)} shots, but an episode has shots={stage.shots}"
    )
  if min(asked, default=0) < 0 or stage.shots < 0 or stage.queries < 1:
    raise ValueError("numbers of shots are 0 or more, and queries 1 or more")
  shards = sharding.batch_shards(mesh) * rows.accumulate
  if rows.rows_per_step % shards:
    raise ValueError(
      f"rows_per_step={rows.rows_per_step} cannot be split over mesh.data x mesh.fsdp = "
      f"{sharding.batch_shards(mesh)} devices and accumulate={rows.accumulate} parts"
    )
  objective = config_lib.objective(stage)
  if objective.needs_reference and not (layout.rejected and config_lib.packing(stage).pairs):
    raise ValueError("loss.preference_weight > 0, but layout scores no pairs")
  if not layout.max_segments(stage.shots, stage.queries):
    raise ValueError("layout scores nothing")


def settings(c: ml_collections.ConfigDict) -> evaluate.Settings:
  """How the evaluation is done; ValueError naming the keys of what is impossible."""
  names = [field.name for field in dataclasses.fields(evaluate.Settings)]
  return evaluate.Settings(**{name: c.evaluation[name] for name in names})


def check(c: ml_collections.ConfigDict) -> jax.sharding.Mesh:
  """Checks all of a config that can be without its data, and makes the mesh.

  Raises:
    ValueError: an impossible combination, naming the keys.
  """
  stages = tuple(c.stages)
  first = config_lib.STAGES.index(stages[0]) if stages and stages[0] in config_lib.STAGES else 0
  if not stages or stages != config_lib.STAGES[first : first + len(stages)]:
    raise ValueError(f"stages={stages} are not consecutive ones of {config_lib.STAGES}")
  if (c.data.name == "synthetic") != ("synthesis" in stages):
    raise ValueError(
      f"data.name={c.data.name!r} and stages={stages}: the stage 'synthesis' makes the data "
      "'synthetic', and nothing else does (a set that is there already is a 'user_set')"
    )
  if c.data.name == "pretraining" and not {*stages} <= {"tokenizer", "sft"}:
    raise ValueError(
      f"data.name='pretraining' and stages={stages}: a base is not evaluated on users, and has no "
      "preferences; its stages are ('tokenizer', 'sft')"
    )
  config_lib.template(c)
  config_lib.transformer(c, c.tokenizer.vocab_size)
  if c.model.roles and c.model.roles < len(Role):
    raise ValueError(f"model.roles={c.model.roles} is neither 0 nor at least {len(Role)}")
  if c.vocab_chunk < 1 or c.tokenizer.model_type not in ("bpe", "unigram"):
    raise ValueError(
      f"vocab_chunk={c.vocab_chunk} must be at least 1, and tokenizer.model_type="
      f"{c.tokenizer.model_type!r} 'bpe' or 'unigram'"
    )
  for key in ("small_users", "bad_lines"):
    if c.data[key] not in ("refuse", "set_aside"):
      raise ValueError(f"data.{key}={c.data[key]!r} is not 'refuse' or 'set_aside'")
  if c.data.below_gate not in ("refuse", "accept"):
    raise ValueError(f"data.below_gate={c.data.below_gate!r} is not 'refuse' or 'accept'")
  settings(c)
  mesh = sharding.make_mesh(**c.mesh)
  for name in ("sft", "preference"):
    try:
      _check_stage(c[name], mesh)
    except ValueError as error:
      raise ValueError(f"{name}: {error}") from error
  if c.sft.loss.preference_weight > 0:
    raise ValueError(
      "sft.loss.preference_weight > 0: the SFT stage makes the reference, it has none"
    )
  if c.evaluation.rows % sharding.batch_shards(mesh):
    raise ValueError(
      f"evaluation.rows={c.evaluation.rows} cannot be split over mesh.data x mesh.fsdp = "
      f"{sharding.batch_shards(mesh)} devices"
    )
  return mesh


def make_plan(c: ml_collections.ConfigDict, made: pathlib.Path | None = None) -> Plan:
  """Checks a config, reads its data, and says what will be done.

  Args:
    c: the config.
    made: where the synthesis stage has put the set, for `data.name='synthetic'`.

  Raises:
    ValueError: an impossible combination, naming the keys.
    FileNotFoundError: the data is not where the config says.
  """
  mesh = check(c)
  data = data_lib.load(c, made)
  plan = Plan(c, data, mesh, settings(c), {}, {})
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


class Recipe:
  """Runs the stages of a plan in a directory."""

  def __init__(self, plan: Plan, workdir: Workdir) -> None:
    self.plan, self.workdir, self.config = plan, workdir, plan.config

  def run(self) -> None:
    """Runs every stage of the config that is not finished, but for the synthesis."""
    stages = {
      "tokenizer": self.tokenizer,
      "sft": self.sft,
      "preference": self.preference,
      "evaluate": self.evaluate,
    }
    for name, stage in stages.items():
      if name not in self.config.stages:
        continue
      if self.workdir.finished(name):
        _LOG.info("stage %s: already finished", name)
        continue
      _LOG.info("stage %s: starting", name)
      with self.workdir.running(name):
        stage()
      _LOG.info("stage %s: finished in %.0f s", name, self.workdir.seconds()[name])

  def tokenizer(self) -> None:
    """Trains the tokenizer on the training text."""
    keys = self.config.tokenizer
    trained = tokenizers.train(
      self.plan.data.source.corpus(self.plan.seed("corpus"), keys.corpus_lines),
      vocab_size=keys.vocab_size,
      model_type=keys.model_type,
      split_by_whitespace=keys.split_by_whitespace,
    )
    self.workdir.write("tokenizer.model", trained.model)

  def sft(self) -> None:
    """Trains the reference from random parameters."""
    model, formatter = self._model()
    initial = step.init_params(model, self.plan.mesh, self.config.seed)
    count = sum(x.size for x in jax.tree.leaves(initial))
    _LOG.info("model: %s parameters, %d token ids", f"{count:,}", formatter.tokenizer.vocab_size)
    loop.train(self._stage("sft", model, formatter), initial, None)

  def preference(self) -> None:
    """Trains the policy from the reference, and against it."""
    model, formatter = self._model()
    reference = self._params("sft", model)
    loop.train(self._stage("preference", model, formatter), reference, reference)

  def evaluate(self) -> None:
    """Evaluates on every split; writes the results and the report."""
    model, formatter = self._model()
    plan = self.plan
    models = evaluate.Models(
      model,
      self._params("sft", model),
      self._params("preference", model),
      formatter,
      plan.mesh,
      self.config.vocab_chunk,
    )
    found = {}
    for name, episodes in plan.evaluation.items():
      _LOG.info("evaluating on %s users", name)
      evaluation = evaluate.SplitEvaluation(
        name,
        episodes,
        models,
        plan.settings,
        seed=plan.seed("evaluation"),
      )
      found[name] = evaluate.evaluate_split(
        evaluation, truth=plan.data.truth(episodes), baselines=plan.data.baselines
      )
    self._report(found)

  def _model(self) -> tuple[transformer.Transformer, Formatter]:
    tokenizer = tokenizers.load(self.workdir.path / "tokenizer.model")
    model = transformer.Transformer(config_lib.transformer(self.config, tokenizer.vocab_size))
    return model, Formatter(tokenizer, config_lib.template(self.config))

  def _params(self, stage: str, model: transformer.Transformer) -> dict:
    with checkpoints.Checkpoints(self.workdir.path / "checkpoints" / stage) as saved:
      return saved.restore_params(step.abstract_params(model, self.plan.mesh))

  def _stage(self, name: str, model: transformer.Transformer, formatter: Formatter) -> loop.Stage:
    keys = self.config[name]
    return loop.Stage(
      name=name,
      directory=self.workdir.path,
      model=model,
      objective=config_lib.objective(keys),
      optimizer=self._optimizer(keys),
      rows=batching.Rows(
        self.plan.training[name], formatter, config_lib.layout(keys), config_lib.packing(keys)
      ),
      loop=config_lib.loop(keys),
      mesh=self.plan.mesh,
      vocab_chunk=self.config.vocab_chunk,
      config=as_json(self.config),
      tokenizer=formatter.tokenizer.model,
    )

  def _optimizer(self, keys: ml_collections.ConfigDict) -> optax.GradientTransformation:
    return optimizer.make_optimizer(config_lib.optimizer(keys), keys.steps)

  def _report(self, found: dict[str, evaluate.SplitResult]) -> None:
    """Writes results.json and report/."""
    temperatures = self.plan.settings.temperatures

    def by_method(
      get: Callable[[evaluate.SplitResult], dict[str, Any]],
    ) -> dict[str, dict[str, Any]]:
      return {
        method: {split: get(r)[method] for split, r in found.items()}
        for method in next(iter(found.values())).accuracy
      }

    results = {
      "preference_accuracy": by_method(lambda r: r.accuracy),
      "preference_accuracy_ci95": by_method(lambda r: r.intervals),
      "bayes_accuracy": {split: r.bayes for split, r in found.items() if r.bayes},
      "win_rate": {},
      "wall_seconds": self.workdir.seconds(),
      "environment": results_lib.environment(seed=self.config.seed)
      | {"devices": [d.device_kind for d in self.plan.mesh.devices.flat]},
      "padding_fraction": {
        **{
          name: self._metric(name, "data/padding_fraction", statistics.fmean)
          for name in ("sft", "preference")
        },
        **{f"evaluation, {split}": r.facts["padding_fraction"] for split, r in found.items()},
      },
      "dropped_shots": {
        **{n: self._metric(n, "data/dropped_shots", sum) for n in ("sft", "preference")},
        **{f"evaluation, {split}": r.facts["dropped_shots"] for split, r in found.items()},
      },
    }
    if self.plan.data.world is not None and self.plan.settings.win_rate_users:
      for i, t in enumerate(temperatures):
        key = "win_rate" if i == 0 else f"win_rate_temperature_{t:g}"
        results[key] = by_method(lambda r, t=t: r.win_rates[t])
    descriptions = {split: r.descriptions for split, r in found.items() if r.descriptions}
    if descriptions:
      results["description_f1"] = descriptions
    baselines = {split: r.baselines for split, r in found.items() if r.baselines}
    if baselines:
      names = next(iter(baselines.values()))
      results["baselines"] = {
        name: {split: rules[name].mean for split, rules in baselines.items()} for name in names
      }
      results["baselines_ci95"] = {
        name: {split: rules[name].ci for split, rules in baselines.items()} for name in names
      }
    results_lib.write(self.workdir.path / "results.json", results)
    directory = self.workdir.path / "report"
    directory.mkdir(exist_ok=True)
    plots.training_curves(
      metrics.read_jsonl(self.workdir.path / "metrics" / "preference.jsonl"),
      directory / "training.png",
      names=("preference/loss", "rewards/accuracies", "rewards/margins", "nll/chosen"),
    )
    report.write_report(
      directory,
      results,
      next(iter(found.values())).samples,
      title=f"FSPO on {self.config.data.name}",
      notes=self._notes(),
      data_facts=self.plan.data.source.facts(),
      figures={"The preference stage": "training.png"},
    )

  def _notes(self) -> list[str]:
    """What a reader of the numbers must know about how they were taken."""
    s = self.plan.settings
    notes = []
    if s.rat_episodes:
      notes.append(
        f"Descriptions, written and gold, are scored on the first {s.rat_episodes} of the "
        f"{s.episodes} episodes of a split, against the frozen reference with the same shots and "
        "no description."
      )
    if isinstance(self.plan.data.source, sources.WorldSource):
      notes.append(
        "The Bayes ceiling of unseen users has the prior that training shows: nobody has the "
        "held-out combination. That of held-out combinations is uniform over all users, which "
        "training cannot teach: there a model starts below 50 % at k = 0."
      )
    elif self.plan.data.world is not None:
      notes.append(
        "The Bayes ceiling knows what every user of the set likes, how often labels contradict "
        "that, and nothing of how pairs were chosen. Labels are the judge's: no method is right "
        "about one that is wrong."
      )
    return notes

  def _metric(self, stage: str, name: str, of: Callable[[list[float]], float]) -> float:
    """One number `of` all the rows of a stage's metrics."""
    rows = metrics.read_jsonl(self.workdir.path / "metrics" / f"{stage}.jsonl")
    return of([row[name] for row in rows])
