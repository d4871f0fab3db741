"""
What becomes of values between JSON and a file: dates, numbers, markdown.
"""

from __future__ import annotations

import gitsheets
import jsonschema_rs
import pytest

MARKDOWN = "root = '{0}'\npath = '${{{{ slug }}}}'\n[gitsheet.format]\ntype = 'markdown'\nbody = 'text'\n"
SHEETS = {
    "things": "root = 'things'\npath = '${{ id }}'\n",
    "sorted": "root = 'sorted'\npath = '${{ id }}'\n[gitsheet.fields.tags]\nsort = true\n",
    "typed": """root = 'typed'
path = '${{ id }}'
[gitsheet.schema]
type = 'object'
required = ['id']
[gitsheet.schema.properties]
id.type = 'string'
at = { type = 'string', format = 'date-time' }
mail = { type = 'string', format = 'email' }
x = { type = 'number', minimum = 5 }
in = { type = 'object', properties.y.type = 'number' }
""",
    "notes": MARKDOWN.format("notes"),
    "pages": MARKDOWN.format("pages") + "title = 'title'\n",
    "titled": MARKDOWN.format("titled").replace("slug", "title") + "title = 'title'\n",
}
THINGS = "/api/sheets/things/records"


@pytest.fixture
def put_files(data):
    """
    Commit files as they are, past Ferry.
    """

    def commit(files):
        with gitsheets.transact(
            str(data.path), "by hand", 1_700_000_000, parent="refs/heads/main", branch="refs/heads/main",
            author=("Ann", "ann@example.org"),
        ) as transaction:  # fmt: skip
            for path, text in files.items():
                transaction.write_file(path, text)

    commit({f".gitsheets/{name}.toml": f"[gitsheet]\n{text}" for name, text in SHEETS.items()})
    return commit


@pytest.fixture
def api(client, put_files):
    return client()


def _file(data, path):
    return data.git("show", f"main:{path}") + "\n"


def _write(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json["record"]


def _fields(answer):
    assert answer.status_code == 422, answer.text
    assert answer.json["code"] == "validation-failed"
    return [error["field"] for error in answer.json["errors"]]


# --- Dates ---

DATED = """\
born = 1990-05-01
id = "a"
list = [07:00:00, 08:30:00.25]
slot = { at = 07:32:00 } # by hand
when = 2026-01-31T10:00:00.123456+02:00

[[shifts]]
from = 2026-01-31 22:00:00
"""


@pytest.mark.parametrize("sheet", ["things", "sorted"])
def test_a_patch_leaves_the_dates_of_other_fields_as_they_are(api, data, put_files, sheet):
    put_files({f"{sheet}/a.toml": DATED})
    url = f"/api/sheets/{sheet}/records/a"
    _write(api.patch(url, json={"name": "A"}))
    after = _file(data, f"{sheet}/a.toml")
    for literal in (
        "born = 1990-05-01\n",
        "list = [07:00:00, 08:30:00.25]\n",
        "at = 07:32:00\n",
        "when = 2026-01-31T10:00:00.123456+02:00\n",
        "from = 2026-01-31 22:00:00\n",
        'name = "A"\n',
    ):
        assert literal in after

    record = api.get(url).json["record"]
    unchanged = api.put(url, json=record)
    assert unchanged.json["commit"] is None
    _write(api.patch(url, json={"id": "b", "born": "1991-06-02T00:00:00Z"}))
    moved = _file(data, f"{sheet}/b.toml")
    assert moved == after.replace('id = "a"', 'id = "b"').replace("1990-05-01", "1991-06-02")


def test_a_transaction_and_an_upsert_keep_the_kinds_of_what_they_replace(api, data, put_files):
    put_files({"things/a.toml": 'at = 2026-01-31\nid = "a"\nx = 2.0\n'})
    record = {"id": "a", "at": "2026-01-31T00:00:00Z", "x": 2}
    operations = [
        {"op": "upsert", "sheet": "things", "record": {**record, "y": 1.5}},
        {"op": "upsert", "sheet": "things", "record": {**record, "y": 2}},
        {"op": "upsert", "sheet": "things", "path": "a", "record": {**record, "y": 3}},
    ]
    assert api.post("/api/transactions", json={"operations": operations}).status_code == 200
    assert _file(data, "things/a.toml") == 'at = 2026-01-31\nid = "a"\nx = 2.0\ny = 3.0\n'


def test_an_upsert_without_a_path_takes_a_wide_number_where_a_float_stood(api, data, put_files):
    put_files({"things/a.toml": 'id = "a"\nx = 2.0\n'})

    def upsert(**fields):
        operation = {"op": "upsert", "sheet": "things", "record": {"id": "a", **fields}}
        return api.post("/api/transactions", json={"operations": [operation]})

    assert upsert(x=2**64).status_code == 200
    assert api.get("/api/sheets/things/records/a").json["record"]["x"] == 2.0**64
    refused = upsert(x=2.0, y=2**64)
    assert (refused.status_code, refused.json["code"]) == (422, "validation-failed")


def test_a_string_stays_a_string_whatever_its_schema_calls_it(api, data):
    url = "/api/sheets/typed/records/a"
    text = "2026-01-31T12:00:00.1234567+02:00"
    assert _write(api.put(url, json={"id": "a", "at": text}), 201) == {"id": "a", "at": text}
    assert _file(data, "typed/a.toml") == f'at = "{text}"\nid = "a"\n'
    for wrong in ("2026-01-31", "20260131T100000Z", "2026-01-31T10:00Z", "soon"):
        assert _fields(api.patch(url, json={"at": wrong})) == ["at"]
    assert _fields(api.patch(url, json={"mail": "nobody"})) == ["mail"]


def test_a_client_says_where_a_string_is_a_date_time(api, data):
    url = "/api/sheets/typed/records/a"
    written = _write(api.put(url, json={"id": "a", "at": {"$date": "2026-01-31T12:00:00+02:00"}}), 201)
    assert written["at"] == api.get(url).json["record"]["at"] == "2026-01-31T10:00:00Z"
    assert _file(data, "typed/a.toml") == 'at = 2026-01-31T10:00:00Z\nid = "a"\n'
    assert _write(api.patch(url, json={"at": "2026-01-31T11:00:00Z"}))["at"] == "2026-01-31T11:00:00Z"
    assert _file(data, "typed/a.toml") == 'at = 2026-01-31T11:00:00Z\nid = "a"\n'
    for wrong in ("2026-01-31T11:00:00.1234Z", {"$date": "2026-01-31"}):
        assert _fields(api.patch(url, json={"at": wrong})) == ["at"]


# --- Numbers ---


def test_a_record_with_a_number_that_json_schema_lacks_can_be_changed(api, data, put_files):
    text = 'id = "a"\nx = nan\n\n[in]\ny = -inf\n'
    put_files({"typed/a.toml": text})
    url = "/api/sheets/typed/records/a"
    assert _write(api.patch(url, json={"n": 1}))["x"] == "nan"
    assert _file(data, "typed/a.toml") == text.replace("x =", "n = 1\nx =")
    assert api.put(url, json=api.get(url).json["record"]).json["commit"] is None
    assert _fields(api.patch(url, json={"in": {"y": "inf"}})) == ["in.y"]
    assert _fields(api.patch(url, json={"mail": "x"})) != []
    _write(api.patch(url, json={"x": 7}))


# --- Markdown ---


def _page(api, sheet, record, status=201):
    return _write(api.post(f"/api/sheets/{sheet}/records", json=record), status)


def test_a_markdown_record_without_its_body_is_refused(api):
    for sheet in ("notes", "pages"):
        url = f"/api/sheets/{sheet}/records/a"
        assert _fields(api.put(url, json={"slug": "a"})) == ["text"]
        assert _fields(api.put(url, json={"slug": "a", "text": 5})) == ["text"]
    assert _fields(api.put(url, json={"slug": "a", "title": "A", "text": "# B"})) == ["title"]


def test_the_answer_to_a_markdown_write_is_what_is_stored(api):
    text = "# T *b*\n\n* x\n\n\n"
    written = _page(api, "pages", {"slug": "a", "text": text})
    assert written == {"slug": "a", "title": "T _b_", "text": "# T _b_\n\n- x"}
    url = "/api/sheets/pages/records/a"
    assert api.get(url).json["record"] == written
    again = api.put(url, json=written)
    assert (again.json["record"], again.json["commit"]) == (written, None)


@pytest.mark.parametrize("title", ["New", "snake_case and *stars* & <b>", "[a](b)"])
def test_a_patch_of_the_title_rewrites_the_heading(api, title):
    _page(api, "pages", {"slug": "a", "text": "# Old\n\nx"})
    url = "/api/sheets/pages/records/a"
    stored = _write(api.patch(url, json={"title": title}))
    assert stored["text"] == f"# {stored['title']}\n\nx"
    assert api.get(url).json["record"] == stored
    assert stored["title"] == title.replace("*stars*", "_stars_")


def test_a_patch_of_the_body_derives_the_title(api, data):
    _page(api, "pages", {"slug": "a", "text": "# Old\n\nx"})
    url = "/api/sheets/pages/records/a"
    assert _write(api.patch(url, json={"text": "# *New*\n\ny"}))["title"] == "_New_"
    assert "title" not in _write(api.patch(url, json={"text": "no heading"}))
    assert _write(api.patch(url, json={"title": "First"}))["text"] == "# First\n\nno heading"
    assert _write(api.patch(url, json={"tags": ["a"]}))["title"] == "First"
    assert _fields(api.patch(url, json={"title": "A", "text": "# B"})) == ["title"]
    assert _fields(api.patch(url, json={"title": "a\nb"})) == ["title"]
    assert _write(api.patch(url, json={"text": None})) == {"slug": "a", "tags": ["a"], "text": ""}


def test_a_record_is_read_edited_and_put_back(api, data):
    """
    With the title as it was read, which the new body no longer has; where the title makes the path it moves.
    """
    _page(api, "pages", {"slug": "a", "text": "# Old\n\nx"})
    url = "/api/sheets/pages/records/a"
    record = api.get(url).json["record"]
    record["text"] = "# New\n\ny"
    assert _write(api.put(url, json=record))["title"] == "New"
    record = api.get(url).json["record"]
    record["title"] = "Newer"
    assert _write(api.put(url, json=record))["text"] == "# Newer\n\ny"

    _page(api, "titled", {"title": "Old", "text": "# Old"})
    moved = api.put("/api/sheets/titled/records/Old", json={"title": "Old", "text": "# New"})
    assert (moved.status_code, moved.json["path"]) == (200, "New")


def test_front_matter_keeps_its_dates(api, data, put_files):
    put_files({"notes/a.md": '+++\nday = 2026-01-31\nslug = "a"\n+++\n\nday = 2026-01-31\n'})
    _write(api.patch("/api/sheets/notes/records/a", json={"n": 1}))
    expected = '+++\nday = 2026-01-31\nn = 1\nslug = "a"\n+++\n\nday = 2026-01-31\n'
    assert _file(data, "notes/a.md") == expected


# --- Contracts and patterns ---

CONTRACT = """\
"$id" = "https://example.org/mail/v1"
"$schema" = "http://json-schema.org/draft-07/schema#"
required = ["mail"]
type = "object"

[properties.mail]
"$ref" = "#/definitions/address"

[definitions.address]
format = "email"
type = "string"
"""


def test_contracts_are_shown_and_kept(api, put_files):
    declaration = SHEETS["typed"].replace("typed", "bound").replace(
        "[gitsheet.schema]", "implements = ['example.org/mail/v1']\n[gitsheet.schema]"
    )  # fmt: skip
    [canonical] = gitsheets.serialize_records(gitsheets.parse_records([CONTRACT]))
    put_files(
        {
            ".gitsheets/bound.toml": f"[gitsheet]\n{declaration}",
            ".gitsheets/contracts/example.org/mail/v1.toml": canonical,
        }
    )
    shown = api.get("/api/sheets/bound").json
    assert shown["contracts"]["example.org/mail/v1"]["required"] == ["mail"]
    assert "contracts" not in api.get("/api/sheets/typed").json
    url = "/api/sheets/bound/records"
    assert _fields(api.post(url, json={"id": "a"})) == ["mail"]
    _write(api.post(url, json={"id": "a", "mail": "a@example.org"}), 201)
    assert api.get(f"{url}?mail=a@example.org").json["records"][0]["path"] == "a"

    from openapi_spec_validator import OpenAPIV31SpecValidator  # here, because it takes a second

    document = api.get("/openapi.json").json
    OpenAPIV31SpecValidator(document).validate()
    schema = {**document, **document["components"]["schemas"]["record_bound"]}
    assert jsonschema_rs.is_valid(schema, {"id": "a", "mail": "a"})
    for wrong in ({"id": "a"}, {"mail": "a"}, {"id": "a", "mail": 7}):
        assert not jsonschema_rs.is_valid(schema, wrong)
    filters = [each.get("name") for each in document["paths"][url]["get"]["parameters"]]
    assert {"mail", "id"} <= set(filters)


def test_a_field_may_be_one_of_a_pattern(api, put_files):
    schema = (
        "[gitsheet.schema]\nrequired = ['id']\nadditionalProperties = false\nproperties.id.type = 'string'\n"
    )
    pattern = "patternProperties.'^x-\\d+$'.type = 'integer'\n"
    put_files(
        {".gitsheets/free.toml": f"[gitsheet]\nroot = 'free'\npath = '${{{{ id }}}}'\n{schema}{pattern}"}
    )
    url = "/api/sheets/free/records"
    _write(api.post(url, json={"id": "a", "x-1": 5}), 201)
    for query, found in (("x-1=5", 1), ("x-1[gt]=5", 0), ("x-22=5", 0), ("id=a", 1)):
        assert len(api.get(f"{url}?{query}").json["records"]) == found
    for query in ("x-a=5", "y=5", "x-1a[gt]=5"):
        answer = api.get(f"{url}?{query}")
        assert (answer.status_code, answer.json["code"]) == (400, "query-invalid")
