# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Many participants at once on the real server of a study, which is killed half way.

python experiments/benchmarks/study_load.py [--participants=200] [--out=FILE]

Starts `python -m fspo_jax.study` with the base that comes with the package, whose worker answers in
the background all the while. Participants come within ten seconds, think 4 to 8 seconds about every
page, and go through the whole study. After `--kill_after` seconds the server gets SIGKILL, and is
started again. Then every answer that was acknowledged is looked for in the study's file. Prints, as
JSON, the latencies of requests, and of pages, which may take several, and ends with status 1 if any
was an error, or an answer is missing or different.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import dataclasses
import json
import logging
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import httpx2
import numpy as np

from fspo_jax.study import opening

_PARTICIPANTS = flags.DEFINE_integer("participants", 200, "Who are there at once.")
_KILL_AFTER = flags.DEFINE_float("kill_after", 45.0, "Seconds until the server is killed.")
_MINUTES = flags.DEFINE_float("minutes", 6.0, "After which nobody goes on.")
_OUT = flags.DEFINE_string("out", None, "File for the figures, besides the output.")

_SETTLE_SECONDS = 10.0
_REPO = pathlib.Path(__file__).resolve().parents[2]
_REFRESH = re.compile(r'http-equiv="refresh" content="(\d+)"')
_FIELD = re.compile(r'name="(token|revision)" value="([^"]*)"')


@dataclasses.dataclass
class Seen:
  """What all participants have seen.

  Attributes:
    seconds: of each request, by what was asked for.
    errors: answers that were not as they should be.
    refused: requests that found no server, and were sent again.
    acknowledged: the choice of (participant, phase, position), once the server has said so.
    finished: who have come to the end.
  """

  seconds: list[tuple[str, float, float]] = dataclasses.field(default_factory=list)
  errors: list[str] = dataclasses.field(default_factory=list)
  refused: int = 0
  acknowledged: dict[tuple[int, str, int], str] = dataclasses.field(default_factory=dict)
  finished: int = 0


class Participant:
  """One of them."""

  def __init__(self, seen: Seen, number: int, link: str, url: str) -> None:
    self._seen, self._number, self._link = seen, number, link
    self._random = random.Random(number)
    # Without certificates, whose loading takes longer than all else, two hundred times.
    self._client = httpx2.AsyncClient(base_url=url, timeout=30, verify=False)

  async def _request(self, method: str, path: str, **keys: Any) -> httpx2.Response:
    """A request, sent until there is a server that answers it."""
    while True:
      since = time.monotonic()
      try:
        response = await self._client.request(method, path, **keys)
      except httpx2.TransportError:
        self._seen.refused += 1
        await asyncio.sleep(0.5)
        continue
      kind = f"{method} /{path.split('/')[1]}"
      self._seen.seconds.append((kind, since, time.monotonic() - since))
      if response.status_code not in (200, 303):
        self._seen.errors.append(f"{method} {path}: {response.status_code}")
      return response

  async def _page(self, path: str, data: dict[str, str] | None = None) -> httpx2.Response:
    """What a browser shows after a link or, with data, a form: all requests that it takes."""
    since = time.monotonic()
    response = await self._request("GET" if data is None else "POST", path, data=data)
    if data is not None and response.status_code == 303 and path != "/consent":
      phase, position = path.split("/")[1:]
      self._seen.acknowledged[self._number, phase, int(position)] = data["choice"]
    while response.status_code == 303:
      response = await self._request("GET", response.headers["location"])
    self._seen.seconds.append(("pages", since, time.monotonic() - since))
    return response

  async def take_part(self, until: float) -> None:
    """Goes through the study."""
    await asyncio.sleep(self._random.uniform(0, 10))
    async with self._client:
      page = await self._page(f"/join/{self._link}")
      while time.monotonic() < until:
        path = page.url.path
        if path == "/done":
          self._seen.finished += 1
          return
        again = _REFRESH.search(page.text)
        await asyncio.sleep(int(again[1]) if again else self._random.uniform(4, 8))
        if path == "/wait":
          page = await self._page(path)
          continue
        fields = dict(_FIELD.findall(page.text))
        choice = self._random.choice(("first", "second"))
        data = fields | ({"agree": "yes"} if path == "/consent" else {"choice": choice})
        page = await self._page(path, data)
        # After a kill the first try may have been kept, and its form be old by then.
        if page.status_code not in (200, 303):
          page = await self._page("/")


def _start(workdir: pathlib.Path, port: int) -> subprocess.Popen:
  """Starts the server, and waits until it answers."""
  url = f"http://localhost:{port}"
  command = [sys.executable, "-m", "fspo_jax.study", f"--workdir={workdir}"]
  command += ["--config=experiments/study.py", "--config.personalized.path=published"]
  command += ["--config.arms=(('without_shots', '', 'none'),)", "--config.labels.number=6"]
  command += [f"--config.server.port={port}", f"--config.server.url={url}"]
  environment = {
    **os.environ,
    "PYTHONPATH": str(_REPO),
    "FSPO_STUDY_PASSWORD": "of a benchmark, of no use",
  }
  process = subprocess.Popen(command, cwd=_REPO, env=environment, stdout=subprocess.DEVNULL)
  while True:
    try:
      if httpx2.get(f"{url}/health").status_code == 200:
        return process
    except httpx2.TransportError as error:
      if process.poll() is not None:
        raise RuntimeError("the server did not start") from error
      time.sleep(0.2)


async def _load(workdir: pathlib.Path, port: int, seen: Seen) -> dict[str, float]:
  """All participants, and the kill."""
  server = _start(workdir, port)
  study = opening.reopen(workdir)
  links = study.store.invite(_PARTICIPANTS.value, time.time())
  url, until = f"http://localhost:{port}", time.monotonic() + 60 * _MINUTES.value
  try:
    people = [
      asyncio.create_task(Participant(seen, number, link, url).take_part(until))
      for number, link in links
    ]
    await asyncio.sleep(_KILL_AFTER.value)
    killed, answers = time.monotonic(), len(seen.acknowledged)
    server.send_signal(signal.SIGKILL)
    server.wait()
    server = await asyncio.to_thread(_start, workdir, port)
    back = time.monotonic()
    await asyncio.gather(*people)
  finally:
    server.terminate()
    server.wait()
  return {"killed": killed, "back": back, "acknowledged_before_the_kill": answers}


def _missing(workdir: pathlib.Path, seen: Seen) -> Iterator[str]:
  """The acknowledged answers that are not there, or are others."""
  with opening.reopen(workdir).store.read() as db:
    rows = db.execute(
      "SELECT participant, phase, position, choice FROM items i JOIN answers a ON a.item = i.id"
    ).fetchall()
  kept = {(row["participant"], row["phase"], row["position"]): row["choice"] for row in rows}
  for key, choice in seen.acknowledged.items():
    if kept.get(key) != choice:
      yield f"{key}: acknowledged {choice}, found {kept.get(key)}"


def _figures(seen: list[tuple[str, float, float]]) -> dict[str, Any]:
  """Latencies of all requests, and by kind."""
  kinds: dict[str, list[float]] = {}
  for kind, _, took in seen:
    kinds.setdefault(kind, []).append(took)
  found = {}
  for kind, seconds in sorted(kinds.items()):
    p50, p95, p99, most = (1000 * np.percentile(seconds, [50, 95, 99, 100])).round().tolist()
    found[kind] = {"requests": len(seconds), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    found[kind]["max_ms"] = most
  return found


def main(argv: list[str]) -> None:
  """Loads, kills, and looks."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {argv[1:]}")
  logging.getLogger("httpx2").setLevel(logging.WARNING)  # or every request is a line
  seen = Seen()
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / "study"
    times = asyncio.run(_load(workdir, port, seen))
    missing = list(_missing(workdir, seen))
    with opening.reopen(workdir).store.read() as db:
      jobs = db.execute("SELECT count(*) FROM jobs WHERE state = 'done'").fetchone()[0]
  # What was asked while there was no server waited for it, and then all came at once.
  before = [x for x in seen.seconds if x[1] + x[2] < times["killed"]]
  after = [x for x in seen.seconds if x[1] > times["back"] + _SETTLE_SECONDS]
  found = {
    "participants": _PARTICIPANTS.value,
    "finished": seen.finished,
    "answers_acknowledged": len(seen.acknowledged),
    "acknowledged_before_the_kill": times["acknowledged_before_the_kill"],
    "answers_missing_or_different": len(missing),
    "jobs_done": jobs,
    "errors": len(seen.errors),
    "requests_sent_again_while_down": seen.refused,
    "seconds_down": round(times["back"] - times["killed"], 1),
    "before_the_kill": _figures(before),
    "after_the_restart": _figures(after),
    "cpus": os.cpu_count(),
    "load_average": os.getloadavg()[0],
  }
  print(json.dumps(found))
  if _OUT.value:
    pathlib.Path(_OUT.value).write_text(json.dumps(found, indent=2) + "\n")
  for line in [*seen.errors, *missing][:20]:
    print(line, file=sys.stderr)
  sys.exit(bool(seen.errors or missing))


if __name__ == "__main__":
  app.run(main)
