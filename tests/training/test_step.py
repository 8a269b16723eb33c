# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the training step, on one device and (`main`, in a process of its own) on eight."""

import contextlib
import dataclasses
import json
import logging
import math
import pathlib
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fspo_jax import losses, sharding
from fspo_jax.episodes import batching
from fspo_jax.episodes.templates import Context, Kind
from fspo_jax.models import scoring
from fspo_jax.training import optimizer as optimizer_lib
from fspo_jax.training import state as state_lib
from fspo_jax.training import step as step_lib
from tests import tiny

ROWS, STEPS = 8, 3
# Devices along data, fsdp, tensor, context and dcn_data.
MESHES = ((1, 1, 1, 1, 1), (2, 2, 2, 1, 1), (1, 2, 2, 2, 1), (2, 1, 1, 2, 2))
OPTIMIZER = optimizer_lib.OptimizerConfig(
  name="muon",
  learning_rate=4e-3,
  adam_learning_rate=1.5e-3,
  warmup_steps=0,
  decay_fraction=0.4,
  clip_norm=1.0,
  weight_decay=0.0,
  b2=0.98,
)


def _model():
  return tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=512)


def _batch(rows=ROWS, step=0):
  return tiny.batch(tiny.rows(), rows, first=step * rows)


def _recording(rule):
  """The update rule, with the gradient of the last step kept in its state."""

  def init(params):
    return {"gradient": jax.tree.map(jnp.zeros_like, params), "rule": rule.init(params)}

  def update(gradient, state, params):
    updates, inner = rule.update(gradient, state["rule"], params)
    return updates, {"gradient": gradient, "rule": inner}

  return optax.GradientTransformation(init, update)


def _numpy(tree):
  return {name: np.asarray(leaf) for name, leaf in tiny.flat(tree).items()}


def _close(found, expected, rtol):
  """Every array within `rtol` of its own largest entry."""
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    limit = rtol * np.abs(values).max()
    np.testing.assert_allclose(found[name], values, rtol=0, atol=limit, err_msg=name)


@pytest.fixture(scope="module")
def scored():
  """A batch with the scores of two policies that disagree."""
  model, batch = _model(), _batch(3)
  score = jax.jit(lambda p: scoring.segment_scores(model, p, batch, chunk=512))
  return batch, score(tiny.params(model)), score(tiny.params(model, seed=1))


def _value(objective, policy, reference, batch):
  """The objective of a whole batch, with KTO's reference point where there is one."""
  counts, z0 = step_lib.token_counts(batch), None
  if objective.needs_reference_point:
    mean = step_lib.mean_log_ratio(objective, policy, reference, batch, counts)
    z0 = losses.reference_point(mean)
  return step_lib.objective_value(objective, policy, reference, batch, counts, z0)


def _simpo(**changes):
  changes = {"name": "simpo", "beta": 2.0, "gamma": 1.5, "length_normalize": True, **changes}
  return dataclasses.replace(tiny.OBJECTIVE, **changes)


@pytest.mark.parametrize("name, expected", [("ipo", 25.0), ("dpo", math.log(2)), ("kto", 0.5)])
def test_at_the_reference_the_margin_is_0_and_the_loss_its_formulas(scored, name, expected):
  batch, policy, _ = scored
  objective = dataclasses.replace(tiny.OBJECTIVE, name=name)
  _, metrics = _value(objective, policy, policy, batch)
  assert float(metrics["rewards/margins"]) == 0.0
  assert float(metrics["preference/loss"]) == pytest.approx(expected, rel=1e-6)
  assert float(metrics["rewards/accuracies"]) == pytest.approx(0.5)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ["ipo", "dpo"])
def test_the_objective_pair_by_pair_and_token_by_token(scored, name, normalize):
  batch, policy, reference = scored
  objective = dataclasses.replace(
    tiny.OBJECTIVE,
    name=name,
    length_normalize=normalize,
    preference_weight=0.3,
    chosen_weight=0.5,
    description_weight=2.0,
  )
  counts = step_lib.token_counts(batch)
  loss, metrics = step_lib.objective_value(objective, policy, reference, batch, counts)
  log_pi, log_ref, length = (
    np.asarray(x, np.float64) for x in (policy.logprob, reference.logprob, policy.length)
  )
  margins, described = [], []
  for row, weights in enumerate(batch.pair_weight):
    for p in np.flatnonzero(weights):
      h = 0.0
      for sign, segment in ((1, batch.pair_chosen[row, p]), (-1, batch.pair_rejected[row, p])):
        ratio = log_pi[row, segment] - log_ref[row, segment]
        h += sign * ratio / (length[row, segment] if normalize else 1)
      margins.append(h)
      described.append(batch.pair_context[row, p] == Context.DESCRIPTION)
  margins, described = np.asarray(margins), np.asarray(described)
  assert 0 < described.sum() < len(described)
  each = (margins - 5) ** 2 if name == "ipo" else np.log1p(np.exp(-0.1 * margins))
  nll = {}
  for kind in (Kind.CHOSEN, Kind.DESCRIPTION):
    these = batch.segment_kind == kind
    nll[kind] = -log_pi[these].sum() / length[these].sum()
  expected = 0.3 * each.mean() + 0.5 * nll[Kind.CHOSEN] + 2.0 * nll[Kind.DESCRIPTION]
  found = {key: float(value) for key, value in metrics.items()}
  assert float(loss) == found["loss"] == pytest.approx(expected, rel=1e-5)
  assert found["preference/loss"] == pytest.approx(each.mean(), rel=1e-5)
  assert found["nll/chosen"] == pytest.approx(nll[Kind.CHOSEN], rel=1e-5)
  assert found["nll/description"] == pytest.approx(nll[Kind.DESCRIPTION], rel=1e-5)
  assert found["rewards/margins"] == pytest.approx(0.1 * margins.mean(), rel=1e-4)
  assert found["rewards/accuracies"] == pytest.approx((margins > 0).mean())
  assert found["rewards/accuracies_described"] == pytest.approx((margins > 0)[described].mean())


def _responses(batch, scores, normalize):
  """Float64 scores of the chosen and of the rejected response of every pair."""
  logprob, length = (np.asarray(x, np.float64) for x in scores)
  values = logprob / length if normalize else logprob
  rows, pairs = np.nonzero(batch.pair_weight)
  return tuple(
    values[rows, segments[rows, pairs]] for segments in (batch.pair_chosen, batch.pair_rejected)
  )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("positive", [False, True])
def test_kto_and_its_gradient_pair_by_pair(scored, positive, normalize):
  batch, *scores = scored
  # The last pair of each row is padding: it counts nowhere, and least of all in z0.
  batch = batch._replace(
    pair_weight=batch.pair_weight * (np.arange(batch.pair_weight.shape[1]) < 4)
  )
  policy, reference = reversed(scores) if positive else scores
  objective = dataclasses.replace(
    tiny.OBJECTIVE,
    name="kto",
    length_normalize=normalize,
    preference_weight=0.3,
    chosen_weight=0.0,
    description_weight=0.0,
    desirable_weight=1.5,
    undesirable_weight=0.5,
  )
  ours, theirs = (_responses(batch, s, normalize) for s in (policy, reference))
  chosen, rejected = ours[0] - theirs[0], ours[1] - theirs[1]
  mean = np.concatenate([chosen, rejected]).mean()
  assert (mean > 0) == positive  # so that the clip at 0 is seen on both sides
  z0 = max(mean, 0.0)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
  values = 1.5 * sigmoid(0.1 * (chosen - z0)), 0.5 * sigmoid(0.1 * (z0 - rejected))
  expected = np.concatenate([1.5 - values[0], 0.5 - values[1]]).mean()
  value = lambda logprob: _value(  # noqa: E731
    objective, policy._replace(logprob=logprob), reference, batch
  )
  (loss, metrics), gradient = jax.value_and_grad(value, has_aux=True)(policy.logprob)
  assert float(metrics["preference/loss"]) == pytest.approx(expected, rel=1e-5)
  assert float(loss) == pytest.approx(0.3 * expected, rel=1e-5)
  assert float(metrics["preference/reference_point"]) == pytest.approx(z0, rel=1e-5)
  h = chosen - rejected
  assert float(metrics["rewards/margins"]) == pytest.approx(0.1 * h.mean(), rel=1e-4)
  assert float(metrics["rewards/accuracies"]) == pytest.approx((h > 0).mean())
  # Each response pulls at itself alone: z0 has no gradient, though every response is in it.
  slopes = np.zeros(policy.logprob.shape)
  rows, pairs = np.nonzero(batch.pair_weight)
  for segments, sign, weight, r in (
    (batch.pair_chosen, -1, 1.5, chosen),
    (batch.pair_rejected, 1, 0.5, rejected),
  ):
    slope = sign * weight * 0.1 * sigmoid(0.1 * (r - z0)) * sigmoid(0.1 * (z0 - r))
    where = rows, segments[rows, pairs]
    per_nat = 1 / np.asarray(policy.length)[where] if normalize else 1.0
    np.add.at(slopes, where, 0.3 * slope * per_nat / (2 * len(rows)))
  np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-8)


def test_simpo_pair_by_pair_without_a_reference(scored):
  batch, policy, _ = scored
  objective = _simpo(preference_weight=0.3, chosen_weight=0.0, description_weight=0.0)
  loss, metrics = _value(objective, policy, None, batch)
  chosen, rejected = _responses(batch, policy, normalize=True)
  h = chosen - rejected
  expected = np.log1p(np.exp(-(2.0 * h - 1.5))).mean()
  assert float(loss) == pytest.approx(0.3 * expected, rel=1e-5)
  assert float(metrics["preference/loss"]) == pytest.approx(expected, rel=1e-5)
  assert float(metrics["rewards/margins"]) == pytest.approx(2.0 * h.mean(), rel=1e-4)
  assert float(metrics["logps/abs_margins"]) == pytest.approx(np.abs(h).mean(), rel=1e-5)
  assert float(metrics["rewards/accuracies"]) == pytest.approx((h > 0).mean())
  assert 0 < (h > 0).mean() < 1


def _cuts(rows):
  """Functions that cut one row out of a tree of arrays."""
  return [
    lambda tree, row=row: jax.tree.map(lambda x: x[row : row + 1], tree) for row in range(rows)
  ]


@pytest.mark.parametrize("name", losses.PREFERENCE_LOSSES)
def test_the_objectives_of_parts_add_up(scored, name):
  batch, reference, policy = scored  # in this order KTO's reference point is above 0
  objective = _simpo() if name == "simpo" else dataclasses.replace(tiny.OBJECTIVE, name=name)
  _, whole = _value(objective, policy, reference, batch)
  counts, total = step_lib.token_counts(batch), dict.fromkeys(whole, 0.0)
  z0 = whole.get("preference/reference_point")
  assert (z0 is not None) == (name == "kto")
  for cut in _cuts(3):
    _, part = step_lib.objective_value(
      objective, cut(policy), cut(reference), cut(batch), counts, z0
    )
    total = {name: total[name] + float(value) for name, value in part.items()}
  assert total == pytest.approx({name: float(value) for name, value in whole.items()}, rel=1e-5)
  if name == "kto":
    alone = [_value(objective, cut(policy), cut(reference), cut(batch)) for cut in _cuts(3)]
    points = [float(metrics["preference/reference_point"]) for _, metrics in alone]
    assert max(points) > 1.5 * min(points) > 0  # the parts' own points would not do
    with pytest.raises(ValueError, match=r"loss\.name='kto' needs z0, .*: found None"):
      step_lib.objective_value(objective, policy, reference, batch, counts)


def _places(tree):
  """The shape of each array, of its part on a device, and on how many devices it lies."""
  return {
    name: [x.shape, x.sharding.shard_shape(x.shape), len(x.sharding.device_set)]
    for name, x in tiny.flat(tree).items()
  }


def _run(mesh, rule, accumulate, batches):
  """Trains from fresh parameters: those, their state's places, the last state, the metrics."""
  model = _model()
  rule = _recording(rule)
  reference = state_lib.init_params(model, mesh, seed=0)
  state = state_lib.init_state(jax.tree.map(jnp.copy, reference), rule, mesh)
  step = step_lib.make_step(
    model, tiny.OBJECTIVE, rule, mesh, vocab_chunk=512, accumulate=accumulate
  )
  places, history = _places(state.opt_state), []
  for batch in batches:
    state, metrics = step(state, reference, sharding.to_global(mesh, batch))
    history.append({name: float(value) for name, value in metrics.items()})
  return reference, places, state, history


def test_accumulated_gradients_are_the_whole_batchs():
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  reference, _, whole, (metrics,) = _run(mesh, optax.sgd(1e-3), 1, [_batch(4)])
  _, _, parts, (part_metrics,) = _run(mesh, optax.sgd(1e-3), 4, [_batch(4)])
  assert int(whole.step) == int(parts.step) == 1
  # Sums in another order: a few steps of float32.
  assert part_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)
  gradient, other = (_numpy(state.opt_state["gradient"]) for state in (whole, parts))
  _close(other, gradient, rtol=1e-5)
  norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
  assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
  # At step 0 the policy is its own reference; then it has moved, and the reference has not.
  assert metrics["preference/loss"] == pytest.approx(25.0, rel=1e-6)
  assert metrics["rewards/margins"] == 0.0
  moved = {n: np.abs(v - _numpy(reference)[n]).max() for n, v in _numpy(whole.params).items()}
  assert max(moved.values()) > 1e-4
  assert metrics["update_norm"] > 0


def test_ktos_accumulated_gradients_are_the_whole_batchs():
  model, batch = _model(), _batch(4)
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  objective = dataclasses.replace(
    tiny.OBJECTIVE, name="kto", preference_weight=1.0, chosen_weight=0.0, description_weight=0.0
  )
  rule = _recording(optax.sgd(1e-3))
  gradients, history = [], []
  for accumulate in (1, 4):
    # Not at the reference, where z0 is 0: its mean log-ratio is above 0.
    state = state_lib.init_state(jax.tree.map(jnp.copy, tiny.params(model, seed=1)), rule, mesh)
    step = step_lib.make_step(model, objective, rule, mesh, vocab_chunk=512, accumulate=accumulate)
    state, metrics = step(state, tiny.params(model), sharding.to_global(mesh, batch))
    gradients.append(_numpy(state.opt_state["gradient"]))
    history.append({name: float(value) for name, value in metrics.items()})
  assert history[1] == pytest.approx(history[0], rel=1e-5, abs=1e-6)
  _close(gradients[1], gradients[0], rtol=1e-5)
  policy, reference = (
    scoring.segment_scores(model, tiny.params(model, seed=seed), batch, chunk=512)
    for seed in (1, 0)
  )
  ours, theirs = (_responses(batch, s, normalize=False) for s in (policy, reference))
  mean = (np.concatenate(ours) - np.concatenate(theirs)).mean()
  assert mean > 1
  assert history[0]["preference/reference_point"] == pytest.approx(mean, rel=1e-5)


def test_simpo_needs_no_reference():
  assert tiny.OBJECTIVE.needs_pairs and _simpo().needs_pairs
  assert tiny.OBJECTIVE.needs_reference and not _simpo().needs_reference
  assert not _simpo(preference_weight=0.0).needs_pairs
  model, batch = _model(), _batch(1)
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  objective = _simpo(preference_weight=1.0, chosen_weight=0.0, description_weight=0.0)
  state = state_lib.init_state(jax.tree.map(jnp.copy, tiny.params(model)), optax.sgd(1e-3), mesh)
  step = step_lib.make_step(model, objective, optax.sgd(1e-3), mesh, vocab_chunk=512, accumulate=1)
  history = []
  for _ in range(3):
    state, metrics = step(state, None, batch)
    history.append({name: float(value) for name, value in metrics.items()})
  assert history[0]["preference/loss"] > history[1]["preference/loss"]
  assert history[1]["preference/loss"] > history[2]["preference/loss"]
  assert history[0]["rewards/margins"] < history[2]["rewards/margins"]


def test_without_a_preference_term_no_reference_is_needed():
  objective = dataclasses.replace(tiny.OBJECTIVE, preference_weight=0.0)
  assert tiny.OBJECTIVE.needs_reference and not objective.needs_reference
  model = tiny.model()
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  batch = batching.stack([tiny.small_row()])
  state = state_lib.init_state(jax.tree.map(jnp.copy, tiny.params(model)), optax.sgd(1e-4), mesh)
  step = step_lib.make_step(model, objective, optax.sgd(1e-4), mesh, vocab_chunk=64, accumulate=1)
  history = []
  for _ in range(3):
    state, metrics = step(state, None, batch)
    history.append(float(metrics["nll/chosen"]))
  assert set(metrics) == {"loss", "nll/chosen", "nll/description", "grad_norm", "update_norm"}
  assert history[0] > history[1] > history[2]  # small steps of gradient descent go down
  assert int(state.step) == 3


def test_a_step_is_compiled_once_and_takes_the_place_of_its_state():
  model = tiny.model(dtype="bfloat16")
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  rule = optax.adamw(1e-6)
  reference = state_lib.init_params(model, mesh, 0)
  state = state_lib.init_state(jax.tree.map(jnp.copy, reference), rule, mesh)
  step = step_lib.make_step(model, tiny.OBJECTIVE, rule, mesh, vocab_chunk=24, accumulate=1)
  batch = sharding.to_global(mesh, batching.stack([tiny.small_row()]))
  with warnings.catch_warnings(), jax.log_compiles(), _compiled() as names:
    warnings.filterwarnings("error", message=".*donated buffers were not usable.*")
    compiled = step.trace(state, reference, batch).lower().compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes >= size
    for _ in range(3):
      before = state
      state, metrics = step(state, reference, batch)
      assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
  assert names.count("jit(step)") == 1, names
  # Computed in bfloat16; the parameters, their moments and what is summed up are in float32, so
  # that steps of 1e-6, which bfloat16 would round away, are kept.
  floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
  assert {x.dtype for x in floats} == {x.dtype for x in metrics.values()} == {np.dtype("float32")}
  for name, values in _numpy(state.params).items():
    moved = np.abs(values - _numpy(reference)[name]).max()
    assert 1e-6 < moved < 4e-6, name
  scores = jax.eval_shape(lambda p: scoring.segment_scores(model, p, batch, chunk=24), state.params)
  assert {x.dtype for x in scores} == {np.dtype("float32")}


@contextlib.contextmanager
def _compiled():
  """Names of what is compiled, as JAX logs them."""
  names, handler = [], logging.Handler()
  handler.emit = lambda record: names.extend(
    re.findall(r"Finished XLA compilation of (\S+)", record.getMessage())
  )
  logger = logging.getLogger("jax")
  logger.addHandler(handler)
  try:
    yield names
  finally:
    logger.removeHandler(handler)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"beta": 0.0}, r"loss\.beta=0\.0 must be positive"),
    ({"name": "orpo"}, r"loss\.name='orpo'"),
    ({"label_smoothing": 0.1}, r"loss\.label_smoothing is DPO's; IPO has none"),
    ({"gamma": 0.5}, r"loss\.gamma is SimPO's; IPO has none: found 0\.5, expected 0"),
    ({"gamma": -0.5}, r"loss\.gamma=-0\.5 must be 0 or more"),
    ({"desirable_weight": 2.0}, r"loss\.desirable_weight is KTO's; IPO has none: found 2\.0"),
    ({"name": "kto", "undesirable_weight": 0.0}, r"loss\.undesirable_weight=0\.0 must be positive"),
    ({"name": "simpo"}, r"loss\.length_normalize=False, expected True for loss\.name='simpo'"),
  ],
)
def test_impossible_objectives_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny.OBJECTIVE, **changes)


def test_abstract_parameters_are_what_is_made():
  model = tiny.model(tied=False)
  mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
  made = tiny.flat(state_lib.init_params(model, mesh, seed=0))
  abstract = tiny.flat(state_lib.abstract_params(model, mesh))
  describe = lambda leaves: {  # noqa: E731
    n: (x.shape, x.dtype, x.sharding) for n, x in leaves.items()
  }
  assert describe(abstract) == describe(made)


# Eight devices.


def _kto_on(mesh):
  """KTO of made-up scores, above the reference by more in some rows: gradient, and loss and z0."""
  objective = dataclasses.replace(tiny.OBJECTIVE, name="kto", preference_weight=1.0)
  batch, rng = _batch(), np.random.default_rng(0)
  length = scoring.sum_segments(np.ones(batch.segment.shape, np.float32), batch).length
  scores = [scoring.SegmentScores(-rng.uniform(20, 30, length.shape), length) for _ in range(2)]
  scores[0] = scores[0]._replace(logprob=scores[0].logprob + np.arange(ROWS)[:, None])
  value = lambda logprob, policy, reference, batch: _value(  # noqa: E731
    objective, policy._replace(logprob=logprob), reference, batch
  )
  as_float32 = jax.tree.map(lambda x: np.asarray(x, np.float32), scores)
  policy, reference, batch = sharding.to_global(mesh, (*as_float32, batch))
  with sharding.use(mesh):
    gradient, metrics = jax.jit(jax.grad(value, has_aux=True))(
      policy.logprob, policy, reference, batch
    )
  assert len(gradient.sharding.device_set) == mesh.size
  return gradient, {name: float(x) for name, x in metrics.items()}


def main(directory):
  """Trains on every mesh; what came out goes into `directory`, for the tests to look at."""
  directory = pathlib.Path(directory)
  batches = [_batch(step=s) for s in range(STEPS)]
  for shape in MESHES:
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    rule = optimizer_lib.make_optimizer(OPTIMIZER, STEPS)
    reference, start, state, history = _run(mesh, rule, 1, batches)
    kto, kto_metrics = _kto_on(mesh)
    name = "x".join(map(str, shape))
    groups = {
      "initial": reference,
      "params": state.params,
      "gradient": state.opt_state["gradient"],
      "kto": {"logprob": kto},
    }
    for group, tree in groups.items():
      np.savez(directory / f"{name}.{group}.npz", **_numpy(tree))
    places = {
      "params": _places(state.params),
      "optimizer, at the start": start,
      "optimizer, at the end": _places(state.opt_state),
    }
    facts = {
      "history": history,
      "places": places,
      "devices": len(jax.devices()),
      "kto": kto_metrics,
    }
    (directory / f"{name}.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
  directory = tmp_path_factory.mktemp("eight")
  tiny.run("training.test_step", directory, devices=8)

  def read(shape):
    name = "x".join(map(str, shape))
    arrays = {
      group: dict(np.load(directory / f"{name}.{group}.npz"))
      for group in ("initial", "params", "gradient", "kto")
    }
    return arrays, json.loads((directory / f"{name}.json").read_text())

  return {shape: read(shape) for shape in MESHES}


@pytest.mark.parametrize("shape", MESHES[1:])
def test_a_mesh_of_eight_devices_trains_as_one_device_does(eight_devices, shape):
  one, one_facts = eight_devices[MESHES[0]]
  eight, facts = eight_devices[shape]
  assert facts["devices"] == 8
  for name, values in one["initial"].items():
    np.testing.assert_array_equal(eight["initial"][name], values, err_msg=name)
  # Devices add up in another order than one alone does. After three steps that was found to be
  # 8e-6 of an array's largest entry, some 60 steps of float32; a wrong sum is off by 1e-1.
  for step, (ours, theirs) in enumerate(zip(facts["history"], one_facts["history"], strict=True)):
    if step == 0:  # All margins are 0, and accuracy is the sign of what rounding leaves of them.
      ours, theirs = ({k: v for k, v in m.items() if "accur" not in k} for m in (ours, theirs))
    assert ours == pytest.approx(theirs, rel=5e-5, abs=1e-5)
  _close(eight["gradient"], one["gradient"], rtol=5e-5)
  _close(eight["params"], one["params"], rtol=5e-5)


@pytest.mark.parametrize("shape", MESHES[1:])
def test_ktos_reference_point_is_the_whole_batchs_on_any_mesh(eight_devices, shape):
  one, one_facts = eight_devices[MESHES[0]]
  eight, facts = eight_devices[shape]
  # Uniform scores of equal mean, and 0 .. 7 nats more by row: z0 is near 3.5.
  assert 3 < one_facts["kto"]["preference/reference_point"] < 4
  assert facts["kto"] == pytest.approx(one_facts["kto"], rel=1e-6)
  _close(eight["kto"], one["kto"], rtol=1e-6)


# Which dimension of each parameter is split over `fsdp` and which over `tensor`.
SPLIT = {
  "embedding": (1, 0),
  "role_embedding": (1, None),
  "q": (1, 2),
  "k": (1, 2),
  "v": (1, 2),
  "o": (2, 1),
  "gate": (1, 2),
  "up": (1, 2),
  "down": (2, 1),
  "scale": (None, None),
}


@pytest.mark.parametrize("shape", MESHES[1:])
def test_parameters_and_optimizer_state_are_really_split(eight_devices, shape):
  _, facts = eight_devices[shape]
  params = facts["places"]["params"]
  assert len(params) == 12
  for name, (whole, shard, devices) in params.items():
    (kind,) = [k for k in SPLIT if f"['{k}']" in name]
    expected = list(whole)
    for dimension, parts in zip(SPLIT[kind], shape[1:3], strict=True):
      if dimension is not None:
        expected[dimension] //= parts
    assert (shard, devices) == (expected, 8), name
  for when in ("start", "end"):
    moments = 0
    for name, (whole, shard, devices) in facts["places"][f"optimizer, at the {when}"].items():
      owner = [p for p in params if name.endswith(p)]
      if owner:
        moments += 1
        assert (whole, shard) == tuple(params[owner[0]][:2]), (when, name)
      else:
        assert math.prod(whole) <= 3 and shard == whole, (when, name)  # counters
      assert devices == 8
    # The gradient kept for this test; Muon's moment of 7 matrices; Adam's two of 5 others.
    assert moments == 12 + 7 + 2 * 5


if __name__ == "__main__":
  main(*sys.argv[1:])
