# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Many prompts of one user, answered: our sampler against `generate` of transformers.

python experiments/benchmarks/sampling.py [--model=small] [--prompts=32] [--rounds=5] [--out=FILE]

One model of random weights, one user with `--shots` preferences, and greedy decoding of so many
tokens without an end. Ours computes the user's context once and fans it out; `generate` gets every
prompt with the whole context before it (`transformers`), as it is called everywhere, or, by hand,
the cache of the context, repeated (`transformers_prefix`). The ids must be the same, one by one.
Rounds alternate; prefill is in the time, compilation is not. Prints JSON; needs the extra 'bench'.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
from jaxtyping import Int
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the packages beside this folder, from anywhere

from experiments.benchmarks.contenders import setting as setting_lib  # noqa: E402
from experiments.benchmarks.contenders import weights  # noqa: E402
from fspo_jax import sharding  # noqa: E402
from fspo_jax.episodes import templates  # noqa: E402
from fspo_jax.episodes.sampling import Episode  # noqa: E402
from fspo_jax.evaluation import results as results_lib  # noqa: E402
from fspo_jax.inference import sampler, writer  # noqa: E402
from fspo_jax.models import huggingface, transformer  # noqa: E402
from fspo_jax.training import state as state_lib  # noqa: E402

_MODEL = flags.DEFINE_enum("model", "small", list(setting_lib.MODELS), "Its shape.")
_SHOTS = flags.DEFINE_integer("shots", 8, "Preferences of the user.")
_PROMPTS = flags.DEFINE_integer("prompts", 32, "Answered together.")
_TOKENS = flags.DEFINE_integer("tokens", 40, "Of each answer.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds of each.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, user and prompts.")
_OUT = flags.DEFINE_string("out", None, "File for the JSON, indented.")

# What answers with token ids.
_Answer = Callable[[], Int[np.ndarray, "prompts tokens"]]
_NO_END = -1  # an id that is never chosen: all answers are equally long


def _engine(folder: pathlib.Path, setting: setting_lib.Setting, prompts: int) -> writer.Writer:
  model = transformer.Transformer(setting.config)
  abstract = state_lib.abstract_params(model, sharding.one_device())
  params = huggingface.load_params(folder, setting.config, abstract)
  return writer.Writer(model, params, templates.Formatter(setting_lib.tokenizer()), batch=prompts)


def _ours(engine: writer.Writer, seed: int, episode: Episode, asked: list[str]) -> _Answer:
  """`Writer.respond`, step by step: it would turn ids into text."""
  model, params = engine.model, engine.params
  decoding = sampler.Decoding(temperature=0.0, top_p=1.0, max_tokens=_TOKENS.value)

  def answer() -> Int[np.ndarray, "prompts tokens"]:
    questions = [engine.asked(prompt, episode.shots, None) for prompt in asked]
    room = max(len(q.tokens) for q in questions) + decoding.max_tokens
    context = engine.prefill([engine.context(episode.shots)])
    context = sampler.fan_out(context, len(asked), room)
    context = sampler.extend(model, params, context, questions)
    found = sampler.sample(
      model,
      params,
      context,
      role=templates.Role.PREFERRED,
      eos_id=_NO_END,
      decoding=decoding,
      seeds=[(seed, i) for i in range(len(asked))],
    )
    return np.asarray([s.tokens for s in found])

  return answer


def _theirs(
  folder: pathlib.Path,
  setting: setting_lib.Setting,
  context: list[int],
  questions: list[list[int]],
  *,
  prefix: bool,
) -> _Answer:
  """`generate` with its cache; prompts are padded on the left, as it wants them."""
  import torch
  import transformers

  from experiments.benchmarks.contenders import paper_torch

  paper_torch.use_all_cores()
  model = paper_torch.load(setting, folder).eval()
  longest = max(map(len, questions))
  # In front of the context; or between it and the question, if the context has a cache of its own.
  padded = [[0] * (longest - len(q)) for q in questions]
  ones = [1] * len(context)
  if prefix:
    ids = [context + p + q for p, q in zip(padded, questions, strict=True)]
    mask = [ones + p + [1] * len(q) for p, q in zip(padded, questions, strict=True)]
  else:
    ids = [p + context + q for p, q in zip(padded, questions, strict=True)]
    mask = [p + ones + [1] * len(q) for p, q in zip(padded, questions, strict=True)]
  inputs, attended = torch.tensor(ids), torch.tensor(mask)
  how = transformers.GenerationConfig(
    do_sample=False, max_new_tokens=_TOKENS.value, use_cache=True, eos_token_id=None, pad_token_id=0
  )

  def answer() -> Int[np.ndarray, "prompts tokens"]:
    cache = None
    with torch.no_grad():
      if prefix:
        cache = transformers.DynamicCache(config=model.config)
        model(torch.tensor([context]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(questions))
      found = model.generate(
        inputs, attention_mask=attended, past_key_values=cache, generation_config=how
      )
    return found[:, inputs.shape[1] :].numpy()

  return answer


def measure(folder: pathlib.Path) -> dict[str, Any]:
  """Checks, then the rounds."""
  setting = setting_lib.Setting(
    model=_MODEL.value,
    dtype="float32",
    world="reviews",
    shots=_SHOTS.value,
    episodes=1,
    batches=1,
    tokens=0,
    seed=_SEED.value,
  )
  weights.write(setting, folder)
  draw = setting_lib.draw(setting)
  episode = draw(0)
  asked = [draw(1 + i).queries[0].prompt for i in range(_PROMPTS.value)]
  policy = folder / "policy"
  engine = _engine(policy, setting, len(asked))
  context = list(engine.context(episode.shots).tokens)
  questions = [list(engine.asked(prompt, episode.shots, None).tokens) for prompt in asked]
  answers = {
    "ours": _ours(engine, setting.seed, episode, asked),
    "transformers": _theirs(policy, setting, context, questions, prefix=False),
    "transformers_prefix": _theirs(policy, setting, context, questions, prefix=True),
  }
  expected = answers["ours"]()
  for name, answer in answers.items():
    found = answer()
    if found.shape != expected.shape or (found != expected).any():
      raise RuntimeError(f"{name}: found other ids than ours: {int((found != expected).sum())}")
    print(f"{name}: {found.size} ids, the same as ours", file=sys.stderr)
  seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in answers}
  for number in range(_ROUNDS.value):
    for name, answer in answers.items():
      since, cpu = time.perf_counter(), time.process_time()
      answer()
      took = (time.perf_counter() - since, time.process_time() - cpu)
      seconds[name].append(took)
      print(f"round {number + 1}: {name}: {took[0]:.2f} s", file=sys.stderr)
  rows = {}
  for name, rounds in seconds.items():
    wall, cpu = map(list, zip(*rounds, strict=True))
    ratios = [theirs / ours[0] for theirs, ours in zip(wall, seconds["ours"], strict=True)]
    rows[name] = {
      "tokens_per_second": expected.size / statistics.median(wall),
      "tokens_per_cpu_second": expected.size / statistics.median(cpu),
      "seconds": wall,
      "cpu_seconds": cpu,
      "ours_is_faster_by": {
        "min": min(ratios),
        "median": statistics.median(ratios),
        "max": max(ratios),
        "cpu_median": statistics.median(cpu) / statistics.median(s[1] for s in seconds["ours"]),
      },
    }
  return {
    **rows,
    "model": _MODEL.value,
    "prompts": len(asked),
    "context_tokens": len(context),
    "question_tokens": [len(q) for q in questions],
    "answer_tokens": _TOKENS.value,
    "cores": len(os.sched_getaffinity(0)),
    "load_average": os.getloadavg()[0],
    "environment": results_lib.environment(seed=_SEED.value, packages=("torch", "transformers")),
  }


def main(argv: list[str]) -> None:
  """Measures."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  with tempfile.TemporaryDirectory() as folder:
    found = measure(pathlib.Path(folder))
  if _OUT.value:
    pathlib.Path(_OUT.value).write_text(json.dumps(found, indent=2) + "\n")
  for name in ("ours", "transformers", "transformers_prefix"):
    row = found[name]
    spread = "{median:.2f} x as long as ours ({min:.2f} to {max:.2f})".format(
      **row["ours_is_faster_by"]
    )
    print(f"{name:20} {row['tokens_per_second']:7.0f} tokens/s, {spread}")
  print(json.dumps(found))


if __name__ == "__main__":
  app.run(main)
