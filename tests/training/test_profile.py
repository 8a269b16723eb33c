# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the page that a profile is; that of a real run is in test_loop.py."""

import pytest

from fspo_jax.training import profile
from fspo_jax.training.profile import Meaning, Operation

BLOCK = "jit(step)/transpose(jvp(Transformer))/while/body/blocks/blocks"
PROGRAM = f"""\
HloModule jit_step

%body (p: f32[8]) -> f32[8] {{
  %fused = f32[8]{{0}} fusion(%p), kind=kLoop, calls=%f, metadata={{op_name="{BLOCK}._attend"}}
  ROOT %dot.1 = f32[8]{{0}} dot(%p, %q), metadata={{op_name="{BLOCK}._attend/q/dot_general"}}
}}

ENTRY %main (p: f32[8]) -> f32[8] {{
  %loop = (s32[], /*index=1*/f32[8]{{0}}) while(%init), condition=%c, body=%body
  %sum = f32[] all-reduce(%dot.1), metadata={{op_name="jit(step)/jvp(head)/reduce_sum"}}
  ROOT %copy.2 = f32[8]{{0}} copy(%p)
}}
"""


def test_operations_are_known_by_their_line():
  known = profile.meanings(PROGRAM)
  assert {name: (one.opcode, one.part) for name, one in known.items()} == {
    "fused": ("fusion", "attention"),
    "dot.1": ("dot", "projections"),
    "loop": ("while", "other"),
    "sum": ("all-reduce", "collectives"),
    "copy.2": ("copy", "other"),
  }
  assert known["dot.1"].which == "backward"


@pytest.mark.parametrize(
  "scopes, part, which",
  [
    ("jit(step)/jvp(Transformer)/blocks/blocks._transform/gate/dot_general", "MLP", "forward"),
    ("jit(step)/jvp(Transformer)/blocks/attention_norm/mul", "norms", "forward"),
    ("jit(step)/jvp(Transformer)/blocks/blocks._attend/q_norm/mul", "norms", "forward"),
    ("jit(step)/reference/Transformer/blocks/blocks._attend/exp", "attention", "reference"),
    ("jit(step)/reference/head/while/body/exp", "head", "reference"),
    ("jit(step)/transpose(jvp(head))/while/body/exp", "head", "backward"),
    ("jit(step)/optimizer/vmap(jit(norm))/mul", "optimizer", "neither"),
    ("jit(step)/transpose(jvp(Transformer))/scatter-add", "rest of the model", "backward"),
    ("jit(step)/jvp(objective)/mul", "loss", "forward"),
    ("", "other", "neither"),
  ],
)
def test_what_an_operation_is_for(scopes, part, which):
  assert (Meaning("fusion", scopes).part, Meaning("fusion", scopes).which) == (part, which)


def test_a_page_by_hand():
  known = profile.meanings(PROGRAM)
  # Two steps of 2 ms: threads at once for 0.5 ms, then 1 ms of one, then nothing.
  operations = [
    Operation("fused", 0.0, 1e6),
    Operation("dot.1", 0.5e6, 0.5e6),
    Operation("copy.2", 2e6, 1e6),
  ]
  assert profile.busy(operations) == 2e6
  host = {profile.DATA: 0.4e6, profile.DISPATCH: 0.8e6}
  text = profile.summary("sft", operations, host, known, steps=2, seconds=0.004)
  cells = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
  assert text.startswith("sft: 2.0 ms a step\n")
  assert cells["waiting for data"] == ["0.20", "10.0%"]
  assert cells["dispatching"] == ["0.40", "20.0%"]
  assert cells["the rest"] == ["1.40", "70.0%"]
  assert cells["busy"] == ["1.00", "50.0%"] and cells["idle"] == ["1.00", "50.0%"]
  assert cells["attention"] == ["40.0%", "0.0%", "40.0%", "0.0%", "0.0%"]
  assert cells["projections"] == ["20.0%", "0.0%", "20.0%", "0.0%", "0.0%"]
  assert "40.0%       0 x  fused: attention, backward" in text


def test_a_trace_without_the_steps_operations_is_said():
  text = profile.summary("sft", [], {}, {}, steps=1, seconds=1.0)
  assert "No operation of the step was found in the trace." in text
