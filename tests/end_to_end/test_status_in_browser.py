"""
The status page in a real browser, over a real deployment with one remote in each kind of trouble.

To make the pictures in the documentation anew:

    FERRY_PICTURES=docs/images make test PYTEST_ARGS="-k status_in_browser"
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ferry.app import create_app
from ferry.app.dev.nursery import Nursery
from ferry.app.dev.preloaded import nursery
from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.stack import Stack, free_port
from ferry.worker.files.places import remotes_directory
from ferry.worker.ledger.landings import Landing, remember
from tests.browser import axe, picture, prefer, resize, too_pale, too_wide, visited
from tests.parts import Bare, clean_environment, wait_until

TOKEN = "a token of some length"
PICTURES = os.environ.get("FERRY_PICTURES")

WHERE = "return document.getElementById(arguments[0]).getBoundingClientRect().top;"
PUT_AT = f"""
scrollBy(0, document.getElementById(arguments[0]).getBoundingClientRect().top - arguments[1]);
{WHERE}
"""


@dataclass
class Screen:
    """
    One browser, and the deployment that it looks at.
    """

    driver: webdriver.Chrome
    url: str
    closed: Path  # while it exists, origin refuses pushes

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def read(self, selector: str) -> str:
        return str(
            self.driver.execute_script("return document.querySelector(arguments[0])?.textContent", selector)
        )

    def press(self, name: str) -> bool:
        """
        Press a button; returns False where there is none just then.

        In one step: the driver's own click is a press and a release, with time for a fresh button between.
        """
        pressed = "const button = document.getElementById(arguments[0]); button?.click(); return !!button"
        return bool(self.driver.execute_script(pressed, name))

    def await_text(self, *needed: str) -> None:
        _wait_to_see(lambda: all(each in self.text() for each in needed), what=f"{needed} on the page")

    def write(self, slug: str) -> str:
        request = urllib.request.Request(
            f"{self.url}/api/sheets/people/records",
            data=json.dumps({"slug": slug, "name": slug.title()}).encode(),
            headers={"Commit-Message": f"{slug.title()}%20moves%20in", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(json.load(response)["commit"]["hash"])


def _wait_to_see(seen: Callable[[], bool], *, what: str, every_s: float = 0.2) -> None:
    """
    Look at the page now and then: each look costs the browser a layout of all of it.
    """
    wait_until(seen, timeout_s=60, every_s=every_s, what=what)


@pytest.fixture
def screen(driver):
    """
    The page of a deployment whose remotes are well (``mirror``), away (``archive``), and ``origin``.
    """
    # A short name, for the pictures.
    with tempfile.TemporaryDirectory(prefix="ferry-") as name, nursery() as forks:
        place = Path(name)
        stack, output = _deployment(place, forks), (place / "ferry.log").open("wb")
        stack.output = output
        try:
            stack.start()
            yield Screen(driver, stack.url, place / "origin.git" / "closed")
        finally:
            driver.get("about:blank")  # an API process that stops waits for whoever listens
            stack.stop()
            output.close()


def _deployment(place: Path, forks: Nursery) -> Stack:
    data = place / "data.git"
    make_sample_repository(data)
    origin, mirror = (Bare.init(place / name) for name in ("origin.git", "mirror.git"))
    origin.hook(
        "pre-receive",
        '[ ! -e closed ] || { echo "No pushes to main while the release is tested." >&2; exit 1; }',
    )
    history = remotes_directory(data)
    history.mkdir(parents=True)
    for name in ("origin", "mirror"):
        _hours_of_work(history / f"{name}.history")
    env = {
        **clean_environment(),
        "CFP_DATA_REPO_PATH": str(data),
        "CFP_DATA_REMOTE": str(origin.path),
        "CFP_DATA_MIRRORS": f"mirror={mirror.path} archive={place / 'archive.git'}",
        "CFP_PUSH_BACKOFF_BASE": "300",
        "CFP_PUSH_SWEEP_INTERVAL": "4",
    }
    return Stack(env, place, nursery=forks, port=free_port(), flower_port=free_port())


def _hours_of_work(path: Path) -> None:
    """
    Write the history of a morning with one slow hour, so that there is something to draw.
    """
    now, chance = time.time(), random.Random(path.name)  # noqa: S311 - a picture
    for minutes in sorted(chance.sample(range(1, 350), 160), reverse=True):
        usual_s = 40.0 if 95 < minutes < 150 else 0.4
        remember(
            path,
            Landing(
                at=now - 60 * minutes,
                lag_s=chance.lognormvariate(0, 0.6) * usual_s,
                duration_s=0.1,
                commits=chance.randint(1, 4),
            ),
        )


def test_the_page_lives_and_fits(screen, tmp_path):
    """
    A commit appears without a reload, the countdown ticks, a phone shows all of it, and nothing is too pale.
    """
    driver = screen.driver
    driver.get(f"{screen.url}/status")
    driver.execute_script("window.sameDocument = true")
    for name in ("ana", "bea", "cleo"):
        screen.write(name)
    screen.await_text("dev: POST /api/sheets/people/records", "mirror: ✓ pushed", "Live.")
    commit = screen.write("dana")
    screen.await_text(commit[:10])
    screen.await_text("origin: ✓ pushed", "archive: … pending", "! retrying", "✓ alive")

    countdown = screen.read("[data-until]")
    _wait_to_see(lambda: screen.read("[data-until]") != countdown, what="a tick")

    screen.closed.touch()
    driver.execute_script("document.getElementById('push-1').focus({preventScroll: true})")
    place = driver.execute_script(PUT_AT, "commits", 40)
    screen.write("elif")
    screen.write("fay")
    screen.await_text(
        "! blocked",
        "origin, archive: a person is needed (rejected, not-found)",
        "ferry push find-refused --remote origin",
    )
    assert driver.execute_script("return document.activeElement.id") == "push-1"
    assert driver.execute_script(WHERE, "commits") == pytest.approx(place, abs=2)
    assert driver.execute_script("return window.sameDocument") is True
    assert driver.title.startswith("origin, archive: a person is needed (rejected, not-found)")

    _look_at_it(screen, tmp_path)

    screen.closed.unlink()
    wait_until(lambda: screen.press("push-1"), what="a button that stays")
    screen.await_text("The push is queued.")
    screen.await_text("✓ idle")
    _wait_to_see(lambda: "! blocked" not in screen.text(), what="the end of the trouble")
    assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


def test_without_javascript_it_asks_for_the_token_and_loads_itself_anew(driver, env, data):
    with visited(driver, create_app({**env, "CFP_ADMIN_TOKEN": TOKEN})) as url:
        _sign_in_and_out(driver, f"{url}/status", data)


def _sign_in_and_out(driver, url, data):
    def is_there(words):
        with contextlib.suppress(WebDriverException):  # asked while one page gave way to the next
            return words in driver.find_element(By.TAG_NAME, "body").text

    def says(words, **often):
        _wait_to_see(lambda: is_there(words), what=words, **often)

    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.get(url)
    driver.find_element(By.NAME, "token").send_keys("wrong", Keys.ENTER)
    says("That is not the admin token.")
    driver.find_element(By.NAME, "token").send_keys(TOKEN, Keys.ENTER)
    says("queued")
    card, main = (driver.find_element(By.CSS_SELECTOR, name).rect["width"] for name in (".card", "main"))
    assert card > 0.95 * main, "a single remote does not use the width"
    data.commit("Seen after a while")
    says("Seen after a while", every_s=1)  # it loads itself every 15 s
    driver.find_element(By.XPATH, "//button[.='Sign out']").click()
    says("Sign in")


def _look_at_it(screen, tmp_path):
    pictures = Path(PICTURES) if PICTURES else tmp_path
    pictures.mkdir(exist_ok=True)
    for name, width, height, shown in (("status", 1180, 900, 1450), ("status-phone", 360, 780, 1180)):
        resize(screen.driver, width, height)
        for scheme in ("dark", "light"):
            prefer(screen.driver, scheme)
            assert too_pale(screen.driver) == []
            assert axe(screen.driver) == []
        assert too_wide(screen.driver) == []
        screen.await_text("! blocked")  # the sweep tries in between
        picture(screen.driver, pictures / f"{name}.png", height=shown)
        assert (pictures / f"{name}.png").stat().st_size < 150_000
