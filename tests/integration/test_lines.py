"""
Lists as CSV and NDJSON: the whole list, streamed, from one commit.
"""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import chain

import pytest

from ferry.app import create_app
from ferry.app.errors import SheetTooLargeError
from ferry.app.services import EXTENSION

PEOPLE = "/api/sheets/people/records"
EVENTS = "/api/sheets/events/records"


def _rows(answer) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.get_data(as_text=True), newline="")))


def _objects(answer) -> list[dict]:
    return [json.loads(line) for line in answer.get_data(as_text=True).splitlines()]


@pytest.mark.parametrize(
    ("asked", "headers", "media"),
    [
        ("?format=csv", {}, "text/csv"),
        ("", {"Accept": "text/csv"}, "text/csv"),
        ("?format=ndjson", {"Accept": "application/json"}, "application/x-ndjson"),
        ("", {"Accept": "application/x-ndjson, application/json;q=0.5"}, "application/x-ndjson"),
        ("?format=json", {"Accept": "text/csv"}, "application/json"),
        ("", {"Accept": "text/html,*/*;q=0.8"}, "application/json"),
    ],
)
def test_the_form_is_asked_for_by_accept_or_by_the_query(client, asked, headers, media):
    answer = client().get(f"{PEOPLE}{asked}", headers=headers)

    assert (answer.status_code, answer.mimetype) == (200, media)
    assert answer.headers["Vary"].startswith("Accept")


def test_a_sheet_leaves_whole_as_csv(client):
    api = client()
    api.post(PEOPLE, json={"slug": "zoe", "name": "=HYPERLINK(1)", "joined_year": 2020, "skills": ["a", "b"]})
    listed = api.get(f"{PEOPLE}?limit=1000").json["records"]
    answer = api.get(f"{PEOPLE}?format=csv")
    rows = _rows(answer)

    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == "attachment; filename=people.csv"
    assert answer.headers["X-Ferry-Commit"] == api.get(PEOPLE).headers["X-Ferry-Commit"]
    assert [row["slug"] for row in rows] == [each["path"] for each in listed]
    assert rows[-1] == {
        "slug": "zoe", "name": "'=HYPERLINK(1)", "email": "", "skills": '["a","b"]', "joined_year": "2020"
    }  # fmt: skip


def test_a_sheet_leaves_whole_as_ndjson(client):
    api = client()
    records = [each["record"] for each in api.get(f"{PEOPLE}?limit=1000").json["records"]]

    assert _objects(api.get(f"{PEOPLE}?format=ndjson")) == records


def test_date_times_keep_their_type_in_ndjson(client):
    first = _objects(client().get(f"{EVENTS}?format=ndjson"))[0]

    assert first["starts_at"].keys() == {"$date"}


def test_filters_order_fields_limit_and_commit_apply(client, data):
    api, before = client(), data.head()
    api.delete(f"{PEOPLE}/ada-quill")
    answer = api.get(
        f"{PEOPLE}?format=csv&joined_year[lt]=2018&sort=-joined_year,name&fields=name,joined_year&limit=2&at={before}"
    )

    assert answer.get_data(as_text=True) == "name,joined_year\r\nCleo Marsh,2017\r\nMilo Crane,2017\r\n"
    assert [row["name"] for row in _rows(api.get(f"{PEOPLE}?format=csv&q=quin"))] == ["Quin Adair"]
    assert len(_objects(api.get(f"{PEOPLE}?format=ndjson&path=pia-stone&path=nobody"))) == 1


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("format=xml", "format"), ("format=cvs", "format"), ("format=csv&sort=nmae", "sort")],
)
def test_what_makes_no_sense_is_refused(client, query, parameter):
    answer = client().get(f"{PEOPLE}?{query}")

    assert (answer.status_code, answer.json["code"], answer.json["parameter"]) == (
        400, "query-invalid", parameter
    )  # fmt: skip


def test_a_cursor_is_refused_for_the_list_has_no_pages(client):
    api = client()
    cursor = api.get(f"{PEOPLE}?format=json&limit=1").json["next_cursor"]
    answer = api.get(f"{PEOPLE}?format=json&limit=1&cursor={cursor}", headers={"Accept": "text/csv"})
    assert answer.mimetype == "application/json"

    cursor = api.get(f"{PEOPLE}?limit=1").json["next_cursor"]
    answer = api.get(f"{PEOPLE}?cursor={cursor}", headers={"Accept": "text/csv"})
    assert (answer.status_code, answer.json["parameter"]) == (400, "cursor")


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_a_list_with_a_limit_leads_to_the_next_page(client, crowded, form):
    """
    Also where the sheet is read from git while it is sent.
    """
    for api in (client(), crowded):
        query, pages = f"format={form}&limit=8&joined_year[gte]=2016", []
        address = f"?{query}"
        while address:
            answer = api.get(f"{PEOPLE}{address}")
            pages.append(_rows(answer) if form == "csv" else _objects(answer))
            links = dict(re.findall(r'<([^>]*)>; rel="(next)"', answer.headers["Link"]))
            address = next(iter(links), None)
        assert [len(page) for page in pages] == [8, 8, 2]
        whole = api.get(f"{PEOPLE}?format={form}&joined_year[gte]=2016")
        assert [*chain(*pages)] == (_rows(whole) if form == "csv" else _objects(whole))
        assert "Link" not in whole.headers


def test_a_file_that_is_no_record_is_counted(client, data):
    data.edit({"people/broken.toml": "= not TOML"})
    answer = client().get(f"{PEOPLE}?format=ndjson")

    assert answer.headers["X-Ferry-Unreadable"] == "1"
    assert len(_objects(answer)) == 20


@pytest.fixture
def crowded(env):
    """
    An API whose memory for lists is too small for any sheet.
    """
    app = create_app(env, open_access=True)
    listing = app.extensions[EXTENSION].listing
    listing._most_bytes = listing._room = 1000
    return app.test_client()


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_a_sheet_beyond_the_memory_of_lists_is_read_while_it_is_sent(client, crowded, form):
    query = f"format={form}&joined_year[gte]=2017"
    assert crowded.get(PEOPLE).json["code"] == SheetTooLargeError.code
    assert crowded.get(f"{PEOPLE}?{query}").data == client().get(f"{PEOPLE}?{query}").data
    assert crowded.get(f"{PEOPLE}?{query}&sort=name").json["code"] == SheetTooLargeError.code


def test_an_empty_sheet_is_a_header_or_nothing(client):
    api = client()
    query = "slug=nobody"
    assert api.get(f"{PEOPLE}?format=csv&{query}").data == b"slug,name,email,skills,joined_year\r\n"
    assert api.get(f"{PEOPLE}?format=ndjson&{query}").data == b""


def test_head_tells_the_form(client):
    answer = client().head(f"{PEOPLE}?format=csv")

    assert (answer.status_code, answer.mimetype, answer.data) == (200, "text/csv", b"")
