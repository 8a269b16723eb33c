# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small studies, people with known tastes, and models that can read them."""

import contextlib
import json
import pathlib
import re
import threading

import numpy as np
from starlette.testclient import TestClient

from fspo_jax.study import app, opening, personalizing
from fspo_jax.study import settings as settings_lib

REPO = pathlib.Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
HTML = re.compile(r'name="(\w+)" value="([^"]*)"')
SHORT, LONG = "Yes.", "That is a question with a long history, to which there are many answers."


def config(folder, **changes):
  """A config with 14 pairs of a short and a long answer; keys are written with __ for the dots."""
  folder.mkdir(parents=True, exist_ok=True)
  pairs = [
    {"prompt": f"Question {i}?", "responses": [f"{SHORT} {i}", f"{LONG} {i}"]} for i in range(14)
  ]
  (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
  (folder / "prompts.txt").write_text("".join(f"Another question {i}?\n" for i in range(6)))
  c = settings_lib.default()
  small = {
    "pairs.path": str(folder / "pairs.jsonl"),
    "prompts.path": str(folder / "prompts.txt"),
    "personalized.path": "the model",
    "arms": (("plain", "", "none"), ("other", "another model", "none")),
    "participants": 2,
    "labels.number": 3,
    "labels.spares": 2,
    "comparisons.prompts": 2,
    "server.url": "https://testserver",
  }
  with c.ignore_type():
    c.update_from_flattened_dict(
      small | {key.replace("__", "."): value for key, value in changes.items()}
    )
  return c


def study(folder, **changes):
  return opening.start(config(folder, **changes), str(folder / "study"))


class FewShotModels:
  """Answers as the shots' chosen responses are, short or long; without shots, always the same."""

  def __init__(self, texts=None):
    self.texts = texts or {"short": SHORT, "long": LONG}
    self.calls = []

  def respond(self, arm, shots, prompts, seed):
    self.calls.append((arm.name, tuple(shots), tuple(prompts)))
    if arm.context == "none":
      kind = "a middling answer" if arm.name == "plain" else "something else altogether"
      return [f"{kind} to {prompt}" for prompt in prompts]
    short = sum(len(shot.chosen) < len(shot.rejected) for shot in shots) * 2 > len(shots)
    return [f"{self.texts['short' if short else 'long']} {prompt}" for prompt in prompts]

  def predict(self, contexts, pairs):
    return np.asarray([[1 / (2 + len(p.chosen) % 7) for p in asked] for asked in pairs])


class Browser:
  """A participant's browser: reads pages, sends their forms, and knows whom it belongs to."""

  def __init__(self, client, study, number=None):
    self.client, self.study = client, study
    if number is None:
      ((self.number, self.link),) = study.store.invite(1, 0.0)

  def get(self, path, **keys):
    return self.client.get(path, **keys)

  def join(self, consent=True):
    page = self.get(f"/join/{self.link}")
    if consent:
      page = self.post("/consent", page, agree="yes")
    return page

  def post(self, path, page, **fields):
    """Sends the form of a page with some fields of one's own."""
    return self.client.post(path, data=fields_of(page) | fields)

  def answer(self, page, choice, **fields):
    return self.post(page.url.path, page, choice=choice, **fields)

  def choose(self, page, taste):
    """The button that somebody with a taste ('short' or 'long') presses, or a check asks for."""
    phase, position = page.url.path.split("/")[1:]
    with self.study.store.read() as db:
      item = db.execute(
        "SELECT * FROM items WHERE participant = ? AND phase = ? AND position = ?",
        (self.number, phase, int(position)),
      ).fetchone()
    if item["pair"] is None and item["arm"] is None:
      return item["key"]
    liked = {"short": len, "long": lambda text: -len(text)}[taste]
    return "first" if liked(item["first"]) < liked(item["second"]) else "second"

  def go_through(self, page, taste="short", phase="label"):
    """Answers all items of a phase; the page after them."""
    while page.url.path.startswith(f"/{phase}/"):
      page = self.answer(page, self.choose(page, taste))
    return page


def fields_of(page):
  """The hidden fields of the form in a page."""
  return {name: value for name, value in HTML.findall(page.text) if name in ("token", "revision")}


@contextlib.contextmanager
def served(study):
  """A client maker for the real app, with no worker beside it."""
  made = app.make_app(study, work=False)

  def client(address="1.2.3.4"):
    return TestClient(made, base_url="https://testserver", client=(address, 5))

  yield client


def do_jobs(study, models=None):
  """Does what the worker would, now."""
  models = models or FewShotModels()
  while (job := study.flow.next_job()) is not None:
    personalizing.do(study.flow, models, job)
  return models


@contextlib.contextmanager
def working(study, models):
  """The worker's loop, in a thread."""
  stop = threading.Event()
  thread = threading.Thread(target=personalizing.work, args=(study.flow, models, stop.is_set))
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()
