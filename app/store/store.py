"""
Records to git and back: the only writer of the data repository.

gitsheets validates records and renders them. Its own transactions are safe in one
process only, flush nothing to disk, and move the branch before the objects are
safe; so here one lock is held across all processes, the objects are written by
``ferry.app.store.trees``, and the branch is moved by ``move_ref``, which flushes them first.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gitsheets

from ferry.app.errors import (
    AttachmentNotFoundError,
    BusyError,
    DiskFullError,
    InvalidPathError,
    InvalidRecordError,
    RecordExistsError,
    RecordNotFoundError,
    SheetNotFoundError,
    UnreadableRecordError,
)
from ferry.app.records import markdown
from ferry.app.records.codec import MOST_RECORD_BYTES, Record
from ferry.app.records.date_literals import keep_dates
from ferry.app.records.toml_types import coerce, merge_patch, narrowed, unstorable
from ferry.app.sheets.declarations import unusable
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.group_commit import GroupCommit
from ferry.app.store.names import check_new, is_plain
from ferry.app.store.objects import name_of, write, write_commit
from ferry.app.store.snapshot import Snapshot, owns
from ferry.app.store.territory import Owner
from ferry.app.store.trees import Entry, PathTakenError, changed, tree_of
from ferry.worker.errors import RepositoryError
from ferry.worker.git.objects import read
from ferry.worker.git.prepare import write_lock
from ferry.worker.git.refs import RefError, RefLockedError, RefMovedError, move_ref
from ferry.worker.git.repository import Repository


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
        base: A commit before this one that is on the branch for certain; see ``group_commit``.
        commit: This one, once it is on the branch; None where nothing changed.
    """

    def __init__(self, before: Snapshot, parent: str, base: str | None) -> None:
        self._before = before
        self._changes: dict[str, Entry | None] = {}
        self._records: dict[str, Record] = {}
        self._renderer = before.renderer()
        self.parent = parent
        self.base = base
        self.commit: str | None = None

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
        sheet = self._before.sheet(sheet_name)
        before = self._record(sheet, path)
        if before is None:
            raise _no_record(sheet_name, path)
        merged = merge_patch(before, patch, sheet.schema)
        if sheet.body_field in patch:
            merged.setdefault(sheet.body_field, "")  # null empties a body; a record of its sheet has one
        return self._upsert(sheet_name, merged, replaces=path)

    def attach(self, sheet_name: str, path: str, name: str, content: bytes) -> tuple[str, bool]:
        """
        Stage an attachment of the record at *path*; returns its blob's object name, and whether it is new.

        Raises:
            RecordNotFoundError: There is no such record.
            InvalidPathError: The attachment cannot have that name.
        """
        sheet = self._before.sheet(sheet_name)
        if self.version(sheet, path) is None:
            raise _no_record(sheet_name, path)
        if "/" in name or not is_plain(name) or name.endswith(sheet.extension):
            raise InvalidPathError(
                f"An attachment cannot be named {name!r}: it is one name without a slash, none of "
                f"git's own, and does not end in {sheet.extension}."
            )
        place = f"{sheet.directory(path)}/{name}"
        self._require_owner(place, Owner(sheet, path, name))
        stands = self._entry(place)
        if stands is None:
            check_new(place)
        elif stands.kind == "link":
            raise InvalidPathError(f"A symbolic link stands at {place!r}.")
        with _translated():
            blob = write(self._before.git_dir, "blob", content)
        self._changes[place] = Entry("blob", blob)
        return blob, stands is None

    def detach(self, sheet_name: str, path: str, name: str) -> None:
        """
        Stage the removal of an attachment.

        Raises:
            RecordNotFoundError: There is no such record.
            AttachmentNotFoundError: It has none of that name.
        """
        sheet = self._before.sheet(sheet_name)
        if self.version(sheet, path) is None:
            raise _no_record(sheet_name, path)
        if self.attachment(sheet_name, path, name) is None:
            raise AttachmentNotFoundError(f"The record {path!r} has no attachment {name!r}.")
        self._changes[f"{sheet.directory(path)}/{name}"] = None

    def delete(self, sheet_name: str, path: str) -> None:
        """
        Stage the removal of the record at *path*, with all that is attached to it.

        Raises:
            RecordNotFoundError, SheetNotFoundError, SheetConfigError: As named.
        """
        sheet = self._before.sheet(sheet_name)
        if self.version(sheet, path) is None:
            raise _no_record(sheet_name, path)
        self._changes |= dict.fromkeys([*self._belongings(sheet, path), sheet.file(path)])

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.
        """
        if not owns(self._before.territory, sheet, path):
            return None
        found = self._entry(sheet.file(path))
        return found.name if found and found.is_file else None

    def record_version(self, sheet_name: str, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.

        Raises:
            SheetNotFoundError: The sheet is not declared.
        """
        return self.version(self._before.sheet(sheet_name), path)

    def attachment(self, sheet_name: str, path: str, name: str) -> str | None:
        """
        Return the object name of an attachment's blob with the changes so far, or None.

        Raises:
            SheetNotFoundError: The sheet is not declared.
        """
        sheet = self._before.sheet(sheet_name)
        place = f"{sheet.directory(path)}/{name}"
        if "/" in name or self._owner(place) != Owner(sheet, path, name):
            return None
        found = self._entry(place)
        return found.name if found and found.kind == "blob" else None

    def finish(
        self, message: str, *, author: tuple[str, str], trailers: Sequence[tuple[str, str]]
    ) -> str | None:
        """
        Write the commit's trees and the commit; returns its name, or None where nothing changed.

        Raises:
            InvalidPathError: A file would stand where another stands already.
        """
        git_dir, tree = self._before.git_dir, self.tree()
        if tree == tree_of(git_dir, self.parent):
            return None
        return write_commit(
            git_dir, tree, self.parent, message, author=author, seconds=int(time.time()), trailers=trailers
        )

    def tree(self) -> str:
        """
        Write the trees with the changes so far; returns the object name of the uppermost.

        Raises:
            InvalidPathError: A file would stand where another stands already.
        """
        git_dir = self._before.git_dir
        changes = {self._before.from_top(place): entry for place, entry in self._changes.items()}
        try:
            return changed(git_dir, tree_of(git_dir, self.parent), changes) or write(git_dir, "tree", b"")
        except PathTakenError as exc:
            raise InvalidPathError(f"The change cannot be stored: {exc}.") from exc

    def _upsert(
        self, sheet_name: str, record: Record, *, replaces: str | None = None, create_only: bool = False
    ) -> Written:
        sheet = self._before.sheet(sheet_name)
        replaced = replaces
        if replaces is None and not create_only:
            replaced = self._path(sheet, coerce(record, sheet.schema))
        before = self._replaced(sheet, replaced) if replaced else None
        record = coerce(record, sheet.schema, before)
        if errors := unstorable(record):
            raise InvalidRecordError("The record holds what TOML cannot.", errors)
        if sheet.body_field and not isinstance(record.get(sheet.body_field), str):
            errors = [{"field": sheet.body_field, "message": "a string is required: the record's body"}]
            raise InvalidRecordError(f"The record has no body in {sheet.body_field!r}.", errors)
        with _translated(sheet_name):
            path, text, record = self._renderer.render(sheet, record, before, stays=replaces)
            moves = replaces is not None and path != replaces
            if moves and self.version(sheet, str(replaces)) is None:
                raise InvalidPathError(
                    f"The record's fields make its path {path!r}, and there is no record at {replaces!r}."
                )
            self._require_owner(sheet.file(path), Owner(sheet, path))
            created = self.version(sheet, path) is None
            if not created and (create_only or moves):
                raise RecordExistsError(f"The sheet {sheet_name!r} has a record {path!r} already.")
            if created:
                self._check_new_record(sheet, path)
            if before is not None and replaced:
                text = self._with_dates_of(sheet, replaced, text)
            content = text.encode()
            if len(content) > MOST_RECORD_BYTES:
                raise InvalidRecordError(
                    f"The record's file would have {len(content)} bytes, and may have {MOST_RECORD_BYTES}."
                )
            version = self._stage(sheet.file(path), content)
            if moves:
                self._move(sheet, str(replaces), path)
        self._records[sheet.file(path)] = record
        return Written(path=path, record=record, version=version, created=created and not moves)

    def _path(self, sheet: Sheet, record: Record) -> str | None:
        """
        Return the path that the fields of *record* make; None where the write will say why they do not.
        """
        with contextlib.suppress(gitsheets.GitsheetsError, OverflowError, TypeError, ValueError):
            return self._renderer.path(sheet, narrowed(record))
        return None

    def _with_dates_of(self, sheet: Sheet, replaced: str, text: str) -> str:
        """
        Return *text* with the dates of the record at *replaced* as they are written there.
        """
        version = str(self.version(sheet, replaced))
        old = read(self._before.git_dir, version, most=MOST_RECORD_BYTES).decode("utf-8", "replace")
        if not sheet.body_field:
            return keep_dates(old, text)
        front, _ = markdown.split(text)
        return text.replace(front, keep_dates(markdown.split(old)[0], front), 1)

    def _replaced(self, sheet: Sheet, path: str) -> Record | None:
        """
        Return the fields that a new record at *path* takes the place of; None where none can be read.
        """
        try:
            return self._record(sheet, path)
        except UnreadableRecordError:
            return None

    def _check_new_record(self, sheet: Sheet, path: str) -> None:
        check_new(sheet.directory(path), sheet.extension)
        if (other := sheet.hidden_by(path)) is not None:
            raise InvalidPathError(
                f"{path!r} is where this API has the history or the attachments of a record {other!r}."
            )
        # Where the record would be the nearest one above these files, the other sheet would lose them.
        file = sheet.file(path)
        for place in self._places_below(sheet.directory(path)):
            owner = self._owner(place)
            then = self._before.territory.owner(place, lambda each: each == file or self._stands(each))
            if owner and owner.sheet is not sheet and owner != then:
                raise InvalidPathError(
                    f"{place!r} is attached to the record {owner.path!r} of the sheet {owner.sheet.name!r}."
                )

    def _move(self, sheet: Sheet, old: str, new: str) -> None:
        belongings = self._belongings(sheet, old)
        self._changes |= dict.fromkeys([*belongings, sheet.file(old)])
        if belongings:
            check_new(sheet.directory(new))
        for name, entry in belongings.values():
            place = f"{sheet.directory(new)}/{name}"
            self._require_owner(place, Owner(sheet, new, name))
            if self._entry(place) is not None:
                raise InvalidPathError(f"The attachment {name!r} would take the place of {place!r}.")
            self._changes[place] = entry

    def _belongings(self, sheet: Sheet, path: str) -> dict[str, tuple[str, Entry]]:
        """
        Return all that is attached to the record at *path* with the changes so far: name and entry, by place.
        """
        found = {}
        for place in self._places_below(sheet.directory(path)):
            owner, entry = self._owner(place), self._entry(place)
            if owner and entry and owner.attachment and (owner.sheet, owner.path) == (sheet, path):
                found[place] = owner.attachment, entry
        return found

    def _places_below(self, directory: str) -> set[str]:
        stood = {place for place, _ in self._before.leaves(directory)}
        return stood | {place for place in self._changes if place.startswith(f"{directory}/")}

    def _owner(self, place: str) -> Owner | None:
        return self._before.territory.owner(place, self._stands)

    def _require_owner(self, place: str, owner: Owner) -> None:
        found = self._owner(place)
        if found == owner:
            return
        if found is None:
            raise InvalidPathError(
                f"{place!r} is no path of the sheet {owner.sheet.name!r}: its template {owner.sheet.path!r} "
                "does not make it, or what stands there belongs to no sheet."
            )
        what = "" if found.attachment is None else f"the attachment {found.attachment!r} of "
        raise InvalidPathError(
            f"{place!r} is {what}the record {found.path!r} of the sheet {found.sheet.name!r}."
        )

    def _record(self, sheet: Sheet, path: str) -> Record | None:
        """
        Return the record at *path* with the changes so far, or None.

        Raises:
            UnreadableRecordError: The file is no record.
        """
        if self.version(sheet, path) is None:
            return None
        staged = self._records.get(sheet.file(path))
        return self._before.record(sheet, path).record if staged is None else staged

    def _stands(self, place: str) -> bool:
        found = self._entry(place)
        return found is not None and found.is_file

    def _entry(self, place: str) -> Entry | None:
        return self._changes[place] if place in self._changes else self._before.entry(place)

    def _stage(self, place: str, content: bytes) -> str:
        blob, stands = name_of("blob", content), self._entry(place)
        if stands is None or stands.kind != "blob" or blob != stands.name:
            self._changes[place] = Entry("blob", write(self._before.git_dir, "blob", content))
        return blob


class Store:
    """
    The data repository of one branch, read by anybody and written by one at a time.

    Args:
        repository: The bare repository and its branch.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._writers = GroupCommit(write_lock(repository.path), head=repository.head, land=self._land)

    def snapshot(self, evaluations: Evaluations | None = None) -> Snapshot:
        """
        Return the repository as it is now.

        Args:
            evaluations: What is known of what runs apart; default: nothing.
        """
        return self._at(self._repository.head(), evaluations)

    @contextlib.contextmanager
    def commit(
        self,
        message: str,
        *,
        author: tuple[str, str],
        trailers: Sequence[tuple[str, str]] = (),
        evaluations: Evaluations | None = None,
    ) -> Iterator[Transaction]:
        """
        Open a transaction; its changes become one durable commit when the block ends.

        An exception in the block discards everything, and so does a block that
        changes nothing: then the transaction's ``commit`` stays None.

        Args:
            message: The commit's message, without trailers.
            author: Name and e-mail address.
            trailers: Key and value of each trailer.
            evaluations: What is known of what runs apart; default: it is looked for under the lock.

        Raises:
            NotEvaluatedError: *evaluations* lacks something; see ``rehearsal``.
            BusyError: Another writer kept the lock for half a minute, or a lock of git's is in the way.
            DiskFullError: There is no room; nothing was written.
        """
        with self._writers.turn() as group:
            before = self._at(group.tip, evaluations)
            if before.commit is None:
                raise self._nothing()
            transaction = Transaction(before, before.commit, group.base)
            yield transaction
            with _translated():
                commit = transaction.finish(message, author=author, trailers=trailers)
            if commit is not None:
                group.tip = commit
        transaction.commit = commit

    def _at(self, commit: str | None, evaluations: Evaluations | None = None) -> Snapshot:
        return Snapshot.of(self._repository, commit, evaluations)

    @contextlib.contextmanager
    def repeat(self, commit: str) -> Iterator[Transaction]:
        """
        Open a transaction on what *commit* was made on, to find out what it did; nothing is committed.

        Raises:
            RepositoryError: The commit cannot be read.
        """
        (made,) = self._repository.log(commit, limit=1)
        parent = made.parents[0]
        yield Transaction(self._at(parent), parent, parent)

    @contextlib.contextmanager
    def rehearsal(self, evaluations: Evaluations) -> Iterator[Transaction]:
        """
        Open a transaction on the branch as it is, without the write lock; nothing is committed.

        What its records ask for is evaluated apart, and *evaluations* holds it afterwards.
        """
        head = self._repository.head()
        if head is None:
            raise self._nothing()
        with evaluations.looked_for():
            yield Transaction(self._at(head, evaluations), head, head)

    def _nothing(self) -> SheetNotFoundError:
        return SheetNotFoundError(f"The branch {self._repository.branch!r} has no commits, so no sheets.")

    def _land(self, commit: str, parent: str | None) -> None:
        """
        Put *commit* on the branch, so that no crash can take it off again.

        Raises:
            BusyError: Another program has moved the branch, or keeps it locked.
        """
        repository = self._repository
        with _translated():
            try:
                move_ref(repository.path, repository.ref, new=commit, old=parent)
            except RefMovedError:
                if repository.contains(commit, repository.head()):
                    return  # a thread of ours moved it, and was ended before it could say so
                raise
            try:
                head = repository.head()
            except RepositoryError:
                return  # the move is on the disk, whatever keeps the branch from being read now
        if not repository.contains(commit, head):  # or others have gone on from it already
            raise BusyError(f"Another program has moved {repository.ref} away from the commit {commit}.")


def _no_record(sheet_name: str, path: str) -> RecordNotFoundError:
    return RecordNotFoundError(f"The sheet {sheet_name!r} has no record {path!r}.")


@contextlib.contextmanager
def _translated(sheet_name: str = "") -> Iterator[None]:
    """
    Turn what gitsheets, git's locks and the disk raise into the store's own errors.
    """
    try:
        yield
    except gitsheets.ValidationError as exc:
        errors = [{"field": _field(issue), "message": issue["message"]} for issue in exc.issues or ()]
        raise InvalidRecordError(
            f"The record breaks the schema of the sheet {sheet_name!r}.", errors
        ) from exc
    except gitsheets.PathTemplateError as exc:
        raise InvalidPathError(str(exc)) from exc
    except (gitsheets.ConfigError, gitsheets.ContractError) as exc:
        raise unusable(sheet_name, exc) from exc
    except (OverflowError, ValueError, TypeError) as exc:  # ValueError: bad Unicode, null in an array
        raise InvalidRecordError(f"The record holds what TOML cannot: {exc}") from exc
    except (RefLockedError, RefMovedError) as exc:
        raise BusyError(str(exc)) from exc
    except (gitsheets.GitsheetsError, RefError, OSError) as exc:
        if getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError("The data repository's disk is full; nothing was written.") from exc
        raise RepositoryError(str(exc)) from exc


def _field(issue: Mapping[str, Any]) -> str:
    named = list(map(str, issue["path"]))
    if issue.get("code") == "required":
        # The message begins with the missing property, in quotes.
        named.append(issue["message"].split('"')[1])
    return ".".join(named)
