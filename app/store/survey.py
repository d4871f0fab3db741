"""
Checking each sheet: whether it opens, what it holds, and what is wrong with it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import gitsheets

from ferry.app.errors import SheetConfigError
from ferry.app.sheets.declarations import OUTDATED_HINT, outdated
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.listing import Listing
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.territory import OVERLAP_HINT
from ferry.worker.doctor import Finding
from ferry.worker.errors import RepositoryError
from ferry.worker.git.repository import Repository
from ferry.worker.observe.printable import many

_SHOWN = 3


def survey(repository: Repository) -> Iterator[Finding]:
    """
    Check each sheet of the branch.
    """
    try:
        snapshot = Snapshot.of(repository, repository.head())
        yield from _sheets(snapshot, Listing(repository, most_bytes=sys.maxsize))
    except (gitsheets.GitsheetsError, RepositoryError) as exc:
        yield Finding(name="sheets", state="failed", detail=str(exc), remedy="Check with: git fsck")


def read_all(repository: Repository) -> str:
    """
    Read every record of every sheet of the branch; returns a sentence with their number.

    Raises:
        RepositoryError: An object on the way is damaged.
    """
    snapshot, listing = (
        Snapshot.of(repository, repository.head()),
        Listing(repository, most_bytes=sys.maxsize),
    )
    try:
        sheets = [listing.read(snapshot, sheet) for sheet in snapshot.territory.usable()]
    except gitsheets.GitsheetsError as exc:
        raise RepositoryError(f"the sheets of {repository.path} cannot be read: {exc}") from exc
    records = sum(len(sheet.records) for sheet in sheets)
    unreadable = sum(len(sheet.unreadable) for sheet in sheets)
    said = f"{records} records in {len(sheets)} sheets can be read"
    return f"{said}, {unreadable} cannot; ferry doctor names them" if unreadable else said


def _sheets(snapshot: Snapshot, listing: Listing) -> Iterator[Finding]:
    strays = _strays(snapshot)
    overlaps = snapshot.territory.overlaps()
    for name in snapshot.sheet_names():
        try:
            sheet = snapshot.sheet(name)
            yield _sheet(snapshot, listing, sheet, overlaps.get(name, []), strays[name])
        except SheetConfigError as exc:
            yield Finding(name=f"sheet {name}", state="warning", detail=str(exc), remedy=exc.hint)


def _sheet(snapshot: Snapshot, listing: Listing, sheet: Sheet, meets: Sequence[str], strays: int) -> Finding:
    listed = listing.read(snapshot, sheet)
    details, remedies = [f"opens, {many(len(listed.records), 'record')}"], []
    if listed.unreadable:
        named = "; ".join(f"{path!r} {detail}" for path, detail in listed.unreadable[:_SHOWN])
        details.append(f"{len(listed.unreadable)} cannot be read: {named}")
        remedies.append("Correct or remove these files with PUT, DELETE or git.")
    if strays:
        details.append(f"{many(strays, 'file')} that its template does not make")
        remedies.append("Move these files to a path that the template makes, or remove them, with git.")
    if meets:
        details.append(f"shares paths with {', '.join(meets)}")
        remedies.append(f"{OVERLAP_HINT}.")
    if keys := outdated(sheet.config):
        details.append(f"declares {', '.join(keys)}")
        remedies.append(f"{OUTDATED_HINT}.")
    return Finding(
        name=f"sheet {sheet.name}",
        state="warning" if remedies else "ok",
        detail=", ".join(details),
        remedy=" ".join(remedies),
    )


def _strays(snapshot: Snapshot) -> Counter[str]:
    """
    Count, by sheet, the files below its root that have its extension and belong to no record.
    """
    found: Counter[str] = Counter()
    territory = snapshot.territory
    for place, entry in snapshot.leaves(""):
        *above, name = place.split("/")
        domain = territory.domain(above)
        if entry.is_file and domain and territory.owner(place, snapshot.stands) is None:
            found.update(sheet.name for sheet in domain.sheets if name.endswith(sheet.extension))
    return found
