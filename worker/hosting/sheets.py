"""
As much of the sheets' declarations as says which files are records, and whose.

As docs/explanation/whose-a-path-is.md has it; for requests ``ferry.app.store.territory`` decides.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import gitsheets

from ferry.worker.git.objects import Objects
from ferry.worker.git.repository import Repository
from ferry.worker.records import markdown
from ferry.worker.records.template import Template
from ferry.writes import Record

_LISTED = re.compile(r"100[0-7]{3} blob ([0-9a-f]+)\t(.*)", re.DOTALL)
_DECLARATIONS = ".gitsheets"
_EXTENSIONS = {"markdown": ".md", "mdx": ".mdx"}
_MOST_RECORD_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """
    A sheet.

    Attributes:
        name: Its name.
        root: Directory of its records, below that of all sheets.
        template: What its paths look like; None: its declaration cannot be used, and keeps its root from the
            others.
        extension: The records' file name extension, with its dot.
        body_field: The field that holds a markdown record's text; None for TOML records.
        config: The table ``gitsheet`` of its declaration.
    """

    name: str
    root: str
    template: Template | None
    extension: str = ".toml"
    body_field: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def makes(self, parts: Sequence[str]) -> bool:
        """
        Whether a record may have the path with these components.
        """
        return self.template is not None and self.template.makes(parts)

    def path_of(self, place: str) -> str | None:
        """
        Return the path of the record in the file *place*; None if it is none of the sheet's.
        """
        below = place if self.root == "." else place.removeprefix(f"{self.root}/")
        stem = below.removesuffix(self.extension)
        if stem in (below, "") or stem.endswith("/"):
            return None
        return stem if self.makes(stem.split("/")) else None

    def place(self, path: str) -> str:
        """
        Return where the record *path* stands, without extension: the directory of its attachments.
        """
        return path if self.root == "." else f"{self.root}/{path}"


@dataclass(frozen=True, slots=True)
class Owner:
    """
    Whose a file is.

    Attributes:
        sheet: The sheet.
        path: The record's path.
        attachment: The attachment's name; None for the record's own file.
    """

    sheet: Sheet
    path: str
    attachment: str | None = None


class Sheets:
    """
    The sheets that one commit, or tree, declares.

    Args:
        repository: The data repository.
        tree: The commit or tree.
    """

    def __init__(self, repository: Repository, tree: str) -> None:
        self._top = "" if repository.root == "." else f"{repository.root}/"
        said = repository.git.query("ls-tree", "-z", tree, "--", f"{self._top}{_DECLARATIONS}/")
        found = [listed for each in said.split("\0") if (listed := _LISTED.fullmatch(each))]
        self._all = _declared(
            str(repository.git.path),
            tuple((each[1], posixpath.basename(each[2])) for each in found if each[2].endswith(".toml")),
        )

    def usable(self) -> list[Sheet]:
        """
        Return the sheets whose declaration can be used, by name.
        """
        return sorted((sheet for sheet in self._all if sheet.template), key=lambda sheet: sheet.name)

    def named(self, name: str) -> Sheet | None:
        """
        Return the usable sheet *name*.
        """
        return next((sheet for sheet in self._all if sheet.name == name and sheet.template), None)

    def file(self, sheet: Sheet, path: str) -> str:
        """
        Return the file of the record *path*, from the root of the tree.
        """
        return f"{self._top}{sheet.place(path)}{sheet.extension}"

    def declaration(self, sheet: Sheet) -> str:
        """
        Return the file that declares *sheet*, from the root of the tree.
        """
        return f"{self._top}{_DECLARATIONS}/{sheet.name}.toml"

    def directory(self, sheet: Sheet) -> str:
        """
        Return the directory of the records of *sheet*, with a slash, from the root of the tree; "" for that.
        """
        return self._top if sheet.root == "." else f"{self._top}{sheet.root}/"

    def owner(self, file: str) -> Owner | None:
        """
        Return the record that *file*, a path from the root of the tree, is the file of.
        """
        place, sheets = self._near(file)
        for sheet in sheets:
            if (path := sheet.path_of(place)) is not None:
                return Owner(sheet, path)
        return None

    def holder(self, file: str, stands: Callable[[str], bool]) -> Owner | None:
        """
        Return the record that *file*, which is no record's own, is attached to.

        Args:
            stands: Whether there is a file at a path from the root of the tree.
        """
        place, sheets = self._near(file)
        if not sheets:
            return None
        below = place if sheets[0].root == "." else place.removeprefix(f"{sheets[0].root}/")
        *above, name = below.split("/")
        for depth in range(len(above), 0, -1):
            path = "/".join(above[:depth])
            for sheet in sheets:
                if sheet.makes(above[:depth]) and stands(self.file(sheet, path)):
                    return Owner(sheet, path, "/".join((*above[depth:], name)))
        return None

    def _near(self, file: str) -> tuple[str, list[Sheet]]:
        """
        Return where *file* is, below the directory of all sheets, and the sheets whose it may be.
        """
        place = file.removeprefix(self._top)
        if not file.startswith(self._top) or _DECLARATIONS in file.lower().split("/"):
            return place, []
        roots = {sheet.root for sheet in self._all if sheet.root == "." or place.startswith(f"{sheet.root}/")}
        nearest = max(roots, key=lambda root: 0 if root == "." else len(root), default=None)
        return place, [sheet for sheet in self._all if sheet.root == nearest]


def parsed(content: bytes, path: str, body_field: str | None) -> Record:
    """
    Return the record in a file's *content*.

    Raises:
        ValueError: It holds no valid record.
    """
    try:
        text = content.decode("utf-8")
        if body_field is None:
            return Record(path, gitsheets.parse_records([text])[0])
        return Record(path, markdown.parse(text, body_field))
    except (gitsheets.GitsheetsError, ValueError, OverflowError) as exc:
        raise ValueError(" ".join(str(exc).split())) from exc


def record_in(objects: Objects, blob: str, path: str, body_field: str | None) -> Record:
    """
    Return the record in the object *blob*.

    Raises:
        ValueError: It holds no valid record.
    """
    try:
        content = objects.read(blob, most=_MOST_RECORD_BYTES)
    except gitsheets.GitsheetsError as exc:
        raise ValueError(" ".join(str(exc).split())) from exc
    return parsed(content, path, body_field)


@lru_cache(maxsize=64)
def _declared(git_dir: str, declarations: tuple[tuple[str, str], ...]) -> tuple[Sheet, ...]:
    """
    Return the sheets of *declarations*, names of objects and of files, in the order in which they own paths.
    """
    objects = Objects(git_dir)
    sheets = [_sheet(objects.read(blob), name.removesuffix(".toml")) for blob, name in declarations]
    found = sorted(filter(None, sheets), key=lambda sheet: sheet.name)
    return tuple(sorted(found, key=_precedence))


def _precedence(sheet: Sheet) -> tuple[int, bool]:
    return (-sheet.template.literals, sheet.template.is_recursive) if sheet.template else (0, False)


def _sheet(content: bytes, name: str) -> Sheet | None:
    try:
        config: dict[str, Any] = tomllib.loads(content.decode("utf-8-sig"))["gitsheet"]
        root = posixpath.normpath(config.get("root", ".")).strip("/") or "."
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    try:
        form = config.get("format", {})
        extension = _EXTENSIONS.get(form.get("type", "toml"), ".toml")
        body_field = None if extension == ".toml" else form["body"]
        template = Template.of(config["path"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return Sheet(name=name, root=root, template=None)
    return Sheet(
        name=name, root=root, template=template, extension=extension, body_field=body_field, config=config
    )
