# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every family, as `transformers` makes them; nothing here imports it but `make`."""

import copy

VOCAB, LENGTH = 48, 40
# Windows and the original rotary length are far shorter than the sequences.
_WINDOW, _SHORT = 7, 8
_SIZES = {
  "vocab_size": VOCAB,
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "rms_norm_eps": 1e-5,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 0,
}
_LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": _SHORT,
}
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 24, "sliding_window": _WINDOW}

# Each with its `config.json`, but for the sizes.
MODELS = {
  "llama2": {"model_type": "llama", "num_key_value_heads": 4, "rope_theta": 10_000.0},
  "llama3_1": {"model_type": "llama", "rope_theta": 500.0, "rope_scaling": _LLAMA3},
  "llama3_2": {
    "model_type": "llama",
    "rope_theta": 50.0,
    "rope_scaling": {**_LLAMA3, "factor": 32.0},
    "head_dim": 8,
    "tie_word_embeddings": True,
  },
  "llama_linear": {"model_type": "llama", "rope_theta": 100.0, "rope_scaling": _LINEAR},
  "mistral": {"model_type": "mistral", "head_dim": 6, "sliding_window": _WINDOW},
  "mistral_global": {"model_type": "mistral", "sliding_window": None},
  "qwen2_5": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
  "qwen2_windows": {
    "model_type": "qwen2",
    "num_hidden_layers": 3,
    "use_sliding_window": True,
    "sliding_window": _WINDOW,
    "max_window_layers": 1,
  },
  "qwen3": {"model_type": "qwen3", "head_dim": 8, "rope_theta": 1e6},
  "gemma2": {
    "model_type": "gemma2",
    "num_hidden_layers": 3,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    **_GEMMA,
  },
  "gemma3": {
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "rope_theta": 1000.0,
    "rope_local_base_freq": 10.0,
    "rope_scaling": _LINEAR,
    **_GEMMA,
  },
}


def config_json(name):
  """What a model's `config.json` says, as files of before version 5 do."""
  # A copy: transformers writes into what it is given.
  return copy.deepcopy({**_SIZES, **MODELS[name]})


def make(name, seed=0):
  """The model in torch, float32, eager attention; every parameter random, and one of bfloat16's."""
  import torch
  import transformers

  keys = config_json(name)
  config = transformers.AutoConfig.for_model(keys.pop("model_type"), **keys)
  model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter_name, parameter in model.named_parameters():
      values = torch.randn(parameter.shape, generator=generator)
      if "norm" in parameter_name:
        values = 0.3 * values + ("gemma" not in name)
      elif parameter.ndim == 2 and "embed" not in parameter_name:
        values = values / parameter.shape[1] ** 0.5
      else:
        values = 0.5 * values
      parameter.copy_(values.bfloat16().float())
  return model.float().eval()


def logits(model, tokens):
  """Logits [B, L, V] of ids [B, L]."""
  import torch

  with torch.no_grad():
    return model(torch.as_tensor(tokens)).logits.float().numpy()


def greedy(model, tokens, count):
  """The `count` ids after each row of ids, whatever they are; every next one is the likeliest."""
  import torch

  found = torch.as_tensor(tokens)
  ended = model.generation_config.eos_token_id
  model.generation_config.eos_token_id = None
  with torch.no_grad():
    found = model.generate(
      found, do_sample=False, max_new_tokens=count, attention_mask=torch.ones_like(found)
    )
  model.generation_config.eos_token_id = ended
  return found[:, len(tokens[0]) :].tolist()
