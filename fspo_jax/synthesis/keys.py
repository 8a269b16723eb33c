# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The keys of the synthetic preference factory: those under `synthesis` in a config."""

from __future__ import annotations

import dataclasses

import ml_collections

from fspo_jax.synthesis.quality import Gate


def default() -> ml_collections.ConfigDict:
  """Every key of `synthesis` with its default."""
  c = ml_collections.ConfigDict()
  c.domain = "roleplay"  # 'reviews', 'elix' or 'roleplay'
  c.backend = "world"  # the embedded stand-in for a language model, or 'openai': an endpoint
  c.topics = ""  # file of topics, one a line; '' for the world's own
  c.processes = 2  # of the world's backend, when the job is not split by --shard
  c.concurrency = 64  # units of work at once, for an endpoint

  c.set = ml_collections.ConfigDict()  # see synthesis/settings.py
  c.set.users = 1500
  c.set.unseen_users = 0.1  # fraction of users never trained on
  c.set.questions = 400
  c.set.unseen_topics = 0.2  # fraction of questions about topics never trained on
  c.set.responses = 12  # to each question
  c.set.steering = "views"  # what responses are written for: 'none', 'personas', 'views'
  c.set.models = (("writer-a", 1.0), ("writer-b", 1.0), ("writer-c", 1.0))  # name, temperature
  c.set.judge = ("judge", 0.7)  # name, temperature
  c.set.pairs = 60  # judged by each user
  c.set.anchors = 8  # of them the same for all users, so that any two users can be compared
  c.set.picked = 0.0  # fraction of pairs with a response that the user would pick ('views' only)
  c.set.repeats = 1  # judgements of a pair in each order
  c.set.both_orders = True  # and drop the pairs whose order decides
  c.set.ignore_length = True  # tell the judge to
  c.set.refine = True  # append to descriptions what decides undetermined preferences
  c.set.measure_every = 10  # one user in so many is judged by the first description too
  c.set.max_tokens = 512  # of an answer

  c.flaws = ml_collections.ConfigDict()  # of the world's backend; see synthesis/world_llm.py
  c.flaws.position_bias = 0.1  # probability of preferring the first response, whatever they are
  c.flaws.length_bias = 0.1  # probability of preferring the longer one
  c.flaws.undetermined = 0.5  # fraction of tastes that a first description leaves out
  c.flaws.label_noise = 0.02  # probability of the other answer

  c.llm = ml_collections.ConfigDict()  # the endpoint
  c.llm.base_url = ""  # of any server that speaks the OpenAI protocol
  c.llm.api_key_env = "OPENAI_API_KEY"  # environment variable with the key; '' for none
  c.llm.timeout_s = 120.0  # seconds, of an attempt
  c.llm.max_attempts = 8  # of a request
  c.llm.concurrency = 64  # requests at once
  c.llm.structured = "json_schema"  # or 'json_object', for servers without schemas

  c.embedder = ml_collections.ConfigDict()  # of the quality card's similarity
  c.embedder.name = "characters"  # n-grams; or 'sentence_transformers' or 'endpoint'
  c.embedder.model = ""  # of the last two

  # What a set must reach to be trained on; see `Gate` in synthesis/quality.py.
  c.gate = ml_collections.ConfigDict(dataclasses.asdict(Gate()))
  return c
