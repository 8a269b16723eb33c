# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the base that comes with the package: that it is what its provenance says."""

import json

import pytest

from fspo_jax import base as base_lib
from fspo_jax import data, presets, sharding
from fspo_jax.evaluation import base_quality
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer
from tests import tiny


@pytest.fixture(scope="module")
def base():
  return base_lib.load(base_lib.PUBLISHED, sharding.make_mesh(1))


@pytest.fixture(scope="module")
def provenance():
  return json.loads((base_lib.PUBLISHED / "provenance.json").read_text())


def test_is_small_and_says_how_it_was_made(provenance):
  files = list(base_lib.PUBLISHED.iterdir())
  assert sum(file.stat().st_size for file in files) <= 8_000_000
  assert provenance["command"].startswith("python -m fspo_jax.main --config=experiments/base.py")
  text = "".join(file.read_text() for file in files if file.suffix in (".json", ".jsonl"))
  assert str(tiny.REPO) not in text and "/tmp/" not in text
  lines = (base_lib.PUBLISHED / "curves.jsonl").read_text().splitlines()
  curve = [json.loads(line)["nll/chosen"] for line in lines]
  # Of the last part, which goes on from others: a fresh model's is log 3072 = 8 nats.
  assert len(curve) > 50 and max(curve) < 2


def test_fits_the_rows_of_the_tables(base):
  for world in data.WORLDS:
    base_lib.check_fits(base.config, presets.from_base(world))


@pytest.mark.parametrize("name", data.WORLDS)
def test_follows_as_measured(base, provenance, name):
  """On 60 responses, at most 3 standard errors of 60 below what was measured, and a little."""
  measured = provenance["quality"][name]
  world = data.make_world(base.config, name)
  writer = Writer(base.model, base.params, base.formatter)
  found = base_quality.following(
    world, writer, Decoding(0.3, 1.0, 64), topics="unseen", users=60, prompts=1, seed=1
  )
  share = measured["following"]["unseen"]
  assert found.mean >= share - 3 * (share * (1 - share) / 60) ** 0.5 - 0.03
