"""
``ferry dev`` is open to its developer, not to every page that they visit.
"""

from __future__ import annotations

import hashlib
import json

import pytest

from ferry.app import create_app
from ferry.app.clients.neighbours import refusal

PEOPLE = "/api/sheets/people/records"
RECORD = json.dumps({"slug": "ann", "name": "Ann"})
OWN = {"Host": "127.0.0.1:8000"}
JSON = {"Content-Type": "application/json"}
WRITES = [
    ("POST", PEOPLE),
    ("PUT", f"{PEOPLE}/ann"),
    ("PATCH", f"{PEOPLE}/ann"),
    ("DELETE", f"{PEOPLE}/ann"),
    ("PUT", f"{PEOPLE}/ann/attachments/a.txt"),
    ("POST", "/api/transactions"),
    ("POST", "/api/_internal/push"),
    ("POST", "/api/_internal/reload-data"),
    ("POST", "/status/push"),
]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "[::2]",
    "x@y",
]
CROSS_SITE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null", "Sec-Fetch-Site": "none"},
    {"Origin": "http://127.0.0.1:8001"},
    {"Origin": "http://localhost:8000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"},
]
OF_OURS = [
    {},
    {"Origin": "http://127.0.0.1:8000"},
    {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1", "127.1.2.3:80", "[::1]:8000", "LOCALHOST", ""]
)
def test_loopback_is_known_by_any_of_its_names(host):
    assert refusal("GET", {"Host": host}.get) is None


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_host_is_refused_for_reads_too(host, method):
    assert refusal(method, {"Host": host}.get).code == "foreign-host"


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
def test_only_listed_origins_may_write_from_elsewhere(headers):
    assert refusal("POST", {**OWN, **headers}.get, ["*", "https://town.example"]).code == "cross-site"
    assert refusal("GET", {**OWN, **headers}.get) is None
    listed = {**OWN, **headers, "Origin": "https://town.example"}
    assert refusal("POST", listed.get, ["https://town.example"]) is None


@pytest.fixture
def api(client):
    return client()


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_what_changes_state_is_refused_to_other_sites(api, data, method, path):
    before = data.head()
    for headers in CROSS_SITE:
        answer = api.open(path, method=method, data=RECORD, headers={**OWN, **JSON, **headers})
        assert (answer.status_code, answer.json["code"]) == (403, "cross-site")
    answer = api.open(path, method=method, data=RECORD, headers={**JSON, "Host": FOREIGN[0]})
    assert (answer.status_code, answer.json["code"]) == (403, "foreign-host")
    assert data.head() == before


@pytest.mark.parametrize(
    "path", ["/api/sheets", f"{PEOPLE}/ann", "/api/health", "/status", "/metrics", "/docs", "/nowhere"]
)
def test_nothing_is_read_under_a_foreign_name(api, path):
    assert api.get(path, headers={"Host": "evil.example"}).json["code"] == "foreign-host"


def test_a_page_of_ours_and_a_program_write(api):
    for number, headers in enumerate(OF_OURS):
        body = json.dumps({"slug": f"ann{number}", "name": "Ann"})
        assert api.post(PEOPLE, data=body, headers={**OWN, **JSON, **headers}).status_code == 201


_SENT_WITHOUT_ASKING = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]


@pytest.mark.parametrize("kind", _SENT_WITHOUT_ASKING)
def test_a_record_comes_as_json_where_no_token_is_asked_for(env, kind):
    """
    The other types are those that a browser sends for any page without asking.
    """
    api = create_app({**env, "CFP_API_TOKENS": "ann:" + "0" * 64}, open_access=True).test_client()
    for method, path in [*WRITES[:3], WRITES[5]]:
        answer = api.open(path, method=method, data=RECORD, content_type=kind)
        assert (answer.status_code, answer.json["code"]) == (415, "media-type-unsupported")
        assert "application/json" in answer.headers["Accept-Patch" if method == "PATCH" else "Accept-Post"]
    for kind_of_json in ("application/json", "application/json; charset=utf-8"):
        assert api.put(f"{PEOPLE}/ann", data=RECORD, content_type=kind_of_json).status_code in (200, 201)


def test_a_body_of_no_type_is_taken_for_json(api):
    assert api.put(f"{PEOPLE}/ann", data=RECORD).status_code == 201
    assert api.patch(f"{PEOPLE}/ann", data=RECORD).status_code == 200


@pytest.mark.parametrize(
    ("kind", "patched"), list(zip([None, *_SENT_WITHOUT_ASKING], [200, 415, 200, 415], strict=True))
)
def test_where_a_token_is_asked_for_no_page_can_send_one_without_asking(env, kind, patched):
    """
    A patch is of one kind among several; no type, and what `curl -d` names by itself, say of none that it is.
    """
    token = hashlib.sha256(b"secret").hexdigest()
    api = create_app({**env, "CFP_API_TOKENS": f"ann:{token}"}).test_client()
    headers = {"Authorization": "Bearer secret"}
    assert api.put(f"{PEOPLE}/ann", data=RECORD, content_type=kind, headers=headers).status_code == 201
    answer = api.patch(f"{PEOPLE}/ann", data=RECORD, content_type=kind, headers=headers)
    assert answer.status_code == patched


def test_in_production_hosts_are_the_proxys_affair(env):
    api = create_app(env).test_client()
    assert api.get("/api/sheets", headers={"Host": "town.example"}).status_code == 200
