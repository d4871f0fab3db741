"""
One value in one cell of a CSV file, and back.

An empty cell is a missing field, and ``""`` is an empty text. What a cell means depends on the column: in a
column that the schema declares as text, each cell is its text. In a column of another type or of none, a cell
that is JSON is that value, such as ``2016``, ``true`` or ``["a","b"]``, and any other is text. A value that
its column would read as another one is marked: ``{"$value": "2016"}``.

Spreadsheets run a cell as a formula that begins with ``=``, ``@``, ``+`` or ``-``. Such a text gets an
apostrophe before it, which is removed when it is read. Numbers and telephone numbers are not formulas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any, Literal

from ferry.app.exchange.marks import marked, to_text, unmarked
from ferry.app.records.json_form import to_json
from ferry.app.records.toml_types import DATE, number_of

Kind = Literal["text", "date", "boolean", "any"]

VALUE = "$value"
EMPTY = '""'
_MARKED = '{"$'
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]+)?(?:Z|[+-][0-9:]{5})", re.ASCII)
_FORMULA = re.compile(r"'*(?:[=@\t\r]|[+-](?![0-9 ()./-]*\Z))")
_WORDS = {"true": True, "false": False}


def kind_of(schemas: Iterable[Mapping[str, Any]]) -> Kind:
    """
    Return how the cells of a column are read whose field has these *schemas*.
    """
    found = list(schemas)
    types = {str(schema.get("type")) for schema in found}
    if types == {"string"}:
        return "date" if any(schema.get("format") == "date-time" for schema in found) else "text"
    return "boolean" if types == {"boolean"} else "any"


def to_cell(value: Any, kind: Kind) -> str:
    """
    Return the cell for *value*; None is a missing field.
    """
    if value is None:
        return ""
    if type(value) is str and value[:1].isalpha() and (kind == "text" or value.lower() not in _WORDS):
        return value  # most values; what follows takes ten times as long
    plain = _plain(value, kind)
    if _same(of_cell(plain, kind), value):
        return plain
    found = to_text(value)
    is_marked = isinstance(value, (datetime, date, time, float)) and found.startswith(_MARKED)
    return found if is_marked else to_text({VALUE: value})


def of_cell(cell: str, kind: Kind) -> Any:
    """
    Return the value of a *cell*, with a date-time marked; None if the field is missing.
    """
    if cell == "":
        return None
    if cell == EMPTY:
        return ""
    if cell.startswith(_MARKED) and (found := _of_mark(cell)) is not None:
        return found
    if kind == "boolean" and cell.lower() in _WORDS:  # as a spreadsheet writes it
        return _WORDS[cell.lower()]
    if kind in ("any", "boolean"):
        return _of_any(cell)
    if kind == "date" and _MOMENT.fullmatch(cell):
        return {DATE: cell}
    return unguarded(cell)


def guarded(text: str) -> str:
    """
    Return *text* with an apostrophe before it if a spreadsheet would run it as a formula.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """
    Return what ``guarded`` was given.
    """
    return text[1:] if text[:1] == "'" and _FORMULA.match(text, 1) else text


def _plain(value: Any, kind: Kind) -> str:
    """
    Return the cell that people expect for *value*, whether or not it can be read back.
    """
    if isinstance(value, str):
        text = guarded(value) if value else EMPTY
        return text if kind in ("text", "date") or _same(_of_any(text), value) else to_text(value)
    return str(to_json(value)) if isinstance(value, (datetime, date, time)) else to_text(value)


def _of_any(cell: str) -> Any:
    if cell == EMPTY:
        return ""
    if _MOMENT.fullmatch(cell):
        return {DATE: cell}
    if cell in _WORDS:
        return _WORDS[cell]
    if _NUMBER.fullmatch(cell) or cell[0] in '[{"':
        try:
            return _parsed(cell)
        except (ValueError, RecursionError):
            return cell
    return unguarded(cell)


def _of_mark(cell: str) -> Any:
    """
    Return the value of a cell that is marked; None if it only looks so.
    """
    try:
        found = json.loads(cell, parse_float=number_of)
    except (ValueError, RecursionError):
        return None
    if found.keys() == {VALUE}:
        return unmarked(found[VALUE])
    value = unmarked(found)
    return (
        value if isinstance(value, float) or (found.keys() == {DATE} and type(found[DATE]) is str) else None
    )


def _parsed(cell: str) -> Any:
    return unmarked(json.loads(cell, parse_float=number_of))


def _same(read: Any, value: Any) -> bool:
    """
    Whether *read*, in which date-times are marked, is *value*, in the same types.
    """
    return repr(marked(read)) == repr(marked(value))
