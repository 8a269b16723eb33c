# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests that the kernels are lowered and compiled for chips that are not here; and on a GPU."""

import functools

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
import numpy as np
import pytest

from fspo_jax.episodes import trees
from fspo_jax.models import tree_attention, tree_flash
from fspo_jax.planning import hardware

# What is compiled here, and run on a GPU, is what users get.
pytestmark = pytest.mark.usefixtures("optimized")

EVERYTHING = {"window": 5, "softcap": 1.5, "scale": 0.4}
NAMES = ("tree_flash_forward", "tree_flash_queries", "tree_flash_keys")
# What XLA has to know of a GPU to compile for it: of NVIDIA's H100 and A100 with 80 GB, SXM.
GPUS = {
  "h100": ("NVIDIA H100", 9, 132, 232_448, 233_472, 52_428_800),
  "a100": ("NVIDIA A100", 8, 108, 166_912, 167_936, 41_943_040),
}


def _traced(implementation, dtype, block, depth, heads, rules, length, where=None):
  """The gradient of attention, which has all three kernels in it."""
  kv_heads = 8

  def shape(*sizes, dtype=dtype):
    return jax.ShapeDtypeStruct((1, length, *sizes), dtype, sharding=where)

  def value(q, k, v, ends, positions):
    tree = tree_flash.tree_blocks(ends, positions, block=block, window=rules.get("window"))
    how = {"implementation": implementation, "block": block, **rules}
    out = tree_flash.attention(q, k, v, ends, positions, tree, **how)
    return out.astype(jnp.float32).sum()

  heads_of = [shape(n, depth) for n in (heads, kv_heads, kv_heads)]
  ints = [shape(dtype=jnp.int32)] * 2
  return jax.jit(jax.grad(value, (0, 1, 2))).trace(*heads_of, *ints)


@pytest.mark.parametrize("dtype, block", [("bfloat16", 64), ("float32", 32)])
@pytest.mark.parametrize("depth, rules", [(128, {}), (80, EVERYTHING)])
def test_the_kernels_are_lowered_for_gpus_without_one(dtype, block, depth, rules):
  # Heads of 80 are filled up to 128; three heads read each key's: neither is a power of two.
  traced = _traced("pallas_gpu", dtype, block, depth, 24, rules, length=4 * block + 3)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("custom_call @__gpu$xla.gpu.triton") == len(NAMES)
  for name in NAMES:
    assert f'name = "{name}"' in text
  # Products of float32 are exact, and not of TF32.
  products = 2 + 3 + 4
  program = str(traced.jaxpr)
  assert program.count("dot_general[") == products
  exact = program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
  assert exact == (products if dtype == "float32" else 0)


def _compiled(traced):
  text = traced.lower().compile().as_text()
  for name in NAMES:
    assert name in text


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("dtype, block", [("bfloat16", 512), ("float32", 256)])
@pytest.mark.parametrize("depth, heads, rules", [(128, 24, {}), (64, 32, EVERYTHING)])
def test_the_kernels_compile_for_tpus(topology, dtype, block, depth, heads, rules):
  pytest.importorskip("libtpu")  # who has the extra can wait
  where = SingleDeviceSharding(hardware.target(topology).devices[0])
  _compiled(_traced("pallas_tpu", dtype, block, depth, heads, rules, 4 * block, where))


def _gpu(name):
  kind, major, cores, of_block, of_core, cache = GPUS[name]
  config = f"""
    platform_name: "CUDA"
    device_description_str: "{kind}"
    runtime_version {{ major: 13 }}
    dnn_version_info {{ major: 9 minor: 8 }}
    gpu_device_info {{
      cuda_compute_capability {{ major: {major} }}
      core_count: {cores}
      shared_memory_per_block: 49152
      shared_memory_per_block_optin: {of_block}
      shared_memory_per_core: {of_core}
      l2_cache_size: {cache}
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
      threads_per_block_limit: 1024
      threads_per_core_limit: 2048
      threads_per_warp: 32
      fpus_per_core: 64
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
      memory_bandwidth: 2039000000000
      device_memory_size: 80000000000
      clock_rate_ghz: 1.4
    }}"""
  return topologies.get_topology_desc(name, "cuda", target_config=config, topology="1x1x1")


@pytest.mark.slow
@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("dtype, block", [("bfloat16", 64), ("float32", 32)])
@pytest.mark.parametrize("depth, heads, rules", [(128, 24, {}), (64, 32, EVERYTHING)])
def test_the_kernels_compile_for_gpus(name, dtype, block, depth, heads, rules):
  pytest.importorskip("jax_plugins.xla_cuda13")  # of the extra `cuda`; no GPU is needed
  where = SingleDeviceSharding(_gpu(name).devices[0])
  _compiled(_traced("pallas_gpu", dtype, block, depth, heads, rules, 4 * block, where))


def _node(length, *children):
  return trees.Node((0,) * length, 0, children=children)


def _against_xla(implementation, dtype, block, depth, rules, tolerance):
  """Values and gradients of the kernels against XLA's in float32, on a tree with dead blocks."""
  tree = trees.flatten(_node(150, *(_node(70, _node(60), _node(20)) for _ in range(6))))
  ends, positions = (x[None].astype(np.int32) for x in (tree.subtree_end, tree.positions))
  rng = np.random.default_rng(0)
  shapes = [(1, len(tree), n, depth) for n in (6, 2, 2, 6)]
  arrays = [jnp.asarray(rng.standard_normal(s), "bfloat16") for s in shapes]
  blocks = tree_flash.tree_blocks(ends, positions, block=block, window=rules.get("window"))
  how = {"block": block, **rules}

  def flash(q, k, v):
    return tree_flash.attention(
      q, k, v, ends, positions, blocks, implementation=implementation, **how
    )

  def xla(q, k, v):
    return tree_attention.attention(q, k, v, ends, positions, **how)

  @functools.partial(jax.jit, static_argnames=("attend", "dtype"))
  def values_and_gradients(arrays, attend, dtype):
    *given, cotangent = (x.astype(dtype) for x in arrays)
    out, pull = jax.vjp(attend, *given)
    return out, *pull(cotangent)

  with jax.default_matmul_precision("highest"):
    expected = values_and_gradients(arrays, xla, "float32")
  found = values_and_gradients(arrays, flash, dtype)
  for ours, theirs in zip(found, expected, strict=True):
    atol = tolerance * max(float(np.abs(theirs).max()), 1.0)
    np.testing.assert_allclose(ours.astype("float32"), theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("rules", [{}, EVERYTHING])
@pytest.mark.parametrize(
  "dtype, block, depth, tolerance",
  [("float32", 32, 128, 1e-5), ("bfloat16", 64, 128, 2e-2), ("bfloat16", 128, 64, 2e-2)],
)
def test_on_a_gpu_the_kernels_are_xlas_attention(dtype, block, depth, tolerance, rules):
  if jax.default_backend() != "gpu":
    pytest.skip("needs a GPU, and JAX_PLATFORMS=cuda")
  _against_xla("pallas_gpu", dtype, block, depth, rules, tolerance)
