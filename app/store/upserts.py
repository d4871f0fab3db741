"""
Storing one record in a transaction: check it, ask the rules, render it, and stage it at the path that its
fields make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import gitsheets

from ferry.app.errors import ExtensionFailedError, InvalidPathError, InvalidRecordError, RecordExistsError
from ferry.app.records.codec import MOST_RECORD_BYTES, Record
from ferry.app.records.toml_types import coerce, narrowed, unstorable
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.rules import Check
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.staged import Staged
from ferry.app.store.staging import Staging
from ferry.app.store.territory import Owner
from ferry.app.store.translation import translated
from ferry.app.store.unwritten import Unwritten
from ferry.worker.records import markdown
from ferry.worker.records.date_literals import keep_dates


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """
    A record that a transaction has staged.

    Attributes:
        path: Its path within the sheet.
        record: Its fields as they will be stored.
        version: Object name of its blob.
        created: Whether no record stood there before.
        changed: Whether its file changes.
    """

    path: str
    record: Record
    version: str
    created: bool
    changed: bool


class Upserts:
    """
    Stages records of one transaction.

    Args:
        before: The repository as the transaction's parent has it.
        staging: Where the files are staged.
        staged: The records with the changes so far.
        check: The rules that apply.
    """

    def __init__(self, before: Snapshot, staging: Staging, staged: Staged, check: Check) -> None:
        self._before = before
        self._staging = staging
        self._staged = staged
        self._check = check
        self._renderer = before.renderer()

    def expect(self, sheet_name: str, records: Sequence[Record]) -> None:
        """
        Prepare to stage *records*, which come next; only for speed.
        """
        sheet, objects = self._before.sheet(sheet_name), self._before.objects
        if not sheet.is_plain:
            return
        coerced = [coerce(record, sheet.schema) for record in records]
        self._renderer.expect(sheet, coerced)
        if isinstance(objects, Unwritten):
            paths = (self.path(sheet, record) for record in coerced)
            stand = (self._staging.version(sheet, path) for path in paths if path)
            objects.read_ahead([version for version in stand if version])

    def stage(
        self,
        sheet_name: str,
        record: Record,
        *,
        replaces: str | None = None,
        create_only: bool = False,
        keeps_same: bool = False,
        operation: str = "put",
    ) -> Written:
        """
        Stage *record*; its path follows from its fields.

        Args:
            replaces: Path of the record that it replaces; it moves from there if its fields make another.
            create_only: Whether there may be no record at its path.
            keeps_same: Whether a record with the same fields keeps its file, however that is written.
            operation: The operation's name for rules; for a new record it is ``create``.

        Raises:
            StoreError: As ``Transaction.put`` and ``Transaction.create`` do.
        """
        sheet = self._before.sheet(sheet_name)
        finds, replaced = replaces is None and not create_only, replaces
        if finds:
            replaced = self.path(sheet, coerce(record, sheet.schema))
        before = self._staged.readable(sheet, replaced) if replaced else None
        render = partial(self._render, sheet, before, replaces)

        path, text, record = render(record)
        stands = before
        if finds and path != replaced:  # what it replaces has types that make another path of the same text
            replaced, stands = path, self._staged.readable(sheet, path)
        with translated(sheet_name):
            created = self._check_place(sheet, path, replaces=replaces, create_only=create_only)
        moves = replaces is not None and path != replaces
        text, record = self._ruled(
            sheet, (path, text, record), stands, render,
            operation="create" if created else operation, moves_from=replaces if moves else None,
        )  # fmt: skip
        stood = self._staging.version(sheet, path)
        if keeps_same and stood and stands is not None and _is_same(record, stands):
            return Written(path=path, record=record, version=stood, created=False, changed=False)
        with translated(sheet_name):
            if stands is not None and replaced:
                text = self._with_dates_of(sheet, replaced, text)
            version = self._stage(sheet, path, text.encode(), moves_from=replaces if moves else None)
        self._staged.keep(sheet, path, record)
        is_changed = moves or version != stood
        is_new = created and not moves
        return Written(path=path, record=record, version=version, created=is_new, changed=is_changed)

    def _render(
        self, sheet: Sheet, before: Record | None, stays: str | None, record: Record
    ) -> tuple[str, str, Record]:
        record = coerce(record, sheet.schema, before)
        _check_storable(sheet, record)
        with translated(sheet.name):
            return self._renderer.render(sheet, record, before, stays=stays)

    def _stage(self, sheet: Sheet, path: str, content: bytes, *, moves_from: str | None) -> str:
        if len(content) > MOST_RECORD_BYTES:
            raise InvalidRecordError(
                f"The record's file would have {len(content)} bytes; the limit is {MOST_RECORD_BYTES}."
            )
        version = self._staging.put(sheet.file(path), content)
        if moves_from is not None:
            self._staging.move(sheet, moves_from, path)
        return version

    def _ruled(
        self,
        sheet: Sheet,
        made: tuple[str, str, Record],
        before: Record | None,
        render: Callable[[Record], tuple[str, str, Record]],
        *,
        operation: str,
        moves_from: str | None,
    ) -> tuple[str, Record]:
        """
        Ask the rules about a record to be stored; returns its text and its fields as they have changed them.

        Raises:
            StoreError: As a rule does, or because the changed record is not valid.
        """
        path, text, record = made
        staged = self._staged
        if moves_from is not None:  # rules see a move as a deletion and a creation
            self._check.gone(staged, sheet, moves_from)
            before, staged = None, staged.without(sheet, moves_from)

        def validate(changed: Record) -> Record:
            nonlocal text, record
            # A rehearsal has rendered it, unless the rule stores another value each time, such as the time.
            with self._before.evaluations.looked_for():
                place, text, record = render(changed)
            if place != path:
                raise ExtensionFailedError(f"A rule moves the record {path!r} to {place!r}.")
            return record

        self._check.stored(staged, sheet, path, operation, before, record, validate)
        return text, record

    def _check_place(self, sheet: Sheet, path: str, *, replaces: str | None, create_only: bool) -> bool:
        """
        Check that a record may be stored at *path*; returns whether it is a new one there.

        Raises:
            InvalidPathError, RecordExistsError: It may not.
        """
        moves = replaces is not None and path != replaces
        if moves and self._staging.version(sheet, str(replaces)) is None:
            raise InvalidPathError(
                f"The record's fields make its path {path!r}, and there is no record at {replaces!r}."
            )
        self._staging.require_owner(sheet.file(path), Owner(sheet, path))
        created = self._staging.version(sheet, path) is None
        if not created and (create_only or moves):
            raise RecordExistsError(f"The sheet {sheet.name!r} already has a record {path!r}.")
        if created:
            self._staging.check_new_record(sheet, path)
        return created

    def path(self, sheet: Sheet, record: Record) -> str | None:
        """
        Return the path that the fields of *record* make; None if they make none: the write then reports why.
        """
        with contextlib.suppress(gitsheets.GitsheetsError, OverflowError, TypeError, ValueError):
            return self._renderer.path(sheet, narrowed(record))
        return None

    def _with_dates_of(self, sheet: Sheet, replaced: str, text: str) -> str:
        """
        Return *text* with dates written as in the record at *replaced*.
        """
        version = str(self._staging.version(sheet, replaced))
        old = self._before.objects.read(version, most=MOST_RECORD_BYTES).decode("utf-8", "replace")
        if not sheet.body_field:
            return keep_dates(old, text)
        front, _ = markdown.split(text)
        return text.replace(front, keep_dates(markdown.split(old)[0], front), 1)


def _is_same(record: Record, other: Record) -> bool:
    """
    Whether two records have the same fields with the same values, in the same types.
    """
    one, two = gitsheets.serialize_records([record, other])
    return bool(one == two)


def _check_storable(sheet: Sheet, record: Record) -> None:
    """
    Check that TOML, and the sheet's format, can hold *record*.

    Raises:
        InvalidRecordError: Naming each field that they cannot.
    """
    if errors := unstorable(record):
        raise InvalidRecordError("TOML cannot hold the record.", errors)
    if sheet.body_field and not isinstance(record.get(sheet.body_field), str):
        errors = [{"field": sheet.body_field, "message": "a string is required: the record's body"}]
        raise InvalidRecordError(f"The record has no body in {sheet.body_field!r}.", errors)
