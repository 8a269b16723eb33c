# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Open-ended questions: a synthetic set of personas made by the factory, then FSPO trained on it.

Questions can be answered from several views, which 1,500 personas weigh by their tastes. Topics are
held out as well as users; unseen users are evaluated on topics of both kinds. From the base, in
less than twenty minutes on two cores:

python -m fspo_jax.main --config=experiments/roleplay.py --workdir=runs/roleplay

On a pod, with the paper's hyper-parameters, from a public model's folder (see `fspo_jax/pods.py`
for the names) and users stored as a set; `fspo_jax.plan` says before what it will need:

python -m fspo_jax.main --config=experiments/roleplay.py:model=llama3.2-3b,hardware=v5e-64 \
  --config.base=FOLDER --config.data.path=SET --workdir=runs/pod
"""

from collections.abc import Callable
import itertools

import ml_collections

from fspo_jax import pods, presets


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """The config of the experiment; on a pod with `arg` 'model=NAME,hardware=NAME'."""
  if arg is not None:
    return pods.config(*pods.parse(arg))
  c = presets.from_base("roleplay")
  c.synthesis.set.pairs = 120
  c.synthesis.set.responses = 48
  c.preference.steps = 700
  c.evaluation.methods = ("base", "fewshot_prompted", "oracle", "fspo")
  c.evaluation.known_prompts = True  # twice the evaluation: less of each
  c.evaluation.episodes = 600
  c.evaluation.rat_episodes = 0
  c.evaluation.win_rate_users = 60
  return c


def sweep(add: Callable[..., None], arg: str | None) -> None:
  """Beta, three seeds of each."""
  del arg
  for beta, seed in itertools.product((0.25, 0.5, 1.0), range(3)):
    add(**{"preference.loss.beta": beta, "seed": seed})


def metrics(arg: str | None) -> dict[str, str]:
  """What a sweep tabulates: accuracy after 8 shots on new and known topics, and win rates."""
  del arg
  return {
    "accuracy, 8 shots": "preference_accuracy.fspo.unseen.8",
    "the same, known prompts": "preference_accuracy.fspo.unseen_known_prompts.8",
    "win rate": "win_rate.fspo.unseen.mean",
  }
