# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A tiny set, made in-process, or by this script through HTTP: to be killed and started again.

python -m tests.synthesis.generator URL DIRECTORY
"""

import asyncio
import dataclasses
import json
import pathlib
import sys

from fspo_jax.synthesis import jobs, prompts, records, stages
from fspo_jax.synthesis.journal import Journal, Ledger
from fspo_jax.synthesis.openai_llm import OpenAILLM
from fspo_jax.synthesis.world_llm import Flaws, WorldLLM
from tests.synthesis import tiny_world

SEED = 7
SETTINGS = dataclasses.replace(
  tiny_world.SETTINGS, users=6, questions=8, responses=3, pairs=4, picked=0.3, measure_every=3
)


def make_llm():
  world = tiny_world.TinyWorld()
  flaws = Flaws(position_bias=0.2, undetermined=0.5, label_noise=0.05)
  return WorldLLM(world, flaws, world.users("train")[:50])


async def make(llm, directory, i=0, n=1, concurrency=8):
  """Makes part i of n of the set."""
  with Journal(jobs.part_path(directory, "items", i, n)) as journal:

    async def item(index):
      return records.as_json(await stages.make_item(llm, tiny_world.DOMAIN, SETTINGS, SEED, index))

    units = jobs.shard(SETTINGS.questions, i, n)
    await jobs.run(units, item, journal, concurrency=concurrency, label="questions")
  found = map(records.item_from_json, jobs.merge(directory, "items", SETTINGS.questions)())
  bank = {item.index: item for item in found}
  with Journal(jobs.part_path(directory, "users", i, n)) as journal:

    async def user(index):
      return records.as_json(
        await stages.make_user(llm, tiny_world.DOMAIN, SETTINGS, SEED, bank, index)
      )

    units = jobs.shard(SETTINGS.users, i, n)
    await jobs.run(units, user, journal, concurrency=concurrency, label="users")


def main():
  url, directory = sys.argv[1], pathlib.Path(sys.argv[2])

  def backend(note):
    return OpenAILLM(
      url,
      api_key_env="",
      timeout_s=3.0,
      max_attempts=20,
      concurrency=8,
      validate=prompts.validate,
      structured="json_schema",
      backoff_s=0.01,
      note=note,
    )

  with Ledger(directory / "ledger.jsonl", backend) as ledger:
    asyncio.run(make(ledger, directory))
    report = {stage: dataclasses.asdict(counts) for stage, counts in ledger.report().items()}
  print(json.dumps(report))


if __name__ == "__main__":
  main()
