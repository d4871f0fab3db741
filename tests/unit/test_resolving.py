"""
Resolving in Sentry what has recovered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from structlog.testing import capture_logs

from ferry.worker.episodes.resolving import Resolver, api_of
from ferry.worker.settings import Settings
from tests.parts import wait_until


class Api(ThreadingHTTPServer):
    """
    The part of Sentry's API that resolves issues.

    Attributes:
        asked: Method, path, token and body of each request.
        statuses: What the next requests are answered with; then 200.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, str, object]] = []
        self.statuses: list[int] = []


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = (self.command, self.path, self.headers["Authorization"], json.loads(body or "null"))
        self.server.asked.append(asked)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", "/elsewhere")
        answer = json.dumps({"groupId": "77"}).encode()
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def _settings(api: Api, **env: str) -> Settings:
    """
    Return settings in which what is "" is not set.
    """
    known = {
        "CFP_DATA_REPO_PATH": "/srv/data.git",
        "CFP_REDIS_URL": "redis://host",
        "SENTRY_DSN": f"http://key@127.0.0.1:{api.server_port}/7",
        "SENTRY_AUTH_TOKEN": "secret",
        "SENTRY_ORG": "town",
    }
    return Settings.from_env({name: value for name, value in {**known, **env}.items() if value})


ISSUE = "/api/0/organizations/town/issues/77/"
RESOLVED = ("PUT", ISSUE, "Bearer secret", {"status": "resolved"})


@pytest.mark.parametrize("statuses", [[], [404], [200, 500], [404, 404]])
def test_the_issue_of_an_event_is_resolved(api, statuses):
    """
    Sentry may not know the event yet, or have no time.
    """
    api.statuses = list(statuses)
    Resolver(_settings(api), waits_s=(0, 0, 0)).resolve(["0af3"])

    wait_until(lambda: RESOLVED in api.asked and not api.statuses, what="the issue, resolved")
    assert ("GET", "/api/0/organizations/town/eventids/0af3/", "Bearer secret", None) in api.asked


@pytest.mark.parametrize("status", [302, 403, 500])
def test_an_issue_that_cannot_be_resolved_is_logged(api, status):
    """
    A redirect is not followed: it would carry the token away.
    """
    api.statuses = [status] * 2
    with capture_logs() as logged:
        Resolver(_settings(api), waits_s=(0, 0)).resolve(["0af3"])
        wait_until(lambda: logged, what="the line")
    assert logged[0].items() >= {"event": "page.not_resolved", "event_id": "0af3"}.items()
    assert "secret" not in str(logged)
    assert {path for _, path, *_ in api.asked} == {"/api/0/organizations/town/eventids/0af3/"}


@pytest.mark.parametrize("missing", ["SENTRY_AUTH_TOKEN", "SENTRY_ORG", "SENTRY_DSN"])
def test_without_a_token_nothing_is_asked(api, missing, monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    Resolver(_settings(api, **{missing: ""})).resolve(["0af3"])
    Resolver(_settings(api)).resolve([])


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        ("https://key@o123.ingest.sentry.io/7", "https://sentry.io/api/0"),
        ("https://key@o123.ingest.de.sentry.io/7", "https://de.sentry.io/api/0"),
        ("https://key@sentry.example.org:9000/7", "https://sentry.example.org:9000/api/0"),
        ("https://key@example.org/sentry/7", "https://example.org/sentry/api/0"),
    ],
)
def test_the_api_is_where_the_dsn_says(dsn, address):
    assert api_of(dsn) == address
