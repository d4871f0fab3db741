"""
Making trees from other trees with git, for a reconcile. Writes make their trees in ``ferry.app.store.trees``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from ferry.worker.git.history import History
from ferry.worker.git.objects import Objects, name_of

# The mode, the name and the object of each entry of a tree:
# https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
ENTRIES = re.compile(rb"([0-7]{5,6}) ([^\0]+)\0(.{20})", re.DOTALL)
_DIRECTORY = b"40000"
_DECLARATIONS = b".gitsheets"
_EMPTY = bytes.fromhex(name_of("tree", b""))

# ":100644 100644 5f3… 8c1… M", of which a file's mode begins with 100.
_CHANGED = re.compile(r":([0-7]+) ([0-7]+) ([0-9a-f]+) ([0-9a-f]+) [A-Z][0-9]*")
_FILE = re.compile(r"100[0-7]{3}")

_Entry = tuple[bytes, bytes]  # its mode, and the name of its object
# Paths of files, each with its objects before and after; None where there is no file.
Blobs = tuple[tuple[str, tuple[str | None, str | None]], ...]


def tree_of(objects: Objects, commit: str) -> str:
    """
    Return the full object name of the tree of *commit*.

    Raises:
        gitsheets.GitsheetsError: The commit is missing or damaged.
    """
    return tree_in(objects.kept(commit))


def tree_in(commit: bytes) -> str:
    """
    Return the full object name of the tree that a commit's content names.
    """
    return commit.partition(b"\n")[0].removeprefix(b"tree ").decode("ascii")


def with_files_of(
    repository: History, tree: str, other: str, *, paths: Iterable[str], texts: Mapping[str, str]
) -> str:
    """
    Return *tree* with the files at *paths* taken from the tree *other*; files that *other* lacks are removed.

    Args:
        texts: The content of further files, by their paths.

    Raises:
        RepositoryError: git failed.
        OSError: The disk refused.
    """
    there = changed(repository, tree, other)
    entries = [(*there[path], path) for path in paths if path in there]
    entries += [
        ("100644", repository.objects.write("blob", text.encode()), path) for path, text in texts.items()
    ]
    query = repository.git.query
    with (
        tempfile.TemporaryDirectory(prefix="ferry-index-") as scratch,
        open(os.memfd_create("entries"), "w+b") as listed,
    ):
        listed.write("".join(f"{mode} {name}\t{path}\0" for mode, name, path in entries).encode())
        listed.seek(0)
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        query("read-tree", tree, environment=index)
        query("update-index", "-z", "--index-info", stdin=cast(BinaryIO, listed), environment=index)
        return query("write-tree", environment=index).strip()


def changed(repository: History, tree: str, other: str) -> dict[str, tuple[str, str]]:
    """
    Return mode and object name in *other* of each file that differs from *tree*; zeros if *other* lacks it.

    Raises:
        RepositoryError: git failed.
    """
    return {path: (head[2], head[4]) for head, path in _differing(repository, tree, other)}


def blobs_changed(repository: History, *what: str) -> Blobs:
    """
    Return the files that differ, by their paths.

    Args:
        what: Options and revisions of ``git diff-tree``: two trees, or a commit.

    Raises:
        RepositoryError: git failed.
    """
    return tuple(
        (path, (_blob(head[1], head[3]), _blob(head[2], head[4])))
        for head, path in _differing(repository, *what)
    )


def _differing(repository: History, *what: str) -> Iterator[tuple[re.Match[str], str]]:
    options = ("-r", "-z", "--raw", "--no-abbrev", "--no-renames", "--no-commit-id")
    parts = repository.git.query("diff-tree", *options, *what, "--").split("\0")
    for said, path in zip(parts[::2], parts[1::2], strict=False):
        if head := _CHANGED.fullmatch(said):
            yield head, path


def _blob(mode: str, name: str) -> str | None:
    return name if _FILE.fullmatch(mode) else None


def side_by_side(objects: Objects, base: str, ours: str, theirs: str) -> str | None:
    """
    Return the tree with what either side has changed since *base*, where no file was changed by both.

    That is what any merge makes of them, in a hundredth of the time that merging record by record takes.

    Returns:
        None where both sides changed the same file, or one of them how records are read.

    Raises:
        gitsheets.GitsheetsError: A tree is missing or damaged.
        OSError: The disk refused.
    """
    old, mine, other = (_entries(objects, tree) for tree in (base, ours, theirs))
    if not old.get(_DECLARATIONS) == mine.get(_DECLARATIONS) == other.get(_DECLARATIONS):
        return None
    result = dict(mine)
    for name in {name for name, _ in old.items() ^ other.items()}:
        was, here, there = old.get(name), mine.get(name), other.get(name)
        if here == there:
            continue
        if here != was:
            there = _inner(objects, was, here, there)
            if there is None:
                return None
        if there in (None, (_DIRECTORY, _EMPTY)):
            result.pop(name, None)
        else:
            result[name] = there
    return objects.write("tree", _content(result))


def _inner(objects: Objects, *entries: _Entry | None) -> _Entry | None:
    """
    Return the directory with what either side has changed in it; None where it is not one on each.
    """
    trees = [entry or (_DIRECTORY, _EMPTY) for entry in entries]
    if entries[1] is None or entries[2] is None or any(mode != _DIRECTORY for mode, _ in trees):
        return None
    inner = side_by_side(objects, *(tree.hex() for _, tree in trees))
    return None if inner is None else (_DIRECTORY, bytes.fromhex(inner))


def _entries(objects: Objects, tree: str) -> dict[bytes, _Entry]:
    content = b"" if tree == _EMPTY.hex() else objects.kept(tree)
    return {name: (mode, entry) for mode, name, entry in ENTRIES.findall(content)}


def _content(entries: dict[bytes, _Entry]) -> bytes:
    def place(item: tuple[bytes, _Entry]) -> bytes:
        return item[0] + b"/" if item[1][0] == _DIRECTORY else item[0]  # as git sorts them

    return b"".join(
        mode + b" " + name + b"\0" + entry for name, (mode, entry) in sorted(entries.items(), key=place)
    )
