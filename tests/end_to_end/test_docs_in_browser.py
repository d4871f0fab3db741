"""
The page of the API's own documentation, in a real browser under its content security policy.
"""

from __future__ import annotations

import json

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from ferry.app import create_app
from tests.browser import visited

WAIT_S = 30
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
