"""
``ferry import`` and ``ferry export``, on the data repository of this machine.
"""

from __future__ import annotations

import getpass
import json

import pytest

CSV = "slug,name\r\nann,Ann\r\nbob,Bob\r\n"


@pytest.fixture
def given(tmp_path):
    def write(text: str, name: str = "people.csv"):
        path = tmp_path / name
        path.write_text(text, newline="")
        return str(path)

    return write


def test_a_file_is_imported_in_one_commit_of_the_user(ferry, given, data):
    before = data.head()
    done = ferry("import", "people", given(CSV))

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 created, 0 updated, 0 unchanged; commit {data.head()}\n"
    assert data.git("rev-parse", "main~1") == before
    author = getpass.getuser()
    assert data.git("log", "-1", "--format=%an %s", "main") == f"{author} {author}: ferry import people"
    assert "Action: records.import\n" in data.git("log", "-1", "--format=%b", "main")


def test_in_commits_of_so_many_lines_by_a_named_author(ferry, given, data):
    lines = "".join(json.dumps({"slug": f"p-{number}", "name": "P"}) + "\n" for number in range(5))
    done = ferry("import", "people", given(lines, "p.ndjson"), "--commit-every", "2", "--author", "ana")

    assert done.returncode == 0, done.stderr
    assert data.git("log", "-3", "--format=%an", "main").split() == ["ana"] * 3
    assert len(data.git("ls-tree", "--name-only", "main:people").split()) == 25


def test_lines_that_are_wrong_are_named_and_nothing_is_stored(ferry, given, data):
    before = data.head()
    done = ferry("import", "people", given("slug,name\r\nann,Ann\r\nada-quill,\r\n"))

    assert (done.returncode, data.head()) == (1, before)
    assert "line 3: name: " in done.stderr
    assert "nothing of these lines' commit was stored" in done.stderr


def test_a_dry_run_stores_nothing(ferry, given, data):
    before = data.head()
    done = ferry("import", "people", given(CSV), "--dry-run")

    assert (done.returncode, data.head()) == (0, before)
    assert done.stdout == "2 created, 0 updated, 0 unchanged would be stored; nothing was written\n"


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--author", "a\nb"], "is no name"), (["--mode", "replace"], "'replace'")]
)
def test_what_makes_no_sense_is_refused(ferry, given, arguments, said):
    done = ferry("import", "people", given(CSV), *arguments)

    assert done.returncode == 2
    assert said in done.stderr


def test_a_sheet_that_is_not_there_is_named(ferry, given):
    done = ferry("import", "nobody", given(CSV))

    assert done.returncode == 1
    assert "There is no sheet 'nobody'" in done.stderr


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_a_sheet_is_exported_as_the_api_shows_it(ferry, client, tmp_path, form):
    shown = client().get(f"/api/sheets/events/records?format={form}").data
    out = tmp_path / f"events.{form}"

    assert ferry("export", "events", "--format", form).stdout == shown.decode()
    assert ferry("export", "events", str(out)).returncode == 0
    assert out.read_bytes() == shown
    assert [path.name for path in tmp_path.glob(".*.part")] == []


def test_an_export_of_an_earlier_commit(ferry, data):
    before, shown = data.head(), ferry("export", "people").stdout
    data.edit({"people/ada-quill.toml": None})

    assert ferry("export", "people", "--at", before).stdout == shown
    assert ferry("export", "people", "--at", "0" * 40).returncode == 1


def test_a_file_that_is_no_record_is_named(ferry, data):
    data.edit({"people/broken.toml": "= not TOML"})
    done = ferry("export", "people")

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 21
    assert "left out broken" in done.stderr
