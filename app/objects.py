"""
What stands where in a commit, looked up in git's own objects.

gitsheets takes a tree apart anew for each question, which takes milliseconds for
a sheet of ten thousand records. An object's name never changes its meaning, so
commits and trees are kept as they are on disk, and one entry is found in a tree
by its bytes (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import gitsheets
from cachetools import LRUCache, cached

_KEPT_BYTES = 64 * 1024 * 1024
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
    header = _read(git_dir, commit).partition(b"\n")[0]
    found = Entry("tree", header.removeprefix(b"tree ").decode("ascii"))
    for part in path.split("/"):
        if found.kind != "tree":
            return None
        below = _entry(_read(git_dir, found.name), part.encode(), len(commit) // 2)
        if below is None:
            return None
        found = below
    return found


@cached(LRUCache(_KEPT_BYTES, getsizeof=len), lock=threading.Lock())
def _read(git_dir: str, name: str) -> bytes:
    content = gitsheets.blob_read(git_dir, name)
    if content is None:
        raise gitsheets.NotFoundError(f"object {name} is missing")
    return bytes(content)


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
                at = space + len(name) + 2
                return Entry(kind, tree[at : at + size].hex())
        space = tree.find(b" " + name + b"\0", space + 1)
    return None
