# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the Personalizer, and of what `fspo_jax.load` opens."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fspo_jax
from fspo_jax import base as base_lib
from fspo_jax import checkpoints
from fspo_jax import config as config_lib
from fspo_jax.episodes import templates
from fspo_jax.episodes.templates import Role
from fspo_jax.inference import sampler
from fspo_jax.inference.personalizer import Personalizer
from fspo_jax.inference.sampler import Decoding
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import transformer
from fspo_jax.preferences import Preference
from tests import tiny

SIZES = {"width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 24}
PROMPT = "Is it good?"
RESPONSES = ("Yes, it is.", "Not at all, and it is long.", "Perhaps.")
LENGTH = 320


def _config():
  config = config_lib.default()
  config.model.update(SIZES)
  config.model.tied = False
  config.preference.loss.beta = 0.5
  return config


def _model(config):
  return transformer.Transformer(config_lib.transformer(config, tiny.tokenizer().vocab_size))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run as its stages leave it: the reference and the policy, of other parameters."""
  config, path = _config(), tmp_path_factory.mktemp("run")
  as_json = json.loads(config.to_json_best_effort())
  for seed, stage in enumerate(("sft", "preference")):
    params = tiny.params(_model(config), seed)
    with checkpoints.Checkpoints(path / "checkpoints" / stage) as saved:
      saved.save(1, params, {"count": jnp.zeros(())}, as_json, tiny.tokenizer().model)
  return path


@pytest.fixture(scope="module")
def personalizer(workdir):
  return fspo_jax.load(workdir)


@pytest.fixture(scope="module")
def shots():
  return tiny.rows(shots=2).episode(0).shots


def _same(tree, other):
  return all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(other)))


def test_a_run_opens_as_its_policy_and_reference(workdir, personalizer):
  model = _model(_config())
  assert personalizer.writer.model == model
  assert _same(personalizer.writer.params, tiny.params(model, 1))
  assert _same(personalizer.reward.reference, tiny.params(model, 0))
  for path in (str(workdir), workdir / "checkpoints" / "preference"):
    assert _same(fspo_jax.load(path).writer.params, tiny.params(model, 1))
  sft = fspo_jax.load(workdir / "checkpoints" / "sft")
  assert _same(sft.writer.params, tiny.params(model, 0))
  assert sft.reward.reference is None


def test_a_folder_of_a_base_opens(tmp_path, shots):
  config = _config()
  model = _model(config)
  base = base_lib.Base(config, tiny.params(model), tiny.tokenizer())
  base_lib.save(tmp_path, base, provenance={}, curves=[])
  opened = fspo_jax.load(tmp_path)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), tiny.params(model))
  assert _same(opened.writer.params, half)
  assert isinstance(opened.respond(shots, PROMPT, max_new_tokens=4), str)


def test_a_checkpoint_of_another_code_base_says_what_its_publisher_says(shared_data, shots):
  opened = fspo_jax.load(shared_data / "stories260k")
  expected = (shared_data / "stories260k" / "expected.txt").read_text(encoding="utf-8")
  # The file ends its last line.
  assert opened.generate("", max_new_tokens=256, temperature=0.0) + "\n" == expected
  assert opened.writer.formatter.template == templates.HEADINGS
  assert isinstance(opened.respond(shots[:1], PROMPT, max_new_tokens=8), str)


def test_what_is_no_model_is_refused(tmp_path):
  for path in (tmp_path, tmp_path / "nothing"):
    with pytest.raises(FileNotFoundError, match="found no model, expected a run's directory"):
      fspo_jax.load(path)
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(FileNotFoundError, match="found no checkpoint of any of the stages"):
    fspo_jax.load(tmp_path)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_are_those_that_the_engine_writes(personalizer, shots, temperature):
  decoding = Decoding(temperature, 0.9, 7)
  how = {"temperature": temperature, "top_p": 0.9, "max_new_tokens": 7, "seed": 3}
  writer = personalizer.writer
  for told in (None, "Likes short ones."):
    ((expected,),) = writer.respond([shots], [[PROMPT]], decoding, seed=3, descriptions=[told])
    found = personalizer.respond(shots, PROMPT, description=told, **how)
    assert found == expected.text
    pieces = list(personalizer.stream(shots, PROMPT, description=told, **how))
    assert "".join(pieces).strip() == found
    assert len(pieces) > 3
  (described,) = writer.describe([shots], decoding, seed=3)
  assert personalizer.describe(shots, **how) == described.text
  prompts = [[PROMPT, "Why?"], ["So?", PROMPT]]
  many = personalizer.respond_many([shots, []], prompts, **how)
  written = writer.respond([shots, []], prompts, decoding, seed=3)
  assert many == [[w.text for w in own] for own in written]
  assert len({text for own in many for text in own}) > 2


def test_a_users_context_is_computed_once_and_the_last_ones_are_kept(workdir, shots, monkeypatch):
  personalizer = fspo_jax.load(workdir)
  lengths = []
  extend = sampler.extend

  def counted(model, params, context, runs):
    lengths.append(len(runs[0].tokens))
    return extend(model, params, context, runs)

  monkeypatch.setattr(sampler, "extend", counted)
  whole = len(personalizer.writer.context(shots).tokens)
  first = personalizer.respond(shots, PROMPT, max_new_tokens=4)
  assert personalizer.respond(shots, PROMPT, max_new_tokens=4) == first
  personalizer.respond(shots, "Why?", max_new_tokens=40)  # longer than what there was room for
  personalizer.describe(shots, max_new_tokens=4)
  assert lengths.count(whole) == 1 and len(lengths) == 5
  few = Personalizer(personalizer.writer, users=1)
  for own in (shots, shots[:1], shots):
    few.respond(own, PROMPT, max_new_tokens=4)
  assert lengths[5:].count(whole) == 2


def _logprob(writer, params, shots, response):
  """Of a response after its context, as a plain sequence: its sum and its number of tokens."""
  run = writer.context(shots)
  asked, answer = writer.formatter.question(PROMPT), writer.formatter.answer(response)
  tokens = (*run.tokens, *asked, *answer)
  roles = (*run.roles, *[Role.QUESTION] * len(asked), *[Role.PREFERRED] * len(answer))
  ids, kinds = np.zeros((2, 1, LENGTH), np.int32)
  ids[0, : len(tokens)], kinds[0, : len(tokens)] = tokens, roles
  scores = np.asarray(tiny.causal_logprobs(writer.model, params, ids, kinds))[0]
  return scores[len(tokens) - len(answer) - 1 : len(tokens) - 1].sum(), len(answer)


@pytest.mark.parametrize(
  ("name", "length_normalize"), [("dpo", False), ("dpo", True), ("simpo", True)]
)
def test_a_rank_is_the_implicit_reward_of_plain_sequences(
  personalizer, shots, name, length_normalize
):
  objective = dataclasses.replace(
    personalizer.reward.objective, name=name, length_normalize=length_normalize
  )
  writer, reference = personalizer.writer, personalizer.reward.reference
  with_ = Personalizer(writer, reference=reference, objective=objective)
  for known in (shots, []):
    found = with_.rank(known, PROMPT, RESPONSES)
    expected = []
    for response in RESPONSES:
      value, length = _logprob(writer, writer.params, known, response)
      if name == "dpo":
        value -= _logprob(writer, reference, known, response)[0]
      expected.append(0.5 * value / (length if length_normalize else 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(
    with_.rank(shots, PROMPT, RESPONSES[1:2]),
    with_.rank(shots, PROMPT, RESPONSES)[1:2],
    rtol=1e-5,
    atol=1e-4,
  )
  assert with_.rank(shots, PROMPT, []).shape == (0,)


def test_margins_of_many_are_differences_of_ranks(personalizer, shots):
  contexts = [shots[: i % (len(shots) + 1)] for i in range(10)]  # more than are scored at once
  pairs = [
    [Preference(f"{PROMPT} {i}", *RESPONSES[:2]), Preference("So?", *RESPONSES[1::-1])]
    for i in range(10)
  ]
  found = personalizer.margins(contexts, pairs)
  for known, own, margins in zip(contexts, pairs, found, strict=True):
    ranks = [personalizer.rank(known, p.prompt, [p.chosen, p.rejected]) for p in own]
    np.testing.assert_allclose(margins, [a - b for a, b in ranks], rtol=1e-5, atol=1e-4)
  assert np.ptp(found, axis=0).min() > 1e-3
  assert personalizer.margins([], []).shape == (0, 0)
  assert personalizer.margins([shots], [[]]).shape == (1, 0)


def test_the_best_of_several_is_the_one_that_ranks_first(personalizer, shots):
  """Of what the engine writes to a prompt that is asked as often; of one there is no choice."""
  how = {"temperature": 1.0, "max_new_tokens": 3, "seed": 3}
  users, prompts, told = [shots, []], [[PROMPT, "Why?"], ["So?", PROMPT]], ["Likes it.", None]
  writer, decoding = personalizer.writer, Decoding(1.0, 1.0, 3)
  found = personalizer.respond_many(users, prompts, descriptions=told, best_of=4, **how)
  repeated = [[prompt for prompt in own for _ in range(4)] for own in prompts]
  written = writer.respond(users, repeated, decoding, seed=3, descriptions=told)
  chosen = []
  for known, asked, own, best in zip(users, prompts, written, found, strict=True):
    for i, prompt in enumerate(asked):
      four = own[4 * i : 4 * i + 4]
      texts = [w.text for w in four if w.finished] or [w.text for w in four]
      order = np.argsort(-personalizer.rank(known, prompt, texts))
      assert best[i] == texts[order[0]]
      chosen.append(best[i] == four[0].text)
  assert not all(chosen)
  alone = personalizer.respond_many(users, prompts, descriptions=told, **how)
  one = personalizer.reward.respond(users, prompts, decoding, n=1, seed=3, descriptions=told)
  assert [[w.text for w in own] for own in one] == alone


def test_a_response_that_was_cut_is_the_best_only_of_such(personalizer, shots, monkeypatch):
  reward = personalizer.reward
  ends = [(False, True, False, True), (False, False, False, False)]
  texts = [RESPONSES[0], RESPONSES[1], RESPONSES[2], "No."]

  def written(self, users, prompts, decoding, **how):
    del self, users, prompts, decoding, how
    return [[Written(t, end) for own in ends for t, end in zip(texts, own, strict=True)]]

  monkeypatch.setattr(Writer, "respond", written)
  values = reward.of(shots, PROMPT, texts)
  ((whole, cut),) = reward.respond([shots], [[PROMPT] * 2], Decoding(1.0, 1.0, 8), n=4, seed=0)
  assert whole == Written(texts[1 if values[1] >= values[3] else 3], True)
  assert cut == Written(texts[int(np.argmax(values))], False)


def test_there_is_no_best_of_none_nor_of_equals(personalizer, shots):
  for n, temperature in ((0, 1.0), (2, 0.0)):
    with pytest.raises(ValueError, match=f"found {n} responses at temperature {temperature}"):
      personalizer.respond_many([shots], [[PROMPT]], best_of=n, temperature=temperature)


def test_who_has_no_rewards_says_so(workdir, shots, tmp_path):
  with pytest.raises(ValueError, match="was not trained on preferences"):
    fspo_jax.load(workdir / "checkpoints" / "sft").rank(shots, PROMPT, RESPONSES)
  with pytest.raises(ValueError, match="was not trained on preferences"):
    fspo_jax.load(workdir / "checkpoints" / "sft").margins([shots], [shots])
  alone = tmp_path / "preference"
  shutil.copytree(workdir / "checkpoints" / "preference", alone)
  with pytest.raises(ValueError, match="compare with the reference, which is not beside"):
    fspo_jax.load(alone).rank(shots, PROMPT, RESPONSES)
  with pytest.raises(ValueError, match="compare with the reference, which is not beside"):
    fspo_jax.load(alone).respond_many([shots], [[PROMPT]], best_of=2, temperature=1.0)


def test_preferences_may_be_records(personalizer, shots):
  records = [dataclasses.asdict(shot) for shot in shots]
  how = {"max_new_tokens": 4}
  assert personalizer.respond(records, PROMPT, **how) == personalizer.respond(shots, PROMPT, **how)
  with pytest.raises(ValueError, match=r"found a preference with \['chosen', 'prompt'\]"):
    personalizer.respond([{"prompt": "a", "chosen": "b"}], PROMPT)


def test_a_plain_language_model_goes_on_with_a_text(personalizer):
  """Greedy: as full forward passes over the plain sequence do."""
  writer, tokenizer = personalizer.writer, personalizer.writer.formatter.tokenizer
  for prompt in ("", "The film was"):
    start = (tokenizer.bos_id, *(tokenizer.encode(prompt) if prompt else ()))
    tokens = start
    for _ in range(5):
      ids = np.zeros((1, LENGTH), np.int32)
      ids[0, : len(tokens)] = tokens
      roles = np.full((1, LENGTH), Role.PREFERRED, np.int32)
      roles[0, 0] = Role.CONTROL
      token = int(_last_logits(writer.model, writer.params, ids, roles, len(tokens)).argmax())
      if token == tokenizer.eos_id:
        break
      tokens = (*tokens, token)
    found = personalizer.generate(prompt, max_new_tokens=5)
    assert found == tokenizer.decode(tokens[len(start) :])
  how = {"temperature": 1.0, "max_new_tokens": 8}
  assert personalizer.generate(seed=1, **how) == personalizer.generate(seed=1, **how)
  assert len({personalizer.generate(seed=seed, **how) for seed in range(4)}) > 2


def _last_logits(model, params, ids, roles, length):
  positions = np.arange(LENGTH)[None, :]
  ends = np.full((1, LENGTH), LENGTH)
  hidden, _ = model.apply({"params": params}, ids, positions, roles, ends)
  return (hidden @ transformer.head(params, model.config))[0, length - 1]


def test_a_stream_never_shows_half_a_character(personalizer, monkeypatch):
  """A character of three bytes is three tokens; it comes with the last of them."""
  tokenizer = tiny.tokenizer()
  ids = [*tokenizer.encode("a"), *tokenizer.encode("漢字")]
  assert len(ids) > 4
  monkeypatch.setattr(sampler, "stream", lambda *args, **kwargs: iter(ids))
  pieces = list(personalizer.stream([], PROMPT))
  assert "".join(pieces) == tokenizer.decode(ids)
  assert not any("\ufffd" in piece for piece in pieces)
