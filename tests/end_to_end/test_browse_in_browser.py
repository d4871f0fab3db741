"""
The pages with the data in a real browser: on a phone, in the dark, by keyboard, and for a screen reader.
"""

from __future__ import annotations

import base64

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from ferry.app import create_app
from tests.browser import axe, prefer, resize, too_pale, too_wide, visited

WAIT_S = 30
RECORDS = "/api/sheets/people/records"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def test_the_pages_fit_and_are_found_by_keyboard(driver, env):
    app = create_app(env, open_access=True)
    client = app.test_client()
    client.put(f"{RECORDS}/jane", json={"slug": "jane", "name": "Jane", "address": {"city": ["Bonn"]}})
    client.put(f"{RECORDS}/jane/attachments/photo.png", data=PIXEL)
    changed = client.patch(f"{RECORDS}/jane", json={"name": "Jane Doe", "address": None})
    commit = changed.json["commit"]["hash"]
    with visited(driver, app) as url:
        for address in (
            "/", "/browse/people?name=Jane+Doe", "/browse/people/records/jane", f"/browse/commits/{commit}"
        ):  # fmt: skip
            driver.get(url + address)
            _look_at(driver)
        _filter_by_keyboard(driver, url)
        assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


def _look_at(driver):
    for width in (1180, 360):
        resize(driver, width, 780)
        assert too_wide(driver) == []
    for scheme in ("dark", "light"):
        prefer(driver, scheme)
        assert too_pale(driver) == []
    assert axe(driver) == []


def _filter_by_keyboard(driver, url):
    """
    The first key leads past the header, each control is reached, and Enter sends the form.
    """
    wait = WebDriverWait(driver, WAIT_S)
    driver.get(f"{url}/browse/people")
    _type(driver, Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to the content"
    for _ in range(20):
        if driver.switch_to.active_element.get_attribute("id") == "value":
            break
        _type(driver, Keys.TAB)
    _type(driver, "jane", Keys.ENTER)
    wait.until(lambda page: "slug is jane" in page.find_element(By.TAG_NAME, "body").text)
    driver.find_element(By.LINK_TEXT, "jane").send_keys(Keys.ENTER)
    wait.until(lambda page: page.title == "jane, people – Ferry")
    driver.find_element(By.LINK_TEXT, "Status").send_keys(Keys.ENTER)
    wait.until(lambda page: page.current_url.endswith("/status"))
    driver.find_element(By.LINK_TEXT, "Data").send_keys(Keys.ENTER)
    wait.until(lambda page: page.title == "Data – Ferry")


def _type(driver, *keys):
    driver.switch_to.active_element.send_keys(*keys)
