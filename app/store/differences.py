"""
Which files of a sheet differ between two trees, without parsing all of a large tree.

A tree of 100,000 files has 4 MB. Parsing it takes a tenth of a second; comparing its bytes, a millisecond. So
the entries of a tree are cut into blocks, and only blocks that differ are parsed.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from cachetools import LRUCache

from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import Found, Snapshot, found_in
from ferry.app.store.trees import Line, lines
from ferry.worker.git.objects import Objects
from ferry.worker.git.trees import ENTRIES

KEPT_BYTES = 32 << 20  # of trees whose blocks are known
_ENTRIES_IN_BLOCK = 256
_NAME_BYTES = 20

Pair = tuple[Found | None, Found | None]


class IrregularTreeError(Exception):
    """
    A tree is damaged, is not sorted as git sorts it, or has a name that is not UTF-8: read it whole.
    """


class Differences:
    """
    Compares the trees of a repository. Thread-safe.

    Args:
        objects: The repository's objects.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._kept: LRUCache[str, Blocks] = LRUCache(KEPT_BYTES, getsizeof=lambda blocks: len(blocks.content))

    def files(self, snapshot: Snapshot, sheet: Sheet, before: str, after: str) -> Iterator[Pair]:
        """
        Yield the file of each record that differs between two trees of *sheet*, before and after.

        Args:
            snapshot: Declares the sheets of both trees.

        Raises:
            IrregularTreeError: The trees cannot be compared.
        """
        waiting: list[tuple[tuple[str, ...], str | None, str | None]] = [((), before, after)]
        while waiting:
            below, old, new = waiting.pop()
            domain = snapshot.domain(sheet, below)
            if domain is None:
                continue
            for pair in self._lines(old, new):
                line = next(each for each in pair if each)
                trees = [each.entry.name if each and each.entry.kind == "tree" else None for each in pair]
                if any(trees) and sheet.template.leads_below(inner := (*below, line.text)):
                    waiting.append((inner, trees[0], trees[1]))
                files = [each and found_in(domain, sheet, each) for each in pair]
                if any(files):
                    yield files[0], files[1]

    def prepare(self, tree: str) -> None:
        """
        Make the next comparison with *tree* fast.
        """
        with contextlib.suppress(IrregularTreeError):
            self._blocks(tree)

    def _lines(self, old: str | None, new: str | None) -> Iterator[tuple[Line | None, Line | None]]:
        content = self._objects.kept(new) if new else b""
        entries, blocks = self._blocks(old).compared(content)
        if new:
            with self._lock:
                self._keep(new, blocks)
        for pair in entries:
            read = [next(lines(each), None) if each else None for each in pair]
            if any(line and not line.is_text for line in read):
                raise IrregularTreeError
            if any(read):
                yield read[0], read[1]

    def _blocks(self, tree: str | None) -> Blocks:
        if tree is None:
            return Blocks(b"", [], [])
        with self._lock:
            found = self._kept.get(tree)
        if found is None:
            found = Blocks.of(self._objects.kept(tree))
            with self._lock:
                self._keep(tree, found)
        return found

    def _keep(self, tree: str, blocks: Blocks) -> None:
        if len(blocks.content) <= KEPT_BYTES:
            self._kept[tree] = blocks


class Blocks(NamedTuple):
    """
    A tree in blocks.

    Attributes:
        content: The tree.
        starts: Where each block begins.
        lasts: The sort key of each block's last entry.
    """

    content: bytes
    starts: list[int]
    lasts: list[bytes]

    @classmethod
    def of(cls, content: bytes) -> Blocks:
        """
        Cut a tree into blocks.

        Raises:
            IrregularTreeError: It is damaged, or not sorted.
        """
        found = ENTRIES.findall(content)
        keys = [_key(mode, name) for mode, name, _ in found]
        ends = list(accumulate(len(mode) + len(name) + _NAME_BYTES + 2 for mode, name, _ in found))
        if (ends[-1] if ends else 0) != len(content) or not all(map(operator.lt, keys, keys[1:])):
            raise IrregularTreeError
        starts = [0, *ends][: len(found) : _ENTRIES_IN_BLOCK]
        lasts = [
            keys[min(at + _ENTRIES_IN_BLOCK, len(keys)) - 1] for at in range(0, len(keys), _ENTRIES_IN_BLOCK)
        ]
        return cls(content, starts, lasts)

    def compared(self, content: bytes) -> tuple[list[tuple[bytes | None, bytes | None]], Blocks]:
        """
        Return each entry that differs in the tree *content*, before and after; and that tree in blocks.

        Raises:
            IrregularTreeError: It is damaged, or not sorted.
        """
        pairs: list[tuple[bytes | None, bytes | None]] = []
        blocks = Blocks(content, [], [])
        at = 0
        for (start, end), last in zip(pairwise([*self.starts, len(self.content)]), self.lasts, strict=True):
            block = self.content[start:end]
            if content.startswith(block, at):
                blocks.starts.append(at)
                blocks.lasts.append(last)
                at += len(block)
            else:
                after = dict(_entries(content, at, previous=blocks.lasts[-1:], last=last))
                pairs += _differing(dict(_entries(block, 0)), after)
                at = blocks._add(after, at)
        rest = dict(_entries(content, at, previous=blocks.lasts[-1:]))
        blocks._add(rest, at)
        return pairs + _differing({}, rest), blocks

    def _add(self, entries: Mapping[bytes, bytes], at: int) -> int:
        """
        Add *entries* of the content, from *at* on, as blocks; returns where they end.
        """
        for number, (key, entry) in enumerate(entries.items()):
            if number % _ENTRIES_IN_BLOCK == 0:
                self.starts.append(at)
                self.lasts.append(key)
            self.lasts[-1] = key
            at += len(entry)
        return at


def _entries(
    content: bytes, at: int, *, previous: Sequence[bytes] = (), last: bytes | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield sort key and bytes of each entry from *at* on.

    Args:
        previous: The key of the entry before, if there is one.
        last: The key to stop after; None: at the end.

    Raises:
        IrregularTreeError: The tree is damaged, or not sorted.
    """
    before = previous[0] if previous else b""
    while at < len(content):
        entry = ENTRIES.match(content, at)
        if entry is None or (key := _key(entry[1], entry[2])) <= before:
            raise IrregularTreeError
        if last is not None and key > last:
            return
        yield key, entry[0]
        at, before = entry.end(), key


def _differing(
    before: dict[bytes, bytes], after: dict[bytes, bytes]
) -> list[tuple[bytes | None, bytes | None]]:
    names = dict.fromkeys([*before, *after])
    return [(before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _key(mode: bytes, name: bytes) -> bytes:
    """
    Return git's sort key: the name, with a slash after that of a directory.
    """
    return name + b"/" if int(mode, 8) & 0o170000 == 0o40000 else name
