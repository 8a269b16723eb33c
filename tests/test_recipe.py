# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is refused before any compute, and what a plan says of the data."""

import runpy

import jax
import numpy as np
import pytest

from fspo_jax import checks, jsonl, preferences, recipe, sharding
from fspo_jax.preferences import Preference, User
from fspo_jax.worlds.world import simulate_user
from tests import tiny


def _config(experiment="quickstart:scratch", /, **changes):
  """An experiment's config; keys are written with __ for the dots."""
  file, _, arg = experiment.partition(":")
  get_config = runpy.run_path(str(tiny.REPO / "experiments" / f"{file}.py"))["get_config"]
  config = get_config(*[arg] if arg else [])
  config.lock()
  with config.ignore_type():
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
  return config


def _users(count, size, name="user"):
  """Users with `size` preferences each, all on the same prompts."""
  return [
    User(f"{name}{u}", tuple(Preference(f"prompt {p}", f"yes {u}", "no") for p in range(size)))
    for u in range(count)
  ]


def _jsonl(path, users, **changes):
  jsonl.write_jsonl(path / "users.jsonl", users)
  shares = {"data__unseen_users": 0.3, "data__unseen_prompts": 0.3}
  return _config("jsonl", data__path=str(path / "users.jsonl"), **(shares | changes))


@pytest.fixture(autouse=True)
def _no_compute(monkeypatch):
  """A plan trains and writes nothing."""

  def refuse(*unused, **also):
    raise AssertionError("compute before the plan is made")

  for module, name in ((recipe.state_lib, "init_params"), (recipe.loop, "train")):
    monkeypatch.setattr(module, name, refuse)
  monkeypatch.setattr(recipe.tokenizers, "train", refuse)


_LAYOUT = "preference__layout__"
_REFUSED = {
  "scored after more shots than there are": (
    {f"{_LAYOUT}query_shots": (4, 9)},
    r"preference: layout scores something after 9 shots, but an episode has shots=8",
  ),
  "described after more shots than there are": (
    {"sft__shots": 4, "sft__layout__query_shots": (4,), "sft__layout__description_shots": (0, 5)},
    r"sft: layout scores something after 5 shots, but an episode has shots=4",
  ),
  "queries under no description": (
    {f"{_LAYOUT}description_queries": (3,)},
    r"description_queries has \[3\], which description_shots",
  ),
  "a negative number of shots": (
    {f"{_LAYOUT}query_shots": (-1,)},
    r"preference: numbers of shots are 0 or more",
  ),
  "no query": ({"preference__queries": 0}, r"preference: .* queries 1 or more"),
  "nothing to score": (
    {
      f"{_LAYOUT}shot_pairs": False,
      f"{_LAYOUT}query_shots": (),
      f"{_LAYOUT}description_shots": (),
      f"{_LAYOUT}description_queries": (),
    },
    r"preference: .*layout scores no",
  ),
  "a preference loss without pairs": (
    {"sft__loss__preference_weight": 1.0},
    r"sft: loss\.preference_weight > 0, but layout scores no pairs",
  ),
  "a preference loss in SFT": (
    {"sft__loss__preference_weight": 1.0, "sft__layout__rejected": True},
    r"sft\.loss\.preference_weight > 0: the SFT stage makes the reference",
  ),
  "stages out of order": (
    {"stages": ("sft", "tokenizer", "preference")},
    r"stages=.* are not some of .*, in their order",
  ),
  "a policy from nothing": (
    {"stages": ("preference", "evaluate"), "base": ""},
    r"'preference' needs 'base' or 'sft' before it",
  ),
  "a base that nothing gets": (
    {"stages": ("tokenizer", "sft", "preference", "evaluate"), "base": "published"},
    r"base='published' and stages=.*or neither",
  ),
  "a base with another tokenizer": (
    {"stages": ("base", "tokenizer", "preference"), "base": "published"},
    r"a base has its own tokenizer",
  ),
  "rows of the evaluation": (
    {"evaluation__rows": 0},
    r"evaluation\.rows=0 1 or more",
  ),
  "an unknown loss": (
    {"preference__loss__name": "orpo"},
    r"loss\.name='orpo' is not one of ",
  ),
  "IPO with label smoothing": (
    {"preference__loss__name": "ipo", "preference__loss__label_smoothing": 0.1},
    r"loss\.label_smoothing is DPO's; IPO has none",
  ),
  "a beta of nothing": ({"preference__loss__beta": 0.0}, r"loss\.beta=0\.0 must be positive"),
  "parts that do not divide the batch": (
    {"sft__rows_per_step": 4, "sft__accumulate": 3},
    r"accumulate=3 does not divide rows_per_step=4",
  ),
  "checkpoints between two rows of metrics": (
    {"preference__log_every": 10, "preference__checkpoint_every": 25},
    r"log_every=10 does not divide checkpoint_every=25",
  ),
  "a warm-up longer than the run": (
    {"sft__steps": 10},
    r"optimizer\.warmup_steps=20 .* do not fit into 10 steps",
  ),
  "more described than evaluated": (
    {"evaluation__episodes": 10, "evaluation__rat_episodes": 11},
    r"evaluation\.rat_episodes=11 .* evaluation\.episodes=10",
  ),
  "descriptions that nothing compares": (
    {"on_policy__use": True},
    r"on_policy\.use=True and preference\.layout\.description_pairs=False",
  ),
  "descriptions without their stage": (
    {
      "on_policy__use": True,
      f"{_LAYOUT}description_pairs": True,
      "stages": ("tokenizer", "sft"),
    },
    r"on_policy\.use=True and stages=.*expected 'preference'",
  ),
  "labels that say nothing of descriptions": (
    {"evaluation__description_beta": 0.0},
    r"evaluation\.description_beta=0\.0: expected more than 0",
  ),
  "harder and harder users who come round and round": (
    {"on_policy__use": True, f"{_LAYOUT}description_pairs": True},
    r"expected preference\.curriculum\.use=False",
  ),
  "a latent of nobody": (
    {"evaluation__methods": ("base", "vpl")},
    r"found 'vpl' with vpl\.use=False",
  ),
  "shots for a policy that reads a latent": (
    {"vpl__use": True},
    r"expected 'vpl' in place of \['fspo', 'fspo_rat', 'fspo_gold'\]",
  ),
  "a latent and a context": (
    {"vpl__use": True, "evaluation__methods": ("base", "vpl")},
    r"vpl\.use=True: expected a preference\.layout with query_shots=\(0,\) and nothing else",
  ),
  "more devices than there are": ({"mesh__fsdp": 64}, r"mesh=.*'fsdp': 64.* does not fit"),
  "a chat with a tokenizer that has no turns": (
    {"template": "chat"},
    r"template='chat': found a tokenizer that is trained here, .*expected tokenizer\.path",
  ),
  "markers in a tokenizer from elsewhere": (
    {"tokenizer__path": "folder"},
    r"template='markers' and tokenizer\.path='folder'.*expected 'headings' or 'chat'",
  ),
  "a tokenizer that nothing reads": (
    {
      "stages": ("base", "preference"),
      "base": "published",
      "tokenizer__path": "f",
      "template": "headings",
    },
    r"tokenizer\.path='f' and stages=.*expected 'tokenizer', the stage that reads it",
  ),
  "a system message without a chat": (
    {"chat__system": "Be brief."},
    r"template='markers': found chat\.system='Be brief\.'",
  ),
  "a date that is none": (
    {"tokenizer__path": "folder", "template": "chat", "chat__date": "July"},
    r"chat\.date='July': expected one like '2024-07-26'",
  ),
  "an unknown template": ({"template": "xml"}, r"template='xml' is not one of"),
  "an unknown data set": ({"data__name": "movies"}, r"data\.name='movies' is not one of"),
  "a world out of range": ({"world__label_noise": 0.7}, r"label_noise: found 0\.7"),
}


@pytest.mark.parametrize(
  "arg, stages",
  [
    ("quickstart", ("base", "preference", "evaluate")),
    ("quickstart:scratch", ("tokenizer", "sft", "preference", "evaluate")),
  ],
)
def test_the_main_job_starts_from_the_published_base_or_from_nothing(arg, stages):
  plan = recipe.make_plan(_config(arg))
  assert tuple(plan.config.stages) == stages
  with pytest.raises(ValueError, match="found 'nothing' after the colon"):
    _config("quickstart:nothing")


@pytest.mark.parametrize("case", _REFUSED)
def test_impossible_configs_are_refused_by_their_keys(case):
  changes, message = _REFUSED[case]
  with pytest.raises(ValueError, match=message) as caught:
    recipe.make_plan(_config(**changes))
  assert "\n" not in str(caught.value)


def test_a_batch_that_the_devices_do_not_divide_is_refused(monkeypatch):
  monkeypatch.setattr(checks.sharding, "batch_shards", lambda mesh: 8)
  with pytest.raises(ValueError, match=r"sft: rows_per_step=4 cannot be split over .*8 devices"):
    recipe.make_plan(_config())


@pytest.mark.parametrize(
  "axis, message",
  [
    ("fsdp", r"mesh.fsdp=5 does not divide model.width=64, which it splits: 64 = 12 x 5 \+ 4"),
    ("tensor", r"mesh.tensor=5 does not divide model.heads x head_dim=64"),
    ("context", r"mesh.context=5 does not divide model.attention_block=128"),
  ],
)
def test_axes_that_do_not_divide_what_they_split_are_refused(monkeypatch, axis, message):
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1] * 5, **{axis: 5})
  monkeypatch.setattr(checks.sharding, "make_mesh", lambda **asked: mesh)
  with pytest.raises(ValueError, match=message):
    checks.check(_config(model__width=64, model__heads=2, model__kv_heads=2))


def test_unknown_keys_are_refused():
  with pytest.raises((KeyError, AttributeError), match="shotz"):
    _config(preference__shotz=3)


@pytest.mark.parametrize("name", ["jsonl", "alpaca_styles", "ukp"])
def test_a_data_set_without_a_path_is_refused(name):
  with pytest.raises(ValueError, match=rf"data\.path is empty.*--config\.data\.path=.*\({name}\)"):
    recipe.make_plan(_config(name))


@pytest.mark.parametrize(
  "name, where",
  [
    ("alpaca_styles", r"get results/NAME/model_outputs\.json of github\.com/tatsu-lab/alpaca_eval"),
    ("ukp", r"github\.com/UKPLab/acl2016-convincing-arguments"),
  ],
)
def test_an_absent_folder_says_where_to_get_the_data(tmp_path, name, where):
  with pytest.raises(FileNotFoundError, match=where) as caught:
    recipe.make_plan(_config(name, data__path=str(tmp_path / "none")))
  assert str(tmp_path / "none") in str(caught.value)


def test_an_absent_file_is_refused_by_its_name(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
    recipe.make_plan(_config("jsonl", data__path=str(tmp_path / "none.jsonl")))


def test_a_malformed_file_is_refused_by_its_line(tmp_path):
  (tmp_path / "users.jsonl").write_text('{"user_id": "u", "prompt": "p", "chosen": "c"}\n')
  with pytest.raises(preferences.PreferenceError, match=r"users\.jsonl:1: found no rejected"):
    recipe.make_plan(_config("jsonl", data__path=str(tmp_path / "users.jsonl")))


def test_a_curriculum_on_a_data_set_is_refused(tmp_path):
  config = _jsonl(tmp_path, _users(20, 20), sft__curriculum__use=True)
  with pytest.raises(ValueError, match=r"curriculum\.use=True: only worlds have a curriculum"):
    recipe.make_plan(config)


def test_users_with_too_few_preferences_are_refused_or_set_aside_and_counted(tmp_path):
  users = _users(30, 20) + _users(10, 4, "small")
  with pytest.raises(ValueError, match=r"user 'small\d' has \d preferences on .*too few for 1 que"):
    recipe.make_plan(_jsonl(tmp_path, users))

  plan = recipe.make_plan(_jsonl(tmp_path, users, data__small_users="set_aside"))
  for name in ("sft", "preference"):
    drawn = {plan.training[name](i).user_id for i in range(200)}
    assert drawn and not any(user.startswith("small") for user in drawn)
  facts = plan.data.source.facts()
  split_off = sum(n for key, n in facts.items() if key.startswith("set aside, users: "))
  too_few = sum(n for key, n in facts.items() if key.startswith("users set aside, "))
  assert facts["users, train"] + facts["users, unseen"] + split_off == len(users)
  assert split_off + too_few == 10

  with pytest.raises(ValueError, match=r"data\.small_users='drop' is not"):
    recipe.make_plan(_jsonl(tmp_path, users, data__small_users="drop"))
  with pytest.raises(ValueError, match=r"train: shots=90: no user of jsonl"):
    recipe.make_plan(
      _jsonl(tmp_path, users, data__small_users="set_aside", sft__shots=90, preference__shots=90)
    )


def test_users_of_a_data_set_are_trained_on_or_evaluated_on_and_so_are_prompts(tmp_path):
  rng = np.random.default_rng(0)
  world = tiny.world()
  users = [simulate_user(world, rng, u, 16) for u in world.users("train")[:40]]
  plan = recipe.make_plan(_jsonl(tmp_path, users, data__small_users="set_aside"))
  trained = [plan.training[name](i) for name in ("sft", "preference") for i in range(150)]
  evaluated = [plan.evaluation["unseen"](i) for i in range(60)]
  assert not {e.user_id for e in trained} & {e.user_id for e in evaluated}
  prompts = {p.prompt for e in trained for p in (*e.shots, *e.queries)}
  assert not prompts & {q.prompt for e in evaluated for q in e.queries}
  # What trains the tokenizer is training text, too.
  corpus = set(plan.data.source.corpus(0, 100_000))
  assert not corpus & {q.prompt for e in evaluated for q in e.queries}
  assert not corpus & {p.chosen for e in evaluated for p in e.queries} - {
    text for e in users if e.user_id in {t.user_id for t in trained}
    for p in e.preferences for text in (p.chosen, p.rejected)
  }  # fmt: skip
  assert all(len(e.shots) == 4 and len(e.queries) == 1 for e in trained + evaluated)


@pytest.mark.parametrize("name", ["alpaca_styles", "ukp"])
def test_the_plan_of_real_data_adds_up(shared_data, name):
  folder = shared_data / {"alpaca_styles": "alpaca_eval", "ukp": "ukp"}[name]
  plan = recipe.make_plan(_config(name, data__path=str(folder)))
  splits, facts = plan.data.source.splits, plan.data.source.facts()
  assert list(plan.evaluation) == ["unseen"] and plan.data.world is None
  assert facts["data"] == name
  groups = {"train": splits.train, "unseen": splits.evaluation["unseen"]}
  for group, users in groups.items():
    assert facts[f"users, {group}"] == len(users) > 20
    assert facts[f"preferences, {group}"] == sum(len(u.preferences) for u in users)
  for reason, count in splits.set_aside.items():
    assert facts[f"set aside, {reason}"] == count > 0
  if name == "ukp":
    # Every line of the file is in a group or counted.
    with jsonl.open_lines(folder / "ukp_prefs_ids.jsonl.gz") as lines:
      total = sum(1 for _ in lines)
    aside = sum(n for reason, n in splits.set_aside.items() if reason.startswith("preferences:"))
    assert facts["preferences, train"] + facts["preferences, unseen"] + aside == total
    found = plan.data.baselines(splits.queries("unseen")[:50])
    assert found and all(len(right) == 50 for right in found.values())
    assert {x for right in found.values() for x in right} <= {0.0, 0.5, 1.0}
  else:
    assert facts["users, train"] == plan.config.data.users
    assert facts["users, unseen"] == plan.config.data.evaluation_users
    assert plan.data.baselines is None
  ids = {user.user_id for user in splits.train}
  for i in range(40):
    trained, evaluated = plan.training["preference"](i), plan.evaluation["unseen"](i)
    assert trained.user_id in ids and evaluated.user_id not in ids
    assert not {p.prompt for p in (*trained.shots, *trained.queries)} & splits.query_prompts
    assert {q.prompt for q in evaluated.queries} <= splits.query_prompts
