# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of datasets/prism."""

import json

import pytest

from fspo_jax.datasets import source_set_builder, user_sets
from fspo_jax.datasets.prism import prism_dataset_builder as prism
from fspo_jax.preferences import Preference, PreferenceError, User


def _utterances(user, conversation, turn, prompt, *scored):
  """The lines of one turn; the first of (response, score) is the one to go on with."""
  return [
    {
      "utterance_id": f"ut-{conversation}-{turn}-{i}",
      "interaction_id": f"int-{conversation}-{turn}",
      "conversation_id": conversation,
      "user_id": user,
      "turn": turn,
      "within_turn_id": i,
      "conversation_type": "unguided",
      "user_prompt": prompt,
      "model_response": response,
      "model_name": "gpt-4",
      "model_provider": "openai",
      "score": score,
      "if_chosen": i == 0,
      "included_in_balanced_subset": True,
    }
    for i, (response, score) in enumerate(scored)
  ]


_SURVEY = [
  {
    "user_id": "u1",
    "self_description": "I value honesty.",
    "system_string": "Be brief.",
    "age": "x",
  },
  {"user_id": "u2", "self_description": "", "system_string": None},
]


def _write(folder, utterances, survey=_SURVEY):
  for name, records in (("utterances.jsonl", utterances), ("survey.jsonl", survey)):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
  return folder


def _two_turns(user="u1"):
  return [
    *_utterances(user, f"c1{user}", 0, "hi ", ("A", 90), ("B", 50), ("C", 85), ("D", 20)),
    *_utterances(user, f"c1{user}", 1, "and?", ("E", 60), ("F", 30)),
    *_utterances(user, f"c2{user}", 0, "what", ("G", 100), ("H", 1)),
  ]


class TestRead:
  def test_best_and_worst_of_the_opening_turns(self, tmp_path):
    users, set_aside = prism.read(_write(tmp_path, _two_turns() + _two_turns("u2")))
    pairs = (Preference("hi", "A", "D"), Preference("what", "G", "H"))
    assert users == [
      User("u1", pairs, "I value honesty.\n\nBe brief."),
      User("u2", pairs),
    ]
    assert set_aside == {"turns: after the opening one": 2}

  def test_all_pairs_with_the_margin(self, tmp_path):
    users, set_aside = prism.read(_write(tmp_path, _two_turns()), pairs="all")
    found = [(p.chosen, p.rejected) for p in users[0].preferences if p.prompt == "hi"]
    assert found == [("A", "B"), ("A", "D"), ("C", "B"), ("C", "D"), ("B", "D")]
    assert set_aside["pairs: scores less than 10 apart"] == 1

  def test_margin_is_inclusive(self, tmp_path):
    folder = _write(tmp_path, _two_turns())
    assert len(prism.read(folder, margin=70)[0][0].preferences) == 2
    users, set_aside = prism.read(folder, margin=70.5)
    assert users == []
    assert set_aside["pairs: scores less than 70.5 apart"] == 1
    assert set_aside["users: fewer than two prompts"] == 1
    assert set_aside["preferences: of users with fewer than two prompts"] == 1

  def test_the_conversation_so_far(self, tmp_path):
    users, set_aside = prism.read(_write(tmp_path, reversed(_two_turns())), turns="all")
    assert {p.prompt for p in users[0].preferences} == {
      "hi",
      "what",
      "User: hi\n\nAssistant: A\n\nUser: and?",
    }
    assert set_aside == {}
    # Without the first turn, nobody knows what the second one is about.
    users, set_aside = prism.read(
      _write(tmp_path, _two_turns()[4:] + _two_turns("u2")), turns="all"
    )
    assert set_aside["turns: without all that was said before"] == 1

  def test_what_makes_no_pair_is_counted(self, tmp_path):
    extra = [
      *_utterances("u1", "c3", 0, "tie", ("A", 50), ("B", 50)),
      *_utterances("u1", "c4", 0, "near", ("A", 55), ("B", 50)),
      *_utterances("u1", "c5", 0, "empty", ("A", 90), ("EMPTY STRING", 2), ("", 1)),
      *_utterances("u1", "c6", 0, "equal", ("A", 90), ("A ", 1)),
      *_utterances("u1", "c7", 0, "what", ("G", 80), ("H", 3)),
    ]
    users, set_aside = prism.read(_write(tmp_path, _two_turns() + extra))
    assert len(users[0].preferences) == 2
    assert set_aside == {
      "turns: after the opening one": 1,
      "pairs: a tie": 1,
      "pairs: scores less than 10 apart": 1,
      "responses: empty": 2,
      "turns: fewer than two responses": 1,
      "pairs: equal responses": 1,
      "pairs: repeated": 1,
    }

  @pytest.mark.parametrize(
    ("changes", "message"),
    [
      ({"score": 0}, r"score that is a number \(0\), expected a number from 1 to 100"),
      ({"score": None}, "score that is null, expected a number from 1 to 100"),
      ({"score": float("nan")}, r"score that is a number \(NaN\)"),
      ({"score": True}, "score that is a boolean"),
      ({"turn": -1}, r"turn that is a number \(-1\), expected the number of the turn, from 0"),
      ({"if_chosen": 1}, "if_chosen that is a number"),
      ({"user_id": ""}, "user_id that is empty, expected text"),
      ({"model_response": 3}, "model_response that is a number"),
      ({"user_id": "u2"}, 'user_id "u2" in conversation "c1u1", expected "u1" as on line 1'),
      ({"user_prompt": "ho"}, 'user_prompt "ho" in a turn with another one, expected "hi" as on'),
    ],
  )
  def test_a_bad_field_is_named(self, tmp_path, changes, message):
    records = _two_turns()
    records[2] |= changes
    with pytest.raises(PreferenceError, match=rf"utterances\.jsonl:3: found {message}"):
      prism.read(_write(tmp_path, records))

  def test_a_missing_field_is_named(self, tmp_path):
    records = _two_turns()
    del records[1]["score"], records[1]["turn"]
    records[4] = "{"
    with pytest.raises(PreferenceError) as error:
      prism.read(_write(tmp_path, records))
    first, second = str(error.value).splitlines()
    assert "utterances.jsonl:2: found no turn, score, expected all of user_id" in first
    assert "utterances.jsonl:5: found broken JSON" in second

  @pytest.mark.parametrize(
    ("survey", "message"),
    [
      ([{"user_id": None}], "1: found user_id that is null"),
      ([_SURVEY[0], _SURVEY[0]], '2: found user_id "u1" again, expected it once'),
      ([{"user_id": "u1", "system_string": 3}], "1: found system_string that is a number"),
    ],
  )
  def test_a_bad_survey_is_named(self, tmp_path, survey, message):
    with pytest.raises(PreferenceError, match=rf"survey\.jsonl:{message}"):
      prism.read(_write(tmp_path, _two_turns(), survey))

  def test_an_absent_file_says_where_to_get_it(self, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no utterances\.jsonl, survey\.jsonl; .*CC"):
      prism.read(tmp_path)

  @pytest.mark.parametrize("options", [{"margin": 0}, {"pairs": "best"}, {"turns": 1}])
  def test_arguments_out_of_range(self, tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
      prism.read(_write(tmp_path, _two_turns()), **options)


class TestBuilder:
  def test_users_come_back(self, tmp_path):
    records = [
      record
      for u in range(10)
      for q in range(10 * u, 10 * u + 12)  # The first two and the last two of a user's are shared.
      for record in _utterances(f"u{u}", f"c{u}-{q}", 0, f"q{q}", ("A", 60 + u), ("B", 50))
    ]
    folder = _write(tmp_path, records)
    path = source_set_builder.build(
      prism.Builder, folder, tmp_path / "out", unseen_users=0.3, margin=12
    )
    splits = user_sets.load(path)
    users = [*splits.train, *splits.evaluation["unseen"]]
    assert {user.user_id for user in users} == {f"u{i}" for i in range(2, 10)}
    assert len(splits.evaluation["unseen"]) == 2
    assert splits.set_aside["pairs: scores less than 12 apart"] == 24
    # Everything that an unseen user has may be asked, and nobody is trained on it.
    unseen = {p.prompt for user in splits.evaluation["unseen"] for p in user.preferences}
    assert splits.query_prompts == unseen
    trained = {p.prompt for user in splits.train for p in user.preferences}
    assert trained and trained.isdisjoint(unseen)
    by_id = {user.user_id: user for user in users}
    assert by_id["u2"].description is None
    with pytest.raises(PreferenceError, match="found a set with margin=12, expected margin=10"):
      source_set_builder.build(prism.Builder, folder, tmp_path / "out", unseen_users=0.3)
