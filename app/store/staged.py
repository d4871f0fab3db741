"""
Records as they are with the changes that a transaction has staged so far.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ferry.app.errors import RecordNotFoundError, SheetNotFoundError, StoreError, UnreadableRecordError
from ferry.app.records.codec import Record as Fields
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.listing import Listing
from ferry.app.store.snapshot import Snapshot, fields_at
from ferry.app.store.staging import Staging
from ferry.writes import Record, Refused

_NOTHING = object()
_KEPT = 1000  # records whose fields stay in memory; the others are read from their staged files


class Staged:
    """
    Reads records with the staged changes applied. It is also the ``Reader`` that extensions get.

    Args:
        before: The repository as the transaction's parent has it.
        staging: The staged files.
        listing: Reads whole sheets.
        fields: The fields of each staged record, by its file.
        gone: Sheet and path of a record that is about to be deleted, and so is not shown.
    """

    def __init__(
        self,
        before: Snapshot,
        staging: Staging,
        listing: Listing,
        fields: dict[str, Fields],
        gone: tuple[str, str] | None = None,
    ) -> None:
        self._before = before
        self._staging = staging
        self._listing = listing
        self._fields = fields
        self._gone = gone

    def without(self, sheet: Sheet, path: str) -> Staged:
        """
        Return a copy that does not show one record.
        """
        return Staged(self._before, self._staging, self._listing, self._fields, (sheet.name, path))

    def keep(self, sheet: Sheet, path: str, fields: Fields) -> None:
        """
        Remember the fields of a staged record.
        """
        self._fields.pop(sheet.file(path), None)
        self._fields[sheet.file(path)] = fields
        if len(self._fields) > _KEPT:
            del self._fields[next(iter(self._fields))]  # its file has the fields, too

    def find(self, sheet: Sheet, path: str) -> Fields | None:
        """
        Return the fields of the record at *path*, or None.

        Raises:
            UnreadableRecordError: The file is not a valid record.
        """
        if self._staging.version(sheet, path) is None or (sheet.name, path) == self._gone:
            return None
        staged = self._fields.get(sheet.file(path))
        if staged is not None:
            return staged
        entry = self._staging.entry(sheet.file(path))
        if entry is None or entry == self._before.entry(sheet.file(path)):
            return self._before.record(sheet, path).record
        return fields_at(self._before.objects, entry, sheet)

    def readable(self, sheet: Sheet, path: str) -> Fields | None:
        """
        Return the fields of the record at *path*; None if there is none or it cannot be read.
        """
        with contextlib.suppress(UnreadableRecordError):
            return self.find(sheet, path)
        return None

    def read(self, sheet: str, path: str) -> Record:
        """
        Return the record at *path*, for an extension.

        Raises:
            Refused: There is no such sheet or record.
            UnreadableRecordError: The file is not a valid record.
        """
        found = self.find(self._sheet(sheet), path)
        if found is None:
            raise _not_found(RecordNotFoundError(f"The sheet {sheet!r} has no record {path!r}."))
        return Record(path, found)

    def exists(self, sheet: str, path: str) -> bool:
        """
        Whether there is a record at *path*, for an extension.
        """
        return (sheet, path) != self._gone and self._staging.version(self._sheet(sheet), path) is not None

    def records(self, sheet: str, /, **filters: Any) -> list[Record]:
        """
        Return the readable records whose fields equal *filters*, sorted by path, for an extension.
        """
        found = self._sheet(sheet)
        listed = dict(self._listing.records(self._before, found))
        for path in self._staging.records_of(found):
            if (fields := self.readable(found, path)) is None:
                listed.pop(path, None)
            else:
                listed[path] = fields
        if self._gone and self._gone[0] == sheet:
            listed.pop(self._gone[1], None)
        return [
            Record(path, fields)
            for path, fields in sorted(listed.items())
            if all(fields.get(name, _NOTHING) == value for name, value in filters.items())
        ]

    def declarations(self) -> dict[str, dict[str, Any]]:
        """
        Return the declaration of each usable sheet by its name, for an extension.
        """
        found = {}
        for name in self._before.sheet_names():
            with contextlib.suppress(StoreError):  # a request to the sheet says what is wrong with it
                found[name] = dict(self._before.sheet(name).config)
        return found

    def _sheet(self, name: str) -> Sheet:
        try:
            return self._before.sheet(name)
        except SheetNotFoundError as exc:
            raise _not_found(exc) from exc


def _not_found(error: RecordNotFoundError | SheetNotFoundError) -> Refused:
    """
    Return *error* as an error of the public package.
    """
    return Refused(str(error), code=error.code, status=404, hint=error.hint)
