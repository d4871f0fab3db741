"""
Pages of a list: how many, and from where on.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.problems import Problem

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    Which part of a list is asked for.

    Attributes:
        limit: How many entries at most.
        commit: The commit that the first page was read from; None on that page.
        after: The last entry of the page before; empty on the first.
    """

    limit: int
    commit: str | None = None
    after: str = ""

    def cursor(self, *, commit: str | None, after: str) -> str:
        """
        Return the opaque cursor of the next page.
        """
        return base64.urlsafe_b64encode(json.dumps([commit, after]).encode()).decode().rstrip("=")


def page_of(arguments: Mapping[str, str]) -> Page:
    """
    Read ``limit`` and ``cursor`` from a query.

    Raises:
        Problem: 400 where one of them is wrong.
    """
    text = arguments.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise Problem(
            400, "limit-invalid", f"limit is {text!r}.", f"Give a whole number from 1 to {MAX_LIMIT}."
        )
    cursor = arguments.get("cursor")
    if not cursor:
        return Page(limit=int(text))
    try:
        commit, after = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(after, str) or not re.fullmatch("[0-9a-f]{40}", commit):
            raise TypeError("not a commit and a text")
    except (ValueError, TypeError, RecursionError) as exc:
        raise Problem(
            400, "cursor-invalid", "The cursor is not one of ours.", "Give next_cursor as it was, or none."
        ) from exc
    return Page(limit=int(text), commit=commit, after=after)
