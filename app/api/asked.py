"""
What a list of records is asked for: the sheet as one commit has it, the query, and the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from werkzeug.datastructures import MultiDict

from ferry.app.api.cursors import Page, page_of
from ferry.app.api.reading import snapshot_of_page
from ferry.app.errors import RecordNotFoundError, UnreadableRecordError
from ferry.app.finding.fields import Fields
from ferry.app.finding.query import Query, query_of
from ferry.app.services import services
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.listing import Listed
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    What a request asks of a sheet.

    Attributes:
        snapshot: The repository at the commit that is read.
        sheet: The sheet.
        fields: What is known of its fields.
        query: The filters, the order and the fields to show.
        page: The part of the list.
    """

    snapshot: Snapshot
    sheet: Sheet
    fields: Fields
    query: Query
    page: Page

    @classmethod
    def of(cls, sheet: str, arguments: MultiDict[str, str]) -> Asked:
        """
        Read the query.

        Raises:
            Problem, StoreError: It is invalid, or the sheet cannot be read.
        """
        page = page_of(arguments, f"/api/sheets/{sheet}/records")
        snapshot = snapshot_of_page(page)
        found = snapshot.sheet(sheet)
        fields = Fields.of(found, snapshot.contracts(found))
        query = query_of(arguments.lists(), fields)
        return cls(snapshot=snapshot, sheet=found, fields=fields, query=query, page=page)

    def listed(self) -> Listed:
        """
        Return the records to look at, before the filters.

        Raises:
            SheetTooLargeError, BusyError: The sheet takes too much memory.
        """
        if self.query.paths:
            return _at_paths(self.snapshot, self.sheet, self.query.paths)
        return services().listing.read(self.snapshot, self.sheet)


def _at_paths(snapshot: Snapshot, sheet: Sheet, paths: Iterable[str]) -> Listed:
    """
    Return the records at *paths*, without reading the sheet. A path without a record is left out.
    """
    records, unreadable = [], []
    for path in paths:
        try:
            records.append((path, snapshot.record(sheet, path).record))
        except RecordNotFoundError:
            continue
        except UnreadableRecordError as exc:
            unreadable.append((path, str(exc)))
    return Listed(records=Table(records), unreadable=unreadable)
