"""
``dry_run=true``: what a write would do, and nothing written.
"""

from __future__ import annotations

import pytest

from tests.town import ANA, JANE, PEOPLE, town

__all__ = ["town"]  # a fixture

JANES = {"slug": "jane", "name": "Jane"}
ADDED = {"file": "people/jane.toml", "status": "added", "sheet": "people", "path": "jane"}


def _objects(data) -> set[str]:
    return {str(path) for path in (data.path / "objects").rglob("*")}


@pytest.fixture
def api(client, data):
    """
    A client that sees, after each test, that nothing was written by a dry run.
    """
    found = client()
    found.put(f"{PEOPLE}/ann", json={"slug": "ann", "name": "Ann"})
    found.put(f"{PEOPLE}/ann/attachments/cv.txt", data=b"cv")
    head, objects = data.head(), _objects(data)
    yield found
    assert (data.head(), _objects(data)) == (head, objects)


def test_a_creation_is_told(api):
    answer = api.post(f"{PEOPLE}?dry_run=true", json=JANES)

    assert answer.status_code == 200
    assert answer.json == {"path": "jane", "record": JANES, "commit": None, "dry_run": True, "files": [ADDED]}
    assert "Location" not in answer.headers
    assert "ETag" not in answer.headers
    assert api.get(f"{PEOPLE}/jane").status_code == 404


@pytest.mark.parametrize(
    ("method", "address", "body", "files"),
    [
        ("PUT", "ann", {"slug": "ann", "name": "Anna"}, [("people/ann.toml", "changed")]),
        ("PUT", "ann", {"slug": "ann", "name": "Ann"}, []),
        ("PATCH", "ann", {"name": "Anna"}, [("people/ann.toml", "changed")]),
        (
            "PATCH",
            "ann",
            {"slug": "anna"},
            [
                ("people/ann.toml", "removed"),
                ("people/ann/cv.txt", "removed"),
                ("people/anna.toml", "added"),
                ("people/anna/cv.txt", "added"),
            ],
        ),
        ("DELETE", "ann", None, [("people/ann.toml", "removed"), ("people/ann/cv.txt", "removed")]),
        ("PUT", "ann/attachments/photo.png", b"png", [("people/ann/photo.png", "added")]),
        ("DELETE", "ann/attachments/cv.txt", None, [("people/ann/cv.txt", "removed")]),
    ],
)
def test_each_write_tells_the_files_that_it_would_change(api, method, address, body, files):
    sent = {"data": body} if isinstance(body, bytes) else {"json": body} if body else {}
    answer = api.open(f"{PEOPLE}/{address}?dry_run=true", method=method, **sent)

    assert (answer.status_code, answer.json["commit"], answer.json["dry_run"]) == (200, None, True)
    assert [(each["file"], each["status"]) for each in answer.json["files"]] == files


def test_a_transaction_is_told_whole(api):
    operations = [
        {"op": "create", "sheet": "people", "record": JANES},
        {"op": "patch", "sheet": "people", "path": "jane", "record": {"name": "Jane Doe"}},
        {"op": "delete", "sheet": "people", "path": "ann"},
    ]
    answer = api.post("/api/transactions?dry_run=true", json={"operations": operations})

    assert [each["record"] for each in answer.json["results"]] == [JANES, {**JANES, "name": "Jane Doe"}, None]
    assert ADDED in answer.json["files"]
    assert len(answer.json["files"]) == 3


@pytest.mark.parametrize(
    ("record", "headers", "expected"),
    [
        ({"slug": "jane"}, {}, (422, "validation-failed")),
        ({"slug": "ann", "name": "Ann"}, {}, (409, "record-exists")),
        (JANES, {"If-Match": '"x"'}, (412, "precondition-failed")),
        ({"slug": "JANE", "name": "Jane"}, {}, (422, "validation-failed")),
    ],
)
def test_what_the_write_would_be_refused_for_refuses_the_dry_run(api, record, headers, expected):
    answer = api.post(f"{PEOPLE}?dry_run=true", json=record, headers=headers)

    assert (answer.status_code, answer.json["code"]) == expected


def test_a_file_in_the_place_of_a_directory_is_found_without_writing_trees(client, data):
    data.edit({"people/jane.toml/x": "a directory has the name of the record"})
    head, objects = data.head(), _objects(data)
    answer = client().post(f"{PEOPLE}?dry_run=true", json=JANES)

    assert (answer.status_code, answer.json["code"]) == (422, "path-invalid")
    assert (data.head(), _objects(data)) == (head, objects)


def test_dry_run_is_true_or_false(api):
    answer = api.post(f"{PEOPLE}?dry_run=1", json=JANES)

    assert (answer.status_code, answer.json["parameter"]) == (400, "dry_run")


def test_a_key_is_not_used_up_by_a_dry_run(client):
    api, key = client(), {"Idempotency-Key": "one"}
    api.post(f"{PEOPLE}?dry_run=true", json=JANES, headers=key)
    answer = api.post(f"{PEOPLE}?dry_run=false", json=JANES, headers=key)

    assert answer.status_code == 201
    assert "Idempotent-Replayed" not in answer.headers


def test_rules_have_their_say_and_a_writer_is_needed(town):
    api = town("""
import ferry
town = ferry.Extension('town')
@town.before_write("people")
def stamp(write):
    if write.caller.name == "jane":
        raise ferry.Refused("Not you.", code="not-you", status=403)
    write.after["name"] = write.after["name"].upper()
""")

    assert api.post(f"{PEOPLE}?dry_run=true", json=JANES, headers=JANE).json["code"] == "not-you"
    assert api.post(f"{PEOPLE}?dry_run=true", json=JANES, headers=ANA).json["record"]["name"] == "JANE"
    assert api.post(f"{PEOPLE}?dry_run=true", json=JANES).status_code == 401
