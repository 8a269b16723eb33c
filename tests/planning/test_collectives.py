# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is read from HLO: lines as XLA:TPU wrote them, with the bytes counted by hand."""

import numpy as np
import pytest

from fspo_jax import hlo
from fspo_jax.planning import collectives, hbm

MESH = {"data": 2, "fsdp": 2, "tensor": 2}

# A loop of 28 rounds with a gather (named twice, as it runs beside a product), a reduction to all
# and a scatter as XLA:TPU writes it; around it an exchange, a permutation, and a loop on CPU.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%async.1 (p: bf16[64,256]) -> bf16[64,512] {
  %p = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %ag.1 = bf16[64,512]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, \
replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={1}, use_global_device_ids=true
}

%async.2 (p: bf16[64,256]) -> bf16[64,512] {
  %p.1 = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %ag.2 = bf16[64,512]{1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=7, \
replica_groups=[4,2]<=[2,2,2]T(0,2,1), dimensions={1}, use_global_device_ids=true
}

%all-reduce-scatter.3 (p: bf16[512,512]) -> bf16[256,512] {
  %p.2 = bf16[512,512]{1,0:T(8,128)(2,1)} parameter(0)
  %ar = bf16[512,512]{1,0:T(8,128)(2,1)} all-reduce(%p.2), channel_id=8, \
replica_groups={{0,2},{1,3},{4,6},{5,7}}, use_global_device_ids=true, to_apply=%add
  ROOT %ds = bf16[256,512]{1,0:T(8,128)(2,1)} dynamic-slice(%ar), dynamic_slice_sizes={256,512}
}

%condition (state: (s32[], bf16[64,256])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(28)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (state: (s32[], bf16[64,256])) -> (s32[], bf16[64,256]) {
  %state.1 = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[64,256]{1,0:T(8,128)(2,1)} get-tuple-element(%state.1), index=1
  %start = bf16[64,512]{1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, calls=%async.1
  %done = bf16[64,512]{1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, calls=%async.2
  %all = bf16[64,512]{1,0:T(8,128)(2,1)} all-reduce(%done), channel_id=9, \
replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_2'}, to_apply=%add
  %part = bf16[256,512]{1,0:T(8,128)(2,1)} fusion(%all), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %out = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) tuple(%i, %x)
}

ENTRY %main (q: bf16[64,256]) -> bf16[64,256] {
  %q = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  %init = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) tuple(%zero, %q)
  %loop = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) while(%init), \
condition=%condition, body=%body
  %other = f32[4,16]{1,0} all-to-all(%q), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %moved = (f32[16]{0}, f32[16]{0}, u32[]{:S(2)}) collective-permute-start(%q), channel_id=2, \
source_target_pairs={{0,0},{1,2},{2,1},{3,3},{4,4},{5,6},{6,5},{7,7}}
  ROOT %got = bf16[64,256]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def test_collectives_by_kind_axis_and_loop():
  found = collectives.traffic(hlo.parse(PROGRAM), MESH)
  assert found.unknown_loops == 0
  known = {(c.kind, c.axes): (c.wire_bytes, c.times) for c in found.collectives}
  assert known == {
    # Groups of [4,2]<=[2,2,2]T(0,2,1) are 0,2; 1,3; ...: two apart, along fsdp.
    ("all-gather", "fsdp"): (64 * 512 * 2 / 2, 28),
    ("all-reduce", "tensor"): (2 * 64 * 512 * 2 / 2, 28),
    ("reduce-scatter", "fsdp"): (512 * 512 * 2 / 2, 28),
    ("all-to-all", "data+fsdp+tensor"): (4 * 16 * 4 * 7 / 8, 1),
    ("collective-permute", "fsdp+tensor"): (16 * 4, 1),
  }
  fsdp = 28 * (64 * 512 + 512 * 512)
  assert found.by_axes()["fsdp"] == fsdp
  assert found.by_kind()["all-gather"] == 28 * 64 * 512


def test_a_gather_that_goes_on_beside_an_inner_loop_is_counted_where_it_starts():
  inner = """\
%inner (state: (s32[], bf16[64,256])) -> (s32[], bf16[64,256]) {
  %state.9 = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) parameter(0)
  %on = bf16[64,512]{1,0:T(8,128)(2,1)} fusion(%state.9), kind=kCustom, calls=%async.2
  ROOT %out.9 = (s32[]{:T(128)}, bf16[64,256]{1,0:T(8,128)(2,1)}) tuple(%i, %x)
}

%body ("""
  loop = "  %loop.9 = (s32[]{:T(128)}) while(%state.1), condition=%condition, body=%inner\n"
  text = PROGRAM.replace("%body (", inner, 1).replace("  %all = bf16", loop + "  %all = bf16")
  assert dict(hlo.parse(text).control()) == {"main": 1, "body": 28, "inner": 28 * 28}
  found, before = (collectives.traffic(hlo.parse(t), MESH) for t in (text, PROGRAM))
  assert found.by_axes() == before.by_axes()


def test_a_loop_of_unknown_length_is_counted_once_and_said():
  text = PROGRAM.replace("compare(%i, %limit)", "compare(%i, %i)")
  found = collectives.traffic(hlo.parse(text), MESH)
  assert found.unknown_loops == 1
  assert {c.times for c in found.collectives} == {1}


def test_rounds_that_stand_beside_the_loop():
  known = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
  module = hlo.parse(PROGRAM.replace("body=%body", known))
  assert dict(module.control()) == {"main": 1, "body": 5}


@pytest.mark.parametrize(
  "text, expected",
  [
    ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([4]) {'a'}", [[0, 2], [1, 3]]),
    ("channel_id=3", [[0, 1, 2, 3]]),
  ],
)
def test_how_groups_are_written(text, expected):
  np.testing.assert_array_equal(collectives.groups(text, 4), expected)


# Of a stack of 28 layers' matrices a fusion reads one; it writes into a stack; what is in S(1) is
# not in the large memory.
MOVES = """\
HloModule jit_step

%reads (p: f32[28,256], i: s32[]) -> f32[1,256] {
  %stack = f32[28,256]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %slice = f32[1,256]{1,0} dynamic-slice(%stack, %i, %i), dynamic_slice_sizes={1,256}
}

%writes (p: f32[28,256], u: f32[1,256], i: s32[]) -> f32[28,256] {
  %into = f32[28,256]{1,0} parameter(0)
  %update = f32[1,256]{1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %new = f32[28,256]{1,0} dynamic-update-slice(%into, %update, %j, %j)
}

ENTRY %main (q: f32[28,256], i: s32[]) -> f32[28,256] {
  %q = f32[28,256]{1,0} parameter(0)
  %n = s32[]{:S(2)} parameter(1)
  %one = f32[1,256]{1,0} fusion(%q, %n), kind=kLoop, calls=%reads
  %near = f32[1,256]{1,0:S(1)} negate(%one)
  ROOT %all = f32[28,256]{1,0} fusion(%q, %near, %n), kind=kLoop, calls=%writes
}
"""


def test_bytes_of_slices_and_of_the_large_memory_alone():
  row = 256 * 4
  # Reads a row and writes it; reads it again; writes a row in place.
  assert hbm.traffic(hlo.parse(MOVES)) == 2 * row + row + row
