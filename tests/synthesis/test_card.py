# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import json
import re

import matplotlib.image
import numpy as np
import pytest

from fspo_jax.pages import markdown
from fspo_jax.pages.document import Document
from fspo_jax.synthesis import card as card_lib
from fspo_jax.synthesis import quality, quality_schema
from fspo_jax.synthesis.embedders import CharacterNgrams
from fspo_jax.synthesis.measures import QualityError
from fspo_jax.synthesis.quality import Gate
from fspo_jax.synthesis.records import Item, Response, SyntheticUser, Votes

FACTS = {"command": "make it", "settings": {"users": 6, "models": [["a", 1.0]]}}


def _measured():
  words = ["film", "book", "class", "walk", "music", "garden"]
  items = [
    Item(
      i,
      "train",
      f"topic {i}",
      f"How do I start | {i}?",
      tuple(Response(f"Try the {word} number {i}.", "m", 1.0, "") for word in words),
      {"schema": 1} if i == 0 else {},
    )
    for i in range(12)
  ]

  def user(u):
    rng = np.random.default_rng(u)
    wins = (2 * rng.integers(0, 2, 12)).tolist()
    after = tuple(Votes(i, 0, 1 + i % 5, (w, 2), (w, 2)) for i, w in enumerate(wins))
    before = tuple(Votes(v.item, v.a, v.b, (2, 2), (0, 2)) for v in after)
    final = f"User {u} likes *calm*. And books."
    return SyntheticUser(
      u, f"u{u}", "train", f"User {u} likes *calm*.", final, 1, before, after, tuple(range(12)), {}
    )

  return quality.measure(items, [user(u) for u in range(6)], CharacterNgrams(), seed=3)


@pytest.fixture(scope="module", name="measured")
def _measured_once():
  return _measured()


# The toy's responses are all of one form.
GATE = Gate(max_similarity=0.9, max_length_bias=0.5, max_regenerate=1)


def test_the_page_has_the_numbers_and_its_images(tmp_path, measured):
  path = card_lib.write(tmp_path, measured, GATE, FACTS)
  assert path == tmp_path / card_lib.CARD_FILE
  page = (tmp_path / "card.md").read_text()
  images = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
  assert len(images) == 5
  for name in images:
    assert matplotlib.image.imread(tmp_path / name).std() > 0
    assert (tmp_path / name).stat().st_size < 60_000
  assert "**The set passes the gate.**" in page
  assert f"{measured.diversity.mean.mean:.3f}" in page
  assert "0.693" in page  # before refinement all pairs are split in half
  assert "72 preferences of 6 users" in page
  assert "| questions | schema | 1 |" in page
  assert len(re.findall(r"- \*\*First description:\*\* User \d likes \\\*calm\\\*\.", page)) == 5
  assert "- **Appended by refinement:** And books." in page
  assert r"How do I start \| 0?" in page
  assert "| command | make it |" in page
  assert "| settings.users | 6 |" in page
  assert "seed" in page


def test_equal_sets_give_equal_bytes(tmp_path, measured):
  for name, card in (("a", measured), ("b", _measured())):
    card_lib.write(tmp_path / name, card, GATE, FACTS)
  ours, theirs = sorted((tmp_path / "a").iterdir()), sorted((tmp_path / "b").iterdir())
  assert [path.name for path in ours] == [path.name for path in theirs]
  for a, b in zip(ours, theirs, strict=True):
    assert a.read_bytes() == b.read_bytes(), a.name


def test_read_gives_the_card_back(tmp_path, measured):
  path = card_lib.write(tmp_path, measured, GATE, FACTS)
  assert quality_schema.as_json(card_lib.read(path)) == quality_schema.as_json(measured)
  assert json.loads(path.read_text())["facts"] == FACTS
  # What is drawn from the stored card is what was drawn.
  card_lib.write(tmp_path / "again", card_lib.read(path), GATE, FACTS)
  assert (tmp_path / "again" / "card.md").read_bytes() == (tmp_path / "card.md").read_bytes()


def test_a_report_has_the_card_as_a_section(tmp_path, measured):
  path = card_lib.write(tmp_path / "set", measured, GATE, FACTS)
  made = Document("Quality card", [card_lib.section(path, GATE)])
  (tmp_path / "report").mkdir()
  markdown.write(tmp_path / "report" / "report.md", made)
  text = (tmp_path / "report" / "report.md").read_text()
  # The same page, one level down, with plots of its own.
  page = (tmp_path / "set" / "card.md").read_text()
  deeper = re.sub(r"^#(?=#+ )", "##", page, flags=re.MULTILINE)
  assert text == deeper.replace(
    "# Quality card\n", "# Quality card\n\n## Quality card of the data\n", 1
  )
  for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page):
    plots = [(tmp_path / folder / name).read_bytes() for folder in ("set", "report")]
    assert plots[0] == plots[1]
  # Another gate than the one that the set was made with.
  short = card_lib.section(path, Gate(max_similarity=0.1))
  assert "falls short" in short.blocks[2].text.text


def test_the_gate(tmp_path, measured):
  path = card_lib.write(tmp_path, measured, Gate(max_similarity=0.1), FACTS)
  page = (tmp_path / "card.md").read_text()
  assert "**The set falls short of the gate:**" in page
  assert "- mean similarity of responses to a prompt: found" in page
  card_lib.check_gate(path, GATE, how_to_go_on="--flag")
  with pytest.raises(QualityError, match="similarity") as error:
    gate = Gate(max_similarity=0.1, min_preferences=100)
    card_lib.check_gate(path, gate, how_to_go_on="--config.data.below_gate=accept")
  assert str(path) in str(error.value)
  assert "expected at least 100" in str(error.value)
  assert "--config.data.below_gate=accept" in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"quality": {"seed": 0}}', "\u20ac{"])
def test_a_broken_card_is_named(tmp_path, text):
  path = tmp_path / "card.json"
  path.write_text(text, encoding="utf-8")
  with pytest.raises(QualityError, match=re.escape(str(path))):
    card_lib.check_gate(path, Gate(), how_to_go_on="--flag")
  with pytest.raises(QualityError, match="no quality card"):
    card_lib.read(tmp_path / "nowhere.json")


def test_facts_must_be_json(tmp_path, measured):
  with pytest.raises(TypeError):
    card_lib.write(tmp_path / "x", measured, GATE, {"embedder": object()})
  assert not (tmp_path / "x").exists()


def test_a_set_without_preferences_has_a_page(tmp_path):
  item = Item(0, "train", "t", "q", (Response("a", "m", 1.0, ""),), {})
  user = SyntheticUser(0, "u", "train", "p", "d", 0, (), (), (), {})
  empty = quality.measure([item], [user], CharacterNgrams(), seed=0)
  card_lib.write(tmp_path, empty, GATE, {})
  page = (tmp_path / "card.md").read_text()
  assert "not measured" in page
  # Nobody can be compared.
  assert "disagreement.png" not in page
  assert not (tmp_path / "disagreement.png").exists()
