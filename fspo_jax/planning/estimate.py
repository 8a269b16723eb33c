# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A step's arithmetic, memory and traffic by formulas: to choose what is compiled, and check it.

FLOPs are of matrix products (2 a multiply-add), which is what a chip's peak is of.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

from fspo_jax.models import tree_attention
from fspo_jax.models.architecture import TransformerConfig
from fspo_jax.planning.hardware import Chip

# Forward passes' worth of matrix products in a backward pass.
_BACKWARD = 2
# How often the backward pass computes a block's products again.
_AGAIN = {"none": 0, "dots": 0, "full": 1}
# How often attention's scores, in float32, go to a chip's memory and back: forwards, and in all of
# training. Of Llama 3.2 3B on v5e:8x8, XLA's program moves 19.8 times their size, with the rest.
_SCORE_MOVES, _SCORE_MOVES_TRAINED = 3, 15


@dataclasses.dataclass(frozen=True)
class Work:
  """One step.

  Attributes:
    model: the decoder.
    rows: of the global batch.
    tokens: of a row.
    scored: scored tokens of a row.
    scores_reference: whether the step runs the reference too.
    moments: arrays of the optimizer that are as large as the parameters.
    trains_all: all parameters; else adapters, whose own cost is left out.
    accumulate: parts of the batch.
  """

  model: TransformerConfig
  rows: int
  tokens: int
  scored: int
  scores_reference: bool
  moments: int
  trains_all: bool
  accumulate: int


def layer_params(m: TransformerConfig) -> int:
  """Entries of a block's matrices."""
  heads = m.width * (2 * m.heads + 2 * m.kv_heads) * m.head_dim
  return heads + 3 * m.width * m.mlp


def params(m: TransformerConfig) -> int:
  """Entries of all matrices; norms and biases are small."""
  return m.layers * layer_params(m) + (1 if m.tied else 2) * m.vocab_size * m.width


def _attention(m: TransformerConfig, pairs: float) -> float:
  """Forward FLOPs of all layers' attention over (query, key) pairs of a row."""
  return m.layers * 4.0 * m.heads * m.head_dim * pairs


def _looked_at(w: Work) -> float:
  """Pairs of a query and a key that a row's attention goes through, in vain or not."""
  block = w.model.attention_block
  if w.model.attention != "xla":  # block by block up to the diagonal, if no tree has dead ones
    count = -(-w.tokens // block)
    return block * block * count * (count + 1) / 2
  spans = tree_attention.spans(w.tokens, block)
  return float(sum((stop - start) * stop for start, stop in spans))


def model_flops(w: Work) -> float:
  """What the step needs, of the whole batch, however it is computed: what MFU counts.

  Attention is counted as of one sequence, in which a token sees all before it (within its layer's
  window); in a tree it sees less.
  """
  m, seen = w.model, 0.0
  for window in m.layer_windows or (0,) * m.layers:
    reach = min(window or w.tokens, w.tokens)
    seen += reach * (reach + 1) / 2 + (w.tokens - reach) * reach
  forward = 2.0 * m.layers * layer_params(m) * w.tokens + _attention(m, seen / m.layers)
  forward += 2.0 * m.width * m.vocab_size * w.scored
  trained = 1 + _BACKWARD if w.trains_all else 1 + 1  # adapters: activations' gradients alone
  return w.rows * forward * (trained + w.scores_reference)


def program_flops(w: Work) -> float:
  """What the step computes, of the whole batch: with what is computed again, or for nothing."""
  m = w.model
  blocks = 2.0 * m.layers * layer_params(m) * w.tokens
  attended, head = _attention(m, _looked_at(w)), 2.0 * m.width * m.vocab_size * w.scored
  # Attention's blocks and the head's chunks are computed again whatever the policy, but of what is
  # computed again a last product is not needed: of the weights with values, of the MLP.
  again, last = _AGAIN[m.remat], 2.0 * m.layers * m.width * m.mlp * w.tokens
  policy = blocks * (1 + again + _BACKWARD) - again * last
  # No policy but 'none' keeps attention's products, which have a batch dimension. The two
  # kernels that go backwards each compute scores by themselves: 3 and 4 products, 2 forwards.
  backward = 0.5 + _BACKWARD if m.attention == "xla" else 3.5
  policy += attended * (1 + (m.remat != "none") + backward) + head * (1 + 1 + _BACKWARD)
  return w.rows * (policy + w.scores_reference * (blocks + attended + head))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What a mesh would need, by formulas.

  Attributes:
    memory: bytes of a chip.
    compute_s: seconds, if the chips did nothing but matrix products, at their peak.
    memory_s: seconds, if they did nothing but read and write what is largest: attention's scores.
    links_s: seconds, if they did nothing but send, over all their links.
  """

  memory: float
  compute_s: float
  memory_s: float
  links_s: float

  @property
  def seconds(self) -> float:
    """Of a step, if each hides the others."""
    return max(self.compute_s, self.memory_s, self.links_s)

  @property
  def rank(self) -> tuple[float, float]:
    """What comes first is faster; between equals the sum decides."""
    return self.seconds, self.compute_s + self.memory_s + self.links_s


def _saved_per_token(m: TransformerConfig, tensor: int) -> float:
  """Bytes of a token that a layer keeps for its backward pass, on a chip."""
  stream = 2.0 * m.width
  if m.remat == "full":
    return stream
  wide = (m.heads + 2 * m.kv_heads) * m.head_dim + 2 * m.mlp
  dots = 2.0 * (wide / tensor + 2 * m.width)
  # Without a policy also norms' inputs in float32, and what lies between the products.
  return stream + (dots if m.remat == "dots" else 2 * dots + 8.0 * m.width)


def memory(w: Work, mesh: Mapping[str, int]) -> float:
  """Bytes of a chip in a step."""
  m, tensor = w.model, mesh["tensor"]
  size = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}[m.param_dtype]
  parts = mesh["fsdp"] * tensor
  copies = (1 + w.moments + 1 if w.trains_all else 0) + w.scores_reference  # 1: the gradient
  copies = max(copies, 1)
  rows = math.ceil(w.rows / (mesh["data"] * mesh["fsdp"] * w.accumulate))
  tokens = rows * w.tokens
  saved = m.layers * tokens * _saved_per_token(m, tensor)
  scores = 3 * 4.0 * rows * max(m.heads // tensor, 1) * m.attention_block * w.tokens
  if m.attention != "xla":
    scores = 0.0  # they stay in a core's fast memory
  inside = tokens * (3 * 2.0 * m.mlp / tensor + 4 * 4.0 * m.width)
  gathered = 2 * 2.0 * layer_params(m) / tensor
  # The embedding table whole on every chip along fsdp: read by id, and its gradient by id too.
  table = 4.0 * m.vocab_size * m.width / tensor
  return copies * size * params(m) / parts + saved + max(scores + inside, table) + gathered


def estimate(w: Work, mesh: Mapping[str, int], chip: Chip) -> Estimate:
  """What a step needs on a mesh; no time for a chip without published peaks."""
  m, tensor, fsdp, data = w.model, mesh["tensor"], mesh["fsdp"], mesh["data"]
  chips = math.prod(mesh.values())
  if not chip.flops:
    return Estimate(memory(w, mesh), 0.0, 0.0, 0.0)
  half = 2.0 * params(m) / tensor
  # Gathered forwards, and once for the backward pass; the gradient is scattered.
  passes = (2 + w.trains_all) * w.accumulate + w.scores_reference * w.accumulate
  sent = passes * half * (fsdp - 1) / fsdp
  if w.trains_all:
    sent += 2 * 2 * half / fsdp * (data - 1) / data  # in float32
  tokens = math.ceil(w.rows / (data * fsdp)) * w.tokens
  # Two reductions of the residual stream a layer, in each pass.
  streams = 2 * m.layers * (2 + _AGAIN[m.remat] + w.scores_reference)
  sent += streams * 2 * 2.0 * tokens * m.width * (tensor - 1) / tensor
  moves = _SCORE_MOVES_TRAINED + _SCORE_MOVES * w.scores_reference
  scores = 4.0 * m.layers * m.heads * _looked_at(w) * w.rows / chips
  if m.attention != "xla":
    scores = 0.0  # they stay in a core's fast memory
  return Estimate(
    memory=memory(w, mesh),
    compute_s=program_flops(w) / chips / chip.flops,
    memory_s=moves * scores / chip.memory_bandwidth,
    links_s=sent / chip.link_bandwidth,
  )
