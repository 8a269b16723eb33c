# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A step on token trees is the paper's on two sequences a pair: against torch, live and golden."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from fspo_jax import sharding
from fspo_jax.episodes import batching, templates, tokenizers, trees
from fspo_jax.episodes.sampling import Episode
from fspo_jax.models import huggingface, scoring, transformer
from fspo_jax.preferences import Preference
from fspo_jax.training import state as state_lib
from fspo_jax.training import step as step_lib
from tests.training import two_sequences as plain

WHY = "live parity needs `pip install fspo_jax[parity]`"
RTOL = 1e-4
CHUNK = 40  # of the vocabulary, which it does not divide
SHOTS = max(map(len, plain.USERS)) - 1
RULE = optax.trace(decay=0.0)  # an optimizer whose state is the last gradient
# The parts of a layer, as a checkpoint and as parameters have them.
PARTS = {
  "self_attn.q_proj": ("q", "kernel"),
  "self_attn.k_proj": ("k", "kernel"),
  "self_attn.v_proj": ("v", "kernel"),
  "self_attn.o_proj": ("o", "kernel"),
  "mlp.gate_proj": ("gate", "kernel"),
  "mlp.up_proj": ("up", "kernel"),
  "mlp.down_proj": ("down", "kernel"),
  "input_layernorm": ("attention_norm", "scale"),
  "post_attention_layernorm": ("mlp_norm", "scale"),
}


class Opened(NamedTuple):
  """A checkpoint and its reference, as both sides open them."""

  name: str
  folders: tuple[pathlib.Path, pathlib.Path]
  model: transformer.Transformer
  params: Any
  frozen: Any
  formatter: templates.Formatter
  tokenizer: Any  # of the other side


@pytest.fixture(scope="module", params=["llama3_1", "stories260k"])
def opened(request, tmp_path_factory):
  """A random model with a head of its own, and a trained one whose head is tied."""
  if request.param == "stories260k":
    folder = request.getfixturevalue("shared_data") / request.param
    ours, theirs = tokenizers.load(folder / "tokenizer.model"), plain.Pieces(folder)
  else:
    folder = plain.HUGGINGFACE / request.param
    ours = theirs = plain.Letters()
  reference = tmp_path_factory.mktemp(request.param) / "reference"
  plain.write_reference(folder, reference)
  config = huggingface.load_config(folder, attention_block=512)
  model = transformer.Transformer(config)
  abstract = state_lib.abstract_params(model, _mesh())
  params, frozen = (huggingface.load_params(f, config, abstract) for f in (folder, reference))
  formatter = templates.Formatter(ours, templates.HEADINGS)
  return Opened(request.param, (folder, reference), model, params, frozen, formatter, theirs)


def _mesh():
  return sharding.make_mesh(1, devices=jax.devices()[:1])


def _trees(formatter, every):
  """The users' episodes as token trees."""
  layout = templates.Layout(shot_pairs=every, query_shots=(SHOTS,))
  built = []
  for user in plain.USERS:
    *shots, query = (Preference(*texts) for texts in user)
    built.append(templates.build(Episode("somebody", tuple(shots), (query,)), formatter, layout))
  return built


def _batch(formatter, every):
  """A row for each user, of the same shape whatever is scored of them."""
  largest = _trees(formatter, True)
  packing = batching.Packing(
    episodes=1,
    tokens=max(len(built.tree) for built in largest),
    scored_tokens=max(int((built.tree.segments >= 0).sum()) for built in largest),
    segments=2 * (SHOTS + 1),
    pairs=SHOTS + 1,
  )
  return batching.stack([batching.pack([b], packing) for b in _trees(formatter, every)])


def _objective(case):
  return step_lib.Objective(
    name=case.loss,
    beta=plain.BETA,
    label_smoothing=0.0,
    length_normalize=case.mean,
    preference_weight=1.0,
    chosen_weight=0.0,
    description_weight=0.0,
  )


@functools.cache
def _compiled(model, objective):
  return step_lib.make_step(model, objective, RULE, _mesh(), vocab_chunk=CHUNK, accumulate=1)


def _step(opened, case):
  """The loss of a step, and the gradient that its optimizer gets."""
  step = _compiled(opened.model, _objective(case))
  params = jax.tree.map(jnp.copy, opened.params)  # a step donates them
  state = state_lib.init_state(params, RULE, _mesh())
  state, metrics = step(state, opened.frozen, _batch(opened.formatter, case.every))
  return float(metrics["loss"]), _named(state.opt_state.trace)


def _losses_and_gradients(model, params, frozen, batch):
  """Of each loss in turn, what a step computes; compiled once for all, for that takes the time."""
  score = functools.partial(scoring.segment_scores, model, batch=batch, chunk=CHUNK)
  policy, pull = jax.vjp(lambda p: score(params=p), params)
  reference, counts = score(params=frozen), step_lib.token_counts(batch)

  def value_and_cotangent(case):
    def value(scores):
      return step_lib.objective_value(_objective(case), scores, reference, batch, counts)[0]

    return jax.value_and_grad(value)(policy)

  found = [value_and_cotangent(case) for case in plain.CASES if not case.every]
  values, cotangents = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
  return values, jax.vmap(pull)(cotangents)[0]


def _named(gradients):
  """Gradients by their names and shapes in the checkpoint."""
  gradients = jax.tree.map(np.asarray, gradients)
  named = {
    "model.embed_tokens.weight": gradients["embedding"],
    "model.norm.weight": gradients["final_norm"]["scale"],
  }
  if "head" in gradients:
    named["lm_head.weight"] = gradients["head"].T
  for theirs, (part, leaf) in PARTS.items():
    for layer, values in enumerate(gradients["blocks"][part][leaf]):
      named[f"model.layers.{layer}.{theirs}.weight"] = values.T  # of a vector, the same
  assert sum(x.size for x in named.values()) == sum(x.size for x in jax.tree.leaves(gradients))
  return named


@pytest.mark.parametrize("every", [False, True], ids=["query", "every"])
def test_the_paths_of_a_tree_are_the_plain_sequences(opened, every):
  for user, built in zip(plain.USERS, _trees(opened.formatter, every), strict=True):
    asked = plain.asked_pairs(user, every)
    by_shots = {pair.shots: pair for pair in built.pairs}
    assert len(built.pairs) == len(by_shots) == len(asked)
    for shots, (prompt, *responses) in asked:
      pair = by_shots[len(shots)]
      for segment, response in zip((pair.chosen, pair.rejected), responses, strict=True):
        context, answer = plain.sequence(opened.tokenizer, shots, prompt, response)
        scored = np.flatnonzero(built.tree.segments == segment)
        path = trees.path_to(built.tree, int(scored[-1]))
        assert built.tree.tokens[path].tolist() == context + answer
        assert path[len(context) :] == scored.tolist()


def _check(golden, case, loss, gradients):
  assert loss == pytest.approx(float(golden[f"{case}.loss"]), rel=RTOL)
  expected = golden[f"{case}.gradients"]
  # Of each tensor: the norm, and projections, which are about as large and by chance smaller.
  wrong = np.abs(plain.summary(gradients) - expected) / expected[:, :1]
  np.testing.assert_array_less(wrong, RTOL, err_msg=str(case))


@pytest.mark.parametrize(
  "opened", ["llama3_1", pytest.param("stories260k", marks=pytest.mark.slow)], indirect=True
)
def test_losses_and_gradients_are_the_golden_ones(opened):
  golden = load_file(plain.GOLDEN / f"{opened.name}.safetensors")
  compute = jax.jit(_losses_and_gradients, static_argnums=0)
  for every in (False, True):
    cases = [case for case in plain.CASES if case.every == every]
    with sharding.use(_mesh()):
      found = compute(opened.model, opened.params, opened.frozen, _batch(opened.formatter, every))
    for i, case in enumerate(cases):
      loss, gradients = jax.tree.map(lambda x, i=i: x[i], found)
      _check(golden, case, float(loss), _named(gradients))


@pytest.mark.parametrize("opened", ["llama3_1"], indirect=True)
def test_a_step_takes_the_golden_gradient(opened):
  case = plain.Case(every=False, loss="ipo", mean=False)  # the paper's
  golden = load_file(plain.GOLDEN / f"{opened.name}.safetensors")
  _check(golden, case, *_step(opened, case))


@pytest.mark.slow
def test_a_step_takes_the_gradient_of_torch(opened):
  pytest.importorskip("torch", reason=WHY)
  pytest.importorskip("transformers", reason=WHY)
  policy, reference = map(plain.open_torch, opened.folders)
  for case, (loss, gradients, _) in plain.steps(policy, reference, opened.tokenizer).items():
    found_loss, found = _step(opened, case)
    assert found_loss == pytest.approx(loss, rel=RTOL), case
    assert found.keys() == gradients.keys()
    for name, expected in gradients.items():
      limit = RTOL * np.abs(expected).max()
      np.testing.assert_allclose(
        found[name], expected, rtol=0, atol=limit, err_msg=f"{case}: {name}"
      )
