# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Studies of a finished run: all of each, on one that a tiny model has made in seconds."""

import dataclasses
import importlib
import json
import pathlib
import runpy
import types

from absl import app
import pytest

from fspo_jax import paths, recipe
from fspo_jax.evaluation import evaluate, judge, statistics
from fspo_jax.inference.sampler import Decoding
from tests import tiny, tiny_base

described, record_lib = (
  importlib.import_module(f"experiments.studies.common.{name}") for name in ("described", "record")
)


def _study(name, *arguments):
  return tiny.script(f"experiments/studies/{name}.py", *arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a finished run of FSPO."""
  path = tmp_path_factory.mktemp("studies")
  tiny_base.make(path / "base")
  tiny_base.run_row(path / "base", path / "run", "fspo_dpo")
  return path / "run"


def test_its_responses_are_kept_for_any_judge(run):
  """The true reward judges them as it did in the evaluation, with the same users."""
  results = json.loads((run / "results.json").read_text())
  judge.main([str(run), f"--model={judge.WORLD}"])
  record = json.loads((run / "judge" / "world.json").read_text())
  for method, by in results["win_rate"].items():
    for split, expected in by.items():
      found = record["win_rate"][method][split]
      assert found["mean"] == pytest.approx(expected["mean"]) and found["ci95"] is not None
      assert found["users"] == expected["users"]
  assert set(results["paired"]["unseen"]["fspo"]) >= {"base"}
  assert results["calibration"]["unseen"]["fspo"]["pairs"] > 0
  assert "## What chance explains" in (run / "report" / "report.md").read_text()


def _record(run, name, *arguments):
  with _study(name, f"--workdir={run}", *arguments) as study:
    study["main"]([name])
  return json.loads((run / "studies" / f"{name}.json").read_text())


def test_a_run_is_opened_by_its_path(run):
  found = recipe.reopen(run)
  known = json.loads((run / "config.json").read_text())
  assert recipe.as_json(found.config) == {k: v for k, v in known.items() if k != "data_sha256"}
  assert set(found.plan.evaluation) == {"unseen", "heldout_combinations"}


@pytest.mark.parametrize(
  ("change", "message"),
  [({"of_tomorrow": 1}, "of_tomorrow.*another version"), ({"vpl": {}}, "lacks keys")],
)
def test_a_run_of_another_version_is_refused(run, tmp_path, change, message):
  known = json.loads((run / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(known | change))
  with pytest.raises(ValueError, match=message):
    recipe.reopen(tmp_path)


def test_more_shots_than_were_trained_with(run):
  """The regret after one answer is what is lost before any, and it adds up from there."""
  record = _record(run, "shots", "--shots=10", "--episodes=6")
  found = record["splits"]["unseen"]
  assert record["trained_with"] == 8 and found["dropped_shots"] == 0
  assert set(found["accuracy"]["fspo"]) == set(found["bayes"]) == {str(k) for k in range(11)}
  lost = [found["bayes"][str(k)] - found["accuracy"]["fspo"][str(k)] for k in range(11)]
  assert found["regret"]["fspo"] == pytest.approx([sum(lost[: k + 1]) for k in range(11)])
  assert (run / "studies" / "shots.png").stat().st_size > 10_000


def test_shots_that_hurt_are_named():
  with _study("shots", "--workdir=none") as study:
    intervals = {"0": [0.4, 0.6], "1": [0.7, 0.9], "2": [0.5, 0.75]}
    assert study["drops"]({"0": 0.5, "1": 0.8, "2": 0.65}, intervals) == [2]
    assert study["drops"]({"0": 0.5, "1": 0.8, "2": 0.71}, intervals) == []


def test_descriptions_are_corrupted_by_their_share(run):
  """Gold ones: with none of it replaced it is the method as it is evaluated anyway."""
  record = _record(run, "corruption", "--of=gold", "--shares=0,1", "--episodes=4")
  assert set(record["by_share"]) == {"0", "1"} and record["description_f1"] == 1.0
  whole = recipe.reopen(run)
  settings = dataclasses.replace(
    whole.plan.settings, methods=("base", "fspo_gold"), episodes=4, rat_episodes=4
  )
  evaluation = evaluate.SplitEvaluation(
    "unseen", whole.plan.evaluation["unseen"], whole.models(), settings, seed=0
  )
  margins = evaluation.contenders["fspo_gold"].margins(evaluation.episodes)[record["shots"]]
  expected = statistics.preference_accuracy(margins).mean()
  assert record["by_share"]["0"]["accuracy"]["mean"] == pytest.approx(expected)
  assert record["without"]["win_rate"]["users"] > 1
  assert (run / "studies" / "corruption.png").exists()


def test_the_best_of_several_descriptions(run):
  """The gold one is what the evaluation calls so; of one that is sampled there is no choice."""
  arguments = ("--n=1,3", "--episodes=4", "--prompts=1")
  record = _record(run, "descriptions", *arguments)
  assert set(record["by_n"]) == {"1", "3"}
  gold = _record(run, "corruption", "--of=gold", "--shares=0", "--episodes=4", "--prompts=1")
  assert {**gold["by_share"]["0"], "f1": gold["description_f1"]} == record["gold"]
  assert gold["without"] == record["without"]
  assert record["greedy"]["win_rate"]["users"] > 1
  assert (run / "studies" / "descriptions.png").stat().st_size > 10_000
  # One that is sampled is what the evaluation writes of a user at that temperature.
  whole = recipe.reopen(run)
  people = described.DescribedUsers(whole, users=4, prompts=1)
  length = Decoding(1.0, 1.0, whole.plan.settings.max_description_tokens)
  shots = [episode.shots for episode in people.episodes]
  written = people.models.writer(trained=True).describe(shots, length, seed=people.seed)
  texts = [w.text for w in written]
  assert {**people.measure(texts), "f1": people.f1(texts)} == record["by_n"]["1"]
  assert people.measure(["", *texts[1:]])["win_rate"]["users"] > 1  # nothing was written of one


def test_the_best_of_several_responses(run):
  """Of one that is sampled as the evaluation does it is FSPO as it is evaluated."""
  arguments = ("--n=1,3", "--temperatures=0.3,1", "--episodes=4", "--prompts=1")
  record = _record(run, "responses", *arguments)
  assert set(record["win_rate"]) == {"fspo"} and record["base_temperature"] == 0.3
  by = record["win_rate"]["fspo"]
  assert set(by) == {"0.3", "1.0"} and all(set(rates) == {"1", "3"} for rates in by.values())
  people = described.DescribedUsers(recipe.reopen(run), users=4, prompts=1)
  assert by["0.3"]["1"] == people.measure(None)["win_rate"]
  assert by["1.0"]["3"]["users"] == by["0.3"]["1"]["users"] > 1
  assert (run / "studies" / "responses.png").stat().st_size > 10_000


def test_who_never_learned_to_read_shots_is_not_asked_for_the_best(monkeypatch):
  """A run of VPL has a policy with rewards too, but nobody tells it who asks."""
  settings = types.SimpleNamespace(methods=("base", "vpl"))
  run = types.SimpleNamespace(
    plan=types.SimpleNamespace(settings=settings), workdir=types.SimpleNamespace(path="runs/vpl")
  )
  monkeypatch.setattr(recipe, "reopen", lambda path: run)
  with (
    _study("responses", "--workdir=runs/vpl") as study,
    pytest.raises(app.UsageError, match=r"found a run of \('base', 'vpl'\), expected one of"),
  ):
    study["main"](["responses"])


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--n=x"], "--n=x: expected integers of 1 or more"),
    (["--n=0,2"], "--n=0,2: expected"),
    (["--temperatures=0"], "--temperatures=0: expected numbers of more than 0"),
    (["--temperatures=1,nan"], "--temperatures=1,nan: expected"),
    (["--temperatures="], "--temperatures=: expected"),
    (["--temperatures=warm"], "--temperatures=warm: expected"),
  ],
)
def test_responses_that_cannot_be_sampled_are_refused_first(arguments, message):
  with (
    _study("responses", "--workdir=nowhere", *arguments) as study,
    pytest.raises(app.UsageError, match=message),
  ):
    study["main"](["responses"])


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--n="], "--n=: expected integers of 1 or more"),
    (["--n=2,x"], "--n=2,x: expected"),
    (["--n=0"], "--n=0: expected"),
    (["--n=1,2", "--temperature=0"], "--temperature=0.0: expected more than 0"),
    (["--n=1", "--temperature=-1"], "--temperature=-1.0: expected"),
  ],
)
def test_descriptions_that_cannot_be_written_are_refused_first(arguments, message):
  with (
    _study("descriptions", "--workdir=nowhere", *arguments) as study,
    pytest.raises(app.UsageError, match=message),
  ):
    study["main"](["descriptions"])


def test_of_users_of_no_world_nobody_knows_what_descriptions_say():
  """Nothing of the models is opened."""
  data = types.SimpleNamespace(truth=lambda source: None)
  plan = types.SimpleNamespace(data=data, evaluation={"unseen": None})
  run = types.SimpleNamespace(plan=plan, workdir=types.SimpleNamespace(path="runs/own"))
  with pytest.raises(app.UsageError, match="--workdir=runs/own: no world knows"):
    described.DescribedUsers(run, users=2, prompts=1)


def test_a_study_of_a_run_in_a_bucket_is_left_there(bucket, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  run = types.SimpleNamespace(
    workdir=types.SimpleNamespace(path=paths.path(f"{bucket}/studied")),
    config=types.SimpleNamespace(seed=3),
  )

  def draw(path: pathlib.Path):
    path.write_bytes(b"drawn")

  record_lib.write(run, "costs", {"seconds": 2.5}, draw, out=None)
  folder = paths.path(f"{bucket}/studied/studies")
  found = json.loads((folder / "costs.json").read_text())
  assert found["seconds"] == 2.5 and found["environment"]["seed"] == 3
  assert (folder / "costs.png").read_bytes() == b"drawn"
  assert f"{bucket}/studied/studies/costs.json and .png" in capsys.readouterr().out
  assert not [*tmp_path.iterdir()]


def test_what_an_answer_costs(run):
  record = _record(run, "latency", "--users=3", "--repeats=1")
  for by_users in record["by_users"].values():
    assert set(by_users) == {"1", "3"}
    assert all(found["seconds"] > 0 and found["tokens"] >= 1 for found in by_users.values())


def test_users_are_asked(run):
  arguments = ("--users=3", "--questions=2", "--pool=4", "--tests=2")
  record = _record(run, "questions", *arguments)
  for name in ("model", "ideal observer"):
    for summary in record[name].values():
      assert len(summary["accuracy"]) == 3
  assert record["scale"] > 0
  assert _record(run, "questions", *arguments)["model"] == record["model"]


@pytest.fixture(scope="module")
def of_a_set(run, tmp_path_factory):
  """A finished run of FSPO on a set that is diverse, but not coherent."""
  path = tmp_path_factory.mktemp("ablation") / "no_coherence"
  changes = {"preference__row_tokens": 1536, "preference__scored_tokens": 1280}
  changes["stages"] = ("synthesis", "base", "preference")
  name = "no_coherence,roleplay", "ablations/synthesis"
  tiny_base.run_row(run.parent / "base", path, *name, **changes)
  return path


def test_runs_meet_people_whom_nobody_made_them_for(of_a_set, tmp_path):
  """Two names of one run: the same people ask the same, so that the answers are the same."""
  (tmp_path / "again").symlink_to(of_a_set)
  runs = f"--workdirs={of_a_set},{tmp_path / 'again'}"
  small = ("--episodes=6", "--win_rate_users=2", f"--out={tmp_path}")
  with _study("transfer", runs, *small) as study:
    study["main"](["transfer"])
  record = json.loads((tmp_path / "transfer.json").read_text())
  found = record["runs"]["no_coherence"]
  assert record["runs"]["again"] == found
  assert record["world"] == "roleplay" and found["dropped_shots"] == 0
  assert set(found["accuracy"]["fspo"]) == {str(k) for k in range(9)}
  assert found["win_rate"]["fspo"]["users"] == 2
  assert (tmp_path / "transfer.png").stat().st_size > 5_000


def test_a_run_without_a_shifted_world_is_refused(run, tmp_path):
  with (
    _study("transfer", f"--workdirs={run}", f"--out={tmp_path}") as study,
    pytest.raises(app.UsageError, match="found the world 'reviews'"),
  ):
    study["main"](["transfer"])


def test_the_variants_are_what_they_say(of_a_set):
  """The flaws of the writers and the judge are the same for all four."""
  get_config = runpy.run_path(str(tiny.REPO / "experiments/ablations/synthesis.py"))["get_config"]
  made = {name: get_config(name).synthesis for name in ("full", "no_diversity", "no_coherence")}
  made["neither"] = get_config("neither,elix").synthesis
  assert len({str(found.flaws) for found in made.values()}) == 1
  diverse = {name for name, found in made.items() if found.set.steering == "views"}
  assert diverse == {name for name, found in made.items() if len(found.set.models) == 3}
  assert diverse == {name for name, found in made.items() if found.set.picked}
  coherent = {name for name, found in made.items() if found.set.refine}
  assert coherent == {name for name, found in made.items() if found.set.both_orders}
  assert (diverse, coherent) == ({"full", "no_coherence"}, {"full", "no_diversity"})
  with pytest.raises(ValueError, match="found 'half' after the colon"):
    get_config("half")
