"""
The API as a client sees it, over a real repository and without a broker that answers.
"""

from __future__ import annotations

import hashlib
import subprocess

import pytest
import sentry_sdk

from ferry.app import create_app
from tests.parts import sample, wait_until

JANE = {"slug": "jane", "name": "Jane"}
RECORDS = "/api/sheets/people/records"


@pytest.fixture
def api(env):
    env["CFP_REDIS_URL"] = "redis://127.0.0.1:1/0"
    return create_app(env, open_access=True).test_client()


def _problem(response, status, code):
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    assert response.json["code"] == code
    assert response.json["status"] == status
    assert response.json["detail"]
    assert response.json["hint"]
    return response.json


def test_health(api, data):
    alive = api.get("/api/health").json
    assert alive.keys() == {"status", "version", "revision"}
    assert alive["status"] == "alive"
    build = {"revision": alive["revision"], "version": alive["version"]}
    assert sample(api.get("/metrics").text, "ferry_build_info", **build) == 1
    assert api.get("/api/health/ready").json == {"status": "ready", "commit": data.head()}


def test_a_branch_without_commits_is_not_ready(env):
    env["CFP_DATA_BRANCH"] = "nowhere"
    client = create_app(env, open_access=True).test_client()
    _problem(client.get("/api/health/ready"), 503, "not-ready")
    assert client.get("/api/sheets").json == {"sheets": []}
    assert client.get("/api/commits").json == {"commits": [], "next_cursor": None}


def test_sheets_and_their_schemas(api):
    assert [sheet["name"] for sheet in api.get("/api/sheets").json["sheets"]] == [
        "events",
        "people",
        "places",
    ]
    people = api.get("/api/sheets/people").json
    assert people["config"]["path"] == "${{ slug }}"
    assert people["schema"]["required"] == ["slug", "name"]
    _problem(api.get("/api/sheets/nobody"), 404, "sheet-not-found")
    _problem(api.get("/api/sheets/..%2fpeople"), 404, "not-found")


def test_create_read_replace_delete(api, data):
    created = api.post(RECORDS, json=JANE)
    assert created.status_code == 201
    assert created.json["path"] == "jane"
    assert created.json["record"] == JANE
    assert created.json["commit"] == {"hash": data.head(), "push": {"origin": "pending"}}
    assert created.headers["Location"] == f"{RECORDS}/jane"

    read = api.get(f"{RECORDS}/jane")
    assert read.json == {"path": "jane", "record": JANE}
    assert read.headers["ETag"] == created.headers["ETag"]

    replaced = api.put(f"{RECORDS}/jane", json={**JANE, "name": "Jane II"})
    assert replaced.status_code == 200
    assert replaced.headers["ETag"] != created.headers["ETag"]
    assert api.get(f"{RECORDS}/jane").json["record"]["name"] == "Jane II"

    deleted = api.delete(f"{RECORDS}/jane")
    assert (deleted.status_code, deleted.json["record"]) == (200, None)
    assert deleted.json["commit"]["hash"] == data.head()
    _problem(api.get(f"{RECORDS}/jane"), 404, "record-not-found")
    _problem(api.delete(f"{RECORDS}/jane"), 404, "record-not-found")


def test_a_write_that_changes_nothing_makes_no_commit(api, data):
    api.post(RECORDS, json=JANE)
    before = data.head()
    same = api.put(f"{RECORDS}/jane", json=JANE)
    assert (same.status_code, same.json["commit"]) == (200, None)
    assert data.head() == before


def test_put_creates_where_nothing_was(api):
    response = api.put(f"{RECORDS}/jane", json=JANE)
    assert response.status_code == 201
    assert response.headers["Location"] == f"{RECORDS}/jane"


def test_put_moves_a_record_whose_path_fields_change_in_one_commit(api, data):
    api.post(RECORDS, json=JANE)
    before = data.head()
    moved = api.put(f"{RECORDS}/jane", json={**JANE, "slug": "joan"})
    assert (moved.status_code, moved.json["path"]) == (200, "joan")
    assert moved.headers["Location"] == f"{RECORDS}/joan"
    assert api.get(f"{RECORDS}/jane").status_code == 404
    assert data.git("rev-list", f"{before}..main") == data.head()


def test_put_neither_moves_onto_another_record_nor_from_nowhere(api, data):
    api.post(RECORDS, json=JANE)
    before = data.head()
    _problem(api.put(f"{RECORDS}/jane", json={**JANE, "slug": "ada-quill"}), 409, "record-exists")
    _problem(api.put(f"{RECORDS}/nobody", json={**JANE, "slug": "somebody"}), 422, "path-invalid")
    _problem(api.put(f"{RECORDS}/nobody", json={**JANE, "slug": "ada-quill"}), 422, "path-invalid")
    assert data.head() == before


def test_nested_and_dated_paths(api):
    place = api.post(
        "/api/sheets/places/records", json={"district": "hill", "slug": "well", "name": "Old Well"}
    )
    assert place.json["path"] == "hill/well"
    assert api.get("/api/sheets/places/records/hill/well").json["record"]["name"] == "Old Well"
    event = api.post(
        "/api/sheets/events/records",
        json={"slug": "fair", "title": "Fair", "starts_at": "2026-12-24T10:00:00Z"},
    )
    assert event.json["path"] == "2026/12/fair"
    stored = api.get("/api/sheets/events/records/2026/01/repair-cafe").json["record"]
    assert stored["starts_at"] == "2026-01-05T17:30:00Z"


def test_conditional_requests(api):
    etag = api.post(RECORDS, json=JANE).headers["ETag"]
    url = f"{RECORDS}/jane"
    assert api.get(url, headers={"If-None-Match": etag}).status_code == 304

    _problem(api.put(url, json=JANE, headers={"If-None-Match": "*"}), 412, "precondition-failed")
    _problem(api.put(url, json=JANE, headers={"If-Match": '"other"'}), 412, "precondition-failed")
    _problem(api.delete(url, headers={"If-Match": '"other"'}), 412, "precondition-failed")
    _problem(api.put(f"{RECORDS}/joan", json=JANE, headers={"If-Match": "*"}), 412, "precondition-failed")
    newer = api.put(url, json={**JANE, "name": "Jane II"}, headers={"If-Match": etag})
    assert newer.status_code == 200
    _problem(api.put(url, json=JANE, headers={"If-Match": etag}), 412, "precondition-failed")
    assert api.delete(url, headers={"If-Match": "*"}).status_code == 200


def test_lists_filter_and_page_over_one_commit(api):
    """
    A commit between two pages neither repeats nor skips a record.
    """
    everybody = api.get(f"{RECORDS}?limit=1000").json
    assert len(everybody["records"]) == 20
    assert everybody["next_cursor"] is None

    first = api.get(f"{RECORDS}?limit=15").json
    api.post(RECORDS, json={"slug": "aaa", "name": "Between"})
    api.delete(f"{RECORDS}/tess-alder")
    rest = api.get(f"{RECORDS}?limit=15&cursor={first['next_cursor']}").json
    assert first["records"] + rest["records"] == everybody["records"]

    found = api.get(f"{RECORDS}?joined_year=2016&name=Quin%20Adair").json["records"]
    assert found == []
    found = api.get(f"{RECORDS}?joined_year=2016").json["records"]
    assert [entry["path"] for entry in found] == ["bram-oakes", "lena-voss"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "limit-invalid"),
        ("limit=1001", "limit-invalid"),
        ("limit=x", "limit-invalid"),
        ("cursor=x", "cursor-invalid"),
        ("cursor=WzEsMl0", "cursor-invalid"),
        pytest.param(f"cursor={'W1tb' * 5000}", "cursor-invalid", id="a cursor that is nested deeply"),
    ],
)
def test_bad_pages_are_named(api, query, code):
    _problem(api.get(f"{RECORDS}?{query}"), 400, code)
    _problem(api.get(f"/api/commits?{query}"), 400, code)


def test_commits(api, data):
    api.post(RECORDS, json=JANE, headers={"X-Request-Id": "req-1"})
    listed = api.get("/api/commits?limit=2").json
    newest = listed["commits"][0]
    assert newest == {
        "hash": data.head(),
        "parents": [data.git("rev-parse", "main^")],
        "author": {"name": "dev", "email": "dev@users.noreply.ferry.invalid"},
        "authored_at": data.git("log", "-1", "--format=%aI"),
        "message": (
            f"dev: POST {RECORDS}\n\nAction: record.create\nActor: dev\nSubject-Type: people\n"
            "Subject-Path: jane\nRequest-Id: req-1"
        ),
        "trailers": {
            "Action": "record.create",
            "Actor": "dev",
            "Subject-Type": "people",
            "Subject-Path": "jane",
            "Request-Id": "req-1",
        },
        "push": {"origin": "pending"},
    }
    older = api.get(f"/api/commits?limit=2&cursor={listed['next_cursor']}").json
    assert [len(listed["commits"]), len(older["commits"]), older["next_cursor"]] == [2, 1, None]
    assert api.get(f"/api/commits/{data.head()}").json == newest
    _problem(api.get(f"/api/commits/{'0' * 40}"), 404, "commit-not-found")
    _problem(api.get("/api/commits/main"), 404, "commit-not-found")


def test_a_commit_lists_what_it_changed(api, data):
    """
    Records with their changes, attachments with their record, other files, page by page.
    """

    def changes(query=""):
        return api.get(f"/api/commits/{data.head()}/changes{query}").json

    api.post(RECORDS, json=JANE)
    file = {"file": "people/jane.toml", "sheet": "people", "path": "jane"}
    added = [{"op": "add", "path": "", "value": api.get(f"{RECORDS}/jane").json["record"]}]
    assert changes() == {"changes": [{**file, "status": "added", "patch": added}], "next_cursor": None}
    api.patch(f"{RECORDS}/jane", json={"name": "Jane Doe"})
    patch = [{"op": "replace", "path": "/name", "value": "Jane Doe"}]
    assert changes()["changes"] == [{**file, "status": "changed", "patch": patch}]
    api.put(f"{RECORDS}/jane/attachments/a.txt", data=b"a")
    attached = {**file, "file": "people/jane/a.txt", "attachment": "a.txt"}
    assert changes()["changes"] == [{**attached, "status": "added"}]
    api.delete(f"{RECORDS}/jane")
    gone = {**file, "status": "removed", "patch": [{"op": "remove", "path": ""}]}
    first = changes("?limit=1")
    assert first["changes"] == [gone]
    assert changes(f"?limit=1&cursor={first['next_cursor']}") == {
        "changes": [{**attached, "status": "removed"}],
        "next_cursor": None,
    }
    root = data.git("rev-list", "--max-parents=0", "main")
    declared = api.get(f"/api/commits/{root}/changes").json["changes"]
    assert {"file": ".gitsheets/people.toml", "status": "added"} in declared
    _problem(api.get(f"/api/commits/{'0' * 40}/changes"), 404, "commit-not-found")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "json-invalid"),
        (b"{", 400, "json-invalid"),
        (b"[1]", 400, "json-invalid"),
        (b'"text"', 400, "json-invalid"),
        (b'{"slug": NaN}', 400, "json-invalid"),
        (b'{"slug": "a", "slug": "b"}', 400, "json-invalid"),
        (b'{"slug": "\xff"}', 400, "json-invalid"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "json-invalid"),
        (b'{"slug": "jane"}', 422, "validation-failed"),
        (b'{"slug": "JANE!", "name": "Jane"}', 422, "validation-failed"),
        (b'{"slug": "jane", "name": 1}', 422, "validation-failed"),
        (b'{"slug": "jane", "name": "Jane", "n": 9223372036854775808}', 422, "validation-failed"),
        (b'{"slug": "jane", "name": "\\ud800"}', 422, "validation-failed"),
        (b'{"slug": "jane", "name": "Jane", "list": [1, null]}', 422, "validation-failed"),
        (b'{"slug": "jane", "name": "Jane", "n": 1e400}', 400, "json-invalid"),
        (b'{"slug": "jane", "name": "Jane", "deep": ' + b"[" * 40 + b"]" * 40 + b"}", 400, "json-invalid"),
    ],
)
def test_bad_bodies_are_refused_and_the_repository_is_untouched(api, data, body, status, code):
    before = data.head()
    _problem(api.post(RECORDS, data=body, content_type="application/json"), status, code)
    _problem(api.put(f"{RECORDS}/jane", data=body, content_type="application/json"), status, code)
    assert data.head() == before


def test_a_validation_error_lists_each_field(api):
    problem = _problem(api.post(RECORDS, json={"slug": "J", "joined_year": 1}), 422, "validation-failed")
    assert {error["field"] for error in problem["errors"]} == {"slug", "joined_year", "name"}


@pytest.mark.parametrize("slug", ["", ".", "..", "a/b", "../../people/ada-quill", "a:b", "x" * 252, ".git"])
def test_fields_that_would_climb_or_collide_make_no_path(env, data, slug):
    """
    A sheet without a schema of its own: what the path template renders is checked all the same.
    """
    commit = _declare(data, "notes", "[gitsheet]\nroot = 'notes'\npath = 'all/${{ slug }}'\n")
    client = create_app(env, open_access=True).test_client()

    response = client.post("/api/sheets/notes/records", json={"slug": slug})

    _problem(response, 422, "path-invalid")
    assert data.head() == commit


@pytest.mark.parametrize("root", ["notes", "./notes", "notes/", "/notes", "a//b", "a/./b", ".", "./", ""])
def test_a_root_may_be_spelt_in_any_way_that_gitsheets_reads(env, data, root):
    _declare(data, "notes", f"[gitsheet]\nroot = '{root}'\npath = '${{{{ slug }}}}'\n")
    client = create_app(env, open_access=True).test_client()
    records = "/api/sheets/notes/records"

    assert client.post(records, json={"slug": "one"}).status_code == 201
    assert client.get(f"{records}/one").json["record"] == {"slug": "one"}
    assert "one" in [each["path"] for each in client.get(records).json["records"]]
    assert client.delete(f"{records}/one").status_code == 200


def _declare(data, sheet, config):
    """
    Commit the declaration of a sheet, as an outside push would.
    """
    data.git("config", "user.name", "t")
    tree = data.git("ls-tree", "main", ".gitsheets").split()[2]
    listing = data.git("ls-tree", tree) + f"\n100644 blob {_write_blob(data, config)}\t{sheet}.toml\n"
    root = data.git("ls-tree", "main").replace(tree, _make_tree(data, listing))
    commit = data.git("commit-tree", "-p", "main", "-m", sheet, _make_tree(data, root + "\n"))
    data.git("update-ref", "refs/heads/main", commit)
    return commit


def _write_blob(data, text):
    return subprocess.run(
        ["git", "-C", data.path, "hash-object", "-w", "--stdin"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def _make_tree(data, listing):
    return subprocess.run(
        ["git", "-C", data.path, "mktree"], input=listing, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_record_as_deep_as_is_accepted_can_be_read_again(api):
    deep = "value"
    for _ in range(31):
        deep = [deep]
    assert api.post(RECORDS, json={**JANE, "deep": deep}).status_code == 201
    assert api.get(f"{RECORDS}/jane").json["record"]["deep"] == deep


def test_a_file_that_is_no_record_is_named(env, data):
    """
    Somebody committed it with git; the other sheets are served all the same.
    """
    blob = _write_blob(data, "not = = toml")
    tree = data.git("rev-parse", "main:people")
    people = _make_tree(data, data.git("ls-tree", tree) + f"\n100644 blob {blob}\tbroken.toml\n")
    root = _make_tree(data, data.git("ls-tree", "main").replace(tree, people) + "\n")
    data.git("update-ref", "refs/heads/main", data.git("commit-tree", "-p", "main", "-m", "broken", root))
    client = create_app({**env, "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}, open_access=True).test_client()

    problem = _problem(client.get(f"{RECORDS}/broken"), 500, "record-unreadable")
    assert "people/broken.toml" in problem["detail"]
    listed = client.get(RECORDS).json
    assert [each["path"] for each in listed["unreadable"]] == ["broken"]
    assert "line 1" in listed["unreadable"][0]["detail"]
    assert len(listed["records"]) == 20
    named = client.get(f"{RECORDS}?path=broken&path={listed['records'][0]['path']}").json
    assert (len(named["records"]), [each["path"] for each in named["unreadable"]]) == (1, ["broken"])
    assert client.get(f"{RECORDS}/ada-quill").status_code == 200
    assert client.get("/api/sheets/places/records").status_code == 200


def test_an_error_of_our_own_reaches_sentry_and_tells_the_client_nothing(env, sentry, monkeypatch):
    client = create_app({**env, "SENTRY_DSN": sentry.dsn}, open_access=True).test_client()

    def fail(*_):
        raise ZeroDivisionError("a secret cause")

    monkeypatch.setattr("ferry.app.store.snapshot.Snapshot.sheet_names", fail)
    problem = _problem(client.get("/api/sheets"), 500, "internal-error")
    sentry_sdk.flush(5)

    assert "secret" not in str(problem)
    (event,) = wait_until(lambda: sentry.events)
    assert event["exception"]["values"][-1]["type"] == "ZeroDivisionError"


def test_a_body_that_is_too_large_is_refused(api):
    large = b" " * (1024 * 1024 + 1)
    _problem(api.post(RECORDS, data=large, content_type="application/json"), 413, "body-too-large")


def test_unknown_addresses_and_methods_are_problems_too(api):
    _problem(api.get("/api/nothing"), 404, "not-found")
    response = api.patch("/api/sheets")
    _problem(response, 405, "method-not-allowed")
    assert "GET" in response.headers["Allow"]


class TestAccess:
    TOKEN = "a-rather-secret-token"

    @pytest.fixture
    def closed(self, env):
        return lambda **more: create_app(
            {**env, "CFP_REDIS_URL": "redis://127.0.0.1:1/0", **more}
        ).test_client()

    def test_nobody_writes_unless_tokens_are_set(self, closed, capsys):
        _problem(closed().post(RECORDS, json=JANE), 403, "writes-closed")
        assert "every write is refused" in capsys.readouterr().err

    def test_a_known_token_writes_under_its_name(self, closed, data):
        client = closed(CFP_API_TOKENS=f"tess:{hashlib.sha256(self.TOKEN.encode()).hexdigest()}")

        refused = client.post(RECORDS, json=JANE)
        _problem(refused, 401, "unauthorized")
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        _problem(client.post(RECORDS, json=JANE, headers={"Authorization": "Bearer x"}), 401, "unauthorized")
        written = client.post(RECORDS, json=JANE, headers={"Authorization": f"Bearer {self.TOKEN}"})

        assert written.status_code == 201
        assert data.git("log", "-1", "--format=%an <%ae>") == "tess <tess@users.noreply.ferry.invalid>"
        assert client.get(RECORDS).status_code == 200

    def test_operators_need_the_admin_token(self, closed):
        _problem(closed().get("/api/_internal/push"), 503, "admin-closed")
        client = closed(CFP_ADMIN_TOKEN=self.TOKEN)
        _problem(client.get("/api/_internal/push"), 401, "unauthorized")
        _problem(
            client.post("/api/_internal/push", headers={"Authorization": "Bearer x"}), 401, "unauthorized"
        )
        assert (
            client.get("/api/_internal/push", headers={"Authorization": f"Bearer {self.TOKEN}"}).status_code
            == 200
        )
