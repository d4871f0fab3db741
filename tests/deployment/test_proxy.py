"""
The production file's proxy: a real Caddy with the file that compose mounts, before what repeats the path.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ferry.app import create_app
from ferry.app.dev.stack import free_port
from tests.deployment.helm import CHART, ROOT
from tests.parts import clean_environment, wait_until

CADDYFILE = ROOT / "docker" / "Caddyfile"
INTERNAL = (
    "/api/_internal",
    "/api/_internal/push",
    "/metrics",
    "/status",
    "/status/live",
    "/api/.%2e/status",
)
# What the API, or a proxy on the way, could take for one of those.
NEARLY = (
    "/api/%5Finternal/push", "/api/_internal%2Fpush", "/API/_INTERNAL/push", "/api/./_internal/push",
    "/api/x/../_internal/push", "/api//_internal/push", "//api/_internal/push", "/docs/../metrics",
)  # fmt: skip


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(self.path)))
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Proxy:
    def __init__(self, caddy: Path, directory: Path, **env: str) -> None:
        self._address = ("127.0.0.1", free_port())
        self.log = directory / "access.log"
        self._output = self.log.open("wb")
        self._process = subprocess.Popen(
            [caddy, "run", "--adapter", "caddyfile", "--config", str(CADDYFILE)],
            env={
                **clean_environment(),
                "XDG_DATA_HOME": str(directory),
                "XDG_CONFIG_HOME": str(directory),
                "FERRY_DOMAIN": "http://{}:{}".format(*self._address),
                **env,
            },
            stdout=self._output,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path: str, **headers: str) -> tuple[int, list[str], bytes]:
        """
        Return status, every X-Content-Type-Options and the body of a GET of *path* as it is.
        """
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.msg.get_all("X-Content-Type-Options") or [], answer.read()
        finally:
            connection.close()

    def is_there(self) -> bool:
        try:
            return bool(self.get("/"))
        except OSError:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(20)
        self._output.close()


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextlib.contextmanager
def started(caddy: Path, directory: Path, **env: str) -> Iterator[_Proxy]:
    proxy = _Proxy(caddy, directory, **env)
    try:
        wait_until(proxy.is_there, timeout_s=30, what="the proxy")
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def proxy(caddy, api, tmp_path_factory) -> Iterator[_Proxy]:
    with started(caddy, tmp_path_factory.mktemp("caddy"), FERRY_UPSTREAM=api) as proxy:
        yield proxy


def test_what_is_for_clients_is_handed_on_and_nothing_else(proxy):
    for path in (
        "/",
        "/browse/people?limit=1",
        "/api/health",
        "/api/sheets/people/records?limit=1",
        "/docs",
        "/docs/start.js",
        "/openapi.json",
    ):
        assert proxy.get(path) == (200, ["nosniff"], path.encode())
    for path in (*INTERNAL, *NEARLY):
        assert proxy.get(path) == (404, ["nosniff"], b""), path


def test_each_request_is_a_line_of_json_without_its_token(proxy):
    proxy.get(
        "/api/health?a-certain-one", Authorization="Bearer a-secret-token", Cookie="session=a-secret-token"
    )
    wait_until(lambda: "a-certain-one" in proxy.log.read_text(), timeout_s=30, what="the line")
    lines = [json.loads(line) for line in proxy.log.read_text().splitlines()]
    (line,) = (each for each in lines if "a-certain-one" in each["request"]["uri"])
    assert (line["status"], line["request"]["method"]) == (200, "GET")
    assert "a-secret-token" not in proxy.log.read_text()


def test_what_is_asked_for_is_handed_on_too(caddy, tmp_path):
    """
    And an answer of the proxy's own, where the API is away, is marked as the API's are.
    """
    also = "/api/_internal/reload-data /status /status/*"
    with socket.socket() as away:
        away.bind(("127.0.0.1", 0))  # and it does not listen
        api = f"127.0.0.1:{away.getsockname()[1]}"
        with started(caddy, tmp_path, FERRY_UPSTREAM=api, FERRY_PROXY_ALSO=also) as proxy:
            for path in ("/api/_internal/reload-data", "/status", "/status/live", "/api/health"):
                assert proxy.get(path)[:2] == (502, ["nosniff"]), path
            for path in ("/api/_internal/push", "/metrics"):
                assert proxy.get(path)[0] == 404, path


def test_every_path_of_the_api_is_either_for_clients_or_internal(env, helm, proxy):
    """
    Caddy and the chart's Ingress decide alike, for every rule that the API has.
    """
    ingress = next(
        each
        for each in helm.render("--values", str(CHART / "ci" / "ingress-values.yaml"))
        if each["kind"] == "Ingress"
    )
    public = [each["path"] for each in ingress["spec"]["rules"][0]["http"]["paths"]]
    for rule in create_app(env, open_access=True).url_map.iter_rules():
        path = rule.rule.replace("<path:path>", "jane").replace("<", "").replace(">", "")
        is_public = any(path == each or path.startswith(f"{each}/") for each in public)
        is_internal = path.startswith(("/api/_internal/", "/status", "/metrics"))
        assert is_public is not is_internal, path
        assert proxy.get(path)[0] == (404 if is_internal else 200), path
