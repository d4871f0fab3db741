"""
That every path belongs to one sheet at most, and to the one that the rules name.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.errors import SheetConfigError
from ferry.app.sheets.sheet import Sheet, parse_sheet
from ferry.app.store.territory import Owner, Territory
from ferry.worker.records.template import Template


def _sheet(name: str, root: str | None, path: str, kind: str = "") -> Sheet:
    where = "" if root is None else f"root = '{root}'\n"
    how = f"[gitsheet.format]\ntype = '{kind}'\nbody = 'text'\n" if kind else ""
    return parse_sheet(name, f"[gitsheet]\n{where}path = '{path}'\n{how}".encode())


def _territory(*sheets: Sheet) -> Territory:
    return Territory({sheet.name: sheet for sheet in sheets})


TOWN = _territory(
    _sheet("notes", None, "${{ slug }}"),
    _sheet("posts", ".", "${{ slug }}", "markdown"),
    _sheet("people", "people", "${{ slug }}"),
    _sheet("users", None, "user-${{ id }}"),
    _sheet("docs", "docs", "${{ p/** }}"),
    _sheet("days", "docs/days", "${{ at: YYYY/MM }}/${{ slug }}"),
    _sheet("steps", "docs", "${{ a }}/steps"),
    _sheet("Upper", "Straße/Ä", "${{ slug }}"),
    _sheet("own", ".gitsheets", "${{ slug }}"),
)
FILES = {
    "jane.toml", "user-1.toml", "people.toml", "people/ann.toml", "docs/a.toml", "docs/a/b.toml",
    "both.toml", "both.md",
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "owner"),
    [
        ("jane.toml", ("notes", "jane", None)),
        ("jane.md", ("posts", "jane", None)),
        ("jane.txt", None),
        ("jane/cv.pdf", ("notes", "jane", "cv.pdf")),
        ("jane/cv.toml", ("notes", "jane", "cv.toml")),
        ("jane/deep/er/cv.pdf", ("notes", "jane", "deep/er/cv.pdf")),
        ("nobody/cv.pdf", None),
        ("both/cv.pdf", ("notes", "both", "cv.pdf")),
        ("user-1.toml", ("users", "user-1", None)),
        ("user-1/cv.pdf", ("users", "user-1", "cv.pdf")),
        ("people.toml", ("notes", "people", None)),
        ("people", None),
        ("people/ann.toml", ("people", "ann", None)),
        ("people/ann.md", None),
        ("people/photo.jpg", None),
        ("people/ann/photo.jpg", ("people", "ann", "photo.jpg")),
        ("People/ann.toml", None),
        ("PEOPLE/ann/photo.jpg", None),
        ("docs/a.toml", ("docs", "a", None)),
        ("docs/a/b.toml", ("docs", "a/b", None)),
        ("docs/a/x.jpg", ("docs", "a", "x.jpg")),
        ("docs/a/b/c/x.jpg", ("docs", "a/b", "c/x.jpg")),
        ("docs/x/steps.toml", ("steps", "x/steps", None)),
        ("docs/days", None),
        ("docs/days.toml", ("docs", "days", None)),
        ("docs/days/2026/01/a.toml", ("days", "2026/01/a", None)),
        ("docs/days/2026/1/a.toml", None),
        ("docs/days/a.toml", None),
        ("straße", None),
        ("straße/A\u0308/x.toml", None),
        ("Straße/Ä/x.toml", ("Upper", "x", None)),
        (".gitsheets/notes.toml", None),
        (".GitSheets/notes.toml", None),
        (".gitsheets.toml", ("notes", ".gitsheets", None)),
        (".gitsheets", None),
        (".gits\u200cheets/notes.toml", None),
        ("jane/.gitsheets/x.toml", None),
        ("a//b.toml", None),
        ("../jane.toml", None),
        ("./jane.toml", None),
        (".toml", None),
        ("..toml", None),
        ("...toml", None),
        (".git/config.toml", None),
        ("jane/.git/x", None),
        ("jane/\ud800.jpg", None),
        ("jane/a\nb.jpg", ("notes", "jane", "a\nb.jpg")),
    ],
)
def test_a_path_belongs_to_whom_the_rules_say(place, owner):
    found = TOWN.owner(place, FILES.__contains__)
    assert (found and (found.sheet.name, found.path, found.attachment)) == owner


@pytest.mark.parametrize("directory", ["", "people", "docs", "docs/a", "docs/days/2026/01"])
def test_many_names_belong_to_a_sheet_as_each_by_itself(directory):
    names = [
        "jane.toml",
        "user-1.toml",
        "jane.md",
        "steps.toml",
        ".toml",
        "..toml",
        ".git.toml",
        ".a.toml",
        "toml",
        "a",
    ]
    above = directory.split("/") if directory else []
    domain = TOWN.domain(above)
    for sheet in domain.sheets:
        owners = [TOWN.owner("/".join([*above, name]), FILES.__contains__) for name in names]
        mine = [each.path if each and each == Owner(sheet, each.path) else None for each in owners]
        assert domain.paths(sheet, names) == mine


def test_a_declaration_that_cannot_be_used_keeps_its_wall():
    notes = _sheet("notes", None, "${{ p/** }}")
    territory = Territory({"notes": notes, "people": SheetConfigError("broken")}, ["people"])
    assert territory.owner("people/jane.toml", lambda place: True) is None
    assert territory.owner("other/jane.toml", lambda place: True) == Owner(notes, "other/jane")


@pytest.mark.parametrize(
    ("template", "made", "not_made"),
    [
        ("${{ slug }}", ["a", "a b", "a\nb", "."], ["a/b"]),
        ("user-${{ id }}", ["user-", "user-1", "user-a-b"], ["usr-1", "a/user-1", "xuser-1"]),
        ("${{ a }}--${{ b }}.x", ["1--2.x", "--.x"], ["1-2.x", "1--2"]),
        ("${{ a }}-${{ b }}-${{ c }}x", ["---x", "1-2-3x", "1-2-x-3-x"], ["1-2x", "1-2-3", "x"]),
        (".*${{ a }}.*", [".*.*", ".*x.*"], [".*", "x.*"]),
        ("${{ a }}/${{ b }}", ["a/b"], ["a", "a/b/c"]),
        ("${{ p/** }}", ["a", "a/b", "a/b/c"], []),
        ("x/${{ p/** }}", ["x/a", "x/a/b"], ["x", "y/a"]),
        ("/x/${{ slug }}/", ["x/a"], ["a", "y/a"]),
        ("${{ d: YYYY/MM/DD }}", ["2026/01/02"], ["2026/1/2", "2026/01", "2026/01/02/a"]),
        ("${{ d.e: YYYY/WW }}/${{ s }}", ["2026/53/a"], ["2026/a"]),
        ("${{ a.replace(/[/]/g, '-') }}", ["a-b"], ["a/b"]),
        ("${{ a ? b : c }}", ["x"], ["x/y"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_a_template_makes_these_paths_and_not_those(template, made, not_made):
    found = Template.of(template)
    assert [path for path in made if not found.makes(path.split("/"))] == []
    assert [path for path in not_made if found.makes(path.split("/"))] == []


def test_no_name_takes_long_to_be_told_from_what_a_template_makes():
    template = Template.of("-".join(["${{ a }}"] * 12) + "x")
    assert not template.makes(["-" * 255])
    assert not Template.of("${{ p/** }}").makes(["a"] * 100_000)


PARTS = st.sampled_from(["a", "b", "A", "a.toml", "x", ".gitsheets", "é", "e\u0301"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
TEMPLATES = st.lists(st.sampled_from(["${{ a }}", "a", "x-${{ b }}", "b"]), max_size=2).flatmap(
    lambda parts: st.sampled_from(["${{ p/** }}", "${{ s }}", "b"]).map(lambda last: "/".join([*parts, last]))
)
SHEETS = st.lists(st.tuples(PATHS | st.just("."), TEMPLATES, st.sampled_from(["", "markdown"])), max_size=4)
ENDINGS = st.sampled_from([".toml", ".md", ""])


@given(
    sheets=SHEETS,
    places=st.lists(st.tuples(PATHS, PATHS | st.just(""), ENDINGS), max_size=20),
    data=st.data(),
)
def test_whoever_owns_a_path_could_have_made_it(sheets, places, data):
    """
    And stands above it, below no other sheet's root; and where its sheet is asked, it says the same.
    """
    territory = _territory(*(_sheet(f"s{n}", *declared) for n, declared in enumerate(sheets)))
    paths = ["/".join(filter(None, (above, below))) + ending for above, below, ending in places]
    files = set(data.draw(st.lists(st.sampled_from(paths)))) if paths else set()
    for place in paths:
        owner = territory.owner(place, files.__contains__)
        if owner is None:
            continue
        sheet, path = owner.sheet, owner.path
        assert sheet.template.makes(path.split("/"))
        if owner.attachment is None:
            assert place == sheet.file(path)
        else:
            assert place == f"{sheet.directory(path)}/{owner.attachment}"
            assert sheet.file(path) in files
        for other in territory.usable():
            if place.startswith(f"{other.root}/"):
                assert len(other.root) <= len(sheet.root)
        assert ".gitsheets" not in place.split("/")
