# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of RAT at work: samples by their seeds, and the choice by the shots' own labels."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from fspo_jax import sharding
from fspo_jax.episodes.templates import Role
from fspo_jax.inference import rat
from fspo_jax.inference.sampler import Decoding, Run
from fspo_jax.inference.writer import Writer, Written
from fspo_jax.models import scoring
from fspo_jax.preferences import Preference
from tests import tiny

# The same fit in batches of another size, which is as exact as that with XLA's optimizations alone.
pytestmark = pytest.mark.usefixtures("optimized")

GREEDY = Decoding(temperature=0.0, top_p=1.0, max_tokens=6)
RANDOM = Decoding(temperature=1.0, top_p=1.0, max_tokens=6)


def _writer():
  model = tiny.model(vocab_size=tiny.tokenizer().vocab_size, attention_block=256)
  return Writer(model, tiny.params(model), tiny.formatter(), batch=8)


@pytest.fixture(scope="module")
def writer():
  return _writer()


# As long as each other, or the length alone would decide which one this model prefers.
_ANSWERS = ("I liked it.", "I hated it.", "It was short.", "Very funny!")


def _users():
  a, b, c, d = _ANSWERS
  first = (Preference("Any good?", a, b), Preference("And this?", c, d), Preference("Well?", b, d))
  return [first, (Preference("Any good?", b, a), Preference("Tell me.", d, c)), ()]


@pytest.fixture(scope="module")
def users():
  """Users of 3, 2 and 0 shots."""
  return _users()


def _texts(found):
  return [[w.text for w in own] for own in found]


def test_one_description_is_the_one_that_the_writer_writes(writer, users):
  for decoding in (GREEDY, RANDOM):
    expected = writer.describe(users, decoding, seed=3)
    found = rat.describe(writer, users, decoding, seed=3)
    assert [(d.text, d.finished) for d in found] == [(w.text, w.finished) for w in expected]
    assert [d.fit for d in found] == [None] * 3
  assert rat.describe(writer, [], RANDOM, n=2, judge=rat.Judge(writer, 0.1), seed=3) == []


def test_a_sample_depends_on_its_users_shots_and_seeds_alone(writer, users):
  seeds = [(1, 7), (1, 8), (2, 7)]
  together = rat.sample(writer, users, RANDOM, n=3, seeds=seeds)
  assert [len(own) for own in together] == [3, 3, 3]
  assert len({text for own in _texts(together) for text in own}) > 7
  alone = [
    rat.sample(dataclasses.replace(writer, batch=1), [u], RANDOM, n=3, seeds=[s])[0]
    for u, s in zip(users, seeds, strict=True)
  ]
  assert alone == together
  more = rat.sample(writer, users, RANDOM, n=4, seeds=seeds)
  assert [own[:3] for own in more] == together
  other = rat.sample(writer, users, RANDOM, n=3, seeds=[(1, 9), (1, 8), (2, 7)])
  assert other[0] != together[0] and other[1:] == together[1:]


def _logprob(writer, run, answer, role):
  """Log-probability of an answer after a run, by a plain forward pass over the sequence."""
  tokens = (*run.tokens, *answer)
  roles = (*run.roles, *(int(role),) * len(answer))
  padded = np.zeros((2, 1, 256), np.int32)
  padded[0, 0, : len(tokens)], padded[1, 0, : len(tokens)] = tokens, roles
  found = tiny.causal_logprobs(writer.model, writer.params, *padded)
  return float(found[0, len(run.tokens) - 1 : len(tokens) - 1].sum())


def test_a_fit_is_the_likelihood_of_the_labels_under_the_description_alone(writer, users):
  form = writer.formatter
  descriptions = ["Reviews should be short.", "A moviegoer.", "Anything."]
  expected = []
  for shots, description in zip(users, descriptions, strict=True):
    total = 0.0
    for shot in shots:
      run = writer.context((), description)
      run += Run.of(form.question(shot.prompt), Role.QUESTION)
      h = _logprob(writer, run, form.answer(shot.chosen), Role.PREFERRED)
      h -= _logprob(writer, run, form.answer(shot.rejected), Role.PREFERRED)
      total -= np.logaddexp(0.0, -h)
    expected.append(total)
  assert expected[2] == 0.0 and max(expected[:2]) < -0.1
  for rows in (1, 2, 8):
    found = rat.Judge(writer, 1.0, rows).fits(users, descriptions)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert rat.Judge(writer, 1.0).fits([], []).shape == (0,)


def test_beta_scales_how_sure_of_a_label_a_nat_makes(writer, users):
  # One shot: log sigmoid(beta h), from which h, and another beta's fit, follow.
  one, text = [users[0][:1]], ["Reviews should be short."]
  fit = float(rat.Judge(writer, 1.0).fits(one, text)[0])
  h = fit - np.log(-np.expm1(fit))
  for beta in (0.1, 3.0):
    found = rat.Judge(writer, beta).fits(one, text)
    np.testing.assert_allclose(found, -np.logaddexp(0.0, -beta * h), rtol=1e-4)


def test_of_several_the_one_that_explains_the_labels_best_to_the_judge_is_kept(writer, users):
  n = 5
  seeds = [(4, u) for u in range(3)]
  greedy = _texts(rat.sample(writer, users, GREEDY, n=1, seeds=seeds))
  drawn = _texts(rat.sample(writer, users, RANDOM, n=n - 1, seeds=seeds))
  written = [first + more for first, more in zip(greedy, drawn, strict=True)]
  judge = rat.Judge(dataclasses.replace(writer, params=tiny.params(writer.model, seed=1)), 0.3)
  several = {"n": n, "judge": judge, "seed": 4}
  found = rat.describe(writer, users, RANDOM, **several)
  changed = 0
  for shots, texts, chosen in zip(users, written, found, strict=True):
    fits = judge.fits([shots] * n, texts)
    assert chosen.text == texts[int(np.argmax(fits))]
    assert chosen.fit == pytest.approx(float(fits.max()), rel=1e-5)
    changed += chosen.text != texts[0]
  assert changed
  assert found[2].text == written[2][0]  # no labels to choose by
  # Batches of another size round otherwise.
  several["judge"] = dataclasses.replace(judge, rows=3)
  for one, other in zip(found, rat.describe(writer, users, RANDOM, **several), strict=True):
    assert (one.text, one.finished) == (other.text, other.finished)
    assert one.fit == pytest.approx(other.fit, rel=1e-5)
  # With the labels turned around, others are kept.
  turned = [
    tuple(dataclasses.replace(s, chosen=s.rejected, rejected=s.chosen) for s in shots)
    for shots in users
  ]
  fits = [judge.fits([shots] * n, texts) for shots, texts in zip(turned, written, strict=True)]
  assert any(
    int(np.argmax(f)) != texts.index(c.text)
    for f, texts, c in zip(fits, written, found, strict=True)
  )


def test_descriptions_that_were_cut_are_kept_only_if_all_were(writer, users, monkeypatch):
  # This model never ends a text on its own; so others write for it, of whom one in three does.
  texts = [[Written(f"{u}{j}", (u + j) % 3 == 0 and u < 2) for j in range(3)] for u in range(3)]

  def sample(writer, users, decoding, *, n, seeds):
    return [own[:1] if decoding == GREEDY else own[1:] for own in texts]

  monkeypatch.setattr(rat, "sample", sample)
  found = rat.describe(writer, users, RANDOM, n=3, judge=rat.Judge(writer, 0.1), seed=0)
  assert [(d.text, d.finished) for d in found[:2]] == [("00", True), ("12", True)]
  assert not found[2].finished and found[2].text == "20"


def test_several_greedy_descriptions_are_refused(writer, users):
  with pytest.raises(ValueError, match="n: found 2 descriptions at temperature 0.0"):
    rat.describe(writer, users, GREEDY, n=2, seed=0)
  with pytest.raises(ValueError, match="n: found 0"):
    rat.describe(writer, users, RANDOM, n=0, seed=0)
  with pytest.raises(ValueError, match="judge: found None and n=2"):
    rat.describe(writer, users, RANDOM, n=2, seed=0)


def test_descriptions_are_answered_under(writer, users):
  found = rat.describe(writer, users, RANDOM, n=3, judge=rat.Judge(writer, 0.1), seed=1)
  prompts = [["Is it good?"]] * 3
  told = [d.text for d in found]
  answers = writer.respond(users, prompts, GREEDY, seed=0, descriptions=told)
  assert answers != writer.respond(users, prompts, GREEDY, seed=0)


def main():
  """Run with 4 devices: fits are those of one device, and computed under the writer's mesh."""
  descriptions = ["Reviews should be short.", "A moviegoer.", "Anything."]
  writer, users = _writer(), _users()
  expected = rat.Judge(writer, 0.1).fits(users, descriptions)
  mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2)
  params = jax.device_put(writer.params, sharding.replicated(mesh))
  # Kernels are of a device's own rows and heads: XLA could not split them for a mesh it infers.
  config = dataclasses.replace(writer.model.config, attention="pallas_interpret")
  model = writer.model.clone(config=config)
  there = dataclasses.replace(writer, model=model, params=params, mesh=mesh)
  segment_scores, meshes = scoring.segment_scores, []

  def seen(*args, **keywords):
    meshes.append(dict(jax.sharding.get_abstract_mesh().shape))
    return segment_scores(*args, **keywords)

  scoring.segment_scores = seen
  found = rat.Judge(there, 0.1, rows=2).fits(users, descriptions)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert meshes == [dict(mesh.shape)] * 2  # a program for each number of shots


def test_fits_are_computed_on_the_mesh_of_the_parameters():
  tiny.run("inference.test_rat", devices=4)


if __name__ == "__main__":
  main(*sys.argv[1:])
