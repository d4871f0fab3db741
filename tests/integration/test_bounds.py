"""
What one request may cost has a bound, whatever it asks for and whatever stands in the repository.
"""

from __future__ import annotations

import os
import tempfile
import tracemalloc

import pytest

from ferry.app.services import EXTENSION
from ferry.worker.git.objects import Objects
from tests.parts import Bare

PEOPLE = "/api/sheets/people/records"
LARGE = 24 << 20


@pytest.fixture
def api(client):
    return client()


def _put(data: Bare, path: str, blob: str) -> None:
    """
    Commit *blob* at *path*, as somebody who may push would.
    """
    data.git("read-tree", "main")
    data.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = data.git("write-tree")
    data.git("update-ref", "refs/heads/main", data.git("commit-tree", "-p", "main", "-m", "put", tree))


@pytest.mark.parametrize(
    "query",
    [
        "sort=" + ",".join(f"f{n}" for n in range(9)),
        "sort=" + ",".join(["name"] * 950),
        "&".join(["sort=name"] * 9),
        "fields=" + ",".join(f"f{n}" for n in range(101)),
        "fields=" + ".".join("a" * 40),
        "sort=" + ".".join("a" * 40),
        "&".join(f"name={n}" for n in range(1001)),
        "name[in]=" + ",".join(map(str, range(1001))),
        "&".join(f"name[gt]={n}&slug[lt]={n}" for n in range(501)),
    ],
)
def test_what_a_list_may_be_asked_for_is_bounded(api, query):
    answer = api.get(f"{PEOPLE}?{query}")
    assert (answer.status_code, answer.json["code"]) == (400, "query-invalid")


def test_as_much_as_a_list_may_be_asked_for_is_answered(api):
    sorts, fields = ",".join(["name"] * 8), ",".join(f".f{n}" for n in range(100))
    assert api.get(f"{PEOPLE}?sort={sorts}&fields={fields}").status_code == 200


@pytest.mark.parametrize("url", [PEOPLE, "/api/commits", f"{PEOPLE}/ann/history"])
def test_a_page_has_a_bound_in_bytes(api, monkeypatch, url):
    """
    The next page goes on after what was shown, and nothing is left out.
    """
    for number in range(12):
        assert api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": f"Ann {number}"}).status_code < 300
    [whole] = [value for value in api.get(f"{url}?limit=1000").json.values() if value]
    monkeypatch.setattr("ferry.app.api.cursors.PAGE_BYTES", 10_000)

    answer = api.get(f"{url}?limit=1000").json
    pages = []
    while True:
        pages.append(next(answer[name] for name in ("records", "commits", "history") if name in answer))
        if not answer["next_cursor"]:
            break
        answer = api.get(f"{url}?limit=1000&cursor={answer['next_cursor']}").json

    assert [entry for page in pages for entry in page] == whole
    assert 1 < len(pages) < len(whole)

    monkeypatch.setattr("ferry.app.api.cursors.PAGE_BYTES", 1)
    [shown] = [value for value in api.get(f"{url}?limit=1000").json.values() if isinstance(value, list)]
    assert len(shown) == 1


def test_a_file_that_is_too_large_for_a_record_is_not_read(api, data: Bare):
    """
    Nor is it where it is small on the disk.
    """
    _put(
        data,
        "people/large.toml",
        Objects(data.path).write("blob", b'slug = "large"\nname = "' + bytes(LARGE)),
    )
    tracemalloc.start()
    listed, one = api.get(PEOPLE), api.get(f"{PEOPLE}/large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert listed.status_code == 200
    assert [each["path"] for each in listed.json["unreadable"]] == ["large"]
    assert "at most 8388608 can be read" in listed.json["unreadable"][0]["detail"]
    assert (one.status_code, one.json["code"]) == (500, "record-unreadable")
    assert peak < LARGE / 2
    assert api.put(f"{PEOPLE}/large", json={"slug": "large", "name": "Small"}).status_code == 200
    assert "unreadable" not in api.get(PEOPLE).json


def test_a_large_declaration_is_refused_at_its_own_addresses(api, data: Bare):
    declaration = b"[gitsheet]\nroot = 'people'\npath = '${{ slug }}'\n#" + b"x" * (300 << 10)
    _put(data, ".gitsheets/people.toml", Objects(data.path).write("blob", declaration))

    answer = api.get(PEOPLE)
    assert (answer.status_code, answer.json["code"]) == (500, "sheet-misconfigured")
    assert api.get("/api/sheets/places/records").status_code == 200


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_large_attachment_is_sent_piece_by_piece(api, data: Bare, is_packed: bool):
    assert api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}).status_code < 300
    content = os.urandom(1 << 20) * (LARGE >> 20)
    blob = Objects(data.path).write("blob", content)
    _put(data, "people/ann/photo.bin", blob)
    if is_packed:
        data.git("-c", "core.bigFileThreshold=1m", "repack", "-a", "-q")
        data.git("prune-packed", "-q")
    url = f"{PEOPLE}/ann/attachments/photo.bin"
    [listed] = api.get(f"{PEOPLE}/ann/attachments").json["attachments"]
    assert listed["bytes"] == LARGE

    tracemalloc.start()
    answer = api.get(url, buffered=False)
    size = sum(map(len, answer.response))
    answer.close()
    part = api.get(url, headers={"Range": f"bytes={LARGE - 5}-"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (answer.status_code, size, answer.headers["Content-Length"]) == (200, LARGE, str(LARGE))
    assert (part.status_code, part.data) == (206, content[-5:])
    assert part.headers["Content-Range"] == f"bytes {LARGE - 5}-{LARGE - 1}/{LARGE}"
    assert peak < LARGE / 4
    assert api.head(url).headers["Content-Length"] == str(LARGE)
    assert api.get(url, headers={"If-None-Match": f'"{blob}"'}).status_code == 304
    assert api.get(url, headers={"Range": f"bytes={LARGE}-"}).status_code == 416


def test_lists_of_all_sheets_share_a_bound_of_memory(api, data: Bare):
    """
    A sheet that alone takes more is not listed; the others are, and its records are read one by one.
    """
    listing = api.application.extensions[EXTENSION].listing
    assert api.get(PEOPLE).status_code == api.get("/api/sheets/places/records").status_code == 200
    sizes = {key[0].name: family.size for key, family in listing._kept.items()}
    assert listing._room == listing._most_bytes - sum(sizes.values())

    listing._most_bytes = listing._room = sizes["people"] - 1
    listing._kept.clear()
    answer = api.get(PEOPLE)
    assert (answer.status_code, answer.json["code"]) == (507, "sheet-too-large")
    assert listing._room == sizes["people"] - 1, "what was read of it is not counted for ever"
    assert api.get("/api/sheets/places/records").status_code == 200
    some = data.git("ls-tree", "--name-only", "main:people").split()[0].removesuffix(".toml")
    assert api.get(f"{PEOPLE}/{some}").status_code == 200


def test_no_request_makes_a_series_of_its_own(api):
    """
    What a client calls its method, and where it looks for something, is its own affair.
    """
    before = _series(api)  # of other tests' requests, too
    for number in range(30):
        api.open(f"/nowhere/{number}", method=f"ODD{number}")
        api.open(f"{PEOPLE}/none-{number}", method="GET")
    after = _series(api)
    assert not [name for name in after if "ODD" in name or "nowhere" in name or "none-" in name]
    assert any('method="other"' in name for name in after)
    assert len(after - before) < 5


def _series(api):
    lines = api.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if line.startswith("ferry_http_requests")}


def test_reading_and_writing_need_no_temporary_files(api, data: Bare, monkeypatch):
    """
    /tmp may be full.
    """
    data.grow(60, files=60)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    headers = {"Idempotency-Key": "1"}
    assert api.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"}, headers=headers).status_code == 201
    assert len(api.get(f"{PEOPLE}?limit=1000").json["records"]) > 60
    assert api.get(f"{PEOPLE}/ann/history").status_code == 200
