# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a folder in the layout of Hugging Face, through a run, to such a folder again."""

import json
import runpy
import shutil

import fsspec
import jax
import numpy as np
import pytest

import fspo_jax
from fspo_jax import base as base_lib
from fspo_jax import checks, export, paths, recipe
from fspo_jax.evaluation import judge
from fspo_jax.inference.writer import Writer
from fspo_jax.models import huggingface
from fspo_jax.training import metrics
from fspo_jax.workdir import Workdir
from tests import tiny

PROMPT = "Write a short review of the film Silent Harbour."
SHOTS = [{"prompt": PROMPT, "chosen": "I loved it.", "rejected": "I hated it."}]


def config(folder, **changes):
  """A run of two steps from a checkpoint in `folder`."""
  found = runpy.run_path(str(tiny.REPO / "experiments/hugging_face.py"))["get_config"](str(folder))
  small = {
    "vocab_chunk": 1024,
    "model.attention_block": 1024,
    "preference.shots": 2,
    "preference.layout.shot_pairs": False,
    "preference.layout.query_shots": (2,),
    "preference.rows_per_step": 1,
    "preference.row_tokens": 512,
    "preference.scored_tokens": 256,
    "preference.steps": 2,
    "preference.log_every": 1,
    "preference.optimizer.warmup_steps": 0,
    "preference.lora.rank": 2,
    "evaluation.shots": 2,
    "evaluation.episodes": 4,
    "evaluation.rows": 2,
    "evaluation.win_rate_users": 2,
    "evaluation.win_rate_prompts": 1,
    "evaluation.max_response_tokens": 4,
    "evaluation.bootstrap": 100,
  }
  with found.ignore_type():
    found.update_from_flattened_dict(
      small | {key.replace("__", "."): value for key, value in changes.items()}
    )
  return found


def run(workdir, c):
  recipe.Recipe(recipe.make_plan(c), Workdir(workdir, recipe.as_json(c))).run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A Llama whose embeddings have more rows than its tokenizer has ids, as many have."""
  path = tmp_path_factory.mktemp("llama") / "folder"
  tokenizer = tiny.tokenizer()
  model = tiny.model(roles=0, vocab_size=tokenizer.vocab_size + 7, attention_block=1024)
  beside = huggingface.Companions(
    max_length=4096,
    token_ids={"bos_token_id": 1, "eos_token_id": 2},
    generation={"eos_token_id": 2, "temperature": 0.6},
    tokenizer=tokenizer.files,
  )
  huggingface.save_model(path, tiny.params(model), model.config, beside)
  return path


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
  """A run from it."""
  path = tmp_path_factory.mktemp("run") / "run"
  run(path, config(folder))
  return path


def test_a_run_starts_at_the_folder(folder, trained):
  """The base is the folder's model; the policy starts at it, and moves."""
  base = Writer.load(trained / "checkpoints" / "base").params
  there = fspo_jax.load(folder).writer.params
  jax.tree.map(np.testing.assert_array_equal, base, there)
  first, last = metrics.read_jsonl(trained / "metrics" / "preference.jsonl")
  assert abs(first["rewards/margins"]) < 1e-5
  assert abs(first["preference/loss"] - np.log(2)) < 1e-5
  assert last["logps/abs_margins"] > 1e-3
  results = json.loads((trained / "results.json").read_text())
  assert "fspo" in results["preference_accuracy"]


def test_what_is_exported_is_the_policy(folder, trained, tmp_path):
  """The same answers, the tokenizer byte for byte, and what the folder said of generation."""
  assert export.main(["--workdir", str(trained), "--out", str(tmp_path / "out")]) == 0
  ours, theirs = fspo_jax.load(trained), fspo_jax.load(tmp_path / "out")
  said = [p.respond(SHOTS, PROMPT, max_new_tokens=12, temperature=0.0) for p in (ours, theirs)]
  assert said[0] == said[1]
  jax.tree.map(np.testing.assert_array_equal, ours.writer.params, theirs.writer.params)
  for name in ("tokenizer.model", "generation_config.json"):
    assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
  keys = json.loads((tmp_path / "out" / "config.json").read_text())
  assert keys["max_position_embeddings"] == 4096 and keys["bos_token_id"] == 1
  with pytest.raises(ValueError, match="compare with the reference"):
    theirs.rank(SHOTS, PROMPT, ["a", "b"])


def test_what_is_there_is_refused_before_anything_is_read(bucket, tmp_path):
  """Here and in a bucket: of the run, which there is not, nothing is asked."""
  (tmp_path / "used").mkdir()
  for used in (tmp_path / "used", f"{bucket}/used"):
    paths.write_atomic(paths.path(used) / "notes.txt", b"mine")
    for function in (export.export, export.export_adapter):
      with pytest.raises(huggingface.HuggingFaceError, match=r"found \['notes.txt'\], expected"):
        function(tmp_path / "no run", used)
  with pytest.raises(NotADirectoryError):
    export.export(tmp_path / "no run", tmp_path / "used" / "notes.txt")


def test_adapters_are_exported_alone(trained, tmp_path):
  assert export.main(["--workdir", str(trained), "--out", str(tmp_path / "a"), "--adapter"]) == 0
  keys = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
  assert (keys["r"], keys["lora_alpha"]) == (2, 32.0)
  assert (tmp_path / "a" / "adapter_model.safetensors").is_file()
  with pytest.raises(export.ExportError, match="found no adapters"):
    export.export_adapter(trained, tmp_path / "b", stage="base")


@pytest.mark.slow
def test_a_run_in_a_bucket_is_opened_exported_and_judged_there(
  folder, bucket, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  name = f"{bucket}/exported"
  run(f"{name}/run", config(folder))
  for file in ("results.json", "report/report.md", "report/report.html"):
    assert paths.path(f"{name}/run/{file}").is_file()

  ours = fspo_jax.load(f"{name}/run")
  assert len(ours.rank(SHOTS, "Was it long?", ["Yes.", "No."])) == 2  # it has the reference
  assert export.main(["--workdir", f"{name}/run", "--out", f"{name}/out"]) == 0
  theirs = fspo_jax.load(f"{name}/out")
  jax.tree.map(np.testing.assert_array_equal, ours.writer.params, theirs.writer.params)
  here = tmp_path / "out"
  assert export.main(["--workdir", f"{name}/run", "--out", str(here)]) == 0
  for file in sorted(here.iterdir()):
    assert paths.path(f"{name}/out/{file.name}").read_bytes() == file.read_bytes()
  assert export.main(["--workdir", f"{name}/run", "--out", f"{name}/a", "--adapter"]) == 0
  assert paths.path(f"{name}/a/adapter_model.safetensors").is_file()
  assert export.main(["--workdir", f"{name}/run", "--out", f"{name}/out"]) == 1
  assert "expected a new or an empty folder" in capsys.readouterr().err

  judge.main([f"{name}/run", "--model=world"])
  found = json.loads(paths.path(f"{name}/run/judge/world.json").read_text())
  known = json.loads(paths.path(f"{name}/run/results.json").read_text())["win_rate"]["fspo"]
  for split, by in found["win_rate"]["fspo"].items():
    assert by["mean"] == pytest.approx(known[split]["mean"])

  shutil.rmtree(here)
  store, root = fsspec.url_to_fs(f"{name}/run")
  store.get(root, str(tmp_path / "run"), recursive=True)  # as `gcloud storage cp -r` does
  copied = fspo_jax.load(tmp_path / "run")
  jax.tree.map(np.testing.assert_array_equal, ours.writer.params, copied.writer.params)
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_the_folder_is_not_is_refused(folder, tmp_path):
  with pytest.raises(base_lib.BaseError, match=r"model.width.*16.*32"):
    checks.check(config(folder, model__width=32))
  with pytest.raises(base_lib.BaseError, match="template='markers'"):
    checks.check(config(folder, template="markers"))
  with pytest.raises(ValueError, match="chat template"):
    checks.check(config(folder, template="chat"))
  with pytest.raises(base_lib.BaseError, match=r"found no model.safetensors"):
    checks.check(config(folder, base=str(tmp_path)))


def test_what_others_have_no_model_for_is_not_exported(tmp_path, capsys):
  """A run from scratch has embeddings of roles."""
  c = config_of_scratch()
  run(tmp_path / "run", c)
  assert export.main(["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
  assert "roles" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def config_of_scratch():
  found = runpy.run_path(str(tiny.REPO / "experiments/quickstart.py"))["get_config"]("scratch")
  found.stages = ("tokenizer", "sft")
  found.tokenizer.corpus_lines = 500
  found.tokenizer.vocab_size = 600
  found.model.layers = 1
  found.model.attention_block = 1024
  found.sft.steps = 1
  found.sft.rows_per_step = found.sft.row_episodes = found.sft.window_rows = 1
  found.sft.row_tokens = 1024
  found.sft.scored_tokens = 1024
  found.sft.optimizer.warmup_steps = 0
  return found


def test_adapters_on_stories260k_start_at_the_reference(shared_data, tmp_path):
  """A real checkpoint, in the paper's headings: margin 0, then it learns."""
  c = config(
    shared_data / "stories260k",
    stages=("base", "preference"),
    preference__shots=1,
    preference__layout__shot_pairs=False,
    preference__layout__query_shots=(1,),
    preference__row_tokens=512,
    preference__scored_tokens=256,
    preference__steps=8,
    preference__optimizer__decay_fraction=0.0,
    preference__optimizer__learning_rate=3e-3,
    preference__loss__chosen_weight=1.0,
    preference__lora__rank=8,
  )
  run(tmp_path, c)
  rows = metrics.read_jsonl(tmp_path / "metrics" / "preference.jsonl")
  assert abs(rows[0]["rewards/margins"]) < 1e-5
  assert abs(rows[0]["preference/loss"] - np.log(2)) < 1e-5
  assert rows[-1]["nll/chosen"] < rows[0]["nll/chosen"] - 0.1
