# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import functools
import importlib
import json
import sys

import pytest

from fspo_jax.synthesis import jobs
from fspo_jax.synthesis.llm import RequestError
from tests.synthesis import generator, tiny_world

pytest.importorskip("apache_beam")


class FailsFor:
  """Refuses to invent some of the users."""

  def __init__(self, numbers):
    self._llm, self._numbers = generator.make_llm(), numbers

  async def answer(self, request):
    number = f"## Number\n{self._numbers}\n"
    if request.schema_name == "persona" and number in request.prompt:
      raise RequestError(request, "refusal", "no")
    return await self._llm.answer(request)


def run(make_llm, directory):
  from fspo_jax.synthesis import beam

  # The runner that a laptop has, without the download that `DirectRunner` may try.
  flags = ["--runner=FnApiRunner"]
  beam.run(make_llm, tiny_world.DOMAIN, generator.SETTINGS, generator.SEED, str(directory), flags)


def test_the_pipeline_makes_what_the_plain_job_makes(tmp_path):
  plain, piped = tmp_path / "plain", tmp_path / "piped"
  asyncio.run(generator.make(generator.make_llm(), plain))
  run(generator.make_llm, piped)
  for name, count in (("items", generator.SETTINGS.questions), ("users", generator.SETTINGS.users)):
    assert list(jobs.merge(piped, name, count)()) == list(jobs.merge(plain, name, count)())
    complete = f"{name}.complete.json"
    assert (piped / complete).read_bytes() == (plain / complete).read_bytes()
  assert [path.read_text() for path in piped.glob("failed-*")] == [""]


def test_a_user_who_fails_is_set_apart_and_missed(tmp_path):
  run(functools.partial(FailsFor, 3), tmp_path)
  (failed,) = [json.loads(line) for path in tmp_path.glob("failed-*") for line in path.open()]
  assert (failed["index"], failed["reason"]) == (3, "refusal")
  with pytest.raises(jobs.JobError, match="found 5 of 6 users(.|\n)*: 3$"):
    jobs.merge(tmp_path, "users", generator.SETTINGS.users)


def test_missing_beam_names_the_extra(monkeypatch):
  monkeypatch.delitem(sys.modules, "fspo_jax.synthesis.beam", raising=False)
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(ImportError, match=r"pip install fspo_jax\[beam\]"):
    importlib.import_module("fspo_jax.synthesis.beam")
