# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The recipe: base or tokenizer and SFT, preference, evaluate; each once, in order, resumable."""

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

from fspo_jax import base as base_lib
from fspo_jax import checkpoints, checks, presets
from fspo_jax import config as config_lib
from fspo_jax import data as data_lib
from fspo_jax import rows as rows_lib
from fspo_jax.episodes import batching, sources, tokenizers
from fspo_jax.episodes.sampling import EpisodeFn
from fspo_jax.episodes.templates import Formatter
from fspo_jax.evaluation import contenders, evaluate, plots, report
from fspo_jax.evaluation import results as results_lib
from fspo_jax.inference.personalizer import Personalizer
from fspo_jax.models import transformer, vpl
from fspo_jax.training import loop, metrics, optimizer, step
from fspo_jax.training import vpl as vpl_training
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

  def __init__(self, plan: Plan, workdir: Workdir) -> None:
    self.plan, self.workdir, self.config = plan, workdir, plan.config

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

  def base(self) -> None:
    """Gets the pretrained base: the published one, a folder's, or one that is pretrained here."""
    c, mesh, path = self.config, self.plan.mesh, self.workdir.path
    if c.base == "scratch":
      config = presets.worlds_base(c.seed, c.world_seed)
      made = Recipe(make_plan(config), Workdir(path / "base", as_json(config)))
      made.run()
      model, formatter = made._model()
      base = base_lib.Base(config, made._params("sft", model), formatter.tokenizer)
    else:
      base = base_lib.load(base_lib.PUBLISHED if c.base == "published" else c.base, mesh)
    base_lib.check_fits(base.config, c)
    _LOG.info("base: %s, %s parameters", c.base, f"{_count(base.params):,}")
    self.workdir.write("tokenizer.model", base.tokenizer.model)
    with checkpoints.Checkpoints(path / "checkpoints" / "base") as saved:
      saved.save(0, base.params, None, as_json(c), base.tokenizer.model)

  def sft(self) -> None:
    """Trains the reference from the base, or from random parameters."""
    model, formatter = self._model()
    if "base" in self.config.stages:
      initial = self._params("base", model)
    else:
      initial = step.init_params(model, self.plan.mesh, self.config.seed)
    size = formatter.tokenizer.vocab_size
    _LOG.info("model: %s parameters, %d token ids", f"{_count(initial):,}", size)
    loop.train(self._stage("sft", model, formatter), initial, None)

  def preference(self) -> None:
    """Trains the policy from the reference, and against it."""
    model, formatter = self._model()
    reference = self._params(self._reference, model)
    config = rows_lib.vpl(self.config)
    initial = reference
    if config is not None:
      initial = vpl.add_encoder(reference, config, self.plan.mesh, self.config.seed)
    stage = self._stage("preference", model, formatter)
    if self.config.on_policy.use:
      rows = rows_lib.paired(
        self.config,
        stage.rows,
        Personalizer(model, reference, formatter),
        self.plan.data.world,
        self.workdir.path / "description_pairs.jsonl",
        self.plan.seed("descriptions"),
      )
      stage = dataclasses.replace(stage, rows=rows)
    loop.train(stage, initial, reference)

  def evaluate(self) -> None:
    """Evaluates on every split; writes the results and the report."""
    model, formatter = self._model()
    plan = self.plan
    reference = self._params(self._reference, model)
    trained = "preference" in self.config.stages
    models = contenders.Models(
      model,
      reference,
      self._params("preference", model, rows_lib.vpl(self.config)) if trained else reference,
      formatter,
      plan.mesh,
      self.config.vocab_chunk,
    )
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
        evaluation, truth=plan.data.truth(episodes), baselines=plan.data.baselines
      )
    self._report(found)

  @property
  def _reference(self) -> str:
    """The stage whose model the policy starts from, and is compared with."""
    return "sft" if "sft" in self.config.stages else "base"

  @property
  def _trained(self) -> list[str]:
    """The training stages."""
    return [name for name in ("sft", "preference") if name in self.config.stages]

  def _model(self) -> tuple[transformer.Transformer, Formatter]:
    tokenizer = tokenizers.load(self.workdir.path / "tokenizer.model")
    model = transformer.Transformer(config_lib.transformer(self.config, tokenizer.vocab_size))
    return model, Formatter(tokenizer, config_lib.template(self.config))

  def _params(
    self, stage: str, model: transformer.Transformer, encoder: vpl.VplConfig | None = None
  ) -> dict:
    abstract = step.abstract_params(model, self.plan.mesh)
    if encoder is not None:
      abstract |= vpl.abstract_encoder(encoder, model.config.width, self.plan.mesh)
    with checkpoints.Checkpoints(self.workdir.path / "checkpoints" / stage) as saved:
      return saved.restore_params(abstract)

  def _stage(self, name: str, model: transformer.Transformer, formatter: Formatter) -> loop.Stage:
    keys, mesh = self.config[name], self.plan.mesh
    objective = config_lib.objective(keys)
    rule = optimizer.make_optimizer(config_lib.optimizer(keys), keys.steps)
    rows = batching.Rows(
      self.plan.training[name], formatter, config_lib.layout(keys), config_lib.packing(keys)
    )
    chunk = self.config.vocab_chunk
    encoder = rows_lib.vpl(self.config) if name == "preference" else None
    if encoder is None:
      update = step.make_step(
        model, objective, rule, mesh, vocab_chunk=chunk, accumulate=keys.accumulate
      )
    else:
      rows = rows_lib.shots_asked(rows, keys)
      update = vpl_training.make_step(
        model,
        objective,
        rule,
        mesh,
        vocab_chunk=chunk,
        config=encoder,
        shots=keys.shots,
        steps=keys.steps,
        seed=self.plan.seed(name),
      )
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
    )

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
          for name in self._trained
        },
        **{f"evaluation, {split}": r.facts["padding_fraction"] for split, r in found.items()},
      },
      "dropped_shots": {
        **{n: self._metric(n, "data/dropped_shots", sum) for n in self._trained},
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
    figures = {}
    if "preference" in self.config.stages:
      figures["The preference stage"] = "training.png"
      names = ["preference/loss", "rewards/accuracies", "rewards/margins", "nll/chosen"]
      plots.training_curves(
        metrics.read_jsonl(self.workdir.path / "metrics" / "preference.jsonl"),
        directory / "training.png",
        names=names if self.config.preference.loss.preference_weight else names[-1:],
      )
    report.write_report(
      directory,
      results,
      next(iter(found.values())).samples,
      title=f"FSPO on {self.config.data.name}",
      notes=self._notes(),
      data_facts=self.plan.data.source.facts(),
      figures=figures,
    )

  def _notes(self) -> list[str]:
    """What a reader of the numbers must know about how they were taken."""
    s = self.plan.settings
    notes = []
    if self.config.base == "published":
      notes.append(
        "The base is the published one, pretrained on the text of the three embedded worlds "
        "(`fspo_jax/worlds/base`): it follows descriptions and knows the format of shots. Neither "
        "the evaluated users nor, but for what words mean, the unseen topics are in its text."
      )
    elif self.config.base:
      notes.append(f"The base: `{self.config.base}`.")
    if s.rat_episodes and {"fspo_rat", "fspo_gold"} & {*s.methods}:
      notes.append(
        f"Descriptions after shots, written and gold, are scored on the first {s.rat_episodes} of "
        f"the {s.episodes} episodes of a split, against the frozen reference with the same shots "
        "and no description."
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
