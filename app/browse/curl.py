"""
The ``curl`` lines of a page: one that asks the API for the same, and one that changes the record.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import gitsheets
from flask import request
from werkzeug.datastructures import MultiDict

from ferry.app.access import reads_are_open
from ferry.app.browse.values import Schemas, fields_of, of_field
from ferry.app.services import services
from ferry.app.sheets.schema_cost import is_cheap

_TOKEN = '-H "Authorization: Bearer $TOKEN"'  # noqa: S105 - a variable of the reader's shell
_LONGEST = 60  # of a text that the line changes
_MOST_TRIED = 5  # patches
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
    Return the line that changes one field of the *record* at *address*; "" if there is none that the schemas
    accept, and on a replica without a primary.

    Args:
        path_fields: Fields that make the record's path: to change one would move it.
    """
    settings = services().pipeline.settings
    base = settings.api_primary_url if settings.is_replica else _base()
    if base is None:
        return ""
    patch = patch_of(record, path_fields, schemas)
    if patch is None:
        return ""
    body = json.dumps(patch, ensure_ascii=False)
    tokens = [] if services().open_access else [_TOKEN]
    parts = ["curl -X PATCH", shlex.quote(base + address), "-H 'Content-Type: application/json'", *tokens]
    return " \\\n    ".join([*parts, f"-d {shlex.quote(body)}"])


def _base() -> str:
    return services().pipeline.settings.api_public_url or request.url_root.rstrip("/")


def patch_of(
    record: Mapping[str, Any], path_fields: Collection[str], schemas: Schemas
) -> dict[str, Any] | None:
    """
    Return a merge patch that the schemas accept, of the text that is like a title, else of a number; None if
    there is no such patch.
    """
    fields = {name: record[name] for name in fields_of(record, schemas) if name not in path_fields}
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    # A text of several words is no reference to another record, and no word of a list.
    named = sorted(texts, key=lambda name: " " not in texts[name])
    patches: list[dict[str, Any]] = [
        {name: f"{texts[name]}, changed"}
        for name in named
        if 0 < len(texts[name]) <= _LONGEST and texts[name].isprintable() and not _is_closed(schemas, name)
    ]
    patches += [{name: value + 1} for name, value in fields.items() if type(value) is int]
    return next((patch for patch in patches[:_MOST_TRIED] if _is_valid({**record, **patch}, schemas)), None)


def _is_closed(schemas: Schemas, name: str) -> bool:
    return any(word in part for part in of_field(schemas, name) for word in _CLOSED)


def _is_valid(record: Mapping[str, Any], schemas: Schemas) -> bool:
    """
    Whether *schemas* accept *record*. One that may take long to say so is not asked.
    """
    return all(is_cheap(each) and not gitsheets.validate_batch(each, [record])[0] for each in schemas)
