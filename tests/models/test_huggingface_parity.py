# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Live parity with transformers, both ways, where torch is there; golden files are elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fspo_jax.models import huggingface, lora
from tests import tiny
from tests.models import huggingface_models as models
from tests.models import test_huggingface as working

WHY = "live parity needs `pip install fspo_jax[parity]`"
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokens():
  return np.random.default_rng(1).integers(3, models.VOCAB, (3, models.LENGTH))


def _open(folder, **how):
  return transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager", dtype=torch.float32, **how
  ).eval()


@pytest.mark.parametrize("name", models.MODELS)
def test_both_say_the_same_whoever_wrote_the_model(name, tokens, tmp_path):
  theirs = models.make(name, seed=1)
  theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
  expected = models.logits(theirs, tokens)
  model, params = working.load(tmp_path / "theirs")
  found = working.logits(model, params, tokens)
  np.testing.assert_allclose(found, expected, atol=working.LOGITS)
  # Greedy, past the longest sequence that the model is for.
  prompt = tokens[:1, :20]
  ours = working.greedy(model, params, prompt[0].tolist(), 24)
  assert ours == models.greedy(theirs, prompt, 24)[0]
  # And what we write, they read: other weights than they have ever had.
  params = jax.tree.map(lambda x: x * 1.125, params)
  beside = huggingface.load_companions(tmp_path / "theirs")
  huggingface.save_model(tmp_path / "ours", params, model.config, beside, max_shard_bytes=20_000)
  again = _open(tmp_path / "ours")
  assert type(again) is type(theirs)
  expected = working.logits(model, params, tokens)
  np.testing.assert_allclose(models.logits(again, tokens), expected, atol=working.LOGITS)
  ours = working.greedy(model, params, prompt[0].tolist(), 24)
  assert ours == models.greedy(again, prompt, 24)[0]


@pytest.mark.parametrize("changes", [{}, {"heads": 6, "kv_heads": 3}], ids=["llama", "mistral"])
def test_they_read_a_model_made_here(changes, tokens, tmp_path):
  # Heads that do not divide the width are none of Llama's, for transformers.
  decoder = tiny.model(roles=0, **changes)
  beside = huggingface.Companions(max_length=64, token_ids={"eos_token_id": 2})
  huggingface.save_model(tmp_path, tiny.params(decoder), decoder.config, beside)
  expected = working.logits(decoder, tiny.params(decoder), tokens)
  found = models.logits(_open(tmp_path), tokens)
  np.testing.assert_allclose(found, expected, atol=working.LOGITS)


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5", "gemma3"])
def test_peft_adds_our_adapters_as_we_do(name, tokens, tmp_path):
  peft = pytest.importorskip("peft", reason=WHY)
  folder = working.FIXTURES / name
  model, params = working.load(folder)
  config = lora.LoraConfig(rank=3, alpha=7.0, projections=lora.PROJECTIONS)
  rng = np.random.default_rng(0)
  adapters = jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype),
    lora.init(jax.random.key(0), params, config),
  )
  huggingface.save_adapter(tmp_path, adapters, config, model.config, base=str(folder))
  theirs = peft.PeftModel.from_pretrained(_open(folder), tmp_path)
  expected = models.logits(theirs, tokens)
  merged = lora.merge(params, adapters, config)
  np.testing.assert_allclose(working.logits(model, merged, tokens), expected, atol=working.LOGITS)
  assert np.abs(expected - working.logits(model, params, tokens)).max() > 0.1
