# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, the rows of every table: what each one is and how it is scored."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Method:
  """A row of the tables.

  Attributes:
    label: how a reader sees it.
    about: what it is, for footnotes.
    color: of its lines; Okabe and Ito's palette and its darker shades, told apart by everybody.
    prompted: whether it is a prompt to the base or to the policy, which the rest says; methods that
      are more than that have contenders of their own.
    trained: whether the policy answers, or the base.
    shots: whether the shots are in the context.
    description: whether a description follows them: '' for none, 'written' by the model, 'gold'.
    against: what the log-odds of two responses are compared with: the base with the same shots
      ('shots'), the base given the question alone ('question'), or nothing ('').
  """

  label: str
  about: str
  color: str
  prompted: bool = True
  trained: bool = True
  shots: bool = False
  description: Literal["", "written", "gold"] = ""
  against: Literal["", "question", "shots"] = "question"


# In the order of tables and plots.
METHODS: Mapping[str, Method] = {
  "base": Method(
    "Base",
    "the model that FSPO starts from, given the question only; its accuracy is by the raw "
    "difference of the two responses' log-probabilities.",
    "#7F7F7F",
    trained=False,
    against="",
  ),
  "plain": Method(
    "Not personalized",
    "trained by the same preference loss on the same users, with no shots in the context, in "
    "training or here.",
    "#A6761D",
  ),
  "fewshot_prompted": Method(
    "Few-shot prompted",
    "the base with the shots in its prompt; scored by how much the shots move the log-odds of "
    "the two responses, against the base without them. It has seen shots whose labels carry no "
    "information.",
    "#E69F00",
    trained=False,
    shots=True,
  ),
  "pref_ft": Method(
    "Few-shot Pref-FT",
    "the base fine-tuned on chosen responses with the shots in the context (GPO), without a "
    "preference loss; scored like few-shot prompting.",
    "#D55E00",
    shots=True,
  ),
  "ric": Method(
    "RIC",
    "rewards in context: fine-tuned on both responses of a pair, each under the reward that it "
    "got, and asked for the high one; without shots.",
    "#56B4E9",
  ),
  "vpl": Method(
    "VPL",
    "variational preference learning: an encoder of the user's shots to a latent, trained with a "
    "policy that is given the latent's mean and no shots.",
    "#882255",
    prompted=False,
  ),
  "user_lora": Method(
    "LoRA per user",
    "the base, fine-tuned on the user's own shots by DPO, a LoRA adapter for each user.",
    "#B8860B",
    prompted=False,
  ),
  "fspo": Method(
    "FSPO",
    "the preference-trained model with the shots in its context; scored by the margin of implicit "
    "rewards, against the frozen reference with the same shots.",
    "#0072B2",
    shots=True,
    against="shots",
  ),
  "fspo_rat": Method(
    "FSPO + RAT",
    "the same as FSPO, and in its context also a description it wrote from the shots.",
    "#009E73",
    shots=True,
    description="written",
    against="shots",
  ),
  "fspo_gold": Method(
    "FSPO + gold description",
    "the same, and the description is the user's gold one.",
    "#332288",
    shots=True,
    description="gold",
    against="shots",
  ),
  "oracle": Method(
    "Oracle description",
    "the base with the user's gold description in its context, and no shots; its accuracy is by "
    "the raw difference, for the reference follows descriptions too.",
    "#CC79A7",
    trained=False,
    description="gold",
    against="",
  ),
}


def check(names: tuple[str, ...]) -> None:
  """Refuses, with a ValueError, names that are not those of methods, the base first."""
  unknown = [name for name in names if name not in METHODS]
  if unknown or len(set(names)) != len(names) or names[:1] != ("base",):
    raise ValueError(
      f"evaluation.methods={names}: expected distinct ones of {tuple(METHODS)}, 'base' first, "
      "against which the others play"
    )
