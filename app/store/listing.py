"""
A cache of whole sheets' parsed records, within a budget of memory.

Which files a sheet holds is read from each commit's tree, so a commit's list does not depend on what was
listed before. The list of the next commit is made of the last one and of the files that differ
(``differences``); everything else of it is shared.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter
from typing import Any

import gitsheets

from ferry.app.errors import BusyError, SheetTooLargeError, StoreError
from ferry.app.records.codec import Record
from ferry.app.records.weight import weight_of
from ferry.app.sheets.sheet import Sheet
from ferry.app.store import parsing
from ferry.app.store.differences import Differences, IrregularTreeError
from ferry.app.store.snapshot import IS_LINK, Found, Snapshot
from ferry.app.store.table import SLOT_BYTES, Item, Table, edits_of, spliced
from ferry.app.store.territory import Territory
from ferry.worker.errors import RepositoryError
from ferry.worker.git.repository import Repository

MOST_BYTES = 256 << 20  # of memory for parsed records, including those that are being read
MOST_LISTS = 8  # of one sheet: cursors lead on in the lists of earlier commits
MOST_SHEETS = 256
_PART = 1000  # records that are read at once of a sheet that is not cached
_PLACE_BYTES = 300  # that each record takes in a list, beside its fields
NO_TEXT = "has a name that is not UTF-8; rename it with git"  # and no request can name it

_Key = tuple[Sheet, Territory]  # other sheets' declarations decide, too, which files belong to this one


@dataclass(slots=True, kw_only=True)
class Listed:
    """
    The records of a sheet.

    Attributes:
        records: Path and fields of every readable record, sorted by path.
        unreadable: Path and fault of every other record, sorted by path.
        tree: The sheet's tree.
        is_text: Whether all paths are UTF-8.
        size: Memory that all of it takes, in bytes.
        own: Memory that is freed with it while later lists of the sheet are kept.
    """

    records: Table
    unreadable: list[tuple[str, str]]
    tree: str = ""
    is_text: bool = True
    size: int = 0
    own: int = 0


@dataclass(slots=True)
class _Family:
    """
    The lists of one sheet, which share the records that are the same.

    Attributes:
        size: Memory that all of them take, in bytes.
        newest: The one that was made last.
        lists: By tree; the least recently used first.
    """

    size: int
    newest: Listed
    lists: OrderedDict[str, Listed]


class _Reserved:
    """
    Memory that a reader has reserved, in bytes.
    """

    def __init__(self, take: Callable[[int, int], None]) -> None:
        self.size = 0
        self._take = take

    def take(self, size: int) -> None:
        """
        Reserve *size* more.
        """
        self._take(size, self.size)
        self.size += size


class Listing:
    """
    Parsed records by sheet and tree; drops the least recently used sheet first.

    Thread-safe. What it returns is shared and must not be changed.

    Args:
        repository: The data repository.
        most_bytes: Memory that all of them may take.
    """

    def __init__(self, repository: Repository, *, most_bytes: int = MOST_BYTES) -> None:
        self._repository = repository
        self._room = most_bytes
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._differences = Differences(repository.objects)
        self._kept: OrderedDict[_Key, _Family] = OrderedDict()

    def records(self, snapshot: Snapshot, sheet: Sheet) -> Table:
        """
        Return path and fields of every readable record of *sheet*, sorted by path.
        """
        return self.read(snapshot, sheet).records

    def read(self, snapshot: Snapshot, sheet: Sheet) -> Listed:
        """
        Return the records of *sheet*.

        Raises:
            SheetTooLargeError: It takes more memory than all lists may use.
            BusyError: It does so together with other sheets that are being read.
        """
        tree, key = snapshot.tree(sheet), (sheet, snapshot.territory)
        if tree is None:
            return Listed(records=Table(), unreadable=[])
        found, _ = self._known(key, tree)
        if found is not None:
            return found
        with self._lock:
            turn = self._turns.setdefault(sheet.name, threading.Lock())
        with turn:  # a second reader finds it in the cache
            found, newest = self._known(key, tree)
            if found is None and newest is not None and newest.is_text:
                with contextlib.suppress(IrregularTreeError):
                    found = self._follow(snapshot, key, tree, newest)
            return found or self._read(snapshot, key, tree)

    def parts(self, snapshot: Snapshot, sheet: Sheet) -> Iterator[Listed]:
        """
        Yield the records of *sheet* in parts, sorted by path, without caching them: for a sheet of any size.
        """
        files = _sorted(snapshot.files(sheet))
        for start in range(0, len(files), _PART):
            some = files[start : start + _PART]
            records, unreadable = self._found(some, sheet, _Reserved(lambda size, held: None))
            yield Listed(records=Table(records), unreadable=unreadable)

    @property
    def held_bytes(self) -> int:
        """
        Memory that the lists take, with those that are being read.
        """
        return self._most_bytes - self._room

    def warm(self, snapshot: Snapshot) -> None:
        """
        Read the sheets before they are asked for, until half of the memory is taken: none is to drop another.
        """
        for sheet in snapshot.territory.usable():
            if self._room < self._most_bytes / 2:
                return
            # A request to the sheet reports the fault.
            with contextlib.suppress(StoreError, RepositoryError, gitsheets.GitsheetsError, OSError):
                self.read(snapshot, sheet)
                if tree := snapshot.tree(sheet):
                    self._differences.prepare(tree)

    def _known(self, key: _Key, tree: str) -> tuple[Listed | None, Listed | None]:
        """
        Return the list itself, and the sheet's newest one, if they are kept.
        """
        with self._lock:
            family = self._kept.get(key)
            if family is None:
                return None, None
            self._kept.move_to_end(key)
            if tree in family.lists:
                family.lists.move_to_end(tree)
            return family.lists.get(tree), family.newest

    def _read(self, snapshot: Snapshot, key: _Key, tree: str) -> Listed:
        """
        Read a whole sheet.
        """
        with self._reserving() as reserved, _without_collections():
            files = _sorted(snapshot.files(key[0]))
            records, unreadable = self._found(files, key[0], reserved)
            listed = Listed(
                records=self._table(key, records),
                unreadable=unreadable,
                tree=tree,
                is_text=all(file.is_text for file in files),
                size=reserved.size,
            )
            self._start(key, listed)
            return listed

    def _follow(self, snapshot: Snapshot, key: _Key, tree: str, newest: Listed) -> Listed:
        """
        Make the list of *tree* of the newest one, by the files that differ.

        Raises:
            IrregularTreeError: The whole sheet must be read.
        """
        with self._reserving() as reserved:
            files = _by_path(self._differences.files(snapshot, key[0], newest.tree, tree))
            found: dict[str, Record | str | None] = dict.fromkeys(files)
            for some in self._found([file for file in files.values() if file], key[0], reserved):
                found |= some
            reserved.take(SLOT_BYTES * len(newest.records))
            listed, gone = _changed(newest, tree, found, reserved.size)
            if not self._join(key, newest, listed, gone, reserved.size):
                reserved.take(listed.size - reserved.size)
                self._start(key, listed)
            return listed

    def _found(
        self, files: Sequence[Found], sheet: Sheet, reserved: _Reserved
    ) -> tuple[list[Item], list[tuple[str, str]]]:
        """
        Return path and fields of each of *files* that can be read, in order; and path and fault of the rest.

        Equal files share a blob. Its memory counts for each of them: any of them may be the last to go.
        """
        reserved.take(_PLACE_BYTES * len(files))
        blobs = [file for file in files if file.is_text and not file.is_link]
        names = [file.name for file in blobs]
        parsed: dict[str, Record | str] = dict.fromkeys(names, _GONE)
        uses = Counter(names) if len(parsed) < len(names) else {}
        shared = {name: count - 1 for name, count in uses.items() if count > 1}
        for some in parsing.parsed(self._repository, list(parsed), sheet):
            parsed |= some
            again = (repeat(some[name], shared[name]) for name in shared.keys() & some.keys())
            reserved.take(weight_of(chain(some.values(), *again)))
        records = [(path, each) for path, name, _, _ in blobs if isinstance(each := parsed[name], dict)]
        if len(records) == len(files):
            return records, []
        unreadable = [(path, each) for path, name, _, _ in blobs if isinstance(each := parsed[name], str)]
        unreadable += [(file.path, fault) for file in files if (fault := _fault(file))]
        reserved.take(weight_of(fault for _, fault in unreadable if fault in _UNREAD))
        return records, sorted(unreadable)

    def _start(self, key: _Key, listed: Listed) -> None:
        """
        Keep the only list of a sheet, whose memory is reserved.
        """
        with self._lock:
            before = self._kept.pop(key, None)
            self._room += before.size if before else 0
            self._room -= listed.records.kept_bytes
            size = listed.size + listed.records.kept_bytes
            self._kept[key] = _Family(size, listed, OrderedDict({listed.tree: listed}))
            while len(self._kept) > MOST_SHEETS:
                self._room += self._kept.popitem(last=False)[1].size

    def _join(self, key: _Key, newest: Listed, listed: Listed, gone: int, held: int) -> bool:
        """
        Keep *listed* beside the list that it was made of; returns False if that has been dropped.

        Args:
            gone: Memory of what it has no longer.
            held: Memory that is reserved for what it has in addition.
        """
        with self._lock:
            family = self._kept.get(key)
            if family is None or family.newest is not newest:
                return False
            newest.own = SLOT_BYTES * len(newest.records) + gone
            family.size += held
            family.newest = family.lists[listed.tree] = listed
            while len(family.lists) > MOST_LISTS:
                _, old = family.lists.popitem(last=False)
                family.size -= old.own + old.records.kept_bytes
                self._room += old.own + old.records.kept_bytes
            return True

    def _table(self, key: _Key, items: Iterable[Item]) -> Table:
        def may_keep(table: Table, size: int) -> bool:
            with self._lock:
                family = self._kept.get(key)
                if family is None or all(each.records is not table for each in family.lists.values()):
                    return False
                if not self._make_room(size, but=key):
                    return False
                family.size += size
                self._room -= size
                return True

        return Table(items, may_keep=may_keep)

    @contextlib.contextmanager
    def _reserving(self) -> Iterator[_Reserved]:
        """
        Give the memory that the block has reserved back if it fails.
        """
        reserved = _Reserved(self._take)
        try:
            yield reserved
        except BaseException:
            with self._lock:
                self._room += reserved.size
            raise

    def _take(self, size: int, held: int) -> None:
        """
        Reserve *size* more bytes for a reader that holds *held* bytes.
        """
        with self._lock:
            if not self._make_room(size):
                if held + size > self._most_bytes:
                    raise SheetTooLargeError(
                        f"The sheet needs more than {self._most_bytes >> 20} MiB of memory."
                    )
                raise BusyError("Other large sheets are being read.")
            self._room -= size

    def _make_room(self, size: int, *, but: _Key | None = None) -> bool:
        """
        Drop sheets, except *but*, until there is room for *size* bytes; returns whether there is.
        """
        for key in [key for key in self._kept if key != but]:
            if self._room >= size:
                break
            self._room += self._kept.pop(key).size
        return self._room >= size


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """
    Keep Python from looking for cyclic garbage in the block, if it does: the block makes a great many objects
    and no cycles, and looking for them would take a quarter of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _sorted(files: Iterable[Found]) -> list[Found]:
    return sorted(files, key=attrgetter("path"))


def _by_path(pairs: Iterable[tuple[Found | None, Found | None]]) -> dict[str, Found | None]:
    """
    Return the file at each path that differs; None where there is no record any more.
    """
    known = list(pairs)
    files: dict[str, Found | None] = {before.path: None for before, _ in known if before}
    return files | {after.path: after for _, after in known if after}


def _changed(
    before: Listed, tree: str, found: Mapping[str, Record | str | None], added: int
) -> tuple[Listed, int]:
    """
    Return *before* with what was *found* at some paths, and the memory of what it had there.
    """
    fields = {path: each if isinstance(each, dict) else None for path, each in found.items()}
    faults = {path: each if isinstance(each, str) else None for path, each in found.items()}
    edits = list(edits_of(before.unreadable, faults))
    replaced: list[tuple[str, Any]] = []
    for first, end, _ in edits_of(before.records, fields):
        replaced += before.records[first:end]
    for first, end, _ in edits:
        replaced += before.unreadable[first:end]
    gone = _PLACE_BYTES * len(replaced) + weight_of(value for _, value in replaced)
    records = before.records.changed(fields)
    copied = SLOT_BYTES * len(before.records)
    size = before.size + added - copied - gone
    return Listed(records=records, unreadable=spliced(before.unreadable, edits), tree=tree, size=size), gone


_GONE = "is missing or damaged in the repository; look with: git fsck"
_UNREAD = (_GONE, IS_LINK, NO_TEXT)  # faults of files that are not parsed


def _fault(file: Found) -> str | None:
    """
    Return why a file cannot be a record, without reading it; None if it may be one.
    """
    if file.is_link:
        return IS_LINK
    return None if file.is_text else NO_TEXT
