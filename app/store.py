"""
Records to git and back: the only writer of the data repository.

gitsheets renders, validates and stages records and writes the objects. It is
safe in one process, flushes nothing to disk, and moves the branch before the
objects are safe; so here one lock is held across all processes, and the branch
is moved by ``move_ref``, which flushes the objects first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gitsheets

from app.errors import (
    AttachmentNotFoundError,
    BusyError,
    DiskFullError,
    InvalidPathError,
    InvalidRecordError,
    PreconditionError,
    RecordExistsError,
    RecordNotFoundError,
    SheetConfigError,
    SheetNotFoundError,
)
from app.group_commit import GroupCommit
from app.kinds import adopt, merge_patch, unstorable
from app.snapshot import Record, Sheet, Snapshot, is_plain
from worker.errors import RepositoryError
from worker.git import Repository
from worker.prepare import branch_draft, write_lock
from worker.refs import RefError, RefLockedError, move_ref

_FULL_BELOW_BYTES = 1024 * 1024  # a commit needs a few blocks; what is left of them says little
_NAME_MAX_BYTES = 255  # what the file systems of a checkout allow for one name


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
        base: A commit before this one that is on the branch for certain; see ``app.group_commit``.
        commit: This one, once it is on the branch; None where nothing changed.
    """

    def __init__(
        self,
        before: Snapshot,
        base: str | None,
        message: str,
        author: tuple[str, str],
        trailers: Sequence[tuple[str, str]],
    ) -> None:
        self._before = before
        self.base = base
        self._open: set[str] = set()
        self._staged: dict[tuple[str, str], str | None] = {}
        self._records: dict[tuple[str, str], Record | None] = {}
        self.commit: str | None = None
        # No branch is named: gitsheets would move it before the objects are on
        # disk. And nothing else may hold the core, see ``close``.
        with _translated(before.git_dir):
            self._core: Any = gitsheets.CoreTransaction.begin(
                before.git_dir,
                message,
                int(time.time()),
                0,
                before.commit,
                None,
                author,
                None,
                list(trailers),
                False,
            )

    def create(self, sheet_name: str, record: Record) -> Written:
        """
        Stage a new record.

        Raises:
            RecordExistsError: One stands at its path.
            InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upsert(sheet_name, record, create_only=True)

    def put(self, sheet_name: str, path: str, record: Record) -> Written:
        """
        Stage *record* in the place of the one at *path*; where the fields in its path differ, it moves there.

        Raises:
            RecordExistsError: It would move to where another one stands.
            InvalidPathError: There is nothing at *path*, and the record's own path is another.
            InvalidRecordError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upsert(sheet_name, record, replaces=path)

    def upsert(self, sheet_name: str, record: Record) -> Written:
        """
        Stage *record* at the path that its fields make, whether or not one stands there.

        Raises:
            InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError: As named.
        """
        return self._upsert(sheet_name, record)

    def patch(self, sheet_name: str, path: str, patch: Record) -> Written:
        """
        Stage the record at *path* with a JSON merge patch (RFC 7396) applied.

        Raises:
            RecordNotFoundError: There is none.
            RecordExistsError, InvalidRecordError, InvalidPathError, SheetNotFoundError, SheetConfigError:
                As for ``put``.
        """
        sheet = self._sheet(sheet_name)
        before = self._record(sheet, path)
        if before is None:
            raise RecordNotFoundError(f"The sheet {sheet_name!r} has no record {path!r}.")
        return self._upsert(sheet_name, merge_patch(before, patch, sheet.schema), replaces=path)

    def attach(self, sheet_name: str, path: str, name: str, content: bytes) -> tuple[str, bool]:
        """
        Stage an attachment of the record at *path*; returns its blob's object name, and whether it is new.

        Raises:
            RecordNotFoundError: There is no such record.
            InvalidPathError: The attachment cannot have that name.
        """
        sheet = self._sheet(sheet_name)
        if self.version(sheet, path) is None:
            raise RecordNotFoundError(f"The sheet {sheet_name!r} has no record {path!r}.")
        if "/" in name or not is_plain(name) or name.endswith(sheet.extension):
            raise InvalidPathError(
                f"An attachment cannot be named {name!r}: no slash, and no ending {sheet.extension}."
            )
        _check_path(f"{path}/{name}", sheet)
        with _translated(self._before.git_dir, sheet_name):
            is_new = self._core.get_attachment(sheet_name, path, name) is None
            blob: str = gitsheets.write_blob(self._before.git_dir, content)
            self._core.set_attachment(sheet_name, path, name, blob)
        return blob, is_new

    def detach(self, sheet_name: str, path: str, name: str) -> None:
        """
        Stage the removal of an attachment.

        Raises:
            AttachmentNotFoundError: There is none of that name.
        """
        self._sheet(sheet_name)
        with _translated(self._before.git_dir, sheet_name):
            if self._core.get_attachment(sheet_name, path, name) is None:
                raise AttachmentNotFoundError(f"The record {path!r} has no attachment {name!r}.")
            self._core.delete_attachment(sheet_name, path, name)

    def delete(self, sheet_name: str, path: str) -> None:
        """
        Stage the removal of the record at *path*.

        Raises:
            RecordNotFoundError, SheetNotFoundError, SheetConfigError: As named.
        """
        sheet = self._sheet(sheet_name)
        if self.version(sheet, path) is None:
            raise RecordNotFoundError(f"The sheet {sheet_name!r} has no record {path!r}.")
        with _translated(self._before.git_dir, sheet_name):
            # One by one: the directory may hold records of another sheet beside them.
            for name in self._attachments(sheet, path):
                self._core.delete_attachment(sheet_name, path, name)
            self._core.delete(sheet_name, path)
        self._stage(sheet_name, path, None, None)

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.
        """
        if (sheet.name, path) in self._staged:
            return self._staged[sheet.name, path]
        return self._before.version(sheet, path)

    def record_version(self, sheet_name: str, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.

        Raises:
            SheetNotFoundError: The sheet is not declared.
        """
        return self.version(self._sheet(sheet_name), path)

    @staticmethod
    def require(version: str | None, what: str, *, one_of: Sequence[str] | None, absent: bool) -> None:
        """
        Check what a conditional request asks for.

        Args:
            version: The version that stands there, or None.
            what: What it is a version of.
            one_of: Versions of which the record must have one; ``*`` is any; None: no matter.
            absent: Whether there must be no record.

        Raises:
            PreconditionError: It is not so.
        """
        if absent and version is not None:
            raise PreconditionError(f"{what} exists already.")
        if one_of is not None and (version is None or not ("*" in one_of or version in one_of)):
            raise PreconditionError(f"{what} is not the version that If-Match names.")

    @property
    def keeps_sheets(self) -> bool:
        """
        Whether no change so far can have touched a sheet's declaration.
        """
        roots = (self._before.sheet(name).root for name in self._open)
        return not any(root in ("", ".") or root.startswith(".gitsheets") for root in roots)

    @property
    def parent(self) -> str | None:
        """
        The commit that the changes are made on.
        """
        return self._before.commit

    def attachment(self, sheet_name: str, path: str, name: str) -> str | None:
        """
        Return the object name of an attachment's blob with the changes so far, or None.
        """
        self._sheet(sheet_name)
        with _translated(self._before.git_dir, sheet_name):
            found = self._core.get_attachment(sheet_name, path, name)
        return None if found is None else str(found)

    def finish(self) -> str | None:
        """
        Write the commit's objects; returns its name, or None where nothing changed.
        """
        try:
            return self._core.finalize()["commit_hash"]  # type: ignore[no-any-return]
        finally:
            self._core = None

    def close(self) -> None:
        """
        Discard what was not finished, and let go of the core in the thread that made it.

        A traceback may keep this object alive until another thread collects it;
        there gitsheets can neither end the transaction nor free its memory.
        """
        if self._core is not None:
            try:
                self._core.discard()
            finally:
                self._core = None

    def _upsert(
        self, sheet_name: str, record: Record, *, replaces: str | None = None, create_only: bool = False
    ) -> Written:
        sheet = self._sheet(sheet_name)
        before = self._record(sheet, replaces) if replaces is not None else None
        record = adopt(record, sheet.schema, before)
        if errors := unstorable(record):
            raise InvalidRecordError("The record holds what TOML cannot.", errors)
        replaced = replaces is not None and self.version(sheet, replaces) is not None
        with _translated(self._before.git_dir, sheet_name):
            candidate = self._core.prepare_upsert(sheet_name, record, replaces if replaced else None)
            path: str = candidate["path"]
            _check_path(path, sheet)
            if replaces is not None and path != replaces and not replaced:
                raise InvalidPathError(
                    f"The record's fields make its path {path!r}, and there is no record at {replaces!r}."
                )
            stays = replaced and path == replaces
            created = not stays and self._standing(sheet, path, record) is None
            if not created and (create_only or replaces not in (None, path)):
                raise RecordExistsError(f"The sheet {sheet_name!r} has a record {path!r} already.")
            version: str = self._core.stage_upsert(sheet_name)["blob_hash"]
        if replaced and replaces is not None and path != replaces:
            self._stage(sheet_name, replaces, None, None)
        self._stage(sheet_name, path, version, candidate["record"])
        return Written(
            path=path, record=candidate["record"], version=version, created=created and not replaced
        )

    def _standing(self, sheet: Sheet, path: str, record: Record) -> str | None:
        """
        Return the version of what *record* would replace at *path*; the core has read that tree already.
        """
        if (sheet.name, path) in self._staged:
            return self._staged[sheet.name, path]
        found: str | None = self._core.will_change(sheet.name, record)["current_blob_hash"]
        return found

    def _attachments(self, sheet: Sheet, path: str) -> list[str]:
        found = self._core.get_attachments(sheet.name, path) or {}
        return [name for name in found if not name.endswith(sheet.extension)]

    def _stage(self, sheet_name: str, path: str, version: str | None, record: Record | None) -> None:
        self._staged[sheet_name, path] = version
        self._records[sheet_name, path] = record

    def _record(self, sheet: Sheet, path: str) -> Record | None:
        """
        Return the record at *path* with the changes so far, or None.
        """
        if (sheet.name, path) in self._records:
            return self._records[sheet.name, path]
        return self._before.record(sheet, path).record if self._before.version(sheet, path) else None

    def _sheet(self, name: str) -> Sheet:
        sheet = self._before.sheet(name)
        if name not in self._open:
            with _translated(self._before.git_dir, name):
                self._core.open_sheet(name, sheet.config_path, ".", "")
            self._open.add(name)
        return sheet


class Store:
    """
    The data repository of one branch, read by anybody and written by one at a time.

    Args:
        repository: The bare repository and its branch.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._draft = branch_draft(repository.path)
        self._writers = GroupCommit(write_lock(repository.path), head=repository.head, land=self._land)
        # Our last commit, with the sheets that it has as the one before had them.
        self._made: tuple[str | None, dict[str, Sheet]] = (None, {})

    def snapshot(self) -> Snapshot:
        """
        Return the repository as it is now.
        """
        return self._at(self._repository.head())

    @contextlib.contextmanager
    def commit(
        self, message: str, *, author: tuple[str, str], trailers: Sequence[tuple[str, str]] = ()
    ) -> Iterator[Transaction]:
        """
        Open a transaction; its changes become one durable commit when the block ends.

        An exception in the block discards everything, and so does a block that
        changes nothing: then the transaction's ``commit`` stays None.

        Args:
            message: The commit's message, without trailers.
            author: Name and e-mail address.
            trailers: Key and value of each trailer.

        Raises:
            BusyError: Another writer kept the lock for half a minute, or a lock of git's is in the way.
            DiskFullError: There is no room; nothing was written.
        """
        with self._writers.turn() as group:
            before = self._at(group.tip)
            if before.commit is None:
                raise SheetNotFoundError(
                    f"The branch {self._repository.branch!r} has no commits, so no sheets."
                )
            transaction = Transaction(before, group.base, message, author, trailers)
            try:
                yield transaction
                with _translated(before.git_dir):
                    commit = transaction.finish()
            finally:
                transaction.close()
            if commit is not None:
                self._made = (commit, before.sheets if transaction.keeps_sheets else {})
                group.tip = commit
        transaction.commit = commit

    def _at(self, commit: str | None) -> Snapshot:
        made, sheets = self._made
        return Snapshot(self._repository.path, commit, sheets if commit == made else None)

    def _land(self, commit: str, parent: str | None) -> None:
        """
        Put *commit* on the branch, so that no crash can take it off again.
        """
        with _translated(str(self._repository.path)):
            move_ref(self._repository.path, self._repository.ref, new=commit, old=parent, draft=self._draft)
        if self._repository.head() != commit:
            raise RepositoryError(f"{self._repository.ref} moved away from {commit} under the write lock")


@contextlib.contextmanager
def _translated(git_dir: str, sheet_name: str = "") -> Iterator[None]:
    """
    Turn what gitsheets, git's locks and the disk raise into the store's own errors.
    """
    try:
        yield
    except gitsheets.ValidationError as exc:
        errors = [{"field": _field(issue), "message": issue["message"]} for issue in exc.issues]
        raise InvalidRecordError(
            f"The record breaks the schema of the sheet {sheet_name!r}.", errors
        ) from exc
    except gitsheets.PathTemplateError as exc:
        raise InvalidPathError(str(exc)) from exc
    except gitsheets.ConfigError as exc:
        raise SheetConfigError(f"The sheet {sheet_name!r} cannot be used: {exc}") from exc
    except (OverflowError, ValueError, TypeError) as exc:  # ValueError: bad Unicode, null in an array
        raise InvalidRecordError(f"The record holds what TOML cannot: {exc}") from exc
    except RefLockedError as exc:
        raise BusyError(str(exc)) from exc
    except (gitsheets.GitsheetsError, RefError, OSError) as exc:
        raise _failure(exc, git_dir) from exc


def _failure(exc: Exception, git_dir: str) -> DiskFullError | RepositoryError:
    # gitsheets says that it could not write, and not why.
    full = isinstance(exc, gitsheets.GitsheetsError) and _free_bytes(git_dir) < _FULL_BELOW_BYTES
    if full or getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("The data repository's disk is full; nothing was written.")
    return RepositoryError(str(exc))


def _free_bytes(path: str) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize if disk.f_favail else 0


def _field(issue: Mapping[str, Any]) -> str:
    named = list(map(str, issue["path"]))
    if issue.get("code") == "required":
        # The message begins with the missing property, in quotes.
        named.append(issue["message"].split('"')[1])
    return ".".join(named)


def _check_path(path: str, sheet: Sheet) -> None:
    if not is_plain(path):
        raise InvalidPathError(
            f"The record's path would be {path!r}: each part needs a name, and '.' and '..' are none."
        )
    longest = max(path.split("/"), key=lambda name: len(name.encode()))
    if len(longest.encode()) + len(sheet.extension) > _NAME_MAX_BYTES:
        raise InvalidPathError(f"A part of the record's path is longer than {_NAME_MAX_BYTES} bytes.")
