"""
A sheet, as its declaration says.
"""

from __future__ import annotations

import json
import posixpath
import re
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gitsheets
from cachetools import LRUCache

from ferry.app.sheets.declarations import unusable
from ferry.app.sheets.record_path import Names, names_of, runs_code
from ferry.app.sheets.schema_cost import is_cheap
from ferry.worker.records.template import Template

MOST_DECLARATION_BYTES = 256 << 10
_KEPT_BYTES = 8 << 20  # of declarations whose parsed sheets are cached
_OVERHEAD_BYTES = 1024
_SAID = 300  # characters of a parser's message, which repeats the line
_PLAIN = {"root", "path", "schema", "fields", "references", "unique"}  # the last two are for extensions
_ROOT = re.compile(rb"""^\s*root\s*=\s*(?:"([^"\n]*)"|'([^'\n]*)')""", re.MULTILINE)


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
        runs_code: Whether it holds code: an expression in its path, or a comparison in a sort.
        is_bounded: Whether the cost of a record is bounded by its size: no code, and a cheap schema.
        is_plain: Whether it declares only a path of fields, a cheap schema and sorted lists.
    """

    name: str
    root: str
    path: str
    schema: Mapping[str, Any] | None
    config: Mapping[str, Any]
    runs_code: bool
    is_bounded: bool
    is_plain: bool

    @property
    def names(self) -> Names | None:
        """
        The fields that make its paths; None if an expression does.
        """
        return names_of(self.path)

    @property
    def sorts(self) -> Mapping[str, Any]:
        """
        How each list field is sorted.
        """
        return _sorts(self.config)

    @property
    def config_path(self) -> str:
        """
        Path of the declaration in the tree.
        """
        return f".gitsheets/{self.name}.toml"

    @property
    def template(self) -> Template:
        """
        What the paths of its records look like.
        """
        return Template.of(self.path)

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
        return f"{self.root}/{path}" if self.root != "." else path

    def hidden_by(self, path: str) -> str | None:
        """
        Return the record whose history or attachments could have the address of the record *path*, or None.
        """
        parts = path.split("/")
        for depth, name in list(enumerate(parts))[-2:]:
            is_taken = name == "attachments" or (name == "history" and depth == len(parts) - 1)
            if is_taken and depth and self.template.makes(parts[:depth]):
                return "/".join(parts[:depth])
        return None

    def file(self, path: str) -> str:
        """
        Return the path of the record's file in the tree.
        """
        return self.directory(path) + self.extension


def parse_sheet(name: str, content: bytes) -> Sheet:
    """
    Return the sheet *name*, whose declaration is *content*.

    Raises:
        SheetConfigError: It cannot be used.
    """
    with _lock:
        known = _parsed.get((name, content))
    if known is None:
        known = _parse(name, content), len(content) + _OVERHEAD_BYTES
        with _lock:
            known = _parsed.setdefault((name, content), known)
    return known[0]


def _parse(name: str, content: bytes) -> Sheet:
    try:
        text = content.decode("utf-8-sig")
        # It refuses more than 80 levels of nesting, on which Python's parser spends minutes.
        gitsheets.parse_records([text])
        config = tomllib.loads(text)["gitsheet"]
        path, root, schema = config["path"], _root(config.get("root", ".")), config.get("schema")
        kind = config.get("format", {}).get("type", "toml")
        if not isinstance(path, str) or not isinstance(kind, str):
            raise TypeError("path and format.type are strings")
    except gitsheets.GitsheetsError as exc:
        raise unusable(name, f".gitsheets/{name}.toml: {' '.join(str(exc).split())[:_SAID]}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise unusable(name, f".gitsheets/{name}.toml: {exc!r}") from exc
    if root.split("/")[0] == "..":
        raise unusable(name, f".gitsheets/{name}.toml: gitsheet.root leads out of the repository")
    has_code = runs_code(path) or any(isinstance(sort, str) for sort in _sorts(config).values())
    is_bounded = (
        not has_code and "implements" not in config and (not isinstance(schema, dict) or is_cheap(schema))
    )
    return Sheet(
        name=name,
        root=root,
        path=path,
        schema=schema,
        config=config,
        runs_code=has_code,
        is_bounded=is_bounded,
        is_plain=is_bounded and config.keys() <= _PLAIN and names_of(path) is not None and _is_json(schema),
    )


def _sorts(config: Mapping[str, Any]) -> dict[str, Any]:
    fields = config.get("fields", {})
    tables = fields.items() if isinstance(fields, dict) else ()
    return {name: rules["sort"] for name, rules in tables if isinstance(rules, dict) and "sort" in rules}


def root_of_broken(content: bytes) -> str | None:
    """
    Return the root that an invalid declaration seems to name, or None.
    """
    found = _ROOT.search(content)
    return _root((found[1] or found[2] or b"").decode("utf-8", "replace")) if found else None


def _root(given: str) -> str:
    # As gitsheets reads it: "./people", "people/" and "/people" are the same.
    return posixpath.normpath(given).strip("/") or "."


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


_parsed: LRUCache[tuple[str, bytes], tuple[Sheet, int]] = LRUCache(
    _KEPT_BYTES, getsizeof=lambda kept: kept[1]
)
_lock = threading.Lock()
