"""
That a changed tree is the one that git's own index would write.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gitsheets
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ferry.app.store.trees import Entry, PathTakenError, changed, find
from ferry.worker.git.objects import Objects
from tests.parts import Bare

EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
# Names around which git's order of files and directories turns: "a-b" < "a.toml" < "a/" < "a0".
NAMES = st.sampled_from(["a", "a-b", "a.toml", "a0", "ab", "é", "b", "100644 a", "40000 b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATHS, st.integers(0, 3), max_size=12)
CHANGES = st.dictionaries(PATHS, st.none() | st.integers(0, 3), max_size=6)


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    with tempfile.TemporaryDirectory() as directory:
        yield Bare.init(Path(directory) / "bare.git")


def _by_git(bare: Bare, files: dict[str, Entry]) -> str:
    """
    Return the tree that git makes of *files*, through an index.
    """
    with tempfile.TemporaryDirectory() as directory:
        env = {**os.environ, "GIT_INDEX_FILE": f"{directory}/index"}
        for arguments, text in (
            (
                ("update-index", "-z", "--index-info"),
                "".join(f"100644 {b.name}\t{p}\0" for p, b in files.items()),
            ),
            (("write-tree",), ""),
        ):
            done = subprocess.run(
                ["git", "-C", str(bare.path), *arguments],
                input=text, capture_output=True, text=True, check=True, env=env,
            )  # fmt: skip
    return done.stdout.strip()


def _index(files: dict[str, Entry]) -> str:
    return "".join(f"100644 {entry.name}\t{path}\0" for path, entry in files.items())


def _blobs(bare: Bare, files: dict[str, int]) -> dict[str, Entry]:
    return {
        path: Entry("blob", Objects(bare.path).write("blob", b"%d\n" % content))
        for path, content in files.items()
    }


def _fits(files: dict[str, Entry]) -> bool:
    return not any(other.startswith(f"{path}/") for path in files for other in files)


@given(files=FILES, changes=CHANGES)
def test_a_changed_tree_is_what_git_makes_of_the_same_files(bare, files, changes):
    assume(_fits(files))
    before = _blobs(bare, files)
    wanted = before | _blobs(
        bare, {path: content for path, content in changes.items() if content is not None}
    )
    for path, content in changes.items():
        if content is None:
            wanted.pop(path, None)
    edits = {path: wanted.get(path) for path in changes}
    tree = changed(Objects(bare.path), None, before) or EMPTY

    assert tree == _by_git(bare, before)
    if _fits(wanted):
        assert (changed(Objects(bare.path), tree, edits) or EMPTY) == _by_git(bare, wanted)
    else:
        with pytest.raises(PathTakenError):
            changed(Objects(bare.path), tree, edits)


def test_git_finds_no_fault_with_what_was_written(bare: Bare):
    blobs = _blobs(bare, {f"{directory}/{name}": name for name in range(300) for directory in ("x", "x/y")})
    tree = changed(Objects(bare.path), None, blobs)
    commit = bare.git("commit-tree", str(tree), "-m", "all of it")
    bare.git("update-ref", "refs/heads/main", commit)

    assert bare.git("fsck", "--strict", "--full", "--no-dangling") == ""


def test_what_is_no_file_and_no_directory_stays_where_it_is(bare: Bare):
    listing = f"120000 blob {'1' * 40}\tlink\n160000 commit {'2' * 40}\tmodule\n100755 blob {'3' * 40}\trun\n"
    tree = _made(bare, listing)
    [blob] = _blobs(bare, {"new": 1}).values()

    edited = changed(Objects(bare.path), tree, {"new": blob, "none": None})

    assert edited == _made(bare, f"{listing}100644 blob {blob.name}\tnew\n")


def test_a_file_that_is_written_is_an_ordinary_one_whatever_file_stood_there(bare: Bare):
    [blob] = _blobs(bare, {"new": 1}).values()
    for mode in ("100755", "100664", "120000"):
        tree = _made(bare, f"{mode} blob {'1' * 40}\tx\n")

        assert changed(Objects(bare.path), tree, {"x": blob}) == _made(bare, f"100644 blob {blob.name}\tx\n")


def test_what_is_moved_keeps_its_mode(bare: Bare):
    for mode, kind in (("100755", "blob"), ("100644", "blob"), ("120000", "blob"), ("160000", "commit")):
        tree = _made(bare, f"{mode} {kind} {'1' * 40}\tx\n")
        entry = find(Objects(bare.path), bare.git("commit-tree", tree, "-m", "m"), "x")

        moved = changed(Objects(bare.path), tree, {"x": None, "y": entry})

        assert moved == _made(bare, f"{mode} {kind} {'1' * 40}\ty\n")


@pytest.mark.parametrize("line", [f"160000 commit {'1' * 40}", f"120000 blob {'1' * 40}"])
def test_nothing_takes_the_place_of_a_submodule_or_goes_below_one_or_a_link(bare: Bare, line: str):
    tree = _made(bare, f"{line}\tx\n")
    [blob] = _blobs(bare, {"new": 1}).values()

    with pytest.raises(PathTakenError):
        changed(Objects(bare.path), tree, {"x/y": blob})
    if "commit" in line:
        with pytest.raises(PathTakenError, match="submodule"):
            changed(Objects(bare.path), tree, {"x": blob})
    assert changed(Objects(bare.path), tree, {"x/y": None}) == tree
    assert changed(Objects(bare.path), tree, {"x": None}) is None


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("Jane", "jane"),
        ("é", "e\u0301"),
        ("É", "e\u0301"),
        ("ΣΑΣ", "σας"),
        ("STRASSE", "strasse"),
        ("ẞ", "ß"),
    ],
)
def test_a_new_name_differs_from_the_others_in_more_than_case_and_form(bare: Bare, name: str, twin: str):
    blobs = _blobs(bare, {f"{twin}/a": 1, f"{twin}.toml": 1, "straße": 1, "n1": 1, "n2": 2})
    tree = changed(Objects(bare.path), None, blobs)
    [blob] = _blobs(bare, {"new": 1}).values()

    for path in (f"{name}/b", f"{name}.toml", name):
        with pytest.raises(PathTakenError, match=f"from '{twin}"):
            changed(Objects(bare.path), tree, {path: blob})
    moved = changed(Objects(bare.path), tree, {f"{twin}.toml": None, f"{name}.toml": blob})
    assert f"{name}.toml" in _listed(bare, moved)
    assert changed(Objects(bare.path), tree, {f"{twin}/b": blob, f"{twin}.toml": blob}) is not None


def _listed(bare: Bare, tree: str | None) -> list[str]:
    return bare.git("ls-tree", "-r", "-z", "--name-only", str(tree)).split("\0")


def test_what_old_tools_wrote_is_a_directory_and_a_file_as_to_git(bare: Bare):
    """
    Directories with a zero before their mode, and files with another permission than git gives now.
    """
    path = str(bare.path)
    [blob] = _blobs(bare, {"new": 1}).values()
    below = Objects(path).write("tree", b"100640 a\0" + b"1" * 20 + b"100755 b\0" + b"2" * 20)
    old = Objects(path).write("tree", b"100666 d.x\0" + b"3" * 20 + b"040000 d\0" + bytes.fromhex(below))
    commit = bare.git("commit-tree", old, "-m", "old")

    for name, found, runs in (("d/a", b"1", False), ("d/b", b"2", True), ("d.x", b"3", False)):
        assert find(Objects(path), commit, name) == Entry("blob", (found * 20).hex(), runs)
    tree = changed(Objects(path), old, {"d/c": blob, "d0": blob, "d.a": blob})

    listed = bare.git("ls-tree", "-r", "--name-only", str(tree)).splitlines()
    assert listed == ["d.a", "d.x", "d/a", "d/b", "d/c", "d0"]
    assert (
        changed(Objects(path), tree, {"d": blob, "d/a": None, "d/b": None, "d/c": None, "d0": None})
        is not None
    )


def test_a_tree_that_does_not_change_is_not_written(bare: Bare):
    blobs = _blobs(bare, {"a/b": 1, "a/c": 2})
    tree = changed(Objects(bare.path), None, blobs)
    assert changed(Objects(bare.path), tree, {**blobs, "a/d": None, "e/f": None}) == tree


def test_nothing_is_made_of_a_damaged_tree(bare: Bare):
    [blob] = _blobs(bare, {"new": 1}).values()
    damaged = Objects(bare.path).write("tree", b"100644 whole\0" + b"1" * 20 + b"100644 cut\0123")

    with pytest.raises(gitsheets.GitsheetsError, match="damaged"):
        changed(Objects(bare.path), damaged, {"new": blob})


def test_what_was_written_is_found(bare: Bare):
    tree = changed(Objects(bare.path), None, blobs := _blobs(bare, {"a/b/c": 1}))
    found = find(Objects(bare.path), bare.git("commit-tree", str(tree), "-m", "m"), "a/b/c")
    assert found is not None
    assert found == blobs["a/b/c"]


def _made(bare: Bare, listing: str) -> str:
    return subprocess.run(
        ["git", "-C", str(bare.path), "mktree", "--missing"],
        input=listing, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
