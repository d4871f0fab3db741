"""
How many records each sheet has.
"""

from __future__ import annotations

import threading

from cachetools import LRUCache

from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.territory import Territory

_MOST_SHEETS = 256
# By what decides which files are records of the sheet, see ``Listing``.
_counts: LRUCache[tuple[Sheet, Territory, str], int] = LRUCache(_MOST_SHEETS)
_lock = threading.Lock()


def count_of(snapshot: Snapshot, sheet: Sheet) -> int:
    """
    Return how many records *sheet* has, unreadable ones too. Looks at their names alone.
    """
    tree = snapshot.tree(sheet)
    if tree is None:
        return 0
    key = sheet, snapshot.territory, tree
    with _lock:
        known = _counts.get(key)
    if known is None:
        known = sum(1 for _ in snapshot.files(sheet))
        with _lock:
            _counts[key] = known
    return known
