"""
One transaction: records of sheets to files of a tree, checked and staged until they become a commit.

gitsheets validates and renders each record; ``staging`` knows what stands where with the changes so far.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import gitsheets

from ferry.app.errors import (
    AttachmentNotFoundError,
    InvalidPathError,
    InvalidRecordError,
    RecordExistsError,
    RecordNotFoundError,
    UnreadableRecordError,
)
from ferry.app.records import markdown
from ferry.app.records.codec import MOST_RECORD_BYTES, Record
from ferry.app.records.date_literals import keep_dates
from ferry.app.records.toml_types import coerce, merge_patch, narrowed, unstorable
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.names import check_new, is_plain
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.staging import Staging
from ferry.app.store.territory import Owner
from ferry.app.store.translation import translated
from ferry.app.store.trees import tree_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """
    A record that a transaction has staged.

    Attributes:
        path: Its path within the sheet.
        record: Its fields as they will be stored.
        version: Object name of its blob.
        created: Whether no record stood there before.
    """

    path: str
    record: Record
    version: str
    created: bool


class Transaction:
    """
    Changes that become one commit, or none.

    Usable in the thread that opened it, until its block ends.

    Attributes:
        parent: The commit that the changes are made on.
        base: An earlier commit that is certainly on the branch; see ``group_commit``.
        commit: The commit, once it is on the branch; None if nothing changed.
    """

    def __init__(self, before: Snapshot, parent: str, base: str | None) -> None:
        self._before = before
        self._staging = Staging(before, parent)
        self._records: dict[str, Record] = {}
        self._renderer = before.renderer()
        self.parent = parent
        self.base = base
        self.commit: str | None = None

    def create(self, sheet_name: str, record: Record) -> Written:
        """
        Stage a new record.

        Raises:
            RecordExistsError: There is a record at its path.
            InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upsert(sheet_name, record, create_only=True)

    def put(self, sheet_name: str, path: str, record: Record) -> Written:
        """
        Stage *record* to replace the record at *path*; if the fields in its path differ, it moves.

        Raises:
            RecordExistsError: It would move to the path of another record.
            InvalidPathError: There is no record at *path*, and the record's fields make another path.
            InvalidRecordError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upsert(sheet_name, record, replaces=path)

    def upsert(self, sheet_name: str, record: Record) -> Written:
        """
        Stage *record* at the path that its fields make; replaces a record there.

        Raises:
            InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upsert(sheet_name, record)

    def patch(self, sheet_name: str, path: str, patch: Record) -> Written:
        """
        Stage the record at *path* with a JSON merge patch (RFC 7396) applied.

        Raises:
            RecordNotFoundError: There is no such record.
            RecordExistsError, InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError:
                As for ``put``.
        """
        sheet = self._before.sheet(sheet_name)
        before = self._record(sheet, path)
        if before is None:
            raise _no_record(sheet_name, path)
        merged = merge_patch(before, patch, sheet.schema)
        if sheet.body_field in patch:
            merged.setdefault(sheet.body_field, "")  # null empties the body; a record of this sheet has one
        return self._upsert(sheet_name, merged, replaces=path)

    def attach(self, sheet_name: str, path: str, name: str, content: bytes) -> tuple[str, bool]:
        """
        Stage an attachment of the record at *path*; returns its blob's object name, and whether it is new.

        Raises:
            RecordNotFoundError: There is no such record.
            InvalidPathError: The attachment cannot have that name.
        """
        sheet = self._before.sheet(sheet_name)
        if self._staging.version(sheet, path) is None:
            raise _no_record(sheet_name, path)
        if "/" in name or not is_plain(name) or name.endswith(sheet.extension):
            raise InvalidPathError(
                f"An attachment cannot be named {name!r}: the name has no slash, is not reserved by git, "
                f"and does not end in {sheet.extension}."
            )
        place = f"{sheet.directory(path)}/{name}"
        self._staging.require_owner(place, Owner(sheet, path, name))
        stands = self._staging.entry(place)
        if stands is None:
            check_new(place)
        elif stands.kind == "link":
            raise InvalidPathError(f"A symbolic link stands at {place!r}.")
        with translated():
            return self._staging.put(place, content), stands is None

    def detach(self, sheet_name: str, path: str, name: str) -> None:
        """
        Stage the removal of an attachment.

        Raises:
            RecordNotFoundError: There is no such record.
            AttachmentNotFoundError: It has no attachment of that name.
        """
        sheet = self._before.sheet(sheet_name)
        if self._staging.version(sheet, path) is None:
            raise _no_record(sheet_name, path)
        if self.attachment(sheet_name, path, name) is None:
            raise AttachmentNotFoundError(f"The record {path!r} has no attachment {name!r}.")
        self._staging.remove([f"{sheet.directory(path)}/{name}"])

    def delete(self, sheet_name: str, path: str) -> None:
        """
        Stage the removal of the record at *path* and of its attachments.

        Raises:
            RecordNotFoundError, SheetNotFoundError, SheetConfigError: As named.
        """
        sheet = self._before.sheet(sheet_name)
        if self._staging.version(sheet, path) is None:
            raise _no_record(sheet_name, path)
        self._staging.remove([*self._staging.belongings(sheet, path), sheet.file(path)])

    def record_version(self, sheet_name: str, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.
        """
        return self._staging.version(self._before.sheet(sheet_name), path)

    def attachment(self, sheet_name: str, path: str, name: str) -> str | None:
        """
        Return the object name of an attachment's blob with the changes so far, or None.

        Raises:
            SheetNotFoundError: The sheet is not declared.
        """
        sheet = self._before.sheet(sheet_name)
        place = f"{sheet.directory(path)}/{name}"
        if "/" in name or self._staging.owner(place) != Owner(sheet, path, name):
            return None
        found = self._staging.entry(place)
        return found.name if found and found.kind == "blob" else None

    def finish(
        self, message: str, *, author: tuple[str, str], trailers: Sequence[tuple[str, str]]
    ) -> str | None:
        """
        Write the commit and its trees; returns the commit's name, or None if nothing changed.

        Raises:
            InvalidPathError: A file would have the path of another file or directory.
            SigningError: The commit is to be signed, and cannot be.
        """
        objects, tree = self._before.objects, self.tree()
        if tree == tree_of(objects, self.parent):
            return None
        return objects.write_commit(
            tree, (self.parent,), message, author=author, seconds=int(time.time()), trailers=trailers
        )

    def tree(self) -> str:
        """
        Write the trees with the changes so far, as ``Staging.tree`` does; returns the root's object name.
        """
        return self._staging.tree()

    def _upsert(
        self, sheet_name: str, record: Record, *, replaces: str | None = None, create_only: bool = False
    ) -> Written:
        sheet = self._before.sheet(sheet_name)
        replaced = replaces
        if replaces is None and not create_only:
            replaced = self._path(sheet, coerce(record, sheet.schema))
        before = self._replaced(sheet, replaced) if replaced else None
        record = coerce(record, sheet.schema, before)
        _check_storable(sheet, record)
        with translated(sheet_name):
            path, text, record = self._renderer.render(sheet, record, before, stays=replaces)
            created = self._check_place(sheet, path, replaces=replaces, create_only=create_only)
            if before is not None and replaced:
                text = self._with_dates_of(sheet, replaced, text)
            content = text.encode()
            if len(content) > MOST_RECORD_BYTES:
                raise InvalidRecordError(
                    f"The record's file would have {len(content)} bytes; the limit is {MOST_RECORD_BYTES}."
                )
            version = self._staging.put(sheet.file(path), content)
            if moves := replaces is not None and path != replaces:
                self._staging.move(sheet, str(replaces), path)
        self._records[sheet.file(path)] = record
        return Written(path=path, record=record, version=version, created=created and not moves)

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

    def _path(self, sheet: Sheet, record: Record) -> str | None:
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

    def _replaced(self, sheet: Sheet, path: str) -> Record | None:
        """
        Return the fields of the record at *path*; None if there is none or it cannot be read.
        """
        with contextlib.suppress(UnreadableRecordError):
            return self._record(sheet, path)
        return None

    def _record(self, sheet: Sheet, path: str) -> Record | None:
        """
        Return the record at *path* with the changes so far, or None.

        Raises:
            UnreadableRecordError: The file is not a valid record.
        """
        if self._staging.version(sheet, path) is None:
            return None
        staged = self._records.get(sheet.file(path))
        return self._before.record(sheet, path).record if staged is None else staged


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


def _no_record(sheet_name: str, path: str) -> RecordNotFoundError:
    return RecordNotFoundError(f"The sheet {sheet_name!r} has no record {path!r}.")
