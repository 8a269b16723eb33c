# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of jsonl.py."""

import contextlib
import gzip
import io
import json
import os

import hypothesis
from hypothesis import strategies as st
import pytest

from fspo_jax import jsonl
from fspo_jax.preferences import Preference, PreferenceError, User

_LINE = {"user_id": "ann", "prompt": "q", "chosen": "yes", "rejected": "no"}


def _write(path, *records):
  """Writes records as lines: bytes as they are, anything else as JSON."""
  lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
  path.write_bytes(b"\n".join(lines) + b"\n")
  return path


def _users(count, prompts):
  """Users who all have a preference on every prompt."""
  return [
    User(f"u{i}", tuple(Preference(f"q{p}", f"yes {i}", "no") for p in range(prompts)))
    for i in range(count)
  ]


class TestReadJsonl:
  def test_users_in_order_of_first_appearance(self, tmp_path):
    path = _write(
      tmp_path / "a.jsonl",
      _LINE | {"user_id": "zoe", "description": "kind"},
      _LINE,
      _LINE | {"user_id": "zoe", "description": "kind", "prompt": "q2"},
    )
    assert jsonl.read_jsonl(path) == [
      User("zoe", (Preference("q", "yes", "no"), Preference("q2", "yes", "no")), "kind"),
      User("ann", (Preference("q", "yes", "no"),)),
    ]

  def test_gzip_is_told_by_its_bytes(self, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(json.dumps(_LINE).encode()))
    assert jsonl.read_jsonl(path) == [User("ann", (Preference("q", "yes", "no"),))]

  @pytest.mark.parametrize(
    ("line", "found", "expected"),
    [
      (b'{"user_id": ', "broken JSON", "one JSON object"),
      (b"", "an empty line", "one JSON object"),
      (b'["ann"]', 'a list (["ann"])', "one JSON object"),
      (b'{"user_id": "\xff"}', "a byte that is not UTF-8 at column 14", "UTF-8 text"),
      (b'{"user_id": "a", "user_id": "b"}', 'broken JSON (the key "user_id" 2', "one JSON object"),
      (b"[" * 100_000, "broken JSON", "one JSON object"),
      ({"user_id": "ann", "prompt": "q"}, "no chosen, rejected", "all of user_id, prompt, chosen"),
      (
        _LINE | {"score": 1},
        'unknown keys "score"',
        "only user_id, prompt, chosen, rejected, desc",
      ),
      (_LINE | {"user_id": 7}, "user_id that is a number (7)", "a string"),
      (_LINE | {"chosen": None}, "chosen that is null", "a string"),
      (_LINE | {"chosen": True}, "chosen that is a boolean (true)", "a string"),
      (_LINE | {"prompt": {}}, "prompt that is an object", "a string"),
      (_LINE | {"description": None}, "description that is null", "or the key left out"),
      (_LINE | {"prompt": ""}, "prompt that is empty", "text"),
      (_LINE | {"rejected": " \n"}, "rejected that is empty", "text"),
      (_LINE | {"chosen": "\ud800"}, "chosen with half a surrogate pair", "valid Unicode"),
      (_LINE | {"chosen": "no "}, 'chosen equal to rejected ("no ")', "two responses"),
      (
        _LINE | {"user_id": "bob", "description": "rude", "prompt": "q2"},
        'description "rude" of user "bob"',
        '"kind" as on line 1',
      ),
      (
        _LINE | {"user_id": "bob", "prompt": "q2"},
        'description null of user "bob"',
        '"kind" as on line 1',
      ),
      (
        _LINE | {"user_id": "bob", "description": "kind"},
        'a preference of user "bob" repeated from line 1',
        "it once",
      ),
    ],
  )
  def test_malformed_line_is_named(self, tmp_path, line, found, expected):
    fine = _LINE | {"user_id": "bob", "description": "kind"}
    path = _write(tmp_path / "a.jsonl", fine, line, _LINE | {"user_id": "cy"})
    with pytest.raises(PreferenceError) as error:
      jsonl.read_jsonl(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    assert message.startswith(f"{path}:2: found {found}"), message
    assert expected in message.split("expected ", maxsplit=1)[1], message

  def test_empty_file(self, tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(PreferenceError, match=r"a\.jsonl: found no line, expected one JSON object"):
      jsonl.read_jsonl(tmp_path / "a.jsonl")

  def test_cut_gzip(self, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(_LINE).encode() * 100)[:-9])
    with pytest.raises(PreferenceError, match=r"a\.jsonl\.gz:\d+: found a broken gzip stream"):
      jsonl.read_jsonl(path)

  def test_twenty_problems_are_shown_and_the_rest_counted(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", *[_LINE | {"prompt": ""}] * 33)
    with pytest.raises(PreferenceError) as error:
      jsonl.read_jsonl(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[19].startswith(f"{path}:20: ")
    assert lines[20] == f"... and 13 more problems in {path}"

  def test_several_problems_of_a_line(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", {"user_id": 1, "prompt": "", "extra": 0})
    with pytest.raises(PreferenceError) as error:
      jsonl.read_jsonl(path)
    assert len(str(error.value).splitlines()) == 4

  def test_opposite_labels_are_allowed(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", _LINE, _LINE | {"chosen": "no", "rejected": "yes"})
    assert len(jsonl.read_jsonl(path)[0].preferences) == 2

  @pytest.mark.parametrize("count", [1, 2])
  def test_a_byte_order_mark_is_ignored(self, tmp_path, count):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(_LINE | {"prompt": f"q{i}"}).encode("utf-8-sig") for i in range(count)]
    path.write_bytes(b"\n".join(lines))  # As of files that were joined.
    assert len(jsonl.read_jsonl(path)[0].preferences) == count

  @pytest.mark.parametrize(
    ("encoding", "found"),
    [
      ("latin-1", r'a byte that is not UTF-8 at column 49 \(0xE9, "\\u00e9" in Latin-1\)'),
      ("utf-16", r"UTF-16 or UTF-32 text \(by its byte order mark\)"),
      ("utf-16-le", r"a zero byte at column 2 \(UTF-16, or no text at all\)"),
      ("utf-16-be", r"a zero byte at column 1 \(UTF-16"),
      ("utf-32", r"UTF-16 or UTF-32 text"),
    ],
  )
  def test_another_encoding_is_named(self, tmp_path, encoding, found):
    path = tmp_path / "a.jsonl"
    record = _LINE | {"chosen": "caf\u00e9"}
    path.write_bytes(json.dumps(record, ensure_ascii=False).encode(encoding))
    with pytest.raises(PreferenceError, match=rf"a\.jsonl:1: found {found}.*, expected UTF-8 text"):
      jsonl.read_jsonl(path)

  def test_a_user_with_too_few_prompts_is_named_by_the_first_line(self, tmp_path):
    again = _LINE | {"chosen": "no", "rejected": "yes"}
    path = _write(tmp_path / "a.jsonl", _LINE | {"user_id": "zoe"}, _LINE, again)
    assert len(jsonl.read_jsonl(path)) == 2
    with pytest.raises(PreferenceError) as error:
      jsonl.read_jsonl(path, min_prompts=2)
    expected = "2 or more: a query's prompt is never among its shots"
    assert str(error.value).splitlines() == [
      f'{path}:{line}: found user "{user}" with 1 prompt in the file, expected {expected}'
      for line, user in ((1, "zoe"), (2, "ann"))
    ]


_BAD = {
  "lines: broken JSON": b'{"user_id": "ann", "prompt": "q',
  "lines: empty": b" ",
  "lines: not an object": b"[]",
  "lines: not UTF-8 text": b'{"user_id": "ann", "prompt": "caf\xe9"}',
  "lines: a key missing": {"user_id": "ann", "prompt": "q", "chosen": "yes"},
  "lines: an unknown key": _LINE | {"score": 1},
  "lines: a value that is not usable text": _LINE | {"chosen": 1, "rejected": ""},
  "lines: chosen equal to rejected": _LINE | {"chosen": "no"},
  "lines: a preference repeated": _LINE,
  "lines: another description than the user's": _LINE | {"prompt": "q3", "description": "rude"},
}
_EVERY_DEFECT = (_LINE, _LINE | {"prompt": "q2"}, *_BAD.values(), _LINE | {"user_id": "one"})


class TestReadJsonlLeniently:
  def test_a_fine_file(self, tmp_path):
    users = _users(3, 3)
    jsonl.write_jsonl(tmp_path / "a.jsonl", users)
    assert jsonl.read_jsonl_leniently(tmp_path / "a.jsonl") == jsonl.Read(users, {}, "")

  def test_every_defect_at_once(self, tmp_path):
    path = _write(tmp_path / "a.jsonl", *_EVERY_DEFECT)
    with pytest.raises(PreferenceError) as error:
      jsonl.read_jsonl(path, min_prompts=2)
    found = jsonl.read_jsonl_leniently(path, min_prompts=2)
    assert found.report == str(error.value)
    for line in range(3, len(_EVERY_DEFECT) + 1):
      assert f"{path}:{line}: found " in found.report
    assert found.users == [
      User("ann", (Preference("q", "yes", "no"), Preference("q2", "yes", "no")))
    ]
    few = {f"{what} fewer than 2 prompts": 1 for what in ("users:", "preferences: of users with")}
    assert found.set_aside == dict.fromkeys(_BAD, 1) | few

  def test_the_most_common_description_is_good(self, tmp_path):
    kinds = ["rude", "kind", "kind", None]
    records = [
      _LINE | {"prompt": f"q{i}"} | ({"description": kind} if kind else {})
      for i, kind in enumerate(kinds)
    ]
    path = _write(tmp_path / "a.jsonl", *records)
    found = jsonl.read_jsonl_leniently(path)
    assert found.users[0].description == "kind"
    assert [p.prompt for p in found.users[0].preferences] == ["q1", "q2"]
    assert found.set_aside == {"lines: another description than the user's": 2}
    assert f'{path}:4: found description null of user "ann", expected "kind" as on line 2' in (
      found.report
    )

  def test_a_cut_gzip_keeps_what_came_before(self, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    jsonl.write_jsonl(path, _users(20, 20))
    path.write_bytes(path.read_bytes()[:-9])
    found = jsonl.read_jsonl_leniently(path)
    assert found.users[0] == _users(1, 20)[0]
    assert found.set_aside == {"files: a broken gzip stream": 1}
    assert "a whole gzip file" in found.report

  @pytest.mark.parametrize("records", [(), (b"{",), (_LINE,)])
  def test_nothing_good_is_refused(self, tmp_path, records):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"")
    if records:
      _write(path, *records)
    with pytest.raises(PreferenceError, match=r"a\.jsonl"):
      jsonl.read_jsonl_leniently(path, min_prompts=2)


_FUZZED = [
  User(name, tuple(Preference(f"q{p} \u00e9", f"yes {p}", "no \U0001f600") for p in range(9)), tale)
  for name, tale in (("ann", "likes caf\u00e9s"), ("bob", None))
]
# Of what JSON is made of, and bytes that are no text.
_BYTES = st.sampled_from(b'\n\r\t "\\{}[]:,ab9q\0\x80\xc3\xff') | st.integers(0, 255)
_DAMAGE = st.lists(st.tuples(st.integers(0, 10**6), _BYTES), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("damage")
  for name in ("a.jsonl", "a.jsonl.gz"):
    jsonl.write_jsonl(folder / name, _FUZZED)
  return folder


class TestDamage:
  @hypothesis.given(damage=_DAMAGE)
  @hypothesis.settings(max_examples=400)
  def test_no_good_line_is_lost(self, folder, damage):
    before = (folder / "a.jsonl").read_bytes()
    after = bytearray(before)
    for at, byte in damage:
      after[at % len(after)] = byte
    path = folder / "damaged.jsonl"
    path.write_bytes(after)
    # A line stays good if neither it nor the line breaks around it were changed.
    whole = b"\n" + before
    good, start = [], 0
    for line in before.splitlines(keepends=True):
      if whole[start : start + len(line) + 1] == (b"\n" + after)[start : start + len(line) + 1]:
        good.append(json.loads(line))
      start += len(line)
    found = jsonl.read_jsonl_leniently(path)
    kept = {(u.user_id, u.description, p) for u in found.users for p in u.preferences}
    for record in good:
      preference = Preference(record["prompt"], record["chosen"], record["rejected"])
      assert (record["user_id"], record.get("description"), preference) in kept
    # Every line is either kept or counted.
    assert len(kept) + sum(found.set_aside.values()) == len(list(io.BytesIO(after)))
    try:
      assert jsonl.read_jsonl(path) == found.users
    except PreferenceError as error:
      assert str(error) == found.report

  @hypothesis.given(damage=_DAMAGE, cut=st.integers(0, 10**6))
  def test_a_damaged_gzip_file_is_read_or_refused(self, folder, damage, cut):
    after = bytearray((folder / "a.jsonl.gz").read_bytes())
    for at, byte in damage:
      after[at % len(after)] = byte
    path = folder / "damaged.jsonl.gz"
    path.write_bytes(after[: cut % len(after)])
    with contextlib.suppress(PreferenceError):
      jsonl.read_jsonl_leniently(path)
    with contextlib.suppress(PreferenceError):
      assert jsonl.read_jsonl(path) == _FUZZED

  @hypothesis.given(st.binary(max_size=200))
  def test_any_bytes_are_read_or_refused(self, folder, content):
    (folder / "any").write_bytes(content)
    for read in (jsonl.read_jsonl, jsonl.read_jsonl_leniently):
      with pytest.raises(PreferenceError, match="any"):
        read(folder / "any")


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
_PREFERENCES = st.builds(Preference, _TEXT, _TEXT, _TEXT).filter(
  lambda p: p.chosen.strip() != p.rejected.strip()
)
_USERS = st.lists(
  st.builds(
    User,
    _TEXT,
    st.lists(_PREFERENCES, min_size=1, max_size=4, unique=True).map(tuple),
    st.none() | _TEXT,
  ),
  min_size=1,
  max_size=4,
  unique_by=lambda user: user.user_id,
)


class TestWriteJsonl:
  @hypothesis.given(users=_USERS, name=st.sampled_from(["a.jsonl", "a.jsonl.gz"]))
  @hypothesis.settings(max_examples=40, deadline=None)
  def test_round_trip(self, tmp_path_factory, users, name):
    path = tmp_path_factory.mktemp("round") / name
    jsonl.write_jsonl(path, users)
    assert jsonl.read_jsonl(path) == users

  def test_same_users_same_bytes(self, tmp_path):
    for name in ("a.gz", "b.gz"):
      jsonl.write_jsonl(tmp_path / name, _users(3, 3))
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()

  @pytest.mark.parametrize(
    ("users", "found"),
    [
      ([], "no line"),
      ([User("ann", ())], 'user "ann" without preferences'),
      (_users(1, 2) * 2, 'several users "u0"'),
      ([User("ann", (Preference("q", "same", "same"),))], "chosen equal to rejected"),
      ([User("ann", (Preference("q", "yes", "no"),) * 2)], "repeated from line 1"),
      ([User("ann", (Preference("q", "\ud800", "no"),))], "not UTF-8"),
      ([User("ann", (Preference("q", 3, "no"),))], "chosen that is a number"),
    ],
  )
  def test_what_cannot_be_read_is_not_written(self, tmp_path, users, found):
    path = tmp_path / "a.jsonl"
    path.write_text("before")
    with pytest.raises(PreferenceError, match=found):
      jsonl.write_jsonl(path, users)
    assert path.read_text() == "before"

  def test_a_failure_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("before")

    def fail(*_):
      raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
      jsonl.write_jsonl(path, _users(1, 2))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.jsonl"]
