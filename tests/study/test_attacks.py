# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Attacks on a study, each of them refused by the real app."""

import dataclasses
import html
import re

import pytest

from fspo_jax.study import guard, records, security
from tests.study import small

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{ 7 * 7 }}"
SQL = "x'); DROP TABLE answers; --"


def _tables(study):
  with study.store.read() as db:
    names = [row["name"] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


def _harmless(page):
  assert page.status_code == 200
  assert "<img" not in page.text and "alert(1)</script>" not in page.text
  assert html.escape(SCRIPT, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in (
    page.text
  )


def test_script_in_model_output_and_prompts_is_text(tmp_path):
  study = small.study(tmp_path)
  with small.served(study) as client:
    browser = small.Browser(client(), study)
    browser.go_through(browser.join())
    small.do_jobs(study, small.FewShotModels({"short": SCRIPT, "long": SCRIPT}))
    page = browser.get("/compare/0")
    while SCRIPT not in html.unescape(page.text):
      page = browser.answer(page, "first")  # a check
    _harmless(page)


def test_script_in_a_reason_is_text_wherever_it_is_shown(study, browser):
  browser.go_through(browser.join())
  small.do_jobs(study)
  browser.answer(browser.get("/compare/0"), "first", reason=SCRIPT)
  _harmless(browser.get("/compare/0"))


def test_script_in_what_the_dashboard_shows_is_text(study, researcher):
  page = researcher.get("/researcher/estimates")
  researcher.post("/researcher/estimates", page, reason=SCRIPT)
  _harmless(researcher.post("/researcher/estimates", page, reason="again"))
  participant = small.Browser(researcher.client, study)
  participant.go_through(participant.join())
  job = study.flow.next_job()
  for attempts in range(study.settings.generation.attempts):
    study.flow.failed(dataclasses.replace(job, attempts=attempts), SCRIPT)
  _harmless(researcher.get("/researcher"))


def test_every_page_forbids_scripts_frames_and_other_sites(study, browser):
  pages = [browser.get("/nowhere"), browser.get("/"), browser.join(), browser.get("/delete")]
  pages += [browser.get("/researcher/login"), browser.get("/static/study.css")]
  for page in pages:
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in page.headers["strict-transport-security"]
    if "html" in page.headers["content-type"]:
      assert page.headers["cache-control"] == "no-store"
      assert not re.search(
        r"<style|style=|<script(?! src=\"/static/)|\son\w+=|javascript:", page.text
      )
      assert not re.search(r"(src|href|action)=\"(?!/|#main)", page.text)  # nobody else is asked


def test_sql_in_every_field_is_text_or_refused(study, browser, researcher):
  page = browser.join()
  names = set(_tables(study))
  for fields in ({"choice": SQL}, {"choice": "first", "revision": SQL}, {"choice": "FIRST"}):
    assert browser.post("/label/0", page, **fields).status_code == 400
  assert browser.post("/label/0", page, choice="first", token=SQL).status_code == 403
  assert browser.get(f"/join/{SQL}").status_code == 404
  assert browser.get(f"/label/{SQL}").status_code == 404
  assert browser.get(f"/{SQL}/0").status_code == 404
  assert browser.get(f"/label/{'9' * 30}").status_code == 404
  browser.client.cookies.clear()
  browser.client.cookies.set("__Host-participant", f"{security.new_token()}'--")
  assert browser.get("/label/0").status_code == 401
  browser.client.cookies.clear()
  browser.go_through(browser.join(consent=False))
  small.do_jobs(study)
  browser.answer(browser.get("/"), "first", reason=SQL)
  with study.store.read() as db:
    assert SQL in [row["reason"] for row in db.execute("SELECT reason FROM answers")]
  overview = researcher.get("/researcher")
  for path, field in (("invite", "count"), ("revoke", "number")):
    for value in (SQL, "0", "-1", "1e9", "²", "", "9" * 40):
      page = researcher.client.post(
        f"/researcher/{path}",
        data={"token": _token(overview, f"/researcher/{path}"), field: value},
      )
      assert page.status_code == 400, value
  assert researcher.get(f"/researcher/export/{SQL}").status_code == 404
  assert set(_tables(study)) == names


def _token(page, action):
  """The token of the form in a page with an action."""
  return re.search(rf'action="{action}".*?name="token" value="([^"]+)"', page.text, re.S)[1]


def test_forged_revoked_and_stolen_tokens(study, browser):
  for token in ("x", security.new_token(), browser.link[:-1], browser.link + "A", "%00", "é"):
    assert browser.get(f"/join/{token}").status_code == 404
  browser.join()
  with study.store.read() as db:
    stored = [bytes(row[0]) for row in db.execute("SELECT token FROM participants")]
    stored += [bytes(row[0]) for row in db.execute("SELECT token FROM sessions")]
  for kept in stored:  # who reads the file cannot get in with what it holds
    browser.client.cookies.clear()
    assert browser.get(f"/join/{kept.hex()}").status_code == 404
    browser.client.cookies.set("__Host-participant", kept.hex())
    assert browser.get("/label/0").status_code == 401
  assert browser.link.encode() not in study.store.path.read_bytes()
  browser.client.cookies.clear()
  browser.join(consent=False)
  study.store.revoke(browser.number, 1.0)
  assert browser.get("/label/0").status_code == 401
  assert browser.get(f"/join/{browser.link}").status_code == 404


def test_a_form_of_another_site_is_refused(study, browser):
  page = browser.join()
  good = small.fields_of(page) | {"choice": "first"}
  other = small.Browser(browser.client, study)
  for headers in (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},  # no URL at all
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
  ):
    refused = browser.client.post("/label/0", data=good, headers=headers)
    assert refused.status_code == 403
  start, last = good["token"][:-1], good["token"][-1]
  forged = start + ("1" if last == "0" else "0")
  for token in ("", "1.2", forged, "٣." + good["token"].partition(".")[2]):
    assert browser.client.post("/label/0", data=good | {"token": token}).status_code == 403
  text = browser.client.post(
    "/label/0", content="choice=first", headers={"Content-Type": "text/plain"}
  )
  assert text.status_code == 415
  assert _tables(study)["answers"] == 0
  # The token of one page, or of one person, is of no use elsewhere.
  assert browser.client.post("/delete", data=good).status_code == 403
  browser.client.cookies.clear()
  other.join()
  assert other.client.post("/label/0", data=good).status_code == 403
  assert other.client.get("/delete").status_code == 200
  assert _tables(study)["answers"] == 0
  same = other.client.post(
    "/label/0",
    data=small.fields_of(other.get("/label/0")) | {"choice": "first"},
    headers={"Origin": "https://testserver", "Sec-Fetch-Site": "same-origin"},
  )
  assert same.status_code == 200 and _tables(study)["answers"] == 1


def test_nobody_reads_or_changes_another_participants_answers(study):
  with small.served(study) as client:
    ana, ben = small.Browser(client(), study), small.Browser(client(), study)
    page = ana.join()
    ana.answer(page, "first")
    theirs = ben.join()
    assert "your choice so far" not in ben.get("/label/0").text
    assert ben.get("/label/1").url.path == "/label/0"  # ana is there, ben is not
    ben.answer(theirs, "second")
    with study.store.read() as db:
      rows = db.execute(
        "SELECT participant, choice FROM answers JOIN items ON id = item"
      ).fetchall()
    assert {tuple(row) for row in rows} == {(ana.number, "first"), (ben.number, "second")}
    # Another's link does not take over a browser without a click of its owner.
    page = ben.get(f"/join/{ana.link}")
    assert "another person" in page.text and ben.get("/label/0").status_code == 200
    assert ben.client.post(f"/join/{ana.link}", data={"token": "1.x"}).status_code == 403
    assert ben.post(f"/join/{ana.link}", page).url.path == "/label/1"


def test_participants_are_not_researchers(study, browser):
  browser.join()
  for path in ("", "/estimates", "/export/users.jsonl", "/export/comparisons.jsonl"):
    assert browser.get(f"/researcher{path}").url.path == "/researcher/login"
  cookie = browser.client.cookies["__Host-participant"]
  browser.client.cookies.set("__Host-researcher", cookie)
  assert browser.get("/researcher").url.path == "/researcher/login"


def test_passwords_cannot_be_tried_forever(study, browser):
  study.store.set_meta("password", security.hash_password(small.PASSWORD))
  page = browser.get("/researcher/login")
  codes = [
    browser.post("/researcher/login", page, password=f"guess {i}").status_code for i in range(8)
  ]
  limit = study.settings.limits.logins_per_minute
  assert codes == [403] * limit + [429] * (8 - limit)
  assert browser.post("/researcher/login", page, password=small.PASSWORD).status_code == 429


def test_addresses_of_one_host_count_as_one(tmp_path):
  study = small.study(tmp_path, limits__strangers_per_minute=2)
  with small.served(study) as client:
    for addresses, last in (
      (["2001:db8::1", "2001:db8::2", "2001:db8::3"], 429),
      (["2001:db9:0:1::1", "2001:db9:0:2::1", "2001:db9:0:3::1"], 401),
      (["10.0.0.1", "10.0.0.2", "10.0.0.3"], 401),
    ):
      clients = [client(address) for address in addresses]
      assert [c.get("/").status_code for c in clients][-1] == last


def test_links_cannot_be_tried_forever(study, browser):
  codes = [browser.get(f"/join/{i}").status_code for i in range(70)]
  assert codes[:50] == [404] * 50 and codes[-1] == 429
  assert browser.get(f"/join/{browser.link}").status_code == 429  # or guessing would go on
  with small.served(study) as client:
    assert small.Browser(client("5.6.7.8"), study).join().status_code == 200


def test_a_whole_class_may_come_from_one_address(study):
  with small.served(study) as client:
    for _ in range(study.settings.limits.strangers_per_minute + 5):
      assert small.Browser(client(), study).join(consent=False).status_code == 200


def test_a_participant_cannot_flood(tmp_path):
  study = small.study(tmp_path, limits__requests_per_minute=20)
  with small.served(study) as client:
    browser = small.Browser(client(), study)
    browser.join()
    codes = [browser.get("/label/0").status_code for _ in range(25)]
    assert codes[0] == 200 and codes[-1] == 429
    other = small.Browser(client(), study)
    assert other.join().status_code == 200


def test_a_link_without_a_cookie_cannot_flood(tmp_path):
  study = small.study(tmp_path, limits__requests_per_minute=20)
  with small.served(study) as client:
    browser, other = (small.Browser(client(), study) for _ in range(2))
    codes = []
    for _ in range(300):
      browser.client.cookies.clear()
      page = browser.client.get(f"/join/{browser.link}", follow_redirects=False)
      codes.append(page.status_code)
    assert codes[:20] == [303] * 20 and set(codes) == {303, 429}
    assert codes.count(429) > 200  # some time passes, and with it come new requests
    assert other.join().status_code == 200


def test_a_participant_has_one_limit_in_all_browsers(tmp_path):
  study = small.study(tmp_path, limits__requests_per_minute=20)
  with small.served(study) as client:
    browser, again = (small.Browser(client(), study) for _ in range(2))
    browser.join()
    again.link = browser.link
    assert again.join(consent=False).status_code == 200
    codes = [browser.get("/label/0").status_code for _ in range(25)]
    assert codes[-1] == 429 and again.get("/label/0").status_code == 429


def test_oversized_bodies(study, browser):
  page = browser.join()
  limit = study.settings.limits.body_bytes
  long = browser.answer(page, "first", reason="x" * limit)
  assert long.status_code == 413

  def chunks():
    for _ in range(limit // 1000 + 2):
      yield b"x" * 1000

  headers = {"Content-Type": "application/x-www-form-urlencoded"}
  endless = browser.client.post("/label/0", content=chunks(), headers=headers)
  assert endless.status_code == 413 and "content-security-policy" in endless.headers
  for length in ("-1", "x", "9" * 40):
    lying = browser.client.post(
      "/label/0", content=b"", headers=headers | {"Content-Length": length}
    )
    assert lying.status_code == 413
  many = "&".join(f"a{i}=1" for i in range(500))
  assert browser.client.post("/label/0", content=many, headers=headers).status_code == 400
  assert browser.client.post("/label/0", content=b"\xff\xfe=1", headers=headers).status_code == 400
  assert _tables(study)["answers"] == 0


def test_path_traversal(researcher):
  for path in (
    "/static/../schema.sql",
    "/static/%2e%2e/schema.sql",
    "/static/..%2f..%2f..%2fetc%2fpasswd",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/..\\schema.sql",
    "/researcher/export/..%2fstudy.sqlite",
    "/researcher/export/study.sqlite",
    "/study.sqlite",
    "/%2e%2e/study.sqlite",
  ):
    assert researcher.client.get(path).status_code == 404, path
  assert researcher.client.get("/static/study.css").status_code == 200


def test_other_hosts_and_methods(browser):
  assert browser.get("/", headers={"Host": "evil.example"}).status_code == 400
  for method in ("PUT", "DELETE", "TRACE"):
    assert browser.client.request(method, "/consent").status_code == 405


def test_cookies_are_for_this_server_alone(study, browser, researcher):
  joined = browser.client.get(f"/join/{browser.link}", follow_redirects=False)
  cookie = joined.headers["set-cookie"].lower()
  assert cookie.startswith("__host-participant=") and "samesite=lax" in cookie
  page = researcher.get("/researcher/login")
  signed_in = researcher.client.post(
    "/researcher/login",
    data=small.fields_of(page) | {"password": small.PASSWORD},
    follow_redirects=False,
  )
  admin = signed_in.headers["set-cookie"].lower()
  assert admin.startswith("__host-researcher=") and "samesite=strict" in admin
  for text in (cookie, admin):
    assert "secure" in text and "httponly" in text and "path=/" in text and "domain" not in text


def test_what_goes_wrong_inside_is_not_told(study, browser, monkeypatch):
  browser.join()
  monkeypatch.setattr(study.flow, "place", lambda participant: 1 / 0)
  with pytest.raises(ZeroDivisionError):  # to the log, by the server
    browser.get("/")
  monkeypatch.setattr(browser.client._transport, "raise_server_exceptions", False)
  page = browser.get("/")
  assert page.status_code == 500 and "ZeroDivision" not in page.text
  assert page.headers["content-security-policy"] == guard.HEADERS["Content-Security-Policy"]


def test_control_characters_and_direction_marks_in_reasons(study, browser):
  browser.go_through(browser.join())
  small.do_jobs(study)
  browser.answer(
    browser.get("/"),
    "first",
    reason="a\x00b\x1b[31m\r\nc\u200d \ud83d\ude00".encode("utf-16", "surrogatepass").decode(
      "utf-16"
    ),
  )
  found = [c.reason for c in records.comparisons(study.store)]
  with study.store.read() as db:
    found += [row["reason"] for row in db.execute("SELECT reason FROM answers")]
  assert "ab[31m\nc\u200d \U0001f600" in found


def test_rate_limits_fill_up_again():
  now = [0.0]
  limit = security.RateLimit(2, clock=lambda: now[0])
  assert [limit.allows("a") for _ in range(3)] == [True, True, False]
  assert limit.allows("b")
  now[0] = 31.0
  assert [limit.allows("a") for _ in range(2)] == [True, False]


def test_passwords_are_salted_scrypt_and_long():
  kept = security.hash_password(small.PASSWORD)
  assert kept.startswith("scrypt$") and kept != security.hash_password(small.PASSWORD)
  assert security.check_password(small.PASSWORD, kept)
  assert not security.check_password("correct horse batter", kept)
  with pytest.raises(ValueError, match="12 or more"):
    security.hash_password("short")
