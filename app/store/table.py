"""
The records of a sheet with what queries derive from them: texts to search, values of a field, orders.

The table of the next commit takes over what was derived from each record that it still has.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from sys import getsizeof
from typing import Any, TypeVar

from ferry.app.records.codec import Record

Item = tuple[str, Record]
SLOT_BYTES = 8  # of a place in a list
_MOST_KEPT = 16  # each has as many places as the table
V = TypeVar("V")
_path = itemgetter(0)


class Table(list[Item]):
    """
    Path and fields of records, sorted by path. Readers share it, so it must not be changed.

    Args:
        items: The records.
        may_keep: Asked for memory before the table keeps so many bytes more, or fewer.
    """

    def __init__(
        self,
        items: Iterable[Item] = (),
        *,
        may_keep: Callable[[Table, int], bool] = lambda table, size: False,
    ) -> None:
        super().__init__(items)
        self.kept_bytes = 0
        self._may_keep = may_keep
        self._columns: dict[Callable[[Record], str], tuple[list[str], int]] = {}  # with their size
        self._kept: OrderedDict[Hashable, Sequence[Any]] = OrderedDict()
        self._making = threading.RLock()  # an order is made of values

    def column(self, of: Callable[[Record], str]) -> Sequence[str]:
        """
        Return what *of* makes of each record.

        Args:
            of: A function of a module.
        """
        with self._making:
            if of in self._columns:
                return self._columns[of][0]
            found = [of(record) for _, record in self]
            size = _size_of(found)
            if self._keep(size):
                self._columns[of] = found, size
            return found

    def kept(self, name: Hashable, make: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """
        Return what *make* makes, such as an order or the values of a field, and keep it under *name*.
        """
        with self._making:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
                return found
            found = make()
            oldest = next(iter(self._kept)) if len(self._kept) == _MOST_KEPT else None
            freed = 0 if oldest is None else getsizeof(self._kept[oldest])
            if self._keep(getsizeof(found) - freed):
                if oldest is not None:
                    del self._kept[oldest]
                self._kept[name] = found
            return found

    def changed(self, changes: Mapping[str, Record | None]) -> Table:
        """
        Return the table with *changes*. It takes over this one's columns; this one makes them again if asked.

        Args:
            changes: The fields at each path; None: there is no such record.
        """
        edits = list(edits_of(self, changes))
        table = Table(spliced(self, edits), may_keep=self._may_keep)
        with self._making:
            for of, (column, size) in list(self._columns.items()):
                made = [(first, end, [of(record) for _, record in items]) for first, end, items in edits]
                more = _size_of([value for _, _, values in made for value in values])
                gone = _size_of([value for first, end, _ in edits for value in column[first:end]])
                if self._keep(more - gone):
                    del self._columns[of]
                    table._columns[of] = spliced(column, made), size + more - gone
                    self.kept_bytes -= size + more - gone
                    table.kept_bytes += size + more - gone
        return table

    def _keep(self, size: int) -> bool:
        is_kept = self._may_keep(self, size)
        self.kept_bytes += size if is_kept else 0
        return is_kept


def edits_of(
    items: Sequence[tuple[str, V]], changes: Mapping[str, V | None]
) -> Iterator[tuple[int, int, list[tuple[str, V]]]]:
    """
    Yield what *changes* makes of *items*, sorted by path: begin and end of a part, and its new items.
    """
    at = 0
    for path, value in sorted(changes.items(), key=_path):
        at = bisect_left(items, path, lo=at, key=_path)
        stands = at < len(items) and items[at][0] == path
        yield at, at + stands, [] if value is None else [(path, value)]


def spliced(values: list[V], edits: Iterable[tuple[int, int, list[V]]]) -> list[V]:
    """
    Return *values* with *edits*: begin and end of each part, ascending, and what replaces it.
    """
    found: list[V] = []
    at = 0
    for first, end, new in edits:
        found += values[at:first]
        found += new
        at = end
    found += values[at:]
    return found


def _size_of(values: Sequence[str]) -> int:
    return SLOT_BYTES * len(values) + sum(map(getsizeof, values))
