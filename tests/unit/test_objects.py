"""
That objects are read and written as git does it, and what stands in a commit is found where it stands.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections import Counter
from pathlib import Path

import gitsheets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.app.store.trees import Entry, Line, _entry, find, lines, plain_and_others
from ferry.worker.git.objects import Objects, name_of
from tests.parts import Bare

HASH = bytes(range(20))


def test_every_entry_is_found_where_git_has_it(data: Bare):
    head = data.head()
    listed = data.git("ls-tree", "-r", "-t", "main").splitlines()

    for line in listed:
        _, kind, name, path = line.split(maxsplit=3)
        assert find(Objects(data.path), head, path) == Entry(kind, name)
    assert len(listed) > 50


@pytest.mark.parametrize(
    "path", ["none", "people/none.toml", "people/none/below", "people.toml", "peopl", "eople"]
)
def test_what_is_not_there_is_none(data: Bare, path: str):
    assert find(Objects(data.path), data.head(), path) is None


def test_nothing_stands_below_a_file(data: Bare):
    some_file = data.git("ls-tree", "-r", "--name-only", "main").splitlines()[0]
    assert find(Objects(data.path), data.head(), f"{some_file}/below") is None


def test_a_symbolic_link_and_a_submodule_are_told_from_files(data: Bare):
    tree = subprocess.run(
        ["git", "-C", str(data.path), "mktree", "--missing"],
        input=f"120000 blob {'1' * 40}\tlink\n160000 commit {'2' * 40}\tmodule\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    commit = data.git("commit-tree", tree, "-m", "odd things")

    assert find(Objects(data.path), commit, "link") == Entry("link", "1" * 40)
    assert find(Objects(data.path), commit, "module") == Entry("module", "2" * 40)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"100644", b"100644", b"100755", b"40000", b"120000", b"160000", b"77777"]),
            st.binary(min_size=1, max_size=4).filter(lambda name: b"\0" not in name),
            st.binary(min_size=20, max_size=20),
        )
    )
)
def test_ordinary_files_and_all_else_are_the_lines_of_a_tree(entries: list[tuple[bytes, bytes, bytes]]):
    tree = b"".join(b"%s %s\0%s" % entry for entry in entries)

    names, blobs, others = plain_and_others(tree)

    plain = [Line(name, True, Entry("blob", blob)) for name, blob in zip(names, blobs, strict=True)]
    assert Counter([*plain, *others]) == Counter(lines(tree))
    if all(mode == b"100644" and name.isascii() for mode, name, _ in entries):
        assert len(plain) == len(entries)


def test_a_look_alike_inside_an_object_name_is_not_taken_for_a_line():
    deceptive = b"xxxxxx100644 a\0xxxxx"
    assert len(deceptive) == 20
    tree = b"100644 0\0" + deceptive + b"100644 a\0" + HASH

    assert _entry(tree, b"a") == Entry("blob", HASH.hex())
    assert _entry(b"100644 0\0" + deceptive, b"a") is None


@pytest.mark.parametrize("hidden", [b"100644 a", b"40000 a", b"100755 100644 a"])
def test_a_record_whose_name_looks_like_a_line_is_not_taken_for_another(hidden: bytes):
    """
    Whoever may write records may choose their names, and try until an object name has a zero where it helps.
    """
    for place in range(20):
        before = b"100644 0\0" + HASH[:place].replace(b"\0", b"x") + b"\0" + b"x" * (19 - place)
        other = before + b"100644 " + hidden + b"\0" + HASH[::-1]

        assert _entry(other, b"a") is None
        assert _entry(other + b"100644 a\0" + HASH, b"a") == Entry("blob", HASH.hex())
        assert _entry(other, hidden) == Entry("blob", HASH[::-1].hex())


def test_a_missing_object_is_an_error_and_not_an_empty_tree(data: Bare):
    missing = name_of("tree", b"never written")
    author = ("Jane", "jane@example.org")
    commit = Objects(data.path).write_commit(missing, (data.head(),), "m", author=author, seconds=0)

    with pytest.raises(gitsheets.GitsheetsError, match=missing):
        find(Objects(data.path), commit, "people")


def test_what_is_read_is_what_git_shows_loose_or_packed(data: Bare):
    head = data.commit()
    shown = data.git("cat-file", "commit", head)

    assert (data.path / "objects" / head[:2] / head[2:]).exists()
    assert Objects(data.path).read(head).decode().strip() == shown
    data.git("gc", "--quiet", "--prune=now")
    assert not (data.path / "objects" / head[:2] / head[2:]).exists()
    assert Objects(data.path).read(head).decode().strip() == shown


def test_a_damaged_object_is_an_error(data: Bare):
    head = data.commit()
    file = data.path / "objects" / head[:2] / head[2:]
    file.chmod(0o644)
    file.write_bytes(b"not zlib")

    with pytest.raises(gitsheets.GitsheetsError):
        Objects(data.path).read(head)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_a_commit_and_what_came_between_two_is_as_git_says(data: Bare, packed: bool):
    first = data.head()
    line = [data.commit(f"commit {number}") for number in range(5)]
    side = data.git("commit-tree", "-p", str(first), "-m", "side", "main^{tree}")
    merge = data.git("commit-tree", "-p", "main", "-p", side, "-m", "merge", "main^{tree}")
    data.git("update-ref", "refs/heads/main", merge)
    if packed:
        data.git("repack", "-a", "-d", "-q")
    path = str(data.path)

    assert Objects(path).lineage(line[0], line[4], longest=9) == line[:0:-1]
    assert Objects(path).lineage(line[0], line[4], longest=4) == line[:0:-1]
    loose = [] if packed else line[:0:-1]
    assert Objects(path).lineage(line[0], line[4], longest=9, packed=False) == loose
    assert Objects(path).lineage(line[0], line[4], longest=3) == [], "further than asked for"
    assert Objects(path).lineage(line[4], line[0], longest=9) == [], "the wrong way round"
    assert Objects(path).lineage(line[0], line[0], longest=9) == []
    assert Objects(path).lineage(str(first), merge, longest=9) == [], "a merge is no line"
    assert Objects(path).lineage("1" * 40, line[4], longest=99) == [], "the first commit has no parent"
    whole = data.git("rev-list", line[4]).split()
    assert Objects(path).lineage(None, line[4], longest=len(whole)) == whole
    assert Objects(path).lineage(None, line[4], longest=len(whole) - 2) == [], "longer than asked for"
    assert Objects(path).lineage(None, merge, longest=99) == []
    assert Objects(path).is_commit(merge)
    assert not Objects(path).is_commit(data.git("rev-parse", "main^{tree}"))
    assert not Objects(path).is_commit("1" * 40)


@pytest.mark.parametrize("content", [b"", b"some words\n", os.urandom(300_000)])
def test_what_is_written_is_what_git_would_write(data: Bare, content: bytes):
    name = Objects(data.path).write("blob", content)

    read_by_git = subprocess.run(
        ["git", "-C", str(data.path), "cat-file", "blob", name], capture_output=True, check=True
    ).stdout
    assert read_by_git == content
    assert name == name_of("blob", content)
    assert stat.S_IMODE(_file(data, name).stat().st_mode) == 0o444


def test_a_good_object_is_left_alone_and_one_that_a_power_cut_emptied_is_replaced(data: Bare):
    name = Objects(data.path).write("blob", b"some words")
    file = _file(data, name)
    written = file.stat().st_ino

    os.utime(file, (0, 0))
    Objects(data.path).write("blob", b"some words")
    assert file.stat().st_ino == written
    assert file.stat().st_mtime > 0, "git gc removes what is old and in no commit yet"

    file.chmod(0o644)
    file.write_bytes(b"")
    Objects(data.path).write("blob", b"some words")
    assert Objects(data.path).read(name) == b"some words"


def test_a_write_that_fails_leaves_nothing_behind(data: Bare, monkeypatch: pytest.MonkeyPatch):
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    before = set((data.path / "objects").rglob("*"))
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        Objects(data.path).write("blob", b"some words")

    assert {path for path in (data.path / "objects").rglob("*") if path.is_file()} <= before


@pytest.mark.parametrize(
    ("author", "trailers"),
    [
        (("Ann\nparent 0", "a@b"), []),
        (("Ann <x>", "a@b"), []),
        (("Ann", "a@b>"), []),
        (("Ann", "a@b"), [("Actor", "ann\nAction: none")]),
        (("Ann\0", "a@b"), []),
    ],
)
def test_no_commit_is_written_whose_lines_are_not_what_they_seem(data: Bare, author, trailers):
    with pytest.raises(ValueError, match="would break the commit"):
        Objects(data.path).write_commit(
            "0" * 40, ("0" * 40,), "message", author=author, seconds=0, trailers=trailers
        )


def _file(data: Bare, name: str) -> Path:
    return data.path / "objects" / name[:2] / name[2:]
