# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The table of shapes, against each model's `config.json` and its published size.

The files are those of the repositories named beside them on the Hugging Face hub, less the keys
that say nothing of the shape; of Gemma 3 it is `text_config`, whose missing keys are the defaults
of `Gemma3TextConfig` in transformers. The sizes are those of the weights there ("Model size").
"""

import math

import jax
import pytest

from fspo_jax import sharding
from fspo_jax.models import shapes, transformer
from fspo_jax.models.huggingface import read_config
from fspo_jax.training import state as state_lib

HOW = {"attention_block": 512, "remat": "full", "dtype": "bfloat16", "param_dtype": "float32"}
_LLAMA3 = {"high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}
_LLAMA3 |= {"original_max_position_embeddings": 8192}


def _llama(factor, **keys):
  return {
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": factor, **_LLAMA3},
    "rope_theta": 500000.0,
    "vocab_size": 128256,
    **keys,
  }


def _qwen(kind, **keys):
  return {
    "model_type": kind,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    **keys,
  }


PUBLISHED = {
  "llama3.2-1b": (  # meta-llama/Llama-3.2-1B-Instruct
    _llama(
      32.0,
      head_dim=64,
      hidden_size=2048,
      intermediate_size=8192,
      num_attention_heads=32,
      num_hidden_layers=16,
      tie_word_embeddings=True,
    ),
    1_235_814_400,
  ),
  "llama3.2-3b": (  # meta-llama/Llama-3.2-3B-Instruct
    _llama(
      32.0,
      head_dim=128,
      hidden_size=3072,
      intermediate_size=8192,
      num_attention_heads=24,
      num_hidden_layers=28,
      tie_word_embeddings=True,
    ),
    3_212_749_824,
  ),
  "llama3.1-8b": (  # meta-llama/Llama-3.1-8B-Instruct
    _llama(
      8.0,
      hidden_size=4096,
      intermediate_size=14336,
      num_attention_heads=32,
      num_hidden_layers=32,
      tie_word_embeddings=False,
    ),
    8_030_261_248,
  ),
  "gemma2-2b": (  # google/gemma-2-2b-it
    {
      "model_type": "gemma2",
      "attention_bias": False,
      "attn_logit_softcapping": 50.0,
      "final_logit_softcapping": 30.0,
      "head_dim": 256,
      "hidden_act": "gelu_pytorch_tanh",
      "hidden_activation": "gelu_pytorch_tanh",
      "hidden_size": 2304,
      "intermediate_size": 9216,
      "num_attention_heads": 8,
      "num_hidden_layers": 26,
      "num_key_value_heads": 4,
      "query_pre_attn_scalar": 256,
      "rms_norm_eps": 1e-06,
      "rope_theta": 10000.0,
      "sliding_window": 4096,
      "vocab_size": 256000,
    },
    2_614_341_888,
  ),
  "gemma3-4b": (  # google/gemma-3-4b-it: text_config, and from `Gemma3TextConfig` the last five
    {
      "model_type": "gemma3_text",
      "hidden_size": 2560,
      "intermediate_size": 10240,
      "num_hidden_layers": 34,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
      "sliding_window": 1024,
      "vocab_size": 262208,
      "num_attention_heads": 8,
      "num_key_value_heads": 4,
      "head_dim": 256,
      "hidden_activation": "gelu_pytorch_tanh",
    },
    None,  # what is published counts the vision tower in
  ),
  "qwen2.5-7b": (  # Qwen/Qwen2.5-7B-Instruct
    _qwen(
      "qwen2",
      hidden_size=3584,
      intermediate_size=18944,
      max_window_layers=28,
      num_attention_heads=28,
      num_hidden_layers=28,
      num_key_value_heads=4,
      sliding_window=131072,
      tie_word_embeddings=False,
      vocab_size=152064,
    ),
    7_615_616_512,
  ),
  "qwen3-4b": (  # Qwen/Qwen3-4B
    _qwen(
      "qwen3",
      head_dim=128,
      hidden_size=2560,
      intermediate_size=9728,
      num_attention_heads=32,
      num_hidden_layers=36,
      num_key_value_heads=8,
      tie_word_embeddings=True,
      vocab_size=151936,
    ),
    4_022_468_096,
  ),
  "qwen3-8b": (  # Qwen/Qwen3-8B
    _qwen(
      "qwen3",
      head_dim=128,
      hidden_size=4096,
      intermediate_size=12288,
      num_attention_heads=32,
      num_hidden_layers=36,
      num_key_value_heads=8,
      tie_word_embeddings=False,
      vocab_size=151936,
    ),
    8_190_735_360,
  ),
}


def test_every_shape_is_checked():
  assert set(PUBLISHED) == set(shapes.NAMES)


@pytest.mark.parametrize("name", shapes.NAMES)
def test_a_shape_is_what_config_json_says(name):
  keys, parameters = PUBLISHED[name]
  found = shapes.shape(name, **HOW)
  assert found == read_config.read(dict(keys), name, **HOW)
  if parameters is not None:
    abstract = state_lib.abstract_params(transformer.Transformer(found), sharding.one_device())
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(abstract)) == parameters


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match=r"model='llama4': expected one of \('llama3\.2-1b'"):
    shapes.shape("llama4", **HOW)
