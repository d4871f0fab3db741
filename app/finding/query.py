"""
The query of a list: which records, in which order, with which fields.

    ?status=open&status=new              equals one of them
    ?age[gte]=18&age[lt]=65              both
    ?or[0][age][lt]=18&or[1][city]=Bonn  one of the two
    ?not[name][startswith]=A             the opposite
    ?q=bonn%20libr                       has a text with each of these words, whatever case and accents
    ?path=jane&path=joe                  only these records
    ?sort=-age,name                      descending, then ascending; records without the field come last
    ?fields=name,address.city            only these
    ?.colour=red&sort=.colour            a field that the schema allows and does not declare

The brackets are those of qs and Strapi (docs/decisions/0032-filters-in-brackets.md); ``comparisons`` has the
operators. A dot separates the name of a table from a field in it. A name that is no parameter and no declared
field is refused: it is a slip more often than a field.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from ferry.app.finding.comparisons import OPERATORS, Test, moment_of
from ferry.app.finding.fields import Fields
from ferry.app.finding.search import text_of, words_of
from ferry.app.problems import Problem, did_you_mean
from ferry.app.records.codec import Record
from ferry.app.records.json_form import MAX_DEPTH
from ferry.app.store.table import Item, Table

RESERVED = ("limit", "cursor", "sort", "fields", "at", "q", "path", "format")
GROUPS = ("or", "and", "not")
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\])*)")
MOST_PATHS = 100  # each is read by itself
_MOST_FILTERS = 50
_MOST_VALUES = 1000  # of all filters
_MOST_GROUPS = 5  # within each other
_MOST_SORTED = 8  # each sorts all matching records once more
_MOST_FIELDS = 100
_FEW = 16  # a part of the table as small as this is sorted by itself

Rows = Sequence[int]  # positions in the table of all records
Condition = Callable[[Table, Rows], Rows]  # takes and returns ascending ones
Order = tuple[tuple[tuple[str, ...], bool], ...]  # fields, each with whether it sorts in descending order


@dataclass(frozen=True, slots=True)
class Query:
    """
    The filters, the order and the fields of a list.

    Attributes:
        condition: What a record must pass.
        order: What to sort by, the most significant first.
        fields: The only fields to show; None: all.
        paths: The only records to look at, sorted; none: the whole sheet.
    """

    condition: Condition
    order: Order
    fields: tuple[tuple[str, ...], ...] | None
    paths: tuple[str, ...] = ()

    def select(self, table: Table) -> Sequence[Item]:
        """
        Return the records that pass the filters, in order.
        """
        rows = self.condition(table, range(len(table)))
        if self.order:
            rows = _ordered(table, rows, self.order)
        elif len(rows) == len(table):
            return table
        return [table[row] for row in rows]

    def shown(self, record: Record) -> Record:
        """
        Return *record* with the fields that the query asks for.
        """
        if self.fields is None:
            return record
        part: Record = {}
        for field in self.fields:
            value = _value(record, field)
            if value is not None:
                into = part
                for name in field[:-1]:
                    into = into.setdefault(name, {})
                into[field[-1]] = value
        return part


@dataclass(frozen=True, slots=True)
class _Filter:
    """
    A parameter that filters.

    Attributes:
        parameter: Its name, for messages.
        parts: What its name consists of: ``or[0][age][lt]`` of four parts.
        values: Its values.
    """

    parameter: str
    parts: tuple[str, ...]
    values: list[str]


def query_of(arguments: Iterable[tuple[str, list[str]]], fields: Fields) -> Query:
    """
    Read a query from the parameters of a request.

    Args:
        fields: Those of the sheet.

    Raises:
        Problem: 400; it names the invalid parameter.
    """
    given = dict(arguments)
    order = tuple(
        (_field(name.removeprefix("-"), "sort", fields), name.startswith("-"))
        for name in _names("sort", given.get("sort", []), _MOST_SORTED)
    )
    shown = (
        tuple(_field(name, "fields", fields) for name in _names("fields", given["fields"], _MOST_FIELDS))
        if "fields" in given
        else None
    )
    asked = {name: values for name, values in given.items() if name not in RESERVED}
    if len(asked) > _MOST_FILTERS:
        raise _invalid("filters", f"there are more than {_MOST_FILTERS}")
    if sum(1 + value.count(",") for values in asked.values() for value in values) > _MOST_VALUES:
        raise _invalid("filters", f"there are more than {_MOST_VALUES} values")
    filters = [_Filter(name, _parts(name), values) for name, values in asked.items()]
    conditions = [*_conditions(filters, fields), *_search(given.get("q", []))]
    paths = tuple(sorted(set(given.get("path", []))))
    if len(paths) > MOST_PATHS:
        raise _invalid("path", f"there are more than {MOST_PATHS}")
    return Query(_all_of(conditions), order, shown, paths)


def _parts(parameter: str) -> tuple[str, ...]:
    parsed = _NAME.fullmatch(parameter)
    if parsed is None:
        raise _invalid(parameter, "is not a field; name one as in name, address.city or age[gte]")
    return (parsed[1], *parsed[2][1:-1].split("][")) if parsed[2] else (parsed[1],)


def _conditions(filters: Iterable[_Filter], fields: Fields, depth: int = 0) -> list[Condition]:
    """
    Return the conditions that *filters* state, all of which must hold.
    """
    found: list[Condition] = []
    groups: dict[str, dict[str, list[_Filter]]] = {}
    for each in filters:
        word = each.parts[0]
        if word in GROUPS:
            number, *rest = _inside(each, depth)
            groups.setdefault(word, {}).setdefault(number, []).append(replace(each, parts=tuple(rest)))
        else:
            found.append(_condition(each, fields))
    for word, members in groups.items():
        inner = [_all_of(_conditions(member, fields, depth + 1)) for member in members.values()]
        found.append({"or": _any_of, "and": _all_of, "not": _none_of}[word](inner))
    return found


def _inside(filter_: _Filter, depth: int) -> Sequence[str]:
    """
    Return the number of the alternative and the parts after it; the number is "" in ``not``, which has one.
    """
    word, *rest = filter_.parts
    if depth == _MOST_GROUPS:
        raise _invalid(
            filter_.parameter, f"has more than {_MOST_GROUPS} of {', '.join(GROUPS)} in each other"
        )
    if word == "not" and rest:
        return ["", *rest]
    if len(rest) < 2 or not re.fullmatch("[0-9]{1,4}", rest[0]):
        example = "not[name]=A" if word == "not" else f"{word}[0][name]=A&{word}[1][age][lt]=18"
        raise _invalid(
            filter_.parameter, f"write {example}, and .{word} for a field that has the name {word!r}"
        )
    return rest


def _condition(filter_: _Filter, fields: Fields) -> Condition:
    name, *rest = filter_.parts
    word = rest[0] if rest else "eq"
    field = _field(name, filter_.parameter, fields)
    if len(rest) > 1 or word not in OPERATORS:
        raise _invalid(
            filter_.parameter,
            f"unknown operator {']['.join(rest)[:80]!r}{did_you_mean(word, OPERATORS)}; "
            f"use one of {', '.join(OPERATORS)}",
        )
    try:
        return _on(field, OPERATORS[word].read(filter_.values, fields.kinds(field)))
    except ValueError as exc:
        raise _invalid(filter_.parameter, str(exc)) from exc


def _search(searches: Sequence[str]) -> list[Condition]:
    try:
        words = words_of(searches)
    except ValueError as exc:
        raise _invalid("q", str(exc)) from exc

    def passing(table: Table, rows: Rows) -> Rows:
        texts = table.column(text_of)
        for word in words:
            rows = [row for row in rows if word in texts[row]]
        return rows

    return [passing] if words else []


def _on(field: tuple[str, ...], test: Test) -> Condition:
    def passing(table: Table, rows: Rows) -> Rows:
        values = _values(table, field)
        if len(rows) == len(table):
            return list(compress(rows, map(test, values)))
        return [row for row in rows if test(values[row])]

    return passing


def _values(table: Table, field: tuple[str, ...]) -> Sequence[Any]:
    return table.kept(field, lambda: [_value(record, field) for _, record in table])


def _all_of(conditions: Sequence[Condition]) -> Condition:
    def passing(table: Table, rows: Rows) -> Rows:
        for condition in conditions:
            rows = condition(table, rows)
        return rows

    return passing


def _any_of(conditions: Sequence[Condition]) -> Condition:
    def passing(table: Table, rows: Rows) -> Rows:
        found: set[int] = set()
        for condition in conditions:
            rest = [row for row in rows if row not in found] if found else rows
            found.update(condition(table, rest))
        return sorted(found)

    return passing


def _none_of(conditions: Sequence[Condition]) -> Condition:
    def passing(table: Table, rows: Rows) -> Rows:
        refused = set(_any_of(conditions)(table, rows))
        return [row for row in rows if row not in refused]

    return passing


def _names(parameter: str, values: list[str], most: int) -> list[str]:
    names = [name for value in values for name in value.split(",")]
    if len(names) > most:
        raise _invalid(parameter, f"names more than {most} fields")
    return names


def _field(name: str, parameter: str, fields: Fields) -> tuple[str, ...]:
    parts = tuple(name.removeprefix(".").split("."))
    if not all(parts):
        raise _invalid(parameter, "a field's name is empty")
    if len(parts) > MAX_DEPTH:
        raise _invalid(parameter, f"a field lies in more than {MAX_DEPTH - 1} tables")
    place = fields.find(parts)
    if place == "nowhere" or (place == "open" and not name.startswith(".")):
        raise _invalid(parameter, _unknown(parts, parameter, fields, is_open=place == "open"))
    return parts


def _unknown(parts: tuple[str, ...], parameter: str, fields: Fields, *, is_open: bool) -> str:
    words = (*RESERVED, *GROUPS) if parameter not in ("sort", "fields") else ()
    name, known = ".".join(parts), [*fields.names, *words]
    said = f"{fields.sheet} declares no field {name[:80]!r}{did_you_mean(name, known)}"
    return f"{said}; it allows others, which are written .{name[:80]}" if is_open else said


def _value(record: Record, field: tuple[str, ...]) -> Any:
    value: Any = record
    for name in field:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _ordered(table: Table, rows: Rows, order: Order) -> Rows:
    """
    Return *rows* in *order*. The order of the whole table is kept, unless a few rows are sorted faster.
    """
    if len(rows) < len(table) / _FEW:
        return _sorted(table, rows, order)
    whole = table.kept(("order", order), lambda: array("I", _sorted(table, range(len(table)), order)))
    if len(rows) == len(table):
        return whole
    passes = bytearray(len(table))
    for row in rows:
        passes[row] = True
    return [row for row in whole if passes[row]]


def _sorted(table: Table, rows: Rows, order: Order) -> Rows:
    for field, descending in reversed(order):
        values = _values(table, field)
        having = [row for row in rows if values[row] is not None]
        without = [row for row in rows if values[row] is None]
        keys: Any = values
        if {type(values[row]) for row in having} not in ({str}, {int}):
            keys = {row: _rank(values[row]) for row in having}
        rows = sorted(having, key=keys.__getitem__, reverse=descending) + without
    return rows


def _rank(value: Any) -> tuple[int, Any]:
    """
    Return a sort key that orders values of one type by size, and keeps types apart.
    """
    if isinstance(value, bool):
        return (3, value)
    if isinstance(value, (int, float)):
        return (0, -math.inf if isinstance(value, float) and math.isnan(value) else value)
    if isinstance(value, str):
        return (2, value)
    moment = moment_of(value)
    return (4, str(value)) if moment is None else (1, moment)


def _invalid(parameter: str, detail: str) -> Problem:
    return Problem(
        400,
        "query-invalid",
        f"{parameter}: {detail}.",
        "Filters are field=value, field[gte]=value or or[0][field]=value; see docs/reference/http.md.",
        parameter=parameter,
    )
