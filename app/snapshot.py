"""
The repository as one commit has it: what is read here never changes.
"""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gitsheets

from app import declarations
from app.errors import RecordNotFoundError, SheetNotFoundError, UnreadableRecordError
from app.objects import kept
from app.trees import find
from worker.objects import read

Record = dict[str, Any]
_CONTRACTS = ".gitsheets/contracts"
_PLAIN = {"root", "path", "schema"}
_LINK = "120000"  # a symbolic link, see git-fast-import(1)
# What git or some file system takes for a name of git's own, and a host that checks refuses with the whole
# push (https://git-scm.com/docs/git-fsck, hasDotgit and gitmodulesName); Windows calls ".git" also "git~1".
_GITS_OWN = re.compile(r"\.git(modules|attributes)?|g[a-z0-9]{0,6}~[0-9]+", re.IGNORECASE)
# Literal text and fields, no JavaScript, of which gitsheets' templates may hold any.
_FIELDS_ONLY = re.compile(r"(?:[^$]|\$\{\{\s*[A-Za-z_][\w.]*(?:/\*\*)?\s*(?::[^{}]*)?\}\})+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """
    A sheet as ``.gitsheets/NAME.toml`` declares it.

    Attributes:
        name: The sheet's name.
        root: Directory of its records in the tree.
        path: Path template, such as ``${{ slug }}``.
        schema: JSON Schema of a record, or None.
        config: The whole ``[gitsheet]`` table.
        is_plain: Whether it asks for a path of fields and a schema, and for nothing else.
    """

    name: str
    root: str
    path: str
    schema: Mapping[str, Any] | None
    config: Mapping[str, Any]
    is_plain: bool

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

    def directory(self, path: str) -> str:
        """
        Return where the attachments of the record *path* stand in the tree.
        """
        return f"{self.root}/{path}" if self.root not in ("", ".") else path

    def file(self, path: str) -> str:
        """
        Return where the record *path* stands in the tree.
        """
        return self.directory(path) + self.extension


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


class Snapshot:
    """
    The repository as one commit has it; what is read here never changes.

    Args:
        git_dir: The bare repository.
        commit: Full object name, or None for a branch without commits.
        sheets: Sheets that are known already, by name; those that are asked for are added.
    """

    def __init__(self, git_dir: Path, commit: str | None, sheets: dict[str, Sheet] | None = None) -> None:
        self.git_dir = str(git_dir)
        self.commit = commit
        self.sheets = {} if sheets is None else sheets
        self._blobs: dict[str, str | None] = {}  # a write asks for the same record several times

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
        if name not in self.sheets:
            declared = self.blob(f".gitsheets/{name}.toml") if is_plain(name) and "/" not in name else None
            if declared is None:
                raise SheetNotFoundError(f"There is no sheet {name!r}.")
            place, contracts = f".gitsheets/{name}.toml", find(self.git_dir, str(self.commit), _CONTRACTS)
            versions = (declared, contracts and contracts.name)
            declarations.check(self.git_dir, str(self.commit), name, place, versions)
            self.sheets[name] = _parse_sheet(name, kept(self.git_dir, declared))
        return self.sheets[name]

    def blob(self, path: str) -> str | None:
        """
        Return the object name of the file at *path* in the tree, or None where there is none.
        """
        if path not in self._blobs:
            found = find(self.git_dir, self.commit, path) if self.commit else None
            self._blobs[path] = found.name if found and found.kind == "blob" else None
        return self._blobs[path]

    def record(self, sheet: Sheet, path: str) -> StoredRecord:
        """
        Return the record at *path*.

        Raises:
            RecordNotFoundError: There is none.
            UnreadableRecordError: The file is no record.
        """
        version = self.version(sheet, path)
        if version is None:
            raise RecordNotFoundError(f"The sheet {sheet.name!r} has no record {path!r}.")
        return StoredRecord(path=path, record=self._record(sheet, path, version), version=version)

    def version(self, sheet: Sheet, path: str) -> str | None:
        """
        Return the version of the record at *path*, or None where there is none.
        """
        return self.blob(sheet.file(path)) if is_plain(path) else None

    def attachments(self, sheet: Sheet, path: str) -> dict[str, str]:
        """
        Return the names of a record's attachments, with the object names of their blobs.
        """
        if not self.commit or not is_plain(path):
            return {}
        entries = gitsheets.tree_list(self.git_dir, self.commit, sheet.directory(path)) or []
        records = sheet.extension
        return {
            entry["name"]: entry["hash"]
            for entry in entries
            if entry["type"] == "blob" and entry["mode"] != _LINK and not entry["name"].endswith(records)
        }

    def tree(self, sheet: Sheet) -> str | None:
        """
        Return what names the sheet's files as they are: the same name, the same files.
        """
        if not self.commit:
            return None
        if sheet.root in ("", "."):
            return self.commit
        found = find(self.git_dir, self.commit, sheet.root.strip("/"))
        return None if found is None else found.name

    def records(self, sheet: Sheet) -> list[tuple[str, Record]]:
        """
        Return path and fields of every record, sorted by path.

        Raises:
            UnreadableRecordError: One of the files is no record.
        """
        found = self._query(sheet, sheet.path) if self.commit else []
        return [(row["path"], row["record"]) for row in found]

    def _record(self, sheet: Sheet, path: str, version: str) -> Record:
        if sheet.body_field:
            return self._query(sheet, path)[0]["record"]  # type: ignore[no-any-return]
        try:
            text = read(self.git_dir, version).decode("utf-8")
            return gitsheets.parse_records([text])[0]  # type: ignore[no-any-return]
        except (gitsheets.ConfigError, UnicodeDecodeError) as exc:
            raise _unreadable(sheet, exc) from exc

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
            raise _unreadable(sheet, exc) from exc


def _unreadable(sheet: Sheet, exc: Exception) -> UnreadableRecordError:
    return UnreadableRecordError(f"A record of the sheet {sheet.name!r} cannot be read: {exc}")


def is_plain(path: str) -> bool:
    """
    Whether *path* names something below where it starts, and nothing else.
    """
    return (
        all(part not in ("", ".", "..") for part in path.split("/"))
        and path.isprintable()
        and "${{" not in path
        and not any(part.lower() == ".git" for part in path.split("/"))
    )


def is_gits_own(path: str) -> bool:
    """
    Whether a part of *path* may be none of a new file's; what has one already can be read and removed.
    """
    # A backslash parts names on Windows, and a colon begins a stream of the file before it.
    return any(_GITS_OWN.fullmatch(name.rstrip(" .")) for name in re.split(r"[/\\:]", path))


@lru_cache(maxsize=1024)
def _parse_sheet(name: str, content: bytes) -> Sheet:
    try:
        # gitsheets has opened it before this; Python's TOML parser may know another version of the language.
        config = tomllib.loads(content.decode("utf-8-sig"))["gitsheet"]
    except tomllib.TOMLDecodeError as exc:
        raise declarations.unusable(name, exc) from exc
    path = config["path"]
    # As gitsheets reads it: "./people", "people/" and "/people" are the same.
    root = posixpath.normpath(config.get("root", ".")).strip("/") or "."
    if root.split("/")[0] == "..":
        raise declarations.unusable(
            name, f".gitsheets/{name}.toml: gitsheet.root leads out of the repository"
        )
    schema = config.get("schema")
    return Sheet(
        name=name,
        root=root,
        path=path,
        schema=schema,
        config=config,
        is_plain=config.keys() <= _PLAIN and bool(_FIELDS_ONLY.fullmatch(path)) and _is_json(schema),
    )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
