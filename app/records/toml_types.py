"""
Type coercion: JSON values to the types that TOML has and JSON has not.

JSON has one type of number and no dates. A value takes the type of the value that it replaces, if that loses
nothing; so a client that reads a record and sends it back changes nothing. A string becomes a date-time only
if it replaces one, or if the client marks it: ``{"$date": "2026-01-31T10:00:00Z"}``.

gitsheets' Python binding has one type of date, a moment in UTC to the millisecond;
``ferry.worker.records.date_literals`` preserves how a file writes it.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

DATE = "$date"
INTEGERS = range(-(2**63), 2**63)  # what TOML holds as an integer
_NOT_FINITE = ("nan", "inf", "-inf")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.(?P<fraction>[0-9]+))?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE,
)  # RFC 3339
_MILLISECOND_DIGITS = 3


@dataclass(frozen=True, slots=True)
class _Refused:
    """
    A value that cannot be stored, and why.
    """

    message: str


def coerce(value: Any, schema: Any = None, before: Any = None) -> Any:
    """
    Return *value*, parsed from JSON, with TOML's types.

    ``unstorable`` then names the values that cannot be stored.

    Args:
        schema: The JSON Schema of the value, if there is one.
        before: The value that it replaces, as TOML holds it, or None.
    """
    schema = schema if isinstance(schema, dict) else {}
    if _is_date(value, before):
        return _moment(value[DATE])
    if isinstance(value, dict):
        properties, old = _properties(schema), before if isinstance(before, dict) else {}
        return {
            name: coerce(item, properties.get(name, schema.get("additionalProperties")), old.get(name))
            for name, item in value.items()
        }
    if isinstance(value, list):
        old_items = before if isinstance(before, list) and before else [None]
        # An item that is added to a list gets the types of the last one.
        return [
            coerce(item, schema.get("items"), old_items[min(place, len(old_items) - 1)])
            for place, item in enumerate(value)
        ]
    if isinstance(value, str):
        return _coerce_text(value, before)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _coerce_number(value, schema, before)
    return value


def merge_patch(record: Any, patch: Any, schema: Any = None) -> Any:
    """
    Apply a JSON merge patch (RFC 7396) to *record*; values keep their types.
    """
    if not isinstance(patch, dict) or _is_date(patch, record):
        return coerce(patch, schema, record)
    merged = dict(record) if isinstance(record, dict) else {}
    properties = _properties(schema)
    for name, item in patch.items():
        if item is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), item, properties.get(name))
    return merged


def narrowed(value: Any) -> Any:
    """
    Return *value* with its integers beyond 64 bits as floats, which TOML can hold.

    The value that such a number replaces decides whether it may be a float; to find that value, the record
    needs a path.

    Raises:
        OverflowError: A number is beyond what a float holds.
    """
    if isinstance(value, dict):
        return {name: narrowed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [narrowed(item) for item in value]
    is_wide = isinstance(value, int) and not -(2**63) <= value < 2**63
    return float(value) if is_wide else value


def unstorable(value: Any, field: str = "") -> list[dict[str, str]]:
    """
    Return one ``{"field", "message"}`` for each value that TOML or gitsheets cannot hold.
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
        {"field": name, "message": "a list cannot hold null"}
        for name, item in inner
        if in_list and item is None
    ]
    return nulls + [found for name, item in inner for found in unstorable(item, name)]


def number_of(text: str) -> int | float:
    """
    Read a JSON number that has a point or an exponent.

    A whole number that a float cannot hold, such as 9007199254740993.0, is an integer.

    Raises:
        ValueError: It is beyond what a float holds.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond what a float holds")
    if abs(value) < 2**53:
        return value
    exact = Decimal(text)
    if exact != exact.to_integral_value() or int(exact) not in INTEGERS:
        return value
    return value if _is_written(value, int(exact)) else int(exact)


def _is_date(value: Any, before: Any) -> bool:
    """
    Whether *value* is marked as a date-time. Where it replaces a table, it is a table.
    """
    return isinstance(value, dict) and value.keys() == {DATE} and not isinstance(before, dict)


def _moment(text: Any) -> datetime | _Refused:
    parsed = _DATE_TIME.fullmatch(text) if isinstance(text, str) else None
    if parsed is None:
        return _Refused(f"{DATE} is not an RFC 3339 date-time, such as 2026-01-31T10:00:00Z")
    if (parsed["fraction"] or "")[_MILLISECOND_DIGITS:].strip("0"):
        return _Refused("the date-time is more precise than a millisecond, which gitsheets would truncate")
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError as exc:
        return _Refused(f"the date-time does not exist: {exc}")


def _coerce_text(value: str, before: Any) -> Any:
    if isinstance(before, float) and value in _NOT_FINITE:
        return float(value)
    if isinstance(before, datetime) and _DATE_TIME.fullmatch(value):
        return _moment(value)
    return value


def _coerce_number(value: float, schema: dict[str, Any], before: Any) -> int | float:
    if isinstance(before, float):
        return _as_float(value, before) if isinstance(value, int) else value
    is_integer = (isinstance(before, int) and not isinstance(before, bool)) or (
        before is None and schema.get("type") == "integer"
    )
    return _as_integer(value) if is_integer and isinstance(value, float) else value


def _as_float(value: int, before: float) -> int | float:
    if value == before:
        return before  # 0 replaces -0.0
    with contextlib.suppress(OverflowError):
        if _is_written(float(value), value):
            return float(value)
    return value


def _as_integer(value: float) -> int | float:
    if not value.is_integer() or (value == 0 and math.copysign(1, value) < 0):
        return value
    whole = int(Decimal(repr(value)))
    return whole if whole in INTEGERS else value


def _is_written(number: float, whole: int) -> bool:
    """
    Whether *whole* is exactly *number*, or the digits that JSON writes for it.
    """
    return number == whole or Decimal(repr(number)) == whole


def _properties(schema: Any) -> dict[str, Any]:
    found = schema.get("properties") if isinstance(schema, dict) else None
    return found if isinstance(found, dict) else {}


def _unstorable(value: Any) -> str:
    if isinstance(value, _Refused):
        return value.message
    if isinstance(value, int) and value not in INTEGERS:
        return "the number is larger than 64 bits"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "the text holds half of a surrogate pair, which is not valid Unicode"
    return ""
