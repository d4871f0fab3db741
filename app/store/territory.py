"""
Which sheet, if any, owns a path of the tree: the one place where that is decided.

A path belongs to at most one sheet, and no request through another sheet reads,
lists, changes or removes what stands there:

1. ``.gitsheets`` belongs to no sheet, at any depth and in any spelling.
2. What stands below a sheet's root belongs to no sheet with a root further up.
   A sheet's root itself, and the directories above it, are no file of any sheet.
3. Among the sheets that share a root, a file is a record of the one with its
   extension whose template can make its path. Where several can, it is the one whose
   template gives more of the path itself, then one without ``**``, then by name.
4. Every other file belongs to the nearest record above it: to ``a/b`` before ``a``.
   Where records of several sheets have that path, the same order decides.

A declaration that cannot be used keeps its root from the others all the same.
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
from ferry.app.store.objects import kept
from ferry.app.store.trees import lines
from ferry.worker.git.objects import ObjectTooLargeError

OVERLAP_HINT = "each path belongs to one of them: see docs/explanation/whose-a-path-is.md"
_KEPT_BYTES = 8 << 20  # of declarations that are kept; parsed they take some twenty times as much
_EMPTY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """
    To whom a path belongs.

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
    The sheets that one tree declares, and what each of them owns.

    Args:
        sheets: Every declared sheet by name, or what is wrong with its declaration.
        broken_roots: Roots of those that cannot be used.
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
        Return the sheet *name*; None where its declaration cannot be read.
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
        Return for each sheet the others that own some of what its own template reaches, or own it in turn.
        """
        sheets = self.usable()
        found = {sheet.name: [other.name for other in sheets if _meet(sheet, other)] for sheet in sheets}
        return {name: others for name, others in found.items() if others}

    def owner(self, place: str, stands: Callable[[str], bool]) -> Owner | None:
        """
        Return to whom *place* belongs, a path from the top of the tree; None where it is nobody's.

        Args:
            stands: Whether there is a file at a path, which decides to which record a file is attached.
        """
        *above, name = place.split("/")
        domain = self.domain(above) if is_plain(place) else None
        if domain is None or is_declarations(name):
            return None
        key = _key([*above, name])
        if key in self._above or key in self._at:
            return None
        made = domain.made(name)
        return Owner(*made) if made else domain.holder(name, stands)

    def domain(self, directory: Sequence[str]) -> Domain | None:
        """
        Return what the files right in *directory*, given in parts, may belong to; None for nobody.
        """
        key = _key(directory)
        if any(is_declarations(part) for part in directory):
            return None
        depth = next((depth for depth in range(len(key), -1, -1) if key[:depth] in self._at), None)
        if depth is None:
            return None
        # A root in another spelling is another directory to git, and the same one to some file systems.
        root = "/".join(directory[:depth]) or "."
        sheets = [sheet for sheet in self._at[key[:depth]] if sheet.root == root]
        return Domain(sheets, tuple(directory[depth:])) if sheets else None


class Domain:
    """
    A directory and the sheets whose root it is, or stands below.

    Args:
        sheets: The sheets, the first before the others where several could own a file.
        below: The directory, in parts from their root.
    """

    def __init__(self, sheets: Sequence[Sheet], below: tuple[str, ...]) -> None:
        self.sheets = sheets
        self.below = below
        self._prefix = "".join(f"{part}/" for part in below)
        names = ((sheet, sheet.template.names_below(below)) for sheet in sheets)
        self._makers = [(sheet, sheet.extension, pattern) for sheet, pattern in names if pattern]

    def made(self, name: str) -> tuple[Sheet, str] | None:
        """
        Return which sheet's record the file *name* in the directory is, and the record's path.
        """
        for sheet, extension, pattern in self._makers:  # each file of a list comes here
            if name.endswith(extension):
                stem = name[: -len(extension)]
                # Of what stands in a tree, only names like these are none to us.
                if stem and pattern.fullmatch(stem) and (stem[0] != "." or is_plain(stem)):
                    return sheet, self._prefix + stem
        return None

    def holder(self, name: str, stands: Callable[[str], bool]) -> Owner | None:
        """
        Return to which record the file *name* in the directory is attached.
        """
        for depth in range(len(self.below), 0, -1):
            path = "/".join(self.below[:depth])
            for sheet in self.sheets:
                if sheet.template.makes(self.below[:depth]) and stands(sheet.file(path)):
                    return Owner(sheet, path, "/".join((*self.below[depth:], name)))
        return None


def _meet(sheet: Sheet, other: Sheet) -> bool:
    """
    Whether records of *sheet*, or what is attached to them, could stand where those of *other* do.
    """
    mine, theirs = _folded(sheet.root), _folded(other.root)
    if sheet is other or theirs[: len(mine)] != mine:
        return False
    if mine == theirs:
        return sheet.template.meets(other.template)
    return sheet.template.reaches(other.root.split("/")[len(mine) :])


def territory_of(git_dir: str, declarations: str | None) -> Territory:
    """
    Return the territory that the tree *declarations*, a commit's ``.gitsheets``, divides.

    Raises:
        gitsheets.GitsheetsError: An object is missing or damaged.
    """
    key = (git_dir, declarations)
    with _lock:
        found = _known.get(key)
    if found is None:
        found = _read(git_dir, declarations)
        # Two threads may have read it; what is kept about one is not kept about the other.
        with _lock, contextlib.suppress(ValueError):  # it is larger than all that may be kept
            found = _known.setdefault(key, found)
    return found


def _read(git_dir: str, declarations: str | None) -> Territory:
    sheets: dict[str, Sheet | SheetConfigError] = {}
    broken: list[str] = []
    size = 0
    for name, is_text, blob in _declared(git_dir, declarations):
        content = b""
        try:
            content = kept(git_dir, blob, most=MOST_DECLARATION_BYTES)
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


def _declared(git_dir: str, declarations: str | None) -> Iterator[tuple[str, bool, str]]:
    if declarations is None:
        return
    for line in lines(kept(git_dir, declarations)):
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
