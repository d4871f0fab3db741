"""
What the functions of extensions receive, read from git when they ask for it.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gitsheets

import ferry.commits
from ferry.commits import Change, Landing
from ferry.worker.git.history import Commit
from ferry.worker.git.objects import Objects
from ferry.worker.git.repository import Repository
from ferry.worker.records import markdown
from ferry.worker.records.template import Template
from ferry.writes import Record

_CHANGED = re.compile(r":([0-7]+) ([0-7]+) ([0-9a-f]+) ([0-9a-f]+) [A-Z][0-9]*")
_LISTED = re.compile(r"100[0-7]{3} blob ([0-9a-f]+)\t(.*)", re.DOTALL)
_FILE = re.compile(r"100[0-7]{3}")
_AT_ONCE = 50  # commits that one git reads
_MOST_RECORD_BYTES = 8 << 20
_DECLARATIONS = ".gitsheets"
_EXTENSIONS = {"markdown": ".md", "mdx": ".mdx"}
# Paths of files, each with its objects before and after; None where there is no file.
_Files = tuple[tuple[str, tuple[str | None, str | None]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """
    As much of a declaration as says which files are records.
    """

    name: str
    root: str
    template: Template | None  # None: the declaration cannot be used, and keeps its root from others
    extension: str = ".toml"
    body_field: str | None = None

    def path_of(self, file: str) -> str | None:
        """
        Return the path of the record in *file*, a path of the tree; None if it is none of the sheet's.
        """
        below = file if self.root == "." else file.removeprefix(f"{self.root}/")
        stem = below.removesuffix(self.extension)
        if self.template is None or stem in (below, "") or stem.endswith("/"):
            return None
        return stem if self.template.makes(stem.split("/")) else None


class CommitReader:
    """
    Reads the commits of one repository.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._query = repository.git.query
        self._changed = lru_cache(maxsize=4)(self._read_changed)
        self._changes = lru_cache(maxsize=4)(self._read_changes)

    def read(self, names: Sequence[str]) -> Iterator[ferry.commits.Commit]:
        """
        Yield the commits with the full object names *names*.

        Raises:
            RepositoryError: git could not read one.
        """
        for start in range(0, len(names), _AT_ONCE):
            for commit in self._repository.commits_named(names[start : start + _AT_ONCE]):
                yield self._public(commit)

    def commits(self, landing: Landing) -> Iterator[ferry.commits.Commit]:
        """
        Yield the commits of *landing*, parents first.
        """
        done = landing.done
        while waiting := self._repository.outstanding(landing.after, done, limit=20 * _AT_ONCE):
            yield from self.read([name for name, _ in waiting])
            for name, parents in waiting:
                done = advanced(done, name, parents)

    def count(self, landing: Landing) -> int:
        """
        Return how many commits *landing* has.
        """
        return self._repository.count_outstanding(landing.after, landing.done)

    def changes(self, commit: ferry.commits.Commit) -> tuple[Change, ...]:
        """
        Return the records that *commit* changes, by the paths of their files.
        """
        return self._changes(commit)

    def files(self, commit: ferry.commits.Commit) -> tuple[str, ...]:
        """
        Return the paths of the files that *commit* changes.
        """
        return tuple(path for path, _ in self._changed(commit.hash))

    def record(self, change: Change, blob: str | None) -> Record | None:
        """
        Return the record in the object *blob*.

        Raises:
            ValueError: It holds no valid record.
        """
        if blob is None:
            return None
        try:
            text = self._repository.objects.read(blob, most=_MOST_RECORD_BYTES).decode("utf-8")
            if change.body_field is None:
                return Record(change.path, gitsheets.parse_records([text])[0])
            return Record(change.path, markdown.parse(text, change.body_field))
        except (gitsheets.GitsheetsError, ValueError, OverflowError) as exc:
            told = " ".join(str(exc).split())
            raise ValueError(f"{change.sheet}/{change.path} is no valid record: {told}") from exc

    def _public(self, commit: Commit) -> ferry.commits.Commit:
        author, email = commit.author
        return ferry.commits.Commit(
            hash=commit.hash,
            parents=commit.parents,
            author=author,
            email=email,
            authored_at=commit.authored_at,
            message=commit.message,
            trailers=commit.trailers,
            source=self,
        )

    def _read_changed(self, commit: str) -> _Files:
        said = self._query(
            "diff-tree", "-r", "-z", "--root", "--raw", "--no-abbrev", "--no-renames", "--no-commit-id",
            "-m", "--first-parent", commit, "--",
        )  # fmt: skip
        parts = said.split("\0")
        heads = map(_CHANGED.fullmatch, parts[::2])
        return tuple(
            (path, (_file(head[1], head[3]), _file(head[2], head[4])))
            for head, path in zip(heads, parts[1::2], strict=False)
            if head
        )

    def _read_changes(self, commit: ferry.commits.Commit) -> tuple[Change, ...]:
        after = self._sheets(commit.hash)
        before = self._sheets(commit.parents[0]) if commit.parents else after
        found = []
        for file, blobs in self._changed(commit.hash):
            owned = self._owner(file, after) or self._owner(file, before)
            if owned and blobs != (None, None):
                sheet, path = owned
                found.append(
                    Change(sheet=sheet.name, path=path, source=self, blobs=blobs, body_field=sheet.body_field)
                )
        return tuple(found)

    def _owner(self, file: str, sheets: Sequence[_Sheet]) -> tuple[_Sheet, str] | None:
        """
        Return the sheet that *file* is a record of, and the record's path; None if it is no record.

        As docs/explanation/whose-a-path-is.md has it, for the files of records.
        """
        top = "" if self._repository.root == "." else f"{self._repository.root}/"
        if not file.startswith(top) or _DECLARATIONS in file.lower().split("/"):
            return None
        place = file.removeprefix(top)
        roots = [sheet.root for sheet in sheets if sheet.root == "." or place.startswith(f"{sheet.root}/")]
        nearest = max(roots, key=lambda root: 0 if root == "." else len(root), default=None)
        for sheet in sheets:
            if sheet.root == nearest and (path := sheet.path_of(place)) is not None:
                return sheet, path
        return None

    def _sheets(self, commit: str) -> tuple[_Sheet, ...]:
        top = "" if self._repository.root == "." else f"{self._repository.root}/"
        said = self._query("ls-tree", "-z", commit, "--", f"{top}{_DECLARATIONS}/")
        found = filter(None, map(_LISTED.fullmatch, said.split("\0")))
        return _declared(
            str(self._repository.git.path),
            tuple((each[1], posixpath.basename(each[2])) for each in found if each[2].endswith(".toml")),
        )


def advanced(done: Sequence[str], commit: str, parents: Sequence[str]) -> tuple[str, ...]:
    """
    Return the tips of what is done, once *commit* is, too: what a commit stands on is done with it.
    """
    return (commit, *(each for each in done if each not in parents))


def _file(mode: str, name: str) -> str | None:
    return name if _FILE.fullmatch(mode) else None


@lru_cache(maxsize=64)
def _declared(git_dir: str, declarations: tuple[tuple[str, str], ...]) -> tuple[_Sheet, ...]:
    """
    Return the sheets of *declarations*, names of objects and of files, in the order in which they own paths.
    """
    objects = Objects(git_dir)
    sheets = [_sheet(objects.read(blob), name.removesuffix(".toml")) for blob, name in declarations]
    found = sorted(filter(None, sheets), key=lambda sheet: sheet.name)
    return tuple(sorted(found, key=_precedence))


def _precedence(sheet: _Sheet) -> tuple[int, bool]:
    return (-sheet.template.literals, sheet.template.is_recursive) if sheet.template else (0, False)


def _sheet(content: bytes, name: str) -> _Sheet | None:
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
        return _Sheet(name=name, root=root, template=None)
    return _Sheet(name=name, root=root, template=template, extension=extension, body_field=body_field)
