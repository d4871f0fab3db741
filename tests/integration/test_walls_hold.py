"""
That no request, through whatever sheets a repository declares, touches a byte outside its own sheet.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferry.app import create_app
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.listing import Listing
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.territory import Owner
from ferry.app.store.trees import Entry, PathTakenError, changed
from ferry.worker.git.objects import Objects
from ferry.worker.git.repository import Repository
from tests.parts import Bare

NAMES = ("one", "two", "three")
ODD = ["a b", "é", "e\u0301", "A", "a\u200cb", "\u00a0", "a\nb", "\x7f", "user-1", "attachments", "history"]
PARTS = st.sampled_from(["a", "a", "b", "b", "c", "a.toml", ".gitsheets", "..", *ODD])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
ROOTS = st.sampled_from([".", ".", "a", "a/b", "b", "A", "a.toml", "one", ".gitsheets"])
TEMPLATES = st.sampled_from(
    ["${{ p }}", "${{ p/** }}", "${{ q }}/${{ p }}", "a/${{ p }}", "user-${{ p }}"]
) | (st.sampled_from(["b/${{ p/** }}", "${{ p.toLowerCase() }}", "${{ p }}-${{ q }}", ".gitsheets/${{ p }}"]))
FORMATS = st.sampled_from(["", "", "[gitsheet.format]\ntype = 'markdown'\nbody = 'text'\n"])
SHEETS = st.lists(st.tuples(ROOTS, TEMPLATES, FORMATS), min_size=1, max_size=3)
ENTRIES = st.tuples(st.sampled_from(["blob", "blob", "blob", "link", "module", "run"]), st.integers(0, 3))
ENDINGS = st.sampled_from([".toml", ".toml", ".md", ".jpg", ""])
FILES = st.dictionaries(st.tuples(PATHS, ENDINGS).map("".join), ENTRIES, max_size=12)
CONTENTS = [b'p = "a"\nq = "b"\n', b'+++\np = "b"\nq = "a"\n+++\n\nhello\n', b"no record", b'p = "c"\n']
RECORDS = st.fixed_dictionaries({"p": PARTS | PARTS | PATHS, "q": PARTS, "text": st.sampled_from(["", "x"])})
VERBS = st.sampled_from(["post", "put", "patch", "delete", "attach", "detach", "get", "history"]) | (
    st.sampled_from(["upsert", "drop", "move"])
)
REQUESTS = st.lists(
    st.tuples(VERBS, st.integers(0, 2), PATHS, st.integers(0, 19), RECORDS), min_size=1, max_size=10
)
FINE = {200, 201, 404, 409, 422}
FAULTS = {"record-unreadable", "sheet-misconfigured"}  # of what the repository holds


@pytest.fixture(scope="module")
def place() -> Iterator[Bare]:
    with tempfile.TemporaryDirectory() as directory:
        yield Bare.init(Path(directory) / "bare.git")


@pytest.fixture(scope="module")
def app(place: Bare) -> Flask:
    tokens = [f"{name}:{hashlib.sha256(name.encode()).hexdigest()}:{name}" for name in NAMES]
    env = {"CFP_DATA_REPO_PATH": str(place.path), "CFP_REDIS_URL": "redis://127.0.0.1:1/0"}
    return create_app({**env, "CFP_API_TOKENS": " ".join(tokens)})


class Town:
    """
    A repository with random sheets and files, served.
    """

    def __init__(self, app: Flask, place: Bare, sheets: list[Any], files: dict[str, Any]) -> None:
        self.client, self.bare, self.git_dir = app.test_client(), place, str(place.path)
        self.listing, self.store = app.extensions["ferry"].listing, app.extensions["ferry"].store
        tree = None
        for name, (root, template, kind) in zip(NAMES, sheets, strict=False):
            config = f"[gitsheet]\nroot = '{root}'\npath = '{template}'\n{kind}"
            tree = self._with(tree, f".gitsheets/{name}.toml", Entry("blob", self._blob(config.encode())))
        for path, (kind, number) in files.items():
            if ".." not in path.split("/"):
                tree = self._with(tree, path, self._entry(kind, number))
        place.git("update-ref", "refs/heads/main", place.git("commit-tree", str(tree), "-m", "town"))

    def _with(self, tree: str | None, path: str, entry: Entry) -> str | None:
        try:
            return changed(Objects(self.git_dir), tree, {path: entry})
        except PathTakenError:
            return tree

    def _blob(self, content: bytes) -> str:
        return Objects(self.git_dir).write("blob", content)

    def _entry(self, kind: str, number: int) -> Entry:
        if kind == "module":
            return Entry("module", "1" * 40)
        return Entry("link" if kind == "link" else "blob", self._blob(CONTENTS[number]), kind == "run")

    def snapshot(self) -> Snapshot:
        return self.store.snapshot()  # type: ignore[no-any-return]

    def files(self) -> dict[str, Entry]:
        return dict(self.snapshot().leaves(""))


def _ask(client: FlaskClient, verb: str, sheet: str, path: str, record: dict[str, Any]) -> Any:
    records = f"/api/sheets/{sheet}/records"
    url = f"{records}/{quote(path)}"
    operations = {
        "upsert": {"op": "upsert", "sheet": sheet, "record": record},
        "drop": {"op": "delete", "sheet": sheet, "path": path},
        "move": {"op": "upsert", "sheet": sheet, "path": path, "record": record},
    }
    auth = {"Authorization": f"Bearer {sheet}"}
    match verb:
        case "post":
            return client.post(records, json=record, headers=auth)
        case "put" | "patch":
            return client.open(url, method=verb.upper(), json=record, headers=auth)
        case "delete" | "get":
            return client.open(url, method=verb.upper(), headers=auth)
        case "attach":
            return client.put(f"{url}/attachments/{quote(record['q'])}", data=b"attached", headers=auth)
        case "detach":
            return client.delete(f"{url}/attachments/{quote(record['q'])}", headers=auth)
        case "history":
            return client.get(f"{url}/history")
        case _:
            return client.post("/api/transactions", json={"operations": [operations[verb]]}, headers=auth)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(sheets=SHEETS, files=FILES, requests=REQUESTS)
def test_no_request_touches_what_is_another_sheets(app, place, sheets, files, requests):
    town = Town(app, place, sheets, files)
    for verb, which, path, number, record in requests:
        old, before = town.snapshot(), town.files()
        sheet = NAMES[which % len(sheets)]
        # Mostly a record of the sheet, sometimes one of another, sometimes any path.
        known = _paths(town, sheet if number < 12 else NAMES[0])
        asked = known[number % len(known)] if known and number < 16 else path
        if number % 2:
            record = {**record, "p": asked.rpartition("/")[2]}

        answer = _ask(town.client, verb, sheet, asked, record)

        told = (verb, sheet, asked, record, answer.status_code, answer.text[:500])
        assert answer.status_code in FINE or answer.json["code"] in FAULTS, told
        new, after = town.snapshot(), town.files()
        for place_ in before.keys() | after.keys():
            if before.get(place_) != after.get(place_):
                owners = [
                    snapshot.territory.owner(place_, snapshot.stands)
                    for snapshot, stood in ((old, before), (new, after))
                    if place_ in stood
                ]
                assert {owner and owner.sheet.name for owner in owners} == {sheet}, (told, place_)
        _check_reads(town, sheet)


def _paths(town: Town, sheet: str) -> list[str]:
    listed = town.client.get(f"/api/sheets/{sheet}/records?limit=1000").json
    return [each["path"] for each in [*listed.get("records", []), *listed.get("unreadable", [])]]


def _check_reads(town: Town, name: str) -> None:
    """
    What is listed is what the tree has for the sheet, in every way that it is asked for.
    """
    snapshot = town.snapshot()
    if name not in snapshot.sheet_names() or town.client.get(f"/api/sheets/{name}").status_code != 200:
        return
    sheet: Sheet = snapshot.sheet(name)
    owned = [
        owner.path
        for place, entry in town.files().items()
        if (owner := snapshot.territory.owner(place, snapshot.stands))
        and owner == Owner(sheet, owner.path)
        and entry.is_file
    ]
    listed = _paths(town, name)
    assert sorted(listed) == sorted(owned)
    fresh = Listing(Repository(town.bare.path, branch="main")).read(snapshot, sheet)
    kept = town.listing.read(snapshot, sheet)
    assert (fresh.records, fresh.unreadable) == (kept.records, kept.unreadable)
    for path in listed:
        url = f"/api/sheets/{name}/records/{quote(path)}"
        if sheet.hidden_by(path) is None:
            answer = town.client.get(url)
            assert answer.status_code == 200 or answer.json["code"] in FAULTS, (
                path,
                answer.text,
            )
        attached = town.client.get(f"{url}/attachments")
        if "attachments" in attached.json:
            for each in attached.json["attachments"]:
                place = f"{sheet.directory(path)}/{each['name']}"
                assert snapshot.territory.owner(place, snapshot.stands) == Owner(sheet, path, each["name"])


def test_a_sheet_does_change_what_is_its_own(app, place):
    """
    The property would hold as well if every request failed.
    """
    town = Town(app, place, [("a", "${{ p }}", ""), (".", "${{ p/** }}", "")], {"a/b.toml": ("blob", 0)})
    record = {"p": "c", "q": "x", "text": ""}
    assert _ask(town.client, "put", "two", "b", record).status_code == 422
    assert _ask(town.client, "put", "one", "b", record).status_code == 200
    assert _ask(town.client, "attach", "one", "c", record).status_code == 201
    assert {"a/c.toml", "a/c/x"} <= town.files().keys()
    assert _ask(town.client, "delete", "one", "c", record).status_code == 200
    assert not {"a/b.toml", "a/c.toml", "a/c/x"} & town.files().keys()
