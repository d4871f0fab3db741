"""
The rules of extensions: what may refuse or change each write before it is staged.

``Transaction`` calls them, so no write passes without them, whichever endpoint or extension makes it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from traceback import extract_tb
from typing import Any

from ferry.app.errors import (
    ExtensionFailedError,
    RefusedError,
    StoreError,
)
from ferry.app.records.codec import Record as Fields
from ferry.app.sheets.evaluation import NotEvaluatedError
from ferry.app.sheets.sheet import Sheet
from ferry.app.store.limit import Limit
from ferry.app.store.staged import Staged
from ferry.extension import Extension, Rule
from ferry.worker import paging
from ferry.worker.observe.logs import log
from ferry.writes import Caller, Record, Refused, Write


class Rules:
    """
    The rules of all extensions, in the order in which they run.
    """

    def __init__(self, extensions: Sequence[Extension]) -> None:
        self._rules = [
            (extension.name, sheets, rule)
            for extension in extensions
            for sheets, rule in extension.hooks.rules
        ]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def of(self, sheet: str) -> list[tuple[str, Rule]]:
        """
        Return the rules of *sheet*, each with the name of its extension.
        """
        return [(name, rule) for name, sheets, rule in self._rules if sheets is None or sheet in sheets]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """
    The rules, as they apply to one caller's transaction.

    Attributes:
        rules: The rules.
        caller: Who writes.
        extension: Name of the extension that makes the transaction, or None.
    """

    rules: Rules
    caller: Caller
    extension: str | None = None


class Check:
    """
    The rules of one transaction, with the time that they have left.

    Args:
        guard: The rules; None: there are none.
        limit: The time.
    """

    def __init__(self, guard: Guard | None, limit: Limit) -> None:
        self._guard = guard
        self._limit = limit

    @property
    def has_rules(self) -> bool:
        """
        Whether there are any.
        """
        return self._guard is not None and bool(self._guard.rules)

    def gone(self, staged: Staged, sheet: Sheet, path: str) -> None:
        """
        Ask the rules about a record that is to be deleted, or to be moved away from *path*.

        Raises:
            StoreError: As ``stored`` does.
        """
        if self._applies(sheet):
            self._run(staged, sheet, path, "delete", staged.readable(sheet, path), None)

    def attached(self, staged: Staged, sheet: Sheet, path: str, operation: str, name: str) -> None:
        """
        Ask the rules about an attachment that is to be stored or removed.

        Raises:
            StoreError: As ``stored`` does.
        """
        if self._applies(sheet):
            record = staged.readable(sheet, path)
            self._run(staged, sheet, path, operation, record, record, attachment=name)

    def stored(
        self,
        staged: Staged,
        sheet: Sheet,
        path: str,
        operation: str,
        before: Fields | None,
        after: Fields,
        validate: Callable[[Fields], Fields],
    ) -> None:
        """
        Ask the rules about a record that is to be stored.

        Args:
            validate: Checks a record that a rule has changed; returns it as it will be stored.

        Raises:
            RefusedError: A rule refuses the write.
            ExtensionFailedError, ExtensionTooSlowError: A rule raised something else, or the time is over.
        """
        self._run(staged, sheet, path, operation, before, after, validate=validate)

    def _applies(self, sheet: Sheet) -> bool:
        return self._guard is not None and bool(self._guard.rules.of(sheet.name))

    def _run(
        self,
        staged: Staged,
        sheet: Sheet,
        path: str,
        operation: str,
        before: Fields | None,
        after: Fields | None,
        *,
        attachment: str | None = None,
        validate: Callable[[Fields], Fields] | None = None,
    ) -> None:
        if self._guard is None:
            return
        for extension, rule in self._guard.rules.of(sheet.name):
            write = Write(
                caller=self._guard.caller,
                extension=self._guard.extension,
                sheet=sheet.name,
                path=path,
                operation=operation,
                before=None if before is None else Record(path, before),
                after=None if after is None else Record(path, after),
                attachment=attachment,
                reader=staged,
            )
            with self._limit.running(f"{extension}.{name_of(rule)}"):
                call(extension, rule, write)
                if validate is not None and write.after is not None and write.after != after:
                    after = validate(dict(write.after))  # in its time: it may be rendered under the lock


def call(
    extension: str,
    function: Callable[..., Any],
    *arguments: Any,
    passing: tuple[type[Exception], ...] = (),
) -> Any:
    """
    Call a function of an extension.

    Args:
        passing: Further errors that Ferry knows.

    Raises:
        RefusedError: It raised ``ferry.Refused``.
        ExtensionFailedError: It raised something that Ferry does not know. The cause goes to the log alone.
    """
    try:
        return function(*arguments)
    except Refused as exc:
        raise RefusedError(exc) from exc
    except Exception as exc:
        if isinstance(exc, (StoreError, NotEvaluatedError, *passing)):
            raise
        raise failed(extension, function, exc) from exc


def failed(extension: str, function: Callable[..., Any], error: Exception) -> ExtensionFailedError:
    """
    Log and report what a function of an extension raised; returns the error to answer with.
    """
    said = f"{type(error).__name__}: {error}{_line_in(function, error)}"
    log().error(
        "extension.failed", extension=extension, function=name_of(function), error=said, exc_info=error
    )
    paging.report(error)
    return ExtensionFailedError(f"The extension {extension!r} failed in {name_of(function)}.")


def _line_in(function: Callable[..., Any], error: Exception) -> str:
    """
    Return the last line of the function's own file that the error has passed; "" if it has passed none.
    """
    file = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({os.path.basename(str(file))}, line {lines[-1]})" if lines else ""


def name_of(function: Callable[..., Any]) -> str:
    """
    Return a function's name, for people.
    """
    return str(getattr(function, "__name__", type(function).__name__))
