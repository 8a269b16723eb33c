# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the layout of Hugging Face, in and out.

  config = huggingface.load_config(folder, param_dtype="bfloat16")
  model = transformer.Transformer(config)
  params = huggingface.load_params(folder, config, state.abstract_params(model, mesh))
  ...
  beside = huggingface.load_companions(folder)
  huggingface.save_model(exported, params, config, beside)  # of lora.merge(...), for adapters
  huggingface.save_adapter(exported, adapters, lora_config, config, base=folder)

Families: Llama 2 to 3.2, Mistral, Qwen 2 to 3, Gemma 2, and the text models of Gemma 3. Weights are
safetensors; pickles are never loaded.
"""

from fspo_jax.models.huggingface.companions import Companions, load_companions
from fspo_jax.models.huggingface.errors import HuggingFaceError
from fspo_jax.models.huggingface.exporting import check_new, save_adapter, save_model
from fspo_jax.models.huggingface.importing import is_checkpoint, load_config, load_params

__all__ = [
  "Companions",
  "HuggingFaceError",
  "check_new",
  "is_checkpoint",
  "load_companions",
  "load_config",
  "load_params",
  "save_adapter",
  "save_model",
]
