"""
Bringing the lines of a file into a sheet, in one commit or in several.

Many lines are staged without the write lock, in a rehearsal, so that other writers do not wait. The lock is
held only to take over the result, if nothing that it touches has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from ferry.app.errors import (
    ImportInvalidError,
    InvalidPathError,
    InvalidRecordError,
    RecordExistsError,
    RefusedError,
    UnreadableRecordError,
)
from ferry.app.exchange.forms import LineError
from ferry.app.records.codec import Record
from ferry.app.sheets.evaluation import NotEvaluatedError
from ferry.app.store.transaction import Transaction

Line = tuple[int, Record | LineError]

MODES = ("create", "upsert")
MOST_IN_A_COMMIT = 200_000  # each takes about a KiB of memory until the commit
MOST_FAULTS = 100  # that are told
_AT_ONCE = 500  # lines that are validated together
FEW = 1000  # lines that are staged under the write lock, as a transaction's operations are
_OF_A_LINE = (InvalidRecordError, InvalidPathError, RecordExistsError, RefusedError, UnreadableRecordError)


@dataclass(slots=True)
class Counts:
    """
    What became of the lines.

    Attributes:
        created, updated, unchanged: How many records were.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0

    def as_json(self) -> dict[str, int]:
        """
        Return the counts in the API's shape.
        """
        return {"created": self.created, "updated": self.updated, "unchanged": self.unchanged}

    def add(self, other: Mapping[str, int]) -> None:
        """
        Add the counts of another commit.
        """
        self.created += other["created"]
        self.updated += other["updated"]
        self.unchanged += other["unchanged"]


@dataclass(slots=True, kw_only=True)
class Import:
    """
    The lines of one commit.

    Attributes:
        sheet: The sheet's name.
        lines: Returns the lines; called again for each time that they are staged.
        create_only: Whether each line must be a new record.
        keep: Stores the objects of a rehearsal.
        is_large: Whether to stage the lines without the write lock.
    """

    sheet: str
    lines: Callable[[], Iterator[Line]]
    create_only: bool
    keep: Callable[[Transaction], None]
    is_large: bool = True
    _rehearsed: Transaction | None = field(default=None, init=False)
    _counts: Counts = field(default_factory=Counts, init=False)
    _fault: ImportInvalidError | None = field(default=None, init=False)

    def stage(self, transaction: Transaction) -> Counts:
        """
        Stage the lines; returns what becomes of them.

        Raises:
            NotEvaluatedError: They must be staged without the write lock first.
            ImportInvalidError: Lines are wrong.
            StoreError: The store refuses the import.
        """
        if not (self.is_large and transaction.holds_turn):
            self._counts = self._staged(transaction)
            if self.is_large:
                self.keep(transaction)
                self._rehearsed = transaction
            return self._counts
        if self._fault is not None:
            raise self._fault
        rehearsed, self._rehearsed = self._rehearsed, None
        if rehearsed is None or not transaction.adopt(rehearsed):
            raise NotEvaluatedError
        return self._counts

    def _staged(self, transaction: Transaction) -> Counts:
        counts, faults = Counts(), _Faults()
        places: dict[str, int] = {}
        for batch in _batches(self.lines()):
            transaction.expect(self.sheet, [each for _, each in batch if isinstance(each, dict)])
            for number, record in batch:
                with faults.noted(number):
                    self._bring(transaction, number, record, places, counts)
            if len(places) > MOST_IN_A_COMMIT:
                faults.add(number, "import-too-large", f"more than {MOST_IN_A_COMMIT} lines in one commit")
            if faults.are_enough:
                break
        if faults.found:
            self._fault = ImportInvalidError(faults.found)
            raise self._fault
        return counts

    def _bring(
        self,
        transaction: Transaction,
        number: int,
        record: Record | LineError,
        places: dict[str, int],
        counts: Counts,
    ) -> None:
        if isinstance(record, LineError):
            raise record
        written = transaction.bring(self.sheet, record, create_only=self.create_only)
        if (other := places.setdefault(written.path, number)) != number:
            raise LineError(f"line {other} is the record {written.path!r}, too")
        counts.created += written.created
        counts.updated += written.changed and not written.created
        counts.unchanged += not written.changed


class _Faults:
    """
    What is wrong with the lines of a file.
    """

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    @property
    def are_enough(self) -> bool:
        """
        Whether there is no use in looking for more.
        """
        return len(self.found) >= MOST_FAULTS

    def add(self, line: int, code: str, message: str, field: str = "") -> None:
        """
        Note a fault of a line.
        """
        if not self.are_enough:
            where = {"line": line, "field": field} if field else {"line": line}
            self.found.append({**where, "code": code, "message": message})

    @contextmanager
    def noted(self, line: int) -> Iterator[None]:
        """
        Note what is wrong with *line* if the block raises it.
        """
        try:
            yield
        except LineError as exc:
            self.add(line, "line-invalid", str(exc))
        except _OF_A_LINE as exc:
            details = exc.errors if isinstance(exc, (InvalidRecordError, RefusedError)) else []
            for each in details:
                self.add(line, exc.code, each["message"], each["field"])
            if not details:
                self.add(line, exc.code, str(exc))


def parts(
    lines: Callable[[], Iterator[Line]], commit_every: int | None
) -> Iterator[Callable[[], Iterator[Line]]]:
    """
    Yield what returns the lines of each commit.

    Args:
        commit_every: How many lines a commit has; None: one commit has all.
    """
    if commit_every is None:
        yield lines
        return
    rest = lines()
    part = list(islice(rest, commit_every))
    yield partial(iter, part)  # of an empty file, too
    while part := list(islice(rest, commit_every)):
        yield partial(iter, part)


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    rest = iter(lines)
    while batch := list(islice(rest, _AT_ONCE)):
        yield batch
