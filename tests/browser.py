"""
A headless Chromium, and the pictures that it takes of pages.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from flask import Flask
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from werkzeug.serving import make_server

from tests.png import smaller

# Of every element with text of its own: its contrast with the nearest ground, where that is too little.
_TOO_PALE = """
const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
const light = (colour) => {
  const linear = (c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const [r, g, b] = colour.map((c) => linear(c / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const ground = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const colour = rgb(getComputedStyle(each).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("main *, header *")]
  .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
  .filter((each) => each.getClientRects().length)
  .map((each) => {
    const style = getComputedStyle(each);
    const ink = rgb(each instanceof SVGElement ? style.fill : style.color);
    const [more, less] = [light(ink), light(ground(each))].sort((a, b) => b - a);
    return [each.textContent.trim().slice(0, 40), (more + .05) / (less + .05)];
  })
  .filter(([, contrast]) => contrast < 4.5);
"""
_TOO_WIDE = """
return [...document.querySelectorAll("body *")]
  .filter((each) => !each.closest("pre, .skip, .sideways table"))
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
  .map((each) => each.outerHTML.slice(0, 120));
"""
_AXE = (files("axe_core_python") / "axe.min.js").read_text()
_AXE_RUNS = """
const done = arguments[arguments.length - 1];
axe.run().then(({passes, violations}) => done([passes.length, violations.map(({id, help, nodes}) =>
  [id, help, nodes.map((node) => node.html.slice(0, 120))])]));
"""


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
    # It is made small here, where simple lines are read sooner.
    options = {"format": "png", "captureBeyondViewport": True, "optimizeForSpeed": True, "clip": clip}
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", options)
    path.write_bytes(smaller(base64.b64decode(taken["data"])))


def too_pale(driver: webdriver.Chrome) -> list[Any]:
    """
    Return the texts of the page that differ too little from what they stand on.
    """
    return list(driver.execute_script(_TOO_PALE))


def too_wide(driver: webdriver.Chrome) -> list[str]:
    """
    Return the elements of the page that are not seen whole. What scrolls by itself may be wider.
    """
    wide = driver.execute_script("return document.documentElement.scrollWidth > innerWidth")
    return [*driver.execute_script(_TOO_WIDE), *(["the page"] if wide else [])]


def axe(driver: webdriver.Chrome) -> list[Any]:
    """
    Return what axe-core, https://github.com/dequelabs/axe-core, finds wrong for people who do not see a page.
    """
    # As the browser's own, past the page's content security policy; once for each page.
    if not driver.execute_script("return 'axe' in window"):
        driver.execute_script(_AXE)
    passed, wrong = driver.execute_async_script(_AXE_RUNS)
    assert passed > 10, "axe-core found nothing to check"
    return list(wrong)
