# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Secrets, what a form has to bring along, and rate limits."""

from __future__ import annotations

import base64
import collections
from collections.abc import Callable
import hashlib
import hmac
import secrets
import threading
import time

MIN_PASSWORD = 12  # characters
_SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26, "dklen": 32}
_REMEMBERED = 10_000  # addresses or participants of a rate limit


def new_token() -> str:
  """A secret of 192 random bits, for a link or a cookie."""
  return secrets.token_urlsafe(24)


def token_hash(token: str) -> bytes:
  """What is kept of a token. It cannot be guessed, so there is nothing to stretch."""
  return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def hash_password(password: str) -> str:
  """What is kept of a password: scrypt with a salt of its own; ValueError if it is too short."""
  if len(password) < MIN_PASSWORD:
    raise ValueError(f"password: found {len(password)} characters, expected {MIN_PASSWORD} or more")
  salt = secrets.token_bytes(16)
  digest = hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
  return "$".join(("scrypt", *(base64.b64encode(x).decode() for x in (salt, digest))))


def check_password(password: str, kept: str) -> bool:
  """Whether a password is the one that was kept, in time that does not tell how close it is."""
  _, salt, digest = kept.split("$")
  found = hashlib.scrypt(
    password.encode("utf-8", "surrogatepass"), salt=base64.b64decode(salt), **_SCRYPT
  )
  return hmac.compare_digest(found, base64.b64decode(digest))


def form_token(key: bytes, session: bytes, page: str, now: float) -> str:
  """What a form brings along: that this server wrote it, for whom, for which page, and when.

  It protects against forged requests, and says how long an answer took without a write when
  the page is read.
  """
  shown = str(int(now * 1000))
  return f"{shown}.{_sign(key, session, page, shown)}"


def read_form_token(key: bytes, session: bytes, page: str, token: str) -> float | None:
  """When a form was shown, in seconds since 1970; None if it is not one of ours."""
  shown, _, signature = token.partition(".")
  genuine = hmac.compare_digest(
    signature.encode("utf-8", "surrogatepass"), _sign(key, session, page, shown).encode()
  )
  return int(shown) / 1000 if genuine else None


def _sign(key: bytes, session: bytes, page: str, shown: str) -> str:
  text = b"\0".join(x.encode("utf-8", "surrogatepass") for x in (page, shown))
  return hmac.new(key, session + text, hashlib.sha256).hexdigest()


class RateLimit:
  """So many requests a minute of each name, and as many at once: token buckets in memory."""

  def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
    self._most, self._clock = float(per_minute), clock
    self._buckets: collections.OrderedDict[object, tuple[float, float]] = collections.OrderedDict()
    self._lock = threading.Lock()

  def allows(self, name: object) -> bool:
    """Takes one request of a name, if there is one left."""
    with self._lock:
      left = self._left(name)
      self._buckets[name] = (left - 1 if left >= 1 else left, self._clock())
      while len(self._buckets) > _REMEMBERED:
        self._buckets.popitem(last=False)
    return left >= 1

  def exhausted(self, name: object) -> bool:
    """Whether a name has no request left; takes none."""
    with self._lock:
      if name not in self._buckets:
        return False
      left = self._left(name)
      self._buckets[name] = (left, self._clock())
    return left < 1

  def _left(self, name: object) -> float:
    left, since = self._buckets.pop(name, (self._most, self._clock()))
    return min(self._most, left + (self._clock() - since) * self._most / 60)
