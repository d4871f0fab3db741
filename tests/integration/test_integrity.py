"""
``ferry.extensions.integrity``: references have a record, and unique values one.
"""

from __future__ import annotations

import pytest

from tests.town import JANE, PEOPLE, town

__all__ = ["town"]  # a fixture

EVENTS = "/api/sheets/events/records"
PICNIC = {"slug": "picnic", "title": "Picnic", "starts_at": "2026-06-01T12:00:00Z"}
AT = "2026/06/picnic"
ADDRESS = {"email": "ada@example.org"}


@pytest.fixture
def api(town, data):
    text = data.git("show", "main:.gitsheets/events.toml")
    people = data.git("show", "main:.gitsheets/people.toml")
    data.edit(
        {
            ".gitsheets/events.toml": f'{text}\n[gitsheet.references]\nhost = "people"\nguests = "people"\n',
            ".gitsheets/people.toml": f"{people}\n[gitsheet.unique]\nemail = true\nname = false\n",
        }
    )
    return town("", CFP_API_EXTENSIONS="ferry.extensions.integrity")


def _send(api, method, path, body=None):
    answer = api.open(path, method=method, json=body, headers=JANE)
    return answer.status_code, answer.json.get("code"), answer.json.get("detail")


def test_a_reference_has_a_record_as_long_as_it_stands(api):
    missing = "The sheet 'people' has no record 'nobody'."
    for fields in ({"host": "nobody"}, {"guests": ["ada-quill", "nobody"]}):
        assert _send(api, "POST", EVENTS, {**PICNIC, **fields}) == (409, "reference-missing", missing)
    assert _send(api, "POST", EVENTS, {**PICNIC, "guests": ["ada-quill"]})[0] == 201

    said = f"The record '{AT}' of the sheet 'events' refers to 'ada-quill'."
    refused = (409, "referred-to", said)
    assert _send(api, "DELETE", f"{PEOPLE}/ada-quill") == refused
    assert _send(api, "PATCH", f"{PEOPLE}/ada-quill", {"slug": "ada"}) == refused
    assert _send(api, "PATCH", f"{PEOPLE}/ada-quill", {"name": "Ada"})[0] == 200
    assert _send(api, "PATCH", f"{EVENTS}/{AT}", {"guests": []})[0] == 200
    assert _send(api, "DELETE", f"{PEOPLE}/ada-quill")[0] == 200


def test_a_unique_value_is_one_records(api):
    assert _send(api, "POST", PEOPLE, {"slug": "a", "name": "A", **ADDRESS})[0] == 201
    said = "The record 'a' of the sheet 'people' has the same email."
    assert _send(api, "POST", PEOPLE, {"slug": "b", "name": "A", **ADDRESS}) == (409, "not-unique", said)
    assert _send(api, "POST", PEOPLE, {"slug": "b", "name": "A"})[0] == 201
    assert _send(api, "PATCH", f"{PEOPLE}/b", ADDRESS) == (409, "not-unique", said)
    assert _send(api, "PATCH", f"{PEOPLE}/a", {"slug": "aa"})[0] == 200, "not twice by its own move"
    assert _send(api, "PUT", f"{PEOPLE}/aa", {"slug": "aa", "name": "AA", **ADDRESS})[0] == 200


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("references = 'people'", "gitsheet.references: is no table."),
        ("references.host = ['people']", "gitsheet.references: host must be the name of a sheet."),
        ("references.host = 'poeple'", "gitsheet.references: host names 'poeple', which is no usable sheet."),
        ("unique = ['email']", "gitsheet.unique: is no table."),
        ("unique.email = 'yes'", "gitsheet.unique: email must be true or false."),
    ],
)
def test_a_declaration_that_says_it_wrongly_is_named(town, data, wrong, said):
    text = data.git("show", "main:.gitsheets/events.toml")
    data.edit({".gitsheets/events.toml": text.replace("[gitsheet]\n", f"[gitsheet]\n{wrong}\n", 1)})
    api = town("", CFP_API_EXTENSIONS="ferry.extensions.integrity")
    told = (500, "sheet-misconfigured", f".gitsheets/events.toml: {said}")

    assert _send(api, "POST", EVENTS, {**PICNIC, "host": "ada-quill"}) == told
    assert _send(api, "PATCH", f"{PEOPLE}/ada-quill", {"name": "Ada"})[0] == 200, (
        "the sheet people is as it was"
    )
    # Where it cannot be said who refers to a record, none is deleted.
    is_known = "poeple" in wrong or "unique" in wrong
    assert _send(api, "DELETE", f"{PEOPLE}/ada-quill") == ((200, None, None) if is_known else told)
