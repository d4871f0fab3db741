"""
A headless Chromium, and the pictures that it takes of pages.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from flask import Flask
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from werkzeug.serving import make_server

from tests.png import smaller


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[webdriver.Chrome]:
    """
    Start one for the block; its profile and its log are in *directory*.
    """
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new",
        "--no-sandbox",  # Chromium refuses to run as root with one
        "--disable-dev-shm-usage",
        f"--user-data-dir={directory / 'chromium'}",
    ):
        options.add_argument(argument)
    service = Service(shutil.which("chromedriver"), log_output=str(directory / "driver.log"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def visited(driver: webdriver.Chrome, app: Flask) -> Iterator[str]:
    """
    Serve *app* for the block; yields its address.
    """
    with make_server("127.0.0.1", 0, app, threaded=True) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            driver.get("about:blank")  # a page that listens for events keeps a thread
            server.shutdown()
            serving.join()


def resize(driver: webdriver.Chrome, width: int, height: int) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def prefer(driver: webdriver.Chrome, scheme: str) -> None:
    """
    Show pages in a colour scheme: ``light`` or ``dark``.
    """
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(driver: webdriver.Chrome, path: Path, *, height: int) -> None:
    """
    Save what is seen, down to *height*.
    """
    width = driver.execute_script("return innerWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
    )
    path.write_bytes(smaller(base64.b64decode(taken["data"])))
