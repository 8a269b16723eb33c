# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests that the pages can be read and used by everyone: contrast, labels, titles, no scripts."""

import re

import pytest

from tests.study import small

CSS = (small.REPO / "fspo_jax/study/static/study.css").read_text()
THEMES = [dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in CSS.split("@media")[:2]]


def _contrast(one, other):
  """WCAG 2.2's contrast ratio of two colours."""

  def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  dark, light = sorted((luminance(one), luminance(other)))
  return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(theme):
  assert _contrast("#000000", "#ffffff") == pytest.approx(21)
  for text in ("text", "soft", "accent", "danger"):
    for behind in ("page", "card"):
      assert _contrast(theme[text], theme[behind]) >= 4.5, (text, behind)
  assert _contrast(theme["on-accent"], theme["accent"]) >= 4.5
  assert _contrast(theme["on-note"], theme["note"]) >= 4.5
  for behind in ("page", "card"):
    assert _contrast(theme["line"], theme[behind]) >= 3.0


def _accessible(page):
  text = page.text
  assert '<html lang="en">' in text and re.search(r"<title>\w[^<]+ · ", text)
  assert text.count("<h1") == 1 and 'href="#main"' in text and 'id="main"' in text
  for field in re.findall(r"<(?:input|textarea)[^>]*>", text):
    if 'type="hidden"' in field:
      continue
    name = re.search(r'id="(\w+)"', field)
    inside = re.search(r"<label[^>]*>\s*" + re.escape(field), text)
    assert inside or f'for="{name[1]}"' in text, field
  for bar in re.findall(r"<progress[^>]*>", text):
    assert "aria-label" in bar
  for head in re.findall(r"<th(?: [^>]*)?>", text):
    assert "scope=" in head


def test_every_page_has_a_title_labels_and_a_way_to_its_content(study, browser, researcher):
  _accessible(browser.get("/"))
  _accessible(browser.join(consent=False))
  page = browser.join()
  _accessible(page)
  _accessible(browser.go_through(page))
  small.do_jobs(study)
  _accessible(browser.get("/compare/0"))
  _accessible(browser.get("/delete"))
  _accessible(browser.go_through(browser.get("/"), phase="compare"))
  for path in ("", "/estimates", "/login"):
    _accessible(researcher.get(f"/researcher{path}"))


def test_who_waits_asks_less_often_where_many_do(study, browser):
  browser.go_through(browser.join())
  assert 'http-equiv="refresh" content="3"' in browser.get("/wait").text
  for number, _ in study.store.invite(30, 0.0):
    with study.store.write() as db:
      db.execute(
        "INSERT INTO jobs (participant, kind, name, state) VALUES (?, 'respond', 'x', 'waiting')",
        (number,),
      )
  assert 'http-equiv="refresh" content="6"' in browser.get("/wait").text
