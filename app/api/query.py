"""
The query of a list: which records, in which order, with which fields.

    ?status=open&status=new          equals one of them
    ?age[gte]=18&age[lt]=65          compares numbers and dates: gt, gte, lt, lte
    ?city[in]=Berlin,Bonn            the same as city=Berlin&city=Bonn
    ?city[ne]=Bonn                   is not
    ?sort=-age,name                  descending, then ascending; records without the field come last
    ?fields=name,address.city        only these
    ?.colour=red&sort=.colour        a field that the schema allows and does not declare

A dot separates the name of a table from a field in it. A list equals a value if one of its items does.
A name that is no parameter and no declared field is refused: it is a slip more often than a field.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from ferry.app.api.fields import Fields
from ferry.app.problems import Problem, did_you_mean
from ferry.app.records.codec import Record
from ferry.app.records.json_form import MAX_DEPTH, to_json

RESERVED = ("limit", "cursor", "sort", "fields", "at")
OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
# By operator, "" for none: which records pass.
MEANINGS = {
    "": "Only records whose {field} is this, or one of several.",
    "ne": "Only records whose {field} is not this.",
    "in": "Only records whose {field} is one of these, separated by commas.",
    "gt": "Only records whose {field} is greater or later than this number or date.",
    "gte": "Only records whose {field} is at least this number or date.",
    "lt": "Only records whose {field} is less or earlier than this number or date.",
    "lte": "Only records whose {field} is at most this number or date.",
}
_NAME = re.compile(r"(?P<field>[^\[\]]+)(?:\[(?P<operator>[^\[\]]*)\])?")
_MOST_FILTERS = 50
_MOST_VALUES = 1000  # of all filters
_MOST_SORTED = 8  # each sorts all matching records once more
_MOST_FIELDS = 100

_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?|inf)")

Operand = Decimal | datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """
    One condition on one field.

    Attributes:
        field: The names on the way to it: the tables, and the field.
        test: Takes the field's value, or None if the record has none.
    """

    field: tuple[str, ...]
    test: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Query:
    """
    The filters, the order and the fields of a list.

    Attributes:
        filters: A record must pass all of them.
        order: Fields to sort by, each with whether it sorts in descending order.
        fields: The only fields to show; None: all.
    """

    filters: tuple[Filter, ...]
    order: tuple[tuple[tuple[str, ...], bool], ...]
    fields: tuple[tuple[str, ...], ...] | None

    def select(self, records: Sequence[tuple[str, Record]]) -> Sequence[tuple[str, Record]]:
        """
        Return the records that pass the filters, in order.
        """
        found: Sequence[tuple[str, Record]] = records
        for condition in self.filters:
            field, test = condition.field, condition.test
            if len(field) == 1:
                name = field[0]
                found = [item for item in found if test(item[1].get(name))]
            else:
                found = [item for item in found if test(_value(item[1], field))]
        for field, descending in reversed(self.order):
            found = _sorted(found, field, descending=descending)
        return found

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
    filters = tuple(_filter(name, values, fields) for name, values in asked.items())
    return Query(filters, order, shown)


def _filter(parameter: str, values: list[str], fields: Fields) -> Filter:
    parsed = _NAME.fullmatch(parameter)
    if parsed is None:
        raise _invalid(parameter, "is not a field; name one as in name, address.city or age[gte]")
    word = parsed["operator"]
    field = _field(parsed["field"], parameter, fields)
    if word is None or word == "eq":
        return Filter(field, _equals(values))
    if word == "in":
        return Filter(field, _equals([item for value in values for item in value.split(",")]))
    if word == "ne":
        equals = _equals(values)
        return Filter(field, lambda value: not equals(value))
    if word not in OPERATORS:
        raise _invalid(parameter, f"unknown operator {word!r}; use one of eq, ne, in, {', '.join(OPERATORS)}")
    compares = [_compares(OPERATORS[word], _operand(parameter, value)) for value in values]
    return Filter(field, lambda value: all(compare(value) for compare in compares))


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
    name, known = ".".join(parts), [*fields.names, *(RESERVED if parameter not in ("sort", "fields") else ())]
    said = f"{fields.sheet} declares no field {name[:80]!r}{did_you_mean(name, known)}"
    return f"{said}; it allows others, which are written .{name[:80]}" if is_open else said


def _value(record: Record, field: tuple[str, ...]) -> Any:
    value: Any = record
    for name in field:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _equals(values: list[str]) -> Callable[[Any], bool]:
    wanted = frozenset(values)
    numbers = frozenset(Decimal(text) for text in wanted if _NUMBER.fullmatch(text))

    def test_one(value: Any) -> bool:
        if _text(value) in wanted:
            return True
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _exact(value) in numbers

    def test(value: Any) -> bool:
        kind = type(value)
        if kind is str or (kind is int and not numbers):  # the most frequent types, tested for each record
            return str(value) in wanted
        return any(map(test_one, value)) if isinstance(value, list) else test_one(value)

    return test


def _exact(value: float) -> Decimal:
    """
    Return a number exactly as JSON shows it.
    """
    return Decimal(value if isinstance(value, int) else repr(value))


def _text(value: Any) -> str | None:
    """
    Return *value* as a query writes it, or None if a query cannot.
    """
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None or isinstance(value, (dict, list)) else str(to_json(value))


def _operand(parameter: str, text: str) -> Operand:
    moment = _moment(text)
    if moment is not None:
        return moment
    if not _NUMBER.fullmatch(text):
        raise _invalid(parameter, f"{text[:40]!r} is neither a number nor a date, such as 2026-01-31")
    return Decimal(text)


def _compares(compare: Callable[[Any, Any], bool], operand: Operand) -> Callable[[Any], bool]:
    if isinstance(operand, datetime):

        def test_moment(value: Any) -> bool:
            moment = _moment(value)
            return moment is not None and compare(moment, operand)

        return test_moment
    rounded = float(operand)

    def test(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            return False
        # Only a float equal to the rounded operand needs the exact digits.
        exactly = isinstance(value, int) or value == rounded
        return compare(_exact(value), operand) if exactly else compare(value, rounded)

    return test


def _moment(value: Any) -> datetime | None:
    """
    Return a date or date-time, or the text of one, as a moment. Without an offset it is UTC.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if "-" in value[1:] else None
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return None


def _sorted(
    records: Sequence[tuple[str, Record]], field: tuple[str, ...], *, descending: bool
) -> list[tuple[str, Record]]:
    with_it = [(item, value) for item in records if (value := _value(item[1], field)) is not None]
    without = [item for item in records if _value(item[1], field) is None]
    with_it.sort(key=lambda pair: _rank(pair[1]), reverse=descending)
    return [item for item, _ in with_it] + without


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
    moment = _moment(value)
    return (4, str(value)) if moment is None else (1, moment)


def _invalid(parameter: str, detail: str) -> Problem:
    return Problem(
        400,
        "query-invalid",
        f"{parameter}: {detail}.",
        "Filters are field=value or field[gte]=value; see docs/reference/http.md.",
        parameter=parameter,
    )
