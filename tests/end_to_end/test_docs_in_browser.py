"""
The API's own documentation, in a real browser: its page, under its content security policy, and its script.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from ferry.app import create_app
from tests.browser import visited

WAIT_S = 30
HOW_TO = Path(__file__).resolve().parents[2] / "docs/how-to/write-a-client.md"
TRIED = "#operations-people-list_people"


def test_the_page_of_the_api_shows_an_operation_of_a_sheet_and_tries_it(driver, env):
    wait = WebDriverWait(driver, WAIT_S, ignored_exceptions=[StaleElementReferenceException])

    def find(selector: str):
        return wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, f"{TRIED} {selector}"))[0]

    def press(selector: str) -> None:
        driver.execute_script("arguments[0].click()", find(selector))

    with visited(driver, create_app(env, open_access=True)) as url:
        driver.get(f"{url}/docs")
        press(".opblock-summary-control")
        press(".try-out__btn")
        press(".execute")
        shown = find(".live-responses-table pre")
        assert "records" in json.loads(shown.text)
        assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


def test_the_script_of_the_how_to_follows_events_with_a_ticket(driver, env):
    script = re.search("```js\n(.*?)```", HOW_TO.read_text(), re.DOTALL)[1]
    call = "const done = arguments[arguments.length - 1]; follow('ana', (...told) => done(told)).catch(done)"
    tokens = f"ana:{hashlib.sha256(b'ana').hexdigest()}"
    driver.set_script_timeout(WAIT_S)
    with visited(driver, create_app({**env, "CFP_API_READ": "token", "CFP_API_TOKENS": tokens})) as url:
        driver.get(f"{url}/api/health")  # of the same origin
        kind, data = driver.execute_async_script(script + call)
        assert (kind, data["remote"]) == ("state", "origin")
