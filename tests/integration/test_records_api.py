"""
What client developers expect of the records API beyond the first write.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin

import gitsheets
import pytest

from ferry.app import create_app
from ferry.app.dev.stack import accepts, free_port
from ferry.app.records.codec import fields_of
from tests import nursery
from tests.parts import clean_environment, wait_until

PEOPLE = "/api/sheets/people/records"
EVENTS = "/api/sheets/events/records"


@pytest.fixture
def api(client):
    return client()


def _problem(answer, status, code):
    assert (answer.status_code, answer.json.get("code")) == (status, code), answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.json["hint"]
    return answer.json


def _links(value):
    return {rel: target for target, rel in re.findall(r'<([^>]*)>; rel="([^"]*)"', value)}


def _paths(answer):
    assert answer.status_code == 200, answer.text
    return [each["path"] for each in answer.json["records"]]


@pytest.fixture
def crew(api):
    """
    Five people with numbers and dates, some of which lack some.
    """
    people = [
        {"slug": "ann", "name": "Ann", "joined_year": 2001, "x": {"born": "1980-01-31", "kg": 61.5}},
        {"slug": "bob", "name": "Bob", "joined_year": 2005, "x": {"born": "1990-06-01", "kg": 80}},
        {"slug": "cyd", "name": "Cyd", "joined_year": 2010, "skills": ["git", "sql"]},
        {"slug": "dan", "name": "Dan", "joined_year": 2015, "skills": ["sql"], "active": True},
        {"slug": "eve", "name": "Eve", "active": False},
    ]
    for person in people:
        assert api.put(f"{PEOPLE}/{person['slug']}", json=person).status_code == 201
    return "name[in]=Ann,Bob,Cyd,Dan,Eve"


# --- Reading ---


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("name=Ann&name=Eve", ["ann", "eve"]),
        ("joined_year[gte]=2005&joined_year[lt]=2015", ["bob", "cyd"]),
        ("joined_year[gt]=2010", ["dan"]),
        (".x.kg[lte]=61.5", ["ann"]),
        (".x.born[gt]=1985-01-01", ["bob"]),
        ("skills=sql", ["cyd", "dan"]),
        (".active=true", ["dan"]),
        ("joined_year[ne]=2001", ["bob", "cyd", "dan", "eve"]),
        ("name[eq]=Cyd", ["cyd"]),
        ("joined_year[gte]=2001&sort=-joined_year", ["dan", "cyd", "bob", "ann"]),
        ("sort=joined_year", ["ann", "bob", "cyd", "dan", "eve"]),
        ("sort=.active,-name", ["eve", "dan", "cyd", "bob", "ann"]),
    ],
)
def test_lists_are_filtered_and_sorted(api, crew, query, wanted):
    assert _paths(api.get(f"{PEOPLE}?{crew}&{query}")) == wanted


def test_only_the_fields_that_are_asked_for_are_shown(api, crew):
    answer = api.get(f"{PEOPLE}?name=Ann&fields=name,.x.kg,.nothing")
    assert answer.json["records"] == [{"path": "ann", "record": {"name": "Ann", "x": {"kg": 61.5}}}]


@pytest.mark.parametrize(
    "query",
    [
        "name[like]=a",
        "a[b",
        "[gt]=1",
        "joined_year[gt]=old",
        "joined_year[gt]=nan",
        "sort=",
        "fields=a..b",
        "a.=1",
        "page=2",
        "offset=10",
        "nmae=Ann",
        "active=true",
        "sort=-nmae",
        "sort=active",
        "fields=nmae",
    ],
)
def test_a_query_that_makes_no_sense_is_named(api, query):
    parameter = _problem(api.get(f"{PEOPLE}?{query}"), 400, "query-invalid")["parameter"]
    assert parameter in (query.partition("=")[0], "sort", "fields")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("nmae=Ann", "nmae: the sheet 'people' declares no field 'nmae'; did you mean name?"),
        ("limt=2", "did you mean limit?"),
        ("active=true", "it allows others, which are written .active"),
        ("sort=limit", "sort: the sheet 'people' declares no field 'limit'; it allows"),
    ],
)
def test_a_slip_in_a_query_is_answered_with_the_nearest_name(api, query, said):
    assert said in _problem(api.get(f"{PEOPLE}?{query}"), 400, "query-invalid")["detail"]


def test_a_list_says_how_many_it_finds_if_it_is_asked(api, crew):
    query = f"{PEOPLE}?{crew}&joined_year[exists]=true&limit=1"
    asked = api.get(query, headers={"Prefer": "wait=1, count=exact"})
    assert (asked.json["total"], len(asked.json["records"])) == (4, 1)
    assert asked.headers["Preference-Applied"] == "count=exact"
    for headers in ({}, {"Prefer": "count=planned"}):
        answer = api.get(query, headers=headers)
        assert "total" not in answer.json
        assert "Preference-Applied" not in answer.headers
        assert "Prefer" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "url", [f"{PEOPLE}?sort=-name&q=e%20e&limit=1", "/api/commits?limit=1", f"{PEOPLE}/ann/history"]
)
def test_links_lead_to_the_first_and_the_next_page(api, crew, url):
    """
    They are relative to the address of the request, and show the state of the first page.
    """
    first = api.get(url)
    links = _links(first.headers["Link"])
    assert api.delete(f"{PEOPLE}/eve").status_code == 200
    assert ("next" in links) == (first.json["next_cursor"] is not None)
    assert api.get(urljoin(url, links["first"])).json == first.json
    if "next" in links:
        following = api.get(urljoin(url, links["next"]))
        assert following.json == api.get(f"{url}&cursor={first.json['next_cursor']}").json
        assert _links(following.headers["Link"])["first"] == links["first"]


def test_a_long_link_is_left_out(api, crew):
    answer = api.get(f"{PEOPLE}?limit=1&name[ne]={'x' * 1500}")
    assert answer.json["next_cursor"]
    assert "Link" not in answer.headers


def test_several_records_are_read_by_their_paths(api, crew):
    answer = api.get(f"{PEOPLE}?path=dan&path=ann&path=nobody&path=../x&path=ann&fields=name")
    assert answer.json["records"] == [
        {"path": "ann", "record": {"name": "Ann"}},
        {"path": "dan", "record": {"name": "Dan"}},
    ]
    assert _paths(api.get(f"{PEOPLE}?path=dan&path=ann&joined_year[gt]=2010")) == ["dan"]
    assert _paths(api.get(f"{PEOPLE}?path=nobody")) == []
    too_many = "&".join(f"path={number}" for number in range(101))
    assert _problem(api.get(f"{PEOPLE}?{too_many}"), 400, "query-invalid")["parameter"] == "path"


@pytest.mark.parametrize(
    ("method", "url", "takes"),
    [
        ("GET", "/api/sheets?limit=2", "it takes none"),
        ("GET", "/api/sheets/people?at=main", "it takes none"),
        ("GET", f"{PEOPLE}/ann?fields=name", "it takes at"),
        ("HEAD", f"{PEOPLE}/ann?fields=name", ""),
        ("GET", f"{PEOPLE}/ann/history?page=2", "it takes at, cursor, limit"),
        ("GET", "/api/commits?author=ann", "it takes at, cursor, limit"),
        ("GET", "/api/events?since=1", "it takes last_event_id"),
        ("POST", f"{PEOPLE}?dryrun=true", "did you mean dry_run"),
        ("PUT", f"{PEOPLE}/ann?dry_run=true&force=1", "it takes dry_run"),
        ("PATCH", f"{PEOPLE}/ann?upsert=1", "it takes dry_run"),
        ("DELETE", f"{PEOPLE}/ann?force=1", "it takes dry_run"),
        ("POST", "/api/transactions?dry-run=true", "did you mean dry_run"),
    ],
)
def test_a_parameter_that_an_address_does_not_take_is_refused_and_nothing_is_written(
    api, crew, data, method, url, takes
):
    before = data.head()
    answer = api.open(
        url, method=method, json={"slug": "ann", "name": "Another"} if method != "GET" else None
    )
    assert answer.status_code == 400
    assert data.head() == before
    if method != "HEAD":
        problem = _problem(answer, 400, "query-invalid")
        assert problem["parameter"] == url.rpartition("?")[2].rpartition("&")[2].partition("=")[0]
        assert takes in problem["detail"] + problem["hint"]


def test_what_asks_for_the_health_may_add_a_parameter(api):
    assert api.get("/api/health?unique=1").status_code == 200


def test_a_list_follows_commits_without_reading_everything_again(api, crew, monkeypatch):
    """
    Adding, changing, moving and deleting show in the next list; only what changed is parsed.
    """
    before = _paths(api.get(f"{PEOPLE}?{crew}"))
    parsed = []
    monkeypatch.setattr(
        "ferry.app.store.parsing.fields_of", lambda *args: parsed.append(1) or fields_of(*args)
    )
    api.put(f"{PEOPLE}/fay", json={"slug": "fay", "name": "Ann"})
    api.put(f"{PEOPLE}/ann", json={"slug": "ann2", "name": "Ann"})
    api.patch(f"{PEOPLE}/bob", json={"name": "Zed"})
    api.delete(f"{PEOPLE}/cyd")
    assert before == ["ann", "bob", "cyd", "dan", "eve"]
    assert _paths(api.get(f"{PEOPLE}?{crew}")) == ["ann2", "dan", "eve", "fay"]
    assert len(parsed) == len(["fay", "ann2", "bob"])


def test_a_list_that_was_followed_equals_one_that_was_read(client, data):
    """
    Over nested and date-bucketed paths too, and with files that are no record of the sheet.
    """
    api = client()
    for sheet in ("people", "places", "events"):
        api.get(f"/api/sheets/{sheet}/records?limit=1000")
    api.put(
        f"{EVENTS}/2031/05/fair", json={"slug": "fair", "title": "Fair", "starts_at": "2031-05-06T10:00:00Z"}
    )
    api.put("/api/sheets/places/records/north/hut", json={"district": "north", "slug": "hut", "name": "Hut"})
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    tree = data.git("rev-parse", "main^{tree}")
    blob = data.git("hash-object", "-w", "--stdin", "--path", "x")
    for path in ("people/deep/er.toml", "people/readme.txt", "events/flat.toml"):
        index = {"GIT_INDEX_FILE": str(data.path / "tmp-index")}
        os.environ.update(index)
        try:
            data.git("read-tree", tree)
            data.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
            tree = data.git("write-tree")
        finally:
            del os.environ["GIT_INDEX_FILE"]
    commit = data.git("commit-tree", "-p", "main", "-m", "odd files", tree)
    data.git("update-ref", "refs/heads/main", commit)
    fresh = client()
    for sheet in ("people", "places", "events"):
        url = f"/api/sheets/{sheet}/records?limit=1000"
        assert api.get(url).json == fresh.get(url).json
        assert api.get(url).json["records"]


def test_pages_of_a_sorted_list_fit_together_while_commits_arrive(api, crew):
    url = f"{PEOPLE}?{crew}&sort=-name&limit=2"
    first = api.get(url).json
    api.put(f"{PEOPLE}/zoe", json={"slug": "zoe", "name": "Eve"})
    api.delete(f"{PEOPLE}/bob")
    second = api.get(f"{url}&cursor={first['next_cursor']}").json
    third = api.get(f"{url}&cursor={second['next_cursor']}").json
    assert [each["path"] for page in (first, second, third) for each in page["records"]] == [
        "eve", "dan", "cyd", "bob", "ann",
    ]  # fmt: skip
    assert third["next_cursor"] is None
    _problem(api.get(f"{PEOPLE}?sort=name&cursor={first['next_cursor']}"), 400, "cursor-invalid")


def test_the_past_can_be_read(api, crew, data):
    then = data.head()
    api.patch(f"{PEOPLE}/ann", json={"name": "Anna"})
    api.delete(f"{PEOPLE}/bob")
    assert api.get(f"{PEOPLE}/ann?at={then}").json["record"]["name"] == "Ann"
    assert api.get(f"{PEOPLE}/bob?at={then}").status_code == 200
    assert "bob" in _paths(api.get(f"{PEOPLE}?{crew}&at={then}"))
    assert "bob" not in _paths(api.get(f"{PEOPLE}?{crew}"))
    for at in ("main", "0" * 40, "HEAD" + 18 * "^0", then[:10], ""):
        answer = api.get(f"{PEOPLE}/ann?at={at}")
        assert answer.status_code == 404 if at else 200


def test_history_says_who_changed_what(api, data):
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    api.patch(f"{PEOPLE}/ann", json={"email": "ann@example.org"})
    api.put(f"{PEOPLE}/bob", json={"slug": "bob", "name": "Bob"})
    api.delete(f"{PEOPLE}/ann")
    answer = api.get(f"{PEOPLE}/ann/history?limit=2").json
    older = api.get(f"{PEOPLE}/ann/history?limit=2&cursor={answer['next_cursor']}").json
    changes = answer["history"] + older["history"]
    assert [change["trailers"]["Action"] for change in changes] == [
        "record.delete",
        "record.patch",
        "record.put",
    ]
    assert [change["patch"] for change in changes] == [
        [{"op": "remove", "path": ""}],
        [{"op": "add", "path": "/email", "value": "ann@example.org"}],
        [{"op": "add", "path": "", "value": {"slug": "ann", "name": "Ann"}}],
    ]
    assert older["next_cursor"] is None
    _problem(api.get(f"{PEOPLE}/nobody/history"), 404, "record-not-found")


@pytest.mark.parametrize(
    "url", ["/api/sheets", "/api/sheets/people", f"{PEOPLE}?limit=3", "/api/commits", "/openapi.json"]
)
def test_what_the_client_has_already_is_not_sent_again(api, url):
    first = api.get(url)
    again = api.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    if url in ("/api/commits", f"{PEOPLE}?limit=3"):
        changed = api.get(url, headers={"If-None-Match": first.headers["ETag"]})
        assert changed.status_code == 200


# --- Writing ---


def test_a_merge_patch_changes_some_fields(api):
    api.put(
        f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann", "email": "a@example.org", "x": {"a": 1, "b": 2}}
    )
    before = api.get(f"{PEOPLE}/ann").headers["ETag"]
    answer = api.patch(
        f"{PEOPLE}/ann",
        data=json.dumps({"email": None, "x": {"b": 3, "c": [1]}}),
        content_type="application/merge-patch+json",
        headers={"If-Match": before},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json["record"] == {"name": "Ann", "slug": "ann", "x": {"a": 1, "b": 3, "c": [1]}}
    _problem(api.patch(f"{PEOPLE}/ann", json={}, headers={"If-Match": before}), 412, "precondition-failed")
    assert api.patch(f"{PEOPLE}/ann", json={"name": "Ann"}).json["commit"] is None
    _problem(api.patch(f"{PEOPLE}/nobody", json={}), 404, "record-not-found")
    _problem(api.patch(f"{PEOPLE}/ann", json={"name": None}), 422, "validation-failed")
    other = api.patch(f"{PEOPLE}/ann", data="[]", content_type="application/json-patch+json")
    _problem(other, 415, "media-type-unsupported")


def test_a_patch_of_the_path_moves_the_record_in_one_commit(api, data):
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    count = int(data.git("rev-list", "--count", "main"))
    answer = api.patch(f"{PEOPLE}/ann", json={"slug": "anna"})
    assert (answer.status_code, answer.json["path"]) == (200, "anna")
    assert answer.headers["Location"] == f"{PEOPLE}/anna"
    assert api.get(f"{PEOPLE}/ann").status_code == 404
    assert int(data.git("rev-list", "--count", "main")) == count + 1


def test_what_a_client_reads_and_sends_back_changes_nothing(client, data):
    """
    Dates, and floats that a client writes without a point, keep their kind.
    """
    text = (
        'slug = "fair"\nstarts_at = 2031-05-06T10:00:00Z\nprice = 2.0\ntitle = "Fair"\n'
        "ratio = inf\ncount = 3\nmoments = [2031-05-06T10:00:00Z]\n"
    )
    blob = subprocess.run(
        ["git", "-C", str(data.path), "hash-object", "-w", "--stdin"],
        input=text,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()
    os.environ["GIT_INDEX_FILE"] = str(data.path / "tmp-index")
    try:
        data.git("read-tree", "main")
        data.git("update-index", "--add", "--cacheinfo", f"100644,{blob},events/2031/05/fair.toml")
        tree = data.git("write-tree")
    finally:
        del os.environ["GIT_INDEX_FILE"]
    data.git("update-ref", "refs/heads/main", data.git("commit-tree", "-p", "main", "-m", "by hand", tree))
    api = client()
    record = api.get(f"{EVENTS}/2031/05/fair").json["record"]
    assert record["starts_at"] == "2031-05-06T10:00:00Z"
    as_javascript_does = {**record, "price": 2, "count": 3.0}
    answer = api.put(f"{EVENTS}/2031/05/fair", json=as_javascript_does)
    assert answer.status_code == 200, answer.text
    stored = data.git("show", "main:events/2031/05/fair.toml")
    for line in (
        "starts_at = 2031-05-06T10:00:00Z",
        "price = 2.0",
        "ratio = inf",
        "count = 3",
    ):
        assert line in stored.splitlines()
    moved = api.patch(f"{EVENTS}/2031/05/fair", json={"starts_at": "2031-06-01T10:00:00+02:00", "price": 3})
    assert moved.json["path"] == "2031/06/fair"
    assert "price = 3.0" in data.git("show", "main:events/2031/06/fair.toml")


@pytest.mark.parametrize(
    ("value", "field"), [([1, None], "x"), (2**64, "x"), ({"deep": [2**63]}, "x.deep.0"), ("\ud800", "x")]
)
def test_what_toml_cannot_hold_is_named(api, data, value, field):
    before = data.head()
    body = json.dumps({"slug": "ann", "name": "Ann", "x": value})
    problem = _problem(api.post(PEOPLE, data=body, content_type="application/json"), 422, "validation-failed")
    assert [error["field"].startswith(field) for error in problem["errors"]] == [True]
    assert data.head() == before


def test_two_kinds_of_writers_conflict_only_where_they_asked_to(api):
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    seen = api.get(f"{PEOPLE}/ann").headers["ETag"]
    api.patch(f"{PEOPLE}/ann", json={"name": "Anna"})
    assert api.patch(f"{PEOPLE}/ann", json={"email": "a@example.org"}).status_code == 200
    _problem(api.delete(f"{PEOPLE}/ann", headers={"If-Match": seen}), 412, "precondition-failed")
    _problem(
        api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "A"}, headers={"If-None-Match": "*"}),
        412,
        "precondition-failed",
    )


# --- Transactions ---


def test_a_transaction_is_one_commit_over_several_sheets(api, data):
    count = int(data.git("rev-list", "--count", "main"))
    answer = api.post(
        "/api/transactions",
        json={
            "message": "Move in",
            "operations": [
                {"op": "create", "sheet": "people", "record": {"slug": "ann", "name": "Ann"}},
                {
                    "op": "upsert",
                    "sheet": "places",
                    "record": {"district": "north", "slug": "hut", "name": "Hut"},
                },
                {"op": "patch", "sheet": "people", "path": "ann", "record": {"email": "a@example.org"}},
                {"op": "upsert", "sheet": "people", "path": "bob", "record": {"slug": "bob", "name": "Bob"}},
                {"op": "delete", "sheet": "people", "path": "bob"},
            ],
        },
    )
    assert answer.status_code == 200, answer.text
    assert [result["path"] for result in answer.json["results"]] == ["ann", "north/hut", "ann", "bob", "bob"]
    assert answer.json["results"][2]["record"]["email"] == "a@example.org"
    assert int(data.git("rev-list", "--count", "main")) == count + 1
    message = data.git("log", "-1", "--format=%B")
    assert message.startswith("dev: POST /api/transactions\n\nMove in\n\nAction: transaction\n")
    assert message.count("Subject-Path: ") == 3
    assert api.get(f"{PEOPLE}/bob").status_code == 404


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ({"op": "create", "sheet": "people", "record": {"slug": "x"}}, 422, "validation-failed"),
        ({"op": "delete", "sheet": "people", "path": "nobody"}, 404, "record-not-found"),
        ({"op": "patch", "sheet": "nothing", "path": "a", "record": {}}, 404, "sheet-not-found"),
        (
            {"op": "delete", "sheet": "people", "path": "ann", "if_match": '"old"'},
            412,
            "precondition-failed",
        ),
        ({"op": "move", "sheet": "people"}, 400, "transaction-invalid"),
        ({"op": "delete", "sheet": "people"}, 400, "transaction-invalid"),
        ({"op": "upsert", "sheet": "people", "record": []}, 400, "transaction-invalid"),
        ({"op": "upsert", "sheet": 7, "record": {}}, 400, "transaction-invalid"),
        ("delete", 400, "transaction-invalid"),
        ({"op": "upsert", "sheet": "people", "record": {}, "pth": "x"}, 400, "transaction-invalid"),
    ],
)
def test_one_wrong_operation_undoes_all(api, data, operation, status, code):
    before = data.head()
    first = {"op": "create", "sheet": "people", "record": {"slug": "ann", "name": "Ann"}}
    problem = _problem(api.post("/api/transactions", json={"operations": [first, operation]}), status, code)
    assert problem["operation"] == 1
    assert data.head() == before


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"operations": []},
        {"operations": {}},
        {"operations": [{}] * 1001},
        {"message": 7, "operations": []},
        {"operations": [{"op": "delete", "sheet": "people", "path": "x"}], "mesage": ""},
    ],
)
def test_a_transaction_that_is_none_is_refused(api, body):
    _problem(api.post("/api/transactions", json=body), 400, "transaction-invalid")


# --- Whose commit, and why ---


def test_a_commit_says_who_and_why_and_nothing_else(api, data):
    api.put(
        f"{PEOPLE}/ann",
        json={"slug": "ann", "name": "Ann"},
        headers={
            "Commit-Message": "On%20her%20own%20wish%3A%20%C3%BCber",
            "User-Agent": "secret-agent",
            "X-Request-Id": "not fit to be one",
        },
    )
    message = data.git("log", "-1", "--format=%B")
    assert message.startswith(f"dev: PUT {PEOPLE}/ann\n\nOn her own wish: über\n\nAction: record.put\n")
    assert "secret-agent" not in message
    assert "127.0.0.1" not in message
    assert "not fit" not in message


@pytest.mark.parametrize("said", ["a%0AActor: root", "%00", "%1b[31m", "%FF", "x" * 501, "%E2%80%A8"])
def test_a_message_that_could_forge_or_break_a_commit_is_refused(api, data, said):
    before = data.head()
    answer = api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}, headers={"Commit-Message": said})
    _problem(answer, 400, "message-invalid")
    assert data.head() == before


def test_the_addresses_host_can_be_set(env, data):
    api = create_app({**env, "CFP_API_HOST": "data.example.org"}, open_access=True).test_client()
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    assert data.git("log", "-1", "--format=%ae") == "dev@users.noreply.data.example.org"


# --- Repeating a write ---

KEY = {"Idempotency-Key": "3f2c9f0e-6f5e-4c7e-9a44-0a1d2d6d1c11"}


def test_a_write_that_is_repeated_is_made_once(client, api, data):
    """
    In another process, too, and after a restart.
    """
    first = api.post(PEOPLE, json={"slug": "ann", "name": "Ann"}, headers=KEY)
    count = data.git("rev-list", "--count", "main")
    for each in (api, client()):
        again = each.post(PEOPLE, json={"slug": "ann", "name": "Ann"}, headers=KEY)
        assert again.status_code == first.status_code == 201
        assert again.json == first.json
        assert again.headers["ETag"] == first.headers["ETag"]
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
    assert data.git("rev-list", "--count", "main") == count
    _problem(api.post(PEOPLE, json={"slug": "bob", "name": "B"}, headers=KEY), 422, "idempotency-key-reused")
    for bad in ("", "ä", "x" * 256, "a b"):
        answer = api.post(PEOPLE, json={"slug": "b", "name": "B"}, headers={"Idempotency-Key": bad})
        _problem(answer, 400, "idempotency-key-invalid")


def test_a_write_that_is_repeated_before_the_first_is_on_the_branch_is_made_once(api, data):
    """
    Both wait for their turn in one process, and land together.
    """
    count = int(data.git("rev-list", "--count", "main"))
    store = api.application.extensions["ferry"].store
    with ThreadPoolExecutor(2) as pool:
        with store._writers.turn():
            writing = [
                pool.submit(
                    api.application.test_client().post,
                    PEOPLE,
                    json={"slug": "ann", "name": "Ann"},
                    headers=KEY,
                )
                for _ in range(2)
            ]
            wait_until(lambda: len(store._writers._queue) == 3, what="both to wait")
            store._writers._group.closes_at += 30
        first, second = (each.result(30) for each in writing)

    assert first.json == second.json
    assert {"Idempotent-Replayed" in each.headers for each in (first, second)} == {True, False}
    assert int(data.git("rev-list", "--count", "main")) == count + 1
    assert data.head() == first.json["commit"]["hash"]


def test_a_write_that_was_refused_may_be_corrected_and_sent_again(api):
    assert api.post(PEOPLE, json={"slug": "ann"}, headers=KEY).status_code == 422
    assert api.post(PEOPLE, json={"slug": "ann", "name": "Ann"}, headers=KEY).status_code == 201


@pytest.mark.parametrize("dies", ["before its commit", "after its commit"])
def test_a_writer_that_died_before_it_answered_wrote_once(env, client, data, dies):
    """
    The process is killed between keeping the answer and telling it; the client asks again.
    """
    where = (
        "ferry.app.store.store.move_ref"
        if dies == "before its commit"
        else "ferry.app.store.idempotency.IdempotencyStore.finish"
    )
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from unittest import mock
        from ferry.app import create_app
        api = create_app(dict(os.environ), open_access=True).test_client()
        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        with mock.patch("{where}", die):
            api.post("{PEOPLE}", json={{"slug": "ann", "name": "Ann"}}, headers={KEY!r})
        """
    )
    before = int(data.git("rev-list", "--count", "main"))
    dead = nursery.run([sys.executable, "-c", script], env={**clean_environment(), **env}, timeout=60)
    assert dead.returncode == -signal.SIGKILL

    answer = client().post(PEOPLE, json={"slug": "ann", "name": "Ann"}, headers=KEY)
    assert answer.status_code == 201, answer.text
    assert answer.json["commit"]["hash"] == data.head()
    assert answer.json["record"] == {"slug": "ann", "name": "Ann"}
    assert int(data.git("rev-list", "--count", "main")) == before + 1


# --- Waiting for the remote ---


def test_a_client_may_wait_for_the_remote(client, worker, remote):
    api = client()
    worker()
    answer = api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}, headers={"Prefer": "wait=10"})
    assert answer.status_code == 201
    assert answer.headers["Preference-Applied"] == "wait"
    assert answer.json["commit"]["push"] == {"origin": "pushed"}
    assert remote.head() == answer.json["commit"]["hash"]


def test_waiting_has_an_end(api):
    begun = time.monotonic()
    answer = api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}, headers={"Prefer": "foo, wait=1"})
    assert 0.9 < time.monotonic() - begun < 30
    assert answer.status_code == 202
    assert answer.json["commit"]["push"] == {"origin": "pending"}
    ignored = api.patch(f"{PEOPLE}/ann", json={"name": "A"}, headers={"Prefer": "wait=soon"})
    assert (ignored.status_code, ignored.headers.get("Preference-Applied")) == (200, None)


def test_in_sync_mode_every_write_waits(env, worker, remote):
    env["CFP_DATA_PUSH_MODE"] = "sync"
    api = create_app(env, open_access=True).test_client()
    worker()
    for number in range(3):
        answer = api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": f"Ann {number}"})
        assert answer.json["commit"]["push"] == {"origin": "pushed"}
        assert remote.head() == answer.json["commit"]["hash"]


# --- Attachments ---


def test_an_attachment_goes_up_and_comes_down(api, data):
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    photo, url = os.urandom(5000), f"{PEOPLE}/ann/attachments/photo.jpg"
    up = api.put(url, data=photo)
    assert (up.status_code, up.headers["Location"]) == (201, url)
    assert up.json["attachment"] == {"name": "photo.jpg", "type": "image/jpeg", "bytes": 5000}

    down = api.get(url)
    assert (down.data, down.content_type) == (photo, "image/jpeg")
    assert down.headers["ETag"] == up.headers["ETag"]
    assert down.headers["X-Content-Type-Options"] == "nosniff"
    assert api.get(url, headers={"If-None-Match": down.headers["ETag"]}).status_code == 304
    part = api.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.data) == (206, photo[10:20])
    assert part.headers["Content-Range"] == "bytes 10-19/5000"
    assert api.get(url, headers={"Range": "bytes=9000-"}).status_code == 416
    listed = api.get(f"{PEOPLE}/ann/attachments").json["attachments"]
    assert listed == [
        {"name": "photo.jpg", "type": "image/jpeg", "bytes": 5000, "etag": down.headers["ETag"]}
    ]

    assert api.put(url, data=b"new", headers={"If-Match": down.headers["ETag"]}).status_code == 200
    _problem(api.put(url, data=b"x", headers={"If-None-Match": "*"}), 412, "precondition-failed")
    api.patch(f"{PEOPLE}/ann", json={"slug": "anna"})
    assert api.get(f"{PEOPLE}/anna/attachments/photo.jpg").data == b"new"
    assert api.delete(f"{PEOPLE}/anna/attachments/photo.jpg").status_code == 200
    _problem(api.get(f"{PEOPLE}/anna/attachments/photo.jpg"), 404, "attachment-not-found")
    _problem(api.delete(f"{PEOPLE}/anna/attachments/photo.jpg"), 404, "attachment-not-found")


def test_a_record_goes_with_its_attachments_and_with_no_other_record(api, data):
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    api.put(f"{PEOPLE}/ann/attachments/a.txt", data=b"a")
    api.delete(f"{PEOPLE}/ann")
    assert "people/ann" not in data.git("ls-tree", "-r", "--name-only", "main")


@pytest.fixture
def things(api, data):
    """
    The URL of a sheet whose records may have any path.
    """
    with gitsheets.transact(
        str(data.path), "declare", 1_700_000_000, parent="refs/heads/main", branch="refs/heads/main",
        author=("Ann", "ann@example.org"),
    ) as transaction:  # fmt: skip
        transaction.write_file(
            ".gitsheets/things.toml", "[gitsheet]\nroot = 'things'\npath = '${{ id/** }}'\n"
        )
    return "/api/sheets/things/records"


def test_no_file_takes_the_place_of_a_directory_or_the_other_way_round(api, data, things):
    for name in ("ann", "ann.toml", "bob.toml"):
        assert api.put(f"{things}/{name}", json={"id": name}).status_code == 201
    api.put(f"{things}/bob.toml/attachments/a.txt", data=b"a")
    before = data.head()

    for answer in (
        api.put(f"{things}/bob", json={"id": "bob"}),  # bob.toml holds the attachment
        api.put(f"{things}/ann.toml/attachments/a.txt", data=b"a"),  # ann.toml is the record of ann
        api.put(f"{things}/ann.toml/x", json={"id": "ann.toml/x"}),
    ):
        assert "both a file and a directory" in _problem(answer, 422, "path-invalid")["detail"]
    assert data.head() == before


@pytest.mark.parametrize(
    "path",
    [
        "a/" * 600 + "a", "a/../b", "a/.git/b", "a//b", f"a/{'b' * 251}",
        "GIT~1/a", "a/.git ./b", "a/x\\.Git/b", "a/.git::$INDEX/b", ".gitmodules/a", "a/gi7eba~1/b",
    ],
)  # fmt: skip
def test_a_path_that_no_checkout_could_hold_is_refused(api, data, things, path):
    before = data.head()
    _problem(api.post(things, json={"id": path}), 422, "path-invalid")
    assert data.head() == before


@pytest.mark.parametrize(
    "name",
    [
        "x.toml",
        "..",
        "a%2Fb",
        "%0A",
        ".git",
        "x" * 256,
        "git~1",
        ".GIT.",
        ".gitmodules",
        ".gitattributes",
        "a%5Cgit~1",
    ],
)
def test_an_attachment_that_could_be_something_else_is_refused(api, data, name):
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    before = data.head()
    answer = api.put(f"{PEOPLE}/ann/attachments/{name}", data=b"x")
    assert 400 <= answer.status_code < 500
    assert answer.content_type == "application/problem+json"
    assert data.head() == before


def test_attachments_have_a_size_of_their_own(env):
    limits = {"CFP_API_MAX_BODY": "1k", "CFP_API_MAX_ATTACHMENT": "2k"}
    api = create_app({**env, **limits}, open_access=True).test_client()
    api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    url = f"{PEOPLE}/ann/attachments/a.bin"
    assert api.put(url, data=b"x" * 2048).status_code == 201
    _problem(api.put(url, data=b"x" * 2049), 413, "body-too-large")
    _problem(api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "A" * 1100}), 413, "body-too-large")
    _problem(api.put(f"{PEOPLE}/nobody/attachments/a.bin", data=b"x"), 404, "record-not-found")


# --- Who may ---


def test_a_token_writes_its_sheets_and_no_others(env):
    tokens = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("all", "some")}
    env["CFP_API_TOKENS"] = f"all:{tokens['all']} some:{tokens['some']}:people"
    api = create_app(env).test_client()

    def put(token, sheet, record):
        path = f"/api/sheets/{sheet}/records"
        return api.post(path, json=record, headers={"Authorization": f"Bearer {token}"})

    place = {"district": "north", "slug": "hut", "name": "Hut"}
    assert put("some", "people", {"slug": "ann", "name": "Ann"}).status_code == 201
    _problem(put("some", "places", place), 403, "scope-missing")
    assert put("all", "places", place).status_code == 201
    wish = {"operations": [{"op": "delete", "sheet": "places", "path": "north/hut"}]}
    answer = api.post("/api/transactions", json=wish, headers={"Authorization": "Bearer some"})
    _problem(answer, 403, "scope-missing")


def test_reads_may_ask_for_a_token(env):
    env["CFP_API_READ"] = "token"
    env["CFP_API_TOKENS"] = f"ana:{hashlib.sha256(b't').hexdigest()}"
    api = create_app(env).test_client()
    for url in (PEOPLE, "/api/sheets", "/api/commits", "/openapi.json", "/api/events", "/api/transactions"):
        assert api.get(url).status_code in (401, 405), url
    assert api.get(PEOPLE, headers={"Authorization": "Bearer t"}).status_code == 200
    assert api.get("/api/health").status_code == 200


def test_other_origins_are_let_in_where_they_are_named(env):
    def allowed(app, origin):
        answer = app.test_client().get("/api/sheets", headers={"Origin": origin})
        return answer.headers.get("Access-Control-Allow-Origin")

    assert allowed(create_app(env, open_access=True), "https://www.example.org") is None
    named = create_app({**env, "CFP_API_CORS_ORIGINS": "https://www.example.org"}, open_access=True)
    assert allowed(named, "https://www.example.org") == "https://www.example.org"
    assert allowed(named, "https://evil.example") is None


# --- Events ---


class _Stream:
    """
    A client of the event stream, over a real connection.
    """

    def __init__(self, port, last_event_id=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(
            "GET", "/api/events", headers={"Last-Event-ID": last_event_id} if last_event_id else {}
        )
        self._socket = connection.sock
        self._response = connection.getresponse()
        self.events = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self):
        event = {}
        try:
            for line in self._response:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = value
                elif event.get("data"):
                    self.events.append((event["event"], json.loads(event["data"]), event["id"]))
                    event = {}
        except (OSError, ValueError, AttributeError):
            pass

    def of(self, kind):
        return [data for name, data, _ in self.events if name == kind]

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)  # or to close would wait for what the reader waits for
        self._reading.join(20)
        self._response.close()
        self._socket.close()


@pytest.fixture
def served(env, tmp_path):
    """
    A real gunicorn with two processes.
    """
    tokens = f"ana:{hashlib.sha256(b't').hexdigest()}"
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "2",
        "--threads",
        "4",
    ]
    with (tmp_path / "api.log").open("wb") as log:
        process = nursery.spawn(
            [*command, "--graceful-timeout", "1", "ferry.app:create_app()"],
            env={**clean_environment(), **env, "CFP_API_TOKENS": tokens},
            output=log,
            errors=log,
        )
    try:
        wait_until(lambda: accepts(port), what="gunicorn")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _put(port, slug, name="Ann", **headers):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PEOPLE}/{slug}",
        method="PUT",
        data=json.dumps({"slug": slug, "name": name}).encode(),
        headers={"Authorization": "Bearer t", "Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["commit"]["hash"]


def test_commits_and_pushes_are_told_as_they_happen_and_after_a_break(served, worker, remote):
    worker()
    wait_until(lambda: remote.head(), what="the first push")
    stream = _Stream(served)
    wait_until(lambda: stream.of("state"), what="the state")
    commits = [_put(served, slug) for slug in ("ann", "bob")]
    wait_until(lambda: [c["hash"] for c in stream.of("commit")] == commits, what="both commits")
    wait_until(lambda: stream.of("push") and stream.of("push")[-1]["commit"] == commits[-1], what="the push")
    first_id = next(id_ for name, data, id_ in stream.events if name == "commit")
    stream.close()

    more = [_put(served, slug) for slug in ("cyd", "dan")]
    again = _Stream(served, first_id)
    wait_until(lambda: [c["hash"] for c in again.of("commit")] == [commits[1], *more], what="what was missed")
    wait_until(lambda: again.of("push") and again.of("push")[-1]["commit"] == more[-1], what="the push")
    again.close()


def test_a_waiting_client_that_goes_away_frees_its_thread(served, data):
    """
    Eight threads in all, and eight clients that would wait for a minute, with nobody to push.
    """
    body = json.dumps({"slug": "ann", "name": "Ann"}).encode()
    gone = []
    for number in range(8):
        connection = socket.create_connection(("127.0.0.1", served), timeout=60)
        path = f"{PEOPLE}/ann{number}"
        content = body.replace(b'"ann"', b'"ann%d"' % number)
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nPrefer: wait=60\r\n"
        head += "Content-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        gone.append(connection)
    before = int(data.git("rev-list", "--count", "main"))
    wait_until(lambda: int(data.git("rev-list", "--count", "main")) >= min(before, 10), what="the writes")
    for connection in gone:
        connection.close()
    begun = time.monotonic()
    _put(served, "bob")
    assert time.monotonic() - begun < 40


def test_an_event_id_that_is_none_of_ours_is_refused(api):
    for given in ("x", "origin:" + "0" * 40, ":0,:0"):
        _problem(api.get("/api/events", headers={"Last-Event-ID": given}), 400, "event-id-invalid")


# --- The document ---


def test_the_document_is_openapi_and_holds_every_sheets_schema(api):
    from openapi_spec_validator import validate  # here, because it takes a second

    document = api.get("/openapi.json").json
    validate(document)
    assert document["openapi"] == "3.1.0"
    assert document["components"]["schemas"]["record_people"] == api.get("/api/sheets/people").json["schema"]
    assert "/api/sheets/people/records/{path}" in document["paths"]
    assert not [path for path in document["paths"] if "_internal" in path]


def test_the_page_needs_nothing_from_elsewhere(api):
    page = api.get("/docs")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "//" not in page.text.replace("<!doctype", "")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        with api.get(f"/docs/{name}") as asset:
            assert asset.status_code == 200
    assert api.get("/docs/index.html").status_code == 404
