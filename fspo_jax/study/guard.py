# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Around all pages: the limit of a request's body, and the headers of every response."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
  # Nothing but this server's own files; no script or style in a page, no frame, no other target.
  "Content-Security-Policy": (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
  ),
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  # Other sites are told nothing; with 'no-referrer' a form's own Origin would be 'null'.
  "Referrer-Policy": "same-origin",
  "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
  """The outermost layer: body limit, and the headers of every response, errors included."""

  def __init__(self, app: ASGIApp, *, body_bytes: int, secure: bool) -> None:
    self._app, self._most = app, body_bytes
    self._headers = dict(HEADERS)
    if secure:
      self._headers["Strict-Transport-Security"] = "max-age=31536000"

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI app."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return

    async def send_guarded(message: Message) -> None:
      if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers.update(self._headers)
        # What a participant wrote must not be read from a shared computer's cache, and going back
        # must show what holds now.
        cached = scope["path"].startswith("/static/")
        headers["Cache-Control"] = "max-age=3600" if cached else "no-store"
      await send(message)

    if self._too_long(scope):
      await _TOO_LONG(scope, receive, send_guarded)
      return
    received = 0

    async def receive_counted() -> Message:
      nonlocal received
      message = await receive()
      received += len(message.get("body", b""))
      if received > self._most:  # without a length, or with a false one
        raise HTTPException(413)
      return message

    await self._app(scope, receive_counted, send_guarded)

  def _too_long(self, scope: Scope) -> bool:
    length = Headers(scope=scope).get("content-length", "0")
    return not length.isdecimal() or len(length) > 18 or int(length) > self._most


_TOO_LONG = PlainTextResponse(
  "The request is too long.\n", status_code=413, headers={"Connection": "close"}
)
