# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what data and what factory a config asks for."""

import runpy

import pytest

from fspo_jax import data, presets
from fspo_jax.synthesis import world_llm
from tests import tiny

EXPERIMENTS = tiny.REPO / "experiments"


@pytest.mark.parametrize(
  "experiment", ["synthesis/reviews", "synthesis/elix", "synthesis/roleplay", "elix", "roleplay"]
)
def test_every_experiment_with_a_world_has_a_factory(experiment):
  config = runpy.run_path(str(EXPERIMENTS / f"{experiment}.py"))["get_config"]()
  factory = data.make_factory(config)
  assert factory.domain.name == config.synthesis.domain and not factory.paid
  assert isinstance(factory.backend(None), world_llm.WorldLLM)
  assert not {*factory.domain.topics_train} & {*factory.domain.topics_unseen}


def _refused(message, **changes):
  config = presets.synthetic("roleplay", "world")
  with config.ignore_type():
    config.update_from_flattened_dict(
      {f"synthesis.{k.replace('__', '.')}": v for k, v in changes.items()}
    )
  with pytest.raises(ValueError, match=message):
    data.make_factory(config)


def test_a_person_is_not_two_users():
  _refused(r"synthesis\.set\.users=1501: the world has 1500 people", set__users=1501)


def test_impossible_factories_are_refused(monkeypatch):
  _refused("processes=0", processes=0)
  _refused(r"synthesis\.backend='llm' is not 'world' or 'openai'", backend="llm")
  _refused("a world knows only its own topics", topics="mine.txt")
  _refused(r"embedder\.name='bge'", embedder__name="bge")
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  endpoint = {"backend": "openai", "llm__base_url": "http://localhost:1/v1"}
  _refused("environment variable OPENAI_API_KEY: found nothing", **endpoint)
  _refused("found a user, a password", **endpoint | {"llm__base_url": "http://u:secret@host/v1"})


def test_a_key_in_place_of_a_name_is_not_repeated(capfd):
  key = "sk-this-is-a-secret"
  config = presets.synthetic("roleplay", "world")
  config.synthesis.backend = "openai"
  config.synthesis.llm.base_url = "http://localhost:1/v1"
  config.synthesis.llm.api_key_env = key
  with pytest.raises(ValueError, match="api_key_env: found no name") as caught:
    data.make_factory(config)
  assert key not in str(caught.value) + "".join(capfd.readouterr())


def test_own_topics_are_split_and_take_the_worlds_place(tmp_path):
  (tmp_path / "topics.txt").write_text("tea\n\ncoffee\nmilk\ncocoa\nwater\njuice\n")
  config = presets.synthetic("roleplay", "world")
  config.synthesis.backend = "openai"
  config.synthesis.llm.base_url = "http://localhost:1/v1"
  config.synthesis.llm.api_key_env = ""
  config.synthesis.topics = str(tmp_path / "topics.txt")
  config.synthesis.set.unseen_topics = 0.5
  factory = data.make_factory(config)
  domain = factory.domain
  assert {*domain.topics_train, *domain.topics_unseen} == {
    "tea", "coffee", "milk", "cocoa", "water", "juice",
  }  # fmt: skip
  assert domain.topics_unseen and factory.paid and factory.processes == 1


def test_fresh_episodes_have_no_known_prompts():
  config = presets.default()
  config.evaluation.known_prompts = True
  with pytest.raises(ValueError, match=r"evaluation\.known_prompts=True: data\.name='reviews'"):
    data.load(config)
