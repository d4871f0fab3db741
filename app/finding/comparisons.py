"""
What a filter's operator asks of a field's value: ``age[gte]=18`` asks for a number that is at least 18.

A list passes if one of its items does. ``ne`` is the opposite of ``eq``, so it asks that no item equals.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from ferry.app.finding.fields import Kind
from ferry.app.records.json_form import to_json

Test = Callable[[Any], bool]  # takes a field's value, or None if the record has none

_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?|inf)")
_KINDS: Mapping[Kind, str] = {
    "number": "a number",
    "date": "a date, such as 2026-01-31",
    "boolean": "true or false",
    "text": "a text",
}


@dataclass(frozen=True, slots=True)
class Operator:
    """
    One operator.

    Attributes:
        meaning: Which records pass, with ``{field}`` for the field's name.
        read: Makes the test from the parameter's values and the kinds of value that the field is declared
            to have; none: any. It raises ``ValueError`` for a value that the operator cannot take.
    """

    meaning: str
    read: Callable[[Sequence[str], frozenset[Kind]], Test]


def _equals(values: Sequence[str], kinds: frozenset[Kind]) -> Test:
    for text in values:
        _check(text, kinds)
    wanted = frozenset(values)
    numbers = frozenset(Decimal(text) for text in wanted if _NUMBER.fullmatch(text))

    def test_one(value: Any) -> bool:
        if _written(value) in wanted:
            return True
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _exact(value) in numbers

    def test(value: Any) -> bool:
        kind = type(value)  # the most frequent ones first: it is tested for each record
        if kind is str:
            return value in wanted
        if kind is int:
            return value in numbers
        return any(map(test_one, value)) if isinstance(value, list) else test_one(value)

    return test


def _differs(values: Sequence[str], kinds: frozenset[Kind]) -> Test:
    equals = _equals(values, kinds)
    return lambda value: not equals(value)


def _is_in(values: Sequence[str], kinds: frozenset[Kind]) -> Test:
    return _equals([item for value in values for item in value.split(",")], kinds)


def _contains(values: Sequence[str], _: frozenset[Kind]) -> Test:
    if len(values) == 1:
        [part] = values
        return _of_texts(lambda text: part in text)
    return _of_texts(lambda text: any(part in text for part in values))


def _starts(values: Sequence[str], _: frozenset[Kind]) -> Test:
    beginnings = tuple(values)
    return _of_texts(lambda text: text.startswith(beginnings))


def _exists(values: Sequence[str], _: frozenset[Kind]) -> Test:
    if not {"true", "false"}.issuperset(values):
        raise ValueError("takes true or false")
    wanted = {value == "true" for value in values}
    return lambda value: (value is not None) in wanted


def _compares(compare: Callable[[Any, Any], bool]) -> Callable[[Sequence[str], frozenset[Kind]], Test]:
    def read(values: Sequence[str], kinds: frozenset[Kind]) -> Test:
        tests = [_compares_one(compare, _operand(value, kinds)) for value in values]
        return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)

    return read


OPERATORS: Mapping[str, Operator] = {
    "eq": Operator("Only records whose {field} is this, or one of several.", _equals),
    "ne": Operator("Only records whose {field} is not this.", _differs),
    "in": Operator("Only records whose {field} is one of these, separated by commas.", _is_in),
    "gt": Operator(
        "Only records whose {field} is greater, later or further in the alphabet.", _compares(operator.gt)
    ),
    "gte": Operator("Only records whose {field} is this, or passes `gt`.", _compares(operator.ge)),
    "lt": Operator(
        "Only records whose {field} is less, earlier or before this in the alphabet.", _compares(operator.lt)
    ),
    "lte": Operator("Only records whose {field} is this, or passes `lt`.", _compares(operator.le)),
    "contains": Operator("Only records whose {field} contains this text.", _contains),
    "startswith": Operator("Only records whose {field} begins with this text.", _starts),
    "exists": Operator("`true`: only records that have a {field}; `false`: only those without.", _exists),
}


def moment_of(value: Any) -> datetime | None:
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


def _of(kind: type, quick: Test, test: Test) -> Test:
    """
    Return a test that is *quick* for values of *kind*, which most records have, and *test* for others.
    """

    def test_any(value: Any) -> bool:
        if type(value) is kind:
            return quick(value)
        return any(map(test_any, value)) if type(value) is list else test(value)

    return test_any


def _of_texts(test: Callable[[str], bool]) -> Test:
    return _of(str, test, lambda value: (text := _text(value)) is not None and test(text))


def _exact(value: float) -> Decimal:
    """
    Return a number exactly as JSON shows it.
    """
    return Decimal(value if isinstance(value, int) else repr(value))


def _written(value: Any) -> str | None:
    """
    Return *value* as a query writes it, or None if a query cannot.
    """
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None or isinstance(value, (dict, list)) else str(to_json(value))


def _text(value: Any) -> str | None:
    """
    Return the string that JSON shows for *value*, or None if it shows something else.
    """
    return str(to_json(value)) if isinstance(value, (str, date, time)) else None


def _check(text: str, kinds: frozenset[Kind]) -> None:
    """
    Check that a value of one of *kinds* can be written as *text*.

    Raises:
        ValueError: It says what the field takes.
    """
    if kinds and not any(_is_of(kind, text) for kind in kinds):
        raise ValueError(f"{text[:40]!r} is not {' or '.join(_KINDS[kind] for kind in sorted(kinds))}")


def _is_of(kind: Kind, text: str) -> bool:
    if kind == "number":
        return text == "nan" or _NUMBER.fullmatch(text) is not None
    if kind == "date":
        return moment_of(text) is not None
    return kind == "text" or text in ("true", "false")


def _operand(text: str, kinds: frozenset[Kind]) -> Decimal | datetime | str:
    """
    Read the value of a comparison: as the field's kind, or by its form if the field is of several or none.

    Raises:
        ValueError: The field has another kind of value, or the value has no order.
    """
    _check(text, kinds)
    if kinds == {"text"}:
        return moment_of(text) or text
    if kinds != {"number"} and (moment := moment_of(text)):
        return moment
    if kinds != {"date"} and _NUMBER.fullmatch(text):
        return Decimal(text)
    if kinds and "text" not in kinds:  # nan, true or false
        raise ValueError(f"{text!r} is neither more nor less than another value")
    return text


def _compares_one(compare: Callable[[Any, Any], bool], operand: Decimal | datetime | str) -> Test:
    if isinstance(operand, str):
        return _of(str, lambda value: compare(value, operand), lambda value: False)
    if isinstance(operand, datetime):

        def test_moment(value: Any) -> bool:
            moment = moment_of(value)
            return moment is not None and compare(moment, operand)

        return _of(datetime, test_moment, test_moment)
    rounded = float(operand)

    def test(value: Any) -> bool:
        if not isinstance(value, float) or math.isnan(value):
            return False
        # Only a float equal to the rounded operand needs the exact digits.
        return compare(_exact(value), operand) if value == rounded else compare(value, rounded)

    exact = int(operand) if rounded.is_integer() and Decimal(rounded) == operand else operand
    return _of(int, lambda value: compare(value, exact), test)
