"""
Values of TOML that JSON has not, marked: ``{"$date": "2026-01-31T10:00:00Z"}``, ``{"$float": "nan"}``.

A list in JSON shows a date-time as a string, which is enough to read it. A record that leaves as a line of a
file and returns must come back with the same types, so there each value that JSON has not is marked.
"""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from typing import Any

from ferry.app.records.json_form import to_json
from ferry.app.records.toml_types import DATE

FLOAT = "$float"


def marked(value: Any) -> Any:
    """
    Return *value* in the types that JSON has; a date-time, ``nan`` or an infinity is marked.
    """
    if isinstance(value, dict):
        return {name: marked(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [marked(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(value)}
    return {DATE: to_json(value)} if isinstance(value, (datetime, date, time)) else value


def unmarked(value: Any) -> Any:
    """
    Return what ``marked`` was given. A date-time stays marked: ``toml_types.coerce`` reads it.
    """
    if isinstance(value, dict):
        if value.keys() == {FLOAT} and value[FLOAT] in ("nan", "inf", "-inf"):
            return float(value[FLOAT])
        return {name: unmarked(item) for name, item in value.items()}
    return [unmarked(item) for item in value] if isinstance(value, list) else value


def to_text(value: Any) -> str:
    """
    Return *value* as JSON in one line, marked.
    """
    return json.dumps(marked(value), ensure_ascii=False, separators=(",", ":"))
