# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of AlpacaEval's files, on two files made by its definition and on the real instructions."""

import gzip
import json
import math
import pathlib

import numpy as np
import pytest

from fspo_jax import paths
from fspo_jax.evaluation import alpaca_eval, alpaca_files, responses
from fspo_jax.inference import loading
from fspo_jax.preferences import Preference
from tests import tiny

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "alpaca_eval"
REAL = tiny.REPO.parent / "shared" / "data" / "alpaca_eval"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no ../shared/data/alpaca_eval")


@pytest.mark.parametrize("name", ["shorter", "longer"])
def test_the_command_prints_the_columns_of_the_leaderboard(name, capsys):
  expected = json.loads((FIXTURES / "expected.json").read_text())[name]
  gamed = f"--gamed={FIXTURES / 'df_gamed.csv'}"
  alpaca_eval.main(["score", str(FIXTURES / f"{name}.json"), gamed])
  found = json.loads(capsys.readouterr().out)
  for key, value in expected["length_controlled_v1"].items():
    assert found[key] == pytest.approx(value, abs=1e-6), key
  assert found["variant"] == "length_controlled_v1" and found["knowledge"] == "df_gamed.csv"
  for variant, columns in expected.items():
    own = found["length_controlled"][variant]["length_controlled_winrate"]
    assert own == pytest.approx(columns["length_controlled_winrate"], abs=1e-6)


def test_without_knowledge_the_variant_says_so():
  found = alpaca_eval.score(alpaca_files.read_annotations(FIXTURES / "longer.json"))
  assert (found["variant"], found["knowledge"]) == ("length_controlled_minimal", "none")
  assert set(found["length_controlled"]) == {"length_controlled_minimal"}


def test_difficulties_alone_do_not_regularize(tmp_path):
  known = alpaca_files.read_gamed(FIXTURES / "df_gamed.csv")
  path = tmp_path / "instruction_difficulty.csv"
  lines = [f"{i},{x!r}\n" for i, x in enumerate(known.difficulty.tolist())]
  path.write_text("index,instruction_difficulty\n" + "".join(lines))
  alone = alpaca_files.read_difficulty(path)
  found = alpaca_eval.score(alpaca_files.read_annotations(FIXTURES / "longer.json"), alone)
  expected = json.loads((FIXTURES / "expected.json").read_text())["longer"]
  assert found["variant"] == "length_controlled_noreg"
  assert found["length_controlled_winrate"] == pytest.approx(
    expected["length_controlled_noreg"]["length_controlled_winrate"], abs=1e-6
  )


def _annotation(i, preference, **changes):
  return {
    "instruction": f"{i}?",
    "output_1": "a" * (3 + i % 4),
    "output_2": "b" * (3 + i % 5),
    "generator_1": "base",
    "generator_2": "ours",
    "preference": preference,
  } | changes


def _write(path, rows, compress=False):
  data = json.dumps(rows).encode()
  path.write_bytes(gzip.compress(data) if compress else data)
  return path


def test_ties_of_old_files_and_missing_preferences(tmp_path):
  rows = [_annotation(i, p) for i, p in enumerate([1, 2, 0, 1.5, None, math.nan, -1, 1.25])]
  wins = [a.win for a in alpaca_files.read_annotations(_write(tmp_path / "a.json", rows))]
  np.testing.assert_array_equal(wins, [0, 1, 0.5, 0.5, np.nan, np.nan, np.nan, 0.25])
  found = alpaca_eval.win_rates(np.array(wins))
  assert found["win_rate"] == pytest.approx(45.0)
  # The discrete rate counts the 1.25 as a loss.
  assert found["discrete_win_rate"] == pytest.approx(40.0)
  counts = {k: v for k, v in found.items() if k.startswith("n_")}
  assert counts == {"n_wins": 1, "n_wins_base": 2, "n_draws": 2, "n_total": 5, "n_unjudged": 3}


def test_the_baseline_against_itself_is_a_half(tmp_path):
  rows = [_annotation(i, 1.5, generator_2="base", output_2="a") for i in range(6)]
  found = alpaca_eval.score(alpaca_files.read_annotations(_write(tmp_path / "a.json", rows, True)))
  assert found["length_controlled_winrate"] == 50 and found["lc_standard_error"] == 0


def test_what_has_no_length_controlled_rate_has_a_win_rate(tmp_path):
  rows = [_annotation(i, 1 + i % 2) for i in range(4)]
  found = alpaca_eval.score(alpaca_files.read_annotations(_write(tmp_path / "a.json", rows)))
  assert found["win_rate"] == 50 and found["length_controlled_winrate"] is None
  assert found["variant"] == "none: expected 5 or more comparisons with a preference, found 4"
  known = alpaca_files.read_gamed(FIXTURES / "df_gamed.csv")
  many = alpaca_files.read_annotations(
    _write(tmp_path / "b.json", [_annotation(i, 2) for i in range(161)])
  )
  with pytest.raises(ValueError, match="df_gamed.csv: knows 160 instructions, found 161"):
    alpaca_eval.score(many, known)


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([], "expected a JSON list with entries"),
    ({"instruction": "?"}, "expected a JSON list"),
    ([_annotation(0, 1), _annotation(1, "2")], r"a.json\[1\].preference: found '2'"),
    ([_annotation(0, 1, output_1=None)], r"a.json\[0\].output_1: expected a text, found None"),
    ([_annotation(0, 1), "text"], r"a.json\[1\]: expected an object"),
  ],
)
def test_what_are_no_annotations_is_named(tmp_path, rows, message):
  with pytest.raises(ValueError, match=message):
    alpaca_files.read_annotations(_write(tmp_path / "a.json", rows))


def test_one_model_against_one_baseline(tmp_path):
  rows = [_annotation(i, 1 + i % 2, generator_2=f"model {i % 2}") for i in range(20)]
  with pytest.raises(ValueError, match="generator_2: expected one .*'model 0', 'model 1'"):
    alpaca_eval.score(alpaca_files.read_annotations(_write(tmp_path / "a.json", rows)))
  rows = [_annotation(i, None) for i in range(20)]
  with pytest.raises(ValueError, match="found none in 20 annotations"):
    alpaca_eval.score(alpaca_files.read_annotations(_write(tmp_path / "a.json", rows)))


def test_outputs_are_read_as_they_were_written(tmp_path):
  outputs = [
    {"instruction": f"Grüße {i}?", "output": f"ja\n{i} \u2028", "generator": "fspo"} for i in (0, 1)
  ]
  alpaca_files.write_outputs(tmp_path / "o.json", outputs)
  assert alpaca_files.read_outputs(tmp_path / "o.json") == outputs
  with pytest.raises(ValueError, match="twice"):
    alpaca_files.write_outputs(tmp_path / "o.json", [*outputs, outputs[0]])


def test_outputs_may_go_to_a_bucket(bucket, tmp_path):
  outputs = [{"instruction": "Grüße?", "output": "ja", "generator": "fspo"}]
  alpaca_files.write_outputs(tmp_path / "o.json", outputs)
  alpaca_files.write_outputs(f"{bucket}/alpaca/o.json", outputs)
  there = paths.path(f"{bucket}/alpaca/o.json")
  assert there.read_bytes() == (tmp_path / "o.json").read_bytes()


def _run(path, description="Likes it short."):
  answered = [
    responses.Answered(
      "unseen", 0.3, f"user {i}", description and f"{description} ({i})", (),
      ["Why?", f"Who is {i}?"], {"base": ["a", "b"], "fspo": ["c", f"d {i}"]},
    )
    for i in range(3)
  ]  # fmt: skip
  (path / responses.NAME).write_bytes(responses.dumps(answered))
  return str(path)


def test_a_run_is_exported(tmp_path, capsys):
  out = str(tmp_path / "model_outputs.json")
  alpaca_eval.main(["export", _run(tmp_path), "--method=fspo", f"--out={out}"])
  assert alpaca_files.read_outputs(out) == [
    {"instruction": "Why?", "output": "c", "generator": "fspo"},
    *({"instruction": f"Who is {i}?", "output": f"d {i}", "generator": "fspo"} for i in range(3)),
  ]
  assert "2 left out, whose instruction another has" in capsys.readouterr().out
  told = ["--about=description", "--generator=ours"]
  alpaca_eval.main(["export", _run(tmp_path), "--method=fspo", f"--out={out}", *told])
  found = alpaca_files.read_outputs(out)
  assert len(found) == 6 and found[0]["generator"] == "ours"
  assert found[0]["instruction"] == "About me: Likes it short. (0)\n\nWhy?"


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (["--method=vpl"], "found 'vpl', expected one of"),
    (["--method=fspo", "--split=heldout_combinations"], "found no responses"),
    (["--method=fspo", "--about=description"], "'user 0' has no description"),
    (["--method=fspo", "--temperature=2"], "found no responses"),
  ],
)
def test_what_cannot_be_exported_is_named(tmp_path, more, message):
  run, out = _run(tmp_path, description=None), f"--out={tmp_path / 'o.json'}"
  with pytest.raises(SystemExit, match=message):
    alpaca_eval.main(["export", run, out, *more])


class _Loud:
  """A model that shouts, and what it was asked."""

  def __init__(self):
    self.asked = []

  def respond_many(self, users, prompts, *, max_new_tokens, temperature, seed):
    self.asked.append((users, max_new_tokens, temperature, seed))
    return [[prompt.upper() for prompt in own] for own in prompts]


def test_a_model_answers_instructions_for_a_user(tmp_path, monkeypatch):
  model = _Loud()
  monkeypatch.setattr(loading, "load", lambda path: model)
  shot = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
  (tmp_path / "ana.jsonl").write_text(json.dumps(shot | {"user_id": "ana"}) + "\n")
  asked = _write(
    tmp_path / "i.json", [{"instruction": f"q {i}", "dataset": "d"} for i in range(40)]
  )
  out = tmp_path / "o.json"
  arguments = ["answer", "runs/x", f"--instructions={asked}", f"--out={out}", "--generator=loud"]
  alpaca_eval.main([*arguments, f"--preferences={tmp_path / 'ana.jsonl'}", "--seed=7"])
  assert alpaca_files.read_outputs(out) == [
    {"instruction": f"q {i}", "output": f"Q {i}", "generator": "loud"} for i in range(40)
  ]
  shots = (Preference(**shot),)
  assert model.asked == [([shots], 512, 0.0, 7), ([shots], 512, 0.0, 7 + 32)]
  two = [json.dumps(shot | {"user_id": name}) + "\n" for name in ("ana", "ben")]
  (tmp_path / "two.jsonl").write_text("".join(two))
  with pytest.raises(SystemExit, match="expected one user, found 2"):
    alpaca_eval.main([*arguments, f"--preferences={tmp_path / 'two.jsonl'}"])


@needs_real
@pytest.mark.parametrize("name", ["claude-2.1_concise", "gpt4_0613_verbose"])
def test_real_outputs_are_written_as_they_were_read(name, tmp_path):
  outputs = alpaca_files.read_outputs(REAL / f"{name}.json.gz")
  alpaca_files.write_outputs(tmp_path / "o.json", outputs)
  assert alpaca_files.read_outputs(tmp_path / "o.json") == outputs and len(outputs) == 805
  instructions = alpaca_files.read_instructions(REAL / "instructions_805.json")
  assert instructions == [output["instruction"] for output in outputs]


@needs_real
def test_the_real_instructions_are_the_known_ones():
  """And real outputs, with preferences drawn by a known model, are scored as it has them."""
  outputs = alpaca_files.read_outputs(REAL / "gpt4_0613_verbose.json.gz")
  concise = alpaca_files.read_outputs(REAL / "gpt4_0613_concise.json.gz")
  known = alpaca_files.known()
  assert [alpaca_files.digest(o["instruction"]) for o in outputs] == list(known.digests)
  assert len(known.digests) == 805 and known.baseline_rows.length.shape == (1610,)
  difference = np.array(
    [len(a["output"]) - len(b["output"]) for a, b in zip(outputs, concise, strict=True)]
  )
  score = -1.8 * np.tanh(difference / difference.std(ddof=1)) + known.difficulty - 1.0
  rows = [
    alpaca_files.Annotation(
      a["instruction"], a["output"], b["output"], alpaca_files.BASELINE, "ours", win
    )
    for a, b, win in zip(outputs, concise, 1 / (1 + np.exp(-score)), strict=True)
  ]
  found = alpaca_eval.score(rows)
  assert found["variant"] == "length_controlled_v1" and found["misplaced"] == 0
  truth = 100 * (1 / (1 + np.exp(1.0 - known.difficulty))).mean()
  assert found["length_controlled_winrate"] == pytest.approx(truth, abs=1.0)
  assert found["win_rate"] < truth - 10  # most of which its short answers had cost
  assert alpaca_eval.score(rows[1:])["misplaced"] == 804
