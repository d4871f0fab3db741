"""
Secrets stay secret: a token in a remote's URL, looked for everywhere.
"""

from __future__ import annotations

import json
import stat

import pytest

from tests.parts import wait_until

TOKEN = "s3cr3t-t0ken-0f-0urs"


@pytest.mark.parametrize("userinfo", [f"ana:{TOKEN}", TOKEN], ids=["password", "user"])
def test_a_token_in_a_remotes_url_shows_nowhere(userinfo, env, client, worker, data, http_remote, sentry):
    """
    Not in a log line, the page, a task's arguments or result, a response, the metrics or
    the ledger, while the remote refuses it and says so.
    """
    http_remote.password = "another"
    env["CFP_DATA_REMOTE"] = http_remote.url("web.git").replace("://", f"://{userinfo}@")
    env["CFP_ADMIN_TOKEN"] = f"admin-{TOKEN}"
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    seen = []

    api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
    failed = running.await_event("push.failed")
    wait_until(lambda: running.logged("raised expected: PushFailed"), what="the end of the task")
    wait_until(lambda: sentry.events, what="the page")

    assert failed["reason"] == "auth"
    for address in ("/api/_internal/push", "/metrics", "/api/commits", "/api/health/ready"):
        seen.append(api.get(address).text)
    seen += [running.text(), json.dumps(sentry.events)]
    files = [path for path in (data.path / "ferry").rglob("*") if path.is_file()]
    seen += [path.read_bytes().decode("utf-8", "replace") for path in files]
    for text in seen:
        assert TOKEN not in text
    # git reads the URL from here, and nobody else may.
    assert not (data.path / "config").stat().st_mode & stat.S_IRWXO
