"""
Each answer names the commit that it was read from, and comes from no earlier one than the client asks for.
"""

from __future__ import annotations

import select

import pytest

from ferry.app.api import reading
from tests.integration.test_server import PEOPLE, _header, _read, _start, server  # noqa: F401 - a fixture

COMMIT, AT_LEAST = "X-Ferry-Commit", "X-Ferry-At-Least"
READS = [
    "/api/sheets",
    "/api/sheets/people",
    PEOPLE,
    f"{PEOPLE}?limit=1&sort=-name",
    f"{PEOPLE}/none-such",
    "/api/commits",
    "/openapi.json",
]


def test_each_answer_names_the_commit_that_it_was_read_from(client, data):
    api = client()
    first = data.head()
    written = api.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"}).json["commit"]["hash"]
    api.put(f"{PEOPLE}/jane/attachments/note.txt", data=b"a note")
    head = data.head()

    beside = [f"{PEOPLE}/jane{what}" for what in ("", "/history", "/attachments", "/attachments/note.txt")]
    for path in [*READS, *beside, f"/api/commits/{written}"]:
        assert api.get(path).headers[COMMIT] == head, path
        assert api.head(path).headers[COMMIT] == head, path
    assert api.get(f"{PEOPLE}/jane?at={written}").headers[COMMIT] == written
    assert api.get(f"{PEOPLE}?at={first}").headers[COMMIT] == first
    etag = api.get(PEOPLE).headers["ETag"]
    unchanged = api.get(PEOPLE, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.headers[COMMIT]) == (304, head)
    assert COMMIT not in api.get("/api/health").headers


def test_a_page_names_the_commit_of_the_first(client, data):
    api = client()
    page = api.get("/api/commits?limit=1")
    tip = page.headers[COMMIT]
    api.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"})

    following = api.get(f"/api/commits?limit=1&cursor={page.json['next_cursor']}")

    assert following.headers[COMMIT] == tip != data.head()


def test_what_is_there_is_answered_at_once(client, data):
    api = client()
    first = data.head()
    api.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"})

    for commit in (first, data.head()):
        answer = api.get(f"{PEOPLE}/jane", headers={AT_LEAST: commit})
        assert (answer.status_code, answer.headers[COMMIT]) == (200, data.head())


@pytest.mark.parametrize("given", ["", "main", "0" * 39, "A" * 40, "f" * 64, "HEAD~1"])
def test_what_is_no_commits_name_is_refused(client, given):
    answer = client().get(PEOPLE, headers={AT_LEAST: given})

    assert (answer.status_code, answer.json["code"]) == (400, "at-least-invalid")


def test_a_commit_that_does_not_come_is_answered_with_when_to_ask_again(client, monkeypatch):
    monkeypatch.setattr(reading, "MAX_DELAY_S", 0.05)

    answer = client().get(PEOPLE, headers={AT_LEAST: "1" * 40})

    assert (answer.status_code, answer.json["code"]) == (503, "commit-not-here")
    assert int(answer.headers["Retry-After"]) > 0


def test_more_reads_than_threads_wait_for_a_commit_and_stop_nobody(server, data):  # noqa: F811
    tree, head = data.git("rev-parse", "main^{tree}"), data.head()
    coming = data.git("commit-tree", tree, "-p", head, "-m", "it comes")
    waiting = [server.raw(_header("GET", PEOPLE, f"{AT_LEAST}: {coming}", token="")) for _ in range(30)]
    stream = server.raw(_header("GET", "/api/events", f"{AT_LEAST}: {coming}", token=""))

    assert server.is_well()
    data.git("update-ref", "refs/heads/main", coming, head)

    for each in waiting:
        answer = _read(each)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert f"x-ferry-commit: {coming}\r\n".encode() in answer
    assert stream.recv(12) == b"HTTP/1.1 200"


def test_beyond_a_bound_no_read_waits(server):  # noqa: F811
    lines = f"{AT_LEAST}: {'1' * 40}"
    waiting = [server.raw(_header("GET", PEOPLE, lines, token="")) for _ in range(reading.MAX_DELAYED + 1)]

    [answered], _, _ = select.select(waiting, [], [], 15)
    refused = _read(answered)

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"commit-not-here" in refused
    assert server.is_well()
