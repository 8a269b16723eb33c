# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the tokenizers."""

import functools
import io
import json
import os
import pickle
import subprocess
import sys
import unicodedata
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece

from fspo_jax import preferences
from fspo_jax.episodes import sampling, templates, tokenizers, trees
from tests import tiny

FIXTURES = tiny.REPO / "tests" / "fixtures" / "tokenizers"
FAMILIES = ("llama_3", "qwen_2_5", "qwen_3", "gemma", "mistral", "llama_2")

# SentencePiece writes spaces as this character, so that it reads it back as one.
SPACE_SYMBOL = "\u2581"
# Half a surrogate pair is not Unicode text; everything else is.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE_SYMBOL))


@hypothesis.given(TEXT)
def test_any_text_comes_back(text):
  tokenizer = tiny.tokenizer()
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize(
  "text", ["", " ", "  two  spaces ", "\n\n", "\x00", "a<question>b", "日本 🎬"]
)
def test_awkward_text_comes_back(text):
  assert tiny.tokenizer().decode(tiny.tokenizer().encode(text)) == text


def test_the_one_character_that_does_not_come_back():
  assert tiny.tokenizer().decode(tiny.tokenizer().encode(f"a{SPACE_SYMBOL}b")) == "a b"


def _marker_ids(tokenizer):
  return [tokenizer.token_id(marker) for marker in tokenizers.MARKER_SYMBOLS]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_markers_are_single_tokens_and_ids_are_where_they_should_be(model_type):
  corpus = list(tiny.world().corpus(np.random.default_rng(0), 300))
  tokenizer = tokenizers.train(corpus, vocab_size=400, model_type=model_type)
  # Four special ids, the four markers, the 256 bytes, then what was learned.
  assert _marker_ids(tokenizer) == [4, 5, 6, 7]
  assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
  assert 264 < tokenizer.vocab_size <= 400
  for marker, i in zip(tokenizers.MARKER_SYMBOLS, range(4, 8), strict=True):
    assert tokenizer.decode([i]) == marker
    spelled_out = tokenizer.encode(f"one{marker}two")
    assert i not in spelled_out
    assert tokenizer.decode(spelled_out) == f"one{marker}two"
  assert tokenizer.decode([0, 1, 2]) == ""
  assert tokenizer.decode(tokenizer.encode(corpus[0])) == corpus[0]


@hypothesis.given(
  st.lists(TEXT | st.sampled_from([*tokenizers.MARKER_SYMBOLS, "<s>"])).map("".join)
)
def test_no_text_has_a_special_token(text):
  # 0 .. 3 are padding, BOS, EOS and unknown, 4 .. 7 the markers.
  assert all(i >= 8 for i in tiny.tokenizer().encode(text))


def test_the_same_text_gives_the_same_model():
  corpus = lambda: tiny.world().corpus(np.random.default_rng(3), 300)  # noqa: E731
  options = {"vocab_size": 400, "model_type": "bpe", "split_by_whitespace": False}
  first, second = (tokenizers.train(corpus(), **options) for _ in range(2))
  assert first.model == second.model
  assert tokenizers.train(corpus(), **{**options, "vocab_size": 390}).model != first.model


def test_phrases_become_pieces_only_where_they_may():
  corpus = ["over and over"] * 50  # a piece has at most 16 characters
  spaced = tokenizers.train(corpus, vocab_size=400, model_type="bpe", split_by_whitespace=True)
  whole = tokenizers.train(corpus, vocab_size=400, model_type="bpe", split_by_whitespace=False)
  assert len(spaced.encode(corpus[0])) >= 3
  assert len(whole.encode(corpus[0])) == 1


def test_pickle_and_file_give_the_same_tokenizer(tmp_path):
  tokenizer = tiny.tokenizer()
  (tmp_path / "t.model").write_bytes(tokenizer.model)
  text = "Was the new one with dragons worth it? – Nöö."
  for copy in (pickle.loads(pickle.dumps(tokenizer)), tokenizers.load(tmp_path / "t.model")):
    assert copy.model == tokenizer.model
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.vocab_size == tokenizer.vocab_size


def test_tokenizers_are_told_apart_by_their_bytes(tmp_path):
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  ours = tokenizers.from_bytes(tiny.tokenizer().model)
  assert isinstance(ours, tokenizers.SentencePiece)
  assert ours.files == {"tokenizer.model": tiny.tokenizer().model}
  theirs = tokenizers.load(FIXTURES / "gemma")
  assert isinstance(theirs, tokenizers.TokenizerJson)
  assert theirs.files == {f.name: f.read_bytes() for f in (FIXTURES / "gemma").iterdir()}
  (tmp_path / "blob").write_bytes(theirs.model)
  for copy in (
    tokenizers.from_bytes(theirs.model),
    pickle.loads(pickle.dumps(theirs)),
    tokenizers.load(tmp_path / "blob"),
  ):
    assert copy.model == theirs.model
    assert copy.encode("the sky <bos>") == theirs.encode("the sky <bos>")
    assert (copy.chat_template, copy.special_tokens) == (
      theirs.chat_template,
      theirs.special_tokens,
    )


@pytest.mark.parametrize("family", FAMILIES)
@hypothesis.given(text=TEXT)
@hypothesis.settings(max_examples=30)
def test_any_text_comes_back_from_a_tokenizer_json(family, text):
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  tokenizer = _fixture(family)
  if family.startswith("qwen"):
    text = unicodedata.normalize("NFC", text)  # as these do
  for continued in (False, True):
    ids = tokenizer.encode(text, continued=continued)
    # Those that put a space in front take one away, whoever put it.
    strips = family == "mistral" and continued
    assert tokenizer.decode(ids) == (text.removeprefix(" ") if strips else text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@functools.cache
def _fixture(family):
  return tokenizers.load(FIXTURES / family)


def test_a_space_in_front_is_for_the_first_text_alone():
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  mistral, llama_2, gemma = map(_fixture, ("mistral", "llama_2", "gemma"))
  assert mistral.encode("sky") == mistral.encode(" sky", continued=True)
  assert mistral.encode("sky") != mistral.encode("sky", continued=True)
  assert llama_2.encode("sky") == llama_2.encode("sky", continued=True)
  assert gemma.encode("sky") == gemma.encode("sky", continued=True)
  assert gemma.encode("sky") != gemma.encode(" sky")


def test_ids_that_a_tokenizer_may_lack():
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  qwen, gemma = map(_fixture, ("qwen_2_5", "gemma"))
  assert qwen.bos_id is None
  assert qwen.pad_id == qwen.token_id("<|endoftext|>")
  assert (gemma.pad_id, gemma.eos_id, gemma.bos_id) == (0, 1, 2)
  assert gemma.token_id("nothing like it") is None
  # What the paper's headings need is an end; without BOS a question begins the episode.
  form = templates.Formatter(qwen, templates.HEADINGS)
  assert form.start == () and form.stop_id == qwen.token_id("<|im_end|>")
  with pytest.raises(ValueError, match=r"template\.question: found no token '<question>'"):
    templates.Formatter(qwen, templates.MARKERS)


def test_a_tree_without_bos_begins_with_its_branches():
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  form = templates.Formatter(_fixture("qwen_2_5"), templates.HEADINGS)
  shots = (preferences.Preference("Why?", "So.", "No."),)
  query = preferences.Preference("How?", "Thus.", "Not.")
  layout = templates.Layout(shot_pairs=True, query_shots=(0, 1))
  built = templates.build(sampling.Episode("u", shots, (query,)), form, layout)
  first = built.tree.positions == 0
  assert (built.tree.parents[first] == trees.NO_PARENT).all() and first.sum() == 2
  pair = [p for p in built.pairs if p.shots == 1][0]
  path = trees.path_to(built.tree, int(np.flatnonzero(built.tree.segments == pair.chosen)[-1]))
  assert built.tree.tokens[path].tolist() == [
    *form.question("Why?"),
    *form.answer("So."),
    *form.dispreferred("No."),
    *form.question("How?"),
    *form.answer("Thus."),
  ]


def test_a_model_of_llama_2_is_encoded_as_its_family_does(shared_data):
  """The layout of Llama 2: 0 unknown, 1 BOS, 2 EOS, then 256 bytes; no padding, no markers."""
  folder = shared_data / "stories260k"
  tokenizer = tokenizers.load(folder)
  assert isinstance(tokenizer, tokenizers.SentencePiece) and tokenizer.vocab_size == 512
  assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
  assert tokenizer.model == (folder / "tokenizer.model").read_bytes()
  expected = (folder / "expected.txt").read_text("utf-8")
  # Its own greedy encoding, with a space before the first word, and nothing special in it.
  plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  ids = tokenizer.encode(expected)
  assert list(ids) == plain.encode(expected) and tokenizer.decode(ids) == expected
  assert plain.id_to_piece(ids[0]).startswith("\u2581")
  assert tokenizer.encode("") == ()
  for spelled in ("</s>", "a<s>b", "<unk>", "<0x41>"):
    assert {0, 1, 2}.isdisjoint(tokenizer.encode(spelled))
    assert tokenizer.decode(tokenizer.encode(spelled)) == spelled
  with pytest.raises(ValueError, match=r"template\.question: found no token '<question>'"):
    templates.Formatter(tokenizer, templates.MARKERS)
  assert templates.Formatter(tokenizer, templates.HEADINGS).start == (1,)


def _folder(tmp_path, **files):
  """A folder of a tokenizer with some files changed; None leaves one out."""
  contents = {f.name: f.read_bytes() for f in (FIXTURES / "qwen_2_5").iterdir()}
  for name, content in (contents | files).items():
    if content is not None:
      (tmp_path / name).write_bytes(content)
  return tmp_path


def _config(**changes):
  config = json.loads((FIXTURES / "qwen_2_5" / "tokenizer_config.json").read_bytes())
  return json.dumps(config | changes).encode()


_GARBAGE = b"\x0a\xff not a model"
_BROKEN = {
  "no tokenizer": ({"tokenizer.json": None}, "found neither tokenizer.json nor tokenizer.model"),
  "half of one": ({"tokenizer.json": b'{"model": {'}, "tokenizer.json: found no JSON"),
  "another JSON": ({"tokenizer.json": b'{"a": 1}'}, "tokenizer.json: found no tokenizer"),
  "a list": ({"tokenizer.json": b"[]"}, "tokenizer.json: found list, expected an object"),
  "no text": ({"tokenizer.json": b"\xff\xfe"}, "tokenizer.json: found no"),
  "no model": (
    {"tokenizer.json": None, "tokenizer.model": _GARBAGE},
    "tokenizer.model: found no SentencePiece model",
  ),
  "a broken config": (
    {"tokenizer_config.json": b"{"},
    "tokenizer_config.json: found no JSON",
  ),
  "an EOS that is no token": (
    {"tokenizer_config.json": _config(eos_token="<end>")},
    "eos_token: found '<end>', which is no token",
  ),
  "an EOS that is no text": (
    {"tokenizer_config.json": _config(eos_token=7)},
    "eos_token: found 7, expected a token's text",
  ),
  "tokens of another model": (
    {"tokenizer_config.json": _config(added_tokens_decoder={"7": {"content": "<|im_end|>"}})},
    r"found the token '<\|im_end\|>' with the id 7, and in tokenizer.json the id",
  ),
  "tokens that are none": (
    {"tokenizer_config.json": _config(added_tokens_decoder={"x": 1})},
    "added_tokens_decoder: found",
  ),
  "several templates, none of them the default": (
    {"tokenizer_config.json": _config(chat_template=[{"name": "rag", "template": "x"}])},
    r"found chat templates called \['rag'\], expected 'default'",
  ),
}


@pytest.mark.parametrize("case", _BROKEN)
def test_broken_folders_are_refused_by_file_and_reason(case, tmp_path):
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  files, message = _BROKEN[case]
  with pytest.raises(tokenizers.TokenizerError, match=message) as caught:
    tokenizers.load(_folder(tmp_path, **files))
  assert str(caught.value).startswith(str(tmp_path))


def test_broken_bytes_are_refused():
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  whole = _fixture("qwen_2_5").model
  damaged = bytearray(whole)
  damaged[len(whole) // 2] ^= 1
  for blob in (b"", b"nonsense", whole[:-40], whole[:4], bytes(damaged)):
    with pytest.raises(tokenizers.TokenizerError, match="found"):
      tokenizers.from_bytes(blob)
  for compression, name in ((zipfile.ZIP_DEFLATED, "tokenizer.json"), (zipfile.ZIP_STORED, "x.py")):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
      archive.writestr(name, "x" * 1000)
    with pytest.raises(tokenizers.TokenizerError, match="found"):
      tokenizers.from_bytes(out.getvalue())


def test_tokens_beyond_a_sentencepiece_model_need_another_file(tmp_path):
  (tmp_path / "tokenizer.model").write_bytes(tiny.tokenizer().model)
  declared = {"900": {"content": "<pad>", "special": True}}
  config = json.dumps({"added_tokens_decoder": declared})
  (tmp_path / "tokenizer_config.json").write_text(config, "utf-8")
  with pytest.raises(tokenizers.TokenizerError, match=r"'<pad>' with the id 900.*expected a token"):
    tokenizers.load(tmp_path)


def test_a_missing_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ImportError, match=r"tokenizer\.json: .*pip install 'fspo_jax\[hf\]'"):
    tokenizers.load(FIXTURES / "gemma")


def test_chats_need_no_jax():
  pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
  pytest.importorskip("jinja2", reason="the extra 'hf' is not installed")
  code = (
    "import sys; sys.modules['jax'] = None\n"
    "from fspo_jax.episodes import batching, chat, tokenizers\n"
    f"print(chat.formatter(tokenizers.load({str(FIXTURES / 'gemma')!r})).start)"
  )
  environment = {**os.environ, "PYTHONPATH": str(tiny.REPO)}
  done = subprocess.run(
    [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "(2, 4)"  # BOS, and what begins a turn
