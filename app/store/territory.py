"""
Which sheet, if any, owns a path of the tree. Only this module decides that.

A path belongs to at most one sheet. No request to another sheet reads, lists, changes or removes it:

1. ``.gitsheets`` belongs to no sheet, at any depth and in any spelling.
2. A file below a sheet's root belongs to no sheet with a root further up. A sheet's root itself, and the
   directories above it, are not files of any sheet.
3. Among sheets that share a root, a file is a record of the sheet that has its extension and whose template
   can make its path. If several can, the sheet whose template has more literal text wins, then one without
   ``**``, then the first by name.
4. Every other file belongs to the nearest record above it: to ``a/b`` before ``a``. If records of several
   sheets have that path, the same order decides.

A declaration that cannot be used still keeps its root from the other sheets.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from ferry.app.errors import SheetConfigError, SheetNotFoundError
from ferry.app.sheets.declarations import unusable
from ferry.app.sheets.sheet import MOST_DECLARATION_BYTES, Sheet, parse_sheet, root_of_broken
from ferry.app.store.names import folded, is_declarations, is_plain
from ferry.app.store.trees import lines
from ferry.worker.git.loose import ObjectTooLargeError
from ferry.worker.git.objects import Objects

OVERLAP_HINT = "each path belongs to one of them: see docs/explanation/whose-a-path-is.md"
_KEPT_BYTES = 8 << 20  # of cached declarations; parsed they take about twenty times as much
_EMPTY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """
    The owner of a path.

    Attributes:
        sheet: The sheet.
        path: The record, by its path within the sheet.
        attachment: The attachment's name, which may hold slashes; None for the record's own file.
    """

    sheet: Sheet
    path: str
    attachment: str | None = None


class Territory:
    """
    The sheets that one tree declares, and the paths that each of them owns.

    Args:
        sheets: Every declared sheet by name, or the error in its declaration.
        broken_roots: Roots of the sheets that cannot be used.
        size: Bytes of the declarations.
    """

    def __init__(
        self,
        sheets: Mapping[str, Sheet | SheetConfigError],
        broken_roots: Sequence[str] = (),
        size: int = 0,
    ) -> None:
        self.size = size + _EMPTY_BYTES
        self._sheets = dict(sorted(sheets.items()))
        self._at: dict[tuple[str, ...], list[Sheet]] = {_folded(root): [] for root in broken_roots}
        for sheet in self.usable():
            self._at.setdefault(_folded(sheet.root), []).append(sheet)
        for sharing in self._at.values():
            sharing.sort(key=lambda sheet: (-sheet.template.literals, sheet.template.is_recursive))
        self._last: tuple[tuple[str, ...], Domain | None] | None = None  # most look-ups are in one directory
        self._above = {root[:depth] for root in self._at for depth in range(len(root))}

    def names(self) -> list[str]:
        """
        Return the names of the declared sheets, sorted.
        """
        return list(self._sheets)

    def usable(self) -> list[Sheet]:
        """
        Return the sheets whose declaration can be used, by name.
        """
        return [sheet for sheet in self._sheets.values() if isinstance(sheet, Sheet)]

    def declared(self, name: str) -> Sheet | None:
        """
        Return the sheet *name*, or None if its declaration cannot be used.
        """
        found = self._sheets.get(name)
        return found if isinstance(found, Sheet) else None

    def sheet(self, name: str) -> Sheet:
        """
        Return the sheet *name*.

        Raises:
            SheetNotFoundError: It is not declared.
            SheetConfigError: Its declaration cannot be used.
        """
        found = self._sheets.get(name)
        if found is None:
            raise SheetNotFoundError(f"There is no sheet {name!r}.")
        if isinstance(found, SheetConfigError):
            raise SheetConfigError(str(found)) from found
        return found

    def overlaps(self) -> dict[str, list[str]]:
        """
        Return, for each sheet, the other sheets whose templates can reach the same paths.
        """
        sheets = self.usable()
        found = {sheet.name: [other.name for other in sheets if _meet(sheet, other)] for sheet in sheets}
        return {name: others for name, others in found.items() if others}

    def owner(self, place: str, stands: Callable[[str], bool]) -> Owner | None:
        """
        Return the owner of *place*, a path from the root of the tree, or None.

        Args:
            stands: Whether there is a file at a path; decides which record a file is attached to.
        """
        *above, name = place.split("/")
        domain = self._domain(tuple(above)) if is_plain(place) else None
        if domain is None or is_declarations(name):
            return None
        key = _key([*above, name])
        if key in self._above or key in self._at:
            return None
        made = domain.made(name)
        return Owner(*made) if made else domain.holder(name, stands)

    def _domain(self, directory: tuple[str, ...]) -> Domain | None:
        last = self._last
        if last is None or last[0] != directory:
            self._last = last = directory, self.domain(directory)
        return last[1]

    def domain(self, directory: Sequence[str]) -> Domain | None:
        """
        Return the domain of the files directly in *directory*, given in components, or None.
        """
        key = _key(directory)
        if any(is_declarations(part) for part in directory):
            return None
        depth = next((depth for depth in range(len(key), -1, -1) if key[:depth] in self._at), None)
        if depth is None:
            return None
        # A root in another spelling is another directory to git, but the same directory to some file systems.
        root = "/".join(directory[:depth]) or "."
        sheets = [sheet for sheet in self._at[key[:depth]] if sheet.root == root]
        return Domain(sheets, tuple(directory[depth:])) if sheets else None


class Domain:
    """
    A directory, and the sheets whose root is this directory or contains it.

    Args:
        sheets: The sheets; the first of them that can own a file owns it.
        below: The directory, in components from their root.
    """

    def __init__(self, sheets: Sequence[Sheet], below: tuple[str, ...]) -> None:
        self.sheets = sheets
        self.below = below
        self._prefix = "".join(f"{part}/" for part in below)
        names = ((sheet, sheet.template.names_below(below)) for sheet in sheets)
        self._makers = [(sheet, sheet.extension, pattern) for sheet, pattern in names if pattern]

    def made(self, name: str) -> tuple[Sheet, str] | None:
        """
        Return the sheet and the path of the record in the file *name*, or None.
        """
        for sheet, extension, pattern in self._makers:
            if name.endswith(extension):
                stem = name[: -len(extension)]
                # Names in a tree may begin with a dot only if they are plain.
                if stem and pattern.fullmatch(stem) and (stem[0] != "." or is_plain(stem)):
                    return sheet, self._prefix + stem
        return None

    def paths(self, sheet: Sheet, names: Sequence[str]) -> list[str | None]:
        """
        Return the path of the record of *sheet* in each of the files *names*, or None: as ``made`` says, in a
        third of the time.
        """
        if [maker for maker, _, _ in self._makers] != [sheet]:
            return [self._path(sheet, name) for name in names]
        [(_, extension, pattern)] = self._makers
        prefix, cut, matches = self._prefix, -len(extension), pattern.fullmatch
        return [
            self._path(sheet, name)
            if name[0] == "."
            else prefix + stem
            if name.endswith(extension) and matches(stem := name[:cut])
            else None
            for name in names
        ]

    def _path(self, sheet: Sheet, name: str) -> str | None:
        made = self.made(name)
        return made[1] if made and made[0] is sheet else None

    def holder(self, name: str, stands: Callable[[str], bool]) -> Owner | None:
        """
        Return the record that the file *name* is attached to, or None.
        """
        for depth in range(len(self.below), 0, -1):
            path = "/".join(self.below[:depth])
            for sheet in self.sheets:
                if sheet.template.makes(self.below[:depth]) and stands(sheet.file(path)):
                    return Owner(sheet, path, "/".join((*self.below[depth:], name)))
        return None


def _meet(sheet: Sheet, other: Sheet) -> bool:
    """
    Whether records or attachments of *sheet* could have the paths of those of *other*.
    """
    mine, theirs = _folded(sheet.root), _folded(other.root)
    if sheet is other or theirs[: len(mine)] != mine:
        return False
    if mine == theirs:
        return sheet.template.meets(other.template)
    return sheet.template.reaches(other.root.split("/")[len(mine) :])


def territory_of(objects: Objects, declarations: str | None) -> Territory:
    """
    Return the territory of the tree *declarations*, a commit's ``.gitsheets``.

    Raises:
        gitsheets.GitsheetsError: An object is missing or damaged.
    """
    key = (objects.git_dir, declarations)
    with _lock:
        found = _known.get(key)
    if found is None:
        found = _read(objects, declarations)
        # Two threads may have read it; caches by identity need both to get the same object.
        with _lock, contextlib.suppress(ValueError):  # it is larger than the cache
            found = _known.setdefault(key, found)
    return found


def _read(objects: Objects, declarations: str | None) -> Territory:
    sheets: dict[str, Sheet | SheetConfigError] = {}
    broken: list[str] = []
    size = 0
    for name, is_text, blob in _declared(objects, declarations):
        content = b""
        try:
            content = objects.kept(blob, most=MOST_DECLARATION_BYTES)
            if not is_text:
                raise unusable(name, f".gitsheets/{name}.toml: its name is not UTF-8")
            sheets[name] = parse_sheet(name, content)
        except ObjectTooLargeError as exc:
            sheets[name] = SheetConfigError(f"The sheet {name!r} cannot be used: {exc}.")
        except SheetConfigError as exc:
            sheets[name] = exc
            root = root_of_broken(content)
            broken += [root] if root else []
        size += len(content)
    return Territory(sheets, broken, size)


def _declared(objects: Objects, declarations: str | None) -> Iterator[tuple[str, bool, str]]:
    if declarations is None:
        return
    for line in lines(objects.kept(declarations)):
        name = line.text.removesuffix(".toml")
        if line.entry.kind == "blob" and name and name != line.text:
            yield name, line.is_text, line.entry.name


def _folded(root: str) -> tuple[str, ...]:
    return () if root == "." else _key(root.split("/"))


def _key(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(folded(part) for part in parts)


_known: LRUCache[tuple[str, str | None], Territory] = LRUCache(
    _KEPT_BYTES, getsizeof=lambda territory: territory.size
)
_lock = threading.Lock()
