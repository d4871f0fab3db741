"""
Giving what came as JSON the kinds that TOML has and JSON has not.

A string may stand for a date, and a client that read 2.0 may well send 2. Each
value takes the kind of the one that it takes the place of, or else of its schema;
so a client that reads a record and sends it back changes nothing.

gitsheets knows one kind of date, a moment in UTC: what it reads as a local date
or time it writes as that, and a ``date`` without a time it cannot write at all.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

_NOT_FINITE = ("nan", "inf", "-inf")


def adopt(value: Any, schema: Any = None, before: Any = None) -> Any:
    """
    Return *value*, which came as JSON, with the kinds that TOML has and JSON has not.

    Args:
        schema: The JSON Schema of the value, if there is one.
        before: The value that it takes the place of, as TOML holds it; None where there is none.
    """
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(value, dict):
        properties, old = schema.get("properties", {}), before if isinstance(before, dict) else {}
        return {
            name: adopt(item, properties.get(name, schema.get("additionalProperties")), old.get(name))
            for name, item in value.items()
        }
    if isinstance(value, list):
        old_items = before if isinstance(before, list) else []
        # What is added to a list is like what is in it.
        return [
            adopt(item, schema.get("items"), old_items[min(place, len(old_items) - 1)] if old_items else None)
            for place, item in enumerate(value)
        ]
    if isinstance(value, str):
        return _adopt_text(value, schema, before)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _adopt_number(value, schema, before)
    return value


def _adopt_text(value: str, schema: dict[str, Any], before: Any) -> Any:
    if isinstance(before, float) and value in _NOT_FINITE:
        return float(value)
    if isinstance(before, str):
        return value
    if isinstance(before, datetime) or (before is None and schema.get("format") == "date-time"):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value.upper()) if "T" in value.upper() else value
    return value


def _adopt_number(value: float, schema: dict[str, Any], before: Any) -> int | float:
    is_whole = isinstance(value, int) or value.is_integer()
    if isinstance(before, float):
        return float(value)
    is_integer = (isinstance(before, int) and not isinstance(before, bool)) or (
        before is None and schema.get("type") == "integer"
    )
    return int(value) if is_integer and is_whole else value


def unstorable(value: Any, field: str = "") -> list[dict[str, str]]:
    """
    Return what in *value* TOML, or gitsheets, has no way to hold: one ``{"field", "message"}`` for each.
    """
    if isinstance(value, dict):
        inner = [(f"{field}.{name}" if field else name, item) for name, item in value.items()]
    elif isinstance(value, list):
        inner = [(f"{field}.{place}", item) for place, item in enumerate(value)]
    else:
        message = _unstorable(value)
        return [{"field": field, "message": message}] if message else []
    in_list = isinstance(value, list)
    nulls = [
        {"field": name, "message": "null cannot stand in a list"}
        for name, item in inner
        if in_list and item is None
    ]
    return nulls + [found for name, item in inner for found in unstorable(item, name)]


def _unstorable(value: Any) -> str:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "the number is beyond 64 bits"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "the text holds half of a surrogate pair, which is no Unicode"
    return ""


def merge_patch(record: Any, patch: Any, schema: Any = None) -> Any:
    """
    Apply a JSON merge patch (RFC 7396) to *record*, whose values keep their kinds.
    """
    if not isinstance(patch, dict):
        return adopt(patch, schema, record)
    merged = dict(record) if isinstance(record, dict) else {}
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    for name, item in patch.items():
        if item is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), item, properties.get(name))
    return merged
