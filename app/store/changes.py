"""
What each of several commits changed in one record, and all that one commit changed.

git lists the blobs before and after each commit, and their contents, for many commits at once. Reading a
thousand one by one would hold the interpreter for seconds.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gitsheets

from ferry.app.errors import UnreadableRecordError
from ferry.app.records.json_form import to_json
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.snapshot import Snapshot, fields_at
from ferry.app.store.territory import Owner
from ferry.app.store.trees import Entry, entry_of, find
from ferry.worker.errors import RepositoryError
from ferry.worker.git import inventory
from ferry.worker.git.history import Commit
from ferry.worker.git.repository import Repository

_AT_ONCE = 100  # commits
_BATCH_BYTES = 16 << 20

_Side = tuple[Any, str]  # the record, or why it cannot be read, or neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """
    What a commit changed in a record, in the types that JSON has.

    Attributes:
        before: The record before it; None if there was none, or it cannot be read.
        after: The record after it; likewise.
        fault: Why ``after`` cannot be read; "" if it can.
    """

    before: Any
    after: Any
    fault: str

    def as_json(self) -> dict[str, Any]:
        """
        Return the change in the API's shape: a JSON patch (RFC 6902), or the reason for its absence.
        """
        if self.fault:
            return {"patch": [], "unreadable": self.fault}
        if self.after is None:
            return {"patch": [{"op": "remove", "path": ""}]}
        if self.before is None:
            return {"patch": [{"op": "add", "path": "", "value": self.after}]}
        return {"patch": _patch(self.before, self.after)}


def _patch(before: Any, after: Any) -> list[Any]:
    """
    Return the JSON patch between two records.

    gitsheets compares some numbers by value: 0.0 and -0.0 are equal to it, and 1 and 1.0 in a list. In a file
    they differ. So it compares the digits of fractions here, as texts of which the records hold none.
    """
    mark = uuid.uuid4().hex
    marked = json.loads(json.dumps([before, after]), parse_float=lambda digits: mark + digits)
    found = json.dumps(gitsheets.create_patch(*marked))
    operations: list[Any] = json.loads(re.sub(f'"{mark}([^"]*)"', r"\1", found))
    return operations


def changes(
    repository: Repository, sheet: Sheet, path: str, commits: Sequence[Commit]
) -> Iterator[Difference]:
    """
    Yield each commit's change to the record at *path*.
    """
    place = Snapshot.of(repository, None).from_top(sheet.file(path))
    try:
        known = repository.changes_of(commits, place)
    except RepositoryError:  # an object is damaged; the other commits can be read one by one
        known = {}
    for start in range(0, len(commits), _AT_ONCE):
        chunk = commits[start : start + _AT_ONCE]
        sides = {each.hash: _sides(repository, sheet, path, each, known.get(each.hash)) for each in chunk}
        contents = _contents(repository, [side.name for pair in sides.values() for side in pair if side])
        for each in chunk:
            yield _difference(*(_read(repository, sheet, entry, contents) for entry in sides[each.hash]))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """
    A file that a commit changed.

    Attributes:
        file: Its path from the root of the tree.
        status: ``added``, ``changed`` or ``removed``.
        owner: The record that it is, or is attached to; None for a file of no sheet.
        difference: What changed in the record; None for another file, or if it is not asked for. Of a record
            that moved here, it is the change to what it was before.
        moved: Where a removed file is now, or an added one was before; None if it did not move.
        moved_owner: The owner of that path.
    """

    file: str
    status: str
    owner: Owner | None
    difference: Difference | None
    moved: str | None = None
    moved_owner: Owner | None = None

    def as_json(self) -> dict[str, Any]:
        """
        Return the change in the API's shape.
        """
        found: dict[str, Any] = {"file": self.file, "status": self.status}
        if self.owner:
            found |= {"sheet": self.owner.sheet.name, "path": self.owner.path}
        if self.owner and self.owner.attachment is not None:
            found["attachment"] = self.owner.attachment
        if self.moved is not None:
            found["moved_to" if self.status == "removed" else "moved_from"] = self.moved
        return found | (self.difference.as_json() if self.difference else {})


def changed_files(repository: Repository, commit: Commit, files: Iterable[str]) -> Iterator[ChangedFile]:
    """
    Yield what *commit* changed in *files*, paths from the root of the tree, against its first parent.
    """
    old = Snapshot.of(repository, commit.parents[0] if commit.parents else None)
    new = Snapshot.of(repository, commit.hash)
    came_from = repository.moves_of(commit.hash)
    went_to = {before: after for after, before in came_from.items()}
    for file in files:
        before, after = _entry(old, file), _entry(new, file)
        # git's output has no name that is not UTF-8 as it is: neither side shows it, and no request names it.
        owner = (_owner(new, file) or _owner(old, file)) if before or after else None
        status = status_of(before, after)
        moved, side = (came_from.get(file), old) if after else (went_to.get(file), new)
        moved_owner = _owner(side, moved) if moved else None
        if not _are_alike(owner, moved_owner):
            moved = moved_owner = None
        elif moved and after:
            before = _entry(old, moved)
        difference = None
        if owner and owner.attachment is None:
            difference = _difference(*(_read(repository, owner.sheet, each, {}) for each in (before, after)))
        yield ChangedFile(
            file=file, status=status, owner=owner, difference=difference, moved=moved, moved_owner=moved_owner
        )


def status_of(before: Entry | None, after: Entry | None) -> str:
    """
    Return what happened to a file: ``added``, ``changed`` or ``removed``.
    """
    if before is None:
        return "added" if after else "changed"  # git names a file that neither side can show
    return "changed" if after else "removed"


def _entry(snapshot: Snapshot, file: str) -> Entry | None:
    return find(snapshot.objects, snapshot.commit, file) if snapshot.commit else None


def _are_alike(one: Owner | None, other: Owner | None) -> bool:
    """
    Whether both are records of one sheet, or files attached to them, or files of no sheet.
    """
    kinds = [each and (each.sheet.name, each.attachment is None) for each in (one, other)]
    return kinds[0] == kinds[1]


def _owner(snapshot: Snapshot, file: str) -> Owner | None:
    place = file if snapshot.root == "." else file.removeprefix(f"{snapshot.root}/")
    if snapshot.from_top(place) != file:
        return None  # it stands beside the root of the data
    return snapshot.territory.owner(place, snapshot.stands)


def _difference(before: _Side, after: _Side) -> Difference:
    return Difference(before=before[0], after=after[0], fault=after[1])


def _sides(
    repository: Repository,
    sheet: Sheet,
    path: str,
    commit: Commit,
    known: tuple[tuple[str, str], tuple[str, str]] | None,
) -> tuple[Entry | None, Entry | None]:
    """
    Return the entries before and after *commit*.
    """
    if known is not None:
        return entry_of(*known[0]), entry_of(*known[1])
    parent = commit.parents[0] if commit.parents else None
    before, after = (Snapshot.of(repository, each).entry(sheet.file(path)) for each in (parent, commit.hash))
    return before, after


def _contents(repository: Repository, blobs: Sequence[str]) -> Mapping[str, bytes]:
    """
    Return the contents of the blobs; none if they are too large to be in memory at once.
    """
    names = list(dict.fromkeys(blobs))
    sizes = inventory.sizes(repository.git, names)
    return inventory.contents(repository.git, names) if sum(sizes.values()) <= _BATCH_BYTES else {}


def _read(repository: Repository, sheet: Sheet, entry: Entry | None, contents: Mapping[str, bytes]) -> _Side:
    if entry is None or not entry.is_file:
        return None, ""
    try:
        return to_json(fields_at(repository.objects, entry, sheet, contents.get(entry.name))), ""
    except UnreadableRecordError as exc:
        return None, str(exc)
