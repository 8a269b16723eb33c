# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A study for each test, and browsers of its participants."""

import functools

import pytest

from fspo_jax.study import security
from tests.study import small


@functools.cache
def _password():
  return security.hash_password(small.PASSWORD)


@pytest.fixture
def study(tmp_path):
  return small.study(tmp_path)


@pytest.fixture
def browser(study):
  """Of a participant who has an invitation."""
  with small.served(study) as client:
    yield small.Browser(client(), study)


@pytest.fixture
def researcher(study):
  """A browser that has given the password."""
  study.store.set_meta("password", _password())
  with small.served(study) as client:
    found = small.Browser(client(), study)
    page = found.get("/researcher")
    found.post("/researcher/login", page, password=small.PASSWORD)
    yield found
