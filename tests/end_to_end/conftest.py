"""
What the tests in a browser share.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser import chromium
from tests.needs import need


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """
    A headless Chromium.
    """
    need("chromium")
    need("chromedriver")
    with chromium(tmp_path) as driver:
        yield driver
