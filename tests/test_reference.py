# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA and the reference's cache in a recipe: what is refused, what is shared, what comes out."""

import dataclasses
import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax import checks, config, jsonl, reference, sharding
from fspo_jax.episodes import tokenizers
from fspo_jax.episodes.templates import Layout
from fspo_jax.inference.writer import Writer
from fspo_jax.preferences import Preference, User
from fspo_jax.training import metrics, reference_cache
from tests import tiny, tiny_base

_CACHE = "preference.reference_cache."
_REFUSED = {
  "an unknown use": ({f"{_CACHE}use": "yes"}, r"reference_cache\.use='yes' is not one of"),
  "a folder for nothing": (
    {f"{_CACHE}use": "off", f"{_CACHE}directory": "there"},
    r"directory='there': found use='off', expected 'auto' or 'on'",
  ),
  "a cache without its stage": (
    {f"{_CACHE}use": "on", "stages": ("tokenizer", "sft")},
    r"use='on': found stages=.* without 'preference'",
  ),
  "a cache of no reference": (
    {
      f"{_CACHE}use": "on",
      "preference.loss.name": "simpo",
      "preference.loss.length_normalize": True,
    },
    r"use='on': found loss\.name='simpo' .* compares with no reference",
  ),
  "a cache of hidden states": (
    {
      f"{_CACHE}use": "on",
      "vpl.use": True,
      "evaluation.methods": ("base", "vpl"),
      "preference.layout.shot_pairs": False,
      "preference.layout.query_shots": (0,),
      "preference.layout.description_shots": (),
      "preference.layout.description_queries": (),
    },
    r"use='on': found vpl\.use=True, whose encoder reads",
  ),
  "adapters by Muon": (
    {"preference.lora.rank": 4},
    r"preference: lora\.rank=4: found optimizer\.name='muon', expected 'adamw'",
  ),
  "adapters of random parameters": (
    {"sft.lora.rank": 4, "sft.optimizer.name": "adamw"},
    r"sft\.lora\.rank=4 and stages=.*expected the stage 'base'",
  ),
  "adapters of no rank": (
    {"sft.lora.dropout": 0.1},
    r"sft: lora\.dropout=0\.1: found lora\.rank=0",
  ),
  "rows of half a size": (
    {"sft.row_tokens": 0},
    r"sft: row_tokens=0, scored_tokens=512 and row_episodes=1: expected both",
  ),
  "rows without episodes": (
    {"preference.row_episodes": 0},
    r"preference: row_tokens=768, scored_tokens=512 and row_episodes=0: expected both",
  ),
  "windows without rows": ({"sft.window_rows": 0}, r"sft: window_rows=0 must be at least 1"),
  "adapters of no matrix": (
    {"preference.lora.rank": 4, "preference.lora.projections": ("q", "w")},
    r"preference: lora\.projections=\('q', 'w'\): expected one or more distinct ones of",
  ),
}


def _config(changes):
  c = config.default()
  with c.ignore_type():
    c.update_from_flattened_dict(changes)
  return c


@pytest.mark.parametrize("case", _REFUSED)
def test_impossible_configs_are_refused_by_their_keys(case):
  changes, message = _REFUSED[case]
  with pytest.raises(ValueError, match=message):
    checks.check(_config(changes))


MODEL = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)
ROWS = tiny.rows(Layout(shot_pairs=True, query_shots=(1,)), shots=1, tokens=256, scored_tokens=192)
SMALL = {f"{_CACHE}use": "on", "preference.steps": 4, "preference.rows_per_step": 2}


@pytest.fixture
def cached(tmp_path, monkeypatch):
  """What makes a run's cached rows, in one folder; every argument can be another."""
  monkeypatch.setattr(reference_cache, "BLOCK", 8)

  def make(changes=None, rows=ROWS, params=None, seed=3, made=None):
    return reference.cached(
      _config(SMALL | {f"{_CACHE}directory": str(tmp_path / "shared")} | (changes or {})),
      rows,
      tmp_path / "run",
      model=MODEL,
      params=tiny.params(MODEL) if params is None else params,
      mesh=sharding.make_mesh(1, devices=jax.devices()[:1]),
      seed=seed,
      made=made,
    )

  return make


def test_whatever_rows_depend_on_is_refused_by_its_name(cached, tmp_path):
  data = tmp_path / "users.jsonl"
  users = [Preference("p", "yes", "no"), Preference("q", "yes", "no")]
  jsonl.write_jsonl(data, [User("u", tuple(users))])
  path = {"data.path": str(data)}
  cached(path)
  files = {p: p.read_bytes() for p in (tmp_path / "shared").iterdir()}

  one_weight = jax.tree.map(jnp.array, tiny.params(MODEL))
  one_weight["embedding"] = one_weight["embedding"].at[7, 3].add(1e-6)
  packing = dataclasses.replace(ROWS.packing, tokens=264)
  headings = tiny.formatter(tiny.templates.HEADINGS)
  other_tokenizer = tokenizers.train(
    (f"{i} a b c" for i in range(400)), vocab_size=400, model_type="bpe", split_by_whitespace=True
  )
  for name, arguments in {
    "reference_sha256": {"params": one_weight},
    "template.question": {"rows": dataclasses.replace(ROWS, formatter=headings)},
    "tokenizer_sha256": {
      "rows": dataclasses.replace(
        ROWS, formatter=dataclasses.replace(ROWS.formatter, tokenizer=other_tokenizer)
      )
    },
    "packing.tokens": {"rows": dataclasses.replace(ROWS, packing=packing)},
    "layout.rejected": {
      "rows": dataclasses.replace(ROWS, layout=dataclasses.replace(ROWS.layout, rejected=False))
    },
    "rows_seed": {"seed": 4},
    "seed": {"changes": path | {"seed": 1}},
    "world.seed": {"changes": path | {"world_seed": 1}},
    "shots": {"changes": path | {"preference.shots": 9}},
    "flip_shots": {"changes": path | {"preference.flip_shots": 0.5}},
    "model.rope_theta": {"changes": path | {"model.rope_theta": 1e4}},
    "model.dtype": {"changes": path | {"model.dtype": "bfloat16"}},
    "curriculum": {"changes": path | {"preference.steps": 5}},  # of which rows depend on the total
  }.items():
    with pytest.raises(reference_cache.ReferenceCacheError, match="remove it, or") as caught:
      cached(**{"changes": path} | arguments)
    assert f"{name}: found " in str(caught.value), name
  # One preference.
  jsonl.write_jsonl(data, [User("u", (users[0], users[1].swapped()))])
  with pytest.raises(reference_cache.ReferenceCacheError, match=r"\(data_sha256: found "):
    cached(path)
  assert {p: p.read_bytes() for p in (tmp_path / "shared").iterdir()} == files


def test_a_sweep_over_losses_and_rates_shares_it(cached, monkeypatch):
  first = cached()

  def compute(*unused):
    raise AssertionError("computed again")

  monkeypatch.setattr(reference_cache.Cache, "write", compute)
  second = cached(
    {
      "preference.loss.name": "dpo",
      "preference.loss.beta": 0.5,
      "preference.optimizer.learning_rate": 1e-4,
      "preference.optimizer.name": "adamw",
      "preference.lora.rank": 4,
      "preference.lora.dropout": 0.1,
      "data.below_gate": "accept",
      "evaluation.shots": 4,
    }
  )
  np.testing.assert_array_equal(first(5).reference, second(5).reference)


@pytest.mark.parametrize(
  "use, directory, period, kept",
  [
    ("auto", "", None, False),  # rows of which none comes again
    ("auto", "", 3, True),
    ("auto", "", 8, False),  # eight rows, and then the run ends
    ("auto", "there", None, True),
    ("on", "", None, True),
    ("off", "", 3, False),
  ],
)
def test_it_is_there_where_it_pays_or_is_asked_for(cached, tmp_path, use, directory, period, kept):
  where = str(tmp_path / directory) if directory else ""
  found = cached(
    {f"{_CACHE}use": use, f"{_CACHE}directory": where}, dataclasses.replace(ROWS, period=period)
  )
  assert (found is not None) == kept
  if kept:
    assert found.cache.directory == tmp_path / (directory or "run/reference_cache")


def test_auto_leaves_alone_what_has_no_reference(cached):
  simpo = {"preference.loss.name": "simpo", "preference.loss.length_normalize": True}
  assert cached(simpo | {f"{_CACHE}use": "auto"}) is None


LORA = {
  "preference__lora__rank": 2,
  "preference__lora__projections": ("q", "v", "down"),
  "preference__lora__dropout": 0.1,
  "preference__optimizer__name": "adamw",
  "preference__log_every": 1,
  "preference__checkpoint_every": 1,
}


def _on_device():
  """How many arrays of the embedding's shape there are."""
  gc.collect()
  shape = (tiny.tokenizer().vocab_size, tiny_base.SHAPE["width"])
  # Arrays of shards, as checkpoints are saved from, are the same memory.
  return len({x.unsafe_buffer_pointer() for x in jax.live_arrays() if x.shape == shape})


@pytest.fixture
def on_device(monkeypatch):
  """The same at each row of metrics."""
  counts, write = [], metrics.MetricWriter.write

  def spy(self, at, values):
    counts.append(_on_device())
    write(self, at, values)

  monkeypatch.setattr(metrics.MetricWriter, "write", spy)
  return counts


def _run(path, workdir, *, stages=("base", "preference"), **changes):
  tiny_base.run_row(path, workdir, "fspo_ipo,reviews", stages=stages, **changes)
  return metrics.read_jsonl(workdir / "metrics" / "preference.jsonl")


@pytest.mark.slow
def test_a_lora_recipe_with_a_shared_cache(tmp_path, monkeypatch, on_device):
  tiny_base.make(tmp_path / "base")
  before = _on_device()
  live = _run(tmp_path / "base", tmp_path / "live", **LORA)
  assert live[0]["logps/abs_margins"] == 0.0 and live[1]["logps/abs_margins"] > 0.0
  shared = {"preference__reference_cache__directory": str(tmp_path / "shared")}
  cached = _run(tmp_path / "base", tmp_path / "cached", **LORA, **shared)
  for ours, theirs in zip(cached, live, strict=True):
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
  facts = json.loads((tmp_path / "shared" / "facts.json").read_text())
  assert facts["data.name"] == "reviews" and facts["seed"] == 0

  # All parameters of the same reference, by another loss, with no reference in memory.
  scored = []
  monkeypatch.setattr(reference_cache.Cache, "write", lambda *unused: scored.append(1))
  everything = _run(tmp_path / "base", tmp_path / "all", preference__loss__name="dpo", **shared)
  assert not scored and everything[0]["logps/abs_margins"] <= 1e-4
  # LoRA has the base, which is the reference; then there are the parameters and their two moments,
  # and no reference.
  assert [count - before for count in on_device] == [1, 1, 1, 1, 3, 3]

  # The folder of the stage is enough, and gives the base with its adapters merged.
  policy = tiny.flat(Writer.load(tmp_path / "live" / "checkpoints" / "preference").params)
  start = tiny.flat(Writer.load(tmp_path / "live" / "checkpoints" / "base").params)
  changed = {name for name in start if (np.asarray(policy[name]) != start[name]).any()}
  assert changed == {f"['blocks']['{name}']['kernel']" for name in ("q", "v", "down")}
  for name in changed:
    update = np.asarray(policy[name] - start[name])
    assert np.linalg.matrix_rank(update[0], tol=1e-6) <= 2


@pytest.mark.slow
def test_adapters_of_sft_are_merged_before_the_policy_gets_its_own(tmp_path):
  tiny_base.make(tmp_path / "base")
  sft = {key.replace("preference__", "sft__"): value for key, value in LORA.items()} | {
    "sft__steps": 3,
    "sft__rows_per_step": 1,
    "sft__row_tokens": 1536,
    "sft__scored_tokens": 1024,
    "sft__optimizer__warmup_steps": 0,
  }
  run = tmp_path / "run"
  stages = ("base", "sft", "preference")
  rows = _run(tmp_path / "base", run, stages=stages, **LORA, **sft)
  assert rows[0]["logps/abs_margins"] == 0.0  # the reference is what SFT has made of the base
  params = {
    where: tiny.flat(Writer.load(run / "checkpoints" / where).params)
    for where in ("base", "sft", "preference", "preference/base")
  }
  for name, leaf in params["sft"].items():
    np.testing.assert_array_equal(params["preference/base"][name], leaf, err_msg=name)
  kernel = "['blocks']['q']['kernel']"
  assert len({np.asarray(params[w][kernel]).tobytes() for w in ("base", "sft", "preference")}) == 3


@pytest.mark.slow
def test_what_the_reference_says_of_description_pairs_is_kept(tmp_path):
  """They come round and round: nobody has to ask for it."""
  tiny_base.make(tmp_path / "base")
  run, steps = tmp_path / "run", {"preference__steps": 20}
  tiny_base.run_row(
    tmp_path / "base", run, "fspo_rat,reviews", stages=("base", "sft", "preference"), **steps
  )
  rows = metrics.read_jsonl(run / "metrics" / "preference.jsonl")
  assert rows[0]["logps/abs_margins"] <= 1e-4
  facts = json.loads((run / "reference_cache" / "facts.json").read_text())
  assert len(facts["description_pairs_sha256"]) == 64
