"""
What gitsheets makes of a record: its path and its text, or what is wrong with it.
"""

from __future__ import annotations

import math
import posixpath
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gitsheets
from cachetools import LRUCache

from app import markdown
from app.codec import Record
from app.declarations import fails_on
from app.sheet import Sheet

_TEMPLATES = 16  # kept by each thread; one takes 0.3 MiB
_VARIANT = "/variant"


class Renderer:
    """
    Renders records of one commit's sheets; in one thread, and one at a time in a process.

    gitsheets opens a sheet in a transaction, here one that is never finished, and
    checks the declaration then: half a millisecond. Where that asks for a path and a
    schema only, functions render the records that come later, in a tenth of it.

    Args:
        git_dir: The bare repository.
        commit: Full object name of the commit that declares the sheets.
        root: The directory of the tree that holds ``.gitsheets`` and the sheets.
    """

    def __init__(self, git_dir: str, commit: str, root: str = ".") -> None:
        self._git_dir = git_dir
        self._commit = commit
        self._root = root
        self._core: Any = None
        self._open: set[str] = set()

    def render(
        self, sheet: Sheet, record: Record, before: Record | None = None, stays: str | None = None
    ) -> tuple[str, str, Record]:
        """
        Return the record's path within its sheet, its text, and its fields as they are read from that.

        Args:
            before: The record that it takes the place of. A ``nan`` that stood there may stay, although
                JSON Schema has no number for it; and where the title or the body of a markdown record
                changed, the other one follows.
            stays: The path of *before*, which it may keep although a new record could not have it.

        Raises:
            gitsheets.ValidationError: The record breaks the schema.
            gitsheets.PathTemplateError: Its fields make no path.
            gitsheets.ConfigError: The sheet's declaration cannot be used.
            OverflowError, TypeError, ValueError: The record holds what TOML cannot.
        """
        if before is not None and sheet.title_field:
            record = self._with_title(sheet, record, before)
        try:
            return self._render(sheet, record)
        except gitsheets.PathTemplateError as exc:
            if stays is not None and before is not None and _same_path(sheet, record, before):
                somewhere = _variant(sheet, "stays", {**sheet.config, "path": "x"})
                return stays, *self._render(somewhere, record)[1:]
            if exc.code == "path_render_failed" and fails_on(sheet.path, record):
                raise gitsheets.ConfigError(str(exc)) from exc
            raise
        except gitsheets.ValidationError as exc:
            wrong = [issue for issue in exc.issues or () if not _stood(issue["path"], record, before)]
            if wrong or not exc.issues:
                exc.issues = wrong
                raise
            unchecked = {
                key: sheet.config[key] for key in sheet.config if key not in ("schema", "implements")
            }
            return self._render(_variant(sheet, "unchecked", unchecked), record)

    def _render(self, sheet: Sheet, record: Record) -> tuple[str, str, Record]:
        template = _mine.templates.get(sheet)
        if template is None:
            return self._by_core(sheet, record)
        if sheet.schema is not None:
            [issues] = gitsheets.validate_batch(sheet.schema, [record])
            if issues:
                error = gitsheets.ValidationError("the record breaks the schema")
                error.issues = issues
                raise error
        [text] = gitsheets.serialize_records([record])
        [stored] = gitsheets.parse_records([text])
        return template.render_path(stored), text, stored

    @staticmethod
    def path(sheet: Sheet, record: Record) -> str:
        """
        Return the path that the record's fields make within its sheet.

        Raises:
            gitsheets.GitsheetsError: They make none.
            OverflowError, TypeError, ValueError: The record holds what TOML cannot.
        """
        template = _mine.templates.get(sheet)
        if template is None:
            return str(gitsheets.render_paths_batch(sheet.path, [record])[0])
        return str(template.render_path(record))

    def close(self) -> None:
        """
        Let go of gitsheets' transaction, in the thread that made it.

        A traceback may keep this object alive until another thread collects it;
        there gitsheets can neither end the transaction nor free its memory.
        """
        if self._core is not None:
            try:
                self._core.discard()
            finally:
                self._core = None

    def _by_core(self, sheet: Sheet, record: Record) -> tuple[str, str, Record]:
        if self._core is None:
            self._core = gitsheets.CoreTransaction.begin(self._git_dir, "never finished", 0, 0, self._commit)
        if sheet.name not in self._open:
            declared = posixpath.normpath(posixpath.join(self._root, sheet.config_path))
            if sheet.name.endswith(_VARIANT):
                [declaration] = gitsheets.serialize_records([{"gitsheet": dict(sheet.config)}])
                self._core.write_file(declared, declaration)
            self._core.open_sheet(sheet.name, declared, self._root, "")
            self._open.add(sheet.name)
            if sheet.is_plain:
                _mine.templates[sheet] = gitsheets.CompiledDefinition(sheet.path)
        candidate = self._core.prepare_upsert(sheet.name, record)
        text = candidate["next_text"]
        if sheet.body_field:
            # The candidate's own record has the body as it was given, and no title where none was.
            return candidate["path"], text, markdown.parse(text, sheet.body_field)
        return candidate["path"], text, gitsheets.parse_records([text])[0]

    def _with_title(self, sheet: Sheet, record: Record, before: Record) -> Record:
        """
        Return *record* with the heading changed where the title was, and the title where the body was.
        """
        title, body = str(sheet.title_field), str(sheet.body_field)
        changed = {name for name in (title, body) if record.get(name) != before.get(name)}
        new_title, text = record.get(title), record.get(body)
        if len(changed) != 1 or not isinstance(text, str):
            return record  # gitsheets compares the two
        if title in changed:
            if not isinstance(new_title, str) or len(new_title.splitlines()) != 1:
                return record
            text = markdown.with_heading(text, new_title)
        found = markdown.heading(self._normal_body(sheet, text))
        rest = {name: value for name, value in record.items() if name != title}
        return {**rest, body: text, **({} if found is None else {title: found})}

    def _normal_body(self, sheet: Sheet, text: str) -> str:
        """
        Return the body as gitsheets stores it: it normalises markdown, headings too.
        """
        body = str(sheet.body_field)
        name = f"{body}_name"
        config = {
            "path": f"${{{{ {name} }}}}",
            "format": {key: value for key, value in sheet.config["format"].items() if key != "title"},
        }
        _, stored, _ = self._by_core(_variant(sheet, "body", config), {name: "x", body: text})
        return markdown.split(stored)[1]


def _variant(sheet: Sheet, what: str, config: Mapping[str, Any]) -> Sheet:
    """
    Return *sheet* as another declaration has it, for use in a transaction that is never finished.
    """
    # No sheet of the repository has a slash in its name.
    return replace(sheet, name=f"{sheet.name}/{what}{_VARIANT}", schema=None, config=config, is_plain=False)


def _same_path(sheet: Sheet, record: Record, before: Record) -> bool:
    """
    Whether the fields that make a record's path are the same in both.
    """
    names = {name.partition(".")[0] for name in gitsheets.template_field_names(sheet.path)}
    return all(name in record and record[name] == before.get(name) for name in names)


def _stood(path: Sequence[str | int], record: Record, before: Record | None) -> bool:
    """
    Whether *record* has at *path* the ``nan`` or infinity that *before* has there.
    """
    new, old = _at(record, path), _at(before, path)
    return isinstance(new, float) and not math.isfinite(new) and repr(new) == repr(old)


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and str(part).isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


class _Mine(threading.local):
    """
    Path templates of the sheets that gitsheets has opened without complaint; only their thread may use them.
    """

    def __init__(self) -> None:
        self.templates: LRUCache[Sheet, Any] = LRUCache(_TEMPLATES)


_mine = _Mine()
