"""
Records as JSON and back.

JSON has no dates: they are written as RFC 3339 strings. JSON has no ``nan`` and ``inf``: they are written as
the strings ``"nan"``, ``"inf"`` and ``"-inf"``. ``ferry.app.records.toml_types`` restores the TOML types of
values that come back.
"""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from typing import Any, NoReturn

from ferry.app.errors import InvalidJsonError
from ferry.app.records.toml_types import number_of

MAX_DEPTH = 32  # gitsheets reads back no more than 80 levels of TOML


def to_json(value: Any) -> Any:
    """
    Return *value* in the types that JSON has.
    """
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, time)):
        return value.isoformat()
    return value


def read_record(body: bytes) -> dict[str, Any]:
    """
    Read one record, a JSON object, from a request's body.

    Raises:
        InvalidJsonError: The body is not a JSON object, holds an invalid number, names a field twice, or is
            nested too deeply.
    """
    try:
        value = json.loads(
            body, parse_constant=_refuse_constant, parse_float=number_of, object_pairs_hook=_refuse_repeats
        )
    except RecursionError:
        raise InvalidJsonError("The body is nested too deeply.") from None
    except ValueError as exc:  # JSONDecodeError and UnicodeDecodeError too
        raise InvalidJsonError(f"The body is not JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise InvalidJsonError("The body is not a JSON object.")
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidJsonError(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a field occurs twice in one object")
    return record
