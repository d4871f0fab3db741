"""
A merge as the rules for writes see it: each record or attachment that it changes here is one write.

Before is our tip, after the merged tree. What a rule reads is the merged tree, with what rules have stored
before: a duplicate that only the merge makes is found there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import gitsheets

from ferry.worker.git import inventory
from ferry.worker.git.repository import Repository
from ferry.worker.git.trees import blobs_changed, with_files_of
from ferry.worker.hosting.sheets import Owner, Sheet, Sheets, parsed, record_in
from ferry.worker.process.apart import Pool
from ferry.worker.records import markdown
from ferry.worker.records.date_literals import keep_dates
from ferry.writes import Caller, Record, Refused, Write

_AT_ONCE = 1000  # blobs in memory
_NOTHING = object()
_CHANGE = {(False, True): "create", (True, True): "put", (True, False): "delete"}
Fields = dict[str, Any]
_renderers = Pool(children=1, nice=0)


@dataclass(slots=True, kw_only=True)
class Pending:
    """
    One write of a merge.

    Attributes:
        owner: The record, and the attachment if it is one.
        operation: As ``ferry.Write`` has it.
        before: The record at our tip; None where there is none, or it cannot be read.
        after: The record as the merge will store it; None if it removes it.
    """

    owner: Owner
    operation: str
    before: Record | None
    after: Record | None

    def __str__(self) -> str:
        return f"{self.owner.sheet.name}/{self.owner.path}"

    def write(self, caller: Caller, reader: MergedRecords) -> Write:
        """
        Return it for one rule, which may change what it holds.
        """
        path = self.owner.path
        return Write(
            caller=caller,
            extension=None,
            sheet=self.owner.sheet.name,
            path=path,
            operation=self.operation,
            before=None if self.before is None else Record(path, self.before),
            after=None if self.after is None else Record(path, self.after),
            attachment=self.owner.attachment,
            is_merge=True,
            reader=reader,
        )


class MergedRecords:
    """
    The records of a merge. It is also the ``Reader`` that rules get.

    Args:
        repository: The data repository.
        ours: Our tip.
        tree: The merged tree.
    """

    def __init__(self, repository: Repository, ours: str, tree: str) -> None:
        self._repository = repository
        self._git_dir = str(repository.path)
        self._ours, self._tree = ours, tree
        self._sheets = Sheets(repository, tree)
        self._before = Sheets(repository, ours)
        self._texts: dict[str, str] = {}  # of the records that rules have stored, by their files
        self._listed = lru_cache(maxsize=None)(self._read_all)
        self._indexed = lru_cache(maxsize=None)(self._index_of)

    def pending(self) -> Iterator[Pending]:
        """
        Yield the writes, by the paths of their files.

        A record that cannot be read is none: the API shows it as unreadable, and asks the rules when it is
        put right. With a record that the merge removes go its attachments.
        """
        for file, (old, new) in blobs_changed(self._repository, self._ours, self._tree):
            if old == new:  # of a link, or its mode
                continue
            if owner := self._sheets.owner(file) or self._before.owner(file):
                before, after = (self._readable(owner, blob) for blob in (old, new))
                if new is None or after is not None:
                    operation = _CHANGE[old is not None, new is not None]
                    yield Pending(owner=owner, operation=operation, before=before, after=after)
            elif owner := self._sheets.holder(file, self._stands):
                record = self._readable(owner, self._files.get(self._sheets.file(owner.sheet, owner.path)))
                operation = "attach" if new else "detach"
                yield Pending(owner=owner, operation=operation, before=record, after=record)

    def store(self, pending: Pending, fields: dict[str, Any]) -> Record:
        """
        Let the merge store *fields* instead; returns the record as it will be read.

        Raises:
            ValueError: They make another path.
            gitsheets.GitsheetsError, OverflowError, TypeError, OverrunError: They are no valid record.
        """
        sheet, path = pending.owner.sheet, pending.owner.path
        declared = self._sheets.declaration(sheet)
        arguments = declared, self._text(declared), self._repository.root, sheet.name, fields
        made, text = _renderers.call(_rendered, self._git_dir, self._ours, *arguments)
        if made != path:
            raise ValueError(f"it would move the record to {made!r}")
        file = self._sheets.file(sheet, path)
        self._texts[file] = _with_dates_of(self._text(file), text, sheet)
        self._listed.cache_clear()
        self._indexed.cache_clear()
        return parsed(text.encode(), path, sheet.body_field)

    def tree(self) -> str:
        """
        Return the merged tree with what the rules have stored.

        Raises:
            RepositoryError: git failed.
            OSError: The disk refused.
        """
        if not self._texts:
            return self._tree
        return with_files_of(self._repository, self._tree, self._tree, paths=(), texts=self._texts)

    def read(self, sheet: str, path: str) -> Record:
        """
        Return the record at *path*, for a rule.

        Raises:
            Refused: There is no such sheet or record, or the record cannot be read.
        """
        found = self._sheet(sheet)
        if not self._is_record(found, path):
            raise Refused(f"The sheet {sheet!r} has no record {path!r}.", code="record-not-found", status=404)
        try:
            return parsed(self._text(self._sheets.file(found, path)).encode(), path, found.body_field)
        except ValueError as exc:
            said = f"The record {path!r} of the sheet {sheet!r} cannot be read: {exc}"
            raise Refused(said, code="record-unreadable", status=500) from exc

    def exists(self, sheet: str, path: str) -> bool:
        """
        Whether there is a record at *path*, for a rule.
        """
        return self._is_record(self._sheet(sheet), path)

    def records(self, sheet: str, /, **filters: Any) -> list[Record]:
        """
        Return the readable records whose fields equal *filters*, sorted by path, for a rule.
        """
        found = self._sheet(sheet)
        key = next((name for name, value in filters.items() if isinstance(value, Hashable)), None)
        some = self._listed(found) if key is None else self._indexed(found, key).get(filters[key], ())
        return [
            Record(path, fields)
            for path, fields in some
            if all(fields.get(name, _NOTHING) == value for name, value in filters.items())
        ]

    def declarations(self) -> dict[str, dict[str, Any]]:
        """
        Return the declaration of each usable sheet by its name, for a rule.
        """
        return {sheet.name: dict(sheet.config) for sheet in self._sheets.usable()}

    def _sheet(self, name: str) -> Sheet:
        if (found := self._sheets.named(name)) is None:
            raise Refused(f"There is no sheet {name!r}.", code="sheet-not-found", status=404)
        return found

    def _is_record(self, sheet: Sheet, path: str) -> bool:
        file = self._sheets.file(sheet, path)
        return self._sheets.owner(file) == Owner(sheet, path) and self._stands(file)

    def _stands(self, file: str) -> bool:
        return file in self._files

    def _text(self, file: str) -> str:
        """
        Return the content of a file of the merged tree, as rules have stored it.
        """
        stored = self._texts.get(file)
        if stored is not None or (blob := self._files.get(file)) is None:
            return stored or ""
        return self._repository.objects.read(blob).decode("utf-8", "replace")

    def _readable(self, owner: Owner, blob: str | None) -> Record | None:
        try:
            return blob and record_in(self._repository.objects, blob, owner.path, owner.sheet.body_field)  # type: ignore[return-value]
        except ValueError:
            return None

    @cached_property
    def _files(self) -> dict[str, str]:
        """
        The object of each file of the merged tree.
        """
        return inventory.files(self._repository.git, self._tree)

    def _read_all(self, sheet: Sheet) -> list[tuple[str, Fields]]:
        """
        Return path and fields of each readable record, sorted by path.
        """
        below = self._sheets.directory(sheet)
        files = [(file, blob) for file, blob in self._files.items() if file.startswith(below)]
        owned = [(owner, blob) for file, blob in files if (owner := self._sheets.owner(file))]
        records = [(owner.path, blob) for owner, blob in owned if owner.sheet is sheet]
        found = {}
        for start in range(0, len(records), _AT_ONCE):
            some = records[start : start + _AT_ONCE]
            contents = inventory.contents(self._repository.git, [blob for _, blob in some])
            for path, blob in some:
                stored = self._texts.get(self._sheets.file(sheet, path))
                content = contents.get(blob, b"\0") if stored is None else stored.encode()
                with suppress(ValueError):
                    found[path] = parsed(content, path, sheet.body_field)
        return sorted(found.items())

    def _index_of(self, sheet: Sheet, field: str) -> dict[Any, list[tuple[str, Fields]]]:
        """
        Return the records by a field's value. Rules ask for the same field again with each write.
        """
        index: dict[Any, list[tuple[str, Fields]]] = {}
        for path, fields in self._listed(sheet):
            if isinstance(value := fields.get(field), Hashable):
                index.setdefault(value, []).append((path, fields))
        return index


def _with_dates_of(old: str, new: str, sheet: Sheet) -> str:
    """
    Return the text *new* with its dates written as in *old*.
    """
    if sheet.body_field is None:
        return keep_dates(old, new)
    front, _ = markdown.split(new)
    return new.replace(front, keep_dates(markdown.split(old)[0], front), 1)


# --- What follows runs apart ---


def _rendered(
    git_dir: str, commit: str, declared: str, declaration: str, root: str, name: str, record: dict[str, Any]
) -> tuple[str, str]:
    """
    Return the path and the text of a valid record, by a transaction that is never committed.
    """
    core = gitsheets.CoreTransaction.begin(git_dir, "never finished", 0, 0, commit)
    try:
        core.write_file(declared, declaration)
        core.open_sheet(name, declared, root, "")
        candidate = core.prepare_upsert(name, record)
        return candidate["path"], candidate["next_text"]
    finally:
        core.discard()
