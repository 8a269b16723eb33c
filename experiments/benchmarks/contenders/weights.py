# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the weights that all contenders start from: a random policy, and a reference beside it.

python -m experiments.benchmarks.contenders.weights WORKDIR
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.contenders.setting import Setting
from fspo_jax import sharding
from fspo_jax.models import huggingface, transformer
from fspo_jax.training import state as state_lib


def write(setting: Setting, workdir: pathlib.Path) -> None:
  """Writes `policy` and `reference`, in the layout of Hugging Face.

  Fresh parameters would not do: blocks add nothing at first, and at the reference every margin is
  0. So all matrices are random, and the reference's are others by some percent.
  """
  model = transformer.Transformer(setting.config)
  abstract = state_lib.abstract_params(model, sharding.one_device())
  rng = np.random.default_rng(setting.seed)

  def fill(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    if path[-1].key == "scale":
      return np.ones(leaf.shape, np.float32)
    table = path[-1].key in ("embedding", "head")
    spread = setting.config.width if table else leaf.shape[-2]
    return rng.standard_normal(leaf.shape, np.float32) * np.float32(spread**-0.5)

  def change(x: np.ndarray) -> np.ndarray:
    return x * (1 + 0.05 * np.cos(np.arange(x.size, dtype=np.float32))).reshape(x.shape)

  def save(name: str, params: Any) -> None:
    beside = huggingface.Companions(max_length=1 << 17)
    params = jax.tree.map(lambda x: jnp.asarray(x, setting.dtype), params)
    huggingface.save_model(workdir / name, params, setting.config, beside)

  policy = jax.tree_util.tree_map_with_path(fill, abstract)
  save("policy", policy)
  save("reference", jax.tree.map(change, policy))


if __name__ == "__main__":
  write(Setting.read(sys.argv[1]), pathlib.Path(sys.argv[1]))
