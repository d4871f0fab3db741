"""
What stands where in a commit, looked up in git's own objects.

gitsheets opens the repository anew for each question, a tenth of a millisecond, and
takes a tree apart, which takes milliseconds for a sheet of ten thousand records.
What was written lately stands in a file of its own and is read from there. An
object's name never changes its meaning, so commits and trees are kept as they are
on disk, and one entry is found in a tree by its bytes
(https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import re
import threading
import zlib
from dataclasses import dataclass

import gitsheets
from cachetools import LRUCache, cached

_KEPT_BYTES = 64 * 1024 * 1024
_OVERHEAD_BYTES = 400  # what Python takes for the entry of one object
_MODE = re.compile(rb"[0-7]{5,6} ")
_MODES = {b"40000": "tree", b"100644": "blob", b"100755": "blob", b"100664": "blob"}


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


def find(git_dir: str, commit: str, path: str) -> Entry | None:
    """
    Return what stands at *path* in the tree of *commit*, or None; symbolic links and submodules are nothing.

    Raises:
        gitsheets.GitsheetsError: An object on the way is missing or damaged.
    """
    header = _kept(git_dir, commit).partition(b"\n")[0]
    found = Entry("tree", header.removeprefix(b"tree ").decode("ascii"))
    for part in path.split("/"):
        if found.kind != "tree":
            return None
        below = _entry(_kept(git_dir, found.name), part.encode(), len(commit) // 2)
        if below is None:
            return None
        found = below
    return found


def read(git_dir: str, name: str) -> bytes:
    """
    Return the content of an object.

    Args:
        name: Full object name.

    Raises:
        gitsheets.GitsheetsError: It is missing or damaged.
    """
    try:
        with open(f"{git_dir}/objects/{name[:2]}/{name[2:]}", "rb") as file:
            return zlib.decompress(file.read()).partition(b"\0")[2]
    except (OSError, zlib.error):
        content = gitsheets.blob_read(git_dir, name)  # from a pack; or it says what is wrong
    if content is None:
        raise gitsheets.NotFoundError(f"object {name} is missing")
    return bytes(content)


@cached(LRUCache(_KEPT_BYTES, getsizeof=lambda kept: len(kept) + _OVERHEAD_BYTES), lock=threading.Lock())
def _kept(git_dir: str, name: str) -> bytes:
    return read(git_dir, name)


def _entry(tree: bytes, name: bytes, size: int) -> Entry | None:
    """
    Find ``MODE NAME\\0OBJECT`` in *tree*, whose object names have *size* bytes.
    """
    space = tree.find(b" " + name + b"\0")
    while space >= 0:
        for mode, kind in _MODES.items():
            begin = space - len(mode)
            # A line begins where the object name of the one before ends; a look-alike inside a name does not.
            is_line = begin == 0 or (begin > size and tree[begin - size - 1] == 0)
            if is_line and tree[begin:space] == mode:
                if _MODE.search(tree, tree.rfind(b"\0", 0, begin) + 1, begin):
                    return _walk(tree, name, size)  # that line may have begun before: its name holds a mode
                return Entry(kind, _object(tree, space + len(name) + 2, size))
        space = tree.find(b" " + name + b"\0", space + 1)
    return None


def _walk(tree: bytes, name: bytes, size: int) -> Entry | None:
    at = 0
    while at < len(tree):
        space = tree.index(b" ", at)
        end = tree.index(b"\0", space)
        if tree[space + 1 : end] == name:
            kind = _MODES.get(tree[at:space])
            return Entry(kind, _object(tree, end + 1, size)) if kind else None
        at = end + 1 + size
    return None


def _object(tree: bytes, at: int, size: int) -> str:
    return tree[at : at + size].hex()
