# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
import contextlib
import http.server
import json
import sys
import threading
import types

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from fspo_jax.synthesis import embedders
from fspo_jax.synthesis.embedders import CharacterNgrams, EmbedderError, EndpointEmbedder, cosines

KEY = "sk-very-secret"


def test_same_text_is_1_and_nothing_in_common_is_0():
  found = cosines(CharacterNgrams()(["abc", "abc", "xyz"]))
  np.testing.assert_allclose(found, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6)


def test_cosine_by_hand():
  # " ab ": 2-grams " a", "ab", "b "; 3-grams " ab", "ab "; 4-gram " ab ". " ac " shares " a" alone.
  found = cosines(CharacterNgrams()(["ab", "ac"]))
  assert found[0, 1] == pytest.approx(1 / 6)


@settings(max_examples=20)
@given(st.lists(st.text("abcdefg ", min_size=1).filter(str.strip), min_size=2, max_size=5))
def test_a_similarity_does_not_depend_on_the_other_texts(texts):
  embed = CharacterNgrams()
  together, alone = cosines(embed(texts)), cosines(embed(texts[:2]))
  np.testing.assert_allclose(together[:2, :2], alone, atol=1e-6)
  np.testing.assert_allclose(np.diag(together), 1, atol=1e-6)


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    self.server.asked.append((self.headers["Authorization"], body))
    status, answer = self.server.reply(body, len(self.server.asked))
    data = json.dumps(answer).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def _serve(reply):
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.reply, server.asked = reply, []
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield server, f"http://127.0.0.1:{server.server_port}/v1"
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def _vectors(body, _):
  rows = [
    {"object": "embedding", "index": i, "embedding": [float(len(text)), 2.0]}
    for i, text in enumerate(body["input"])
  ]
  # Backwards: the index says which is which.
  return 200, {"object": "list", "model": "m", "data": rows[::-1], "usage": {}}


def _embedder(url, monkeypatch, **kwargs):
  monkeypatch.setenv("EMBED_KEY", KEY)
  return EndpointEmbedder(url, "m", "EMBED_KEY", **kwargs)


def test_endpoint_in_batches(monkeypatch):
  texts = ["x" * (i + 1) for i in range(70)]
  with _serve(_vectors) as (server, url):
    found = _embedder(url, monkeypatch)(texts)
  lengths = np.arange(1, 71)
  np.testing.assert_allclose(found[:, 0] / found[:, 1], lengths / 2, rtol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
  assert [len(body["input"]) for _, body in server.asked] == [64, 6]
  assert {key for key, _ in server.asked} == {f"Bearer {KEY}"}


def test_endpoint_retries(monkeypatch):
  def reply(body, count):
    return (500, {"error": {"message": "busy"}}) if count == 1 else _vectors(body, count)

  with _serve(reply) as (server, url):
    assert _embedder(url, monkeypatch)(["a"]).shape == (1, 2)
  assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
def test_endpoint_error_never_has_the_key(monkeypatch, status):
  reply = (status, {"error": {"message": f"no such model for {KEY}"}})
  with _serve(lambda *_: reply) as (_, url), pytest.raises(EmbedderError) as error:
    _embedder(url, monkeypatch, retries=0)(["a"])
  assert KEY not in str(error.value)
  assert url in str(error.value)
  assert ("no such model" in str(error.value)) == (status == 400)


@pytest.mark.parametrize(
  ("data", "named"),
  [
    ([], "0 embeddings|No embedding"),
    ([{"index": 0, "embedding": [0.0, 0.0]}, {"index": 1, "embedding": [1.0, 0.0]}], "zeros"),
    ([{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 0.0]}], "several lengths"),
    ([{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}], "each of 2 texts"),
    ([{"embedding": [1.0]}, {"embedding": [1.0]}], "form|each of 2"),
  ],
)
def test_endpoint_bad_answers(monkeypatch, data, named):
  with (
    _serve(lambda *_: (200, {"data": data})) as (_, url),
    pytest.raises(EmbedderError, match=named),
  ):
    _embedder(url, monkeypatch, retries=0)(["a", "b"])


def test_no_key(monkeypatch):
  monkeypatch.delenv("EMBED_KEY", raising=False)
  with pytest.raises(EmbedderError, match="no environment variable EMBED_KEY"):
    EndpointEmbedder("http://localhost:1/v1", "m", "EMBED_KEY")
  EndpointEmbedder("http://localhost:1/v1", "m", "")


@pytest.mark.parametrize(
  ("module", "make", "extra"),
  [
    ("sentence_transformers", lambda: embedders.SentenceTransformerEmbedder("m"), "embed"),
    ("openai", lambda: EndpointEmbedder("http://localhost:1/v1", "m", ""), "llm"),
  ],
)
def test_a_missing_extra_is_named(monkeypatch, module, make, extra):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(EmbedderError, match=rf"pip install 'fspo_jax\[{extra}\]'"):
    make()


def test_sentence_transformer_rows_are_of_length_1(monkeypatch):
  class Model:
    def __init__(self, name):
      self.name = name

    def encode(self, texts, **_):
      return np.array([[3.0, 4.0]] * len(texts))

  fake = types.SimpleNamespace(SentenceTransformer=Model)
  monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
  embed = embedders.SentenceTransformerEmbedder("bge")
  np.testing.assert_allclose(embed(["a", "b"]), [[0.6, 0.8]] * 2, rtol=1e-6)
  assert "bge" in embed.name
