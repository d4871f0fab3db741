"""
The forms in which records leave and enter as lines: CSV and NDJSON.

CSV is that of RFC 4180 in UTF-8, with a header of the columns' names. NDJSON is one JSON object in each line.
Both hold the fields of the records, whose paths follow from them.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from ferry.app.errors import InvalidJsonError
from ferry.app.exchange.cells import Kind, of_cell, to_cell
from ferry.app.exchange.columns import Columns, Field, field_of, leaves, name_of, put
from ferry.app.exchange.marks import to_text, unmarked
from ferry.app.records.codec import Record
from ferry.app.records.json_form import read_record

LONGEST_LINE = 8 << 20  # bytes; a record's file has no more, either
_PIECE_BYTES = 64 << 10


class LineError(ValueError):
    """
    A line is no record; it says why.
    """


class Form(ABC):
    """
    One of the forms.

    Attributes:
        name: Its name, and the ending of its files.
        media_type: Its media type.
    """

    name: ClassVar[str]
    media_type: ClassVar[str]

    @abstractmethod
    def write(
        self, records: Callable[[], Iterable[Record]], columns: Columns, only: Sequence[Field] | None = None
    ) -> Iterator[str]:
        """
        Yield the lines of the records, with their ends.

        Args:
            records: Returns the records; called again for each time that they are read.
            columns: Those of the sheet.
            only: The only fields that the records have; None: any.
        """

    @abstractmethod
    def read(self, lines: Iterable[str], columns: Columns) -> Iterator[tuple[int, Record | LineError]]:
        """
        Yield the number of the line at which each record begins, from 1, and the record, or why it is none.

        Args:
            lines: The lines, with their ends as they are.
        """


class Csv(Form):
    """
    Comma-separated values.
    """

    name = "csv"
    media_type = "text/csv"

    def write(
        self, records: Callable[[], Iterable[Record]], columns: Columns, only: Sequence[Field] | None = None
    ) -> Iterator[str]:
        fields = columns.of(records()) if only is None else list(only)
        kinds = [columns.kind(field) for field in fields]
        line = _Line()
        yield line.of(list(map(name_of, fields)))
        plain = [field[0] for field in fields] if all(len(field) == 1 for field in fields) else None
        for record in records():
            if plain and not any(isinstance(value, dict) for value in record.values()):
                values = map(record.get, plain)
            else:
                values = map(dict(leaves(record)).get, fields)
            yield line.of(list(map(to_cell, values, kinds)))

    def read(self, lines: Iterable[str], columns: Columns) -> Iterator[tuple[int, Record | LineError]]:
        csv.field_size_limit(LONGEST_LINE)
        reader = csv.reader(lines, strict=True)
        try:
            fields = _header(reader)
        except LineError as exc:
            yield 1, exc
            return
        kinds = [columns.kind(field) for field in fields]
        while True:
            number = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as exc:
                yield number, LineError(f"The line is not CSV: {exc}.")
                return  # where the next record begins cannot be known
            except LineError as exc:
                yield number, exc
                return
            if row is None:
                return
            if row:  # an empty line, such as the last one, is no record
                yield number, _record(row, fields, kinds)


class Ndjson(Form):
    """
    JSON objects, one in each line.
    """

    name = "ndjson"
    media_type = "application/x-ndjson"

    def write(
        self, records: Callable[[], Iterable[Record]], columns: Columns, only: Sequence[Field] | None = None
    ) -> Iterator[str]:
        for record in records():
            yield to_text(record) + "\n"

    def read(self, lines: Iterable[str], columns: Columns) -> Iterator[tuple[int, Record | LineError]]:
        rest, number = iter(lines), 0
        while True:
            number += 1
            try:
                line = next(rest, None)
                if line is None:
                    return
                if line.strip():
                    yield number, unmarked(read_record(line.encode()))
            except InvalidJsonError as exc:
                yield number, LineError(str(exc).replace("The body", "The line"))
            except LineError as exc:
                yield number, exc
                return


FORMS = {form.name: form for form in (Csv(), Ndjson())}


def decoded(file: Iterable[bytes]) -> Iterator[str]:
    """
    Yield the lines of *file* as text, without a byte order mark.

    Raises:
        LineError: A line is not UTF-8, or is too long.
    """
    for number, line in enumerate(file, 1):
        if len(line) > LONGEST_LINE:
            raise LineError(f"The line has more than {LONGEST_LINE >> 20} MiB.")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            raise LineError(f"The line is not UTF-8: byte {exc.start + 1} cannot be read.") from exc


def pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """
    Yield *lines* in UTF-8, many at once.
    """
    waiting: list[str] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield "".join(waiting).encode()
            waiting, size = [], 0
    yield "".join(waiting).encode()


class _Line:
    """
    Writes a row as a line of CSV.
    """

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)

    def of(self, cells: Sequence[str]) -> str:
        self._text.seek(0)
        self._text.truncate()
        self._writer.writerow(cells)
        return self._text.getvalue()


def _header(rows: Iterator[list[str]]) -> list[Field]:
    try:
        names = next(rows, [])
    except csv.Error as exc:
        raise LineError(f"The header is not CSV: {exc}.") from exc
    if not names:
        raise LineError("The first line has no names of fields.")
    try:
        fields = [field_of(name) for name in names]
    except ValueError as exc:
        raise LineError(f"The header is wrong: {exc}.") from exc
    if twice := next(
        (name for name, field in zip(names, fields, strict=True) if fields.count(field) > 1), None
    ):
        raise LineError(f"The header names the field {twice[:80]!r} twice.")
    return fields


def _record(row: Sequence[str], fields: Sequence[Field], kinds: Sequence[Kind]) -> Record | LineError:
    if len(row) != len(fields):
        return LineError(f"The line has {len(row)} cells, and the header {len(fields)}.")
    record: Record = {}
    for cell, field, kind in zip(row, fields, kinds, strict=True):
        if (value := of_cell(cell, kind)) is not None:
            try:
                put(record, field, value)
            except ValueError as exc:
                return LineError(f"{name_of(field)}: {exc}.")
    return record
