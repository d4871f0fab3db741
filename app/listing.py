"""
The parsed records of whole sheets, kept, because the same bytes are the same record.

What a sheet holds is asked of the commit's tree each time it changes, always in the
same way; what was read before is the parsed records alone, and they are known by the
names of their blobs. So the list of a commit is the same whatever was listed before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gitsheets

from app.codec import Record, fields_of
from app.errors import UnreadableRecordError
from app.sheet import Sheet
from app.snapshot import IS_LINK, Found, Snapshot
from app.territory import Territory
from worker.git import Repository
from worker.objects import read

Records = Sequence[tuple[str, Record]]

# A parsed record of ten short fields takes some 2 kB: at most half a gigabyte, shared between the trees.
MOST_RECORDS = 250_000
MOST_TREES = 256  # a sheet at the top of the tree has another one with each commit, and may be empty
_FEW = 30  # more than these are read by git, which takes 3 ms to start and 0.01 ms for each
_DETAIL_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """
    What a sheet holds.

    Attributes:
        records: Path and fields of every record that can be read, sorted by path.
        unreadable: Path and fault of every other one, sorted by path.
        parsed: What each blob is, by its name: fields, or what is wrong.
    """

    records: Records
    unreadable: Sequence[tuple[str, str]]
    parsed: Mapping[str, Record | str]


_NOTHING = Listed(records=(), unreadable=(), parsed={})


class Listing:
    """
    Parsed records by sheet and tree, the least recently read ones dropped first.

    Usable from any thread. What it returns is shared and must not be changed.

    Args:
        repository: Where the records are read.
        most_records: How many to keep in all.
    """

    def __init__(self, repository: Repository, *, most_records: int = MOST_RECORDS) -> None:
        self._repository = repository
        self._most_records = most_records
        self._lock = threading.Lock()
        # Another sheet's declaration moves this one's walls, so the tree alone does not say what it holds.
        self._kept: OrderedDict[tuple[Sheet, Territory, str], Listed] = OrderedDict()

    def records(self, snapshot: Snapshot, sheet: Sheet) -> Records:
        """
        Return path and fields of every record of *sheet* that can be read, sorted by path.
        """
        return self.read(snapshot, sheet).records

    def read(self, snapshot: Snapshot, sheet: Sheet) -> Listed:
        """
        Return what *sheet* holds.
        """
        tree = snapshot.tree(sheet)
        if tree is None:
            return _NOTHING
        key = sheet, snapshot.territory, tree
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            nearest = (old.parsed for (each, *_), old in reversed(self._kept.items()) if each is sheet)
            known = next(nearest, {})
        found = self._read(snapshot, sheet, known)
        with self._lock:
            self._kept[key] = found
            total = sum(len(each.parsed) for each in self._kept.values())
            while len(self._kept) > 1 and (total > self._most_records or len(self._kept) > MOST_TREES):
                total -= len(self._kept.popitem(last=False)[1].parsed)
        return found

    def _read(self, snapshot: Snapshot, sheet: Sheet, known: Mapping[str, Record | str]) -> Listed:
        files = sorted(snapshot.files(sheet), key=lambda file: file.path)
        blobs = {file.entry.name for file in files if _fault(file) is None}
        parsed = {blob: known[blob] for blob in blobs & known.keys()}
        for blob, content in self._contents(sorted(blobs - known.keys())).items():
            try:
                parsed[blob] = fields_of(content, sheet.body_field)
            except UnreadableRecordError as exc:
                parsed[blob] = str(exc)[:_DETAIL_LENGTH]
        found = [(file.path, _fault(file) or parsed.get(file.entry.name, _GONE)) for file in files]
        return Listed(
            records=[(path, fields) for path, fields in found if isinstance(fields, dict)],
            unreadable=[(path, fault) for path, fault in found if isinstance(fault, str)],
            parsed=parsed,
        )

    def _contents(self, blobs: Sequence[str]) -> dict[str, bytes]:
        """
        Return the content of each of the blobs that is whole.
        """
        found = self._repository.contents(blobs) if len(blobs) > _FEW else {}
        for blob in blobs:
            if blob not in found:
                try:
                    found[blob] = read(str(self._repository.path), blob)
                except gitsheets.GitsheetsError:
                    continue  # one damaged object keeps nobody from the others
        return found


_GONE = "is missing or damaged in the repository; look with: git fsck"


def _fault(file: Found) -> str | None:
    """
    Return why a file needs no reading to be known for no record; None where it may be one.
    """
    if file.entry.kind == "link":
        return IS_LINK
    return None if file.is_text else "has a name that is no UTF-8; rename it with git"
