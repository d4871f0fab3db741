"""
A commit's tree with staged changes: the entry at each path once they are committed, and its owner.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from ferry.app.errors import InvalidPathError
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.names import check_new
from ferry.app.store.snapshot import DECLARATIONS, Snapshot, owns
from ferry.app.store.territory import Owner
from ferry.app.store.trees import Entry, PathTakenError, changed, differing
from ferry.worker.git.objects import name_of
from ferry.worker.git.trees import tree_of


class Staging:
    """
    Changes to the tree of one commit, by path.

    Args:
        before: The repository as that commit has it.
        parent: That commit.
    """

    def __init__(self, before: Snapshot, parent: str) -> None:
        self._before = before
        self._parent = parent
        self._changes: dict[str, Entry | None] = {}
        self._below: dict[str, list[str]] = {}  # the places of the changes, by each directory above them

    def entry(self, place: str) -> Entry | None:
        """
        Return the entry at *place* with the changes so far, or None.
        """
        return self._changes[place] if place in self._changes else self._before.entry(place)

    def stands(self, place: str) -> bool:
        """
        Whether there is a file at *place* with the changes so far.
        """
        found = self.entry(place)
        return found is not None and found.is_file

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path* with the changes so far, or None.
        """
        if not owns(self._before.territory, sheet, path):
            return None
        found = self.entry(sheet.file(path))
        return found.name if found and found.is_file else None

    def put(self, place: str, content: bytes) -> str:
        """
        Stage a file at *place*; returns the object name of its blob.
        """
        blob, stands = name_of("blob", content), self.entry(place)
        if stands is None or stands.kind != "blob" or blob != stands.name:
            self._note(place, Entry("blob", self._before.objects.write("blob", content)))
        return blob

    def remove(self, places: Iterable[str]) -> None:
        """
        Stage the removal of *places*.
        """
        for place in places:
            self._note(place, None)

    def move(self, sheet: Sheet, old: str, new: str) -> None:
        """
        Stage the move of the attachments of the record *old* to the record *new*; *old*'s file is removed.

        Raises:
            InvalidPathError: An attachment cannot have its new path.
        """
        belongings = self.belongings(sheet, old)
        self.remove([*belongings, sheet.file(old)])
        if belongings:
            check_new(sheet.directory(new))
        for name, entry in belongings.values():
            place = f"{sheet.directory(new)}/{name}"
            self.require_owner(place, Owner(sheet, new, name))
            if self.entry(place) is not None:
                raise InvalidPathError(f"The attachment {name!r} would replace {place!r}.")
            self._note(place, entry)

    def belongings(self, sheet: Sheet, path: str) -> dict[str, tuple[str, Entry]]:
        """
        Return all that is attached to the record at *path* with the changes so far: name and entry, by place.
        """
        found = {}
        for place in self._places_below(sheet.directory(path)):
            owner, entry = self.owner(place), self.entry(place)
            if owner and entry and owner.attachment and (owner.sheet, owner.path) == (sheet, path):
                found[place] = owner.attachment, entry
        return found

    def records_of(self, sheet: Sheet) -> list[str]:
        """
        Return the paths of the records of *sheet* that the changes store or remove.
        """
        owners = [self._before.territory.owner(place, lambda each: False) for place in self._changes]
        return [each.path for each in owners if each and each.sheet is sheet and each.attachment is None]

    def check_new_record(self, sheet: Sheet, path: str) -> None:
        """
        Check that a new record of *sheet* may stand at *path*.

        Raises:
            InvalidPathError: It may not.
        """
        check_new(sheet.directory(path), sheet.extension)
        if (other := sheet.hidden_by(path)) is not None:
            raise InvalidPathError(
                f"{path!r} is the address of the history or the attachments of the record {other!r}."
            )
        # The other sheet would lose these files if the new record became the nearest one above them.
        file = sheet.file(path)
        for place in self._places_below(sheet.directory(path)):
            owner = self.owner(place)
            then = self._before.territory.owner(place, lambda each: each == file or self.stands(each))
            if owner and owner.sheet is not sheet and owner != then:
                raise InvalidPathError(
                    f"{place!r} is attached to the record {owner.path!r} of the sheet {owner.sheet.name!r}."
                )

    def owner(self, place: str) -> Owner | None:
        """
        Return the owner of *place* with the changes so far, or None.
        """
        return self._before.territory.owner(place, self.stands)

    def require_owner(self, place: str, owner: Owner) -> None:
        """
        Check that *place* belongs to *owner*.

        Raises:
            InvalidPathError: It belongs to another record or to no sheet.
        """
        found = self.owner(place)
        if found == owner:
            return
        if found is None:
            raise InvalidPathError(
                f"{place!r} is not a path of the sheet {owner.sheet.name!r}: its template "
                f"{owner.sheet.path!r} does not make it, or the file there belongs to no sheet."
            )
        what = "" if found.attachment is None else f"the attachment {found.attachment!r} of "
        raise InvalidPathError(
            f"{place!r} is {what}the record {found.path!r} of the sheet {found.sheet.name!r}."
        )

    def take(self, other: Staging) -> bool:
        """
        Take over the changes of *other* if they mean the same here; returns whether.

        They do if nothing that they touch has changed between the commits that the two were begun on: neither
        the files nor what lies below a record of the same path, nor a declaration.
        """
        trees = [each._before.entry("") for each in (self, other)]
        old, new = (each.name if each else None for each in trees)
        touched = {part for place in other._changes for part in (place, posixpath.splitext(place)[0])}
        for place in differing(self._before.objects, old, new):
            parts = place.split("/")
            on_the_way = {"/".join(parts[:end]) for end in range(1, len(parts) + 1)}
            if DECLARATIONS in on_the_way or not touched.isdisjoint(on_the_way):
                return False
        self._changes, self._below = other._changes, other._below
        return True

    def changed(self) -> Iterator[tuple[str, Entry | None, Entry | None]]:
        """
        Yield each place whose entry the changes replace, in order, with the entries before and after them.
        """
        for place, after in sorted(self._changes.items()):
            before = self._before.entry(place)
            if before != after:
                yield place, before, after

    def tree(self) -> str:
        """
        Write the trees with the changes so far; returns the object name of the root.

        Raises:
            InvalidPathError: A file would have the path of another file or directory.
        """
        objects = self._before.objects
        changes = {self._before.from_top(place): entry for place, entry in self._changes.items()}
        try:
            return changed(objects, tree_of(objects, self._parent), changes) or objects.write("tree", b"")
        except PathTakenError as exc:
            raise InvalidPathError(f"The change cannot be stored: {exc}.") from exc

    def _places_below(self, directory: str) -> set[str]:
        stood = {place for place, _ in self._before.leaves(directory)}
        return stood.union(self._below.get(directory, ()))

    def _note(self, place: str, entry: Entry | None) -> None:
        if place not in self._changes:
            above = place.rpartition("/")[0]
            while above:
                self._below.setdefault(above, []).append(place)
                above = above.rpartition("/")[0]
        self._changes[place] = entry
