"""
Conditions, ranges, cursors and waiting: what a request asks for beside its body.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from ferry.app.api import events
from ferry.app.services import services

PEOPLE = "/api/sheets/people/records"
ANN = {"slug": "ann", "name": "Ann"}
WEAK, OTHER = 'W/"{}"', '"{}"'.format("0" * 40)


@pytest.fixture
def api(client):
    return client()


@pytest.fixture
def ann(api):
    """
    Put a record; returns its address, its quoted version and a shorthand for its bare version.
    """
    return api.put(f"{PEOPLE}/ann", json=ANN).headers["ETag"]


def _status(answer):
    if answer.status_code >= 400:
        assert answer.content_type == "application/problem+json", answer.text
        assert answer.json["status"] == answer.status_code
    return answer.status_code


def _conditions(etag):
    """
    Return pairs of If-Match and whether it holds for *etag*.
    """
    return [
        (etag, True),
        ("*", True),
        (f"{OTHER}, {etag}", True),
        (f'W/"x" , {etag},{OTHER}', True),
        (OTHER, False),
        (f"W/{etag}", False),
        (f"{OTHER}, W/{etag}", False),
        ('"*"', False),
        ("", False),
    ]


# --- Conditions ---


def test_if_match_holds_for_a_strong_version_alone_on_every_method(api, ann):
    url, file = f"{PEOPLE}/ann", f"{PEOPLE}/ann/attachments/a.txt"
    stored = api.put(file, data=b"a").headers["ETag"]
    for method, where, etag in [
        ("GET", url, ann),
        ("HEAD", url, ann),
        ("PUT", url, ann),
        ("PATCH", url, ann),
        ("GET", file, stored),
        ("PUT", file, stored),
    ]:
        body = {"data": b"a"} if where == file else {"json": ANN}
        for given, holds in _conditions(etag):
            answer = api.open(where, method=method, headers={"If-Match": given}, **body)
            assert answer.status_code == (200 if holds else 412), (method, where, given)
            if not holds and method != "HEAD":
                assert answer.json["code"] == "precondition-failed"
                assert answer.headers["X-Request-Id"]
    for where, etag in ((file, stored), (url, ann)):
        assert _status(api.delete(where, headers={"If-Match": f"W/{etag}"})) == 412
        assert _status(api.delete(where, headers={"If-None-Match": f"W/{etag}"})) == 412
        assert _status(api.delete(where, headers={"If-Match": f"{OTHER}, {etag}"})) == 200
        assert _status(api.delete(where, headers={"If-Match": "*"})) == 412


@pytest.mark.parametrize("url", [PEOPLE, "/api/sheets", "/api/commits", "/openapi.json"])
def test_a_list_has_a_version_too(api, url):
    etag = api.get(url).headers["ETag"]
    assert _status(api.get(url, headers={"If-Match": "*"})) == 200
    assert _status(api.get(url, headers={"If-Match": etag})) == 200
    assert _status(api.get(url, headers={"If-Match": OTHER})) == 412
    assert _status(api.get(url, headers={"If-Match": etag, "If-None-Match": etag})) == 304


def test_if_none_match_compares_weakly(api, ann):
    url = f"{PEOPLE}/ann"
    for given in (ann, f"W/{ann}", f"{OTHER}, {ann}", "*"):
        read = api.get(url, headers={"If-None-Match": given})
        assert (read.status_code, read.data, read.headers["ETag"]) == (304, b"", ann)
        assert "Content-Type" not in read.headers
        for method in ("PUT", "PATCH"):
            assert _status(api.open(url, method=method, json=ANN, headers={"If-None-Match": given})) == 412
    for given in (OTHER, '"*"', f"W/{OTHER}"):
        assert _status(api.get(url, headers={"If-None-Match": given})) == 200
        assert _status(api.put(url, json=ANN, headers={"If-None-Match": given})) == 200
    assert _status(api.get(f"{PEOPLE}/nobody", headers={"If-Match": "*", "If-None-Match": "*"})) == 404


def test_a_condition_holds_for_a_creation_too(api, ann):
    """
    Of the record at the path that the fields make.
    """
    bob = {"slug": "bob", "name": "Bob"}
    for given in ("*", ann, OTHER):
        assert _status(api.post(PEOPLE, json=bob, headers={"If-Match": given})) == 412
    assert _status(api.post(PEOPLE, json=ANN, headers={"If-None-Match": "*"})) == 412
    assert _status(api.post(PEOPLE, json=ANN, headers={"If-Match": OTHER})) == 412
    assert _status(api.post(PEOPLE, json=ANN, headers={"If-Match": ann})) == 409
    assert _status(api.post(PEOPLE, json=bob, headers={"If-None-Match": "*"})) == 201


def test_a_transaction_has_no_version_and_its_operations_have(api, ann):
    def transact(if_match=None, **headers):
        operation = {"op": "patch", "sheet": "people", "path": "ann", "record": {"name": "A"}}
        operation |= {} if if_match is None else {"if_match": if_match}
        return _status(api.post("/api/transactions", json={"operations": [operation]}, headers=headers))

    for given in ("*", ann, OTHER):
        assert transact(**{"If-Match": given}) == 412
    for given in (OTHER, f"W/{ann}", f"{OTHER},", ""):
        assert transact(given) == 412
    assert transact(f"{OTHER}, {ann}", **{"If-None-Match": "*"}) == 200
    assert transact("*") == 200


# --- Ranges ---


@pytest.fixture
def digits(api, ann):
    """
    Return a function that asks for a part of ten digits, and tells status, content and Content-Range.
    """
    url = f"{PEOPLE}/ann/attachments/digits.txt"
    etag = api.put(url, data=b"0123456789").headers["ETag"]

    def get(given, method="GET", **headers):
        headers = {name.replace("_", "-"): value.replace("ETAG", etag) for name, value in headers.items()}
        answer = api.open(url, method=method, headers={"Range": given, **headers})
        assert _status(answer) != 200 or answer.headers["Accept-Ranges"] == "bytes"
        content = answer.text if answer.status_code in (200, 206) else ""
        assert not content or int(answer.headers["Content-Length"]) == len(content)
        return answer.status_code, content, answer.headers.get("Content-Range")

    return get


WHOLE = (200, "0123456789", None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("bytes=2-4", (206, "234", "bytes 2-4/10")),
        ("Bytes = 2-4", (206, "234", "bytes 2-4/10")),
        ("bytes=0-0", (206, "0", "bytes 0-0/10")),
        ("bytes=8-", (206, "89", "bytes 8-9/10")),
        (f"bytes=8-{10**30}", (206, "89", "bytes 8-9/10")),
        ("bytes=-3", (206, "789", "bytes 7-9/10")),
        ("bytes=-99", (206, "0123456789", "bytes 0-9/10")),
        ("bytes=-0", (416, "", "bytes */10")),
        ("bytes=10-", (416, "", "bytes */10")),
        ("bytes=99-100", (416, "", "bytes */10")),
        ("bytes=20-30, 40-", (416, "", "bytes */10")),
        ("bytes=0-1, 40-", (206, "01", "bytes 0-1/10")),
        ("bytes=0-1, 4-5", WHOLE),
        ("bytes=4-2", WHOLE),
        ("bytes=0-1,4-2", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=1", WHOLE),
        ("lines=0-1", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_range_is_served_or_ignored_or_named(digits, given, expected):
    assert digits(given) == expected


def test_conditions_come_before_ranges(digits, api):
    assert digits("bytes=2-4", If_None_Match="ETAG")[0] == 304
    assert digits("bytes=99-", If_None_Match="ETAG")[0] == 304
    assert digits("bytes=99-", If_Match=OTHER)[0] == 412
    assert digits("bytes=2-4", If_Range="ETAG")[0] == 206
    for other in (OTHER, "W/ETAG", "Mon, 23 Nov 2026 12:00:00 GMT"):
        assert digits("bytes=2-4", If_Range=other) == WHOLE
        assert digits("bytes=99-", If_Range=other) == WHOLE
    assert digits("bytes=2-4", method="HEAD")[0] == 200
    assert api.get(f"{PEOPLE}/ann", headers={"Range": "bytes=0-1"}).status_code == 200


def test_an_empty_file_has_no_range(api, ann):
    url = f"{PEOPLE}/ann/attachments/empty"
    api.put(url, data=b"")
    answer = api.get(url, headers={"Range": "bytes=0-"})
    assert (_status(answer), answer.headers["Content-Range"]) == (416, "bytes */0")


# --- Cursors ---


def test_a_cursor_of_another_list_is_refused(api, ann):
    api.patch(f"{PEOPLE}/ann", json={"name": "A"})
    lists = [
        f"{PEOPLE}?limit=1", "/api/sheets/places/records?limit=1", f"{PEOPLE}?limit=1&sort=name",
        f"{PEOPLE}?limit=1&name[ne]=x", f"{PEOPLE}/ann/history?limit=1", "/api/commits?limit=1",
    ]  # fmt: skip
    cursors = {url: api.get(url).json["next_cursor"] for url in lists}
    assert all(cursors.values())
    for of, cursor in cursors.items():
        for url in lists:
            answer = api.get(f"{url}&cursor={cursor}")
            assert _status(answer) == (200 if url == of else 400), (of, url)
            assert url == of or answer.json["code"] == "cursor-invalid"


def test_a_cursor_of_a_history_that_was_rewritten_says_so(api, ann, data):
    api.patch(f"{PEOPLE}/ann", json={"name": "A"})
    lists = [f"{PEOPLE}?limit=1", f"{PEOPLE}/ann/history?limit=1", "/api/commits?limit=1"]
    cursors = [api.get(url).json["next_cursor"] for url in lists]
    commit = data.git("commit-tree", "-p", "main~1", "-m", "rewritten", "main^{tree}")
    data.git("update-ref", "refs/heads/main", commit)
    for url, cursor in zip(lists, cursors, strict=True):
        answer = api.get(f"{url}&cursor={cursor}")
        assert (_status(answer), answer.json["code"]) == (400, "cursor-invalid")
        assert _status(api.get(f"{url}&at={'0' * 40}")) == 404


@pytest.mark.parametrize(
    "commit", ["%00", "a%00b", "--output=/tmp/x", "--help", "main", "HEAD", "../../HEAD", "é" * 40]
)
def test_what_is_no_commits_name_is_no_commit(api, ann, commit):
    for url in (PEOPLE, f"{PEOPLE}/ann/history", "/api/commits"):
        answer = api.get(f"{url}?at={commit}")
        assert _status(answer) == 404, answer.text


@pytest.mark.parametrize("offset", ["-1", "1e3", "true", "2147483648", "1" + "0" * 400, '"1"', "null"])
def test_a_cursor_that_was_made_up_is_refused(api, offset):
    import base64

    real = api.get(f"{PEOPLE}?limit=1").json["next_cursor"]
    content = json.loads(base64.urlsafe_b64decode(real + "=="))
    made = json.dumps(content).replace(f", {content[1]},", f", {offset},")
    cursor = base64.urlsafe_b64encode(made.encode()).decode()
    assert _status(api.get(f"{PEOPLE}?limit=1&cursor={cursor}")) == 400


# --- Waiting ---


def test_a_write_that_changes_nothing_waits_for_what_stands(api, ann, data):
    """
    Its content is in a commit that the remote lacks, until someone pushes it.
    """
    waiting = {"Prefer": "wait=1"}
    for answer in (
        api.put(f"{PEOPLE}/ann", json=ANN, headers=waiting),
        api.put(f"{PEOPLE}/ann", json=ANN, headers={**waiting, "Idempotency-Key": "a"}),
        api.put(f"{PEOPLE}/ann", json=ANN, headers={**waiting, "Idempotency-Key": "a"}),
    ):
        assert (answer.status_code, answer.json["commit"]) == (202, None)
        assert answer.headers["Preference-Applied"] == "wait"
    data.git("push", "origin", "main")
    answer = api.put(f"{PEOPLE}/ann", json=ANN, headers=waiting)
    assert (answer.status_code, answer.json["commit"]) == (200, None)


# --- Commits ---


def test_a_transaction_names_all_its_subjects(api, data):
    names = [f"a{number}" for number in range(10)]
    operations = [
        {"op": op, "sheet": "people", "record": {"slug": name, "name": name}}
        for op, name in zip(["create", "upsert"] * 5, names, strict=True)
    ]
    answer = api.post("/api/transactions", json={"operations": operations})
    trailers = api.get(f"/api/commits/{answer.json['commit']['hash']}").json["trailers"]
    assert trailers["Subject-Path"] == names
    assert trailers["Subject-Type"] == ["people"] * 10
    assert trailers["Action"] == "transaction"
    one = api.post("/api/transactions", json={"operations": [{**operations[0], "op": "upsert"}]})
    assert one.json["commit"] is None
    wish = {"operations": [{"op": "create", "sheet": "people", "record": {"slug": "x", "name": "X"}}]}
    one = api.post("/api/transactions", json=wish).json["commit"]["hash"]
    assert api.get(f"/api/commits/{one}").json["trailers"]["Subject-Path"] == "x"


def _commit(data, message, *parents):
    tree = data.git("rev-parse", "main^{tree}")
    return data.git("commit-tree", *(part for each in parents for part in ("-p", each)), "-m", message, tree)


@pytest.mark.parametrize("each_time", [1, 3])
def test_a_client_that_reconnects_gets_past_a_merge(api, data, each_time):
    """
    Three sides, one of them with a merge of its own; the client hears of a few commits in each connection.
    """
    base = data.head()
    ours = [base]
    for number in range(4):
        ours.append(_commit(data, f"ours {number}", ours[-1]))
    early = data.git("rev-parse", "main~1")
    theirs = [_commit(data, "theirs 0", early)]
    theirs += [_commit(data, "theirs 1", theirs[-1], ours[1]), _commit(data, "theirs 2", early)]
    merge = _commit(data, "merge", ours[-1], theirs[1], theirs[2])
    told, last_id = [], f":{base}"
    data.git("update-ref", "refs/heads/main", _commit(data, "after", merge))
    with api.application.app_context():
        for _ in range(30):
            now = events._position(services().pipeline)
            news = list(events._news(services().pipeline, events._read_id(last_id), now))[:each_time]
            for event in news:
                lines = dict(line.split(": ", 1) for line in event.strip().splitlines())
                last_id = lines["id"]
                if lines["event"] == "commit":
                    told.append(json.loads(lines["data"])["hash"])
            if not news:
                break
    assert len(told) == len(set(told))
    assert set(told) == {*ours[1:], *theirs, merge, data.head()}
    assert told[-2:] == [merge, data.head()]
    assert not news


def test_no_commit_stands_before_its_child_whatever_the_clocks_said(api, ann, data, monkeypatch):
    """
    In the log, a record's history, and from page to page.
    """
    tip, blobs = data.head(), []
    for number in range(12):
        # The clock goes back an hour with each commit, and two sides join every fourth time.
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"{1_700_000_000 - 3600 * number} +0000")
        api.patch(f"{PEOPLE}/ann", json={"name": f"A{number}"})
        tree = data.git("rev-parse", "main^{tree}")
        parents = ["-p", tip] + (["-p", blobs[-2]] if number % 4 == 3 else [])
        tip = data.git("commit-tree", *parents, "-m", f"c{number}", tree)
        blobs.append(tip)
        data.git("update-ref", "refs/heads/main", tip)

    def pages(url, name):
        cursor, found = "", []
        while cursor is not None:
            page = api.get(f"{url}?limit=3&cursor={quote(cursor)}").json
            found += page[name]
            cursor = page["next_cursor"]
        return found

    for url, name in (("/api/commits", "commits"), (f"{PEOPLE}/ann/history", "history")):
        seen = [commit["hash"] for commit in pages(url, name)]
        assert len(seen) == len(set(seen)) >= 12
        order = {commit: place for place, commit in enumerate(seen)}
        for line in data.git("log", "--format=%H %P", "main").splitlines():
            child, *parents = line.split()
            assert all(order[child] < order[each] for each in parents if child in order and each in order)


def test_the_document_declares_a_version_where_there_is_one(api, ann):
    """
    Every header that it declares for an answer stands on that answer.
    """
    paths = api.get("/openapi.json").json["paths"]
    one, file = f"{PEOPLE}/{{path}}", f"{PEOPLE}/{{path}}/attachments/{{name}}"
    operations = [{"op": "delete", "sheet": "people", "path": "bob"}]
    for template, method, answer in [
        (PEOPLE, "post", api.post(PEOPLE, json={"slug": "bob", "name": "Bob"})),
        (one, "put", api.put(f"{PEOPLE}/ann", json={**ANN, "name": "A"})),
        (one, "patch", api.patch(f"{PEOPLE}/ann", json={"name": "B"}, headers={"Prefer": "wait=1"})),
        (one, "get", api.get(f"{PEOPLE}/ann")),
        (file, "put", api.put(f"{PEOPLE}/ann/attachments/a", data=b"a")),
        (file, "get", api.get(f"{PEOPLE}/ann/attachments/a")),
        (file, "get", api.get(f"{PEOPLE}/ann/attachments/a", headers={"Range": "bytes=0-0"})),
        (file, "get", api.get(f"{PEOPLE}/ann/attachments/a", headers={"Range": "bytes=9-"})),
        (file, "delete", api.delete(f"{PEOPLE}/ann/attachments/a")),
        ("/api/transactions", "post", api.post("/api/transactions", json={"operations": operations})),
        (one, "delete", api.delete(f"{PEOPLE}/ann")),
        ("/api/commits", "get", api.get("/api/commits")),
    ]:
        declared = paths[template][method]["responses"][str(answer.status_code)].get("headers", {})
        assert set(declared) <= set(answer.headers.keys()), (template, method)
        assert ("ETag" in answer.headers) == ("ETag" in declared), (template, method)


def test_a_client_that_knows_more_than_this_process_has_seen_is_told_of_no_reset(client, monkeypatch):
    """
    It comes from another process, within the second for which a look at the repository serves.
    """
    monkeypatch.setattr("ferry.app.arrivals._LOOK_AGAIN_S", 60.0)
    one, other = client(), client()

    def told(position):
        with other.get("/api/events", headers={"Last-Event-ID": position}) as answer:
            found = ""
            for chunk in answer.response:
                found += chunk.decode()
                if "event: state" in found:
                    return found
        return found

    old = one.get("/api/commits").json["commits"][0]["hash"]
    assert "event: commit" not in told(f":{old},origin:")
    commit = one.put(f"{PEOPLE}/ann", json=ANN).json["commit"]["hash"]
    assert "event: reset" not in told(f":{commit},origin:")
