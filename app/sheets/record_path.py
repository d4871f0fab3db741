"""
The path of a record whose sheet's template only names fields.

gitsheets makes such a path without running code, and this module makes the same path. The rules are those of
gitsheets' "Path Templates" specification: text stands for itself, ``${{ slug }}`` for a field,
``${{ path/** }}`` for a field that may hold slashes, ``${{ at: YYYY/MM }}`` for parts of a date. To
gitsheets, anything else between the braces is JavaScript. ``${{ address.city }}`` is a name too, unless a
part of it has a meaning in JavaScript. All others are expressions, which run in a child process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import gitsheets

from ferry.app.sheets.javascript import IDENTIFIERS, MEMBERS
from ferry.worker.records.markdown import SPACE

_FIELD = re.compile(r"([A-Za-z0-9_-]+)(/\*\*)?")
_BUCKET = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)")
_FORMATS = ("YYYY", "YYYY/MM", "YYYY/MM/DD", "YYYY/WW")
# Only these texts are parsed as dates here; gitsheets parses the others.
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_NOT_IN_A_NAME = re.compile(r'[<>:"|?*\x00-\x1f]')  # Windows' rules, which gitsheets applies
_I64 = range(-(2**63), 2**63)
_WHOLE = 1e21  # from here on, JavaScript writes an exponent


@dataclass(frozen=True, slots=True)
class _Text:
    """
    Text that stands for itself.
    """

    text: str


@dataclass(frozen=True, slots=True)
class _Field:
    """
    A field of the record; with several names, a field of a table in it.
    """

    names: tuple[str, ...]
    may_hold_slashes: bool = False
    is_javascript: bool = False  # gitsheets then writes numbers as JavaScript does


@dataclass(frozen=True, slots=True)
class _Bucket:
    """
    The parts of a date, each a component of the path.
    """

    names: tuple[str, ...]
    format: str


_Part = _Text | _Field | _Bucket


@dataclass(frozen=True, slots=True)
class Names:
    """
    A template that only names fields.

    Attributes:
        text: The template, as the declaration has it.
        components: The parts of each component of the path.
    """

    text: str
    components: tuple[tuple[_Part, ...], ...]

    @property
    def fields(self) -> frozenset[str]:
        """
        The fields of the record that its path depends on.
        """
        return frozenset(
            part.names[0] for parts in self.components for part in parts if not isinstance(part, _Text)
        )

    def path(self, record: Mapping[str, Any]) -> str:
        """
        Return the path of *record*.

        Raises:
            gitsheets.PathTemplateError: It has none; the message is gitsheets'.
            UnicodeEncodeError: A field holds half of a surrogate pair.
        """
        return "/".join(self._part(number, parts, record) for number, parts in enumerate(self.components))

    def _part(self, number: int, parts: Sequence[_Part], record: Mapping[str, Any]) -> str:
        rendered = [self._rendered(part, record) for part in parts]
        if None in rendered:
            raise _error(
                "path_render_failed",
                f'cannot render component {number} of "{self.text}" — a required field or expression '
                "returned undefined",
            )
        made = "".join(map(str, rendered))
        made.encode()
        is_one = not isinstance(parts[0], _Bucket) and not (
            isinstance(parts[0], _Field) and parts[0].may_hold_slashes
        )
        found = _NOT_IN_A_NAME.search(made)
        if found or (is_one and "/" in made):
            raise _error(
                "path_invalid_chars",
                f'component {number} of "{self.text}" rendered to "{made}", which contains disallowed '
                f"character {found[0] if found else '/'!r}",
            )
        return made

    @staticmethod
    def _rendered(part: _Part, record: Mapping[str, Any]) -> str | None:
        if isinstance(part, _Text):
            return part.text
        value = _value(record, part.names)
        if isinstance(part, _Field) and part.is_javascript and "__proto__" in record:
            return None  # in JavaScript, the record then inherits those fields
        if isinstance(part, _Bucket):
            return None if value is None else _bucket(value, part.format)
        return _as_javascript(value) if part.is_javascript else _native(value)


@lru_cache(maxsize=1024)
def names_of(template: str) -> Names | None:
    """
    Return the names in *template*; None if it holds more than names, or is invalid.
    """
    components: list[list[_Part]] = [[]]
    rest = template.strip("/")
    while rest:
        text, opens, rest = rest.partition("${{")
        first, *others = text.split("/")
        for number, piece in enumerate([first, *others]):
            if number:
                components.append([])
            if piece:
                components[-1].append(_Text(piece))
        if opens:
            inner, closes, rest = rest.partition("}}")
            part = _reference(inner.strip(SPACE)) if closes else None
            if part is None:
                return None
            components[-1].append(part)
    return Names(template, tuple(map(tuple, components))) if _is_whole(components) else None


def _is_whole(components: Sequence[Sequence[_Part]]) -> bool:
    if not all(components):
        return False  # two adjacent slashes
    for number, parts in enumerate(components):
        stands_alone = [
            part
            for part in parts
            if isinstance(part, _Bucket) or (isinstance(part, _Field) and part.may_hold_slashes)
        ]
        is_last = number == len(components) - 1
        if stands_alone and (len(parts) > 1 or (isinstance(parts[0], _Field) and not is_last)):
            return False
    return True


def _reference(inner: str) -> _Part | None:
    head, colon, tail = inner.partition(":")
    if colon and (bucket := _BUCKET.fullmatch(head.strip(SPACE))):
        wanted = tail.strip(SPACE)
        return _Bucket(tuple(bucket[1].split(".")), wanted) if wanted in _FORMATS else None
    if field := _FIELD.fullmatch(inner):
        return _Field((field[1],), may_hold_slashes=field[2] is not None)
    names = tuple(inner.split("."))
    is_name = all(name.replace("$", "_").isidentifier() for name in names)
    if not is_name or names[0] in IDENTIFIERS or not MEMBERS.isdisjoint(names[1:]):
        return None
    return _Field(names, is_javascript=True)


def runs_code(template: str) -> bool:
    """
    Whether gitsheets would run a part of *template* as code.
    """
    references = [piece.partition("}}") for piece in template.strip("/").split("${{")[1:]]
    return any(
        closes and _reference(inner.strip(SPACE)) is None and not _is_bucket_like(inner)
        for inner, closes, _ in references
    )


def _is_bucket_like(inner: str) -> bool:
    head, colon, _ = inner.strip(SPACE).partition(":")
    return bool(colon) and _BUCKET.fullmatch(head.strip(SPACE)) is not None


def _value(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
        if len(names) > 1 and isinstance(value, dict) and "__proto__" in value:
            return None
    return value


def _native(value: Any) -> str | None:
    """
    Return *value* as gitsheets writes it in a path; None if it does not.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int)):
        return str(value)
    if not isinstance(value, float):
        return None
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return str(value)
    if value.is_integer() and abs(value) < _WHOLE:
        return str(min(max(int(value), _I64[0]), _I64[-1]))
    return format(Decimal(repr(value)), "f")


def _as_javascript(value: Any) -> str | None:
    """
    Return *value* as JavaScript writes it, where every number is a float.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _native(value)
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    # ECMA-262, Number::toString: the position of the point decides the form.
    _, figures, exponent = Decimal(repr(abs(number))).as_tuple()
    digits = "".join(map(str, figures)).rstrip("0")
    point = len(figures) + int(exponent)
    return ("-" if number < 0 else "") + _with_point(digits, point)


def _with_point(digits: str, point: int) -> str:
    if len(digits) <= point <= 21:
        return digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{mantissa}e{point - 1:+d}"


def _bucket(value: Any, wanted: str) -> str:
    day = _day(value)
    if day is None:
        # gitsheets parses more forms of dates in a text; in this template it runs no code.
        return str(gitsheets.render_paths_batch(f"${{{{ date: {wanted} }}}}", [{"date": value}])[0])
    if wanted == "YYYY/WW":
        week = day.isocalendar()
        return f"{week.year:04}/{week.week:02}"
    return "/".join([f"{day.year:04}", f"{day.month:02}", f"{day.day:02}"][: wanted.count("/") + 1])


def _day(value: Any) -> date | None:
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return date.fromisoformat(value)
        if isinstance(value, str) and _DATE_TIME.fullmatch(value):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value.astimezone(UTC) if value.tzinfo else value).date()
    except (ValueError, OverflowError):
        pass
    return None


def _error(code: str, message: str) -> Exception:
    error: Exception = gitsheets.PathTemplateError(message)
    error.code = code  # type: ignore[attr-defined]
    return error
