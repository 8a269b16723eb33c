# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the evaluation of a split: margins by method and k, the ceiling, missing pairs."""

import dataclasses
import itertools

import numpy as np
import pytest

from fspo_jax import sharding
from fspo_jax.episodes.sampling import WorldEpisodes
from fspo_jax.episodes.templates import Context, Layout
from fspo_jax.evaluation import evaluate, preference_accuracy, truth
from fspo_jax.evaluation.contenders import Models, Scorer
from fspo_jax.evaluation.preference_accuracy import PairScores
from fspo_jax.inference import rat
from fspo_jax.worlds import bayes
from tests import tiny

SHOTS, EPISODES = 3, 60
METHODS = ("base", "plain", "fewshot_prompted", "fspo", "fspo_rat", "fspo_gold", "oracle")
SETTINGS = evaluate.Settings(
  methods=METHODS,
  shots=SHOTS,
  episodes=EPISODES,
  rows=2,
  max_row_tokens=1024,
  rat_episodes=4,
  win_rate_users=4,
  win_rate_prompts=2,
  sample_users=3,
  temperatures=(0.3,),
  top_p=1.0,
  descriptions=1,
  description_temperature=0.0,
  description_beta=0.2,
  max_response_tokens=8,
  max_description_tokens=8,
  bootstrap=50,
)


@pytest.fixture(scope="module")
def evaluation():
  """An evaluation whose models nobody asks."""
  episodes = WorldEpisodes(tiny.world(), "unseen", SHOTS, 1, seed=3)
  return evaluate.SplitEvaluation("unseen", episodes, None, SETTINGS, seed=3)


def _scores(episode, shots, context, difference):
  return PairScores(
    np.asarray(episode), np.asarray(shots), np.asarray(context), np.asarray(difference), 0, 0.0
  )


class TestPairScores:
  def test_a_missing_pair_is_nan_and_several_queries_are_averaged(self):
    shots, described = Context.SHOTS, Context.DESCRIPTION
    scores = _scores(
      [0, 0, 2, 2, 1], [1, 1, 1, 0, 1], [shots, shots, shots, shots, described],
      [1.0, 2.0, -4.0, 8.0, 16.0],
    )  # fmt: skip
    nan = np.nan
    np.testing.assert_array_equal(scores.at(1, Context.SHOTS, 4), [1.5, nan, -4.0, nan])
    np.testing.assert_array_equal(scores.at(0, Context.SHOTS, 4), [nan, nan, 8.0, nan])
    np.testing.assert_array_equal(scores.at(1, Context.DESCRIPTION, 3), [nan, 16.0, nan])
    np.testing.assert_array_equal(scores.at(7, Context.SHOTS, 2), [nan, nan])

  def test_an_episode_whose_margin_is_exactly_zero_is_not_missing(self):
    scores = _scores([1], [0], [Context.SHOTS], [0.0])
    np.testing.assert_array_equal(scores.at(0, Context.SHOTS, 2), [np.nan, 0.0])

  def test_the_last_batch_is_filled_up_but_every_episode_is_counted_once(self):
    model = tiny.model(vocab_size=tiny.tokenizer().vocab_size, layers=1, attention_block=512)
    rows = tiny.rows(Layout(query_shots=(0, 1)), shots=1)
    scores = preference_accuracy.score_pairs(
      model, tiny.params(model), rows, 3,
      rows_per_batch=2, mesh=sharding.make_mesh(1), vocab_chunk=512, label="test",
    )  # fmt: skip
    assert sorted(zip(scores.episode.tolist(), scores.shots.tolist(), strict=True)) == [
      (episode, k) for episode in range(3) for k in (0, 1)
    ]
    assert np.isfinite(scores.difference).all() and (scores.difference != 0).all()
    assert scores.dropped_shots == 0 and 0 < scores.padding_fraction < 1


class TestBayes:
  def test_it_is_the_predictor_on_the_same_episodes(self, evaluation):
    world = tiny.world()
    predictor = bayes.BayesPredictor.for_world(world, "unseen")
    right = np.zeros((EPISODES, SHOTS + 1))
    for i, episode in enumerate(evaluation.episodes):
      shots = bayes.preference_pairs(episode.shots)
      (query,) = bayes.preference_pairs(episode.queries)
      for k in range(SHOTS + 1):
        p = float(predictor.predict(shots[:k], query))
        right[i, k] = 0.5 if abs(p - 0.5) < 1e-9 else p > 0.5
    episodes = WorldEpisodes(world, "unseen", SHOTS, 1, seed=3)
    found = evaluation.ceiling(truth.of_world(world, episodes))
    assert found == pytest.approx({str(k): right[:, k].mean() for k in range(SHOTS + 1)})
    assert found["0"] < found[str(SHOTS)]
    # Over the whole population tastes are symmetric: without shots nobody knows anything.
    shots = bayes.preference_pairs(evaluation.episodes[0].shots)[:0]
    (query,) = bayes.preference_pairs(evaluation.episodes[0].queries)
    anybody = bayes.BayesPredictor.for_world(world)
    assert float(anybody.predict(shots, query)) == pytest.approx(0.5, abs=1e-9)


class _Models:
  """Stands in for the models: log-odds by (trained, shots, described), one per k and episode."""

  def __init__(self):
    self.asked = []
    rng = np.random.default_rng(0)
    self.tables = {
      key: rng.standard_normal((SHOTS + 1, EPISODES))
      for key in itertools.product((True, False), (True, False), ("", "written", "gold"))
    }

  def score(self, episodes, trained, shots, described):
    self.asked.append((trained, shots, described, len(episodes)))
    table = self.tables[trained, shots, described][:, : len(episodes)]
    if not shots:
      table = np.repeat(table[:1], SHOTS + 1, axis=0)
    return list(table), PairScores(*np.zeros((4, 1)), 2, 0.25)


class TestMargins:
  def test_every_method_is_a_difference_to_what_it_is_compared_with(self, evaluation, monkeypatch):
    models = _Models()
    monkeypatch.setattr(evaluation.scorer, "_score", models.score)
    monkeypatch.setattr(evaluation, "_written", [["is nice"] * (SHOTS + 1)] * SETTINGS.rat_episodes)
    margins = evaluation.margins()
    assert tuple(margins) == METHODS
    table, few = models.tables, SETTINGS.rat_episodes
    base, shown = table[False, False, ""][0], table[False, True, ""]
    expected = {
      "base": [base] * (SHOTS + 1),
      "plain": [table[True, False, ""][0] - base] * (SHOTS + 1),
      # From one pass, so that before any shot it is exactly 0.
      "fewshot_prompted": shown - shown[0],
      "fspo": table[True, True, ""] - shown,
      "fspo_rat": (table[True, True, "written"] - shown)[:, :few],
      "fspo_gold": (table[True, True, "gold"] - shown)[:, :few],
      "oracle": [table[False, False, "gold"][0]] * (SHOTS + 1),
    }
    for name, values in expected.items():
      np.testing.assert_array_equal(margins[name], values, err_msg=name)
    # Each forward pass is done once, and descriptions are asked of the first episodes alone.
    assert len(set(models.asked)) == len(models.asked) == 7
    assert (True, True, "written", few) in models.asked
    assert evaluation.scorer.facts == {"padding_fraction": 0.25, "dropped_shots": 2}

  def test_what_is_given_without_shots_is_scored_without_them(self):
    model = tiny.model(vocab_size=tiny.tokenizer().vocab_size, layers=1, attention_block=512)
    params = tiny.params(model)
    models = Models(model, params, params, tiny.formatter(), sharding.make_mesh(1), 512)
    source = WorldEpisodes(tiny.world(), "unseen", SHOTS, 1, seed=3)
    episodes = [source(i) for i in range(3)]
    scorer = Scorer(models, shots=SHOTS, rows=2, max_row_tokens=1024, name="test")

    def odds(shots, described=""):
      return scorer.differences(episodes, trained=False, shots=shots, described=described)

    # After no shots, with shots to come or without any, the queries are the same.
    np.testing.assert_allclose(odds(False)[SHOTS], odds(True)[0], atol=1e-4)
    assert np.abs(odds(False, "gold")[0] - odds(False)[0]).min() > 1e-3

  def test_of_several_descriptions_the_best_by_the_shots_labels_is_kept(self):
    model = tiny.model(vocab_size=tiny.tokenizer().vocab_size, layers=1, attention_block=512)
    base, policy = tiny.params(model), tiny.params(model, seed=1)
    models = Models(model, base, policy, tiny.formatter(), sharding.make_mesh(1), 512)
    source = WorldEpisodes(tiny.world(), "unseen", SHOTS, 1, seed=3)
    episodes = [source(i) for i in range(2)]

    def written(n):
      settings = dataclasses.replace(SETTINGS, descriptions=n, description_temperature=1.0)
      made = evaluate.SplitEvaluation("unseen", source, models, settings, seed=3)
      return [text for own in made.write_descriptions(episodes) for text in own]

    users = [episode.shots[:k] for episode in episodes for k in range(SHOTS + 1)]
    # The first of the several is the only one that is written where one is asked for.
    judge = rat.Judge(models.writer(trained=False), SETTINGS.description_beta)
    one, best = (judge.fits(users, written(n)) for n in (1, 4))
    assert (best >= one - 1e-5).all() and (best > one + 1e-3).any()

  def test_a_method_that_nothing_has_made_is_refused(self):
    settings = dataclasses.replace(SETTINGS, methods=("base", "user_lora"))
    episodes = WorldEpisodes(tiny.world(), "unseen", SHOTS, 1, seed=3)
    with pytest.raises(ValueError, match="'user_lora' is no prompt, and this run has not made it"):
      evaluate.SplitEvaluation("unseen", episodes, None, settings, seed=3)
    other = object()
    found = evaluate.SplitEvaluation(
      "unseen", episodes, None, settings, seed=3, others={"user_lora": other}
    )
    assert found.contenders["user_lora"] is other

  def test_a_missing_pair_counts_neither_as_right_nor_as_wrong(self, evaluation):
    values = np.full(EPISODES, np.nan)
    values[:4] = (1.0, 1.0, 1.0, -1.0)
    accuracy, ci = evaluation.intervals({"fspo": [values]})
    assert accuracy == {"fspo": {"0": 0.75}}
    assert ci["fspo"]["0"][0] <= 0.75 <= ci["fspo"]["0"][1]


@pytest.mark.parametrize("key", ["rat_episodes", "win_rate_users"])
def test_more_of_a_part_than_there_are_episodes_is_refused(key):
  with pytest.raises(ValueError, match=rf"evaluation\.{key}={EPISODES + 1} .*cannot be more"):
    dataclasses.replace(SETTINGS, **{key: EPISODES + 1})


@pytest.mark.parametrize(("descriptions", "temperature"), [(0, 1.0), (2, 0.0)])
def test_several_descriptions_have_to_differ(descriptions, temperature):
  with pytest.raises(
    ValueError, match=rf"evaluation\.descriptions={descriptions} and .*{temperature}"
  ):
    dataclasses.replace(SETTINGS, descriptions=descriptions, description_temperature=temperature)


@pytest.mark.parametrize("changes", [{"methods": ("base", "fspo_gold")}, {"rat_episodes": 0}])
def test_several_descriptions_that_nobody_writes_are_refused(changes):
  several = {"descriptions": 2, "description_temperature": 1.0}
  dataclasses.replace(SETTINGS, **several)
  with pytest.raises(ValueError, match=r"evaluation\.descriptions=2: found .* expected 'fspo_rat'"):
    dataclasses.replace(SETTINGS, **several, **changes)


@pytest.mark.parametrize(("description", "described"), [("", True), (None, False)])
def test_an_empty_description_is_one(description, described):
  source = WorldEpisodes(tiny.world(), "unseen", SHOTS, 1, seed=3)
  episodes = [source(i) for i in range(EPISODES)]
  episodes[2] = dataclasses.replace(episodes[2], description=description)
  found = evaluate.SplitEvaluation("unseen", episodes.__getitem__, None, SETTINGS, seed=3)
  assert ("fspo_gold" in found.contenders) == described


@pytest.mark.parametrize("methods", [("fspo", "base"), ("base", "fsop"), ("base", "fspo", "fspo")])
def test_methods_are_known_and_the_base_comes_first(methods):
  with pytest.raises(ValueError, match="expected distinct ones of .*'base' first"):
    dataclasses.replace(SETTINGS, methods=methods)
