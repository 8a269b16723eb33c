# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chromium goes through a whole study as twelve participants; skipped where it is not installed.

FSPO_STUDY_SCREENSHOTS=DIR puts a picture of every page there, of a desktop and of a phone.
"""

import os
import pathlib
import shutil
import socket
import threading
import time

import pytest

from fspo_jax.study import analysis as analysis_lib
from fspo_jax.study import app, records, security
from tests.study import small

webdriver = pytest.importorskip(
  "selenium.webdriver", reason="no selenium: pip install 'fspo_jax[browser]'"
)
uvicorn = pytest.importorskip("uvicorn")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with its chromedriver (on Debian: apt install chromium chromium-driver)",
  ),
]
PEOPLE = 12
PHONE, DESKTOP = (390, 844), (1280, 900)


@pytest.fixture
def study(tmp_path):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  url = {"server__port": port, "server__url": f"http://localhost:{port}"}
  made = small.study(tmp_path, participants=PEOPLE - 1, **url)
  made.store.set_meta("password", security.hash_password(small.PASSWORD))
  server = uvicorn.Server(
    uvicorn.Config(app.make_app(made, work=False), port=port, log_level="warning")
  )
  thread = threading.Thread(target=server.run)
  thread.start()
  while not server.started:
    time.sleep(0.02)
  with small.working(made, small.FewShotModels()):
    yield made
  server.should_exit = True
  thread.join()


@pytest.fixture(params=["with scripts", "without scripts"])
def scripts(request):
  return request.param == "with scripts"


@pytest.fixture
def chromium():
  """Makes browsers, each with its own cookies, and closes them."""
  opened = []

  def make(size, scripts=True):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
      options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
      options.add_experimental_option(
        "prefs", {"profile.managed_default_content_settings.javascript": 2}
      )
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    opened.append(driver)
    driver.execute_cdp_cmd(
      "Emulation.setDeviceMetricsOverride",
      {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    return driver

  yield make
  for driver in opened:
    driver.quit()


class Person:
  """A participant with a taste, in a browser of their own."""

  def __init__(self, driver, study, taste, name):
    self.driver, self.study, self.taste, self.name = driver, study, taste, name
    ((self.number, self.link),) = study.store.invite(1, time.time())
    self.url = study.settings.server.url

  @property
  def path(self):
    return self.driver.current_url.removeprefix(self.url)

  def find(self, selector):
    return self.driver.find_element("css selector", selector)

  def open(self, path=""):
    self.driver.get(self.url + path)
    self.picture()

  def picture(self):
    folder = os.environ.get("FSPO_STUDY_SCREENSHOTS")
    if folder and self.name:
      name = f"{self.name}_{self.path.strip('/').replace('/', '_')[:24]}.png"
      (pathlib.Path(folder) / name).write_bytes(self.driver.get_screenshot_as_png())

  def click(self, selector):
    """Clicks, and waits for the page after."""
    before = self.driver.find_element("css selector", "html")
    self.find(selector).click()
    self.gone(before)
    self.picture()

  def gone(self, element):
    self.wait(lambda: self._stale(element))
    self.wait(lambda: self.driver.find_elements("css selector", "footer"))

  def _stale(self, element):
    try:
      return not element.is_enabled()
    except webdriver.remote.errorhandler.WebDriverException:
      return True

  def wait(self, true):
    end = time.monotonic() + 60
    while not true():
      assert time.monotonic() < end, self.driver.page_source
      time.sleep(0.05)

  def join(self):
    self.open(f"/join/{self.link}")
    self.find("input[name=agree]").click()
    self.click("button.primary")

  def liked(self):
    """What this person thinks of the page that they see."""
    a, b = (e.text for e in self.driver.find_elements("css selector", ".text"))
    prompt = self.find(".prompt").text
    for instruction, right, _ in self.study.settings.attention.checks:
      if prompt == instruction:
        return "first" if a == right else "second"
    shorter = "first" if len(a) < len(b) else "second"
    return shorter if self.taste == "short" else {"first": "second", "second": "first"}[shorter]

  def go_through(self, phase, until=10**9):
    self.wait(lambda: f"/{phase}/" in self.path)
    while f"/{phase}/" in self.path and until:
      self.click(f"button[value={self.liked()}]")
      until -= 1


# What somebody does besides answering; on whichever page they are.


def _reloads(person):
  person.driver.refresh()


def _goes_back(person):
  person.click(f"button[value={person.liked()}]")
  person.driver.back()
  person.wait(lambda: person.driver.find_elements("css selector", "#choose"))
  person.click(f"button[value={person.liked()}]")
  person.open()


def _double_clicks(person):
  page = person.find("html")
  button = person.find(f"button[value={person.liked()}]")
  webdriver.ActionChains(person.driver).double_click(button).perform()
  person.gone(page)
  person.open()


def _opens_two_tabs(person):
  first, here = person.driver.current_window_handle, person.path
  person.driver.switch_to.new_window("tab")
  person.open(here)
  person.click(f"button[value={person.liked()}]")
  person.driver.close()
  person.driver.switch_to.window(first)
  person.click(f"button[value={person.liked()}]")  # of the page that is old by now
  person.open()


def _leaves_and_comes_back(person):
  person.driver.delete_all_cookies()
  person.open("/")
  assert "use your link" in person.find("h1").text
  person.open(f"/join/{person.link}")


HABITS = (None, _reloads, _goes_back, _double_clicks, _opens_two_tabs, _leaves_and_comes_back)


def test_twelve_participants(study, chromium):
  phone, desktop = chromium(PHONE), chromium(DESKTOP)
  everybody = []
  for i in range(PEOPLE):
    driver = phone if i % 2 else desktop
    driver.delete_all_cookies()
    name = {0: "desktop", 1: "phone"}.get(i, "")
    person = Person(driver, study, "short" if i % 3 else "long", name)
    everybody.append(person)
    person.join()
    habit = HABITS[i % len(HABITS)]
    person.go_through("label", until=2)
    if i == PEOPLE - 1:
      continue  # never seen again
    if habit:
      habit(person)
    person.go_through("label")
    person.picture()
    person.go_through("compare", until=2)
    if habit and "/compare/" in person.path:
      habit(person)
    if "/compare/" in person.path:
      person.go_through("compare")
    assert person.path == "/done"
    for entry in driver.get_log("browser"):  # such as what the content policy has blocked
      assert entry["level"] != "SEVERE" or "401" in entry["message"], entry
  with study.store.read() as db:
    rows = db.execute(
      "SELECT participant, count(DISTINCT i.id) AS items, count(a.item) AS answers"
      " FROM items i LEFT JOIN answers a ON a.item = i.id GROUP BY participant"
    ).fetchall()
    changed = db.execute("SELECT count(*) FROM former_answers").fetchone()[0]
  # 3 labels and 4 comparisons, and a check in each part; of the last one, 2 labels and the next.
  assert [(row["items"], row["answers"]) for row in rows] == [(9, 9)] * (PEOPLE - 1) + [(3, 2)]
  assert changed == 0
  found = analysis_lib.analyze(study.store, study.settings)
  assert found["participants"]["analyzed"] == PEOPLE - 1
  for name, arm in found["arms"].items():
    # The stand-in gives everyone what they like; what the others write is of a length between.
    assert arm["win_rate"] == 1.0 and arm["p_participants"] == pytest.approx(0.5**11), name
  assert len(records.users(study.store)) == PEOPLE
  _researcher(study, Person(desktop, study, "", "desktop"), Person(phone, study, "", "phone"))


def _researcher(study, *people):
  """Looks at the researcher's pages, and those of people who leave for good."""
  for person in people:
    person.driver.delete_all_cookies()
    person.open("/researcher/login")
    person.find("#password").send_keys(small.PASSWORD)
    person.click("button.primary")
    assert f"{PEOPLE - 1} of the planned" in person.find("#sample").text
    person.open("/researcher/estimates")
    assert "1.000 [1.000, 1.000]" in person.find("table").text
    person.open("/researcher")
    person.click("form.row button")
    assert len(person.find("#links").get_attribute("value").split("\n")) == 11
    person.join()
    person.open(f"/join/{people[0].study.store.invite(1, time.time())[0][1]}")
    assert "another person" in person.find("h1").text
    person.open("/delete")
    person.click("button.danger")
    assert "is deleted" in person.find("h1").text


def test_by_keyboard_and_without_scripts(study, chromium, scripts):
  person = Person(chromium(DESKTOP, scripts), study, "short", "")
  person.join()
  keys = webdriver.Keys
  if not scripts:
    person.go_through("label")
    person.wait(lambda: person.find("h1").text and "/compare/" in person.path)  # by itself
    person.go_through("compare")
    assert person.path == "/done"
    return
  number = {"first": "1", "second": "2"}
  for _ in range(2):
    page, here = person.find("html"), person.path
    person.find("body").send_keys(number[person.liked()])
    person.gone(page)
    assert person.path != here
  person.find("#keys input").click()  # turned off
  person.find("body").send_keys("1")
  time.sleep(0.3)
  assert person.path == "/label/2"
  # By Tab and Enter alone, from the top: skip link, prompt, then the buttons.
  person.driver.refresh()
  for _ in range(12):
    person.driver.switch_to.active_element.send_keys(keys.TAB)
    active = person.driver.switch_to.active_element
    if active.get_attribute("value") == person.liked():
      break
  outline = active.value_of_css_property("outline-style")
  assert active.get_attribute("value") == person.liked() and outline == "solid"
  page = person.find("html")
  active.send_keys(keys.ENTER)
  person.gone(page)
  assert person.path == "/label/3"
