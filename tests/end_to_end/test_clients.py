"""
Clients that generators write from /openapi.json compile, and are used for every kind of endpoint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from ferry.app import create_app
from tests.needs import lacking

_FILES = Path(__file__).parents[1] / "clients"
# Beside the virtual environment: a second run installs nothing.
_CACHE = Path(__file__).parents[2] / ".cache" / "clients"
_TIMEOUT_S = 240

needs_npm = pytest.mark.skipif(bool(lacking("npm")), reason=str(lacking("npm")))


@pytest.fixture
def served(env: dict[str, str]) -> Iterator[str]:
    with make_server("127.0.0.1", 0, create_app(env, open_access=True), threaded=True) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def _run(directory: Path, *command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """
    A directory with the programs and packages of tests/clients/package-lock.json, and the clients' code.
    """
    _CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        if not (_CACHE / name).exists() or (_CACHE / name).read_text() != (_FILES / name).read_text():
            shutil.rmtree(_CACHE / "node_modules", ignore_errors=True)
            shutil.copy(_FILES / name, _CACHE)
    if not (_CACHE / "node_modules" / ".package-lock.json").exists():
        _run(_CACHE, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    (tmp_path / "node_modules").symlink_to(_CACHE / "node_modules")
    for source in (
        *_FILES.glob("*.ts"),
        _FILES / "tsconfig.json",
        _FILES / "package.json",
        _FILES / "openapi-ts.config.mjs",
    ):
        shutil.copy(source, tmp_path)
    return tmp_path


@needs_npm
@pytest.mark.timeout(2 * _TIMEOUT_S)
def test_typed_clients_in_typescript_use_every_kind_of_endpoint(served: str, packages: Path):
    document = f"{served}/openapi.json"
    programs = packages / "node_modules" / ".bin"
    _run(packages, programs / "openapi-typescript", document, "--output", "types.d.ts")
    _run(packages, programs / "openapi-ts", "--input", document, "--no-log-file")
    _run(packages, programs / "tsc")
    for client in ("fetch.js", "hey.js"):
        assert "done" in _run(packages, "node", packages / "built" / client, FERRY_URL=served)


@pytest.mark.timeout(2 * _TIMEOUT_S)
def test_a_typed_client_in_python_uses_every_kind_of_endpoint(served: str, tmp_path: Path):
    generate = Path(sys.executable).with_name("openapi-python-client")
    options = ("--output-path", "people", "--meta", "none", "--config", _FILES / "python.yaml")
    said = _run(tmp_path, generate, "generate", "--url", f"{served}/openapi.json", *options)
    assert "WARNING" not in said, said
    shutil.copy(_FILES / "uses_python.py", tmp_path)
    _run(tmp_path, sys.executable, "-m", "mypy", "--strict", "--no-incremental", "uses_python.py")
    assert "done" in _run(tmp_path, sys.executable, "uses_python.py", FERRY_URL=served)
