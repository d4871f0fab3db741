"""
The columns of a sheet as a table: one for each field, those of tables by their dotted names.

``address.city`` is the field ``city`` of the table ``address``, as in filters. A name that holds a dot or a
quotation mark, or nothing, stands in quotation marks, as TOML writes it: ``links."example.org"``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ferry.app.exchange.cells import Kind, guarded, kind_of, unguarded
from ferry.app.finding.fields import Fields
from ferry.app.records.codec import Record
from ferry.app.sheets.sheet import Sheet

Field = tuple[str, ...]

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[^".]+')
_NAME = re.compile(rf"(?:{_PART.pattern})(?:\.(?:{_PART.pattern}))*")
_MOST_DEEP = 31  # tables in each other, see ``json_form.MAX_DEPTH``


class Columns:
    """
    How the cells of one sheet's columns are read and written.

    Args:
        sheet: The sheet.
        fields: What is known of its fields.
    """

    def __init__(self, sheet: Sheet, fields: Fields) -> None:
        self._fields = fields
        self._texts = {(name,) for name in (sheet.body_field, sheet.title_field) if name}

    def kind(self, field: Field) -> Kind:
        """
        Return how the cells of *field* are read.
        """
        return "text" if field in self._texts else kind_of(self._fields.schemas_of(field))

    def of(self, records: Iterable[Record]) -> list[Field]:
        """
        Return a column for each field that is declared or that one of *records* has, the declared ones first.
        """
        found = dict.fromkeys(field for schema in self._fields.schemas for field in _declared(schema, ()))
        found |= dict.fromkeys((name,) for name in self._fields.names if (name,) in self._texts)
        for record in records:
            for field, _ in leaves(record):
                if field not in found:
                    found[field] = None
        return list(found)


def leaves(table: Mapping[str, Any], above: Field = ()) -> Iterator[tuple[Field, Any]]:
    """
    Yield each field of *table* that is no table with fields, and its value.
    """
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def put(record: Record, field: Field, value: Any) -> None:
    """
    Set *field* of *record* to *value*; makes the tables on the way.

    Raises:
        ValueError: A field on the way is no table, or the field has a value already.
    """
    table = record
    for name in field[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ValueError(f"the record has a value in the place of the table {name!r}")
    if field[-1] in table:
        raise ValueError(f"the record has a table in the place of the field {field[-1]!r}")
    table[field[-1]] = value


def name_of(field: Field) -> str:
    """
    Return the name of the column of *field*.
    """
    parts = (part if _PART.fullmatch(part) and part[0] != '"' else json.dumps(part) for part in field)
    return guarded(".".join(parts))


def field_of(name: str) -> Field:
    """
    Return the field of the column *name*.

    Raises:
        ValueError: It names none.
    """
    text = unguarded(name)
    found = _PART.findall(text) if _NAME.fullmatch(text) else []
    try:
        parts = tuple(json.loads(part) if part[0] == '"' else part for part in found)
    except ValueError:
        parts = ()
    if not 0 < len(parts) <= _MOST_DEEP:
        raise ValueError(f"{name[:80]!r} is no field; name one as in name or address.city")
    return parts


def _declared(schema: Mapping[str, Any], above: Sequence[str]) -> Iterator[Field]:
    for name, inner in schema.get("properties", {}).items():
        field = (*above, name)
        if isinstance(inner, dict) and "properties" in inner and len(field) < _MOST_DEEP:
            yield from _declared(inner, field)
        elif not isinstance(inner, dict) or inner.get("type") != "object":
            yield field
