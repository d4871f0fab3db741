"""
The repository as one commit has it, which never changes.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ferry.app.errors import RecordNotFoundError, UnreadableRecordError
from ferry.app.records.codec import MOST_RECORD_BYTES, Record, fields_of
from ferry.app.sheets import declarations
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.sheets.renderer import Renderer
from ferry.app.sheets.sheet import MOST_DECLARATION_BYTES, Sheet
from ferry.app.store.names import is_plain
from ferry.app.store.territory import Domain, Owner, Territory, territory_of
from ferry.app.store.trees import Entry, Line, find, leaves, lines, plain_and_others
from ferry.worker.git.loose import ObjectTooLargeError
from ferry.worker.git.objects import Objects
from ferry.worker.git.repository import Repository

DECLARATIONS = ".gitsheets"
_CONTRACTS = f"{DECLARATIONS}/contracts"
_MANY = 100  # entries of a directory, after which it is cheaper to read it once
IS_LINK = "is a symbolic link, not a record"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """
    A stored record.

    Attributes:
        path: Its path within the sheet, without extension.
        record: Its fields.
        version: Object name of its blob: the same bytes, the same version.
    """

    path: str
    record: Record
    version: str


class Found(NamedTuple):
    """
    A record's file, unread.

    Attributes:
        path: The record's path within the sheet.
        name: Object name of its blob.
        is_link: Whether it is a symbolic link.
        is_text: Whether the path is UTF-8, so that a request can name it.
    """

    path: str
    name: str
    is_link: bool = False
    is_text: bool = True


class Snapshot:
    """
    The repository as one commit has it, which never changes.

    Args:
        objects: The repository's objects.
        commit: Full object name, or None for a branch without commits.
        root: Directory in the tree that holds ``.gitsheets`` and the sheets; ``.`` is the root. Every path
            here is relative to it.
        expressions: Whether sheets may be used whose declarations hold code.
        evaluations: Results from child processes, and whether to compute more.
    """

    def __init__(
        self,
        objects: Objects,
        commit: str | None,
        root: str = ".",
        *,
        expressions: bool = True,
        evaluations: Evaluations | None = None,
    ) -> None:
        self.objects = objects
        self.git_dir = objects.git_dir
        self.commit = commit
        self.root = root
        self.evaluations = evaluations or Evaluations()
        self._expressions = expressions
        self._territory: Territory | None = None
        self._entries: dict[str, Entry | None] = {}  # a write reads the same entry several times
        self._sheets: dict[str, Sheet] = {}
        self._asked: Counter[str] = Counter()  # entries, by directory
        self._directories: dict[str, Mapping[str, Entry]] = {}  # those that are asked for many entries

    @classmethod
    def of(
        cls,
        repository: Repository,
        commit: str | None,
        evaluations: Evaluations | None = None,
        *,
        objects: Objects | None = None,
    ) -> Snapshot:
        """
        Return *repository* as *commit* has it.

        Args:
            objects: Its objects, if others are to be read or written with them; default: its own.
        """
        return cls(
            objects or repository.objects,
            commit,
            repository.root,
            expressions=repository.expressions,
            evaluations=evaluations,
        )

    @property
    def territory(self) -> Territory:
        """
        Which sheet owns which path.
        """
        if self._territory is None:
            declared = self.entry(DECLARATIONS)
            is_there = declared is not None and declared.kind == "tree"
            self._territory = territory_of(self.objects, declared.name if declared and is_there else None)
        return self._territory

    def sheet_names(self) -> list[str]:
        """
        Return the names of the declared sheets, sorted.
        """
        return self.territory.names()

    def sheet(self, name: str) -> Sheet:
        """
        Return the sheet *name*.

        Raises:
            SheetNotFoundError: It is not declared.
            SheetConfigError: Its declaration cannot be used.
        """
        if name not in self._sheets:
            self._sheets[name] = self._checked_sheet(name)
        return self._sheets[name]

    def _checked_sheet(self, name: str) -> Sheet:
        found = self.entry(f"{DECLARATIONS}/{name}.toml") if name in self.sheet_names() else None
        if found is None:
            return self.territory.sheet(name)  # raises: it is not declared, or its name is not text
        contracts = self.entry(_CONTRACTS)
        versions = (found.name, contracts and contracts.name)
        try:
            self.objects.kept(found.name, most=MOST_DECLARATION_BYTES)
        except ObjectTooLargeError as exc:
            raise declarations.unusable(name, exc) from exc
        place = self.from_top(f"{DECLARATIONS}/{name}.toml")
        sheet = self.territory.declared(name)
        if sheet and sheet.runs_code and not self._expressions:
            raise declarations.refuse_code(name)
        apart = None if sheet and sheet.is_plain else self.evaluations
        declarations.check(self.git_dir, str(self.commit), name, place, self.root, versions, apart)
        return self.territory.sheet(name)

    def renderer(self) -> Renderer:
        """
        Return the renderer of the sheets' records.
        """
        declared = self.entry(DECLARATIONS)
        name = declared.name if declared else ""
        return Renderer(self.git_dir, str(self.commit), name, self.root, self.evaluations)

    def contracts(self, sheet: Sheet) -> dict[str, Mapping[str, Any]]:
        """
        Return the contracts that *sheet* implements: JSON Schemas by name, beside its own.
        """
        return {
            name: tomllib.loads(
                self.objects.read(found.name, most=MOST_DECLARATION_BYTES).decode("utf-8-sig")
            )
            for name in sheet.config.get("implements", ())
            if (found := self.entry(f"{_CONTRACTS}/{name}.toml"))
        }

    def from_top(self, place: str) -> str:
        """
        Return *place* as a path from the root of the tree.
        """
        return place if self.root == "." else f"{self.root}/{place}".rstrip("/")

    def entry(self, place: str) -> Entry | None:
        """
        Return the entry at *place* in the tree, or None.
        """
        if place not in self._entries:
            directory, _, name = place.rpartition("/")
            self._asked[directory] += 1
            if place and self._asked[directory] > _MANY:
                return self._entries_of(directory).get(name)
            found = find(self.objects, self.commit, self.from_top(place)) if self.commit else None
            self._entries[place] = found
        return self._entries[place]

    def _entries_of(self, directory: str) -> Mapping[str, Entry]:
        if directory not in self._directories:
            found = self.entry(directory)
            tree = self.objects.kept(found.name) if found and found.kind == "tree" else b""
            self._directories[directory] = {line.text: line.entry for line in lines(tree) if line.is_text}
        return self._directories[directory]

    def stands(self, place: str) -> bool:
        """
        Whether there is a file at *place*.
        """
        found = self.entry(place)
        return found is not None and found.is_file

    def record(self, sheet: Sheet, path: str) -> StoredRecord:
        """
        Return the record at *path*.

        Raises:
            RecordNotFoundError: There is no such record.
            UnreadableRecordError: The file is no record.
        """
        entry = self.entry(sheet.file(path)) if self.version(sheet, path) else None
        if entry is None:
            raise RecordNotFoundError(f"The sheet {sheet.name!r} has no record {path!r}.")
        try:
            fields = fields_at(self.objects, entry, sheet)
        except UnreadableRecordError as exc:
            raise UnreadableRecordError(f"The file {sheet.file(path)!r} cannot be read: {exc}") from exc
        return StoredRecord(path=path, record=fields, version=entry.name)

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path*, or None.
        """
        if not owns(self.territory, sheet, path):
            return None
        found = self.entry(sheet.file(path))
        return found.name if found and found.is_file else None

    def attachments(self, sheet: Sheet, path: str) -> dict[str, str]:
        """
        Return the names of a record's attachments, with the object names of their blobs.

        Files in subdirectories, symbolic links and submodules belong to the record too, but are not shown.
        """
        return {
            owner.attachment: line.entry.name
            for place, line in self._lines(sheet.directory(path))
            if line.entry.kind == "blob"
            and (owner := self.territory.owner(place, self.stands)) is not None
            and owner.attachment is not None
            and (owner.sheet, owner.path) == (sheet, path)
        }

    def leaves(self, directory: str) -> Iterator[tuple[str, Entry]]:
        """
        Yield path, from the root, and entry of everything but directories below *directory*; "" is the root.
        """
        found = self.entry(directory)
        if found and found.kind == "tree":
            for place, entry in leaves(self.objects, found.name):
                yield f"{directory}/{place}" if directory else place, entry

    def tree(self, sheet: Sheet) -> str | None:
        """
        Return the object name of the sheet's tree: the same name, the same files.
        """
        found = self.entry("" if sheet.root == "." else sheet.root)
        return found.name if found and found.kind == "tree" else None

    def files(self, sheet: Sheet) -> Iterator[Found]:
        """
        Yield each record's file, in any order.
        """
        tree = self.tree(sheet)
        waiting: list[tuple[tuple[str, ...], str]] = [((), tree)] if tree else []
        while waiting:
            below, name = waiting.pop()
            domain = self.domain(sheet, below)
            if domain is None:
                continue
            names, blobs, others = plain_and_others(self.objects.kept(name))
            paths = domain.paths(sheet, names)
            yield from [
                Found(path, blob) for path, blob in zip(paths, blobs, strict=True) if path is not None
            ]
            for line in others:
                if line.entry.kind == "tree":
                    if sheet.template.leads_below(inner := (*below, line.text)):
                        waiting.append((inner, line.entry.name))
                elif found := found_in(domain, sheet, line):
                    yield found

    def domain(self, sheet: Sheet, below: Sequence[str]) -> Domain | None:
        """
        Return the directory *below* the root of *sheet*; None if it can hold none of the sheet's files.
        """
        root = [] if sheet.root == "." else sheet.root.split("/")
        domain = self.territory.domain([*root, *below])
        return domain if domain and sheet in domain.sheets else None

    def _lines(self, directory: str) -> Iterator[tuple[str, Line]]:
        found = self.entry(directory)
        if found and found.kind == "tree":
            for line in lines(self.objects.kept(found.name)):
                yield f"{directory}/{line.text}", line


def found_in(domain: Domain, sheet: Sheet, line: Line) -> Found | None:
    """
    Return the record of *sheet* that *line* of the directory *domain* is; None if it is none.
    """
    if line.entry.is_file and (made := domain.made(line.text)) and made[0] is sheet:
        return Found(made[1], line.entry.name, line.entry.kind == "link", line.is_text)
    return None


def fields_at(objects: Objects, entry: Entry, sheet: Sheet, content: bytes | None = None) -> Record:
    """
    Return the fields of the record of *sheet* in the file *entry*.

    Args:
        content: The file's content, if it has been read already.

    Raises:
        UnreadableRecordError: The file is not a valid record.
    """
    if entry.kind == "link":
        raise UnreadableRecordError(IS_LINK)
    try:
        if content is None:
            content = objects.read(entry.name, most=MOST_RECORD_BYTES)
    except ObjectTooLargeError as exc:
        raise UnreadableRecordError(str(exc)) from exc
    return fields_of(content, sheet.body_field)


def owns(territory: Territory, sheet: Sheet, path: str) -> bool:
    """
    Whether *path* belongs to a record of *sheet*, whether or not the record exists.
    """
    # Which record a file holds never depends on other files.
    owner = territory.owner(sheet.file(path), lambda place: False) if is_plain(path) else None
    return owner == Owner(sheet, path)
