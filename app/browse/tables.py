"""
A sheet as a table: its columns, its rows, what sorts and filters it, and where its pages are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode

from werkzeug.datastructures import MultiDict

from ferry.app.api.records import Found
from ferry.app.browse.values import line_of, title_of
from ferry.app.finding.comparisons import OPERATORS
from ferry.app.finding.fields import Fields
from ferry.app.finding.query import GROUPS, RESERVED

MOST_COLUMNS = 7  # that are shown without being asked for
_MOST_CONDITIONS = 50  # each has a link with the whole query
_WORDS = {
    "eq": "is",
    "ne": "is not",
    "in": "is one of",
    "gt": ">",
    "gte": "≥",
    "lt": "<",
    "lte": "≤",
    "startswith": "begins with",
}

Query = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    One field of the table.

    Attributes:
        name: As a query names the field.
        title: The title that the schema gives it, else its name.
        sorted: ``ascending``, ``descending`` or "".
        sort_by: The query that sorts by it, or turns the order.
    """

    name: str
    title: str
    sorted: str
    sort_by: str


@dataclass(frozen=True, slots=True)
class Condition:
    """
    One filter of the query.

    Attributes:
        words: What it asks for.
        without: The query without it.
    """

    words: str
    without: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """
    What the page of a sheet shows.

    Attributes:
        columns: The fields in it.
        others: Fields that are not in it, each with its name in a query and its title.
        rows: Path and cells of each record.
        conditions: The filters of the query.
        fields: The fields that a filter may name, likewise.
        operators: What a filter may ask, by its name in a query, with the words for it.
        query: The query without its cursor, for the forms that add to it.
    """

    columns: list[Column]
    others: list[tuple[str, str]]
    rows: list[tuple[str, list[str]]]
    conditions: list[Condition]
    fields: list[tuple[str, str]]
    operators: Mapping[str, str]
    query: Query


def table_of(found: Found, arguments: MultiDict[str, str]) -> Table:
    """
    Lay out the records of *found*, which the query *arguments* asked for.
    """
    query = [(name, value) for name, value in arguments.items(multi=True) if name != "cursor"]
    known = _known(found)
    asked = [name for value in arguments.getlist("fields") for name in value.split(",")]
    shown = asked or [name for name in known if name not in _of_path(found)][:MOST_COLUMNS]
    titles = {name: _title(name, found.fields) for name in dict.fromkeys([*shown, *known])}
    return Table(
        columns=[_column(name, titles[name], query) for name in shown],
        others=[(name, titles[name]) for name in known if name not in shown],
        rows=[
            (each["path"], [line_of(_value(each["record"], name)) for name in shown])
            for each in found.shown.entries
        ],
        conditions=[*islice(_conditions(query, titles), _MOST_CONDITIONS)],
        fields=[(name, titles[name]) for name in known],
        operators={name: _WORDS.get(name, name) for name in OPERATORS},
        query=query,
    )


def with_filter(query: str, field: str, operator: str, value: str) -> str:
    """
    Return *query* with one more filter; without a cursor, which belongs to another query.
    """
    name = field if operator in ("", "eq") else f"{field}[{operator}]"
    value = value or ("true" if operator == "exists" else "")
    kept = [(key, each) for key, each in parse_qsl(query, keep_blank_values=True) if key != "cursor"]
    return urlencode([*kept, (name, value)])


def _known(found: Found) -> list[str]:
    """
    Return the fields that the schemas declare or the shown records have, as a query names them.
    """
    there = (name for each in found.shown.entries for name in each["record"])
    return [
        named
        for name in dict.fromkeys([*found.fields.names, *there])
        if (named := _named(name, found.fields)) is not None
    ]


def _named(name: str, fields: Fields) -> str | None:
    """
    Return the field *name* as a query names it; None if a query cannot.
    """
    if not name or set(name) & set(".,[]"):
        return None
    place = fields.find((name,))
    if place == "nowhere":
        return None
    return f".{name}" if place == "open" or name in (*RESERVED, *GROUPS) else name


def _of_path(found: Found) -> Collection[str]:
    """
    Return the field that the records' path repeats, if there is one.
    """
    names = found.sheet.names.fields if found.sheet.names else ()
    return names if len(names) == 1 else ()


def _title(name: str, fields: Fields) -> str:
    *tables, last = name.removeprefix(".").split(".")
    return last if tables else title_of(fields.schemas, last)


def _column(name: str, title: str, query: Query) -> Column:
    order = [part for key, value in query if key == "sort" for part in value.split(",")]
    first = order[0] if order else ""
    how = {name: "ascending", f"-{name}": "descending"}.get(first, "")
    rest = [(key, value) for key, value in query if key != "sort"]
    by = f"-{name}" if how == "ascending" else name
    return Column(name=name, title=title, sorted=how, sort_by=urlencode([*rest, ("sort", by)]))


def _conditions(query: Query, titles: Mapping[str, str]) -> Iterator[Condition]:
    for number, (key, value) in enumerate(query):
        if key not in RESERVED or key == "path":
            without = urlencode([pair for other, pair in enumerate(query) if other != number])
            yield Condition(_said(key, value, titles), without)


def _said(key: str, value: str, titles: Mapping[str, str]) -> str:
    field, _, rest = key.partition("[")
    operator = rest.removesuffix("]")
    if field in GROUPS or (operator and operator not in OPERATORS):
        return f"{key} = {value}"  # as the query says it
    return f"{titles.get(field, field)} {_WORDS.get(operator or 'eq', operator)} {value or '(empty)'}"


def _value(record: Mapping[str, Any], name: str) -> Any:
    value: Any = record
    for part in name.removeprefix(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
