"""
Pagination: ``limit``, ``cursor`` and ``at`` of a list.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from ferry.app.errors import CommitNotFoundError
from ferry.app.problems import Problem
from ferry.app.records.weight import weight_of
from ferry.worker.git.refs import OBJECT_NAME

DEFAULT_LIMIT = 50
PAGE_BYTES = 8 << 20  # of memory that a page's entries take; a page has at least one entry
MAX_LIMIT = 1000
T = TypeVar("T")
_MOST_LINK_BYTES = 2048
_OFFSETS = range(2**31)  # what git takes for --skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    The part of a list that a request asks for.

    Attributes:
        limit: The most entries.
        offset: How many entries the previous pages had.
        commit: The commit to read the list from, if a cursor or ``at`` names one.
        query: Digest of the address and the rest of the query, which a cursor belongs to.
        parameters: The whole query but the cursor, as in an address.
        is_continued: Whether the request has a cursor.
    """

    limit: int
    offset: int = 0
    commit: str | None = None
    query: str = ""
    parameters: str = ""
    is_continued: bool = False

    def cursor(self, *, commit: str | None, offset: int) -> str:
        """
        Return the opaque cursor of the next page.
        """
        content = json.dumps([commit, offset, self.query], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    def fitting(self, entries: Iterable[T]) -> list[T]:
        """
        Return as many of *entries*, in order, as a page may have, by their number and their memory.
        """
        shown: list[T] = []
        room = PAGE_BYTES
        for entry in islice(entries, self.limit):
            room -= weight_of([entry])
            if shown and room < 0:
                break
            shown.append(entry)
        return shown

    def commit_is_gone(self) -> Problem | CommitNotFoundError:
        """
        Return the error for a commit that the branch does not have, or no longer has.
        """
        if self.is_continued:
            return _invalid("The branch was rewritten since the previous page, or never had that page.")
        return CommitNotFoundError(f"The branch has no commit {(self.commit or '')[:64]!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown(Generic[T]):
    """
    The entries of one page.

    Attributes:
        page: The page that was asked for.
        commit: The commit that the list was read from.
        entries: Its entries.
        has_more: Whether the list has entries after them.
    """

    page: Page
    commit: str | None
    entries: list[T]
    has_more: bool

    @property
    def next_cursor(self) -> str | None:
        """
        The cursor of the next page; None after the last one.
        """
        end = self.page.offset + len(self.entries)
        return self.page.cursor(commit=self.commit, offset=end) if self.has_more else None

    def link(self) -> dict[str, str]:
        """
        Return the header with the addresses of the first and the next page (RFC 8288), relative to this one.

        It is left out where it would be long: a proxy answers 502 if its buffer for headers is too small.
        """
        if self.commit is None:
            return {}
        pages = {"first": self.page.cursor(commit=self.commit, offset=0), "next": self.next_cursor}
        links = [
            f'<?{self.page.parameters}cursor={each}>; rel="{rel}"' for rel, each in pages.items() if each
        ]
        value = ", ".join(links)
        return {"Link": value} if len(value) <= _MOST_LINK_BYTES else {}

    @property
    def previous_cursor(self) -> str | None:
        """
        The cursor of the page before; None on the first one.
        """
        start = max(0, self.page.offset - self.page.limit)
        return self.page.cursor(commit=self.commit, offset=start) if self.page.offset else None


def page_of(arguments: MultiDict[str, str], path: str) -> Page:
    """
    Read ``limit``, ``cursor`` and ``at`` from a query.

    Args:
        path: The address of the list; a cursor of another list is refused.

    Raises:
        Problem: 400 if one of them is invalid.
    """
    text = arguments.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise Problem(
            400, "limit-invalid", f"limit is {text[:40]!r}.", f"Give a whole number from 1 to {MAX_LIMIT}."
        )
    query, cursor = _digest(arguments, path), arguments.get("cursor")
    rest = [(name, value) for name, value in arguments.items(multi=True) if name != "cursor"]
    parameters = urlencode(rest) + "&" if rest else ""
    if not cursor:
        return Page(limit=int(text), commit=arguments.get("at"), query=query, parameters=parameters)
    try:
        commit, offset, made_for = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not OBJECT_NAME.fullmatch(commit) or type(offset) is not int or offset not in _OFFSETS:
            raise TypeError("not a commit and a number")
    except (ValueError, TypeError, RecursionError) as exc:
        raise _invalid("The cursor is invalid.") from exc
    if made_for != query:
        raise _invalid("The cursor belongs to another query.")
    return Page(
        limit=int(text), offset=offset, commit=commit, query=query, parameters=parameters, is_continued=True
    )


def _digest(arguments: MultiDict[str, str], path: str) -> str:
    asked = sorted((name, values) for name, values in arguments.lists() if name not in ("limit", "cursor"))
    return hashlib.sha256(json.dumps([path, *asked]).encode()).hexdigest()[:12]


def _invalid(detail: str) -> Problem:
    return Problem(
        400,
        "cursor-invalid",
        detail,
        "Send next_cursor unchanged, to the same list with the same query, or start without a cursor.",
    )
