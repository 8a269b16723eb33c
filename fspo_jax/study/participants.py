# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The pages of a participant."""

from __future__ import annotations

from collections.abc import Sequence
import unicodedata

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from fspo_jax.study import store as store_lib
from fspo_jax.study.flow import PHASES, Place
from fspo_jax.study.web import Site, Visit, redirect

_MOST_ITEMS = 10_000  # positions beyond are no integers of ours
_SECONDS = store_lib.SESSION_DAYS * 86_400


class Participants:
  """Consent, labels, waiting, comparisons, the end, and deletion."""

  def __init__(self, site: Site) -> None:
    """Takes the parts of the study."""
    self._site, self._flow = site, site.flow

  def routes(self) -> Sequence[Route]:
    """Where the pages are."""
    site, both = self._site, ["GET", "POST"]
    return [
      Route("/", site.endpoint(self.home, "participant"), methods=["GET"]),
      Route("/join/{token}", site.endpoint(self.join, "anyone"), methods=both),
      Route("/consent", site.endpoint(self.consent, "participant"), methods=both),
      Route("/{phase}/{position:int}", site.endpoint(self.item, "participant"), methods=both),
      Route("/wait", site.endpoint(self.wait, "participant"), methods=["GET"]),
      Route("/done", site.endpoint(self.done, "participant"), methods=["GET"]),
      Route("/delete", site.endpoint(self.delete, "participant"), methods=both),
    ]

  def home(self, visit: Visit) -> Response:
    """On to wherever the participant is."""
    return redirect(_path(self._flow.place(visit.participant)))

  def join(self, visit: Visit) -> Response:
    """The link of an invitation: it can be opened as often as one likes."""
    token, site = visit.parameters["token"], self._site
    site.check_stranger(visit.address)
    person = site.store.join(token)
    if person is None:
      site.refuse(visit.address, 404)
    if person["deleted_at"] is not None:
      return site.render(visit, "deleted.html", 410)
    if visit.session is not None:
      if visit.session.participant == person["id"]:
        return redirect("/")
      if visit.method == "GET":  # nobody's answers end up with another by a link alone
        return site.render(visit, "switch.html")
    elif visit.method == "POST":
      raise HTTPException(401)
    if visit.session is None:  # no cookie, so that nobody has counted it yet
      site.check_participant(person["id"])
    response = redirect("/")
    opened = site.store.open_session(person["id"], visit.now)
    site.set_cookie(response, "participant", opened, _SECONDS)
    return response

  def consent(self, visit: Visit) -> Response:
    """What it is about, and the agreement."""
    if visit.method == "POST":
      if visit.form.get("agree") != "yes":
        return self._site.render(visit, "consent.html", 422, missing=True)
      self._flow.consent(visit.participant, visit.now)
    place = self._flow.place(visit.participant)
    if place.page != "consent":
      return redirect(_path(place))
    return self._site.render(visit, "consent.html", missing=False)

  def item(self, visit: Visit) -> Response:
    """A pair to label, or two responses to compare."""
    phase, position = visit.parameters["phase"], visit.parameters["position"]
    if phase not in PHASES or position > _MOST_ITEMS:
      raise HTTPException(404)
    if visit.method == "GET":
      return self._show(visit, phase, position)
    choice, reason = visit.form.get("choice"), _clean(visit.form.get("reason", ""))
    revision = visit.form.get("revision", "")
    if choice not in self._choices(phase) or not (revision.isdecimal() and len(revision) < 7):
      raise HTTPException(400)
    if not self._reasons(phase):
      reason = ""
    limit = self._site.settings.limits.reason_characters
    if len(reason) > limit:
      note = f"The reason is {len(reason)} characters long, and {limit} fit. Please shorten it."
      return self._show(visit, phase, position, note=note, typed=reason)
    outcome = self._flow.answer(
      visit.participant,
      phase,
      position,
      choice,
      reason=reason,
      seconds=visit.now - visit.shown,
      revision=int(revision),
      now=visit.now,
    )
    if outcome == "stale":
      note = "You have answered this in another window. You can still change it here."
      return self._show(visit, phase, position, note=note)
    return self.home(visit)

  def _show(
    self, visit: Visit, phase: str, position: int, *, note: str = "", typed: str | None = None
  ) -> Response:
    item = self._flow.item(visit.participant, phase, position)
    if item is None:
      return self.home(visit)
    place = self._flow.place(visit.participant)
    return self._site.render(
      visit,
      "item.html",
      422 if typed is not None else 409 if note else 200,
      item=item,
      phase=phase,
      position=position,
      total=max(place.total, position + 1),
      choices=self._choices(phase),
      reasons=self._reasons(phase),
      typed=(item["reason"] or "") if typed is None else typed,
      note=note,
    )

  def _choices(self, phase: str) -> tuple[str, ...]:
    ties = phase == "compare" and self._site.settings.comparisons.ties
    return ("first", "second", *(("tie",) if ties else ()), "skip")

  def _reasons(self, phase: str) -> bool:
    return phase == "compare" and self._site.settings.comparisons.reasons

  def wait(self, visit: Visit) -> Response:
    """While the model answers; the page asks again by itself, with or without scripts."""
    place = self._flow.place(visit.participant)
    if place.page != "wait":
      return redirect(_path(place))
    # Where many wait, nobody's turn comes in three seconds, and all of them would ask.
    again = min(3 + place.ahead // 10, 20)
    return self._site.render(visit, "wait.html", trouble=place.trouble, again=again)

  def done(self, visit: Visit) -> Response:
    """The end."""
    place = self._flow.place(visit.participant)
    if place.page != "done":
      return redirect(_path(place))
    return self._site.render(visit, "done.html", outcome=place.outcome)

  def delete(self, visit: Visit) -> Response:
    """Deletes all that is known of the participant, who may do so at any time."""
    if visit.method == "GET":
      return self._site.render(visit, "delete.html")
    self._site.store.erase([visit.participant], "asked for by a participant", visit.now)
    response = self._site.render(visit, "deleted.html")
    response.delete_cookie(
      self._site.cookie("participant"), secure=self._site.settings.server.secure, httponly=True
    )
    return response


def _path(place: Place) -> str:
  return f"/{place.page}/{place.position}" if place.page in PHASES else f"/{place.page}"


def _clean(text: str) -> str:
  """Free text, with one kind of line ends and without control characters."""
  text = text.replace("\r\n", "\n").replace("\r", "\n")
  kept = (c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
  return "".join(kept).strip()
