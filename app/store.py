"""
Records to git and back: the only writer of the data repository.

gitsheets renders, validates and stages records and writes the objects. It is
safe in one process, flushes nothing to disk, and moves the branch before the
objects are safe; so here one lock is held across all processes, the objects are
flushed, and only then the branch is moved, by compare and swap.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gitsheets

from worker.errors import RepositoryError
from worker.git import Repository
from worker.locks import LockTimeoutError
from worker.prepare import branch_draft, write_lock
from worker.refs import RefError, RefLockedError, flush, move_ref

Record = dict[str, Any]

_WRITE_LOCK_TIMEOUT_S = 30.0
_FULL_BELOW_BYTES = 1024 * 1024  # a commit needs a few blocks; what is left of them says little
_NAME_MAX_BYTES = 255  # what the file systems of a checkout allow for one name


class StoreError(Exception):
    """
    A read or write that the store refuses.

    Attributes:
        code: Stable name, part of the HTTP contract.
        hint: What the caller does next.
    """

    code = "store-error"
    hint = ""


class SheetNotFoundError(StoreError):
    """
    No ``.gitsheets/NAME.toml`` declares such a sheet.
    """

    code = "sheet-not-found"
    hint = "GET /api/sheets lists the sheets."


class RecordNotFoundError(StoreError):
    """
    The sheet holds no record at that path.
    """

    code = "record-not-found"
    hint = "GET /api/sheets/{sheet}/records lists the records."


class CommitNotFoundError(StoreError):
    """
    The branch has no such commit.
    """

    code = "commit-not-found"
    hint = "GET /api/commits lists the branch's commits; give the full hash."


class RecordExistsError(StoreError):
    """
    A record stands at the path that a new one would have.
    """

    code = "record-exists"
    hint = "PUT replaces a record; to create another one change the fields that make its path."


class PreconditionError(StoreError):
    """
    The record is not in the state that ``If-Match`` or ``If-None-Match`` names.
    """

    code = "precondition-failed"
    hint = "GET the record again and repeat the change on what it is now."


class InvalidPathError(StoreError):
    """
    A record's fields render to a path that cannot be stored safely.
    """

    code = "path-invalid"
    hint = "Change the fields that the sheet's path template names."


class InvalidRecordError(StoreError):
    """
    A record breaks its sheet's schema, or holds what TOML cannot.

    Attributes:
        errors: One ``{"field", "message"}`` for each offence.
    """

    code = "validation-failed"
    hint = "Correct the fields in `errors`; GET /api/sheets/{sheet} shows the schema."

    def __init__(self, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = list(errors)


class SheetConfigError(StoreError):
    """
    A sheet's declaration cannot be used.
    """

    code = "sheet-misconfigured"
    hint = "Correct .gitsheets/NAME.toml in the data repository."


class UnreadableRecordError(StoreError):
    """
    A file of the sheet is not what a record of it is.
    """

    code = "record-unreadable"
    hint = "Correct the file in the data repository, with git."


class BusyError(StoreError):
    """
    Another writer kept the repository for too long.
    """

    code = "repository-busy"
    hint = "Repeat the request."


class DiskFullError(StoreError):
    """
    The repository's disk has no room; nothing was written.
    """

    code = "disk-full"
    hint = "Free space on the volume of the data repository, then repeat the request."


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """
    A sheet as ``.gitsheets/NAME.toml`` declares it.

    Attributes:
        name: The sheet's name.
        root: Directory of its records in the tree.
        path: Path template, such as ``${{ slug }}``.
        schema: JSON Schema of a record, or None.
        config: The whole ``[gitsheet]`` table.
    """

    name: str
    root: str
    path: str
    schema: Mapping[str, Any] | None
    config: Mapping[str, Any]

    @property
    def config_path(self) -> str:
        """
        Where the declaration stands in the tree.
        """
        return f".gitsheets/{self.name}.toml"

    @property
    def extension(self) -> str:
        """
        The records' file name extension, with its dot.
        """
        return {"markdown": ".md", "mdx": ".mdx"}.get(self._format.get("type", "toml"), ".toml")

    @property
    def body_field(self) -> str | None:
        """
        The field that holds a markdown record's text; None for TOML records.
        """
        return self._format.get("body") if self.extension != ".toml" else None

    @property
    def title_field(self) -> str | None:
        """
        The field that repeats a markdown record's first heading, if any.
        """
        return self._format.get("title") if self.extension != ".toml" else None

    @property
    def _format(self) -> Mapping[str, Any]:
        return self.config.get("format", {})  # type: ignore[no-any-return]

    def file(self, path: str) -> str:
        """
        Return where the record *path* stands in the tree.
        """
        return (
            f"{self.root}/{path}{self.extension}" if self.root not in ("", ".") else f"{path}{self.extension}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """
    A record where it stands.

    Attributes:
        path: Its path within the sheet, without extension.
        record: Its fields.
        version: Object name of its blob: the same bytes, the same version.
    """

    path: str
    record: Record
    version: str


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


class Snapshot:
    """
    The repository as one commit has it; what is read here never changes.

    Args:
        git_dir: The bare repository.
        commit: Full object name, or None for a branch without commits.
    """

    def __init__(self, git_dir: Path, commit: str | None) -> None:
        self.git_dir = str(git_dir)
        self.commit = commit

    def sheet_names(self) -> list[str]:
        """
        Return the names of the declared sheets, sorted.
        """
        return gitsheets.core_discover_sheets(self.git_dir, self.commit, ".") if self.commit else []

    def sheet(self, name: str) -> Sheet:
        """
        Return the sheet *name*.

        Raises:
            SheetNotFoundError: It is not declared.
            SheetConfigError: Its declaration cannot be used.
        """
        blob = None
        if self.commit and _is_plain(name) and "/" not in name:
            blob = gitsheets.tree_read_blob(self.git_dir, self.commit, f".gitsheets/{name}.toml")
        if blob is None:
            raise SheetNotFoundError(f"There is no sheet {name!r}.")
        return _parse_sheet(name, blob["content"])

    def record(self, sheet: Sheet, path: str) -> StoredRecord:
        """
        Return the record at *path*.

        Raises:
            RecordNotFoundError: There is none.
            UnreadableRecordError: The file is no record.
        """
        version = self.version(sheet, path)
        found = self._query(sheet, path) if version else []
        if not version or not found:
            raise RecordNotFoundError(f"The sheet {sheet.name!r} has no record {path!r}.")
        return StoredRecord(path=path, record=found[0]["record"], version=version)

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path*, or None where there is none.
        """
        if not self.commit or not _is_plain(path):
            return None
        found = gitsheets.tree_entry_hash(self.git_dir, self.commit, sheet.file(path))
        return None if found is None else str(found)

    def records(self, sheet: Sheet) -> list[tuple[str, Record]]:
        """
        Return path and fields of every record, sorted by path.

        Raises:
            UnreadableRecordError: One of the files is no record.
        """
        found = self._query(sheet, sheet.path) if self.commit else []
        return [(row["path"], row["record"]) for row in found]

    def _query(self, sheet: Sheet, template: str) -> list[dict[str, Any]]:
        try:
            return gitsheets.record_query(  # type: ignore[no-any-return]
                self.git_dir,
                self.commit,
                sheet.root,
                template,
                {},
                sheet.extension,
                sheet.body_field,
                sheet.title_field,
            )
        except gitsheets.ConfigError as exc:
            raise UnreadableRecordError(
                f"A record of the sheet {sheet.name!r} cannot be read: {exc}"
            ) from exc


class Transaction:
    """
    Changes that become one commit, or none.

    Usable in the thread that opened it, until its block ends.
    """

    def __init__(
        self, before: Snapshot, message: str, author: tuple[str, str], trailers: Sequence[tuple[str, str]]
    ) -> None:
        self._before = before
        self._open: set[str] = set()
        self._staged: dict[tuple[str, str], str | None] = {}
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
            self._core.delete(sheet_name, path)
        self._staged[sheet_name, path] = None

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.
        """
        if (sheet.name, path) in self._staged:
            return self._staged[sheet.name, path]
        return self._before.version(sheet, path)

    def require(self, sheet_name: str, path: str, *, one_of: Sequence[str] | None, absent: bool) -> None:
        """
        Check what a conditional request asks for.

        Args:
            one_of: Versions of which the record must have one; ``*`` is any; None: no matter.
            absent: Whether there must be no record.

        Raises:
            PreconditionError: It is not so.
        """
        version = self.version(self._sheet(sheet_name), path)
        if absent and version is not None:
            raise PreconditionError(f"The record {path!r} exists already.")
        if one_of is not None and (version is None or not ("*" in one_of or version in one_of)):
            raise PreconditionError(f"The record {path!r} is not the version that If-Match names.")

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
        replaced = replaces is not None and self.version(sheet, replaces) is not None
        with _translated(self._before.git_dir, sheet_name):
            candidate = self._core.prepare_upsert(sheet_name, record, replaces if replaced else None)
            path: str = candidate["path"]
            _check_path(path, sheet)
            if replaces is not None and path != replaces and not replaced:
                raise InvalidPathError(
                    f"The record's fields make its path {path!r}, and there is no record at {replaces!r}."
                )
            created = self.version(sheet, path) is None
            if not created and (create_only or path != replaces):
                raise RecordExistsError(f"The sheet {sheet_name!r} has a record {path!r} already.")
            version: str = self._core.stage_upsert(sheet_name)["blob_hash"]
        if replaced and replaces is not None and path != replaces:
            self._staged[sheet_name, replaces] = None
        self._staged[sheet_name, path] = version
        return Written(
            path=path, record=candidate["record"], version=version, created=created and not replaced
        )

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
        self._lock = write_lock(repository.path)
        self._draft = branch_draft(repository.path)

    def snapshot(self) -> Snapshot:
        """
        Return the repository as it is now.
        """
        return Snapshot(self._repository.path, self._repository.head())

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
        with self._locked():
            before = self.snapshot()
            if before.commit is None:
                raise SheetNotFoundError(
                    f"The branch {self._repository.branch!r} has no commits, so no sheets."
                )
            transaction = Transaction(before, message, author, trailers)
            try:
                yield transaction
                with _translated(before.git_dir):
                    commit = transaction.finish()
                    if commit is not None:
                        self._land(commit, before.commit)
                transaction.commit = commit
            finally:
                transaction.close()

    def _land(self, commit: str, parent: str) -> None:
        """
        Put *commit* on the branch, so that no crash can take it off again.
        """
        flush(self._repository.path)
        move_ref(self._repository.path, self._repository.ref, new=commit, old=parent, draft=self._draft)
        if self._repository.head() != commit:
            raise RepositoryError(f"{self._repository.ref} moved away from {commit} under the write lock")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock.hold(_WRITE_LOCK_TIMEOUT_S):
                yield
        except LockTimeoutError as exc:
            raise BusyError(str(exc)) from exc


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
    if not _is_plain(path):
        raise InvalidPathError(
            f"The record's path would be {path!r}: each part needs a name, and '.' and '..' are none."
        )
    longest = max(path.split("/"), key=lambda name: len(name.encode()))
    if len(longest.encode()) + len(sheet.extension) > _NAME_MAX_BYTES:
        raise InvalidPathError(f"A part of the record's path is longer than {_NAME_MAX_BYTES} bytes.")


def _is_plain(path: str) -> bool:
    """
    Whether *path* names something below where it starts, and nothing else.
    """
    return (
        all(part not in ("", ".", "..") for part in path.split("/"))
        and path.isprintable()
        and "${{" not in path
        and not any(part.lower() == ".git" for part in path.split("/"))
    )


@lru_cache(maxsize=1024)
def _parse_sheet(name: str, content: bytes) -> Sheet:
    try:
        config = tomllib.loads(content.decode("utf-8"))["gitsheet"]
        path = config["path"]
        if not isinstance(path, str) or not isinstance(config.get("root", "."), str):
            raise TypeError("path and root are strings")
    except (ValueError, KeyError, TypeError) as exc:
        raise SheetConfigError(f"The sheet {name!r} cannot be used: .gitsheets/{name}.toml: {exc!r}") from exc
    return Sheet(
        name=name, root=config.get("root", "."), path=path, schema=config.get("schema"), config=config
    )
