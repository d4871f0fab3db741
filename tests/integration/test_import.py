"""
Files of CSV and NDJSON into a sheet: all or nothing, by the same rules as every write.
"""

from __future__ import annotations

import io
import json

import pytest

from ferry.app import create_app
from ferry.app.exchange import importing
from ferry.app.store.store import Store
from tests.town import ANA, JANE, PEOPLE, town

__all__ = ["town"]  # a fixture

IMPORT = "/api/sheets/people/import"
IDLE = "import ferry\ntown = ferry.Extension('town')\n@town.after_push\ndef told(landing): ...\n"
CSV, NDJSON = {"Content-Type": "text/csv"}, {"Content-Type": "application/x-ndjson"}
THREE = 'slug,name,joined_year,skills\r\nann,Ann,2020,"[""b"",""a""]"\r\nbob,Bob,,\r\ncy,"C\ny",2021,\r\n'


def _ndjson(*records: dict) -> str:
    return "".join(json.dumps(each) + "\n" for each in records)


def _many(count: int, name: str = "P") -> str:
    return _ndjson(*({"slug": f"p-{number}", "name": f"{name} {number}"} for number in range(count)))


@pytest.fixture
def api(client):
    return client()


def test_csv_is_stored_in_one_commit_of_its_sender(town, data):
    api, before = town(IDLE), data.head()
    answer = api.post(IMPORT, data=THREE, headers={**CSV, **ANA, "Commit-Message": "The new ones"})

    assert answer.status_code == 200
    hash_ = data.head()
    assert answer.json == {
        "sheet": "people", "created": 3, "updated": 0, "unchanged": 0, "commits": [hash_],
        "commit": {"hash": hash_, "push": {"origin": "pending"}},
    }  # fmt: skip
    assert data.git("rev-parse", "main~1") == before
    assert data.git("log", "-1", "--format=%an %s%n%b", "main").splitlines() == [
        "ana ana: POST /api/sheets/people/import", "The new ones", "", "Action: records.import", "Actor: ana",
        "Subject-Type: people", f"Request-Id: {answer.headers['X-Request-Id']}",
    ]  # fmt: skip
    assert data.git("show", "main:people/ann.toml") == (
        'joined_year = 2020\nname = "Ann"\nskills = ["a", "b"]\nslug = "ann"'
    )
    assert api.get(f"{PEOPLE}/cy").json["record"] == {"slug": "cy", "name": "C\ny", "joined_year": 2021}


def test_errors_name_the_lines_and_nothing_is_stored(api, data):
    before = data.head()
    lines = [
        "slug,name,joined_year",
        "ann,Ann,old",
        "bob,,1900",
        "ada-quill,Ada,2020",
        "a/b,B,",
        "cy,Cy,2020,x",
        "cy,Cy,",
    ]
    answer = api.post(IMPORT, data="\n".join(lines), headers=CSV)

    assert (answer.status_code, answer.json["code"]) == (422, "import-invalid")
    found = [(each["line"], each["code"], each.get("field")) for each in answer.json["errors"]]
    assert sorted(found, key=str) == [
        (2, "validation-failed", "joined_year"),
        (3, "validation-failed", "joined_year"),
        (3, "validation-failed", "name"),
        (4, "record-exists", None),
        (5, "validation-failed", "slug"),
        (6, "line-invalid", None),
    ]
    assert data.head() == before


def test_create_refuses_what_exists_and_upsert_replaces_it(api):
    sent = _ndjson({"slug": "ada-quill", "name": "Ada"}, {"slug": "ann", "name": "Ann"})
    assert api.post(IMPORT, data=sent, headers=NDJSON).json["errors"][0]["code"] == "record-exists"

    answer = api.post(f"{IMPORT}?mode=upsert", data=sent, headers=NDJSON)
    assert (answer.json["created"], answer.json["updated"]) == (1, 1)
    assert api.get(f"{PEOPLE}/ada-quill").json["record"] == {"slug": "ada-quill", "name": "Ada"}


@pytest.mark.parametrize(
    ("form", "body"), [("csv", "slug,name\nann,Ann\n"), ("ndjson", '{"slug":"ann","name":"Ann"}')]
)
def test_a_generated_client_names_the_form_in_the_query(api, form, body):
    answer = api.post(
        f"{IMPORT}?format={form}", data=body, headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.json["created"] == 1


def test_two_lines_of_one_record_are_a_fault(api):
    sent = _ndjson({"slug": "ann", "name": "A"}, {"slug": "bob", "name": "B"}, {"slug": "ann", "name": "C"})
    answer = api.post(f"{IMPORT}?mode=upsert", data=sent, headers=NDJSON)

    assert answer.json["errors"] == [
        {"line": 3, "code": "line-invalid", "message": "line 1 is the record 'ann', too"}
    ]


@pytest.mark.parametrize("form", ["csv", "ndjson"])
@pytest.mark.parametrize("sheet", ["people", "places", "events"])
def test_what_leaves_a_sheet_comes_back_byte_by_byte(api, data, sheet, form):
    """
    Into the sheet that it left it brings no change, and into an empty one the same files.
    """
    files = data.git("rev-parse", f"main:{sheet}")
    exported = api.get(f"/api/sheets/{sheet}/records?format={form}")
    headers = {"Content-Type": exported.content_type}
    again = api.post(f"/api/sheets/{sheet}/import?mode=upsert", data=exported.data, headers=headers)
    assert (again.status_code, again.json["commit"], again.json["updated"]) == (200, None, 0)

    data.edit(
        {
            f"{sheet}/{name}": None
            for name in data.git("ls-tree", "-r", "--name-only", f"main:{sheet}").split()
        }
    )
    answer = api.post(f"/api/sheets/{sheet}/import", data=exported.data, headers=headers)
    assert answer.json["created"] == again.json["unchanged"]
    assert data.git("rev-parse", f"main:{sheet}") == files
    assert api.get(f"/api/sheets/{sheet}/records?format={form}").data == exported.data


def test_a_record_whose_fields_do_not_change_keeps_its_file(api, data):
    data.edit({"people/ann.toml": "# by hand\nslug = 'ann'\nname = 'Ann'\n"})
    before = data.head()
    answer = api.post(f"{IMPORT}?mode=upsert", data=_ndjson({"slug": "ann", "name": "Ann"}), headers=NDJSON)

    assert (answer.json["unchanged"], answer.json["commit"], data.head()) == (1, None, before)


def test_commits_of_so_many_lines(api, data):
    before = data.head()
    answer = api.post(f"{IMPORT}?commit_every=2", data=_many(5), headers=NDJSON)

    assert (answer.json["created"], len(answer.json["commits"])) == (5, 3)
    assert answer.json["commit"]["hash"] == answer.json["commits"][-1] == data.head()
    assert data.git("rev-parse", "main~3") == before


@pytest.mark.parametrize("query", ["", "?commit_every=2", "?dry_run=true"])
def test_a_file_without_records_changes_nothing(api, data, query):
    before = data.head()
    answer = api.post(f"{IMPORT}{query}", data="\n", headers=NDJSON)

    assert (answer.status_code, answer.json["created"], answer.json["commit"]) == (200, 0, None)
    assert data.head() == before


def test_the_commits_before_a_fault_stay_and_are_named(api, data):
    sent = _many(4) + _ndjson({"slug": "x"}) + _ndjson({"slug": "y", "name": "Y"})
    answer = api.post(f"{IMPORT}?commit_every=2", data=sent, headers=NDJSON)

    assert (answer.status_code, answer.json["created"]) == (422, 4)
    assert answer.json["commits"][-1] == data.head()
    assert [each["line"] for each in answer.json["errors"]] == [5]


@pytest.mark.parametrize("every", ["", "&commit_every=2"])
def test_an_import_that_is_repeated_with_its_key_is_made_once(api, data, every):
    headers = {**NDJSON, "Idempotency-Key": "one"}
    first = api.post(f"{IMPORT}?mode=create{every}", data=_many(3), headers=headers)
    head = data.head()
    second = api.post(f"{IMPORT}?mode=create{every}", data=_many(3), headers=headers)

    assert second.headers["Idempotent-Replayed"] == "true"
    assert {**second.json, "commit": None} == {**first.json, "commit": None}
    assert data.head() == head
    other = api.post(f"{IMPORT}?mode=create{every}", data=_many(2), headers=headers)
    assert other.json["code"] == "idempotency-key-reused"


def test_what_an_interrupted_import_has_committed_is_not_made_again(api, data, monkeypatch):
    headers = {**NDJSON, "Idempotency-Key": "one"}
    commit, made = Store.commit, []

    def fails(*given, **more):
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt
        return commit(*given, **more)

    monkeypatch.setattr(Store, "commit", fails)
    with pytest.raises(KeyboardInterrupt):
        api.post(f"{IMPORT}?commit_every=2", data=_many(5), headers=headers)
    monkeypatch.undo()
    answer = api.post(f"{IMPORT}?commit_every=2", data=_many(5), headers=headers)

    assert (answer.status_code, answer.json["created"], len(answer.json["commits"])) == (200, 5, 3)


def test_dry_run_counts_and_names_files_and_writes_nothing(api, data):
    before, objects = data.head(), sorted((data.path / "objects").rglob("*"))
    answer = api.post(f"{IMPORT}?dry_run=true&mode=upsert", data=_many(1200), headers=NDJSON)

    assert (answer.json["created"], answer.json["commit"], answer.json["dry_run"]) == (1200, None, True)
    assert (len(answer.json["files"]), answer.json["more_files"]) == (1000, 200)
    assert (data.head(), sorted((data.path / "objects").rglob("*"))) == (before, objects)


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", {"Content-Type": "application/json"}, 415, "media-type-unsupported"),
        ("", {}, 415, "media-type-unsupported"),
        ("", {"Content-Type": "application/octet-stream"}, 415, "media-type-unsupported"),
        ("?format=csv", {"Content-Type": "text/plain"}, 415, "media-type-unsupported"),
        ("?format=xml", {"Content-Type": "application/octet-stream"}, 400, "query-invalid"),
        ("?mode=replace", CSV, 400, "query-invalid"),
        ("?commit_every=0", CSV, 400, "query-invalid"),
        ("?moed=create", CSV, 400, "query-invalid"),
        ("", {**CSV, "If-Match": "*"}, 412, "precondition-failed"),
    ],
)
def test_what_makes_no_sense_is_refused(api, query, headers, status, code):
    answer = api.post(f"{IMPORT}{query}", data=THREE, headers=headers)

    assert (answer.status_code, answer.json["code"]) == (status, code)


@pytest.mark.parametrize(
    ("body", "line"),
    [(b"", 1), (b"slug,,name\r\n", 1), (b"slug,name\r\nann,\xff\r\n", 2), (b'slug,name\r\nann,"A\r\n', 2)],
)
def test_what_is_no_csv_is_told_with_its_line(api, body, line):
    answer = api.post(IMPORT, data=body, headers=CSV)

    assert (answer.status_code, answer.json["errors"][0]["line"]) == (422, line)


def test_a_byte_order_mark_is_no_part_of_a_name(api):
    answer = api.post(IMPORT, data=b"\xef\xbb\xbf" + b"slug,name\r\nann,Ann\r\n", headers=CSV)

    assert answer.json["created"] == 1


def test_a_body_may_be_as_large_as_an_attachment(env):
    api = create_app(
        {**env, "CFP_API_MAX_BODY": "1000", "CFP_API_MAX_ATTACHMENT": "100000"}, open_access=True
    ).test_client()

    assert api.post(IMPORT, data=_many(500), headers=NDJSON).json["created"] == 500
    assert api.post(IMPORT, data=_many(5000), headers=NDJSON).status_code == 413


def test_rules_see_each_line_with_its_caller(town):
    api = town("""
import ferry
town = ferry.Extension('town')
@town.before_write("people")
def stamp(write):
    if write.path == "mallory":
        raise ferry.Refused("Not her.", code="not-her", status=403)
    write.after["name"] = f"{write.after['name']} by {write.caller.name} {write.operation}"
""")
    sent = _ndjson({"slug": "ann", "name": "Ann"}, {"slug": "mallory", "name": "M"})
    refused = api.post(IMPORT, data=sent, headers={**NDJSON, **JANE})
    assert refused.json["errors"] == [{"line": 2, "code": "not-her", "message": "Not her."}]

    sent = _ndjson({"slug": "ann", "name": "Ann"})
    assert api.post(IMPORT, data=sent, headers={**NDJSON, **JANE}).status_code == 200
    assert api.get(f"{PEOPLE}/ann").json["record"]["name"] == "Ann by jane create"
    assert api.post(IMPORT, data=sent, headers=NDJSON).status_code == 401


def _between(monkeypatch, do) -> None:
    """
    Let *do* happen once after the lines were staged without the lock, and before the lock is taken.
    """
    keep, done = Store.keep, []

    def kept(store, transaction):
        keep(store, transaction)
        if not done:
            done.append(1)
            do()

    monkeypatch.setattr(Store, "keep", kept)


def test_what_others_commit_meanwhile_stays(api, client, data, monkeypatch):
    other = client()
    _between(monkeypatch, lambda: other.post(PEOPLE, json={"slug": "zoe", "name": "Zoe"}))
    answer = api.post(IMPORT, data=_many(3), headers=NDJSON)

    assert answer.json["created"] == 3
    assert data.git("ls-tree", "--name-only", "main:people").count("p-") == 3
    assert api.get(f"{PEOPLE}/zoe").status_code == 200


def test_a_record_that_others_make_meanwhile_is_seen(api, client, monkeypatch):
    other = client()
    _between(monkeypatch, lambda: other.post(PEOPLE, json={"slug": "p-1", "name": "Zoe"}))
    answer = api.post(IMPORT, data=_many(3), headers=NDJSON)

    assert [(each["line"], each["code"]) for each in answer.json["errors"]] == [(2, "record-exists")]
    assert api.get(f"{PEOPLE}/p-1").json["record"]["name"] == "Zoe"


def test_a_schema_that_changes_meanwhile_is_applied(api, data, monkeypatch):
    declared = data.git("show", "main:.gitsheets/people.toml") + "\n"
    stricter = declared.replace("minLength = 1", "minLength = 9")
    _between(monkeypatch, lambda: data.edit({".gitsheets/people.toml": stricter}))
    answer = api.post(IMPORT, data=_many(2), headers=NDJSON)

    assert {each["code"] for each in answer.json["errors"]} == {"validation-failed"}


def test_other_writers_go_on_while_lines_are_staged(api, client, monkeypatch):
    """
    The write lock is free while the lines are staged: another writer commits in the middle.
    """
    other, wrote = client(), []
    bring = importing.Import._bring

    def brought(*given):
        if not wrote:
            wrote.append(other.post(PEOPLE, json={"slug": "zoe", "name": "Zoe"}).status_code)
        bring(*given)

    monkeypatch.setattr(importing.Import, "_bring", brought)
    assert api.post(IMPORT, data=_many(3), headers=NDJSON).json["created"] == 3
    assert wrote == [201]


def test_many_records_are_stored_as_one_pack_and_are_whole(api, data):
    packs = list((data.path / "objects/pack").glob("*.pack"))
    answer = api.post(IMPORT, data=_many(3000), headers=NDJSON)

    assert answer.json["created"] == 3000
    assert len(list((data.path / "objects/pack").glob("*.pack"))) == len(packs) + 1
    assert data.git("fsck", "--strict", "--full") == ""
    assert len(data.git("ls-tree", "--name-only", "main:people").split()) == 3020
    assert api.get(f"{PEOPLE}/p-2999").json["record"]["name"] == "P 2999"
    changed = api.post(
        f"{IMPORT}?mode=upsert",
        data=_many(2990, "P") + _ndjson({"slug": "p-2999", "name": "Q"}),
        headers=NDJSON,
    )
    assert (changed.json["updated"], changed.json["unchanged"]) == (1, 2990)


def test_a_name_that_differs_by_case_alone_is_refused_among_many(api, data):
    data.edit({".gitsheets/free.toml": "[gitsheet]\nroot = 'free'\npath = '${{ slug }}'\n"})
    sent = _ndjson(*({"slug": f"a-{number}"} for number in range(30)), {"slug": "A-7"})
    answer = api.post("/api/sheets/free/import", data=sent, headers=NDJSON)

    assert (answer.status_code, answer.json["code"]) == (422, "path-invalid")


def test_too_many_lines_for_one_commit_are_refused(api, monkeypatch):
    monkeypatch.setattr(importing, "MOST_IN_A_COMMIT", 10)
    answer = api.post(IMPORT, data=_many(11), headers=NDJSON)

    assert answer.json["errors"][-1]["code"] == "import-too-large"


def test_a_markdown_sheet_is_imported_too(api, data):
    declared = "[gitsheet]\nroot = 'notes'\npath = '${{ slug }}'\n[gitsheet.format]\ntype = 'markdown'\n"
    data.edit({".gitsheets/notes.toml": f"{declared}body = 'body'\n"})
    sent = 'slug,body\r\none,"# One\n\nText\n"\r\n'
    answer = api.post("/api/sheets/notes/import", data=sent, headers=CSV)

    assert answer.json["created"] == 1, answer.json
    assert "# One" in data.git("show", "main:notes/one.md")
    rows = api.get("/api/sheets/notes/records?format=csv").get_data(as_text=True)
    assert io.StringIO(rows, newline="").readline() in ("slug,body\r\n", "body,slug\r\n")
