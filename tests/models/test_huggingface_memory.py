# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Host memory of importing a large checkpoint, in a process of its own.

By hand, for the shape of Llama 3.2 3B in bfloat16 (6.4 GB of disk and 8 GB of memory):

  python -m tests.models.test_huggingface_memory write FOLDER 3b
  python -m tests.models.test_huggingface_memory read FOLDER bfloat16
"""

import json
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fspo_jax import sharding
from fspo_jax.models import huggingface, transformer
from fspo_jax.models.huggingface import read_config, tensors
from fspo_jax.training import state as state_lib
from tests import tiny
from tests.models.test_huggingface import FIXTURES, load

_LLAMA = {
  "model_type": "llama",
  "max_position_embeddings": 131072,
  "rms_norm_eps": 1e-5,
  "tie_word_embeddings": True,
}
SHAPES = {
  "3b": (128256, 3072, 28, 24, 8, 8192),
  "small": (16000, 1024, 18, 16, 4, 2816),
}
_SIZES = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "num_key_value_heads",
  "intermediate_size",
)


def write(folder, shape):
  """A checkpoint of this shape with random weights in bfloat16, a file for every few layers."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  keys = _LLAMA | dict(zip(_SIZES, SHAPES[shape], strict=True))
  (folder / "config.json").write_text(json.dumps(keys))
  how = {"dtype": "bfloat16", "param_dtype": "bfloat16", "attention_block": 16, "remat": "none"}
  config = read_config.read(keys, "config.json", **how)
  model = transformer.Transformer(config)
  abstract = state_lib.abstract_params(model, sharding.make_mesh(1, devices=jax.devices()[:1]))
  noise = np.random.default_rng(0).standard_normal(100_003).astype(jnp.bfloat16)
  of_tensor, shard = {}, {}

  def flush():
    name = f"model-{len({*of_tensor.values()}) + 1}.safetensors"
    save_file(shard, folder / name)
    of_tensor.update(dict.fromkeys(shard, name))
    shard.clear()

  for place in tensors.places(config):
    leaf = abstract
    for key in place.path:
      leaf = leaf[key]
    shard[place.name] = np.resize(noise, place.shape(leaf.shape))
    if sum(x.nbytes for x in shard.values()) > 2**30:
      flush()
  flush()
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": of_tensor}))


def _status(name):
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def read(folder, dtype):
  """Imports it, and prints memory: of the parameters, before, and at most."""
  load(FIXTURES / "llama3_2")  # what compiling takes, any model takes
  config = huggingface.load_config(folder, dtype=dtype, param_dtype=dtype)
  abstract = state_lib.abstract_params(
    transformer.Transformer(config), sharding.make_mesh(1, devices=jax.devices()[:1])
  )
  before = _status("VmRSS")
  params = huggingface.load_params(folder, config, abstract)
  found = {
    "parameters": sum(x.nbytes for x in jax.tree.leaves(params)),
    "before": before,
    "peak": _status("VmHWM"),
    "ru_maxrss": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
  }
  print(json.dumps(found))
  return found


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_import_takes_little_more_than_the_parameters(tmp_path, dtype):
  write(tmp_path, "small")
  tiny.run("models.test_huggingface_memory", "check", tmp_path, dtype)


def check(folder, dtype):
  found = read(folder, dtype)
  assert found["parameters"] > 400e6
  assert found["peak"] - found["before"] < 1.3 * found["parameters"], found


if __name__ == "__main__":
  {"write": write, "read": read, "check": check}[sys.argv[1]](*sys.argv[2:])
