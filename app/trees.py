"""
Trees: what stands where in a commit, and the tree that changes make of another.

gitsheets takes a tree apart, which takes milliseconds for a sheet of ten thousand
records. Here one entry is found in a tree by its bytes, and put in its place
(https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import gitsheets

from app.objects import kept, write

_MODE = re.compile(rb"[0-7]{5,6} ")
_LINES = re.compile(rb"[0-7]{5,6} [^\0]+\0.{20}", re.DOTALL)
_MODE_BYTES = (5, 6)
_FORMAT_BITS, _KINDS = 0o170000, {0o40000: "tree", 0o100000: "blob"}  # inode(7), which git goes by
_WRITTEN = {"tree": b"40000", "blob": b"100644"}
_NAME_BYTES = 20  # of an object's name, in a tree


class PathTakenError(Exception):
    """
    A file would stand where a directory stands, or a directory where a file does.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One line of a tree.

    Attributes:
        kind: ``blob`` or ``tree``.
        name: Full object name.
    """

    kind: str
    name: str


def tree_of(git_dir: str, commit: str) -> str:
    """
    Return the full object name of the tree of *commit*.

    Raises:
        gitsheets.GitsheetsError: The commit is missing or damaged.
    """
    return kept(git_dir, commit).partition(b"\n")[0].removeprefix(b"tree ").decode("ascii")


def find(git_dir: str, commit: str, path: str) -> Entry | None:
    """
    Return what stands at *path* in the tree of *commit*, or None; symbolic links and submodules are nothing.

    Raises:
        gitsheets.GitsheetsError: An object on the way is missing or damaged.
    """
    found = Entry("tree", tree_of(git_dir, commit))
    for part in path.split("/"):
        if found.kind != "tree":
            return None
        below = _entry(kept(git_dir, found.name), part.encode())
        if below is None:
            return None
        found = below
    return found


def changed(git_dir: str, tree: str | None, changes: Mapping[str, str | None]) -> str | None:
    """
    Write the tree that *changes* make of *tree*; returns its name, or None where nothing is left in it.

    Args:
        tree: Full object name; None for a tree with nothing in it.
        changes: For each path the blob that is to stand there, or None for nothing.

    Raises:
        PathTakenError: A file and a directory would have the same path.
        gitsheets.GitsheetsError: A tree on the way is missing or damaged.
        OSError: The disk refused.
    """
    files: dict[str, str | None] = {}
    below: dict[str, dict[str, str | None]] = {}
    for path, blob in changes.items():
        name, _, rest = path.partition("/")
        if rest:
            below.setdefault(name, {})[rest] = blob
        else:
            files[name] = blob
    content = kept(git_dir, tree) if tree else b""
    edits: dict[bytes, tuple[Entry | None, Entry | None]] = {}
    for name in files | below:
        before = _entry(content, name.encode())
        file = before.name if before and before.kind == "blob" else None
        directory = before.name if before and before.kind == "tree" else None
        file = files.get(name, file)
        if name in below:
            directory = changed(git_dir, directory, below[name])
        if file and directory:
            raise PathTakenError(f"{name!r} would be both a file and a directory")
        after = Entry("blob", file) if file else Entry("tree", directory) if directory else None
        edits[name.encode()] = before, after
    edited = _edited(content, {name: edit for name, edit in edits.items() if edit[0] != edit[1]})
    if tree is not None and edited == content:
        return tree
    return write(git_dir, "tree", edited) if edited else None


def _edited(tree: bytes, edits: Mapping[bytes, tuple[Entry | None, Entry | None]]) -> bytes:
    if len(edits) == 1:
        [(name, (before, after))] = edits.items()
        found = _locate(tree, name)
        if found and before and after and found[0] == _WRITTEN[after.kind]:
            at = found[1]
            return tree[:at] + bytes.fromhex(after.name) + tree[at + _NAME_BYTES :]
    if not edits:
        return tree
    lines = _LINES.findall(tree)
    if sum(map(len, lines)) != len(tree):
        raise gitsheets.GitsheetsError("a tree is damaged; look with: git fsck")
    for name, (_, after) in edits.items():
        for place in (name, name + b"/"):
            at = bisect_left(lines, place, key=_place)
            if at < len(lines) and _place(lines[at]) == place:
                del lines[at]
        if after:
            line = b"%s %s\0%s" % (_WRITTEN[after.kind], name, bytes.fromhex(after.name))
            lines.insert(bisect_left(lines, _place(line), key=_place), line)
    return b"".join(lines)


def _place(line: bytes) -> bytes:
    """
    Return what git sorts the lines of a tree by: a directory's name with a slash behind it.
    """
    mode, _, name = line[: -_NAME_BYTES - 1].partition(b" ")
    return name + b"/" if _kind(mode) == "tree" else name


def _kind(mode: bytes) -> str | None:
    """
    Return what a line with *mode* is, ``tree`` or ``blob``; old tools wrote ``040000`` and ``100640``.
    """
    return _KINDS.get(int(mode, 8) & _FORMAT_BITS)


def _entry(tree: bytes, name: bytes) -> Entry | None:
    found = _locate(tree, name)
    if found is None:
        return None
    mode, at = found
    kind = _kind(mode)
    return Entry(kind, tree[at : at + _NAME_BYTES].hex()) if kind else None


def _locate(tree: bytes, name: bytes) -> tuple[bytes, int] | None:
    """
    Find ``MODE NAME\\0OBJECT`` in *tree*; returns its mode, and where the object's name begins.
    """
    space = tree.find(b" " + name + b"\0")
    while space >= 0:
        begins = [space - size for size in _MODE_BYTES if _may_begin(tree, space - size)]
        if begins:
            begin = begins[0]
            if len(begins) > 1 or _MODE.search(tree, tree.rfind(b"\0", 0, begin) + 1, begin):
                return _walk(tree, name)  # that line may have begun before: its name holds a mode
            return tree[begin:space], space + len(name) + 2
        space = tree.find(b" " + name + b"\0", space + 1)
    return None


def _may_begin(tree: bytes, at: int) -> bool:
    """
    Whether a line may begin there: with a mode, and where the object name of the one before ends.
    """
    follows = at == 0 or (at > _NAME_BYTES and tree[at - _NAME_BYTES - 1] == 0)
    return follows and _MODE.match(tree, at) is not None


def _walk(tree: bytes, name: bytes) -> tuple[bytes, int] | None:
    at = 0
    while at < len(tree):
        space = tree.index(b" ", at)
        end = tree.index(b"\0", space)
        if tree[space + 1 : end] == name:
            return tree[at:space], end + 1
        at = end + 1 + _NAME_BYTES
    return None
