# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of Hugging Face checkpoints: golden files of every family, round trips, a real one."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import sentencepiece

from fspo_jax import sharding
from fspo_jax.inference import sampler
from fspo_jax.models import huggingface, lora, transformer
from fspo_jax.models.huggingface import read_config
from fspo_jax.training import state as state_lib
from tests import tiny
from tests.models import huggingface_models as models

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "huggingface"
NEVER = models.VOCAB  # an EOS that is no token
# What logits may differ by, in float32, between two programs that do the same.
LOGITS = 2e-4
LORA = lora.LoraConfig(rank=2, alpha=4.0, projections=("q", "v", "o", "down"))


def load(folder, mesh=None, **how):
  """The decoder and parameters of a folder."""
  config = huggingface.load_config(folder, attention_block=16, **how)
  model = transformer.Transformer(config)
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1]) if mesh is None else mesh
  return model, huggingface.load_params(folder, config, state_lib.abstract_params(model, mesh))


def logits(model, params, tokens):
  """Logits [B, L, V] of plain sequences."""
  tokens = jnp.asarray(tokens, jnp.int32)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None, :], tokens.shape)
  ends = jnp.full(tokens.shape, tokens.shape[1])
  apply = jax.jit(lambda *a: model.apply({"params": params}, *a)[0])
  return transformer.logits(params, model.config, apply(tokens, positions, positions, ends))


def greedy(model, params, tokens, count):
  """The `count` likeliest next ids of one sequence, through the cache."""
  context = sampler.empty(model.config, 1, len(tokens) + count)
  context = sampler.extend(model, params, context, [sampler.Run.of(tokens, 0)])
  decoding = sampler.Decoding(temperature=0.0, top_p=1.0, max_tokens=count)
  eos = max(NEVER, model.config.vocab_size)
  return sampler.sample(
    model, params, context, role=0, eos_id=eos, decoding=decoding, seeds=[(0,)]
  )[0].tokens


def same(params, others):
  """Whether two trees of parameters are the same to the last bit."""
  flat, other = tiny.flat(params), tiny.flat(others)
  assert flat.keys() == other.keys()
  for name, leaf in flat.items():
    assert leaf.dtype == other[name].dtype, name
    np.testing.assert_array_equal(leaf, other[name], err_msg=name)


@pytest.mark.parametrize("name", models.MODELS)
def test_logits_and_greedy_ids_are_those_of_transformers(name):
  model, params = load(FIXTURES / name)
  golden = load_file(FIXTURES / name / "golden.safetensors")
  assert golden["logits"].std() > 0.8
  np.testing.assert_allclose(logits(model, params, golden["tokens"]), golden["logits"], atol=LOGITS)
  tokens, expected = golden["tokens"][0].tolist(), golden["greedy"][0].tolist()
  assert greedy(model, params, tokens, len(expected)) == expected


@pytest.mark.parametrize(
  "name, off",
  [
    ("llama3_1", {"rope_scaling": "none", "rope_factor": 1.0}),
    ("llama_linear", {"rope_scaling": "none", "rope_factor": 1.0}),
    ("mistral", {"windows": ()}),
    ("qwen2_windows", {"windows": (7, 0, 7)}),
    ("gemma2", {"windows": (7,)}),
    ("gemma2", {"attention_softcap": 0.0}),
    ("gemma3", {"rope_local_theta": 0.0}),
    ("gemma3", {"windows": (8, 8, 8, 8, 8, 0)}),
  ],
)
def test_what_the_golden_files_test_makes_a_difference(name, off):
  model, params = load(FIXTURES / name)
  golden = load_file(FIXTURES / name / "golden.safetensors")
  other = transformer.Transformer(dataclasses.replace(model.config, **off))
  found = logits(other, params, golden["tokens"])
  assert np.abs(found - golden["logits"]).max() > 100 * LOGITS


@pytest.mark.parametrize("name", models.MODELS)
def test_configs_of_before_and_since_version_5_say_the_same(name):
  how = {"dtype": "float32", "param_dtype": "bfloat16", "attention_block": 9, "remat": "full"}
  old, new = (
    read_config.read(json.loads((FIXTURES / name / file).read_text()), file, **how)
    for file in ("config.json", "config_v5.json")
  )
  assert old == new
  assert (old.param_dtype, old.attention_block, old.remat) == ("bfloat16", 9, "full")


@pytest.mark.parametrize("param_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", models.MODELS)
def test_import_export_import_is_equal_to_the_last_bit(name, param_dtype, tmp_path):
  source = FIXTURES / name
  model, params = load(source, param_dtype=param_dtype)
  beside = huggingface.load_companions(source)
  huggingface.save_model(tmp_path / "out", params, model.config, beside, max_shard_bytes=4000)
  index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
  files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
  assert len(files) > 2 and sorted({*index["weight_map"].values()}) == files
  assert all((tmp_path / "out" / file).stat().st_size < 8000 for file in files)
  there = [load_file(tmp_path / "out" / file) for file in files]
  tensors = {name: x for file in there for name, x in file.items()}
  assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
  again, others = load(tmp_path / "out", param_dtype=param_dtype)
  assert again.config == model.config
  same(params, others)
  if param_dtype == "bfloat16":  # as it was stored
    stored = load_file(source / "model.safetensors")
    assert stored.keys() == tensors.keys()
    for tensor, values in stored.items():
      np.testing.assert_array_equal(tensors[tensor], values, err_msg=tensor)


def test_what_lies_beside_the_weights_goes_with_them(tmp_path):
  source = tmp_path / "source"
  shutil.copytree(FIXTURES / "llama3_2", source)
  beside = {"tokenizer.json": '{"a": 1}', "chat_template.jinja": "{{ x }}", "README.md": "no"}
  for name, text in beside.items():
    (source / name).write_text(text)
  generation = {"eos_token_id": [2, 3], "temperature": 0.6, "do_sample": True}
  (source / "generation_config.json").write_text(json.dumps(generation))
  model, params = load(source)
  huggingface.save_model(
    tmp_path / "out", params, model.config, huggingface.load_companions(source)
  )
  names = sorted(path.name for path in (tmp_path / "out").iterdir())
  assert names == [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
  ]
  assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"a": 1}'
  assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == generation
  keys = json.loads((tmp_path / "out" / "config.json").read_text())
  assert keys["architectures"] == ["LlamaForCausalLM"] and keys["model_type"] == "llama"
  assert (keys["bos_token_id"], keys["eos_token_id"], keys["pad_token_id"]) == (1, 2, 0)
  assert keys["max_position_embeddings"] == 64 and keys["torch_dtype"] == "float32"


def test_a_model_made_here_is_written_as_a_llama(tmp_path):
  decoder = tiny.model(roles=0)
  beside = huggingface.Companions(max_length=128, token_ids={"eos_token_id": 2})
  huggingface.save_model(tmp_path, tiny.params(decoder), decoder.config, beside)
  model, params = load(tmp_path)
  assert model.config == decoder.config
  same(params, tiny.params(decoder))
  written = json.loads((tmp_path / "generation_config.json").read_text())
  assert written == {"eos_token_id": 2}


def test_merged_adapters_are_in_the_weights_and_others_in_a_file_of_their_own(tmp_path):
  model, params = load(FIXTURES / "qwen2_5")
  rng = np.random.default_rng(0)
  adapters = jax.tree.map(
    lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype),
    lora.init(jax.random.key(0), params, LORA),
  )
  merged = lora.merge(params, adapters, LORA)
  beside = huggingface.load_companions(FIXTURES / "qwen2_5")
  huggingface.save_model(tmp_path / "merged", merged, model.config, beside)
  same(load(tmp_path / "merged")[1], merged)
  base = "Qwen/Qwen2.5-0.5B"
  trained = dataclasses.replace(LORA, dropout=0.1)
  huggingface.save_adapter(tmp_path / "peft", adapters, trained, model.config, base=base)
  keys = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
  assert (keys["r"], keys["lora_alpha"], keys["base_model_name_or_path"]) == (2, 4.0, base)
  assert keys["lora_dropout"] == 0.1
  assert keys["target_modules"] == ["q_proj", "v_proj", "o_proj", "down_proj"]
  found = load_file(tmp_path / "peft" / "adapter_model.safetensors")
  assert len(found) == 2 * 2 * 4
  for layer in range(2):
    for ours, module in (("q", "self_attn.q_proj"), ("down", "mlp.down_proj")):
      name = f"base_model.model.model.layers.{layer}.{module}"
      a, b = (found[f"{name}.lora_{x}.weight"] for x in "AB")
      change = (merged["blocks"][ours]["kernel"] - params["blocks"][ours]["kernel"])[layer]
      np.testing.assert_allclose(2.0 * (b @ a).T, change, atol=1e-5)


def test_what_some_store_twice_is_taken_if_it_is_the_same(tmp_path):
  shutil.copytree(FIXTURES / "llama_linear", tmp_path, dirs_exist_ok=True)
  keys = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(keys | {"tie_word_embeddings": True}))
  tensors = load_file(tmp_path / "model.safetensors")
  head = tensors["model.embed_tokens.weight"]
  frequencies = (100.0 ** (-np.arange(2) / 2) / 4.0).astype(np.float16)
  buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"

  def store(head, frequencies):
    more = {"lm_head.weight": head, buffer: frequencies}
    save_file({**tensors, **more}, tmp_path / "model.safetensors")

  store(head, frequencies)
  assert "head" not in load(tmp_path)[1]
  store(head + 1, frequencies)
  with pytest.raises(huggingface.HuggingFaceError, match="lm_head.weight: found the shape"):
    load(tmp_path)
  store(head, 2 * frequencies)
  with pytest.raises(huggingface.HuggingFaceError, match="inv_freq: found the shape"):
    load(tmp_path)


def test_stories260k_says_what_its_publisher_says(shared_data):
  folder = shared_data / "stories260k"
  expected = (folder / "expected.txt").read_text(encoding="utf-8")
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  model, params = load(folder)
  ids = greedy(model, params, [pieces.bos_id()], 256)
  assert pieces.decode(ids) + "\n" == expected  # the file ends its last line


def main(*names):
  """Run with 8 devices: what lies on a mesh is what lies on one device."""
  for name in names:
    _, whole = load(FIXTURES / name)
    for sizes in ((1, 4, 2), (2, 2, 2)):
      mesh = sharding.make_mesh(*sizes)
      _, parts = load(FIXTURES / name, mesh)
      same(jax.device_get(parts), jax.device_get(whole))
      kernel = parts["blocks"]["gate"]["kernel"]
      assert kernel.addressable_shards[0].data.shape[1:] == (16 // sizes[1], 24 // sizes[2])


@pytest.mark.slow
def test_every_device_of_a_mesh_gets_its_part_and_the_whole_is_the_same():
  tiny.run("models.test_huggingface", "qwen2_windows", "gemma3", devices=8)


if __name__ == "__main__":
  main(*sys.argv[1:])
