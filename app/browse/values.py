"""
What a record holds, in words for a page.

A record may be megabytes. What a page shows of it is bounded, and says how much it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ferry.app.records.json_form import to_json
from ferry.worker.observe.printable import in_line, printable

MOST_VALUES = 1000  # of one record
MOST_CHARACTERS = 4000  # of one text
_IN_A_LINE = 80  # characters
_ITEMS_IN_A_LINE = 20
_LINK = re.compile(r"https?://[^\s\"'<>\\]{1,2000}", re.IGNORECASE)

Schemas = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """
    One value of a record.

    Attributes:
        name: The field's name; "" for an item of a list.
        title: The title that the schema gives the field, else its name.
        about: The description that the schema gives the field.
        kind: ``text``, ``link``, ``list`` or ``table``.
        text: What a text or a link says.
        inner: The values in a list or a table.
        left_out: How many characters, items or fields the page leaves out.
    """

    name: str
    title: str
    about: str
    kind: str = "text"
    text: str = ""
    inner: tuple[Value, ...] = ()
    left_out: int = 0


def value_of(record: Mapping[str, Any], schemas: Schemas) -> Value:
    """
    Return *record* as a table: the fields in the order of *schemas*, then those that they do not declare.
    """
    return _Reader().read(to_json(record), schemas)


def line_of(value: Any, longest: int = _IN_A_LINE) -> str:
    """
    Return *value* in one line of at most *longest* characters.
    """
    text = in_line(_words(to_json(value), longest))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def title_of(schemas: Schemas, name: str) -> str:
    """
    Return the title that *schemas* give the field *name*, else its name.
    """
    return _said(of_field(schemas, name), "title") or name


def of_field(schemas: Schemas, name: str) -> list[Mapping[str, Any]]:
    """
    Return the parts of *schemas* that describe the field *name*.
    """
    found = (_properties(schema).get(name) for schema in schemas)
    return [each for each in found if isinstance(each, dict)]


class _Reader:
    """
    Reads the values of one record, up to a number of them.
    """

    def __init__(self) -> None:
        self._left = MOST_VALUES

    def read(self, value: Any, schemas: Schemas, name: str = "") -> Value:
        about = Value(name=name, title=_said(schemas, "title") or name, about=_said(schemas, "description"))
        if isinstance(value, dict):
            named = self._some([*fields_of(value, schemas)])
            inner = [self.read(value[each], of_field(schemas, each), each) for each in named]
            return replace(about, kind="table", inner=tuple(inner), left_out=len(value) - len(inner))
        if isinstance(value, list):
            items = [each["items"] for each in schemas if isinstance(each.get("items"), dict)]
            inner = [self.read(each, items) for each in self._some(value)]
            return replace(about, kind="list", inner=tuple(inner), left_out=len(value) - len(inner))
        text = _words(value, MOST_CHARACTERS)[:MOST_CHARACTERS]
        # A link leads where the record says, so none has a character that the page does not show.
        is_link = isinstance(value, str) and _LINK.fullmatch(value) and printable(value) == value
        kind = "link" if is_link else "text"
        left_out = len(value) - MOST_CHARACTERS if isinstance(value, str) else 0
        return replace(about, kind=kind, text=printable(text), left_out=max(0, left_out))

    def _some(self, values: Sequence[Any]) -> Sequence[Any]:
        some = values[: self._left]
        self._left -= len(some)
        return some


def fields_of(table: Mapping[str, Any], schemas: Schemas) -> dict[str, None]:
    """
    Return the names of the fields of *table*: those that *schemas* declare, in their order, then the others.
    """
    declared = [name for schema in schemas for name in _properties(schema) if name in table]
    return dict.fromkeys([*declared, *table])


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _said(schemas: Schemas, keyword: str) -> str:
    return next((said for each in schemas if isinstance(said := each.get(keyword), str)), "")


def _words(value: Any, most: int) -> str:
    """
    Return the beginning of *value* as text: more than *most* characters of it, if there are more.
    """
    if isinstance(value, str):
        return value[: most + 1]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        shown = [_words(each, most) for each in value[:_ITEMS_IN_A_LINE]]
        return ", ".join([*shown, *(["…"] if len(value) > len(shown) else [])])
    if isinstance(value, dict):
        named = [f"{name}: {_words(each, most)}" for name, each in list(value.items())[:_ITEMS_IN_A_LINE]]
        return ", ".join([*named, *(["…"] if len(value) > len(named) else [])])
    return "" if value is None else str(value)
