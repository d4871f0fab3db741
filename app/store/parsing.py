"""
Reading and parsing many records' files at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from sys import intern

import gitsheets

from ferry.app.errors import UnreadableRecordError
from ferry.app.records.codec import MOST_RECORD_BYTES, Record, fields_of
from ferry.app.sheets.sheet import Sheet
from ferry.worker.git import inventory
from ferry.worker.git.loose import ObjectTooLargeError
from ferry.worker.git.repository import Repository

_FEW = 30  # git reads larger numbers than this: it takes 3 ms to start, and 0.01 ms for each blob
_BATCH_BYTES = 16 << 20  # of unparsed blobs in memory at once
_PARSED_AT_ONCE = 256  # records; a fault in one has all of them parsed one by one
_DETAIL_LENGTH = 300


def parsed(repository: Repository, blobs: Sequence[str], sheet: Sheet) -> Iterator[dict[str, Record | str]]:
    """
    Yield the fields, or the fault, of each blob of *sheet*, some at a time; damaged blobs are left out.
    """
    for contents in _contents(repository, blobs):
        names = list(contents)
        for start in range(0, len(names), _PARSED_AT_ONCE):
            some = {name: contents[name] for name in names[start : start + _PARSED_AT_ONCE]}
            found = _parsed_at_once(some, sheet)
            yield {name: _parse(each, sheet) for name, each in some.items()} if found is None else found


def _contents(repository: Repository, blobs: Sequence[str]) -> Iterator[Mapping[str, bytes | str]]:
    """
    Yield the content of each readable blob, or why it is too large; a few MiB at a time.
    """
    left = dict.fromkeys(blobs)
    sizes = inventory.sizes(repository.git, blobs) if len(blobs) > _FEW else {}
    for batch in _batches(sizes):
        contents = inventory.contents(repository.git, batch)
        for blob in contents:
            del left[blob]
        yield contents
    for blob in left:
        try:
            yield {blob: repository.objects.read(blob, most=MOST_RECORD_BYTES)}
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


def _parsed_at_once(contents: Mapping[str, bytes | str], sheet: Sheet) -> dict[str, Record | str] | None:
    """
    Return the fields of each blob, in two thirds of the time; None if one of them has a fault.
    """
    if sheet.body_field is not None or len(contents) == 1:
        return None
    try:
        texts = [content.decode() for content in contents.values() if isinstance(content, bytes)]
        return dict(zip(contents, map(_interned, gitsheets.parse_records(texts)), strict=True))
    except (gitsheets.GitsheetsError, ValueError, OverflowError):
        return None


def _parse(content: bytes | str, sheet: Sheet) -> Record | str:
    try:
        return content if isinstance(content, str) else _interned(fields_of(content, sheet.body_field))
    except UnreadableRecordError as exc:
        return str(exc)[:_DETAIL_LENGTH]


def _interned(record: Record) -> Record:
    """
    Return *record* with names that all records share in memory.
    """
    return {intern(name): value for name, value in record.items()}
