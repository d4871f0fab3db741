"""
The parsed records of whole sheets, kept, because git reads the same tree the same way each time.

Reading 10,000 records takes a quarter of a second. A tree's hash never changes
its meaning, so what was read is kept by that hash; and from one tree to the next
only what the commit between them changed is read again.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import gitsheets

from app.snapshot import Record, Sheet, Snapshot

Records = Sequence[tuple[str, Record]]

# A parsed record of ten short fields takes some 2 kB: at most half a gigabyte, shared between the trees.
MOST_RECORDS = 250_000


class Listing:
    """
    Parsed records by sheet and tree, the least recently read ones dropped first.

    Usable from any thread. What it returns is shared and must not be changed.

    Args:
        most_records: How many to keep in all.
    """

    def __init__(self, *, most_records: int = MOST_RECORDS) -> None:
        self._most_records = most_records
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Sheet, str], Records] = OrderedDict()

    def records(self, snapshot: Snapshot, sheet: Sheet) -> Records:
        """
        Return path and fields of every record of *sheet*, sorted by path.

        Raises:
            UnreadableRecordError: One of the files is no record.
        """
        tree = snapshot.tree(sheet)
        if tree is None:
            return ()
        with self._lock:
            found = self._kept.get((sheet, tree))
            if found is not None:
                self._kept.move_to_end((sheet, tree))
                return found
            nearest = next(
                ((old, known) for (each, old), known in reversed(self._kept.items()) if each == sheet), None
            )
        found = _brought_forward(snapshot, sheet, tree, *nearest) if nearest else None
        if found is None:
            found = snapshot.records(sheet)
        self._keep(sheet, tree, found)
        return found

    def _keep(self, sheet: Sheet, tree: str, found: Records) -> None:
        with self._lock:
            self._kept[sheet, tree] = found
            total = sum(map(len, self._kept.values()))
            while total > self._most_records and len(self._kept) > 1:
                total -= len(self._kept.popitem(last=False)[1])


def _brought_forward(
    snapshot: Snapshot, sheet: Sheet, tree: str, old_tree: str, known: Records
) -> Records | None:
    """
    Return the records of *tree*, made from those of *old_tree*; None where it cannot be told.
    """
    pattern = _path_pattern(sheet.path)
    if pattern is None or sheet.body_field or sheet.root in ("", "."):
        return None  # gitsheets reads a markdown record's text with the sheet, and not in a diff
    try:
        changes = gitsheets.diff_records(snapshot.git_dir, old_tree, tree, ".", sheet.extension)
    except gitsheets.GitsheetsError:
        return None  # a file that is no record: reading the sheet says which
    records = dict(known)
    for change in changes:
        records.pop(change["previous_path"] or change["path"], None)
        if change["dst"] is not None and pattern.fullmatch(change["path"]):
            records[change["path"]] = change["dst"]
    return sorted(records.items(), key=lambda item: item[0])


@lru_cache(maxsize=256)
def _path_pattern(template: str) -> re.Pattern[str] | None:
    """
    Return what the paths of a sheet's records look like; None where a field may hold slashes.
    """
    if "**" in template:
        return None
    parts = re.split(r"(\$\{\{.*?\}\})", template)
    return re.compile("".join(_part(part) for part in parts), re.DOTALL)


def _part(part: str) -> str:
    if not part.startswith("${{"):
        return re.escape(part)
    # A date's format, `${{ starts_at: YYYY/MM }}`, may make several directories.
    return "/".join(["[^/]+"] * (1 + part.count("/")))
