# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the base of the embedded worlds: what `experiments/base.py` makes, in small."""

import dataclasses
import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from fspo_jax import base as base_lib
from fspo_jax import base_parts, checks, data, paths, presets, recipe, sharding
from fspo_jax import config as config_lib
from fspo_jax.episodes import on_policy, pretraining, templates
from fspo_jax.episodes.sampling import DescriptionPair, ShotsAsked, WorldEpisodes
from fspo_jax.evaluation import base_quality, statistics
from fspo_jax.inference import loading, rat
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer
from fspo_jax.workdir import Workdir
from tests import tiny, tiny_base


def test_the_layout_is_that_of_the_documents():
  config = tiny_base.config()
  layout = pretraining.layout(config.sft.shots)
  assert all(config.sft.layout[key] == getattr(layout, key) for key in config.sft.layout)
  plan = recipe.make_plan(config)
  assert list(plan.training) == ["sft"] and not plan.evaluation
  worlds = {world.name for world in plan.data.source.worlds}
  assert worlds == {"reviews", "elix", "roleplay"}


def test_what_a_base_cannot_do_is_refused():
  with pytest.raises(ValueError, match=r"its stages are \('tokenizer', 'sft'\)"):
    recipe.make_plan(tiny_base.config(stages=("tokenizer", "sft", "preference")))
  with pytest.raises(ValueError, match="labels to pretrain on are random"):
    recipe.make_plan(tiny_base.config(sft__flip_shots=0.5))
  with pytest.raises(ValueError, match="items=12, expected 24"):
    recipe.make_plan(tiny_base.config(sft__shots=12, sft__layout__description_shots=(0,)))
  with pytest.raises(ValueError, match="not all 0"):
    recipe.make_plan(
      tiny_base.config(pretraining__phases=((0, (0.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1, 1, 1), False),))
    )


def test_a_base_is_trained_and_opened_by_its_path(tmp_path):
  config = tiny_base.config(
    tokenizer__corpus_lines=2000,
    model__width=32,
    model__heads=1,
    model__kv_heads=1,
    model__layers=1,
    model__mlp=64,
    sft__rows_per_step=8,
    sft__row_episodes=1,
    sft__steps=2,
    sft__optimizer__warmup_steps=0,
    sft__row_tokens=1600,
    sft__scored_tokens=1280,
  )
  plan = recipe.make_plan(config)
  recipe.Recipe(plan, Workdir(tmp_path, recipe.as_json(config))).run()
  base = Writer.load(tmp_path / "checkpoints" / "sft")
  (world,) = plan.data.source.worlds[1:2]
  found = base_quality.following(
    world, base, Decoding(0.3, 1.0, 8), topics="unseen", users=2, prompts=1, seed=0
  )
  assert 0 <= found.mean <= 1


def test_a_base_goes_on_from_another(tmp_path):
  """Its tokenizer stays, its parameters move on from where they were."""
  before = tiny_base.make(tmp_path / "base")
  config = runpy.run_path(str(tiny.REPO / "experiments/base.py"))["get_config"]("continued")
  changes = {
    "base": str(tmp_path / "base"),
    **{f"model.{key}": value for key, value in tiny_base.SHAPE.items()},
    "sft.steps": 2,
    "sft.rows_per_step": 1,
    "sft.row_tokens": 2048,
    "sft.scored_tokens": 1536,
    "sft.optimizer.warmup_steps": 0,
    "sft.optimizer.learning_rate": 1e-4,
    "sft.optimizer.adam_learning_rate": 1e-4,
  }
  with config.ignore_type():
    config.update_from_flattened_dict(changes)
  plan = recipe.make_plan(config)
  recipe.Recipe(plan, Workdir(tmp_path / "run", recipe.as_json(config))).run()
  after = Writer.load(tmp_path / "run" / "checkpoints" / "sft")
  assert after.formatter.tokenizer.model == before.tokenizer.model
  moved = [
    np.abs(x - y).max()
    for x, y in zip(
      tiny.flat(after.params).values(), tiny.flat(before.params).values(), strict=True
    )
  ]
  assert 0 < max(moved) < 0.05  # in bfloat16, and by two small steps


def test_a_base_comes_back_as_it_was_but_for_half_the_digits(tmp_path):
  saved = tiny_base.make(tmp_path)
  mesh = sharding.make_mesh(1)
  found = base_lib.load(tmp_path, mesh)
  assert recipe.as_json(found.config) == recipe.as_json(saved.config)
  assert found.tokenizer.model == saved.tokenizer.model
  before, after = tiny.flat(saved.params), tiny.flat(found.params)
  assert before.keys() == after.keys()
  for name, values in before.items():
    assert after[name].dtype == values.dtype
    np.testing.assert_array_equal(after[name], values.astype(jnp.bfloat16).astype(values.dtype))
  assert json.loads((tmp_path / "provenance.json").read_text()) == {"commit": "abc"}
  assert (tmp_path / "curves.jsonl").read_text() == '{"loss": 2.0, "step": 1}\n'


def test_a_base_in_a_bucket_is_opened(bucket, tmp_path):
  tiny_base.make(tmp_path)
  paths.copy_into(tmp_path, paths.path(f"{bucket}/base"))
  found = loading.load(f"{bucket}/base").writer
  here = loading.load(tmp_path).writer
  assert found.formatter.tokenizer.model == here.formatter.tokenizer.model
  jax.tree.map(np.testing.assert_array_equal, found.params, here.params)


def test_a_base_that_cannot_be_used_is_refused_by_name(tmp_path):
  tiny_base.make(tmp_path)
  mesh = sharding.make_mesh(1)
  with pytest.raises(base_lib.BaseError, match=r"none'.*found no model\.safetensors"):
    base_lib.load(tmp_path / "none", mesh)
  weights = safetensors.flax.load_file(tmp_path / "model.safetensors")
  for change, message in (
    (
      {"embedding": weights["embedding"][:, :8]},
      r"embedding: found the shape \(\d+, 8\), expected",
    ),
    ({"extra": weights["embedding"]}, r"extra: found the shape \(\d+, 16\), expected None"),
  ):
    safetensors.flax.save_file(weights | change, tmp_path / "model.safetensors")
    with pytest.raises(base_lib.BaseError, match=message):
      base_lib.load(tmp_path, mesh)
  del weights["final_norm.scale"]
  safetensors.flax.save_file(weights, tmp_path / "model.safetensors")
  with pytest.raises(base_lib.BaseError, match=r"final_norm\.scale: found the shape None"):
    base_lib.load(tmp_path, mesh)


def test_a_base_from_scratch_is_what_its_parts_one_after_another_make(tmp_path, monkeypatch):
  """Each started by itself from the folder of the one before; and what is finished is kept."""
  whole = base_parts.config
  small = {f"model.{key}": value for key, value in tiny_base.SHAPE.items()}
  small |= {"tokenizer.corpus_lines": 2000, "tokenizer.vocab_size": 1216}
  small |= {"sft.steps": 2, "sft.row_episodes": 1, "sft.window_rows": 1, "sft.rows_per_step": 1}
  small |= {"sft.row_tokens": 3200, "sft.scored_tokens": 2800, "sft.optimizer.warmup_steps": 0}

  def config(*args, **how):
    found = whole(*args, **how)
    found.update_from_flattened_dict(small)
    return found

  monkeypatch.setattr(base_parts, "config", config)
  monkeypatch.setattr(base_parts, "CHAIN", ("first", "levels", "topics"))
  run = presets.from_base("reviews")
  run.update_from_flattened_dict({key: small[key] for key in small if "model." in key})
  run.stages, run.base, run.seed = ("base", "evaluate"), "scratch", 2
  run.evaluation.methods = ("base",)

  def made(c, path):
    return recipe.Recipe(recipe.make_plan(c), Workdir(path, recipe.as_json(c)))

  whole_chain = made(run, tmp_path / "run")
  whole_chain.base()
  for i, part in enumerate(base_parts.CHAIN):
    c = config(part, 6 + i, 0)
    if i:
      c.base = str(tmp_path / f"published{i - 1}")
    here = made(c, tmp_path / part)
    here.run()
    writer = Writer.load(tmp_path / part / "checkpoints" / "sft")
    base = base_lib.Base(c, writer.params, writer.formatter.tokenizer)
    base_lib.save(tmp_path / f"published{i}", base, provenance={}, curves=[])
  expected = base_lib.load(tmp_path / "published2", sharding.make_mesh(1))
  found = Writer.load(tmp_path / "run" / "checkpoints" / "base")
  assert jax.tree.all(jax.tree.map(np.array_equal, found.params, expected.params))
  assert found.formatter.tokenizer.model == expected.tokenizer.model

  def no_more(self):
    raise AssertionError(f"{self.workdir.path}: trains again")

  monkeypatch.setattr(recipe.Recipe, "sft", no_more)
  whole_chain.base()
  run.model.layers = 2
  with pytest.raises(base_lib.BaseError, match=r"scratch'.*model\.layers': 1"):
    recipe.make_plan(run)


def test_a_part_that_there_is_not_is_refused():
  with pytest.raises(ValueError, match=r"found the part 'more', expected one of \('first', "):
    base_parts.config("more")


def test_a_base_of_another_shape_or_of_other_unseen_users_is_refused():
  here = presets.from_base("reviews")
  base_lib.check_fits(tiny_base.config(), here)
  for changes, named in (
    ({"model__layers": 7}, r"model\.layers': 7"),
    ({"world_seed": 3}, r"world_seed': 3"),
  ):
    with pytest.raises(base_lib.BaseError, match=named):
      base_lib.check_fits(tiny_base.config(**changes), here)
  # How it is computed with is the run's own affair.
  base_lib.check_fits(tiny_base.config(model__attention_block=64, model__dtype="bfloat16"), here)


@pytest.mark.parametrize("method", ["prompted", "ric", "vpl", "fspo_rat", "user_lora"])
def test_rows_of_the_tables_start_from_a_folder(tmp_path, method):
  tiny_base.make(tmp_path / "published")
  results = tiny_base.run_row(tmp_path / "published", tmp_path / "run", method)
  rows = {"fewshot_prompted", "oracle"} if method == "prompted" else {method}
  if method == "fspo_rat":
    rows |= {"fspo", "fspo_gold"}
    pairs = on_policy.read(tmp_path / "run" / "description_pairs.jsonl")
    assert pairs.pairs and {pair.described.shots for pair in pairs.pairs} <= {2, 4, 8}
    _check_kept(tmp_path / "run", pairs.pairs)
  assert set(results["preference_accuracy"]) == set(results["win_rate"]) == {"base", *rows}
  ks = results["preference_accuracy"][next(iter(rows - {"oracle"}))]["unseen"]
  assert set(ks) == ({"0", "8"} if method == "user_lora" else {str(k) for k in range(9)})
  # What starts from a base can be opened by its path alone, as any other model.
  stage = "base" if method in ("prompted", "user_lora") else "preference"
  if method == "vpl":
    with pytest.raises(ValueError, match="found a policy of VPL"):
      Writer.load(tmp_path / "run" / "checkpoints" / stage)
    return
  opened = Writer.load(tmp_path / "run" / "checkpoints" / stage)
  assert opened.formatter.tokenizer.model == tiny.tokenizer().model


def _check_kept(run, pairs):
  """The reference, which the stage starts from, finds the labels likeliest under what is kept."""
  reopened = recipe.reopen(run)
  source, beta = reopened.plan.training["preference"], reopened.config.evaluation.description_beta
  judge = rat.Judge(Writer.load(run / "checkpoints" / "sft"), beta)
  for pair in pairs:
    told, shots = pair.described, source(pair.index).shots[: pair.described.shots]
    texts = (told.kept, told.better, told.worse)
    fits = judge.fits([shots] * 3, texts)
    assert fits[0] >= fits.max() - 1e-4
  assert {pair.described.kept for pair in pairs} != {pair.described.better for pair in pairs}


@pytest.mark.parametrize("world", ["reviews", "elix", "elix_easy", "roleplay"])
@pytest.mark.parametrize(
  ("method", "over"), [("dpo", 0.0), ("ric", 0.0), ("vpl", 0.0), ("fspo_rat", 0.05)]
)
def test_rows_of_a_length_that_is_given_hold_their_episodes(world, method, over):
  """Of those whose length is not found by a look at the texts: no shot is left out, or hardly."""
  experiment = runpy.run_path(str(tiny.REPO / "experiments/methods.py"))
  c = experiment["get_config"](f"{method},{world}")
  stage = c.preference
  made = data.make_world(c, "reviews" if world == "reviews" else c.synthesis.domain)
  base = base_lib.load(base_lib.folder("published"), sharding.one_device())
  form, layout = config_lib.formatter(c, base.tokenizer), config_lib.layout(stage)
  drawn = WorldEpisodes(made, "train", stage.shots, stage.queries, seed=0)
  source, longer, lengths = (ShotsAsked(drawn) if c.vpl.use else drawn), 0, []
  for i in range(60):
    episode = source(i)
    if layout.description_pairs:
      texts = (f"{drawn(i + j).description} {j}" for j in range(3))
      episode = dataclasses.replace(episode, described=DescriptionPair(8, *texts))
    tree = templates.build(episode, form, layout).tree
    longer += len(tree) > stage.row_tokens or int((tree.segments >= 0).sum()) > stage.scored_tokens
    lengths.append(len(tree))
  assert longer <= over * 60
  assert np.mean(lengths) > 0.7 * stage.row_tokens


@pytest.fixture(scope="module")
def publish():
  with tiny.script("experiments/publish_base.py") as module:
    yield module


def test_an_average_hides_no_word_from_the_gate(publish):
  good = {
    "following": {"train": 0.96, "unseen": 0.95},
    "following_seldom": {},
    "reading": {"long": 1.0, "short": 0.99},
  }
  assert publish["below_gate"]({"reviews": good, "elix": good}) == []
  blind = good | {"reading": {"long": 1.0, "short": 0.98}}
  deaf = good | {
    "following": {"train": 0.99, "unseen": 0.94},
    "following_seldom": {"train": 0.3, "unseen": 0.96},
  }
  assert publish["below_gate"]({"reviews": blind, "elix": deaf}) == [
    "reviews: reading of 'short' 0.980, expected 0.99",
    "elix, unseen topics: following 0.940, expected 0.95",
    "elix, train topics: seldom kinds 0.300, expected 0.95",
  ]
  assert "(seldom kinds 0.300, 0.960)" in publish["summary"](deaf)
  assert "worst word 'short': 0.980" in publish["summary"](blind)


def test_what_is_measured_is_asked_of_every_world(publish, monkeypatch):
  """A base that follows everything and reads nothing: the inverse of each world says so."""
  asked = []

  def following(world, writer, decoding, *, topics, users, prompts, seed):
    asked.append((world.name, topics))
    return statistics.Interval(1.0, 0.9, 1.0, users)

  monkeypatch.setattr(base_quality, "following", following)
  monkeypatch.setattr(base_quality, "following_seldom", lambda *a, **k: None)
  monkeypatch.setattr(base_quality, "reading", lambda *a, **k: {"long": 0.0})
  quality = publish["measure"](None, tiny_base.config(), 3)
  assert asked == [(w, t) for w in ("reviews", "elix", "roleplay") for t in ("train", "unseen")]
  assert len(publish["below_gate"](quality)) == 3


@pytest.mark.parametrize("world", ["reviews", "elix", "elix_easy", "roleplay"])
def test_every_row_has_a_config_that_can_be_run(world):
  experiment = runpy.run_path(str(tiny.REPO / "experiments/methods.py"))
  for method in experiment["METHODS"]:
    config = experiment["get_config"](f"{method},{world}")
    config.base = "published"
    checks.check(config)
    trained = method not in ("prompted", "user_lora")
    assert ("preference" in config.stages) == trained
    if trained:
      by_hand = ("dpo", "ipo", "ric", "vpl", "fspo_rat")
      assert bool(config.preference.row_tokens) == (method in by_hand)
      layout = config_lib.layout(config.preference)
      shown = method.startswith(("fspo", "pref_ft"))
      assert shown == layout.shot_pairs
      assert bool(config.preference.shots) == shown or config.vpl.use
      pairs = layout.max_pairs(config.preference.shots, config.preference.queries)
      assert bool(pairs) == (method not in ("pref_ft", "ric"))
  with pytest.raises(ValueError, match="found 'fpso' after the colon"):
    experiment["get_config"]("fpso")
  with pytest.raises(ValueError, match="world='movies'"):
    experiment["get_config"]("dpo,movies")
