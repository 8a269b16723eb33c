# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all pages share: who asks, whether they may, and how a page is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
import dataclasses
import ipaddress
import pathlib
import time
from typing import Any, Literal, NoReturn
import urllib.parse

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fspo_jax.study import security
from fspo_jax.study.flow import Flow
from fspo_jax.study.settings import Settings
from fspo_jax.study.store import Session, Store

Who = Literal["anyone", "participant", "researcher"]

_FIELDS = 20  # of a form
_WRITERS = 16
_TEMPLATES = pathlib.Path(__file__).with_name("templates")
_NOT_SIGNED_IN = b"nobody"


@dataclasses.dataclass(frozen=True)
class Visit:
  """A request, after all checks.

  Attributes:
    method: GET or POST.
    path: what was asked for.
    parameters: the parts of the path.
    form: of a POST, whose token was good.
    session: whose browser it is; None only where anyone may come.
    address: where it comes from, as rate limits count.
    now: the time.
    shown: of a POST, when its form was asked for.
  """

  method: str
  path: str
  parameters: Mapping[str, Any]
  form: Mapping[str, str]
  session: Session | None
  address: str
  now: float
  shown: float

  @property
  def participant(self) -> int:
    """Whose page it is."""
    assert self.session is not None and self.session.participant is not None
    return self.session.participant


Handler = Callable[[Visit], Response]


class Site:
  """The parts of a running study, and the way from a request to a handler."""

  def __init__(self, flow: Flow, *, worker: Callable[[], str]) -> None:
    """Takes the parts.

    Args:
      flow: the rules.
      worker: says how the model is, for the dashboard.
    """
    self.flow, self.worker = flow, worker
    limits = flow.settings.limits
    self._requests = security.RateLimit(limits.requests_per_minute)
    self._strangers = security.RateLimit(limits.strangers_per_minute)
    # Of the pool's threads: the others read, however long those who write wait for the disk.
    self._writers = asyncio.Semaphore(_WRITERS)
    self._logins = security.RateLimit(limits.logins_per_minute)
    self._all_logins = security.RateLimit(10 * limits.logins_per_minute)
    self._pages = jinja2.Environment(
      loader=jinja2.FileSystemLoader(_TEMPLATES),
      autoescape=True,
      auto_reload=False,
      undefined=jinja2.StrictUndefined,
      trim_blocks=True,
      lstrip_blocks=True,
    )
    self._pages.globals |= {"study": flow.settings, "when": _when}

  @property
  def store(self) -> Store:
    """Where everything is kept."""
    return self.flow.store

  @property
  def settings(self) -> Settings:
    """Of the study."""
    return self.flow.settings

  def endpoint(self, handler: Handler, who: Who) -> Callable[[Request], Awaitable[Response]]:
    """What Starlette calls: reads the form, then works in a thread, as SQLite waits for disks."""

    async def serve(request: Request) -> Response:
      if request.method != "POST":
        return await run_in_threadpool(self._serve, handler, who, request, b"")
      body = await request.body()
      async with self._writers:
        return await run_in_threadpool(self._serve, handler, who, request, body)

    return serve

  def _serve(self, handler: Handler, who: Who, request: Request, body: bytes) -> Response:
    now = time.time()
    address = _network(request.client.host if request.client else "")
    session = self._session(request, "researcher" if who == "researcher" else "participant", now)
    if session is None and who == "participant":
      self.refuse(address, 401)
    if session is None and who == "researcher":
      return redirect("/researcher/login")
    if session is not None:
      self.check_participant(session.participant)
    form, shown = {}, now
    if request.method == "POST":
      form, shown = self._form(request, session, body, now)
    visit = Visit(
      request.method,
      request.url.path,
      request.path_params,
      form,
      session,
      address,
      now,
      shown,
    )
    return handler(visit)

  def refuse(self, address: str, status: int) -> NoReturn:
    """Refuses what may be a guess, and counts it: HTTPException."""
    raise HTTPException(status if self._strangers.allows(address) else 429)

  def check_participant(self, number: int | None) -> None:
    """Counts a request of a participant (None: the researcher); HTTPException 429 for too many.

    However many browsers, and so sessions, they have.
    """
    if not self._requests.allows(number):
      raise HTTPException(429)

  def check_stranger(self, address: str) -> None:
    """HTTPException 429 for an address that has been refused too often."""
    if self._strangers.exhausted(address):
      raise HTTPException(429)

  def check_login(self, address: str) -> None:
    """HTTPException 429 where passwords are tried too often, from one address or from all.

    A try costs a tenth of a second and 32 MB; participants must not wait for those who guess.
    """
    if not (self._logins.allows(address) and self._all_logins.allows("")):
      raise HTTPException(429)

  def _session(self, request: Request, kind: str, now: float) -> Session | None:
    token = request.cookies.get(self.cookie(kind))
    session = self.store.session(token, now) if token else None
    if session is None or (session.participant is None) != (kind == "researcher"):
      return None
    return session

  def _form(
    self, request: Request, session: Session | None, body: bytes, now: float
  ) -> tuple[dict[str, str], float]:
    """The fields of a form that one of our own pages has sent, and when it was shown."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    host = request.headers.get("host", "")
    if origin is not None and origin.partition("://")[2] != host:
      raise HTTPException(403, "The form was sent by another site.")
    if site not in (None, "same-origin"):
      raise HTTPException(403, "The form was sent by another site.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
      raise HTTPException(415)
    try:
      fields = urllib.parse.parse_qsl(
        body.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS, errors="replace"
      )
    except ValueError as error:
      raise HTTPException(400) from error
    form = dict(fields)
    token = form.pop("token", "")
    shown = security.read_form_token(
      self.store.key, session.token if session else _NOT_SIGNED_IN, request.url.path, token
    )
    if shown is None:
      raise HTTPException(403, "The form is not from this study, or from a visit that is over.")
    return form, min(shown, now)

  def cookie(self, kind: str) -> str:
    """The name of a cookie; with __Host- browsers take it from this very server alone."""
    return f"__Host-{kind}" if self.settings.server.secure else kind

  def set_cookie(self, response: Response, kind: str, token: str, seconds: float) -> None:
    """Gives a browser its session."""
    response.set_cookie(
      self.cookie(kind),
      token,
      max_age=int(seconds),
      secure=self.settings.server.secure,
      httponly=True,
      # A link in a mail has to arrive with it.
      samesite="lax" if kind == "participant" else "strict",
    )

  def render(self, visit: Visit, template: str, status: int = 200, **context: Any) -> Response:
    """A page; everything in it is escaped."""
    session = visit.session.token if visit.session else _NOT_SIGNED_IN

    def token(path: str) -> str:
      return security.form_token(self.store.key, session, path, visit.now)

    text = self._pages.get_template(template).render(
      token=token, path=visit.path, signed_in=visit.session is not None, **context
    )
    return HTMLResponse(text, status)

  def error(self, request: Request, error: Exception) -> Response:
    """The page of an error; it says nothing of what went on inside."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    title, advice = _ERRORS.get(status, _ERRORS[500])
    detail = error.detail if isinstance(error, HTTPException) and status == 403 else ""
    text = self._pages.get_template("error.html").render(
      title=title, advice=detail or advice, path=request.url.path, signed_in=False
    )
    headers = getattr(error, "headers", None) or {}
    if status == 429:
      headers = {**headers, "Retry-After": "30"}
    return HTMLResponse(text, status, headers)


def _network(address: str) -> str:
  """An address, as rate limits count: of IPv6 the /64, of which one host has all addresses."""
  try:
    found = ipaddress.ip_address(address)
  except ValueError:
    return address
  if found.version == 4:
    return address
  return str(ipaddress.ip_network((found, 64), strict=False))


def _when(seconds: float | None) -> str:
  return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def redirect(path: str) -> Response:
  """To a page of ours, by GET."""
  return RedirectResponse(path, 303)


_ERRORS = {
  400: ("That did not work", "The form could not be read. Please go back and try again."),
  401: ("Please use your link", "Open the link of your invitation once more to go on."),
  403: ("That was refused", "Please open the link of your invitation once more."),
  404: ("There is nothing here", "Please check the address, or open your link once more."),
  405: ("That did not work", "Please open the link of your invitation once more."),
  413: ("That is too long", "Please go back and make it shorter."),
  415: ("That did not work", "The form could not be read. Please go back and try again."),
  429: ("A moment, please", "There were too many requests. Please try again in half a minute."),
  500: ("Something went wrong", "Your answers so far are kept. Please try again in a moment."),
}
