"""
That a list is exactly what the commit holds, whatever was listed before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.finding.search import text_of
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.differences import Blocks, IrregularTreeError
from ferry.app.store.listing import Listed, Listing
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.trees import Entry, PathTakenError, changed
from ferry.worker.git.objects import Objects
from ferry.worker.git.repository import Repository
from tests.parts import Bare

SHEETS = {
    "flat": ("root = 'flat'\npath = '${{ s }}'", lambda path: path.count("/") == 0),
    "users": ("root = 'users'\npath = 'user-${{ id }}'", lambda path: path in ("user-1", "user-p1")),
    "deep": ("path = 'deep/${{ p/** }}'", lambda path: path.startswith("deep/")),
    "days": ("root = 'days'\npath = '${{ d: YYYY/MM }}'", lambda path: path == "2026/01"),
    "town": ("path = '${{ s }}'", lambda path: path.count("/") == 0),
    "posts": (
        "root = 'flat'\npath = '${{ s }}'\n[gitsheet.format]\ntype = 'markdown'\nbody = 'text'",
        lambda path: path.count("/") == 0,
    ),
}
CONTENTS = [b"a = 1\n", b"a = 2\n", b"= no toml", b"\xff", b"+++\na = 1\n+++\n\nhello\n", b""]
NAMES = st.sampled_from(["p1", "p2", "user-1", "user-p1", "é", "p1/p1", "p1/p2/x", "2026/01", "2026/01/x"])
PLACES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["flat/", "users/", "deep/", "days/", ""]),
    NAMES,
    st.sampled_from([".toml", ".toml", ".md", ".toml.bak", ""]),
)
ENTRIES = st.tuples(st.sampled_from(["blob", "blob", "blob", "link", "executable"]), st.integers(0, 5))
CHANGES = st.one_of(
    st.tuples(st.just("put"), PLACES, ENTRIES),
    st.tuples(st.just("remove"), st.integers(0, 99)),
    st.tuples(st.just("rename"), st.integers(0, 99), PLACES),
    # "people" turns from a sheet into nothing, and its root into somebody else's directory.
    st.tuples(st.just("declare"), st.sampled_from(["deep/p1", "flat/p1", "users", None])),
)


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    with tempfile.TemporaryDirectory() as directory:
        yield Bare.init(Path(directory) / "bare.git")


class History:
    """
    A branch that others commit to, by plain git.
    """

    def __init__(self, bare: Bare) -> None:
        self.path = str(bare.path)
        self.files: dict[str, Entry] = {}
        for name, (config, _) in SHEETS.items():
            self._declare(name, config)
        self.tree = changed(Objects(self.path), None, self.files)

    def commit(self, steps: list[tuple]) -> str:
        """
        Take the steps that can be taken, in one commit; returns its name.
        """
        for step in steps:
            before = dict(self.files)
            self._take(*step)
            edits = {
                place: self.files.get(place)
                for place in before | self.files
                if before.get(place) != self.files.get(place)
            }
            try:
                self.tree = changed(Objects(self.path), self.tree, edits)
            except PathTakenError:
                self.files = before
        author = ("Stranger", "stranger@example.org")
        return Objects(self.path).write_commit(str(self.tree), ("0" * 40,), "m", author=author, seconds=1)

    def _take(self, kind: str, what, entry=None) -> None:
        records = [place for place in sorted(self.files) if not place.startswith(".gitsheets/")]
        if kind == "put":
            self.files[what] = self._entry(*entry)
        elif kind == "declare":
            self.files.pop(".gitsheets/other.toml", None)
            if what:
                self._declare("other", f"root = '{what}'\npath = '${{{{ s }}}}'")
        elif records:
            taken = self.files.pop(records[what % len(records)])
            if kind == "rename":
                self.files[entry] = taken

    def _entry(self, kind: str, number: int) -> Entry:
        blob = Objects(self.path).write("blob", CONTENTS[number])
        return Entry("link" if kind == "link" else "blob", blob, kind == "executable")

    def _declare(self, name: str, config: str) -> None:
        blob = Objects(self.path).write("blob", f"[gitsheet]\n{config}\n".encode())
        self.files[f".gitsheets/{name}.toml"] = Entry("blob", blob)


def _plain(listed: Listed) -> tuple[list, list]:
    return list(listed.records), list(listed.unreadable)


def _by_hand(history: History, sheet: Sheet) -> list[str]:
    """
    Return the paths that the sheet holds, from git's plain list of files.
    """
    makes = SHEETS[sheet.name][1]
    root = "" if sheet.root == "." else f"{sheet.root}/"
    roots = [f"{r}/" for r in ("flat", "users", "days") if r != sheet.root]
    return sorted(
        place[len(root) : -len(sheet.extension)]
        for place in history.files
        if place.startswith(root)
        and place.endswith(sheet.extension)
        and not place.startswith((".gitsheets/", *roots))
        and makes(place[len(root) : -len(sheet.extension)])
    )


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ferry.app.store.differences._ENTRIES_IN_BLOCK", 2)
        yield


@given(history=st.lists(st.lists(CHANGES, min_size=1, max_size=4), max_size=8))
def test_a_list_that_was_followed_is_the_one_that_is_read_afresh(bare, small_blocks, history):
    """
    With everything that searches have derived from it.
    """
    repository = Repository(bare.path, branch="main")
    followed, branch = Listing(repository), History(bare)
    for steps in [[], *history]:
        snapshot = Snapshot(Objects(bare.path), branch.commit(steps))
        for sheet in snapshot.territory.usable():
            kept = followed.read(snapshot, sheet)
            known = _plain(kept)
            assert known == _plain(Listing(repository).read(snapshot, sheet))
            assert kept.records.column(text_of) == [text_of(fields) for _, fields in kept.records]
            records, unreadable = known
            listed = sorted(path for path, _ in [*records, *unreadable])
            if ".gitsheets/other.toml" not in branch.files:
                assert listed == _by_hand(branch, sheet)
            for path, fields in records:
                assert snapshot.record(sheet, path).record == fields
            for path in listed:
                assert snapshot.version(sheet, path) is not None


def test_a_sheet_is_read_whole_where_one_of_its_objects_is_damaged_and_one_is_missing(bare):
    """
    More records than are read one by one; git itself names the missing one, and ends at the damaged one.
    """
    branch = History(bare)
    places = [f"flat/n{number:03}.toml" for number in range(100)]
    blobs = [Objects(branch.path).write("blob", b"damaged = %d\n" % number) for number in range(100)]
    branch.files |= {place: Entry("blob", blob) for place, blob in zip(places, blobs, strict=True)}
    branch.tree = changed(Objects(branch.path), branch.tree, branch.files)
    snapshot = Snapshot(Objects(bare.path), branch.commit([]))
    loose = bare.path / "objects" / blobs[50][:2] / blobs[50][2:]
    loose.chmod(0o644)
    loose.write_bytes(b"nothing of the kind")
    (bare.path / "objects" / blobs[40][:2] / blobs[40][2:]).unlink()

    listed = Listing(Repository(bare.path, branch="main")).read(snapshot, snapshot.sheet("flat"))

    assert [path for path, _ in listed.unreadable] == ["n040", "n050"]
    assert all("git fsck" in fault for _, fault in listed.unreadable)
    assert [fields["damaged"] for _, fields in listed.records] == [n for n in range(100) if n not in (40, 50)]
    loose.unlink()


def test_lists_of_few_records_are_not_kept_for_ever(bare, monkeypatch):
    monkeypatch.setattr("ferry.app.store.listing.MOST_LISTS", 4)
    listing, branch = Listing(Repository(bare.path, branch="main")), History(bare)
    for number in range(10):
        snapshot = Snapshot(Objects(bare.path), branch.commit([("put", f"other/{number}", ("blob", 0))]))
        listing.read(snapshot, snapshot.sheet("town"))

    [family] = listing._kept.values()
    assert len(family.lists) == 4


def test_the_memory_of_lists_is_counted_and_bounded(bare):
    """
    Of lists that follow each other, with what searches derived; and where the last list had to be dropped for
    the next.
    """
    repository, branch = Repository(bare.path, branch="main"), History(bare)
    listing = Listing(repository)
    for number in range(40):
        steps = [("put", f"flat/{number}.toml", ("blob", number % 3))]
        steps += [("remove", 7 * number)] if number > 10 else []
        snapshot = Snapshot(Objects(bare.path), branch.commit(steps))
        listed = listing.read(snapshot, snapshot.sheet("flat"))
        for name in range(20):  # more than are kept
            listed.records.kept(name, lambda name=name: [name] * 7)
        listed.records.column(text_of)
        fresh = Listing(repository).read(snapshot, snapshot.sheet("flat"))
        [family] = listing._kept.values()
        assert listed.size == fresh.size
        assert listing._room == listing._most_bytes - family.size
        assert len(listed.records._columns) == 1
        kept = sum(each.own for each in family.lists.values() if each is not listed)
        assert family.size == listed.size + kept + sum(
            each.records.kept_bytes for each in family.lists.values()
        )

    for more in range(600, 3000, 300):
        narrow = Listing(repository, most_bytes=listed.size + more)
        for number in range(3):
            steps = [("put", "flat/1.toml", ("blob", number % 2))]
            snapshot = Snapshot(Objects(bare.path), branch.commit(steps))
            found = narrow.read(snapshot, snapshot.sheet("flat"))
            assert _plain(found) == _plain(Listing(repository).read(snapshot, snapshot.sheet("flat")))
            assert len(found.records.column(text_of)) == len(found.records)
            assert narrow.held_bytes == sum(each.size for each in narrow._kept.values()) <= narrow._most_bytes


def test_sheets_are_read_before_they_are_asked_for(bare):
    """
    As far as half of the memory; a sheet that cannot be read keeps no other from it.
    """
    repository, branch = Repository(bare.path, branch="main"), History(bare)
    steps = [("put", f"{place}/1.toml", ("blob", 0)) for place in ("flat", "deep/p1")]
    snapshot = Snapshot(Objects(bare.path), branch.commit(steps))
    listing, narrow = Listing(repository), Listing(repository, most_bytes=100)
    listing.warm(snapshot)
    narrow.warm(snapshot)
    assert {sheet.name for sheet, _ in listing._kept} >= {"flat", "deep", "town"}

    assert (narrow.held_bytes, listing.held_bytes > 0) == (0, True)


def test_a_name_that_is_no_utf_8_is_named(bare):
    branch = History(bare)
    snapshot = Snapshot(Objects(bare.path), branch.commit([]))
    blob = Objects(branch.path).write("blob", b"a = 1\n")
    tree = Objects(branch.path).write("tree", b"100644 caf\xe9.toml\0" + bytes.fromhex(blob))
    root = changed(Objects(branch.path), branch.tree, {"flat": Entry("tree", tree)})
    commit = Objects(branch.path).write_commit(
        str(root), (str(snapshot.commit),), "m", author=("a", "a@b"), seconds=1
    )
    snapshot = Snapshot(Objects(bare.path), commit)

    listed = Listing(Repository(bare.path, branch="main")).read(snapshot, snapshot.sheet("flat"))

    assert [path for path, _ in listed.unreadable] == ["caf\\xe9"]


def test_what_differs_is_found_in_large_trees():
    """
    Among thousands of entries: changed, new and removed ones, at both ends and in between.
    """
    blob = "1" * 40
    names = [f"n{number:04}.toml" for number in range(3000)]

    def tree(entries: dict[str, str]) -> bytes:
        return b"".join(
            b"100644 %s\0%s" % (name.encode(), bytes.fromhex(each)) for name, each in sorted(entries.items())
        )

    before = dict.fromkeys(names, blob)
    edits = {"n0000.toml": None, "m.toml": blob, "n1500.toml": "0" * 40, "n1500a.toml": blob, "z.toml": blob}
    edits |= dict.fromkeys(names[2000:2600])
    after = {name: each for name, each in (before | edits).items() if each}
    pairs, blocks = Blocks.of(tree(before)).compared(tree(after))

    assert len(pairs) == len(edits)
    assert blocks.content == tree(after)
    again, same = blocks.compared(tree(before))
    assert {(new, old) for old, new in again} == set(pairs)
    assert same.compared(tree(before))[0] == Blocks.of(tree(before)).compared(tree(before))[0] == []
    assert len(blocks.compared(b"")[0]) == len(after)


@pytest.mark.parametrize(
    "wrong",
    [
        b"100644 b\0" + b"1" * 20 + b"100644 a\0" + b"1" * 20,  # not sorted
        b"100644 a\0" + b"1" * 20 + b"100644 a\0" + b"2" * 20,  # twice
        b"100644 a\0" + b"1" * 19,
        b"100644 a\0" + b"1" * 20 + b"x",
    ],
)
def test_a_tree_that_git_would_not_write_is_read_whole(wrong):
    with pytest.raises(IrregularTreeError):
        Blocks.of(wrong)
    with pytest.raises(IrregularTreeError):
        Blocks.of(b"").compared(wrong)
    with pytest.raises(IrregularTreeError):
        Blocks.of(b"100644 b\0" + b"3" * 20).compared(wrong)
