# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of what is refused: broken files, configs that contradict them, models there are not."""

import dataclasses
import json
import pathlib
import pickle
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fspo_jax.models import huggingface, lora
from fspo_jax.models.huggingface import HuggingFaceError
from tests import tiny
from tests.models import test_huggingface as working

BESIDE = huggingface.Companions(max_length=64)
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path):
  """A copy of the small Llama: 2 layers, width 16, 4 heads of 4, 2 for keys and values, untied."""
  shutil.copytree(working.FIXTURES / "llama3_1", tmp_path / "model")
  return tmp_path / "model"


def change(folder, **keys):
  """Changes keys of `config.json`."""
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def refused(folder, *found):
  """The folder is refused, with a message that says all of this."""
  with pytest.raises(HuggingFaceError) as caught:
    working.load(folder)
  for text in found:
    assert text in str(caught.value), str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 8, 300, -1])
def test_a_truncated_file(folder, keep):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:keep])
  refused(folder, str(path), "expected a whole safetensors file")


class _Boom:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def test_a_pickle_is_never_loaded_whatever_its_name(folder, tmp_path):
  ran = tmp_path / "ran"
  attack = pickle.dumps({"model.embed_tokens.weight": _Boom(ran)})
  (folder / "model.safetensors").write_bytes(attack)
  refused(folder, "model.safetensors: expected a whole safetensors file (pickles are never loaded)")
  (folder / "model.safetensors").unlink()
  (folder / "pytorch_model.bin").write_bytes(attack)
  refused(folder, "found ['pytorch_model.bin'], and pickles are never loaded; expected model.safet")
  (folder / "pytorch_model.bin").unlink()
  refused(folder, "found no weights; expected model.safetensors")
  assert not ran.exists()
  pickle.loads(attack)
  assert ran.exists()  # it would have


@pytest.mark.parametrize(
  "name", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", 7, "..", None]
)
def test_an_index_that_leads_elsewhere(folder, name):
  (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {Q: name}}))
  refused(folder, f"{Q}: found in {name!r}, expected a .safetensors file of the same folder")


def test_an_index_that_its_files_contradict(folder):
  tensors = load_file(folder / "model.safetensors")
  index = folder / "model.safetensors.index.json"

  def say(files):
    index.write_text(json.dumps({"weight_map": files}))

  say(dict.fromkeys(tensors, "a.safetensors"))
  refused(folder, "found both model.safetensors.index.json and model.safetensors")
  (folder / "model.safetensors").rename(folder / "a.safetensors")
  working.load(folder)
  say(dict.fromkeys(tensors, "a.safetensors") | {Q: "b.safetensors"})
  refused(folder, f"a.safetensors: found {Q}, expected in 'b.safetensors'")
  say({name: "a.safetensors" for name in tensors if name != Q})
  refused(folder, f"a.safetensors: found {Q}, expected in None")
  say(dict.fromkeys(tensors, "a.safetensors") | {"more": "a.safetensors"})
  refused(folder, "a.safetensors: found no more, expected by model.safetensors.index.json")
  say(dict.fromkeys(tensors, "b.safetensors"))
  refused(folder, "b.safetensors: found no such file")
  for text in ("{}", '{"weight_map": []}'):
    index.write_text(text)
    refused(folder, "weight_map: found")


def test_tensors_that_are_missing_surplus_or_of_another_shape_are_named_with_both_shapes(folder):
  tensors = load_file(folder / "model.safetensors")
  more = {"model.layers.0.mlp.experts.weight": np.zeros((3, 2), np.float32)}
  turned = {Q: np.zeros((16, 8), np.float32)}
  norm = tensors.pop("model.norm.weight")
  save_file({**tensors, **more, **turned}, folder / "model.safetensors")
  refused(
    folder,
    f"{Q}: found the shape (16, 8), expected the shape (16, 16)",
    "model.norm.weight: found no such tensor, expected the shape (16,)",
    "model.layers.0.mlp.experts.weight: found the shape (3, 2), expected no such tensor",
  )
  tensors |= {"model.norm.weight": norm.astype(np.int32)}
  save_file(tensors, folder / "model.safetensors")
  refused(folder, "model.norm.weight: found I32, expected one of ['BF16', 'F16', 'F32']")


@pytest.mark.parametrize(
  "keys, found",
  [
    ({"vocab_size": 50}, "embed_tokens.weight: found the shape (48, 16), expected the shape (50,"),
    ({"hidden_size": 32}, f"{Q}: found the shape (16, 16), expected the shape (32, 32)"),
    ({"head_dim": 8}, f"{Q}: found the shape (16, 16), expected the shape (32, 16)"),
    ({"num_key_value_heads": 1}, "k_proj.weight: found the shape (8, 16), expected the shape (4,"),
    ({"num_hidden_layers": 3}, "model.layers.2.mlp.up_proj.weight: found no such tensor, expected"),
    ({"num_hidden_layers": 1}, "model.layers.1.mlp.up_proj.weight: found the shape (24, 16), expe"),
    ({"num_hidden_layers": 40}, "and 322 more"),
    (
      {"intermediate_size": 9},
      "mlp.down_proj.weight: found the shape (16, 24), expected the shape",
    ),
    ({"tie_word_embeddings": True}, "lm_head.weight: found the shape (48, 16), expected no such"),
    ({"model_type": "qwen3"}, "q_norm.weight: found no such tensor, expected the shape (4,)"),
  ],
)
def test_a_config_that_contradicts_the_tensors(folder, keys, found):
  if "model_type" in keys:
    keys = keys | {"architectures": ["Qwen3ForCausalLM"], "head_dim": 4}
  change(folder, **keys)
  refused(folder, "tensors that are not those of config.json", found)


@pytest.mark.parametrize(
  "keys, found",
  [
    ({"model_type": "mixtral"}, "model_type='mixtral' is not supported, expected ['llama', 'mist"),
    ({"model_type": None}, "model_type: found None, expected a value of type str"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "expected ['LlamaForCausalLM']"),
    ({"num_local_experts": 8}, "found {'num_local_experts': 8}, which this family is not known"),
    ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} is not supported"),
    ({"attention_bias": True}, "attention_bias=True is not supported, expected False"),
    ({"mlp_bias": True}, "mlp_bias=True is not supported, expected False"),
    ({"attention_dropout": 0.1}, "attention_dropout=0.1 is not supported, expected 0.0"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported, expected 'silu'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported, expected 1.0"),
    ({"sliding_window": 4}, "found {'sliding_window': 4}"),
    ({"hidden_size": "16"}, "hidden_size: found '16', expected a value of type int"),
    ({"hidden_size": True}, "hidden_size: found True, expected a value of type int"),
    ({"hidden_size": 0}, "model.width=0 must be at least 1"),
    ({"num_attention_heads": 0}, "must be at least 1"),
    ({"num_key_value_heads": 3}, "model.kv_heads=3 does not divide model.heads=4"),
    ({"num_hidden_layers": -2}, "model.layers=-2 must be at least 1"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: found nan, expected a finite number"),
    ({"rope_theta": float("inf")}, "rope_theta: found inf, expected a finite number"),
    ({"rope_theta": 10**400}, "expected a finite number"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type='yarn' is not supported"),
    ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "expected 'default', 'linear' or 'll"),
    (
      {"rope_scaling": {"type": "linear"}},
      "factor: found no such key, expected a value of type fl",
    ),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}, "rope: found {'x': 1}"),
    ({"rope_scaling": [1]}, "rope_scaling: found [1], expected a value of type dict"),
    ({"rope_parameters": {"rope_theta": 5.0}}, "found rope_parameters and rope_scaling"),
    (
      {"rope_parameters": {"rope_theta": 5.0}, "rope_scaling": None},
      "found a theta of 500.0 and {'rope_theta': 5.0}, expected one",
    ),
  ],
)
def test_a_config_that_asks_for_what_there_is_not(folder, keys, found):
  change(folder, **keys)
  refused(folder, "config.json", found)


@pytest.mark.parametrize(
  "name, keys, found",
  [
    ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping=5.0 is not supported"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not"),
    ("gemma3", {"model_type": "gemma3"}, "model_type='gemma3' is not supported"),
    ("gemma2", {"hidden_activation": "gelu"}, "expected 'gelu_pytorch_tanh'"),
    ("gemma2", {"sliding_window": None}, "layers of 'sliding_attention', but found no window"),
    ("gemma2", {"layer_types": ["full_attention"]}, "expected 3 of 'sliding_attention'"),
    ("gemma2", {"layer_types": [{}, [], 3]}, "expected 3 of 'sliding_attention'"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "found {'layer_types': "),
    (
      "qwen2_windows",
      {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 3},
      "but found no window",
    ),
  ],
)
def test_a_config_that_asks_for_what_its_family_has_not(tmp_path, name, keys, found):
  shutil.copytree(working.FIXTURES / name, tmp_path, dirs_exist_ok=True)
  change(tmp_path, **keys)
  refused(tmp_path, "config.json", found)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, "\ud800"])
def test_a_config_that_is_none(folder, text):
  (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
  refused(folder, "config.json", "expected")
  (folder / "config.json").unlink()
  refused(folder, "config.json: found no such file")


def test_parameters_that_a_checkpoint_has_no_place_for(folder):
  model, _ = working.load(folder)
  config = dataclasses.replace(model.config, roles=5)
  abstract = working.state_lib.abstract_params(
    working.transformer.Transformer(config), working.sharding.make_mesh(1)
  )
  with pytest.raises(HuggingFaceError, match=r"has no \[\('role_embedding',\)\]; .*model.roles=0"):
    huggingface.load_params(folder, config, abstract)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"roles": 5}, "model.roles: found 5, expected 0"),
    ({"roles": 0, "windows": (4, 0)}, "model.windows: found .*, expected"),
    ({"roles": 0, "attention_softcap": 5.0}, "model.attention_softcap: found 5.0, expected 0.0"),
    ({"roles": 0, "qkv_bias": True, "qk_norm": True}, "model.qk_norm: found True, expected False"),
    ({"roles": 0, "heads": 6, "windows": (4, 0)}, "for 'mistral'"),
  ],
)
def test_a_model_that_no_family_has_is_not_written(tmp_path, changes, message):
  decoder = tiny.model(**changes)
  with pytest.raises(HuggingFaceError, match=message):
    huggingface.save_model(tmp_path / "new", tiny.params(decoder), decoder.config, BESIDE)
  assert not (tmp_path / "new").exists()


def test_what_is_not_written(tmp_path):
  decoder = tiny.model(roles=0)
  config, params = decoder.config, tiny.params(decoder)
  save = huggingface.save_model
  (tmp_path / "used").mkdir()
  (tmp_path / "used" / "notes.txt").write_text("mine")
  with pytest.raises(HuggingFaceError, match=r"found \['notes.txt'\], expected a new or an empty"):
    save(tmp_path / "used", params, config, BESIDE)
  with pytest.raises(HuggingFaceError, match="max_shard_bytes=0 must be at least 1"):
    save(tmp_path / "new", params, config, BESIDE, max_shard_bytes=0)
  wider = dataclasses.replace(config, mlp=25)
  with pytest.raises(
    HuggingFaceError,
    match=re.escape("blocks/down/kernel: found the shape (2, 24, 16), expected (2, 25, 16)"),
  ):
    save(tmp_path / "new", params, wider, BESIDE)
  with pytest.raises(HuggingFaceError, match=r"more: found the shape \(1,\), expected None"):
    save(tmp_path / "new", {**params, "more": jnp.zeros(1)}, config, BESIDE)
  six = tiny.model(roles=0, heads=6)
  llama = dataclasses.replace(BESIDE, model_type="llama")
  with pytest.raises(HuggingFaceError, match="model.heads: found 6, expected 'a divisor of 16"):
    save(tmp_path / "new", tiny.params(six), six.config, llama)
  gemma = dataclasses.replace(BESIDE, model_type="gemma2")
  with pytest.raises(HuggingFaceError, match=r"model.activation: found 'silu', .*for 'gemma2'"):
    save(tmp_path / "new", params, config, gemma)
  for changes in ({"max_length": 0}, {"token_ids": {"x": 1}}, {"tokenizer": (pathlib.Path("x"),)}):
    with pytest.raises(HuggingFaceError, match="x|at least 1"):
      dataclasses.replace(BESIDE, **changes)
  own = lora.LoraConfig(rank=2, alpha=4.0, projections=("q",))
  adapters = lora.init(working.jax.random.key(0), params, own)
  more = dataclasses.replace(own, projections=("q", "v"))
  with pytest.raises(ValueError, match=r"adapters of \['q'\], but lora.projections=\('q', 'v'\)"):
    huggingface.save_adapter(tmp_path / "new", adapters, more, config, base="x")
  deeper = dataclasses.replace(config, layers=3)
  with pytest.raises(ValueError, match=r"has shape \(2, 16, 2\); .* it must be \(3, 16, 2\)"):
    huggingface.save_adapter(tmp_path / "new", adapters, own, deeper, base="x")
  assert not (tmp_path / "new").exists()
