"""
What gitsheets makes of a record: its path and its text, or what is wrong with it.
"""

from __future__ import annotations

import threading
from typing import Any

import gitsheets
from cachetools import LRUCache

from app.declarations import fails_on
from app.snapshot import Record, Sheet

_TEMPLATES = 16  # kept by each thread; one takes 0.3 MiB


class Renderer:
    """
    Renders records of one commit's sheets; in one thread, and one at a time in a process.

    gitsheets opens a sheet in a transaction, here one that is never finished, and
    checks the declaration then: half a millisecond. Where that asks for a path and a
    schema only, functions render the records that come later, in a tenth of it.

    Args:
        git_dir: The bare repository.
        commit: Full object name of the commit that declares the sheets.
    """

    def __init__(self, git_dir: str, commit: str) -> None:
        self._git_dir = git_dir
        self._commit = commit
        self._core: Any = None
        self._open: set[str] = set()

    def render(self, sheet: Sheet, record: Record) -> tuple[str, str, Record]:
        """
        Return the record's path within its sheet, its text, and its fields as they are read from that.

        Raises:
            gitsheets.ValidationError: The record breaks the schema.
            gitsheets.PathTemplateError: Its fields make no path.
            gitsheets.ConfigError: The sheet's declaration cannot be used.
            OverflowError, TypeError, ValueError: The record holds what TOML cannot.
        """
        try:
            return self._render(sheet, record)
        except gitsheets.PathTemplateError as exc:
            if exc.code == "path_render_failed" and fails_on(sheet.path, record):
                raise gitsheets.ConfigError(str(exc)) from exc
            raise

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
            self._core.open_sheet(sheet.name, sheet.config_path, ".", "")
            self._open.add(sheet.name)
            if sheet.is_plain:
                _mine.templates[sheet] = gitsheets.CompiledDefinition(sheet.path)
        candidate = self._core.prepare_upsert(sheet.name, record)
        return candidate["path"], candidate["next_text"], candidate["record"]


class _Mine(threading.local):
    """
    Path templates of the sheets that gitsheets has opened without complaint; only their thread may use them.
    """

    def __init__(self) -> None:
        self.templates: LRUCache[Sheet, Any] = LRUCache(_TEMPLATES)


_mine = _Mine()
