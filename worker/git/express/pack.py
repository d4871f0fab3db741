"""
A pack of the few objects of a few commits, made in this process.

``git pack-objects`` takes several milliseconds to start, and walks the history. Which objects a commit brings
is known without it: those of its tree that its parent lacks. Trees and large files go as deltas against what
was at their path before, which the remote has (https://git-scm.com/docs/gitformat-pack).
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence

import gitsheets

from ferry.worker.git.express.wire import DoubtError
from ferry.worker.git.objects import Objects
from ferry.worker.git.trees import ENTRIES, tree_in

_MOST_COMMITS = 16
_MOST_OBJECTS = 256
_MOST_BYTES = 1 << 20  # of the pack
_READ_BYTES = 8 << 20  # of one object
_WORTH_A_DELTA_BYTES = 256
_COPY_BYTES = 0xFFFF
_INSERT_BYTES = 0x7F
_KINDS = {"commit": 1, "tree": 2, "blob": 3}
_DELTA = 7  # against an object that is named
_TREE, _MODULE = b"40000", b"160000"
_WHOLE_ENTRIES = re.compile(rb"(?:[0-7]{5,6} [^\0]+\0.{20})*", re.DOTALL)


class UnfitError(DoubtError):
    """
    What is to be pushed is not for the express lane: it is too much, or it cannot be read.
    """


_Entries = dict[bytes, tuple[bytes, str]]  # mode and object, by name


def chain_of(objects: Objects, old: str, new: str) -> list[str]:
    """
    Return the commits that *new* has and *old* lacks, oldest first.

    Raises:
        UnfitError: *new* does not stand on *old*, each commit with one parent; or there are too many.
    """
    chain = objects.lineage(old, new, longest=_MOST_COMMITS)
    if not chain:
        raise UnfitError("it is not a few commits in a row")
    return chain[::-1]


def pack_of(objects: Objects, old: str, chain: Sequence[str]) -> bytes:
    """
    Return a pack of everything that the commits of *chain* have and *old* lacks.

    Raises:
        UnfitError: An object cannot be read, or there is too much of it.
    """
    pack = _Pack(objects)
    try:
        # Not from the cache of objects: each push has other commits, and a worker would keep them all.
        before = tree_in(objects.read(old))
        for commit in chain:
            tree = tree_in(pack.add("commit", commit, None))
            pack.walk(before, tree)
            before = tree
    except (gitsheets.GitsheetsError, OSError) as exc:
        raise UnfitError(str(exc)) from exc
    return pack.content()


class _Pack:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._names: set[str] = set()
        self._entries: list[bytes] = []
        self._size = 0

    def walk(self, old: str | None, new: str) -> None:
        """
        Add the tree *new*, and what it holds that *old* does not.
        """
        if old == new or new in self._names:
            return
        known = self._read(old) if old else b""
        content = self.add("tree", new, old, known=known)
        before, after = _changed(known, content)
        for name, (mode, entry) in after.items():
            was_mode, was = before.get(name, (b"", None))
            if was == entry or mode == _MODULE:
                continue
            is_same_kind = (was_mode == _TREE) == (mode == _TREE) and was_mode != _MODULE
            if mode == _TREE:
                self.walk(was if is_same_kind else None, entry)
            else:
                self.add("blob", entry, was if is_same_kind else None)

    def add(self, kind: str, name: str, base: str | None, *, known: bytes | None = None) -> bytes:
        """
        Add an object, as a delta against *base* if that is shorter; returns its content.

        Args:
            known: The content of *base*, if it was read.
        """
        content = self._read(name)
        if name in self._names:
            return content
        self._names.add(name)
        entry = None
        if base is not None and len(content) >= _WORTH_A_DELTA_BYTES:
            delta = _delta(self._read(base) if known is None else known, content)
            if len(delta) < len(content) // 2:
                entry = _head(_DELTA, len(delta)) + bytes.fromhex(base) + zlib.compress(delta)
        entry = entry or _head(_KINDS[kind], len(content)) + zlib.compress(content)
        self._entries.append(entry)
        self._size += len(entry)
        if len(self._entries) > _MOST_OBJECTS or self._size > _MOST_BYTES:
            raise UnfitError("it is too much for the express lane")
        return content

    def content(self) -> bytes:
        whole = b"PACK" + struct.pack("!II", 2, len(self._entries)) + b"".join(self._entries)
        return whole + hashlib.sha1(whole, usedforsecurity=False).digest()

    def _read(self, name: str) -> bytes:
        return self._objects.read(name, most=_READ_BYTES)


def _head(kind: int, size: int) -> bytes:
    """
    Return the header of an entry: its kind, and the size of what it holds, in groups of seven bits.
    """
    first, rest = kind << 4 | size & 0xF, bytes(_groups(size >> 4))
    return bytes([first | (0x80 if rest else 0)]) + rest


def _groups(number: int) -> Iterator[int]:
    while number:
        yield number & 0x7F | (0x80 if number > 0x7F else 0)
        number >>= 7


def _delta(base: bytes, target: bytes) -> bytes:
    """
    Return how to make *target* of *base*: its beginning, something new, and its end.
    """
    begin = _shared(base, target)
    end = _shared(base[begin:][::-1], target[begin:][::-1])
    new = target[begin : len(target) - end]
    parts = [bytes(_groups(len(base))) or b"\0", bytes(_groups(len(target))) or b"\0"]
    parts += _copies(0, begin)
    parts += [
        bytes([len(piece)]) + piece
        for at in range(0, len(new), _INSERT_BYTES)
        if (piece := new[at : at + _INSERT_BYTES])
    ]
    parts += _copies(len(base) - end, end)
    return b"".join(parts)


def _copies(at: int, size: int) -> Iterator[bytes]:
    """
    Yield the instructions that copy *size* bytes of the base, from *at* on.
    """
    while size:
        piece = min(size, _COPY_BYTES)
        yield b"\xbf" + struct.pack("<IH", at, piece)  # four bytes of the offset, and two of the size
        at, size = at + piece, size - piece


def _shared(one: bytes, other: bytes) -> int:
    """
    Return how many bytes both begin with.
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _changed(old: bytes, new: bytes) -> tuple[_Entries, _Entries]:
    """
    Return the entries of two trees without those that both begin and end with.
    """
    found = _WHOLE_ENTRIES.match(new, 0, _shared(old, new))
    at = found.end() if found else 0
    same = _shared(old[at:][::-1], new[at:][::-1])
    before: _Entries = {}
    after: _Entries = {}
    here, there = at, at
    while not len(old) - here == len(new) - there <= same:  # then equal entries are left
        if len(old) - here >= len(new) - there:
            here = _take(old, here, before)
        else:
            there = _take(new, there, after)
    return before, after


def _take(tree: bytes, at: int, entries: _Entries) -> int:
    """
    Add the entry at *at* to *entries*; returns where the next one begins.
    """
    entry = ENTRIES.match(tree, at)
    if entry is None:
        raise UnfitError("a tree cannot be read")
    entries[entry[2]] = entry[1], entry[3].hex()
    return entry.end()
