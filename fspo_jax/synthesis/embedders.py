# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From texts to unit vectors, whose products say how alike the texts are."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Protocol

from jaxtyping import Float
import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

# One row a text, of length 1; sparse where most of it is zero.
Vectors = Float[np.ndarray, "texts dim"] | scipy.sparse.csr_matrix

# More hash buckets than a large bank of texts has n-grams: collisions would feign similarity.
_BUCKETS = 2**20
_BATCH = 64  # texts a request; endpoints take from 32 (TGI) to 2048 (OpenAI)


class Embedder(Protocol):
  """Gives every text a vector. What a cosine means depends on the embedder, hence its name."""

  @property
  def name(self) -> str:
    """What to call it in a report, with all that its vectors depend on."""

  def __call__(self, texts: Sequence[str]) -> Vectors:
    """One row of length 1 for each text, in order; a text alone decides its row."""


class EmbedderError(RuntimeError):
  """An embedder cannot be had, or gave no usable vectors: what was found and expected."""


def cosines(vectors: Vectors) -> Float[np.ndarray, "texts texts"]:
  """The cosine of every two rows of length 1."""
  products = vectors @ vectors.T
  dense = products.toarray() if scipy.sparse.issparse(products) else products
  return np.clip(np.asarray(dense, np.float64), -1, 1)


class CharacterNgrams:
  """Built in: counts of the 2 to 5 letters in a row within words, hashed.

  Hashed rather than TF-IDF on purpose: TF-IDF weighs an n-gram by how rare it is in the texts at
  hand, so that the similarity of two texts would change with whatever else is in the set, and no
  two sets could be compared. It sees wording, not meaning, and not the order of words. Cosines are
  in [0, 1]; a text without a letter is a row of zeros, like nothing else.
  """

  name = "character n-grams (2-5, within words)"

  def __init__(self) -> None:
    """No settings: a similarity is worth something only if it is the same everywhere."""
    self._vectorizer = HashingVectorizer(
      analyzer="char_wb",
      ngram_range=(2, 5),
      n_features=_BUCKETS,
      # Counts stay positive, so that a cosine of 0 is "nothing in common".
      alternate_sign=False,
      norm="l2",
      dtype=np.float32,
    )

  def __call__(self, texts: Sequence[str]) -> scipy.sparse.csr_matrix:
    """One sparse row for each text."""
    return self._vectorizer.transform(texts)


class SentenceTransformerEmbedder:
  """A local model of sentence-transformers, such as the paper's BAAI/bge-m3 (extra `embed`)."""

  def __init__(self, model_name: str) -> None:
    """Loads the model.

    Args:
      model_name: of the Hugging Face hub, or a folder.

    Raises:
      EmbedderError: the extra is not installed.
    """
    try:
      import sentence_transformers
    except ImportError as error:
      raise _missing("sentence_transformers", "embed") from error
    self.name = f"sentence-transformers {model_name}"
    self._model = sentence_transformers.SentenceTransformer(model_name)

  def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
    """One row for each text."""
    rows = self._model.encode(
      list(texts), batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False
    )
    return _unit_rows(rows, texts, self.name)


class EndpointEmbedder:
  """An HTTP endpoint that speaks OpenAI's embeddings protocol: vLLM, TEI, OpenAI (extra `llm`)."""

  def __init__(
    self, base_url: str, model: str, api_key_env: str, *, timeout: float = 60, retries: int = 5
  ) -> None:
    """Connects to nothing yet.

    Args:
      base_url: up to and with the version, as http://localhost:8000/v1.
      model: as the endpoint names it.
      api_key_env: the environment variable that holds the key; '' for an endpoint without keys.
      timeout: seconds that a request may take.
      retries: of a request that met 408, 409, 429, 5xx, a time-out or a cut connection; with
        exponential back-off, or as Retry-After says.

    Raises:
      EmbedderError: the extra is not installed, or the variable is not set.
    """
    try:
      import openai
    except ImportError as error:
      raise _missing("openai", "llm") from error
    key = os.environ.get(api_key_env, "") if api_key_env else "none"
    if not key:
      raise EmbedderError(
        f"api_key_env: found no environment variable {api_key_env}, expected the endpoint's key "
        "in it, or api_key_env='' for an endpoint that asks for none"
      )
    self.name = f"{model} at {base_url}"
    self._model, self._key, self._error = model, key, openai.OpenAIError
    self._client = openai.OpenAI(
      base_url=base_url, api_key=key, timeout=timeout, max_retries=retries
    )

  def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
    """One row for each text, asked for in batches.

    Raises:
      EmbedderError: the endpoint gave no vectors, after all retries.
    """
    rows: list[list[float]] = []
    for start in range(0, len(texts), _BATCH):
      rows += self._ask(list(texts[start : start + _BATCH]))
    return _unit_rows(rows, texts, self.name)

  def _ask(self, texts: list[str]) -> list[list[float]]:
    try:
      # Floats, as not every server knows the SDK's own choice, base64.
      answer = self._client.embeddings.create(
        model=self._model, input=texts, encoding_format="float"
      )
      found = sorted(answer.data, key=lambda row: row.index)
      rows = [row.embedding for row in found]
    except self._error as error:
      status = getattr(error, "status_code", None)
      # An endpoint that refuses a key may quote it, in part or masked. Others may quote it whole.
      detail = "" if status in (401, 403) else f": {str(error).replace(self._key, '(key)')[:500]}"
      raise EmbedderError(f"{self.name}: {type(error).__name__}{detail}") from None
    except (AttributeError, TypeError, ValueError) as error:
      raise EmbedderError(
        f"{self.name}: found an answer of another form ({type(error).__name__}), expected "
        "{'data': [{'index', 'embedding'}, ...]}"
      ) from None
    if [row.index for row in found] != list(range(len(texts))):
      raise EmbedderError(
        f"{self.name}: found {len(rows)} embeddings, expected one for each of {len(texts)} texts"
      )
    return rows


def _unit_rows(
  rows: Sequence[Sequence[float]] | np.ndarray, texts: Sequence[str], name: str
) -> Float[np.ndarray, "texts dim"]:
  try:
    array = np.asarray(rows, np.float32).reshape(len(texts), -1)
  except ValueError as error:
    raise EmbedderError(f"{name}: found rows of several lengths, expected one length") from error
  if not np.isfinite(array).all() or not array.any(axis=1).all():
    raise EmbedderError(f"{name}: found a vector of zeros, nan or infinity, expected a direction")
  return normalize(array)


def _missing(module: str, extra: str) -> EmbedderError:
  return EmbedderError(
    f"found no module {module}, expected the extra '{extra}': pip install 'fspo_jax[{extra}]'"
  )
