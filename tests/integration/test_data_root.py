"""
A repository whose sheets are not at the top of its tree.
"""

from __future__ import annotations

import subprocess

import pytest

from ferry.app import create_app
from ferry.worker.bootstrap import build
from ferry.worker.repair.merger import Merger

PEOPLE = "/api/sheets/people/records"
ANN = {"slug": "ann", "name": "Ann"}


@pytest.fixture
def rooted(data, env):
    """
    The sample below ``data/in``, with other files and another ``.gitsheets`` around it.
    """
    sample = data.git("rev-parse", "main^{tree}")
    blob = data.git("hash-object", "-w", str(data.path / "HEAD"))

    def tree(*lines):
        path = data.path / "tree-lines"
        path.write_text("".join(f"{line}\n" for line in lines))
        with path.open() as stdin:
            made = subprocess.run(
                ["git", "-C", str(data.path), "mktree"],
                stdin=stdin, capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
        return made.stdout.strip()

    other = tree(f"100644 blob {blob}\tpeople.toml")
    inside = tree(f"040000 tree {sample}\tin", f"100644 blob {blob}\tREADME")
    top = tree(f"040000 tree {other}\t.gitsheets", f"040000 tree {inside}\tdata")
    data.git("update-ref", "refs/heads/main", data.git("commit-tree", "-p", "main", "-m", "moved", top))
    env["CFP_DATA_ROOT"] = "./data/in/"
    return data


@pytest.fixture
def api(rooted, client):
    return client()


def _files(data):
    return set(data.git("ls-tree", "-r", "--name-only", "main").splitlines())


def test_the_sheets_below_it_are_served_and_nothing_else_is_touched(api, rooted):
    before = _files(rooted)
    assert [each["name"] for each in api.get("/api/sheets").json["sheets"]] == ["events", "people", "places"]
    listed = api.get(f"{PEOPLE}?limit=1000").json
    assert len(listed["records"]) == 20
    assert "unreadable" not in listed

    assert api.post(PEOPLE, json=ANN).status_code == 201
    assert api.put(f"{PEOPLE}/ann/attachments/a.txt", data=b"a").status_code == 201
    assert api.patch(f"{PEOPLE}/ann", json={"email": "ann@example.org"}).status_code == 200
    assert _files(rooted) - before == {"data/in/people/ann.toml", "data/in/people/ann/a.txt"}
    then = rooted.head()
    assert api.patch(f"{PEOPLE}/ann", json={"slug": "anna"}).json["path"] == "anna"
    assert api.get(f"{PEOPLE}/anna/attachments").json["attachments"][0]["name"] == "a.txt"
    assert api.get(f"{PEOPLE}/ann?at={then}").json["record"]["email"] == "ann@example.org"
    place = {"district": "north", "slug": "hut", "name": "Hut"}
    operations = [
        {"op": "create", "sheet": "places", "record": place},
        {"op": "delete", "sheet": "people", "path": "anna"},
    ]
    assert api.post("/api/transactions", json={"operations": operations}).status_code == 200
    assert _files(rooted) - before == {"data/in/places/north/hut.toml"}
    assert before <= _files(rooted)
    changes = api.get(f"{PEOPLE}/ann/history").json["history"]
    assert [change["patch"][0]["op"] for change in changes] == ["remove", "add", "add"]
    assert api.get("/openapi.json").json["paths"][PEOPLE]


def test_a_merge_knows_where_the_sheets_are(api, rooted, env):
    """
    Both sides change one record, each another field.
    """
    api.post(PEOPLE, json=ANN)
    base = rooted.head()
    api.patch(f"{PEOPLE}/ann", json={"email": "ann@example.org"})
    theirs = rooted.head()
    rooted.git("update-ref", "refs/heads/main", base)
    api.patch(f"{PEOPLE}/ann", json={"name": "Anna"})
    merged = Merger(build(env).repository).merge(rooted.head(), theirs, message="both")
    assert merged.conflicts == ()
    text = rooted.git("show", f"{merged.commit}:data/in/people/ann.toml")
    assert text == 'email = "ann@example.org"\nname = "Anna"\nslug = "ann"'


@pytest.mark.parametrize("root", ["none", "data/README", "data"])
def test_a_directory_without_declarations_has_no_sheets(env, rooted, root):
    env["CFP_DATA_ROOT"] = root
    api = create_app(env, open_access=True).test_client()
    assert api.get("/api/sheets").json == {"sheets": []}
    assert api.get(PEOPLE).status_code == 404
    assert api.post(PEOPLE, json=ANN).status_code == 404


def test_a_commit_names_records_by_their_sheets_and_other_files_by_their_place(api, rooted):
    assert api.put(f"{PEOPLE}/ann", json=ANN).status_code == 201
    [written] = api.get(f"/api/commits/{rooted.head()}/changes").json["changes"]
    assert (written["file"], written["sheet"], written["path"]) == (
        "data/in/people/ann.toml",
        "people",
        "ann",
    )
    moved = api.get(f"/api/commits/{rooted.git('rev-parse', 'main^')}/changes?limit=1000").json["changes"]
    assert {"file": ".gitsheets/people.toml", "status": "changed"} in moved
    assert {"file": "data/README", "status": "added"} in moved
