"""
That a request through a sheet touches nothing of another's, over HTTP and with scoped tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gitsheets
import pytest
from flask.testing import FlaskClient

from ferry.app import create_app
from tests.parts import Bare

TOKENS = ("notes", "people", "posts", "tags", "docs")
SHEETS = {
    # Without a root, so at the top, with everybody else's directories below.
    "notes": "path = '${{ slug/** }}'",
    "people": "root = 'people'\npath = '${{ slug }}'\n[gitsheet.schema]\nrequired = ['slug', 'name']",
    "posts": "root = 'people'\npath = '${{ slug }}'\n[gitsheet.format]\ntype = 'markdown'\nbody = 'text'",
    "tags": "root = 'notes'\npath = '${{ slug }}'",
    "docs": "root = 'people'\npath = '${{ a }}/${{ b }}'",
}
FILES: Mapping[str, bytes | tuple[str, bytes]] = {
    **{f".gitsheets/{name}.toml": f"[gitsheet]\n{config}\n".encode() for name, config in SHEETS.items()},
    "README.md": b"hello\n",
    "one.toml": b"slug = 'one'\n",
    "one/photo.jpg": b"one's photo",
    "people.toml": b"slug = 'people'\n",
    "people/jane.toml": b"name = 'Jane'\nslug = 'jane'\n",
    "people/jane/cv.pdf": ("100755", b"her cv"),
    "people/jane/scans/a/1.png": b"a scan",
    "people/jane/scans/link": ("120000", b"1.png"),
    "people/jane.md": b"+++\nslug = 'jane'\n+++\n\nhello\n",
    "people/hello.md": b"+++\nslug = 'hello'\n+++\n\nhello\n",
    "people/hello/x.jpg": b"hello's x",
    "notes/red.toml": b"slug = 'red'\n",
    "lost/photo.jpg": b"nobody's",
    "linked": ("120000", b"people"),
    "module": ("160000", b"1" * 40),
}

Clients = Callable[[str], FlaskClient]


def commit_files(bare: Bare, files: Mapping[str, Any]) -> None:
    """
    Put *files* on the branch in the place of all that is there; a value may be a pair with a mode.
    """
    stream = b"commit refs/heads/main\ncommitter Stranger <stranger@example.org> now\ndata 5\nfiles\n"
    stream += b"from refs/heads/main^0\ndeleteall\n"
    for place, content in files.items():
        mode, data = content if isinstance(content, tuple) else ("100644", content)
        path = "".join(f"\\{byte:03o}" for byte in place.encode())
        what = data.decode() if mode == "160000" else "inline"
        stream += f'M {mode} {what} "{path}"\n'.encode()
        if what == "inline":
            data = data.encode() if isinstance(data, str) else data
            stream += b"data %d\n%b\n" % (len(data), data)
    bare.feed("fast-import", "--quiet", "--date-format=now", content=stream)


def tree_of(bare: Bare) -> dict[str, str]:
    """
    Return mode and object of every file on the branch.
    """
    listed = bare.git("-c", "core.quotePath=false", "ls-tree", "-r", "-z", "main").split("\0")
    return {line.partition("\t")[2]: line.partition("\t")[0] for line in listed if line}


@pytest.fixture(scope="module")
def _town(_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bare = Bare.copy(_sample, tmp_path_factory.mktemp("town") / "data.git")
    commit_files(bare, FILES)
    return bare.path


@pytest.fixture
def data(tmp_path: Path, _town: Path) -> Bare:
    return Bare.like(_town, tmp_path / "data.git")


@pytest.fixture
def town(data: Bare) -> Bare:
    return data


@pytest.fixture
def clients(env: dict[str, str], town: Bare) -> Clients:
    """
    Return who may write one sheet alone.
    """
    tokens = [f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:{name}" for name in TOKENS]
    app = create_app({**env, "CFP_API_TOKENS": " ".join(tokens)})

    def client(name: str) -> FlaskClient:
        found = app.test_client()
        found.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {name}"
        return found

    return client


def _url(sheet: str, path: str) -> str:
    return f"/api/sheets/{sheet}/records/{quote(path)}"


@pytest.mark.parametrize(
    ("sheet", "path", "record"),
    [
        ("notes", "people/jane", {"slug": "people/jane"}),
        ("notes", ".gitsheets/tags", {"slug": ".gitsheets/tags"}),
        ("notes", ".GitSheets/tags", {"slug": ".GitSheets/tags"}),
        ("notes", "PEOPLE/jim", {"slug": "PEOPLE/jim"}),
        ("notes", "notes/red", {"slug": "notes/red"}),
        ("notes", "one/.gitsheets/x", {"slug": "one/.gitsheets/x"}),
        ("notes", "linked/x", {"slug": "linked/x"}),
        ("notes", "module/x", {"slug": "module/x"}),
        ("people", "../one", {"slug": "../one", "name": "x"}),
        ("people", "jane/cv", {"slug": "jane/cv", "name": "x"}),
        ("docs", "jane", {"a": "jane", "b": ""}),
        ("docs", "jane/scans", {"a": "jane", "b": "scans"}),  # whose directory holds jane's own
    ],
)
def test_no_request_reaches_beyond_its_sheet(clients, town, sheet, path, record):
    before, mine = town.head(), clients(sheet)
    there = f"{_url(sheet, path)}/attachments/x.jpg"

    answers = [
        mine.put(_url(sheet, path), json=record),
        mine.post(f"/api/sheets/{sheet}/records", json=record),
        mine.patch(_url(sheet, path), json={"x": 1}),
        mine.delete(_url(sheet, path)),
        mine.get(_url(sheet, path)),
        mine.get(f"{_url(sheet, path)}/history"),
        mine.put(there, data=b"x"),
        mine.delete(there),
        mine.get(there),
        *(
            mine.post("/api/transactions", json={"operations": [{"sheet": sheet, **operation}]})
            for operation in (
                {"op": "upsert", "record": record},
                {"op": "upsert", "path": path, "record": record},
                {"op": "delete", "path": path},
            )
        ),
    ]

    assert {answer.status_code for answer in answers} <= {404, 422}
    assert town.head() == before
    listed = mine.get(f"/api/sheets/{sheet}/records").json["records"]
    assert path not in [each["path"] for each in listed]


NO_PATHS = ["", "/", "..", "a//b", "one/", "\ud800", "a\0b", "a/../one", ".git", "x" * 5000]


@pytest.mark.parametrize("path", NO_PATHS)
def test_what_is_no_path_is_no_records(clients, town, path):
    before, mine = town.head(), clients("notes")
    for op, more in (("delete", {}), ("patch", {"record": {}}), ("upsert", {"record": {"slug": "new"}})):
        operation = {"op": op, "sheet": "notes", "path": path, **more}
        answer = mine.post(
            "/api/transactions",
            data=json.dumps({"operations": [operation]}),
            content_type="application/json",
        )
        assert answer.status_code == (422 if op == "upsert" else 404)
    assert town.head() == before


def test_each_sheet_lists_what_is_its_own(clients):
    mine = clients("notes")
    listed = {
        name: [each["path"] for each in mine.get(f"/api/sheets/{name}/records").json["records"]]
        for name in SHEETS
    }
    assert listed == {
        "notes": ["one", "people"],
        "people": ["jane"],
        "posts": ["hello", "jane"],
        "tags": ["red"],
        "docs": [],
    }


def test_an_attachment_is_no_other_sheets_record(clients, town):
    """
    A markdown sheet and a TOML sheet may share a root: neither takes the other's records for its attachments.
    """
    before, posts, people = tree_of(town), clients("posts"), clients("people")
    for name in ("cv.pdf", "x.jpg", "jane.toml"):
        assert posts.get(f"{_url('posts', 'jane')}/attachments/{name}").status_code == 404
    assert posts.put(f"{_url('posts', 'jane')}/attachments/new.pdf", data=b"x").status_code == 422
    # `docs` makes such paths: this is a record of its own, that people may not write past its schema.
    assert people.put(f"{_url('people', 'jane')}/attachments/new.toml", data=b"x").status_code == 422
    assert posts.put(f"{_url('posts', 'hello')}/attachments/new.toml", data=b"x").status_code == 422
    # Whose record comes later does not become the holder of what is attached already.
    answer = people.put(_url("people", "hello"), json={"slug": "hello", "name": "Hello"})
    assert (answer.status_code, answer.json["code"]) == (422, "path-invalid"), answer.text
    assert "posts" in answer.json["detail"]

    assert posts.delete(_url("posts", "jane")).status_code == 200
    assert tree_of(town) == {place: entry for place, entry in before.items() if place != "people/jane.md"}


@pytest.mark.parametrize("way", ["delete", "put", "patch", "transaction"])
def test_all_that_belongs_to_a_record_goes_with_it(clients, town, way):
    before, mine = tree_of(town), clients("people")
    new = {"slug": "joan", "name": "Jane"}
    answer = {
        "delete": lambda: mine.delete(_url("people", "jane")),
        "put": lambda: mine.put(_url("people", "jane"), json=new),
        "patch": lambda: mine.patch(_url("people", "jane"), json={"slug": "joan"}),
        "transaction": lambda: mine.post(
            "/api/transactions",
            json={"operations": [{"op": "upsert", "sheet": "people", "path": "jane", "record": new}]},
        ),
    }[way]()

    assert answer.status_code == 200
    after = tree_of(town)
    hers = {place: entry for place, entry in before.items() if place.startswith("people/jane/")}
    rest = {p: e for p, e in before.items() if p not in hers and p != "people/jane.toml"}
    after.pop("people/joan.toml", None)
    moved = {place.replace("/jane/", "/joan/"): entry for place, entry in hers.items()}
    assert after == (rest if way == "delete" else rest | moved)


def test_nothing_is_attached_to_what_is_no_record(clients, town):
    before, mine = town.head(), clients("notes")
    for path in ("lost", "nobody", "one/photo"):
        for name in ("photo.jpg", "new.jpg"):
            there = f"{_url('notes', path)}/attachments/{name}"
            assert mine.get(there).status_code == 404
            assert mine.put(there, data=b"x").status_code == 404
            assert mine.delete(there).status_code == 404
    assert town.head() == before


def test_a_record_may_have_the_name_of_another_sheets_root(clients, town):
    tags, mine = clients("tags"), clients("notes")
    assert tags.put(f"{_url('tags', 'red')}/attachments/x.jpg", data=b"x").status_code == 201
    before = tree_of(town)
    assert mine.put(_url("notes", "notes"), json={"slug": "notes"}).status_code == 201
    assert mine.get(f"{_url('notes', 'notes')}/attachments").json["attachments"] == []
    assert mine.delete(_url("notes", "notes")).status_code == 200
    assert tree_of(town) == before


def test_a_record_named_attachments_has_a_history_and_attachments(clients):
    docs, url = clients("docs"), _url("docs", "x/attachments")
    assert docs.put(url, json={"a": "x", "b": "attachments"}).status_code == 201
    assert docs.put(f"{url}/attachments/a.txt", data=b"a").status_code == 201
    assert len(docs.get(f"{url}/history").json["history"]) == 1
    assert [each["name"] for each in docs.get(f"{url}/attachments").json["attachments"]] == ["a.txt"]
    assert docs.get(f"{url}/attachments/a.txt").data == b"a"
    assert docs.patch(url, json={"c": 1}).status_code == 200
    first = docs.get(f"{url}/history?limit=1").json
    assert (len(first["history"]), first["next_cursor"] is None) == (1, False)
    (rest,) = docs.get(f"{url}/history", query_string={"limit": 1, "cursor": first["next_cursor"]}).json[
        "history"
    ]
    assert rest["patch"][0]["op"] == "add"
    assert docs.get(f"{url}/history?page=2").status_code == 400
    assert docs.get(f"{url}/attachments/a.txt?limit=1").status_code == 400


def test_a_directory_named_like_a_record_is_not_swept_away_with_it(clients, town):
    """
    ``people`` is a record of ``notes``, and the root of three other sheets.
    """
    before, mine = tree_of(town), clients("notes")
    assert mine.get(f"{_url('notes', 'people')}/attachments").json["attachments"] == []
    assert mine.put(f"{_url('notes', 'people')}/attachments/x.jpg", data=b"x").status_code == 422
    assert mine.put(_url("notes", "people"), json={"slug": "folk"}).status_code == 200
    moved = {"folk.toml" if place == "people.toml" else place for place in before}
    assert set(tree_of(town)) == moved
    assert mine.delete(_url("notes", "folk")).status_code == 200
    assert set(tree_of(town)) == set(before) - {"people.toml"}


@pytest.mark.parametrize("name", ["link.toml", "module.toml"])
def test_what_is_no_file_at_a_records_path_is_told_from_one(clients, town, name):
    """
    A symbolic link is a record that cannot be read, to be replaced or removed; a submodule is none.
    """
    mode, target = ("120000", b"red.toml") if name == "link.toml" else ("160000", b"2" * 40)
    commit_files(town, {**FILES, f"notes/{name}": (mode, target)})
    mine, path = clients("tags"), name.removesuffix(".toml")
    url, is_link = _url("tags", path), name == "link.toml"
    listed = mine.get("/api/sheets/tags/records").json

    assert [each["path"] for each in listed.get("unreadable", [])] == ([path] if is_link else [])
    assert mine.get(url).json["code"] == ("record-unreadable" if is_link else "record-not-found")
    assert mine.post("/api/sheets/tags/records", json={"slug": path}).status_code == (409 if is_link else 422)
    assert mine.put(url, json={"slug": path, "x": 1}).status_code == (200 if is_link else 422)
    assert mine.delete(url).status_code == (200 if is_link else 404)
    assert (f"notes/{name}" in tree_of(town)) is not is_link


def test_a_list_follows_the_declarations_of_others(clients, town):
    """
    What was listed under one declaration is not served under another.
    """
    mine = clients("notes")

    def listed(sheet: str) -> list[str] | int:
        answer = mine.get(f"/api/sheets/{sheet}/records")
        return [each["path"] for each in answer.json.get("records", [])] or answer.status_code

    def without(*places: str, **more: bytes) -> dict[str, Any]:
        return {place: content for place, content in FILES.items() if place not in places} | more

    assert (listed("notes"), listed("tags")) == (["one", "people"], ["red"])
    commit_files(town, without(".gitsheets/tags.toml"))
    assert (listed("notes"), listed("tags")) == (["notes/red", "one", "people"], 404)
    commit_files(town, {**FILES, ".gitsheets/tags.toml": b"[gitsheet]\nroot = 'notes'\npath = = 'broken'\n"})
    assert (listed("notes"), listed("tags")) == (["one", "people"], 500)
    commit_files(town, {**FILES, ".gitsheets/tags.toml": b"[gitsheet]\nroot = 'one'\npath = '${{ slug }}'\n"})
    assert (listed("notes"), listed("tags")) == (["notes/red", "one", "people"], 200)
    commit_files(town, FILES)
    assert (listed("notes"), listed("tags")) == (["one", "people"], ["red"])


def test_doctor_and_the_log_say_where_sheets_meet(town, env, ferry, capfd):
    commit_files(town, {**FILES, "notes/green/blue.toml": b"", "people/x.toml": b"= no", "docs.md": b""})
    create_app(env)
    found = {
        each["name"]: each
        for each in map(json.loads, ferry("doctor", "--json").stdout.splitlines())
        if each["name"].startswith("sheet ")
    }

    assert set(found) == {f"sheet {name}" for name in SHEETS}
    assert {each["state"] for each in found.values()} == {"warning"}
    assert "opens, 1 record, 1 cannot be read: 'x'" in found["sheet people"]["detail"]
    assert "shares paths with docs, people, posts, tags" in found["sheet notes"]["detail"]
    assert "shares paths with docs, people" in found["sheet posts"]["detail"]
    assert found["sheet tags"]["detail"] == "opens, 1 record, 1 file that its template does not make"
    assert found["sheet docs"]["detail"] == "opens, 0 records, shares paths with people, posts"
    logged = [line for line in capfd.readouterr().err.splitlines() if "sheets.overlap" in line]
    assert len(logged) == len(["notes", "people", "posts", "docs"])


def test_a_record_stands_before_what_else_its_address_could_mean(clients, town):
    """
    A record `one/history`, say, which git put there: it is read, changed and deleted as all that is listed.
    """
    mine, odd = clients("notes"), ("one/history", "one/attachments", "one/attachments/photo.jpg")
    for path in odd:
        assert mine.post("/api/sheets/notes/records", json={"slug": path}).status_code == 422
    assert mine.get(f"{_url('notes', 'one')}/attachments/photo.jpg").data == b"one's photo"
    assert mine.get(f"{_url('notes', 'one')}/history").json["history"]

    commit_files(town, {**FILES, **{f"{path}.toml": f"slug = '{path}'\n".encode() for path in odd}})
    for path in odd:
        assert mine.get(_url("notes", path)).json["record"] == {"slug": path}
        assert mine.patch(_url("notes", path), json={"x": 1}).status_code == 200
        answer = mine.put(_url("notes", path), json={"slug": path, "x": 2})
        assert (answer.status_code, answer.json["record"]["x"]) == (200, 2)
        assert mine.delete(_url("notes", path)).status_code == 200
    assert tree_of(town).keys() == FILES.keys()


ODD = [
    "a b", "a\u00a0b", "a\u2003b", "\u3000", "نمی\u200cخواهم", "👩\u200d🚀", "a\u00adb", "a\x7fb", "a\x85b",
    "a\x01b", "a\nb", "a\n", "a:b", "a\\b", "con", "e\u0301", "\ufeffa", "a\u2028b", ' "', "%41", "a?b#c",
    "a+b", "...", "${{ x }}", "~", "'",
]  # fmt: skip


def _toml(record: dict[str, Any]) -> bytes:
    return str(gitsheets.serialize_records([record])[0]).encode()


@pytest.mark.parametrize("name", ODD)
def test_what_is_listed_can_be_read_changed_and_deleted(clients, town, name):
    record = {"slug": name}
    commit_files(town, {**FILES, f"notes/{name}.toml": _toml(record)})
    mine, url = clients("tags"), _url("tags", name)

    listed = mine.get("/api/sheets/tags/records").json["records"]
    assert {"path": name, "record": record} in listed
    assert mine.get(url).json == {"path": name, "record": record}
    assert mine.get(f"{url}/history").status_code == 200
    assert mine.patch(url, json={"x": 1}).json["record"] == {**record, "x": 1}
    assert mine.put(url, json={**record, "x": 2}).json["record"] == {**record, "x": 2}
    assert mine.delete(url).status_code == 200
    assert tree_of(town).keys() == FILES.keys()


@pytest.mark.parametrize(
    "name", [name for name in ODD if not any(bad in name for bad in '\x7f\x85\x01\n:\\"?')]
)
def test_a_new_name_may_hold_any_space_and_joiner(clients, town, name):
    created = clients("tags").post("/api/sheets/tags/records", json={"slug": name})
    if name == "con":
        assert (created.status_code, created.json["code"]) == (422, "path-invalid")
    else:
        assert created.status_code == 201
        assert clients("tags").get(created.headers["Location"]).json["path"] == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\x7fb", "control character"), ("a\x85b", "control character"), ("a\nb", ""), ("con", "Windows"),
        ("Aux.x", "Windows"), ("lpt1", "Windows"), ("RED", "'red.toml'"), ("Red", "'red.toml'"),
        (".git\u200c", ".git"),
    ],
)  # fmt: skip
def test_a_new_name_fits_into_every_checkout_or_says_why_not(clients, town, name, says):
    before = town.head()
    answer = clients("tags").post("/api/sheets/tags/records", json={"slug": name})
    assert (answer.status_code, answer.json["code"]) == (422, "path-invalid")
    assert says in answer.json["detail"]
    assert town.head() == before


def test_a_name_may_change_its_case(clients, town):
    answer = clients("tags").put(_url("tags", "red"), json={"slug": "Red"})
    assert (answer.status_code, answer.json["path"]) == (200, "Red")


BROKEN = {
    "toml": b"= no",
    "latin": b"slug = '\xe9'\n",
    "huge": b"slug = 'huge'\nx = 99999999999999999999\n",
    "early": b"slug = 'early'\nx = 0000-01-01\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_record_harms_nothing_else(clients, town, name):
    commit_files(town, {**FILES, **{f"notes/{each}.toml": content for each, content in BROKEN.items()}})
    mine, url = clients("tags"), _url("tags", name)
    listed = mine.get("/api/sheets/tags/records").json

    assert [each["path"] for each in listed["records"]] == ["red"]
    assert [each["path"] for each in listed["unreadable"]] == sorted(BROKEN)
    assert f"notes/{name}.toml" in mine.get(url).json["detail"]
    assert mine.patch(url, json={"x": 1}).json["code"] == "record-unreadable"
    assert mine.put(url, json={"slug": name, "x": 1}).json["record"] == {"slug": name, "x": 1}
    newest, oldest = mine.get(f"{url}/history").json["history"]
    assert newest["patch"] == [{"op": "add", "path": "", "value": {"slug": name, "x": 1}}]
    assert (oldest["patch"], bool(oldest["unreadable"])) == ([], True)
    commit_files(town, {**FILES, f"notes/{name}.toml": BROKEN[name]})
    assert mine.delete(url).status_code == 200
    assert "unreadable" not in mine.get("/api/sheets/tags/records").json


def test_a_broken_markdown_record_is_named(clients, town):
    commit_files(town, {**FILES, "people/bad.md": b"+++\n= no\n+++\n\nhello\n"})
    listed = clients("posts").get("/api/sheets/posts/records").json
    assert [each["path"] for each in listed["records"]] == ["hello", "jane"]
    assert [each["path"] for each in listed["unreadable"]] == ["bad"]
    answer = clients("posts").put(_url("posts", "bad"), json={"slug": "bad", "text": "good"})
    assert (answer.status_code, answer.json["record"]["text"]) == (200, "good")
