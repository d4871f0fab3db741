"""
Who is let in, who is counted, and what each of them may see.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time

import pytest

from ferry.app import create_app
from ferry.app.clients.limits import WRONG_TOKENS, address_key
from ferry.app.clients.tickets import EVENTS_LASTS_S
from ferry.worker.observe.redaction import redact

SHEETS = "/api/sheets"
PEOPLE = "/api/sheets/people/records"
PLACES = "/api/sheets/places/records"
ADMIN = "an-admin-token-of-some-length"
_A_FEW = int(WRONG_TOKENS.split()[0])


def _digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def _as(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def app(env):
    def build(**more):
        return create_app({**env, "CFP_REDIS_URL": "redis://127.0.0.1:1/0", **more}).test_client()

    return build


def _statuses(api, times, path=SHEETS, method="GET", **options):
    return [api.open(path, method=method, **options).status_code for _ in range(times)]


# --- Who is counted ---


def test_one_client_cannot_take_everything(app):
    api = app(CFP_API_RATE_LIMIT="3 per hour", CFP_API_TOKENS=f"ana:{_digest('t')}")
    assert _statuses(api, 4) == [200, 200, 200, 429]
    limited = api.get(SHEETS)
    assert limited.json["code"] == "rate-limited"
    assert 0 < int(limited.headers["Retry-After"]) <= 3600
    assert limited.headers["X-RateLimit-Limit"] == "3"
    assert limited.headers["X-RateLimit-Remaining"] == "0"
    assert _statuses(api, 4, headers=_as("t")) == [200, 200, 200, 429], "a known token counts for itself"
    assert api.get("/api/health").status_code == 200


def test_no_client_is_told_to_wait_longer_than_the_window(app, monkeypatch):
    """
    In its first second: the end of the window is found to be some microseconds late, and rounded up.
    """
    api = app(CFP_API_RATE_LIMIT="1 per minute")
    ticks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.4 + next(ticks) / 1e6)
    assert _statuses(api, 2) == [200, 429]
    assert int(api.get(SHEETS).headers["Retry-After"]) == 60


@pytest.mark.parametrize("header", ["Bearer {}", "Basic {}", "{}"])
def test_a_header_that_says_something_else_each_time_is_still_one_client(app, header):
    api = app(CFP_API_RATE_LIMIT="3 per hour", CFP_API_TOKENS=f"ana:{_digest('t')}")
    given = [api.get(SHEETS, headers={"Authorization": header.format(n)}).status_code for n in range(5)]
    assert given == [200, 200, 200, 429, 429]


@pytest.mark.parametrize(("path", "method", "status"), [("/nothing", "GET", 404), (SHEETS, "PUT", 405)])
def test_what_is_not_there_counts_too(app, path, method, status):
    api = app(CFP_API_RATE_LIMIT="3 per hour")
    assert _statuses(api, 4, path, method) == [status, status, status, 429]


def test_an_answer_within_the_limit_says_where_one_stands_and_not_to_wait(app):
    answer = app(CFP_API_RATE_LIMIT="3 per hour").get(SHEETS)
    assert answer.headers["X-RateLimit-Remaining"] == "2"
    assert "Retry-After" not in answer.headers
    assert "X-RateLimit-Limit" not in app().get(SHEETS).headers


def test_a_client_is_told_apart_behind_a_stated_number_of_proxies(app):
    """
    What a client itself writes into X-Forwarded-For stands before what the proxies add.
    """

    def statuses(api, *forwarded):
        return [api.get(SHEETS, headers={"X-Forwarded-For": each}).status_code for each in forwarded]

    one = {"CFP_API_RATE_LIMIT": "1 per hour"}
    assert statuses(app(**one), "192.0.2.1", "192.0.2.2") == [200, 429]
    behind = app(**one, CFP_API_TRUSTED_PROXIES="1")
    assert statuses(behind, "192.0.2.1", "192.0.2.2", "9.9.9.9, 192.0.2.1") == [200, 200, 429]
    behind = app(**one, CFP_API_TRUSTED_PROXIES="2")
    assert statuses(behind, "192.0.2.1, 10.0.0.1", "9.9.9.9, 192.0.2.1, 10.0.0.1") == [200, 429]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:52814", "198.51.100.7"),
        ("[2001:db8:1:2::9]:52814", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_all_addresses_of_a_network_are_one_client(address, key):
    assert address_key(address) == key


# --- Wrong tokens ---


@pytest.mark.parametrize(
    ("path", "method", "options"),
    [
        (PEOPLE, "POST", {"json": {}}),
        ("/api/_internal/push", "GET", {}),
        ("/api/_internal/reload-data", "POST", {}),
        ("/status", "GET", {}),
    ],
)
def test_wrong_tokens_have_a_limit_of_their_own(app, monkeypatch, path, method, options):
    """
    Who has the right token is let in all the same, from the same address.
    """
    api = app(
        CFP_API_TOKENS=f"ana:{_digest('t')}", CFP_ADMIN_TOKEN=ADMIN, CFP_DATA_RELOAD_SECRET="a-reload-secret"
    )
    now = time.time()
    with monkeypatch.context() as still:  # or the window would slide meanwhile, and let one more in
        still.setattr(time, "time", lambda: now)
        tried = _statuses(api, _A_FEW + 2, path, method, headers=_as("wrong"), **options)
    assert tried == [401] * _A_FEW + [429] * 2
    right = {PEOPLE: "t", "/api/_internal/reload-data": "a-reload-secret"}.get(path, ADMIN)
    assert api.open(path, method=method, headers=_as(right), **options).status_code not in (401, 429)
    assert _statuses(api, 2) == [200, 200]


def test_a_request_without_a_token_is_no_wrong_token(app):
    api = app(CFP_API_TOKENS=f"ana:{_digest('t')}")
    assert set(_statuses(api, _A_FEW + 2, PEOPLE, "POST", json={})) == {401}


# --- The file of tokens ---


@pytest.fixture
def tokens(tmp_path):
    """
    Replaces the file of tokens, as an operator or Kubernetes does.
    """
    path = tmp_path / "tokens"

    def write(text):
        draft = path.with_suffix(".new")
        draft.write_text(text)
        draft.rename(path)
        return path

    return write


def test_a_new_writer_needs_no_restart(app, tokens):
    path = tokens(f"# one a line\nana:{_digest('a')}\n")
    api = app(CFP_API_TOKENS_PATH=str(path), CFP_API_TOKENS=f"old:{_digest('o')}")

    def may(token, name):
        return api.put(f"{PEOPLE}/{name}", json={"slug": name, "name": "X"}, headers=_as(token)).status_code

    assert (may("a", "x1"), may("o", "x2"), may("b", "x3")) == (201, 201, 401)
    tokens(f"ana:{_digest('a2')}\nben:{_digest('b')}:people\n")
    assert (may("a", "x4"), may("a2", "x5"), may("b", "x6"), may("o", "x7")) == (401, 201, 201, 201)
    tokens("")
    assert (may("a2", "x8"), may("o", "x9")) == (401, 201)


def test_a_file_of_tokens_that_is_wrong_keeps_those_that_were_known(app, tokens, capfd):
    path = tokens(f"ana:{_digest('a')}\n")
    api = app(CFP_API_TOKENS_PATH=str(path))

    def status():
        return api.post(PEOPLE, json={}, headers=_as("a")).status_code

    assert status() == 422
    for spoil in (lambda: tokens(f"ana {_digest('b')}"), lambda: os.unlink(path)):
        spoil()
        assert (status(), status()) == (422, 422)
        logged = capfd.readouterr().err
        assert logged.count("api.tokens_unreadable") == 1
        assert _digest("b") not in logged
    tokens(f"ben:{_digest('b')}")
    assert status() == 401


@pytest.mark.parametrize("text", [None, "ana:short"])
def test_a_wrong_file_of_tokens_ends_the_start(env, tmp_path, text):
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit):
        create_app({**env, "CFP_API_TOKENS_PATH": str(path)})


# --- Scopes ---


@pytest.fixture
def scoped(app):
    def build(scopes, read="token"):
        return app(CFP_API_READ=read, CFP_API_TOKENS=f"ana:{_digest('t')}{scopes}")

    return build


@pytest.mark.parametrize(
    ("scopes", "readable", "tells_of_all"),
    [
        ("", {"people", "places"}, True),
        (":people", {"people", "places"}, True),
        (":people:places", {"people", "places"}, False),
        ("::places", {"places"}, False),
        ("::*", {"people", "places"}, True),
        (":people:people", {"people"}, False),
    ],
)
def test_a_token_reads_the_sheets_of_its_scope(scoped, scopes, readable, tells_of_all):
    """
    What it may write it may read. Commits and events tell of every sheet.
    """
    api = scoped(scopes)
    for sheet in ("people", "places"):
        record = api.get(f"{SHEETS}/{sheet}/records", headers=_as("t"))
        assert record.status_code == (200 if sheet in readable else 403), sheet
        for address in (
            f"{SHEETS}/{sheet}",
            f"{SHEETS}/{sheet}/records/x",
            f"{SHEETS}/{sheet}/records/x/history",
        ):
            answer = api.get(address, headers=_as("t"))
            assert (answer.status_code != 403) == (sheet in readable), address
    for address in ("/api/commits", "/api/events?last_event_id=x"):
        assert (api.get(address, headers=_as("t")).status_code != 403) == tells_of_all
    assert api.get(SHEETS, headers=_as("t")).status_code == 200
    assert api.get("/openapi.json", headers=_as("t")).status_code == 200


def test_a_token_may_read_and_not_write(scoped):
    api = scoped("::*", read="open")
    answer = api.post(PEOPLE, json={"slug": "x", "name": "X"}, headers=_as("t"))
    assert (answer.status_code, answer.json["code"]) == (403, "scope-missing")


def test_where_reads_are_open_a_scope_closes_nothing(scoped):
    assert scoped("::places", read="open").get(PEOPLE, headers=_as("t")).status_code == 200


# --- Tickets of event streams ---

TICKETS, STREAM = "/api/events/ticket", "/api/events"


def _stream(api, ticket, address=STREAM):
    answer = api.get(address, query_string={"ticket": ticket})
    answer.close()
    return answer.status_code


def test_a_ticket_opens_the_event_stream_and_nothing_else(scoped, env):
    """
    Any process of the repository accepts it.
    """
    api, other = scoped(""), scoped("")
    issued = api.get(TICKETS, headers=_as("t"))
    ticket = issued.json["ticket"]
    assert issued.json["expires_in_s"] == EVENTS_LASTS_S
    assert issued.headers["Cache-Control"] == "no-store"
    assert (_stream(api, ticket), _stream(other, ticket)) == (200, 200)
    for address in (TICKETS, SHEETS, PEOPLE, "/api/commits", "/status/events"):
        assert _stream(api, ticket, address) in (401, 503), address
    assert api.get(SHEETS, headers=_as(ticket)).status_code == 401


def test_only_who_may_read_everything_gets_a_ticket(scoped):
    assert scoped("").get(TICKETS).status_code == 401
    assert scoped(":people:people").get(TICKETS, headers=_as("t")).status_code == 403


def test_a_ticket_that_is_not_valid_is_refused_with_the_remedy(scoped, monkeypatch):
    api = scoped("")
    ticket = api.get(TICKETS, headers=_as("t")).json["ticket"]
    for wrong in ("", "ferry_", ticket[:-6] + "AAAAAA", "ferry_é", "x" * 5000):
        assert _stream(api, wrong) == 401, wrong
    now = time.time()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + EVENTS_LASTS_S + 2)
    late = api.get(STREAM, query_string={"ticket": ticket})
    assert (late.status_code, late.json["code"]) == (401, "ticket-invalid")
    assert TICKETS in late.json["hint"]


def test_a_ticket_stands_in_no_log(scoped):
    ticket = scoped("").get(TICKETS, headers=_as("t")).json["ticket"]
    for line in (f"GET {STREAM}?ticket={ticket} HTTP/1.1", f'{{"ticket": "{ticket}"}}'):
        assert ticket[10:] not in redact(line)


def test_a_page_of_another_origin_may_have_a_ticket_where_it_may_read(env):
    app = create_app({**env, "CFP_API_CORS_ORIGINS": "https://www.example.org"}, open_access=True)
    answer = app.test_client().get(TICKETS, headers={"Origin": "https://www.example.org"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://www.example.org"


def test_every_answer_forbids_guessing_its_type(app):
    api = app()
    for path in (SHEETS, "/nothing", "/api/health", "/metrics", "/status", f"{PEOPLE}/x"):
        assert api.get(path).headers["X-Content-Type-Options"] == "nosniff", path
