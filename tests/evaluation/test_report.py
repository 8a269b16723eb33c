# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import html
import re

import markdown_it
import matplotlib.image
import numpy as np
import pytest

from fspo_jax.evaluation import plots, report
from fspo_jax.evaluation import results as results_lib
from fspo_jax.evaluation.methods import METHODS
from fspo_jax.pages import markdown
from fspo_jax.pages.document import Figure, Section
from fspo_jax.preferences import Preference

FIVE = ("base", "fewshot_prompted", "fspo", "fspo_rat", "oracle")


def _full() -> dict:
  accuracy, intervals, wins = {}, {}, {}
  for i, method in enumerate(FIVE):
    ks = 1 if method in ("base", "oracle") else 9
    by_k = {str(k): 0.5 + 0.01 * i + 0.02 * k for k in range(ks)}
    accuracy[method] = dict.fromkeys(results_lib.SPLITS, by_k)
    intervals[method] = {
      split: {k: [x - 0.02, x + 0.03] for k, x in by_k.items()} for split in results_lib.SPLITS
    }
    rate = {"mean": 0.5 + 0.1 * i, "ci95": [0.45 + 0.1 * i, 0.55 + 0.1 * i], "users": 120}
    wins[method] = dict.fromkeys(results_lib.SPLITS, rate)
  return {
    "preference_accuracy": accuracy,
    "preference_accuracy_ci95": intervals,
    "bayes_accuracy": {"unseen": {str(k): 0.55 + 0.04 * k for k in range(9)}},
    "win_rate": wins,
    "win_rate_temperature_1": {"fspo": {"unseen": {"mean": 0.66, "ci95": None, "users": 1}}},
    "wall_seconds": {"sft": 3.25, "preference": 754, "evaluation": 7320},
    "environment": results_lib.environment(seed=0),
    "baselines": {"majority": {"unseen": 0.523}},
    "descriptions": {"attributes_recovered": 0.71},
  }


def _minimal() -> dict:
  """Real users, and a model of one shot at most: no world, no judge."""
  return {
    "preference_accuracy": {"fspo": {"unseen": {"0": 0.5, "1": 0.612}}},
    "preference_accuracy_ci95": {"fspo": {"unseen": {"0": None, "1": [0.6, 0.625]}}},
    "bayes_accuracy": {},
    "win_rate": {},
    "wall_seconds": {},
    "environment": {},
  }


def _sample(**changes) -> report.UserSample:
  shots = [Preference(f"question {i}", f"good {i}", f"bad {i}") for i in range(5)]
  fields = {
    "user_id": "u_7",
    "description": "Likes *short* answers.",
    "shots": shots,
    "prompt": "Why is\nthe sky blue?",
    "responses": {"fspo": "Light | plays.\n\n# <b>Tag</b>", "base": "Rayleigh."},
    "rewards": {"fspo": 1.5, "base": -0.25},
    "written_description": "Short and playful.",
  }
  return report.UserSample(**{**fields, **changes})


def _draw(path) -> None:
  plots.training_curves([{"step": i, "loss": 1 / (1 + i)} for i in range(9)], path, names=["loss"])


def _tables(text: str) -> list[list[list[str]]]:
  """Every Markdown table as its rows of cells, without the rule under the header."""
  tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
  return [
    [
      [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
      for i, line in enumerate(table.splitlines())
      if i != 1
    ]
    for table in tables
  ]


def test_full_report(tmp_path):
  results = _full()
  path = report.write_report(
    tmp_path / "new" / "directory",
    results,
    [_sample(), _sample(user_id="v"), _sample(user_id="w")],
    title="The elix world",
    notes=["Seed 0 alone."],
    data_facts={"training users": 1200},
    sections=[Section("Training", [Figure("training", "Training", _draw)])],
  )
  text = path.read_text()
  assert path == tmp_path / "new" / "directory" / "report.md"
  headline = markdown.line(report.headline(results))
  assert text.startswith("# The elix world\n\n" + headline + "\n\nSeed 0 alone.\n")
  for piece in (
    "| training users | 1200 |",
    "| Seed | 0 |",
    results["environment"]["date"],
    "## Win rate (temperature 1)\n",
    "| majority | 52.3 |",
    "### User u\\_7",
    "![Training](training.png)",
    "12 min 34 s",
    "2 h 02 min",
    '"attributes_recovered": 0.71',
  ):
    assert piece in text
  for name in re.findall(r"\]\((\w+\.png)\)", text):
    assert (path.parent / name).stat().st_size > 10_000
  for table in _tables(text):
    assert {len(row) for row in table} == {len(table[0])}
  # A footnote for every method.
  for method in FIVE:
    assert f"- **{METHODS[method].label}**: " in text


def test_the_page_has_the_same_tables_and_what_models_write_stays_text(tmp_path):
  attack = '<script>alert("x")</script>'
  sample = _sample(
    user_id=attack,
    description=f"Likes {attack}.",
    written_description=attack,
    prompt=f"Why {attack}?",
    responses={"fspo": attack, "base": "</dd></main><img src=x onerror=alert(1)>"},
    shots=[Preference(attack, attack, attack)],
  )
  results = _full() | {"baselines": {attack: {"unseen": 0.5}}}
  results["environment"]["command"] = f"python {attack}"
  for i in range(2):
    report.write_report(
      tmp_path / str(i),
      results,
      [sample],
      title=attack,
      notes=[attack],
      data_facts={attack: attack},
    )
  page, text = (tmp_path / "0" / f"report.{kind}" for kind in ("html", "md"))
  assert page.read_bytes() == (tmp_path / "1" / "report.html").read_bytes()
  page, text = page.read_text(), text.read_text()
  reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
  for written in (page, reader.render(text)):
    assert "<script" not in written
    assert "<img src=x" not in written
  assert (
    html.unescape(page).count(attack) == html.unescape(text).count(attack) + 1
  )  # the window's title
  # Every cell of every table, but for what is no table in the page.
  rows = [
    [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
    for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)
  ]
  for table in _tables(text):
    if not {"shots", "response"} & {*table[0]}:
      for row in table:
        plain = [html.unescape(re.sub(r"\\(.)|\*\*|^`|`$", r"\1", cell)) for cell in row]
        assert plain in rows or not any(plain)


def test_accuracy_table_puts_methods_beside_the_bayes_ceiling(tmp_path):
  text = report.write_report(tmp_path, _full(), [], title="t").read_text()
  table = next(table for table in _tables(text) if table[0][0] == "k")
  assert table[0] == ["k", *(METHODS[m].label for m in FIVE), "Bayes ceiling"]
  assert [row[0] for row in table[1:]] == [str(k) for k in range(9)]
  assert table[3][3] == "56.0 [54.0, 59.0]"  # FSPO at k = 2
  assert table[3][1] == ""  # The base model uses no shots.
  assert table[3][6] == "63.0"


def test_minimal_report_leaves_out_what_it_lacks(tmp_path):
  text = report.write_report(tmp_path, _minimal(), [], title="Real users").read_text()
  for absent in ("Bayes", "Win rate", "Side by side", "Baselines", "Wall time", "Oracle", "nan"):
    assert absent not in text
  assert "| 1 | 61.2 [60.0, 62.5] |" in text
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "accuracy_by_k.png",
    "report.html",
    "report.md",
  ]


def test_headline_is_computed_from_the_results():
  assert markdown.line(report.headline(_minimal())) == (
    "**Unseen users, up to 1 shot:** preference accuracy is FSPO 61.2 % [60.0, 62.5]."
  )
  full = markdown.line(report.headline(_full()))
  assert "up to 8 shots" in full
  assert "FSPO 68.0 % [66.0, 71.0], FSPO + RAT 69.0 %" in full
  assert "the Bayes ceiling 87.0 %" in full
  assert "FSPO wins 70.0 % [65.0, 75.0] (120 users), FSPO + RAT wins 80.0 %" in full


def test_sample_shows_three_shots_and_folds_the_rest(tmp_path):
  text = report.write_report(tmp_path, _minimal(), [_sample()], title="t").read_text()
  before, folded = text.split("<details><summary>2 more shots</summary>\n\n")
  folded = folded.split("\n\n</details>")[0]
  assert "good 2" in before
  assert "good 3" not in before
  assert "bad 4" in folded
  responses = next(table for table in _tables(text) if "response" in table[0])
  assert responses == [
    ["", "response", "reward", "against the base"],
    ["Base", "Rayleigh.", "-0.25", ""],
    ["FSPO", r"Light \| plays.<br><br>\# &lt;b&gt;Tag&lt;/b&gt;", "**1.50**", "wins"],
  ]
  assert r"**Gold description:** Likes \*short\* answers." in text
  assert "**Description the model wrote:** Short and playful." in text


def test_sample_of_a_real_user(tmp_path):
  sample = _sample(description=None, rewards=None, written_description=None, shots=[])
  text = report.write_report(tmp_path, _minimal(), [sample], title="t").read_text()
  for absent in ("escription", "reward |", "chosen", "details"):
    assert absent not in text.partition("## Side by side")[2]
  assert "Why is<br>the sky blue?" in text


def test_report_refuses_wrong_input(tmp_path):
  with pytest.raises(ValueError, match="'u_7'.*'fsop'"):
    report.write_report(tmp_path, _minimal(), [_sample(responses={"fsop": ""})], title="t")
  with pytest.raises(ValueError, match="bayes_accuracy"):
    results = {key: value for key, value in _minimal().items() if key != "bayes_accuracy"}
    report.write_report(tmp_path, results, [], title="t")


def test_every_method_has_a_footnote_and_a_colour_of_its_own():
  assert all(method.about.endswith(".") for method in METHODS.values())
  for get in (lambda m: m.label, lambda m: m.about, lambda m: m.color):
    assert len({get(method) for method in METHODS.values()}) == len(METHODS)


def _picture(path) -> np.ndarray:
  picture = matplotlib.image.imread(path)
  assert picture.std() > 0.01, "the picture is blank"
  return picture


def test_plots_are_drawn_the_same_every_time(tmp_path):
  for name, plot in (("accuracy", plots.accuracy_by_k), ("wins", plots.win_rates)):
    for i in range(2):
      plot(_full(), tmp_path / f"{name}{i}.png")
    assert (tmp_path / f"{name}0.png").read_bytes() == (tmp_path / f"{name}1.png").read_bytes()
    both_splits = _picture(tmp_path / f"{name}0.png")
    assert both_splits.shape[1] > 1.5 * both_splits.shape[0]


def test_win_rates_of_another_key_and_without_an_interval(tmp_path):
  plots.win_rates(_full(), tmp_path / "wins.png", key="win_rate_temperature_1")
  _picture(tmp_path / "wins.png")
  with pytest.raises(ValueError, match="win_rate: .*at least one"):
    plots.win_rates(_minimal(), tmp_path / "none.png")
  assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("steps", [3, 300])
@pytest.mark.parametrize("names", [["loss"], ["loss", "a/accuracy", "loss", "a/accuracy", "loss"]])
def test_training_curves(tmp_path, steps, names):
  rows = [{"step": i, "loss": 1 / (1 + i)} for i in range(steps)]
  rows += [{"step": i, "a/accuracy": 0.5 + i / 1000} for i in range(steps)]
  plots.training_curves(rows, tmp_path / "curves.png", names=names)
  _picture(tmp_path / "curves.png")


def test_training_curves_name_what_is_missing(tmp_path):
  with pytest.raises(ValueError, match=r"'los'.*\['loss', 'step'\]"):
    plots.training_curves([{"step": 0, "loss": 1.0}], tmp_path / "x.png", names=["los"])
  with pytest.raises(ValueError, match="at least one"):
    plots.training_curves([], tmp_path / "x.png", names=[])
