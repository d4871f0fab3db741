"""
One transaction: records of sheets to files of a tree, checked and staged until they become a commit.

gitsheets validates and renders each record; ``staging`` knows the entry at each path with the changes so far.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ferry.app.errors import (
    AttachmentNotFoundError,
    InvalidPathError,
    RecordNotFoundError,
)
from ferry.app.records.codec import Record
from ferry.app.records.toml_types import coerce, merge_patch
from ferry.app.store.changes import ChangedFile, status_of
from ferry.app.store.limit import Limit
from ferry.app.store.listing import Listing
from ferry.app.store.names import check_new, is_plain
from ferry.app.store.rules import Check
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.staged import Staged
from ferry.app.store.staging import Staging
from ferry.app.store.territory import Owner
from ferry.app.store.translation import translated
from ferry.app.store.upserts import Upserts, Written
from ferry.worker.git.objects import Objects
from ferry.worker.git.trees import tree_of


class Transaction:
    """
    Changes that become one commit, or none.

    Usable in the thread that opened it, until its block ends.

    Args:
        listing: Reads whole sheets, for extensions.
        check: The rules that apply to each change; None: there are none.
        holds_turn: Whether other writers wait until the block ends.

    Attributes:
        parent: The commit that the changes are made on.
        base: An earlier commit that is certainly on the branch; see ``group_commit``.
        commit: The commit, once it is on the branch; None if nothing changed.
        staged: The records with the changes so far.
    """

    def __init__(
        self,
        before: Snapshot,
        parent: str,
        base: str | None,
        *,
        listing: Listing,
        check: Check | None = None,
        holds_turn: bool = False,
    ) -> None:
        self._before = before
        self._staging = Staging(before, parent)
        self._check = check or Check(None, Limit())
        self.holds_turn = holds_turn
        self.parent = parent
        self.base = base
        self.commit: str | None = None
        self.staged = Staged(before, self._staging, listing, {})
        self._upserts = Upserts(before, self._staging, self.staged, self._check)

    def create(self, sheet_name: str, record: Record) -> Written:
        """
        Stage a new record.

        Raises:
            RecordExistsError: There is a record at its path.
            InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upserts.stage(sheet_name, record, create_only=True)

    def put(self, sheet_name: str, path: str, record: Record) -> Written:
        """
        Stage *record* to replace the record at *path*; if the fields in its path differ, it moves.

        Raises:
            RecordExistsError: It would move to the path of another record.
            InvalidPathError: There is no record at *path*, and the record's fields make another path.
            InvalidRecordError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upserts.stage(sheet_name, record, replaces=path)

    def upsert(self, sheet_name: str, record: Record) -> Written:
        """
        Stage *record* at the path that its fields make; replaces a record there.

        Raises:
            InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upserts.stage(sheet_name, record)

    def bring(self, sheet_name: str, record: Record, *, create_only: bool) -> Written:
        """
        Stage *record* as ``create`` or ``upsert`` does; one that has its fields already keeps its file.

        Raises:
            RecordExistsError, InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As
                named.
        """
        return self._upserts.stage(sheet_name, record, create_only=create_only, keeps_same=True)

    def expect(self, sheet_name: str, records: Sequence[Record]) -> None:
        """
        Prepare to stage *records*, which come next; only for speed.

        Raises:
            SheetNotFoundError, SheetConfigError: As named.
        """
        self._upserts.expect(sheet_name, records)

    def adopt(self, other: Transaction) -> bool:
        """
        Take over the changes of *other* if they mean the same on this transaction's parent; returns whether.

        *other* may have read any record for a rule, so with rules the parent must be the same.
        """
        if self.parent != other.parent and self._check.has_rules:
            return False
        return self._staging.take(other._staging)

    @property
    def objects(self) -> Objects:
        """
        The objects with which the changes are staged.
        """
        return self._before.objects

    def patch(self, sheet_name: str, path: str, patch: Record) -> Written:
        """
        Stage the record at *path* with a JSON merge patch (RFC 7396) applied.

        Raises:
            RecordNotFoundError: There is no such record.
            RecordExistsError, InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError:
                As for ``put``.
        """
        sheet = self._before.sheet(sheet_name)
        before = self.staged.find(sheet, path)
        if before is None:
            raise _no_record(sheet_name, path)
        merged = merge_patch(before, patch, sheet.schema)
        if sheet.body_field in patch:
            merged.setdefault(sheet.body_field, "")  # null empties the body, which is required
        return self._upserts.stage(sheet_name, merged, replaces=path, operation="patch")

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
        self._check.attached(self.staged, sheet, path, "attach", name)
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
        self._check.attached(self.staged, sheet, path, "detach", name)
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
        self._check.gone(self.staged, sheet, path)
        self._staging.remove([*self._staging.belongings(sheet, path), sheet.file(path)])

    def path_of(self, sheet_name: str, record: Record) -> str | None:
        """
        Return the path that the fields of *record* make, or None.
        """
        sheet = self._before.sheet(sheet_name)
        return self._upserts.path(sheet, coerce(record, sheet.schema))

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

    def changed_files(self) -> Iterator[ChangedFile]:
        """
        Yield the files that the changes add, change or remove.
        """
        for place, before, after in self._staging.changed():
            stood = self._before.territory.owner(place, self._before.stands)
            yield ChangedFile(
                file=self._before.from_top(place),
                status=status_of(before, after),
                owner=self._staging.owner(place) or stood,
                difference=None,
            )

    def tree(self) -> str:
        """
        Write the trees with the changes so far, as ``Staging.tree`` does; returns the root's object name.
        """
        return self._staging.tree()


def _no_record(sheet_name: str, path: str) -> RecordNotFoundError:
    return RecordNotFoundError(f"The sheet {sheet_name!r} has no record {path!r}.")
