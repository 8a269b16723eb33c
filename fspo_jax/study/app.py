# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The web app of a study: its routes, its guards, and what runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
import contextlib
import logging
import os
import pathlib
import subprocess
import sys
import time

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fspo_jax.study.dashboard import Dashboard
from fspo_jax.study.guard import Guard
from fspo_jax.study.opening import Study
from fspo_jax.study.participants import Participants
from fspo_jax.study.web import Site

_LOG = logging.getLogger(__name__)
_STATIC = pathlib.Path(__file__).with_name("static")
_HOUR = 3600.0
_RESTART_SECONDS = 5.0  # after the worker has died


class Worker:
  """The process of the models, started again whenever it dies."""

  def __init__(self, folder: pathlib.Path) -> None:
    """Starts nothing yet; see `personalizing`."""
    module = "fspo_jax.study.personalizing"
    self._command = [sys.executable, "-m", module, str(folder), f"--parent={os.getpid()}"]
    self._process: asyncio.subprocess.Process | None = None

  def state(self) -> str:
    """For the dashboard."""
    process = self._process
    return "running" if process is not None and process.returncode is None else "not running"

  async def run(self) -> None:
    """Keeps it running until it is cancelled."""
    try:
      while True:
        self._process = await asyncio.create_subprocess_exec(
          *self._command, stdin=subprocess.DEVNULL
        )
        status = await self._process.wait()
        _LOG.error("the worker ended with status %d; starting it again", status)
        await asyncio.sleep(_RESTART_SECONDS)
    finally:
      if self._process is not None and self._process.returncode is None:
        self._process.terminate()
        await self._process.wait()


def make_app(study: Study, *, work: bool = True) -> Guard:
  """The app of a study.

  Args:
    study: the open study.
    work: whether it keeps a worker running; without, somebody else has to.
  """
  worker = Worker(study.path)
  site = Site(study.flow, worker=worker.state if work else lambda: "somewhere else")

  async def purge() -> None:
    while True:
      await asyncio.sleep(_HOUR)
      await run_in_threadpool(study.store.purge, time.time())

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    del app
    beside = [asyncio.create_task(purge())]
    if work:
      beside.append(asyncio.create_task(worker.run()))
    try:
      yield
    finally:
      for task in beside:
        task.cancel()
      await asyncio.gather(*beside, return_exceptions=True)
      study.store.close()

  async def error(request: Request, exception: Exception) -> Response:
    return site.error(request, exception)

  async def health(request: Request) -> Response:
    del request
    return PlainTextResponse("ok\n")

  app = Starlette(
    routes=[
      Mount("/static", StaticFiles(directory=_STATIC), name="static"),
      Route("/health", health),
      *Dashboard(site).routes(),
      *Participants(site).routes(),
    ],
    middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[study.settings.server.hostname])],
    exception_handlers={HTTPException: error, Exception: error},
    lifespan=lifespan,
  )
  limits, server = study.settings.limits, study.settings.server
  return Guard(app, body_bytes=limits.body_bytes, secure=server.secure)
