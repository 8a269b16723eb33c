# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The pages of the researcher: progress, invitations, export, and estimates when it is time."""

from __future__ import annotations

from collections.abc import Sequence
import sqlite3

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from fspo_jax.study import analysis, records, security
from fspo_jax.study import store as store_lib
from fspo_jax.study.web import Site, Visit, redirect

_MOST_INVITATIONS = 500  # at once
_EXPORTS = {
  "users.jsonl": records.users_jsonl,
  "comparisons.jsonl": records.comparisons_jsonl,
}


class Dashboard:
  """Everything under /researcher."""

  def __init__(self, site: Site) -> None:
    """Takes the parts of the study."""
    self._site, self._store = site, site.store

  def routes(self) -> Sequence[Route]:
    """Where the pages are."""
    page = self._site.endpoint
    get, post = ["GET"], ["POST"]
    return [
      Route("/researcher", page(self.overview, "researcher"), methods=get),
      Route("/researcher/login", page(self.login, "anyone"), methods=["GET", "POST"]),
      Route("/researcher/logout", page(self.logout, "researcher"), methods=post),
      Route("/researcher/invite", page(self.invite, "researcher"), methods=post),
      Route("/researcher/revoke", page(self.revoke, "researcher"), methods=post),
      Route("/researcher/retry", page(self.retry, "researcher"), methods=post),
      Route("/researcher/estimates", page(self.estimates, "researcher"), methods=["GET", "POST"]),
      Route("/researcher/export/{name}", page(self.export, "researcher"), methods=get),
    ]

  def login(self, visit: Visit) -> Response:
    """The password, and a session for it."""
    site = self._site
    if visit.method == "GET":
      return site.render(visit, "login.html", wrong=False)
    site.check_login(visit.address)
    kept = self._store.meta("password")
    password = visit.form.get("password", "")
    if not isinstance(kept, str) or not security.check_password(password, kept):
      return site.render(visit, "login.html", 403, wrong=True)
    response = redirect("/researcher")
    opened = self._store.open_session(None, visit.now)
    site.set_cookie(response, "researcher", opened, store_lib.RESEARCHER_HOURS * 3600)
    return response

  def logout(self, visit: Visit) -> Response:
    """Ends the session."""
    assert visit.session is not None
    self._store.close_session(visit.session)
    return redirect("/researcher/login")

  def overview(self, visit: Visit) -> Response:
    """How far everybody is."""
    with self._store.read() as db:
      people, failures = _people(db), _failures(db)
      waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'waiting'").fetchone()[0]
    states = [_state(person) for person in people]
    return self._site.render(
      visit,
      "dashboard.html",
      people=list(zip(people, states, strict=True)),
      counts={state: states.count(state) for state in _STATES},
      reached=states.count("finished") >= self._site.settings.participants,
      waiting=waiting,
      failures=failures,
      model=self._site.worker(),
    )

  def invite(self, visit: Visit) -> Response:
    """Makes links, and shows them this once: only their hashes are kept."""
    count = _integer(visit, "count", _MOST_INVITATIONS)
    url = self._site.settings.server.url
    links = [(n, f"{url}/join/{token}") for n, token in self._store.invite(count, visit.now)]
    return self._site.render(visit, "links.html", links=links)

  def revoke(self, visit: Visit) -> Response:
    """Makes a link useless."""
    self._store.revoke(_integer(visit, "number", 10**9), visit.now)
    return redirect("/researcher")

  def retry(self, visit: Visit) -> Response:
    """Lets the model try again what it could not do."""
    self._site.flow.retry()
    return redirect("/researcher")

  def estimates(self, visit: Visit) -> Response:
    """The analysis: after the planned sample, or before, for a reason that is recorded."""
    site, settings = self._site, self._site.settings
    reason = visit.form.get("reason", "")[:500]
    try:
      analysis.allow(self._store, settings, reason, visit.now, "the dashboard")
    except analysis.TooEarlyError:
      return site.render(visit, "estimates.html", found=None)
    return site.render(visit, "estimates.html", found=analysis.analyze(self._store, settings))

  def export(self, visit: Visit) -> Response:
    """A file of records. Comparisons say which arm was chosen, and so wait for their time."""
    name = visit.parameters["name"]
    if name not in _EXPORTS:
      raise HTTPException(404)
    if name == "comparisons.jsonl" and not analysis.reached(self._store, self._site.settings):
      return redirect("/researcher/estimates")
    return Response(
      _EXPORTS[name](self._store),
      media_type="application/x-ndjson",
      headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


_STATES = ("invited", "on their way", "finished", "too few labels", "deleted", "revoked")


def _state(person: sqlite3.Row) -> str:
  if person["deleted_at"] is not None:
    return "deleted"
  if person["outcome"]:
    return person["outcome"]
  if person["revoked_at"] is not None:
    return "revoked"
  return "invited" if person["consented_at"] is None else "on their way"


def _people(db: sqlite3.Connection) -> list[sqlite3.Row]:
  return db.execute(
    "SELECT p.id, revoked_at, consented_at, outcome, deleted_at,"
    " sum(i.phase = 'label' AND a.item IS NOT NULL) AS labels,"
    " sum(i.phase = 'compare' AND a.item IS NOT NULL) AS comparisons,"
    " max(a.answered_at) AS last"
    " FROM participants p LEFT JOIN items i ON i.participant = p.id"
    " LEFT JOIN answers a ON a.item = i.id GROUP BY p.id ORDER BY p.id"
  ).fetchall()


def _failures(db: sqlite3.Connection) -> list[sqlite3.Row]:
  return db.execute(
    "SELECT participant, kind, name, error FROM jobs WHERE state = 'failed' ORDER BY id LIMIT 20"
  ).fetchall()


def _integer(visit: Visit, field: str, most: int) -> int:
  """A field that is a number from 1 to `most`; HTTPException 400 for anything else."""
  text = visit.form.get(field, "")
  if not (text.isascii() and text.isdecimal() and len(text) < 12 and 1 <= int(text) <= most):
    raise HTTPException(400)
  return int(text)
