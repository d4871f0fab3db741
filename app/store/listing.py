"""
A cache of whole sheets' parsed records: the same bytes are the same record.

Which files a sheet holds is read from each commit's tree. Only the parsed records are cached, by the
names of their blobs, so a commit's list does not depend on what was listed before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import gitsheets

from ferry.app.errors import BusyError, SheetTooLargeError, UnreadableRecordError
from ferry.app.records.codec import MOST_RECORD_BYTES, Record, fields_of
from ferry.app.records.weight import weight_of
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import IS_LINK, Found, Snapshot
from ferry.app.store.territory import Territory
from ferry.worker.git import inventory
from ferry.worker.git.loose import ObjectTooLargeError
from ferry.worker.git.repository import Repository

Records = Sequence[tuple[str, Record]]

MOST_BYTES = 256 << 20  # of memory for parsed records, including those that are being read
MOST_TREES = 256  # the tree of a sheet at the root changes with every commit
_FEW = 30  # git reads larger numbers than this: it takes 3 ms to start, and 0.01 ms for each blob
_BATCH_BYTES = 16 << 20  # of unparsed blobs in memory at once
_PLACE_BYTES = 300  # bytes that each record takes in a list, beside its fields
_DETAIL_LENGTH = 300

_Parsed = tuple[Record | str, int]  # the fields, or the fault; and their size in bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """
    The records of a sheet.

    Attributes:
        records: Path and fields of every readable record, sorted by path.
        unreadable: Path and fault of every other record, sorted by path.
        parsed: The fields or the fault of each blob, by its name.
        size: Memory that all of it takes, in bytes.
    """

    records: Records
    unreadable: Sequence[tuple[str, str]]
    parsed: Mapping[str, _Parsed]
    size: int = 0


_NOTHING = Listed(records=(), unreadable=(), parsed={})


class Listing:
    """
    Parsed records by sheet and tree; drops the least recently used first.

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
        # The tree alone is not enough: other sheets' declarations decide which of its files belong to this
        # one.
        self._kept: OrderedDict[tuple[Sheet, Territory, str], Listed] = OrderedDict()

    def records(self, snapshot: Snapshot, sheet: Sheet) -> Records:
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
        tree = snapshot.tree(sheet)
        if tree is None:
            return _NOTHING
        key = sheet, snapshot.territory, tree
        found, _ = self._known(key)
        if found is not None:
            return found
        with self._lock:
            turn = self._turns.setdefault(sheet.name, threading.Lock())
        with turn:  # a second reader finds most of it in the cache
            found, known = self._known(key)
            return found or self._read(snapshot, key, known)

    def _known(self, key: tuple[Sheet, Territory, str]) -> tuple[Listed | None, Mapping[str, _Parsed]]:
        """
        Return what is cached: the list itself, and the blobs of the sheet's last list.
        """
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found, found.parsed
            nearest = (old.parsed for (each, *_), old in reversed(self._kept.items()) if each is key[0])
            return None, next(nearest, {})

    def _read(
        self, snapshot: Snapshot, key: tuple[Sheet, Territory, str], known: Mapping[str, _Parsed]
    ) -> Listed:
        sheet, held = key[0], 0
        try:
            files = sorted(snapshot.files(sheet), key=lambda file: file.path)
            blobs = {file.entry.name for file in files if _fault(file) is None}
            parsed = {blob: known[blob] for blob in blobs & known.keys()}
            held += self._take(_PLACE_BYTES * len(files) + sum(size for _, size in parsed.values()), held)
            for contents in self._contents(sorted(blobs - known.keys())):
                new = {blob: _parse(content, sheet) for blob, content in contents.items()}
                parsed |= new
                held += self._take(sum(size for _, size in new.values()), held)
            found = [(file.path, _fault(file) or parsed.get(file.entry.name, _GONE)[0]) for file in files]
            listed = Listed(
                records=[(path, fields) for path, fields in found if isinstance(fields, dict)],
                unreadable=[(path, fault) for path, fault in found if isinstance(fault, str)],
                parsed=parsed,
                size=held,
            )
        except BaseException:
            self._give_back(held)
            raise
        self._keep(key, listed)
        return listed

    def _take(self, size: int, held: int) -> int:
        """
        Reserve *size* more bytes for a reader that holds *held* bytes; returns *size*.
        """
        with self._lock:
            while self._room < size and self._kept:
                self._room += self._kept.popitem(last=False)[1].size
            if self._room < size:
                if held + size > self._most_bytes:
                    raise SheetTooLargeError(
                        f"The sheet needs more than {self._most_bytes >> 20} MiB of memory."
                    )
                raise BusyError("Other large sheets are being read.")
            self._room -= size
        return size

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._room += size

    def _keep(self, key: tuple[Sheet, Territory, str], listed: Listed) -> None:
        with self._lock:
            before = self._kept.pop(key, _NOTHING)
            self._kept[key] = listed
            self._room += before.size
            while len(self._kept) > MOST_TREES:
                self._room += self._kept.popitem(last=False)[1].size

    def _contents(self, blobs: Sequence[str]) -> Iterator[Mapping[str, bytes | str]]:
        """
        Yield the content of each readable blob, or why it is too large; a few MiB at a time.
        """
        left = dict.fromkeys(blobs)
        sizes = inventory.sizes(self._repository.git, blobs) if len(blobs) > _FEW else {}
        for batch in _batches(sizes):
            contents = inventory.contents(self._repository.git, batch)
            for blob in contents:
                del left[blob]
            yield contents
        for blob in left:
            try:
                yield {blob: self._repository.objects.read(blob, most=MOST_RECORD_BYTES)}
            except ObjectTooLargeError as exc:
                yield {blob: str(exc)}
            except gitsheets.GitsheetsError:
                continue  # the others can be read all the same


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """
    Yield the blobs that are not too large for a record, as many at a time as may be in memory.
    """
    batch: list[str] = []
    room = _BATCH_BYTES
    for blob, size in sizes.items():
        if size > MOST_RECORD_BYTES:
            continue
        if batch and size > room:
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(blob)
        room -= size
    if batch:
        yield batch


def _parse(content: bytes | str, sheet: Sheet) -> _Parsed:
    try:
        found: Record | str = content if isinstance(content, str) else fields_of(content, sheet.body_field)
    except UnreadableRecordError as exc:
        found = str(exc)[:_DETAIL_LENGTH]
    return found, weight_of(found)


_GONE: _Parsed = "is missing or damaged in the repository; look with: git fsck", 0


def _fault(file: Found) -> str | None:
    """
    Return why a file cannot be a record, without reading it; None if it may be one.
    """
    if file.entry.kind == "link":
        return IS_LINK
    return None if file.is_text else "has a name that is not UTF-8; rename it with git"
