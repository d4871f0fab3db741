"""
What leaves for Sentry: real envelopes of every kind, read whole at the other end.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope, Item, PayloadRef

from ferry.app import create_app
from ferry.worker import paging
from ferry.worker.errors import NonFastForward
from ferry.worker.ledger.outbox import Outbox
from ferry.worker.observe.envelopes import HEADERS, clean
from ferry.worker.settings import Settings
from tests.parts import wait_until

SECRET = "s3cr3t-w0rd"  # which no pattern tells from other words
QUERY = f"token={SECRET}&note={SECRET}"
URL = f"https://ana:{SECRET}@host.example/data.git?{QUERY}"
SENT = {
    "Authorization": f"Bearer {SECRET}",
    "Proxy-Authorization": SECRET,
    "Cookie": f"session={SECRET}",
    "Referer": f"https://elsewhere.example/page?{QUERY}",
    "X-Api-Key": SECRET,
    "X-Hub-Signature-256": f"sha256={SECRET}",
    "X-Gitlab-Token": SECRET,
    "X-Tomorrow": SECRET,
    "Idempotency-Key": SECRET,
    "Content-Type": f"application/json; note=https://host.example/?{QUERY}",
    "User-Agent": "a-client/1",
}


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    sentry_sdk.get_global_scope().set_client(None)
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


def _fail(*_: object, **__: object) -> None:
    word, frame_variable = SECRET, URL
    logging.getLogger("other").warning(
        "GET /api/sheets/people/records?%s for %s%s", QUERY, frame_variable, word[:0]
    )
    subprocess.run([sys.executable, "-c", "", URL], check=True, timeout=60)  # leaves a span and a breadcrumb
    raise RuntimeError(f"cannot open {URL} for /api/sheets?{QUERY}")


def test_no_envelope_of_any_kind_carries_what_a_client_sent(env, sentry, monkeypatch, tmp_path):
    """
    Neither the query, nor headers but those that are allowed, nor cookies, body or variables: in errors,
    pages, timings and their spans, breadcrumbs, check-ins, sessions, log lines and kinds of a later version.
    """
    env |= {
        "SENTRY_DSN": sentry.dsn,
        "SENTRY_TRACES_SAMPLE_RATE": "1",
        "SENTRY_CRON_MONITOR": "sweeps",
        "CFP_ADMIN_TOKEN": SECRET * 2,
    }
    api = create_app(env, open_access=True).test_client()
    monkeypatch.setattr("ferry.app.store.store.Store.snapshot", _fail)
    api.set_cookie("other", SECRET)

    api.get(f"/api/sheets/people/records?{QUERY}", headers=SENT)
    api.post(f"/api/transactions?{QUERY}", headers=SENT, data=f'{{"message": "{SECRET}"}}')
    paging.CronMonitor(Settings.from_env(env)).check_in()
    error = NonFastForward("origin", "non-fast-forward", f"{URL} was refused", "look")
    wanted = paging.Page(
        title=f"{URL} was refused",
        error=error,
        branch="main",
        repository="host/data",
        path="/srv/data.git",
        since=time.time(),
        context={"said": f"To {URL}", "headers": SENT},
    )
    paging.page(wanted, Outbox(tmp_path / "pages"))
    transport = sentry_sdk.get_client().transport
    transport.capture_envelope(
        Envelope(
            headers={"trace": {"transaction": f"/x?{QUERY}"}},
            items=[
                Item(
                    PayloadRef(json={"items": [{"body": URL, "attributes": {"url.query": QUERY}}]}),
                    type="log",
                ),
                Item(f'{{"spans": [{{"http.request.header.cookie": "{SECRET}"}}]}}', type="of_tomorrow"),
                Item(SECRET.encode(), type="attachment"),
            ],
        )
    )
    paging.flush(20)
    sentry_sdk.flush(timeout=20)

    kinds = {"event", "transaction", "check_in", "log", "of_tomorrow"}
    wait_until(lambda: kinds <= {kind for kind, _ in sentry.received}, what="every kind")
    assert [body for body in sentry.bodies if SECRET.encode() in body] == []
    assert {event["level"] for event in sentry.events} == {"error", "fatal"}
    requests = [item["request"] for kind, item in sentry.received if "request" in item]
    assert len(requests) >= 3, requests  # an error's and the timings'
    for request in requests:
        assert set(request) <= {"method", "url", "headers"}
        assert re.fullmatch(r"http://localhost/api/\w+(/\w+)*", request["url"])
        assert {name.lower() for name in request["headers"]} <= HEADERS
        assert request["headers"]["User-Agent"] == "a-client/1"
    spans = [span for item in sentry.items("transaction") for span in item["spans"]]
    crumbs = [crumb for event in sentry.events for crumb in event.get("breadcrumbs", {}).get("values", [])]
    assert any("host.example/data.git" in str(each) for each in spans), "a span tells of the command that ran"
    assert any("host.example/data.git" in str(each) for each in crumbs), "and a breadcrumb"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://host/a?b=c", "https://host/a"),
        ("GET /api/sheets?a=b HTTP/1.1", "GET /api/sheets HTTP/1.1"),
        ("see 'https://host/?x=y', or <http://h/p?q>", "see 'https://host/', or <http://h/p>"),
        ("is it here/there? yes", "is it here/there? yes"),
        ("docs/operations/runbook.md#stalled", "docs/operations/runbook.md#stalled"),
        ("https://host/a#part", "https://host/a#part"),
        ("what? nothing", "what? nothing"),
    ],
)
def test_addresses_lose_their_queries_and_nothing_else(text, left):
    assert clean({"deep": [text]}) == {"deep": [left]}


@pytest.mark.parametrize("headers", [[["Cookie", "c"], ["Host", "h"]], {"cookie": "c", "Host": "h"}])
def test_headers_are_allowed_by_name_in_whatever_shape(headers):
    assert clean({"a": {"headers": headers}}) == {"a": {"headers": {"Host": "h"}}}


@pytest.mark.parametrize("headers", ["Cookie: c", None, 7, [["Cookie"]], ["Cookie: c"]])
def test_headers_of_an_unknown_shape_stay_here(headers):
    assert clean({"headers": headers}) == {"headers": {}}
