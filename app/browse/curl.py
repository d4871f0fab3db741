"""
The ``curl`` lines of a page: one that asks the API for the same, and one that changes the record.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from flask import request
from werkzeug.datastructures import MultiDict

from ferry.app.access import reads_are_open
from ferry.app.browse.values import Schemas, of_field
from ferry.app.services import services

_TOKEN = '-H "Authorization: Bearer $TOKEN"'  # noqa: S105 - a variable of the reader's shell
_LONGEST = 60  # of a text that the line changes
# A text with one of them may not be just any text.
_CLOSED = ("const", "enum", "format", "pattern", "$ref")


def address_of(sheet: str, path: str = "", *more: str) -> str:
    """
    Return the API's address of the records of *sheet*, or of one of them, or of something of it.
    """
    return "/".join(filter(None, ("/api/sheets", quote(sheet, safe=""), "records", quote(path), *more)))


def reading(address: str, arguments: MultiDict[str, str] | None = None, *, prefer: str = "") -> str:
    """
    Return the line that reads *address* with the query *arguments*.

    Args:
        prefer: The request's header ``Prefer``; default: none.
    """
    query = urlencode(list(arguments.items(multi=True))) if arguments else ""
    url = shlex.quote(_base() + address + (f"?{query}" if query else ""))
    preference = [f"-H 'Prefer: {prefer}'"] if prefer else []
    return " ".join(["curl", *preference, *([] if reads_are_open() else [_TOKEN]), url])


def changing(address: str, record: Mapping[str, Any], path_fields: Collection[str], schemas: Schemas) -> str:
    """
    Return the line that changes one field of the *record* at *address*; "" on a replica without a primary.

    Args:
        path_fields: Fields that make the record's path: to change one would move it.
    """
    settings = services().pipeline.settings
    base = settings.api_primary_url if settings.is_replica else _base()
    if base is None:
        return ""
    body = json.dumps(patch_of(record, path_fields, schemas), ensure_ascii=False)
    tokens = [] if services().open_access else [_TOKEN]
    parts = ["curl -X PATCH", shlex.quote(base + address), "-H 'Content-Type: application/json'", *tokens]
    return " \\\n    ".join([*parts, f"-d {shlex.quote(body)}"])


def _base() -> str:
    return services().pipeline.settings.api_public_url or request.url_root.rstrip("/")


def patch_of(record: Mapping[str, Any], path_fields: Collection[str], schemas: Schemas) -> dict[str, Any]:
    """
    Return a merge patch that the schemas are likely to accept: another text, else another number.
    """
    named = [
        (name, value, of_field(schemas, name)) for name, value in record.items() if name not in path_fields
    ]
    for name, value, parts in named:
        is_short = isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()
        if is_short and not any(word in part for part in parts for word in _CLOSED):
            return {name: f"{value}, changed"}
    for name, value, _ in named:
        if isinstance(value, int) and not isinstance(value, bool):
            return {name: value + 1}
    return {"FIELD": "VALUE"}
